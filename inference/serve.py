"""``make serve``: verify the Production version, then have ``mlflow models serve`` answer from that copy."""

import math
import tempfile
from pathlib import Path

import click

from cli import Command, stop_in_order
from inference.environment import check_environment
from inference.server import ServeError, refuse_workers, serving, wait_until_ready
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, fetch, find


@click.command(cls=Command, help="Serve the Production version with mlflow models serve, after verifying it.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
def main(port: int, host: str) -> None:
    """Serve until a signal."""
    stop_in_order()
    refuse_workers()
    version = find(connect(), PRODUCTION)
    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        copy = fetch(version, Path(folder))
        check_environment(copy)
        with serving(copy, host, port) as process:
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            click.echo(f"serving {MODEL_NAME} version {version.number} on {url}/invocations")
            wait_until_ready(process, url, math.inf)
            code = process.wait()
    if code:
        raise ServeError(f"the model server ended with exit code {code}; its log is above")


if __name__ == "__main__":
    main()
