"""``make pictures``: what the docs show, made anew from the version in Production: plots and pages of MLflow's UI.

Needs Chromium.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import mlflow
import requests
from PIL import Image

from cli import Command
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, find

IMAGES = Path(__file__).parent
WIDTH = 1400
COLUMN = (201, 0, 1040)  # left, top and right of the page within MLflow's frame, without its assistant
QUIET = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync --hide-scrollbars"


def shoot(chromium: str, url: str, name: str, height: int) -> None:
    """Write the page at ``url`` to a small PNG."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        subprocess.run(
            [
                chromium,
                *QUIET.split(),
                f"--user-data-dir={folder}/profile",
                f"--window-size={WIDTH},{height}",
                "--virtual-time-budget=30000",
                f"--screenshot={shot}",
                url,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=180,
        )
        left, top, right = COLUMN
        page = Image.open(shot).convert("RGB").crop((left, top, right, height))
        page.quantize(64).save(IMAGES / name, optimize=True)
    click.echo(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except requests.ConnectionError:
        return False


@click.command(cls=Command, help="Take the pictures of the docs again, from the version in Production.")
def main() -> None:
    """Show the version in Production and its run."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("Chromium is not installed: apt-get install chromium (Debian, Ubuntu)")
    client = connect()
    if mlflow.get_tracking_uri().startswith("http"):
        raise click.ClickException(
            "the pictures are of a store of this machine: leave out MLFLOW_TRACKING_URI"
        )
    version = find(client, PRODUCTION)
    plot = mlflow.artifacts.download_artifacts(
        run_id=version.run_id, artifact_path="plots/calibration_curve.png"
    )
    shutil.copyfile(plot, IMAGES / "calibration.png")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", mlflow.get_tracking_uri(), "--workers", "1"]
    experiment = client.get_run(version.run_id).info.experiment_id
    with subprocess.Popen([sys.executable, "-m", "mlflow", "ui", "--port", str(port), *store]) as ui:
        try:
            deadline = time.monotonic() + 60
            while not _answers(url):
                if ui.poll() is not None or time.monotonic() > deadline:
                    raise click.ClickException("MLflow's UI did not start")
                time.sleep(0.5)
            shoot(chromium, f"{url}/#/experiments/{experiment}/runs/{version.run_id}", "run.png", 1300)
            shoot(chromium, f"{url}/#/models/{MODEL_NAME}/versions/{version.number}", "version.png", 1080)
        finally:
            ui.terminate()


if __name__ == "__main__":
    main()
