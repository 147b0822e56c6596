"""How good and how honest a set of probabilities is."""

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn import metrics

ECE_BINS = 15
MIN_SOURCE_ROWS = 30
MAX_SOURCES = 10


def expected_calibration_error(y: np.ndarray, probability: np.ndarray, bins: int = ECE_BINS) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins of confidence.

    Parameters
    ----------
    y : ndarray of bool, shape (n_rows,)
        Whether the row is positive.
    probability : ndarray of shape (n_rows,)
        Of *positive*, in [0, 1].
    bins : int
        Number of bins over confidences from 0 to 1; those of a binary answer lie above 0.5.

    References
    ----------
    C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> expected_calibration_error(np.array([True, True]), np.array([0.75, 0.75]))
    0.25
    """
    confidence = np.maximum(probability, 1 - probability)
    correct = (probability >= 0.5) == y
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == b].mean() - correct[which == b].mean()) * (which == b).mean()
        for b in np.unique(which)
    ]
    return float(np.sum(gaps))


def accuracy_and_log_loss(y: np.ndarray, log_odds: np.ndarray) -> tuple[float, float]:
    """Return two of the :func:`scores`, in a fraction of their time.

    Parameters
    ----------
    y : ndarray of bool, shape (n_rows,)
    log_odds : ndarray of shape (n_rows,)
        Of *positive*.

    Examples
    --------
    >>> accuracy_and_log_loss(np.array([True, False]), np.array([0.0, 0.0]))
    (0.5, 0.6931471805599453)
    """
    loss = np.logaddexp(0, np.where(y, -log_odds, log_odds))
    return float(((log_odds >= 0) == y).mean()), float(loss.mean())


def scores(y: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return accuracy, F1, precision, recall, ROC-AUC, log-loss, Brier score and ECE of *positive*.

    ROC-AUC is left out where only one class is present.
    """
    predicted = probability >= 0.5
    found = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "f1": metrics.f1_score(y, predicted, zero_division=0),
        "precision": metrics.precision_score(y, predicted, zero_division=0),
        "recall": metrics.recall_score(y, predicted, zero_division=0),
        "log_loss": metrics.log_loss(y, probability, labels=[False, True]),
        "brier": metrics.brier_score_loss(y, probability, pos_label=True),
        "ece": expected_calibration_error(y, probability),
    }
    if 0 < y.sum() < len(y):
        found["roc_auc"] = metrics.roc_auc_score(y, probability)
    return {name: float(value) for name, value in found.items()}


def scores_by_source(rows: pd.DataFrame) -> dict[str, float]:
    """Return :func:`scores` of all rows, and of each of the larger sources as ``<source>/<metric>``.

    Parameters
    ----------
    rows : DataFrame
        Columns ``sentiment``, ``source`` and ``log_odds``.
    """
    found = _scores(rows)
    sizes = rows["source"].value_counts()
    if len(sizes) > 1:
        for source in sizes[sizes >= MIN_SOURCE_ROWS].index[:MAX_SOURCES]:
            part = _scores(rows[rows["source"] == source])
            found |= {f"{source}/{name}": value for name, value in part.items()}
    return found


def _scores(rows: pd.DataFrame) -> dict[str, float]:
    return scores((rows["sentiment"] == "positive").to_numpy(), expit(rows["log_odds"].to_numpy()))
