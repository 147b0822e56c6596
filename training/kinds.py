"""The kinds of model: the module that fits each, and what it gives back.

A kind is a module of this room as :class:`Kind` says; a scorer that
:data:`sentiment_model.scorers.SCORERS` names; and a line here.
"""

import importlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, cast

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from sentiment_model.scorers import Scorer, load
from training.errors import TrainingError
from training.settings import Settings

KINDS = {
    "ngram": "training.ngram",
    "hashing": "training.hashing",
    "embedding": "training.embedding",
    "transformer": "training.transformer",
    "stack": "training.stack",
}
OWN = "training.pipeline"  # of a function of the user's, path.to.module:function


@dataclass(frozen=True)
class Trained:
    """A fitted model of any kind.

    Attributes
    ----------
    log_odds : ndarray of shape (n_rows,)
        Calibrated log-odds of *positive* for each row, by a model that never saw it; NaN where there is none. There
        is one for every held-out row.
    seen : ndarray of bool of shape (n_rows,)
        Which rows the model to be registered was fitted on.
    judged : str
        How the training rows that have log-odds were left out: ``cross-validation`` or ``validation``.
    recipe : str
        What the model is, for the model card.
    export : callable
        Writes the scorer, as plain data, into an empty folder and proves on the given raw reviews that it answers as what
        was fitted does.
    packages : tuple of str
        What the scorer needs to be served, beside what every kind needs.
    pipeline : Pipeline, optional
        The fitted scikit-learn pipeline, for notebooks.
    ngrams : DataFrame, optional
        Columns ``ngram``, ``idf`` and ``weight``, where the model is a sum over n-grams.
    weights : TemporaryDirectory, optional
        A fine-tuned encoder as ``save_pretrained`` writes it, from which the setting ``weights`` can go on.
    earlier : Series of str, optional
        Hashes of the rows that a version which was gone on from has seen.
    """

    log_odds: np.ndarray
    seen: np.ndarray
    judged: str
    recipe: str
    export: Callable[[Path, pd.Series], Scorer]
    packages: tuple[str, ...]
    pipeline: Pipeline | None = None
    ngrams: pd.DataFrame | None = None
    weights: TemporaryDirectory[str] | None = None
    earlier: pd.Series | None = None


class Kind(Protocol):
    """A module that fits a kind of model."""

    USES: tuple[str, ...]
    """The settings that it uses."""

    def train(self, table: pd.DataFrame, settings: Settings) -> Trained:
        """Fit on ``table``, of columns ``review``, ``sentiment``, ``split`` and ``source``."""


def used(kind: Kind, settings: Settings) -> list[str]:
    """Return the settings that a kind uses: of a version to go on from, none that come with it (``COMES_WITH_VERSION``)."""
    skipped = getattr(kind, "COMES_WITH_VERSION", ()) if settings.warm_start else ()
    return [name for name in kind.USES if name not in skipped]


def copy_scorer(made: TemporaryDirectory[str], folder: Path, check_on: pd.Series) -> Scorer:
    """Copy a scorer that was exported, and compared with what was fitted, while fitting."""
    shutil.copytree(made.name, folder, dirs_exist_ok=True)
    return load(folder)


def kind(name: str) -> Kind:
    """Return the module that fits a kind of model.

    Raises
    ------
    TrainingError
        If there is no such kind, or what it needs is not installed.
    """
    module = KINDS.get(name) or (OWN if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) else None)
    if module is None:
        raise TrainingError(
            f"model is {name[:80]!r}; expected {', '.join(KINDS)}, or path.to.module:function of your own"
        )
    try:
        return cast(Kind, importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"model={name} needs {error.name}, which is not installed: run 'make env-deep', or python -m pip install -r "
            "requirements/deep.txt"
        ) from None
