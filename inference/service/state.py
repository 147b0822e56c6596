"""The folder of a follower: its lock, its logs, the versions that served last, and the processes that were started for it."""

import json
import logging
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import click
import psutil

from files import atomic_output
from inference.server import PATIENCE, ModelServer, marked
from inference.service.proxy import REQUESTS
from registry.digests import CONTENT, MANIFEST
from registry.versions import Version

LONGEST_LOG = 64 * 2**20
LOGS_KEPT = 10

log = logging.getLogger("follow")


class FollowError(click.ClickException):
    """The follower cannot start."""


def state_path(given: Path | None, port: int) -> Path:
    """Return where the folder of the follower on a port is."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return (given or home / "sentiment-model" / str(port)).resolve()  # by one name, whichever way it is given


def state_folder(given: Path | None, port: int) -> Path:
    """Return the folder of the follower on a port, made if it is not there, for its user alone.

    Raises
    ------
    FollowError
        If it cannot be made or belongs to somebody else.
    """
    folder = state_path(given, port)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError as error:
        raise FollowError(
            f"the state folder {folder} cannot be made ({error.strerror}); give another: --state"
        ) from None
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise FollowError(f"the state folder {folder} is not the user's own: others may write there")
    return folder


def lock_of(state: Path) -> Path:
    """Return the file that a follower holds locked while it runs."""
    return state / "lock"


state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of copies, logs and sockets.  [default: ~/.local/state/sentiment-model/PORT]",
)


def read_kept(state: Path) -> list[Version]:
    """Return the versions that served last, of which copies are in the state folder, the last one first."""
    try:
        rows = json.loads((state / "kept.json").read_text())
        return [
            Version(
                int(row["number"]), "", "READY", "", "", {tag: str(row[tag]) for tag in (MANIFEST, CONTENT)}
            )
            for row in rows
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def write_kept(state: Path, kept: list[Version]) -> None:
    """Remember the versions that served last, with their digests, for a start without the registry."""
    rows = [
        {"number": version.number} | {tag: version.tags.get(tag) for tag in (MANIFEST, CONTENT)}
        for version in kept
    ]
    try:
        with atomic_output(state / "kept.json") as part:
            part.write_text(json.dumps(rows))
    except OSError as error:
        log.warning("what served last cannot be written down: %s", error)


def left_behind(state: Path) -> list[ModelServer]:
    """Return the model servers that an earlier follower started for a state folder."""
    found = []
    for process, mark in marked(state):
        with suppress(psutil.Error, OSError):
            if "version" in mark and os.getpgid(process.pid) == process.pid:
                # whether it gave way nobody knows any more: the first look says what is right now
                found.append(ModelServer(int(mark["version"]), int(mark["port"]), process, gives_way=True))
    return found


def end_all(state: Path) -> None:
    """End every process that was started for a state folder."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        processes = [process for process, _ in marked(state)]
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(number)
        psutil.wait_procs(processes, timeout=PATIENCE)


def rotate(state: Path) -> None:
    """Cut logs off that have grown long; of each, one older part is kept.

    Whoever writes them has them open for appending, and goes on at the new end. A line that is written
    between the copy and the cut is lost.
    """
    for path in [state / REQUESTS, *state.glob("*.log")]:
        with suppress(OSError):
            if path.stat().st_size > LONGEST_LOG:
                shutil.copyfile(path, path.with_suffix(f".1{path.suffix}"))
                os.truncate(path, 0)
    ended = sorted(state.glob("server-*.log"), key=lambda path: path.stat().st_mtime)[:-LOGS_KEPT]
    for path in ended:
        path.unlink(missing_ok=True)
