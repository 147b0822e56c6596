"""Fitting on Apache Spark what :mod:`training.models.ngram_spark_counts` counted: the same :class:`training.models.ngram_fit.Fit`.

Only vectors of one number an n-gram come to the driver.
"""

import sys
from collections.abc import Callable
from functools import partial
from operator import iadd
from typing import Any

import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
from pyspark import RDD, cloudpickle
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from sentiment_model.ngrams import ngrams
from spark.session import told
from training.errors import TrainingError
from training.models.calibration import CalibratedClassifier, LengthCalibration
from training.models.features import LogCountRatio, MinDocumentFrequency, log_count_ratio, raised_min_df
from training.models.ngram_fit import RATIO_POWER, Fit, too_rare
from training.models.ngram_spark_counts import SEEN, TEST, Block, Counts
from training.parameters import LogCountRatios

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the executors need not have this project

TOLERANCE = 1e-5  # of the objective, relative: its cross-validated log loss is that of 1e-6 within 0.001
STEPS = 100  # at most; some 30 are needed


def fit(counts: Counts, parameters: LogCountRatios) -> Fit:
    """Fit, calibrate and refit, as :func:`training.models.ngram_fit.fit` does, with folds drawn by a hash of the row's number.

    The objective is that of scikit-learn's liblinear: its gradient is summed by Spark, SciPy's L-BFGS on the
    driver makes the steps. Spark's own ``LogisticRegression`` always divides features by their deviation,
    and among so many rare ones does not arrive: after 100 steps its objective was 0.39, where the least is 0.11.

    Parameters
    ----------
    counts : Counts
    parameters : LogCountRatios

    Raises
    ------
    TrainingError
        If a part of the data has one class alone, or no frequent n-gram.
    SparkError
        If a job fails.
    """
    # two at a time: while the driver makes a step of one, the executors sum for the other
    work = joblib.Parallel(n_jobs=2, backend="threading", return_as="generator")
    tasks = [joblib.delayed(_fit)(counts, seen, parameters) for seen in SEEN.astype(bool)]
    with told("training on Spark failed"), too_rare(parameters), threadpool_limits(1):
        final, held_out, *left_out = tqdm(work(tasks), total=len(tasks), desc="fits", disable=None)
        judged = [_judge(counts, group, one) for group, one in ((TEST, held_out), *enumerate(left_out))]
    test, train = judged[0], pd.concat(judged[1:]).sort_values("row")
    calibration = LengthCalibration().fit(
        *(train[name].to_numpy() for name in ("score", "known", "positive"))
    )
    counter = CountVectorizer(
        analyzer=partial(ngrams, ngram_max=parameters.ngram_max),
        binary=True,
        min_df=parameters.min_df,
        dtype=np.float64,
    )
    counter.vocabulary_ = {name: column for column, name in enumerate(counts.names.to_pylist())}
    counter.fixed_vocabulary_ = False
    return Fit(
        pipeline=Pipeline(
            [
                ("counter", counter),
                *final.steps[:2],
                ("classifier", CalibratedClassifier(final[2:], calibration)),
            ]
        ),
        cross_validated=calibration.log_odds(train["score"].to_numpy(), train["known"].to_numpy()),
        held_out=calibration.log_odds(test["score"].to_numpy(), test["known"].to_numpy()),
    )


def _fit(counts: Counts, seen: np.ndarray, parameters: LogCountRatios) -> Pipeline:
    """Return what :func:`training.models.ngram_fit._fit` returns, from the rows of the groups that are ``seen``."""
    frequent = MinDocumentFrequency(parameters.min_df, parameters.max_features)
    tfidf, ratio = TfidfTransformer(), LogCountRatio(parameters.alpha, power=RATIO_POWER)
    regression = LogisticRegression(C=parameters.C, solver="liblinear")
    n_rows, frequency = counts.rows[seen].sum(), counts.frequency[:, seen].sum(axis=1)

    frequent.n_features_in_, frequent.document_frequency_ = len(frequency), frequency
    frequent.min_df_ = raised_min_df(frequency, parameters.min_df, parameters.max_features)
    mask = frequent.get_support()
    if not mask.any():
        raise ValueError(f"no feature occurs in {frequent.min_df_} of {n_rows} samples")
    tfidf.idf_ = np.log((1 + n_rows) / (1 + frequency[mask])) + 1
    idf = np.zeros(len(frequency))
    idf[mask] = tfidf.idf_

    spark = counts.blocks.context
    shared = spark.broadcast((idf, np.flatnonzero(seen)))
    positive, negative, number = np.split(
        _sum(counts.blocks, partial(_mass, shared)), [len(idf), 2 * len(idf)]
    )
    if not number.all():
        raise TrainingError("a part of the data has one class alone; give more rows (limit) or another seed")
    ratio.classes_ = regression.classes_ = np.array([False, True])
    ratio.log_count_ratio_ = log_count_ratio(
        positive[mask] * tfidf.idf_, negative[mask] * tfidf.idf_, parameters.alpha, RATIO_POWER
    )
    ratio.n_features_in_ = regression.n_features_in_ = mask.sum()
    scale = tfidf.idf_ * ratio.log_count_ratio_
    strength = 1 / (parameters.C * n_rows)

    def objective(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.zeros(len(idf) + 1)  # the last is the intercept
        weights[:-1][mask], weights[-1] = coefficients[:-1] * scale, coefficients[-1]
        at = spark.broadcast(weights)
        total = _sum(counts.blocks, partial(_loss, shared, at)) / n_rows
        at.destroy()
        gradient = np.append(total[:-2][mask] * scale, total[-2]) + strength * coefficients
        return total[-1] + strength / 2 * coefficients @ coefficients, gradient

    found = minimize(
        objective,
        np.zeros(mask.sum() + 1),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": TOLERANCE, "gtol": 0, "maxiter": STEPS},
    )
    shared.destroy()
    regression.coef_, regression.intercept_ = found.x[np.newaxis, :-1], found.x[-1:]
    regression.n_iter_ = np.array([found.nit], dtype=np.int32)
    return make_pipeline(frequent, tfidf, ratio, regression)


def _judge(counts: Counts, unseen: int, fitted: Pipeline) -> pd.DataFrame:
    """Return row, whether positive, linear score and known n-grams of the rows of a group, by row."""
    frequent, tfidf, ratio, regression = (step for _, step in fitted.steps)
    mask = frequent.get_support()
    idf, weights = np.zeros(len(mask)), np.zeros(len(mask) + 1)
    idf[mask] = tfidf.idf_
    weights[:-1][mask] = tfidf.idf_ * ratio.log_count_ratio_ * regression.coef_[0]
    weights[-1] = regression.intercept_[0]
    spark = counts.blocks.context
    shared = spark.broadcast((idf, unseen))
    found = counts.blocks.map(partial(_scores, shared, spark.broadcast(weights))).collect()
    names = ("row", "positive", "score", "known")
    return pd.concat(pd.DataFrame(dict(zip(names, one, strict=True))) for one in found).sort_values("row")


def _sum(blocks: RDD, task: Callable[..., np.ndarray]) -> np.ndarray:
    return blocks.map(task).treeReduce(iadd)


def _norms(shared: Any, block: Block) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """Return a block as ones, the norm of each row as TF-IDF, and 1 for the rows of the groups asked for, 0 for others."""
    idf, groups = shared.value
    row, group, _, start, ngram = block
    X = sp.csr_matrix((np.ones(len(ngram)), ngram, start), (len(row), len(idf)))
    norm = np.sqrt(X @ idf**2)
    norm[norm == 0] = 1
    return X, norm, np.isin(group, groups).astype(float)


def _mass(shared: Any, block: Block) -> np.ndarray:
    X, norm, chosen = _norms(shared, block)
    ofs = [chosen * block[2], chosen * ~block[2]]
    return np.concatenate([*(X.T @ (of / norm) for of in ofs), [of.sum() for of in ofs]])


def _loss(shared: Any, at: Any, block: Block) -> np.ndarray:
    X, norm, chosen = _norms(shared, block)
    weights, positive = at.value, block[2]
    score = X @ weights[:-1] / norm + weights[-1]
    slope = chosen * (expit(score) - positive)
    loss = chosen @ np.logaddexp(0, np.where(positive, -score, score))
    return np.concatenate([X.T @ (slope / norm), [slope.sum(), loss]])


def _scores(shared: Any, at: Any, block: Block) -> tuple[np.ndarray, ...]:
    X, norm, chosen = _norms(shared, block)
    score = X @ at.value[:-1] / norm + at.value[-1]
    known = X @ (shared.value[0] > 0).astype(float)
    return tuple(values[chosen > 0] for values in (block[0], block[2], score, known))
