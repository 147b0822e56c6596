"""The options that the entry points of training share."""

import click

from cli import YES_NO, Number

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
