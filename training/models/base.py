"""What every model gives back once it is trained, and what its module is to offer."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from sentiment_model.base import Scorer
from sentiment_model.scorers import load
from training.settings import Settings


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
