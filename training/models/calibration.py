"""Confidence that is as honest for one sentence as for a long review."""

from typing import Self

import numpy as np
import scipy.sparse as sp
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from sentiment_model.calibration import Calibration


class LengthCalibration(BaseEstimator):
    r"""From linear scores to log-odds, by how many n-grams of a text are known.

    A score :math:`s` of :math:`k` known n-grams becomes the log-odds
    :math:`a \tanh(s / \sigma) + b\,(s / \sigma) \log(1 + k) + c`. Platt's line [1]_ is the same for all
    lengths and all sizes of a score: cross-validation found it too sure of large scores of short texts, and
    not sure enough of long ones.

    Attributes
    ----------
    scale_, saturating_, growing_, intercept_ : float
        :math:`\sigma`, the spread of the scores that it was fitted on, :math:`a`, :math:`b` and :math:`c`.

    References
    ----------
    .. [1] J. Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
       Likelihood Methods", 1999.
    """

    def fit(self, scores: np.ndarray, known: np.ndarray, y: np.ndarray) -> Self:
        """Fit by maximum likelihood, so that the log-odds grow with the score.

        Parameters
        ----------
        scores, known : ndarray of shape (n_rows,)
            Of rows that the classifier has not seen.
        y : ndarray of bool, shape (n_rows,)
        """
        spread = float(scores.std())
        self.scale_ = spread if np.isfinite(spread) and spread > np.finfo(np.float32).tiny else 1.0
        scaled = scores / self.scale_
        features = np.column_stack([np.tanh(scaled), scaled * np.log1p(known)])
        line = LogisticRegression(C=np.inf).fit(features, y)
        while (falling := line.coef_[0] < 0).any():  # few rows can say so; the other part alone then, or none
            features[:, falling] = 0
            line.fit(features, y)
            line.coef_[0, ~features.any(axis=0)] = 0
        self.saturating_, self.growing_ = line.coef_[0].tolist()
        self.intercept_ = float(line.intercept_[0])
        return self

    def log_odds(self, scores: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the calibrated log-odds of *positive*, of shape (n_rows,)."""
        return Calibration(**self.learnt()).log_odds(scores, known)

    def learnt(self) -> dict[str, float]:
        """Return what was learnt, under the names of :class:`sentiment_model.calibration.Calibration`."""
        return {
            "scale": self.scale_,
            "saturating": self.saturating_,
            "growing": self.growing_,
            "intercept": self.intercept_,
        }


class CalibratedClassifier(ClassifierMixin, BaseEstimator):
    """A linear classifier of TF-IDF rows with a calibration learnt elsewhere: the end of the pipeline.

    Parameters
    ----------
    linear : Pipeline
        Log-count ratio and logistic regression.
    calibration : LengthCalibration
    """

    def __init__(self, linear: Pipeline, calibration: LengthCalibration) -> None:
        self.linear = linear
        self.calibration = calibration

    @property
    def classes_(self) -> np.ndarray:
        """The labels, False and True for *positive*."""
        return self.linear.classes_

    def fit(self, X: sp.csr_matrix, y: np.ndarray) -> Self:
        """Fit the linear classifier anew; the calibration stays."""
        self.linear.fit(X, y)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def decision_function(self, X: sp.csr_matrix) -> np.ndarray:
        """Return the calibrated log-odds of *positive* for ``X`` of shape (n_rows, n_ngrams)."""
        return self.calibration.log_odds(self.linear.decision_function(X), np.diff(X.indptr))

    def predict_proba(self, X: sp.csr_matrix) -> np.ndarray:
        """Return probabilities of shape (n_rows, 2)."""
        positive = expit(self.decision_function(X))
        return np.column_stack([1 - positive, positive])

    def predict(self, X: sp.csr_matrix) -> np.ndarray:
        """Return whether each row is positive, of shape (n_rows,)."""
        return self.decision_function(X) >= 0
