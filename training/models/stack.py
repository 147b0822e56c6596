"""The model ``stack``: n-grams and a fine-tuned transformer, their log-odds combined by logistic regression.

The combination, and from where on the n-grams alone decide, are learnt on the rows that the transformer's fine-tuning
leaves out, from log-odds of n-gram models that had not seen these rows either.
"""

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from sentiment_model.encoder import EncoderScorer
from sentiment_model.stack import ENCODER, NGRAMS, StackScorer, combine, features
from sentiment_model.stack import Settings as Combination
from training.artifact import write_settings
from training.errors import TrainingError
from training.models import ngram, transformer
from training.models.base import Trained
from training.models.encoder import PACKAGES as NETWORK_PACKAGES
from training.models.encoder import SCORER, Network
from training.models.validation import validation_rows, with_progress
from training.models.warm_start import registered
from training.parameters import Stack
from training.report.metrics import accuracy_and_log_loss
from training.steps import step

PACKAGES = (*ngram.PACKAGES, *NETWORK_PACKAGES)
# what the cascade may cost on the validation rows: their share, and log-loss relative to that of always asking both
ACCURACY, LOG_LOSS = 0.001, 1.01
AGREE = 1e-4
REGULARISATION = 1.0


def train(table: pd.DataFrame, parameters: Stack) -> Trained:
    """Train both, or take a registered transformer; combine them, and judge the combination on the held-out rows."""
    left_out = validation_rows(table)
    network, earlier = _network(table, left_out, parameters)
    grams = ngram.train(table, parameters)
    asked = left_out | (table["split"] == "test").to_numpy()
    with step("score", f"{asked.sum():,} reviews that were left out, by the transformer"):
        found, tokens = with_progress(network.scorer.calibrated, table, asked)
    own = grams.log_odds[asked]
    both = features(own, found, tokens)
    y = (table["sentiment"][asked] == "positive").to_numpy()
    rows = left_out[asked]
    with step("combine", f"logistic regression on {rows.sum():,} reviews"):
        combination = fit(both[rows], y[rows], parameters.cascade == "yes")
    log_odds = np.full(len(table), np.nan)
    log_odds[asked] = combine(both, combination)
    return Trained(
        log_odds=log_odds,
        seen=np.ones(len(table), bool),
        judged="validation",
        recipe=recipe(grams.recipe, network.recipe, combination),
        export=partial(_export, grams, network, combination),
        packages=PACKAGES,
        ngrams=grams.ngrams,
        weights=network.weights,
        earlier=earlier,
    )


def _network(
    table: pd.DataFrame, left_out: np.ndarray, parameters: Stack
) -> tuple[Network, pd.Series | None]:
    if not parameters.warm_start:
        return transformer.fine_tune(table, left_out, parameters), None
    number = parameters.warm_start
    version = registered(number, SCORER, "transformer", table)
    scorer = EncoderScorer.load(Path(version.folder.name))
    return Network(version.folder, scorer, f"The transformer of version {number}.", None), version.seen


def fit(both: np.ndarray, y: np.ndarray, cascade: bool) -> Combination:
    """Return the combination of what :func:`sentiment_model.stack.features` returned, and from where on n-grams are sure.

    That is the least log-odds of theirs from which on they can decide alone at next to no cost in accuracy and log loss.

    Parameters
    ----------
    both : ndarray of shape (n_rows, 4)
    y : ndarray of bool of shape (n_rows,)
    cascade : bool
        Whether n-grams are to decide anything alone.
    """
    line = LogisticRegression(C=REGULARISATION).fit(both, y)
    own, own_by_length, network, network_by_length = line.coef_[0].tolist()
    always = Combination(
        own, own_by_length, network, network_by_length, intercept=float(line.intercept_[0]), sure=None
    )
    if not cascade:
        return always
    margins = np.sort(np.abs(both[:, 0]))
    accuracy, log_loss = accuracy_and_log_loss(y, combine(both, always))
    for sure in margins:
        right, loss = accuracy_and_log_loss(y, combine(both, replace(always, sure=float(sure))))
        if right >= accuracy - ACCURACY and loss <= log_loss * LOG_LOSS:
            break
    click.echo(
        f"combine: from log-odds of {sure:.2f} on the n-grams decide alone, {(margins >= sure).mean():.0%} of the "
        f"validation rows; accuracy {right:.4f} for {accuracy:.4f}, log loss {loss:.4f} for {log_loss:.4f}"
    )
    return replace(always, sure=float(sure))


def recipe(grams: str, network: str, by: Combination) -> str:
    """Return what the model is, in a few sentences."""
    alone = (
        f"Where the n-grams alone have log-odds of {by.sure:.2f} or more either way, they decide alone."
        if by.sure is not None
        else "Both are always asked."
    )
    return (
        f"Two models, their log-odds combined by logistic regression on rows that neither had seen, by length. {alone}\n\n"
        f"N-grams: {grams}\n\nTransformer: {network}"
    )


def _export(
    grams: Trained, network: Network, by: Combination, folder: Path, check_on: pd.Series
) -> StackScorer:
    """Write both scorers and their combination.

    Raises
    ------
    TrainingError
        If the scorer that is read back answers otherwise than its parts, combined.
    """
    for part in (NGRAMS, ENCODER):
        (folder / part).mkdir()
    ours = grams.export(folder / NGRAMS, check_on)
    shutil.copytree(network.folder.name, folder / ENCODER, dirs_exist_ok=True)
    write_settings(folder, "stack", asdict(by))
    scorer = StackScorer.load(folder)
    texts = check_on.head(32)
    expected = combine(features(ours.log_odds(texts), *network.scorer.calibrated(texts)), by)
    gap = np.abs(scorer.log_odds(texts) - expected).max(initial=0)
    if not gap <= AGREE:
        raise TrainingError(
            f"the exported stack and its parts, combined, differ by {gap:.2g}, more than {AGREE:.0g}"
        )
    return scorer
