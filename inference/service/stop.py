"""``make stop``: end a follower and all that it started, after the requests in flight were answered."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import click
from filelock import FileLock, Timeout

from cli import Command
from inference.server import PATIENCE, marked
from inference.service.proxy import LONGEST_DRAIN, Proxy
from inference.service.state import FollowError, end_all, lock_of, state_folder, state_option, state_path


@click.command(cls=Command, help="End a follower and all that it started.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@state_option
def main(port: int, state: Path | None) -> None:
    """Ask the follower to end; without one, end what it left running."""
    folder = state_path(state, port)
    nothing = f"nothing to do: nothing runs with the state folder {folder}; PORT and STATE are those that it was started with"
    if not folder.exists():
        click.echo(nothing)
        return
    folder = state_folder(state, port)
    lock = FileLock(lock_of(folder))
    try:
        with lock.acquire(timeout=0):
            if not marked(folder):
                click.echo(nothing)
                return
            click.echo("the follower itself is gone; ending what it left running")
            proxy = Proxy(folder, "", port, 0)
            if proxy.adopt():
                proxy.finish(LONGEST_DRAIN)
            end_all(folder)
    except Timeout:
        with suppress(ProcessLookupError, ValueError, OSError):
            os.kill(int((folder / "pid").read_text()), signal.SIGTERM)
        patience = LONGEST_DRAIN + 3 * PATIENCE
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise FollowError(f"the follower of {folder} did not end within {patience:.0f} s") from None
    click.echo(f"stopped: nothing runs with the state folder {folder} any more")


if __name__ == "__main__":
    main()
