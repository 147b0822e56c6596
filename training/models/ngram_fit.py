"""Fitting the model ``ngram`` on this machine: cross-validation and calibration, the held-out judgement, the refit on all rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from training.errors import TrainingError
from training.models.calibration import CalibratedClassifier, LengthCalibration
from training.models.features import LogCountRatio, MinDocumentFrequency, count_ngrams
from training.parameters import LogCountRatios

FOLDS = 5
RATIO_POWER = 0.75  # chosen by cross-validation, like the defaults of the parameters


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


def count(table: pd.DataFrame, parameters: LogCountRatios) -> tuple[CountVectorizer, sp.csr_matrix]:
    """Return the fitted n-gram counter and its matrix of shape (n_rows, n_ngrams).

    Raises
    ------
    TrainingError
        If a split lacks a class, or no n-gram is frequent enough.
    """
    check_labels(table.value_counts(["split", "sentiment"]))
    with too_rare(parameters):
        return count_ngrams(table["review"].tolist(), parameters.ngram_max, parameters.min_df)


def check_labels(rows: pd.Series) -> None:
    """Check that there are rows of each class to fit and to judge, of a number by ``split`` and ``sentiment``.

    Raises
    ------
    TrainingError
        If a split lacks a class.
    """
    for split, least in (("train", FOLDS), ("test", 1)):
        for label in ("positive", "negative"):
            there = rows.get((split, label), 0)
            if there < least:
                raise TrainingError(
                    f"the {split} split has {there} {label} rows, at least {least} are needed; "
                    "give more rows (limit) or another test_size"
                )


@contextmanager
def too_rare(parameters: LogCountRatios) -> Iterator[None]:
    """Say of a ``ValueError`` which parameters leave no n-gram.

    Raises
    ------
    TrainingError
        If there was one.
    """
    try:
        yield
    except ValueError as error:
        raise TrainingError(
            f"no n-gram stands in min_df={parameters.min_df} reviews of every part of the data, or none is left "
            f"of max_features={parameters.max_features} ({error}); lower the one or raise the other"
        ) from None


def fit(
    table: pd.DataFrame, counter: CountVectorizer, counts: sp.csr_matrix, parameters: LogCountRatios
) -> Fit:
    """Fit, calibrate and refit.

    The calibration is learnt from scores of training rows by models that had not seen them.

    Parameters
    ----------
    table : DataFrame
        Columns ``sentiment``, ``split`` and ``source``.
    counter, counts
        What :func:`count` returned for ``table``.
    parameters : LogCountRatios
    """
    y = (table["sentiment"] == "positive").to_numpy()
    train, test = (np.flatnonzero(table["split"] == split) for split in ("train", "test"))
    strata = (table["sentiment"] + table["source"]).iloc[train]
    if strata.value_counts().min() < FOLDS:
        strata = table["sentiment"].iloc[train]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=parameters.seed)
    splits = [(train, test)]
    splits += [(train[rest], train[fold]) for rest, fold in folds.split(train, strata)]
    # liblinear gives up the interpreter lock: threads use every core and share the matrix
    work = joblib.Parallel(n_jobs=-1, backend="threading", return_as="generator")
    tasks = [joblib.delayed(_fit)(counts, y, np.arange(len(y)), parameters)]
    tasks += [joblib.delayed(judge)(counts, y, seen, unseen, parameters) for seen, unseen in splits]
    # how sums are rounded depends on the number of BLAS threads: one, for the same model on any number of cores
    with too_rare(parameters), threadpool_limits(1):
        final, held_out, *left_out = tqdm(work(tasks), total=len(tasks), desc="fits", disable=None)
    scores, known = np.empty(len(y)), np.empty(len(y))
    for (_, unseen), judged in zip(splits, (held_out, *left_out), strict=True):
        scores[unseen], known[unseen] = judged
    calibration = LengthCalibration().fit(scores[train], known[train], y[train])
    log_odds = calibration.log_odds(scores, known)
    return Fit(
        pipeline=Pipeline(
            [
                ("counter", counter),
                *final.steps[:2],
                ("classifier", CalibratedClassifier(final[2:], calibration)),
            ]
        ),
        cross_validated=log_odds[train],
        held_out=log_odds[test],
    )


def _fit(counts: sp.csr_matrix, y: np.ndarray, rows: np.ndarray, parameters: LogCountRatios) -> Pipeline:
    linear = make_pipeline(
        MinDocumentFrequency(parameters.min_df, parameters.max_features),
        TfidfTransformer(),
        LogCountRatio(parameters.alpha, power=RATIO_POWER),
        # on the primal: on the dual it would draw at random, and all threads share liblinear's one generator
        LogisticRegression(C=parameters.C, solver="liblinear", tol=1e-3, random_state=parameters.seed),
    )
    return linear.fit(counts[rows], y[rows])


def judge(
    counts: sp.csr_matrix, y: np.ndarray, seen: np.ndarray, unseen: np.ndarray, parameters: LogCountRatios
) -> tuple[np.ndarray, np.ndarray]:
    """Fit on the rows ``seen``; return the linear scores of the rows ``unseen``, and how many of their n-grams were known.

    Parameters
    ----------
    counts : csr_matrix of shape (n_rows, n_ngrams)
    y : ndarray of bool of shape (n_rows,)
    seen, unseen : ndarray of int
        Row numbers.
    parameters : LogCountRatios
    """
    fitted = _fit(counts, y, seen, parameters)
    features = fitted[:2].transform(counts[unseen])
    return fitted[2:].decision_function(features), np.diff(features.indptr)
