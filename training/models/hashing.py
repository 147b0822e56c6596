"""The model ``hashing``: hashed n-grams and an online linear model, which can go on from a registered version."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from sklearn.linear_model import SGDClassifier
from tqdm import tqdm

from data.table import reviews_of, row_hashes
from sentiment_model.hashing import WEIGHTS, HashingScorer, vectorizer
from sentiment_model.hashing import Settings as Scoring
from training.artifact import write_settings
from training.errors import TrainingError
from training.models.base import Trained
from training.models.calibration import LengthCalibration
from training.models.validation import judge, validation_rows
from training.models.warm_start import registered
from training.parameters import Hashing
from training.steps import step

PACKAGES = ("scikit-learn", "scipy")
SCORER = "hashing"
BATCH = 1_000
ALPHA = 1e-7
RATE, DECAY = (
    30.0,
    0.25,
)  # of a step: the first one's size, and the power of their number that they shrink with


def train(table: pd.DataFrame, parameters: Hashing) -> Trained:
    """Fit on one batch of training rows after the other, calibrate on those of validation, judge what is exported."""
    left_out = validation_rows(table)
    fitted = (table["split"] == "train").to_numpy() & ~left_out
    linear = _linear(parameters)
    before, earlier = "", None
    if parameters.warm_start:
        number = parameters.warm_start
        version = registered(number, SCORER, "hashing", table)
        earlier = version.seen
        scorer = HashingScorer.load(Path(version.folder.name))
        _go_on(linear, scorer, parameters)
        fitted &= ~row_hashes(table).isin(version.seen).to_numpy()
        before = f" on top of version {number}, which had seen {len(version.seen):,}"
        if not fitted.any():
            raise TrainingError(
                f"warm_start={number}: version {number} has seen all training rows already; give new ones (source)"
            )
    with step("fit", f"{parameters.passes} passes over {fitted.sum():,} reviews{before}"):
        _fit(linear, table, np.flatnonzero(fitted), parameters)
    made = TemporaryDirectory(prefix="hashing-")
    with step("export", "calibration"):
        scorer = _export(linear, table, np.flatnonzero(left_out), parameters, Path(made.name))
    recipe = (
        f"Cleaning, 1- to {parameters.ngram_max}-grams of words and punctuation, hashed to {parameters.n_features:,} features (binary, "
        f"Euclidean norm), logistic regression by stochastic gradient descent: {parameters.passes} passes over "
        f"{fitted.sum():,} reviews{before}; calibration by length on rows left out of fitting; seed {parameters.seed}."
    )
    return replace(judge(scorer, made, recipe, PACKAGES, table, left_out), earlier=earlier)


def _linear(parameters: Hashing) -> SGDClassifier:
    return SGDClassifier(
        loss="log_loss",
        alpha=ALPHA,
        learning_rate="invscaling",
        eta0=RATE,
        power_t=DECAY,
        random_state=parameters.seed,
    )


def _go_on(linear: SGDClassifier, scorer: HashingScorer, parameters: Hashing) -> None:
    """Give a classifier what the one of a registered version had learnt, in the attributes that `partial_fit` keeps."""
    by = scorer.settings
    for name in ("ngram_max", "n_features"):
        if getattr(by, name) != getattr(parameters, name):
            raise TrainingError(
                f"warm_start={parameters.warm_start}: that version has {name}={getattr(by, name)}; give the same"
            )
    linear.classes_ = np.array([False, True])
    linear.n_features_in_ = by.n_features
    linear.coef_ = scorer.weights.astype(float).reshape(1, -1)
    linear.intercept_ = np.array([by.bias])
    linear.t_ = by.updates


def _fit(linear: SGDClassifier, table: pd.DataFrame, rows: np.ndarray, parameters: Hashing) -> None:
    with tqdm(total=parameters.passes * len(rows), desc="fit", unit=" reviews", disable=None) as progress:
        for number in range(parameters.passes):
            order = np.random.default_rng([parameters.seed, number]).permutation(len(rows))
            for X, y in _batches(table, rows[order], parameters):
                linear.partial_fit(X, y, classes=[False, True])
                progress.update(len(y))


def _batches(
    table: pd.DataFrame, rows: np.ndarray, parameters: Hashing
) -> Iterator[tuple[sp.csr_matrix, np.ndarray]]:
    """Yield the hashed n-grams of so many rows at once, by their positions, and whether these are positive."""
    hashed = vectorizer(parameters.ngram_max, parameters.n_features)
    positive = (table["sentiment"] == "positive").to_numpy()
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        yield hashed.transform(reviews_of(table, some)), positive[some]


def _export(
    linear: SGDClassifier, table: pd.DataFrame, left_out: np.ndarray, parameters: Hashing, folder: Path
) -> HashingScorer:
    """Write the weights, calibrated on the validation rows, and return the scorer as it is read back."""
    linear.coef_ = linear.coef_.astype(np.float32)  # as they are written
    pq.write_table(pa.table({"weight": linear.coef_[0]}), folder / WEIGHTS, compression="zstd")
    scored = [
        (linear.decision_function(X), np.diff(X.indptr), y) for X, y in _batches(table, left_out, parameters)
    ]
    calibration = LengthCalibration().fit(*map(np.concatenate, zip(*scored, strict=True)))
    scoring = Scoring(
        parameters.ngram_max,
        parameters.n_features,
        updates=float(linear.t_),
        bias=float(linear.intercept_[0]),
        **calibration.learnt(),
    )
    write_settings(folder, SCORER, asdict(scoring))
    return HashingScorer.load(folder)
