"""N-grams of words and punctuation, and the table-driven linear scorer over them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from .cleaning import tokenize

TABLE = "ngrams.parquet"
SETTINGS = "settings.json"


def ngrams(text: str, ngram_max: int) -> list[str]:
    """Return all n-grams of 1 to ``ngram_max`` tokens of a raw text, tokens joined by one space.

    Examples
    --------
    >>> ngrams("Not bad.", ngram_max=2)
    ['not', 'bad', '.', 'not bad', 'bad .']
    """
    tokens = tokenize(text)
    found = list(tokens)
    for n in range(2, ngram_max + 1):
        found.extend(map(" ".join, zip(*(tokens[i:] for i in range(n)), strict=False)))
    return found


class NgramScorer:
    r"""TF-IDF and logistic regression over distinct n-grams, read from a plain table.

    For the distinct n-grams :math:`g` of a text that stand in the table, the calibrated log-odds of
    *positive* are :math:`b + \sum_g \mathrm{idf}_g w_g \,/\, \sqrt{\sum_g \mathrm{idf}_g^2}`: binary term
    frequency, inverse document frequency, Euclidean norm and a linear classifier in one sum. It
    equals the fitted scikit-learn pipeline. A text without a known n-gram has the log-odds :math:`b`.

    Parameters
    ----------
    terms : sequence of str, length n_terms
    idf, weight : ndarray of shape (n_terms,)
        Inverse document frequency, and coefficient after log-count ratio and calibration.
    intercept : float
    ngram_max : int
    """

    def __init__(
        self,
        terms: Sequence[str],
        idf: np.ndarray,
        weight: np.ndarray,
        intercept: float,
        ngram_max: int,
    ) -> None:
        self._index = {term: i for i, term in enumerate(terms)}
        self._moment = idf * weight
        self._square = idf * idf
        self._intercept = intercept
        self._ngram_max = ngram_max

    @classmethod
    def load(cls, folder: Path) -> "NgramScorer":
        """Read a scorer from the folder that training exported."""
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        table = pq.read_table(folder / TABLE)
        return cls(
            terms=table["ngram"].to_pylist(),
            idf=table["idf"].to_numpy(),
            weight=table["weight"].to_numpy().astype(np.float64),
            intercept=settings["intercept"],
            ngram_max=settings["ngram_max"],
        )

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        return np.array([self._log_odds(text) for text in texts], dtype=np.float64)

    def _log_odds(self, text: str) -> float:
        known = {
            i for ngram in set(ngrams(text, self._ngram_max)) if (i := self._index.get(ngram)) is not None
        }
        if not known:
            return self._intercept
        # sorted: the same text gives the same bits, whatever the order of a set
        rows = np.fromiter(sorted(known), dtype=np.intp, count=len(known))
        return self._intercept + self._moment[rows].sum() / np.sqrt(self._square[rows].sum())
