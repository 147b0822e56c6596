"""``make serve``: verify the Production version, then have ``mlflow models serve`` answer from that copy."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import requests

from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, fetch, find


class ServeError(click.ClickException):
    """The model server cannot start or does not answer."""


@contextmanager
def serving(copy: Path, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``mlflow models serve`` on a verified copy, refusing pickle; end it with all its children.

    Raises
    ------
    ServeError
        If the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"cannot listen on {host}:{port} ({error.strerror}); give another port: PORT=n"
            ) from None
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(copy)]
    command += ["--env-manager", "local", "--host", host, "--port", str(port)]
    environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    # MLflow starts `uvicorn` by name: let it be the one beside this interpreter
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(command, cwd=copy, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes], patience: float = 15.0) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
            break
        except subprocess.TimeoutExpired:
            continue
    try:  # whatever is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def wait_until_ready(process: subprocess.Popen[bytes], url: str, timeout: float = 120.0) -> None:
    """Poll ``url``/ping until it answers.

    Raises
    ------
    ServeError
        If the server ends, or does not answer within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServeError(f"the model server ended with exit code {process.returncode}; its log is above")
        try:
            if requests.get(f"{url}/ping", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise ServeError(f"the model server did not answer on {url} within {timeout:.0f} s")


def stop_in_order() -> None:
    """Turn SIGTERM, and the SIGHUP of a closed terminal, into an exit that runs ``finally`` blocks."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


@click.command(help="Serve the Production version with mlflow models serve, after verifying it.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def main(port: int, host: str) -> None:
    """Serve until a signal."""
    stop_in_order()
    version = find(connect(), PRODUCTION)
    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        copy = fetch(version, Path(folder))
        with serving(copy, host, port) as process:
            click.echo(f"serving {MODEL_NAME} version {version.number} on http://{host}:{port}/invocations")
            code = process.wait()
    if code:
        raise ServeError(f"the model server ended with exit code {code}; its log is above")


if __name__ == "__main__":
    main()
