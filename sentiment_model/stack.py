"""N-grams and a transformer, asked together where the n-grams alone are unsure."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from .base import read_settings
from .encoder import EncoderScorer
from .ngrams import NgramScorer

NGRAMS, ENCODER = "ngrams", "encoder"  # folders, each with a scorer of its own


@dataclass(frozen=True)
class Settings:
    r"""How the log-odds of two scorers become one.

    A text with the log-odds :math:`n` of the n-grams and :math:`t` of the transformer, which read :math:`k` tokens of it, has
    the log-odds :math:`(a_n + b_n l)\,n + (a_t + b_t l)\,t + c` with :math:`l = \log(1 + k) - \log(1 + 32)`. Where
    :math:`|n|` reaches ``sure``, it has :math:`n`, and the transformer is not asked.

    Attributes
    ----------
    ngrams, ngrams_by_length, transformer, transformer_by_length, intercept : float
        :math:`a_n`, :math:`b_n`, :math:`a_t`, :math:`b_t` and :math:`c`.
    sure : float or None
        Log-odds; None where the transformer is always asked.
    """

    ngrams: float
    ngrams_by_length: float
    transformer: float
    transformer_by_length: float
    intercept: float
    sure: float | None


def features(ngrams: np.ndarray, transformer: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Return what the combination is linear in, of shape (n_texts, 4)."""
    length = np.log1p(tokens) - np.log1p(32)
    return np.column_stack([ngrams, ngrams * length, transformer, transformer * length])


def combine(found: np.ndarray, by: Settings) -> np.ndarray:
    """Return the log-odds of what :func:`features` returned, of shape (n_texts,)."""
    weights = [by.ngrams, by.ngrams_by_length, by.transformer, by.transformer_by_length]
    # a sum in this order, whatever the number of rows: the same bits alone and in a batch
    odds = sum(weight * column for weight, column in zip(weights, found.T, strict=True)) + by.intercept
    return odds if by.sure is None else np.where(np.abs(found[:, 0]) >= by.sure, found[:, 0], odds)


class StackScorer:
    """Two scorers and their combination. Threads may share a scorer.

    Parameters
    ----------
    ngrams : NgramScorer
    encoder : EncoderScorer
    settings : Settings
    """

    most_rows = EncoderScorer.most_rows

    def __init__(self, ngrams: NgramScorer, encoder: EncoderScorer, settings: Settings) -> None:
        self._ngrams = ngrams
        self._encoder = encoder
        self.settings = settings

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a scorer from the folder that training exported."""
        _, settings = read_settings(folder)
        return cls(
            NgramScorer.load(folder / NGRAMS),
            EncoderScorer.load(folder / ENCODER),
            Settings(**settings),
        )

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        texts = list(texts)
        odds = self._ngrams.log_odds(texts)
        sure = np.inf if self.settings.sure is None else self.settings.sure
        unsure = np.flatnonzero(np.abs(odds) < sure)
        transformer, tokens = self._encoder.calibrated(texts[i] for i in unsure)
        odds[unsure] = combine(features(odds[unsure], transformer, tokens), self.settings)
        return odds
