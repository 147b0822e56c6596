"""The pictures of the run page."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from training.report.metrics import ECE_BINS

POSITIVE, NEGATIVE = "#1b7f4b", "#b3392f"


def judgement_plots(rows: pd.DataFrame) -> dict[str, Figure]:
    """Return the plots of held-out predictions by name.

    Parameters
    ----------
    rows : DataFrame
        Columns ``sentiment`` and ``log_odds``.
    """
    y = (rows["sentiment"] == "positive").to_numpy()
    probability = expit(rows["log_odds"].to_numpy())
    name = f"{len(rows):,} held-out reviews"

    confusion, ax = _figure("Confusion matrix")
    ConfusionMatrixDisplay.from_predictions(
        y,
        probability >= 0.5,
        labels=[False, True],
        display_labels=["negative", "positive"],
        ax=ax,
        cmap="Greens",
        colorbar=False,
    )
    plots = {"confusion_matrix": confusion, "confidence_histogram": _confidences(y, probability)}
    if y.all() or not y.any():
        return plots  # the curves need both classes
    roc, ax = _figure("ROC curve")
    RocCurveDisplay.from_predictions(y, probability, ax=ax, name=name, plot_chance_level=True)
    precision_recall, ax = _figure("Precision and recall")
    PrecisionRecallDisplay.from_predictions(y, probability, ax=ax, name=name, plot_chance_level=True)
    calibration, ax = _figure("Calibration curve")
    CalibrationDisplay.from_predictions(y, probability, n_bins=ECE_BINS, ax=ax, name=name)
    ax.set(xlabel="Predicted probability of positive", ylabel="Share that is positive")
    curves = {"roc_curve": roc, "precision_recall_curve": precision_recall, "calibration_curve": calibration}
    return plots | curves


def _confidences(y: np.ndarray, probability: np.ndarray) -> Figure:
    figure, ax = _figure("Confidence of right and wrong answers")
    confidence = np.maximum(probability, 1 - probability)
    right = (probability >= 0.5) == y
    ax.hist(
        [confidence[right], confidence[~right]],
        bins=np.linspace(0.5, 1, 26).tolist(),
        stacked=True,
        color=[POSITIVE, NEGATIVE],
        label=["right", "wrong"],
    )
    ax.set(xlabel="Confidence", ylabel="Reviews", xlim=(0.5, 1))
    ax.legend()
    return figure


def strongest_ngrams_plot(strongest: pd.DataFrame) -> Figure:
    """Return a bar chart of n-grams, strongest each way.

    Parameters
    ----------
    strongest : DataFrame
        Columns ``ngram`` and ``contribution``, most positive first.
    """
    figure, ax = _figure("Strongest n-grams", height=0.22 * len(strongest) + 1.2)
    shown = strongest.iloc[::-1]
    colours = [POSITIVE if value > 0 else NEGATIVE for value in shown["contribution"]]
    labels = [ngram.replace("$", r"\$") for ngram in shown["ngram"]]
    ax.barh(range(len(shown)), shown["contribution"], color=colours)
    ax.set_yticks(range(len(shown)), labels)
    ax.set(xlabel="idf × weight (before the length of the text is divided out)", ylim=(-1, len(shown)))
    return figure


def _figure(title: str, height: float = 5.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.0, height), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.set_title(title)
    return figure, ax
