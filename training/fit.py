"""Fitting: cross-validation and calibration, the held-out judgement, the refit on all rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm import tqdm

from training.errors import TrainingError
from training.features import LogCountRatio, MinDocumentFrequency, ngram_counter

FOLDS = 5


@dataclass(frozen=True)
class Settings:
    """What a user may set. The defaults were chosen by cross-validation on the training split."""

    ngram_max: int = 4
    min_df: int = 2
    C: float = 100.0
    seed: int = 0

    def as_params(self) -> dict[str, int | float]:
        """Return the settings under the names of the MLproject parameters."""
        return asdict(self)


@dataclass(frozen=True)
class Fit:
    """A calibrated pipeline fitted on all rows, and the log-odds of models that never saw the row.

    Attributes
    ----------
    pipeline : Pipeline
        Counts n-grams of raw reviews and answers calibrated probabilities.
    cross_validated : ndarray of shape (n_train,)
        Calibrated log-odds of *positive* for each training row, from the fold that left it out.
    held_out : ndarray of shape (n_test,)
        The same for each test row, from a model fitted on the training rows alone.
    """

    pipeline: Pipeline
    cross_validated: np.ndarray
    held_out: np.ndarray


def count(table: pd.DataFrame, settings: Settings) -> tuple[CountVectorizer, sp.csr_matrix]:
    """Return the fitted n-gram counter and its matrix of shape (n_rows, n_ngrams).

    Raises
    ------
    TrainingError
        If a split lacks a class, or no n-gram is frequent enough.
    """
    for split, least in (("train", FOLDS), ("test", 1)):
        labels = table.loc[table["split"] == split, "sentiment"].value_counts()
        for label in ("positive", "negative"):
            if labels.get(label, 0) < least:
                raise TrainingError(
                    f"the {split} split has {labels.get(label, 0)} {label} rows, at least {least} are needed; "
                    "give more rows (limit) or another test_size"
                )
    counter = ngram_counter(settings.ngram_max, settings.min_df)
    with _too_rare(settings):
        return counter, counter.fit_transform(
            tqdm(table["review"], desc="n-grams", unit=" reviews", disable=None)
        )


@contextmanager
def _too_rare(settings: Settings) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise TrainingError(
            f"no n-gram stands in min_df={settings.min_df} reviews of every part of the data ({error}); lower min_df"
        ) from None


def fit(table: pd.DataFrame, counter: CountVectorizer, counts: sp.csr_matrix, settings: Settings) -> Fit:
    """Fit, calibrate and refit.

    Calibration is Platt's [1]_: a line through the cross-validated log-odds of the training rows. It
    is folded into the coefficients of the classifier, so that ``predict_proba`` answers with it.

    Parameters
    ----------
    table : DataFrame
        Columns ``sentiment``, ``split`` and ``source``.
    counter, counts
        What :func:`count` returned for ``table``.
    settings : Settings

    References
    ----------
    .. [1] J. Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized
       Likelihood Methods", 1999.
    """
    y = (table["sentiment"] == "positive").to_numpy()
    train = (table["split"] == "train").to_numpy()
    strata = table["sentiment"] + table["source"]
    if strata[train].value_counts().min() < FOLDS:
        strata = table["sentiment"]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=settings.seed)
    linear = make_pipeline(
        MinDocumentFrequency(settings.min_df),
        TfidfTransformer(),
        LogCountRatio(),
        LogisticRegression(C=settings.C, solver="liblinear", random_state=settings.seed),
    )
    counts_train = counts[train]
    # liblinear gives up the interpreter lock, so threads use every core and share the matrix
    with joblib.parallel_config(backend="threading", n_jobs=-1), _too_rare(settings):
        scores = cross_val_predict(
            linear,
            counts_train,
            y[train],
            cv=list(folds.split(counts_train, strata[train])),
            method="decision_function",
            n_jobs=-1,
        )
        line = LogisticRegression(C=np.inf).fit(scores[:, np.newaxis], y[train])
        judged, final = joblib.Parallel(n_jobs=-1)(
            joblib.delayed(_fit_calibrated)(linear, X, labels, line)
            for X, labels in ((counts_train, y[train]), (counts, y))
        )
    return Fit(
        pipeline=Pipeline([("counter", counter), *final.steps]),
        cross_validated=line.decision_function(scores[:, np.newaxis]),
        held_out=judged.decision_function(counts[~train]),
    )


def _fit_calibrated(
    linear: Pipeline, counts: sp.csr_matrix, y: np.ndarray, line: LogisticRegression
) -> Pipeline:
    fitted = clone(linear).fit(counts, y)
    classifier = fitted[-1]
    slope = line.coef_[0, 0]
    classifier.coef_ = classifier.coef_ * slope
    classifier.intercept_ = classifier.intercept_ * slope + line.intercept_
    return fitted
