"""From the score of a text to calibrated log-odds."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Calibration:
    r"""What :class:`training.models.calibration.LengthCalibration` has learnt.

    A text with the score :math:`s`, made of :math:`k` parts (n-grams, features, tokens or words), has the log-odds of *positive*
    :math:`a \tanh(s / \sigma) + b\,(s / \sigma) \log(1 + k) + c`.

    Attributes
    ----------
    scale, saturating, growing, intercept : float
        :math:`\sigma`, :math:`a`, :math:`b` and :math:`c`.
    """

    scale: float
    saturating: float
    growing: float
    intercept: float

    def log_odds(self, scores: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the log-odds of texts with some scores and numbers of known parts, each of shape (n_texts,)."""
        scaled = scores / self.scale
        return self.saturating * np.tanh(scaled) + self.growing * scaled * np.log1p(known) + self.intercept
