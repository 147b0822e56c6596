"""A linear model over hashed n-grams, which keeps no vocabulary."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer

from .base import read_settings
from .calibration import Calibration
from .cleaning import encodable
from .contract import Contribution, Explanation
from .ngrams import ngrams

WEIGHTS = "weights.parquet"


@dataclass(frozen=True)
class Settings(Calibration):
    """What a scorer needs beside its weights: the calibration of its linear score by the number of features, and these.

    Attributes
    ----------
    ngram_max, n_features : int
    updates : float
        Steps that were taken, from which on training can go on.
    bias : float
        Of the linear score.
    """

    ngram_max: int
    n_features: int
    updates: float
    bias: float


def _ngrams(text: str, ngram_max: int) -> list[str]:
    return ngrams(encodable(text), ngram_max)  # the hash takes no others


def vectorizer(ngram_max: int, n_features: int) -> HashingVectorizer:
    """Return what makes rows of Euclidean norm 1 of texts: which hashes of their n-grams are there."""
    return HashingVectorizer(
        analyzer=partial(_ngrams, ngram_max=ngram_max),
        n_features=n_features,
        alternate_sign=False,
        binary=True,
    )


class HashingScorer:
    """Weights by hash, and their calibration. Threads may share a scorer.

    Parameters
    ----------
    weights : ndarray of shape (n_features,)
    settings : Settings
    """

    most_rows = 20_000

    def __init__(self, weights: np.ndarray, settings: Settings) -> None:
        self.weights = weights
        self.settings = settings
        self._vectorizer = vectorizer(settings.ngram_max, settings.n_features)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a scorer from the folder that training exported."""
        _, settings = read_settings(folder)
        return cls(pq.read_table(folder / WEIGHTS)["weight"].to_numpy(), Settings(**settings))

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        texts = list(texts)
        return (
            self.settings.log_odds(*self.scores(self._vectorizer.transform(texts))) if texts else np.empty(0)
        )

    def scores(self, X: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Return the linear score of each row of hashed n-grams, and how many features it has, of shape (n_texts,)."""
        return X @ self.weights + self.settings.bias, np.diff(X.indptr).astype(float)

    def explain(self, text: str, most: int) -> Explanation:
        """Return the log-odds of a text as a sum, with the ``most`` n-grams that moved it most, strongest first.

        Of n-grams that share a hash the first one in the text has what they add together.
        """
        by = self.settings
        row = self._vectorizer.transform([text])
        (score,), known = self.scores(row)
        log_odds = float(by.log_odds(np.array([score]), known)[0])
        worth = (log_odds - by.intercept) / score if score else 0.0
        names = list(dict.fromkeys(_ngrams(text, by.ngram_max)))
        hashed = HashingVectorizer(
            analyzer=lambda name: [name], n_features=by.n_features, alternate_sign=False, norm=None
        )
        first: dict[int, str] = {}
        for name, column in zip(names, hashed.transform(names).indices if names else [], strict=True):
            first.setdefault(int(column), name)
        adds = worth * row.data * self.weights[row.indices]
        strongest = [
            Contribution(ngram=first[int(row.indices[i])], contribution=float(adds[i]))
            for i in np.argsort(-np.abs(adds), kind="stable")[:most]
        ]
        bias = by.intercept + worth * by.bias
        rest = log_odds - bias - sum(one["contribution"] for one in strongest)
        return {"log_odds": log_odds, "bias": bias, "rest": rest, "ngrams": strongest}
