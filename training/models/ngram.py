"""The model ``ngram``: n-grams, log-count ratios and logistic regression, exported as a plain table."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit
from sklearn.pipeline import Pipeline

from sentiment_model import ngrams
from sentiment_model.ngrams import TABLE, NgramScorer
from spark.session import session
from training.artifact import write_settings
from training.errors import TrainingError
from training.models.base import Trained
from training.models.ngram_fit import RATIO_POWER, Fit, count, fit
from training.parameters import LogCountRatios, Ngram
from training.report.explain import ngram_table
from training.steps import step

PACKAGES = ("numba",)
TOLERANCE = 1e-6  # of a probability


def train(table: pd.DataFrame, parameters: LogCountRatios) -> Trained:
    """Count and fit on this machine or, with ``engine=spark``, on Apache Spark."""
    if isinstance(parameters, Ngram) and parameters.engine == "spark":
        fitted = _fit_on_spark(table, parameters)
    else:
        fitted = _fit_here(table, parameters)
    log_odds = np.empty(len(table))
    for split, found in (("train", fitted.cross_validated), ("test", fitted.held_out)):
        log_odds[table["split"] == split] = found
    weights = ngram_table(fitted.pipeline)
    return Trained(
        log_odds=log_odds,
        seen=np.ones(len(table), bool),
        judged="cross-validation",
        recipe=recipe(parameters),
        export=partial(write_scorer, fitted.pipeline, weights),
        packages=PACKAGES,
        pipeline=fitted.pipeline,
        ngrams=weights,
    )


def _fit_here(table: pd.DataFrame, parameters: LogCountRatios) -> Fit:
    with step("features", f"counting n-grams of {len(table):,} reviews"):
        counter, counts = count(table, parameters)
    with step("fit", f"cross-validating and fitting on {counts.shape[1]:,} n-grams"):
        return fit(table, counter, counts, parameters)


def _fit_on_spark(table: pd.DataFrame, parameters: Ngram) -> Fit:
    with session(parameters.master, "train") as spark:
        # they import PySpark, which need not be installed
        from training.models.ngram_spark import fit as fit_on_spark
        from training.models.ngram_spark_counts import count as count_on_spark
        from training.models.ngram_spark_counts import reviews_of

        with step("features", f"counting n-grams of {len(table):,} reviews on {parameters.master}"):
            counts = count_on_spark(reviews_of(spark, table), parameters)
        with step("fit", f"cross-validating and fitting on {len(counts.names):,} n-grams"):
            return fit_on_spark(counts, parameters)


def recipe(parameters: LogCountRatios) -> str:
    """Return what the model is, in a sentence."""
    most = f"at most {parameters.max_features:,} " if parameters.max_features else ""
    return (
        f"Cleaning, TF-IDF over {most}1- to {parameters.ngram_max}-grams of words and punctuation (binary term "
        f"frequency, min_df {parameters.min_df}), Naive-Bayes log-count ratios (Wang & Manning 2012; smoothing "
        f"{parameters.alpha:g}, to the power of {RATIO_POWER:g}), logistic "
        f"regression (C = {parameters.C:g}), calibration by length on cross-validated scores; seed {parameters.seed}."
    )


def write_scorer(pipeline: Pipeline, table: pd.DataFrame, folder: Path, check_on: pd.Series) -> NgramScorer:
    """Write the scorer of a fitted pipeline as plain data, and prove that it equals the pipeline.

    Parameters
    ----------
    pipeline : Pipeline
    table : DataFrame
        Its :func:`training.report.explain.ngram_table`.
    folder : Path
        Existing and empty.
    check_on : Series of str
        Raw reviews whose probabilities must agree within 1e-6.

    Raises
    ------
    TrainingError
        If the read-back scorer and the pipeline disagree.
    """
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False),
        folder / TABLE,
        compression="zstd",
        use_dictionary=["idf"],
        column_encoding={"ngram": "DELTA_BYTE_ARRAY", "weight": "BYTE_STREAM_SPLIT"},
        store_schema=False,
    )
    counter, classifier = pipeline[0], pipeline[-1]
    calibration = classifier.calibration
    settings = ngrams.Settings(
        ngram_max=counter.analyzer.keywords["ngram_max"],
        bias=float(classifier.linear[-1].intercept_[0]),
        **calibration.learnt(),
    )
    write_settings(folder, "ngrams", asdict(settings))
    scorer = NgramScorer.load(folder)
    gap = np.abs(expit(scorer.log_odds(check_on)) - pipeline.predict_proba(check_on)[:, 1]).max(initial=0)
    if not gap <= TOLERANCE:
        raise TrainingError(
            f"the exported scorer and the fitted pipeline differ by {gap:.2g}, more than {TOLERANCE:.0g}"
        )
    return scorer
