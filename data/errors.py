"""The one kind of fault of this room."""

import click


class DataError(click.ClickException):
    """The reviews cannot be had, read or used; the message says what, where and what to do."""
