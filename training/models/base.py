"""What every model gives back once it is trained, and what its module is to offer."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from sentiment_model.base import Scorer
from sentiment_model.scorers import load


@dataclass(frozen=True)
class Trained:
    """A fitted model.

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
        What the scorer needs to be served, beside what every model needs.
    pipeline : Pipeline, optional
        The fitted scikit-learn pipeline, for notebooks.
    ngrams : DataFrame, optional
        Columns ``ngram``, ``idf`` and ``weight``, where the model is a sum over n-grams.
    weights : TemporaryDirectory, optional
        A fine-tuned encoder as ``save_pretrained`` writes it, from which the parameter ``weights`` can go on.
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


class Model(Protocol):
    """A module that fits a model."""

    def train(self, table: pd.DataFrame, parameters: Any) -> Trained:
        """Fit on ``table``, of columns ``review``, ``sentiment``, ``split`` and ``source``.

        Parameters
        ----------
        table : DataFrame
        parameters : Parameters
            Of the model's own class in :mod:`training.parameters`.
        """


def copy_scorer(made: TemporaryDirectory[str], folder: Path, check_on: pd.Series) -> Scorer:
    """Copy a scorer that was exported, and compared with what was fitted, while fitting."""
    shutil.copytree(made.name, folder, dirs_exist_ok=True)
    return load(folder)
