"""A scikit-learn pipeline of the user's own, written by skops: its types are checked before one of them is made."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import skops.io

from .base import read_settings
from .calibration import Calibration
from .cleaning import tokenize

PIPELINE = "pipeline.skops"


@dataclass(frozen=True)
class Settings(Calibration):
    """What a scorer needs beside its pipeline: the calibration of what that says by the number of words and marks, and this.

    Attributes
    ----------
    trusted : list of str
        Types that skops does not know to be harmless, which whoever trained has agreed to. No other is loaded.
    """

    trusted: list[str]


def scores(pipeline: Any, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a fitted classifier of raw texts says for *positive*, as log-odds or like them, and the words of each text.

    Both are of shape (n_texts,).
    """
    words = np.array([len(tokenize(text)) for text in texts], float)
    if hasattr(pipeline, "decision_function"):
        return np.asarray(pipeline.decision_function(texts), float), words
    positive = np.clip(np.asarray(pipeline.predict_proba(texts), float)[:, 1], 1e-9, 1 - 1e-9)
    return np.log(positive) - np.log1p(-positive), words


class PipelineScorer:
    """A fitted pipeline of raw texts, and its calibration.

    Parameters
    ----------
    pipeline : Pipeline
    settings : Settings
    """

    most_rows = 20_000

    def __init__(self, pipeline: Any, settings: Settings) -> None:
        self._pipeline = pipeline
        self.settings = settings

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a scorer from the folder that training exported."""
        _, found = read_settings(folder)
        settings = Settings(**found)
        return cls(skops.io.load(folder / PIPELINE, trusted=settings.trusted), settings)

    def log_odds(self, texts: Iterable[str]) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_texts,)."""
        texts = list(texts)
        return self.settings.log_odds(*scores(self._pipeline, texts)) if texts else np.empty(0)
