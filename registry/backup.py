"""``make backup``: one consistent copy of a registry in SQLite and its artifacts, taken while it is in use."""

import os
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import IO

import click

from registry.errors import RegistryError

DATABASE = "mlflow.db"
ARTIFACTS = ("mlruns", "artifacts")  # where a local store has them, and where the tracking server


def back_up(folder: Path, into: IO[bytes]) -> None:
    """Write a tar archive of a store's folder.

    The database is copied first, in one transaction of SQLite's, and artifacts are written before the
    database names them: all that the copy names is in the archive, if nothing is pruned meanwhile.

    Parameters
    ----------
    folder : Path
        With ``mlflow.db``, and the artifacts in ``mlruns`` or ``artifacts``.
    into : binary file

    Raises
    ------
    RegistryError
        If there is no registry, or it cannot be read.
    """
    database = folder / DATABASE
    if not database.is_file():
        raise RegistryError(f"{folder} holds no {DATABASE}: give the folder of a registry in SQLite")
    with tempfile.TemporaryDirectory() as place, tarfile.open(fileobj=into, mode="w|") as archive:
        copy = Path(place, DATABASE)
        try:
            with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
                source.backup(target)
        except sqlite3.Error as error:
            raise RegistryError(f"{database} cannot be copied: {error}") from None
        archive.add(copy, DATABASE)
        for name in ARTIFACTS:
            if (folder / name).is_dir():
                archive.add((folder / name).resolve(), name)  # it may be a link to a larger disk


@click.command(help="Copy a registry in SQLite and its artifacts into one tar archive.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("to", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
def main(folder: Path, to: Path) -> None:
    """Back up; to ``-`` for standard output."""
    if str(to) == "-":
        back_up(folder, sys.stdout.buffer)
        return
    part = to.with_name(f"{to.name}.part")
    try:
        with part.open("wb") as file:
            back_up(folder, file)
            os.fsync(file.fileno())
        part.replace(to)
    except OSError as error:
        raise RegistryError(f"{to} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
    click.echo(f"{to}: {to.stat().st_size / 2**20:.1f} MiB; 'tar -x -f {to} -C FOLDER' restores it")


if __name__ == "__main__":
    main()
