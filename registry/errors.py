"""The faults of this room that a caller treats differently."""

import click


class RegistryError(click.ClickException):
    """The registry cannot do what was asked; the message says why and what to do."""


class VerificationError(RegistryError):
    """A version's files are not those that were registered; nothing of them may be loaded."""
