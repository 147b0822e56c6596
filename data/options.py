"""The options that ingest and the pipeline share."""

import click

from cli import Number

source_option = click.option(
    "--source",
    default="package",
    show_default=True,
    help="package, aclimdb, an aclImdb .tar.gz, or the path of a CSV (review,sentiment or text,label).",
)
test_size_option = click.option(
    "--test-size",
    type=Number(float, 0, 1, exclusive=True),
    default=0.1,
    show_default=True,
    help="Share of the rows held out, by the hash of their text.",
)
