"""What all commands share: errors in one line, options that say what is allowed, signals.

MLflow does not check the types of MLproject parameters; these options do, before any work.
"""

import errno
import math
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_NO_STORE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_BUSY")


YES_NO = click.Choice(["yes", "no"])


class Command(click.Command):
    """A command whose usage errors are one line, and so is a disk that is full or may not be written."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments; a wrong one raises without the usage text around it."""
        try:  # `mlflow run -P batch_size=8` appends --batch_size 8
            return super().make_context(
                *args, token_normalize_func=lambda name: name.replace("_", "-"), **kwargs
            )
        except click.UsageError as error:
            if "MLFLOW_RUN_ID" in os.environ:  # by `mlflow run`, where one types names without dashes
                if isinstance(error, click.BadParameter) and error.param:
                    error.param_hint = error.param.name
                if isinstance(error, click.NoSuchOption):
                    near = [_plain(name) for name in error.possibilities or []]
                    error = click.NoSuchOption(_plain(error.option_name), possibilities=near)
            raise click.UsageError(" ".join(error.format_message().split())) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; where it could not write, say so without a stack trace.

        Raises
        ------
        ClickException
            If the disk is full, broken or read-only, for files or for the store.
        """
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if (told := _told(error)) is None:
                raise
            raise click.ClickException(
                f"{told}. Existing files are unchanged; fix this and run again"
            ) from None


def _plain(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _told(error: BaseException | None) -> str | None:
    """Return what could not be written, if that is what ended a command: the first such fault."""
    told = None
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            told = f"{error.filename or 'a file'} cannot be written ({error.strerror})"
        elif isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(
            _NO_STORE
        ):
            told = f"the tracking store cannot be written ({error})"
        error = error.__cause__ or error.__context__
    return told


class Number(click.ParamType):
    """A finite number of a range: ``low`` to ``high``, or strictly between them if ``exclusive``."""

    def __init__(
        self,
        kind: type[int] | type[float],
        low: float,
        high: float = math.inf,
        *,
        exclusive: bool = False,
    ) -> None:
        self.kind, self.low, self.high, self.exclusive = kind, low, high, exclusive
        self.name = "integer" if kind is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """Return the number, or fail with the range in the message."""
        try:
            number = self.kind(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        # NaN compares false, and infinity is no number to compute with
        inside = self.low < number < self.high or (not self.exclusive and number in (self.low, self.high))
        if not inside or number == math.inf:
            self.fail(f"{str(value)[:40]!r} is not allowed; expected {self}", param, ctx)
        return number

    def __str__(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        bounded = math.isfinite(self.high)
        if self.exclusive:
            return f"{kind} above {self.low}" + (f" and below {self.high}" if bounded else "")
        return f"{kind} from {self.low} " + (f"to {self.high}" if bounded else "up")


@contextmanager
def signals_noted() -> Iterator[list[signal.Signals]]:
    """Note the signals that end a process, in place of an exception in the middle of what must not be cut off."""
    noted: list[signal.Signals] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    before = [signal.signal(number, note) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            if signal.getsignal(number) is note:  # PySpark sets one of its own
                signal.signal(number, handler)


def stop_in_order() -> None:
    """Turn SIGTERM, and the SIGHUP of a closed terminal, into an exit that runs ``finally`` blocks."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


def end_with(parent: int) -> None:
    """End this process when its ``parent`` has ended: else a killed command leaves it waiting to hand over its result."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
