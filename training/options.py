"""The options that the entry points of training share."""

from collections.abc import Callable
from typing import Any

import click

from cli import Number
from training.models.catalog import KINDS
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


# of each field of Settings but master, which Spark's other commands have too: its type, and what it is
SETTINGS: tuple[tuple[str, Any, str], ...] = (
    ("model", str, f"Which kind: {', '.join(KINDS)}, or path.to.module:function of your own."),
    ("ngram_max", Number(int, 1, 8), "Longest n-gram, in words and punctuation marks."),
    ("min_df", Number(int, 1), "Fewest reviews that an n-gram must stand in."),
    ("max_features", Number(int, 0), "Most n-grams to keep, those in most reviews; 0 for all."),
    ("alpha", Number(float, 1e-6, 1e6), "Smoothing of the log-count ratios."),
    ("C", Number(float, 1e-6, 1e6), "Inverse strength of the classifier's regularisation."),
    (
        "seed",
        Number(int, 0, 2**32 - 1),
        "Of all that is drawn: folds, solver, batches, the rows that limit picks.",
    ),
    ("n_features", Number(int, 2, 2**28), "To which the model hashing hashes n-grams."),
    ("passes", Number(int, 1, 1000), "Of the model hashing over its training rows."),
    (
        "weights",
        str,
        "Pretrained: minilm, a folder that save_pretrained wrote, or a name on the Hugging Face hub.",
    ),
    (
        "max_tokens",
        Number(int, 8, 8192),
        "Of a text that a transformer reads: a quarter of them from its head, the rest from its tail.",
    ),
    (
        "head",
        click.Choice(["mlp", "logistic"]),
        "Of the model embedding: a small deep network, or logistic regression.",
    ),
    ("epochs", Number(int, 1, 1000), "Most passes of a fine-tuning over the training rows."),
    ("batch_size", Number(int, 1, 4096), "Texts in a step of a fine-tuning."),
    ("learning_rate", Number(float, 1e-8, 1), "Of a fine-tuning, at its highest."),
    (
        "precision",
        click.Choice(["auto", "float32", "int8"]),
        "Of a transformer that is served; auto: int8 where next to nothing is lost by it.",
    ),
    ("trust", str, "Types, between commas, that the fitted form of a pipeline of your own may hold."),
    ("cascade", YES_NO, "In a stack, ask the transformer only where the n-grams are unsure."),
    (
        "warm_start",
        Number(int, 0),
        "Version to go on from: its hashing model, or for a stack its transformer; 0 for none.",
    ),
    ("checkpoints", str, "Folder in which a fine-tuning is kept while it lasts."),
    ("engine", click.Choice(["local", "spark"]), "Count and fit on this machine, or on Apache Spark."),
)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each field of :class:`training.settings.Settings` but ``master``."""
    default = Settings()
    for name, kind, what in reversed(SETTINGS):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(
            flag, name, type=kind, default=getattr(default, name), show_default=True, help=what
        )(command)
    return command
