"""The faults of this room that a caller treats differently."""

import click


class TrainingError(click.ClickException):
    """The data or the settings do not allow a model to be fitted or judged."""


class GateRefused(click.ClickException):
    """A version did not pass the gate; the registry was left as it was."""

    exit_code = 3


def one_line(told: object, most: int = 300) -> str:
    """Return what somebody else's error or object says, on one line."""
    text = f"{type(told).__name__}: {told}" if isinstance(told, BaseException) else str(told)
    return " ".join(text.split())[:most]
