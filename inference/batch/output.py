"""An output that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from inference.batch.files import FileError


@contextmanager
def whole(output: Path, overwrite: bool) -> Iterator[Path]:
    """Give a hidden path beside ``output`` to write a file or folder to, which takes its name when the block ends well.

    Whatever the block leaves behind otherwise is removed; what a killed process left, by the next one.

    Raises
    ------
    FileError
        If ``output`` is there and may not be overwritten, or another process writes it.
    """
    if output.is_symlink():
        output = output.resolve()
    hidden, old = (output.with_name(f".{output.name}.{end}") for end in ("part", "old"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with alone(output):
            try:
                if old.exists() and not output.exists():  # killed between the two renames below
                    old.rename(output)
                _remove(old)
                _remove(hidden)
                refuse_present(output, overwrite)
                yield hidden
                sync(hidden)
                if output.is_dir() or (output.exists() and hidden.is_dir()):
                    output.rename(old)
                hidden.replace(output)
            finally:
                _remove(hidden)
                if output.exists():
                    _remove(old)
    except OSError as error:
        raise FileError(f"{output} cannot be written: {error.strerror or error}") from None


def refuse_present(output: Path, overwrite: bool) -> None:
    """Refuse an output that is there and may not be overwritten.

    Raises
    ------
    FileError
        If it is.
    """
    if output.exists() and not overwrite:
        raise FileError(
            f"{output} is there already; give --overwrite yes (mlflow run: -P overwrite=yes), or another output"
        )


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Run a block while no other process writes ``output``.

    Raises
    ------
    FileError
        If another one does.
    """
    lock = FileLock(output.with_name(f".{output.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise FileError(
            f"{output} is being written by another process; wait for it, or give another output"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps it
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def sync(path: Path) -> None:
    """Have all of it on the disk before it gets its name."""
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
