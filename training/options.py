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
            "--warm-start",
            type=Number(int, 0),
            default=default.warm_start,
            show_default=True,
            help="Version to go on from: its hashing model, or for a stack its transformer; 0 for none.",
        ),
        click.option(
            "--trust",
            default=default.trust,
            help="Types, between commas, that the fitted form of a pipeline of your own may hold.",
        ),
        click.option(
            "--cascade",
            type=YES_NO,
            default=default.cascade,
            show_default=True,
            help="In a stack, ask the transformer only where the n-grams are unsure.",
        ),
        click.option(
            "--checkpoints",
            default=default.checkpoints,
            show_default=True,
            help="Folder in which a fine-tuning is kept while it lasts.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "int8"]),
            default=default.precision,
            show_default=True,
            help="Of a transformer that is served; auto: int8 where next to nothing is lost by it.",
        ),
        click.option(
            "--learning-rate",
            type=Number(float, 1e-8, 1),
            default=default.learning_rate,
            show_default=True,
            help="Of a fine-tuning, at its highest.",
        ),
        click.option(
            "--batch-size",
            type=Number(int, 1, 4096),
            default=default.batch_size,
            show_default=True,
            help="Texts in a step of a fine-tuning.",
        ),
        click.option(
            "--epochs",
            type=Number(int, 1, 1000),
            default=default.epochs,
            show_default=True,
            help="Most passes over the training rows.",
        ),
        click.option(
            "--head",
            type=click.Choice(["mlp", "logistic"]),
            default=default.head,
            show_default=True,
            help="Of the model embedding: a small deep network, or logistic regression.",
        ),
        click.option(
            "--max-tokens",
            type=Number(int, 8, 8192),
            default=default.max_tokens,
            show_default=True,
            help="Of a text that a transformer reads: a quarter of them from its head, the rest from its tail.",
        ),
        click.option(
            "--passes",
            type=Number(int, 1, 1000),
            default=default.passes,
            show_default=True,
            help="Of the model hashing over its training rows.",
        ),
        click.option(
            "--n-features",
            type=Number(int, 2, 2**28),
            default=default.n_features,
            show_default=True,
            help="To which the model hashing hashes n-grams.",
        ),
        click.option(
            "--weights",
            default=default.weights,
            show_default=True,
            help="Pretrained: minilm, a folder that save_pretrained wrote, or a name on the Hugging Face hub.",
        ),
        click.option(
            "--model",
            default=default.model,
            show_default=True,
            help=f"Which kind: {', '.join(KINDS)}, or path.to.module:function of your own.",
        ),
    ):
        command = option(command)
    return command
