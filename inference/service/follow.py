"""``make serve FOLLOW=1``: keep what is served equal to the version in Production, without a dropped request."""

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from filelock import FileLock, Timeout

from cli import Command
from inference.server import refuse_workers
from inference.service.proxy import LONGEST_DRAIN, Proxy, find_haproxy
from inference.service.state import FollowError, end_all, lock_of, rotate, state_folder, state_option
from inference.service.watch import Watch
from registry.extras import how_to_install
from registry.signatures import VERIFYING, key
from registry.store import MODEL_NAME, store_name

if TYPE_CHECKING:
    from inference.service.supervisor import Follower

TICK = 0.2
ROTATE_EVERY = 30.0

log = logging.getLogger("follow")


@click.command(cls=Command, help="Serve the version in Production and switch as it changes.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=8404, show_default=True)
@state_option
def main(host: str, port: int, metrics_port: int, state: Path | None) -> None:
    """Follow until a signal."""
    try:
        from prometheus_client import start_http_server

        from inference.service.supervisor import Follower
    except ImportError as error:
        raise FollowError(how_to_install(error) or str(error)) from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a registry that is away is said once, by us
    if port == metrics_port:
        raise FollowError(f"PORT and METRICS_PORT are both {port}; give one of them another number")
    refuse_workers()
    key(VERIFYING)  # one that cannot be used is said now, not at the next promotion
    find_haproxy()
    folder = state_folder(state, port)
    lock = FileLock(lock_of(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        stop = f"make stop PORT={port}" + (f" STATE='{state}'" if state else "")
        raise FollowError(
            f"a follower runs already with the state folder {folder}; '{stop}' ends it, or give another STATE"
        ) from None
    (folder / "pid").write_text(str(os.getpid()))
    shown, _ = start_http_server(0, addr="127.0.0.1")
    follow(Follower(folder, Proxy(folder, host, port, metrics_port), Watch(), shown.server_port))


def follow(follower: "Follower") -> None:
    """Run the loop until SIGTERM, SIGINT or SIGHUP; a second one ends everything at once."""
    signals: list[int] = []
    wake = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        wake.set()
        if len(signals) > 1:
            end_all(follower.state)
            os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    proxy = follower.proxy
    follower.begin()
    follower.watch.start()
    log.info(
        "following %s in %s on http://%s:%d/invocations", MODEL_NAME, store_name(), proxy.host, proxy.port
    )
    log.info(
        "metrics on http://%s:%d/metrics; copies and logs in %s",
        proxy.host,
        proxy.metrics_port,
        follower.state,
    )
    fault, rotated = "", 0.0
    while not signals:
        try:
            follower.step()
            fault = ""
        except Exception as error:  # what serves goes on serving, and the next turn tries again
            expected = isinstance(error, click.ClickException)
            what = error.format_message() if isinstance(error, click.ClickException) else repr(error)
            if what != fault:
                log.log(logging.ERROR, "%s", what, exc_info=not expected)
            fault = what
        if time.monotonic() - rotated > ROTATE_EVERY:
            rotate(follower.state)
            rotated = time.monotonic()
        wake.wait(TICK if not fault else 1.0)
    log.info("stopping: requests in flight have %.0f s", LONGEST_DRAIN)
    follower.finish()
    log.info("stopped")


if __name__ == "__main__":
    main()
