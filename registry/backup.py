"""``make backup``: one consistent copy of a registry in SQLite and its artifacts, taken while it is in use."""

import os
import shlex
import signal
import sqlite3
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from cli import Command
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
        If there is no registry, or it cannot be read, or it has artifacts in other folders.
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
        _check_places(copy, folder)
        archive.add(copy, DATABASE)
        for name in ARTIFACTS:
            if (folder / name).is_dir():
                archive.add((folder / name).resolve(), name)  # it may be a link to a larger disk


def _check_places(database: Path, folder: Path) -> None:
    """Refuse what the archive would not hold, and name what it cannot."""
    with closing(sqlite3.connect(database)) as opened:
        places = opened.execute(
            "SELECT artifact_uri FROM runs WHERE lifecycle_stage = 'active' "
            "UNION SELECT artifact_location FROM logged_models WHERE lifecycle_stage = 'active'"
        ).fetchall()
    inside = [root / name for root in (folder.absolute(), folder.resolve()) for name in ARTIFACTS]
    served = (folder / "artifacts").is_dir()
    for (place,) in places:
        scheme = urlsplit(place).scheme
        if scheme in ("", "file"):
            path = Path(url2pathname(urlsplit(place).path))
            if not any(map(path.is_relative_to, inside)):
                raise RegistryError(
                    f"artifacts lie outside {folder.resolve()} too, such as {path}: copy that folder and "
                    f"{DATABASE} by other means"
                )
        elif not (scheme == "mlflow-artifacts" and served):
            raise RegistryError(
                f"artifacts lie elsewhere, such as {place}: back up the database and that place by their own means"
            )


@click.command(cls=Command, help="Copy a registry in SQLite and its artifacts into one tar archive.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("to", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
def main(folder: Path, to: Path) -> None:
    """Back up; to ``-`` for standard output."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # so that what was written is removed
    try:
        if str(to) == "-":
            back_up(folder, sys.stdout.buffer)
            return
        # a name of its own: two backups to one file may run at once
        with tempfile.NamedTemporaryFile(
            dir=to.absolute().parent, prefix=f".{to.name}.", delete=False
        ) as part:
            try:
                back_up(folder, part)
                part.flush()
                os.fsync(part.fileno())
                os.replace(part.name, to)
            finally:
                Path(part.name).unlink(missing_ok=True)
    except OSError as error:
        raise RegistryError(
            f"the backup was not written ({error}); mend that, or give another file"
        ) from None
    click.echo(
        f"{to}: {to.stat().st_size / 2**20:.1f} MiB; to restore it at the same place: "
        f"tar --extract --file {shlex.quote(str(to.absolute()))} --directory {shlex.quote(str(folder.resolve()))}"
    )


if __name__ == "__main__":
    main()
