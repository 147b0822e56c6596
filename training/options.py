"""The options that the entry points of training share."""

from collections.abc import Callable
from typing import Any

import click

from data.options import Number
from training.kinds import KINDS
from training.settings import Settings

YES_NO = click.Choice(["yes", "no"])

register_option = click.option(
    "--register",
    type=YES_NO,
    default="yes",
    show_default=True,
    help="Register the model as a version of SentimentClassifier.",
)
limit_option = click.option(
    "--limit",
    type=Number(int, 0),
    default=0,
    show_default=True,
    help="Use about this many rows, for a quick try; 0 for all.",
)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of :class:`training.settings.Settings` but ``master``."""
    default = Settings()
    for option in (
        click.option(
            "--engine",
            type=click.Choice(["local", "spark"]),
            default=default.engine,
            show_default=True,
            help="Count and fit on this machine, or on Apache Spark.",
        ),
        click.option(
            "--C",
            "C",
            type=Number(float, 1e-6, 1e6),
            default=default.C,
            show_default=True,
            help="Inverse strength of the classifier's regularisation.",
        ),
        click.option(
            "--alpha",
            type=Number(float, 1e-6, 1e6),
            default=default.alpha,
            show_default=True,
            help="Smoothing of the log-count ratios.",
        ),
        click.option(
            "--max-features",
            type=Number(int, 0),
            default=default.max_features,
            show_default=True,
            help="Most n-grams to keep, those in most reviews; 0 for all.",
        ),
        click.option(
            "--min-df",
            type=Number(int, 1),
            default=default.min_df,
            show_default=True,
            help="Fewest reviews that an n-gram must stand in.",
        ),
        click.option(
            "--ngram-max",
            type=Number(int, 1, 8),
            default=default.ngram_max,
            show_default=True,
            help="Longest n-gram, in words and punctuation marks.",
        ),
        click.option(
            "--seed",
            type=Number(int, 0, 2**32 - 1),
            default=default.seed,
            show_default=True,
            help="Of the folds, the solver and the rows that limit picks.",
        ),
        click.option(
            "--model",
            type=click.Choice(list(KINDS)),
            default=default.model,
            show_default=True,
            help="Which kind of model.",
        ),
    ):
        command = option(command)
    return command
