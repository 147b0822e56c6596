"""``make image``: the version in Production as an image of its own, which needs neither registry nor network."""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from cli import Command
from inference.server import ServeError
from registry.digests import CONTENT, MANIFEST
from registry.examples import compare
from registry.extras import how_to_install
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, fetch, find

DOCKERFILE = Path(__file__).resolve().parent.parent / "deploy" / "image" / "Dockerfile"
LABEL = "sentiment"
PROGRAM = Path(__file__).with_name("ask.py")


@click.group(help="Build the image of a version, and try it.")
def main() -> None:
    """Build or try."""


@main.command(cls=Command, help="Build the image of the version in Production.")
@click.argument("image")
@click.option("--version", "wanted", default=PRODUCTION, show_default=True, help="A number, or Production.")
def build(image: str, wanted: str) -> None:
    """Build with ``mlflow models build-docker`` from a verified copy, then our own step on top."""
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9._/:-]*", image):
        raise ServeError(f"{image!r} cannot be the name of an image: give IMAGE=name:tag, in small letters")
    try:  # before any work
        from cyclonedx.model.component import ComponentType

        from registry.sbom import bill_of_materials
    except ImportError as error:
        raise ServeError(how_to_install(error) or str(error)) from None
    version = find(connect(), wanted)
    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        copy = fetch(version, Path(folder))
        labels = {"version": version.number, "run": version.run_id}
        labels |= {name: version.tags[name] for name in (MANIFEST, CONTENT)}
        # it stays, so that the next build is quick; by content, so that two builds at once do not mix versions up
        built = f"{MODEL_NAME.lower()}-built-by-mlflow:{version.tags[MANIFEST][:12]}"
        mlflow = [sys.executable, "-m", "mlflow", "models", "build-docker"]
        _run([*mlflow, "--model-uri", str(copy), "--name", built, "--env-manager", "local"])
        command = ["docker", "build", "--tag", image, "--build-arg", f"BUILT={built}"]
        for name, value in labels.items():
            command += ["--label", f"{LABEL}.{name}={value}"]
        _run([*command, "--file", str(DOCKERFILE), folder])
    sbom = Path(re.sub(r"[/:]", "-", image) + ".cdx.json")
    python = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python", image]
    bill = bill_of_materials(python, ComponentType.CONTAINER, image, version.tags[MANIFEST])
    sbom.write_text(bill + "\n", encoding="utf-8")
    click.echo(
        f"built: {image}, {MODEL_NAME} version {version.number}; its Python packages: {sbom}; "
        f"next: make image-smoke IMAGE={image}"
    )


@main.command(
    cls=Command, help="Start an image without any network, and ask it the model's own example texts."
)
@click.argument("image")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds until it must answer.")
def smoke(image: str, timeout: float) -> None:
    """Try an image as it would run where nothing can be reached."""
    if not _read(["docker", "images", "--quiet", image]):
        raise ServeError(f"there is no image {image} here; 'make image IMAGE={image}' builds it")
    command = ["docker", "run", "--detach", "--rm", "--network", "none", "--memory", "3g", image]
    began = time.monotonic()
    container = _read(command)
    ask = ["docker", "exec", container, "python", "-c", PROGRAM.read_text()]
    try:
        version = _read(
            ["docker", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}.version"}}}}', image]
        )
        while True:
            left = began + timeout - time.monotonic()
            asked = subprocess.run(ask, capture_output=True, text=True, timeout=max(left, 1))
            if asked.returncode == 0:
                break
            if not _read(["docker", "ps", "--quiet", "--no-trunc", "--filter", f"id={container}"]):
                raise ServeError(f"the container of {image} ended; 'docker run --rm {image}' shows why")
            if left < 0:
                raise ServeError(f"{image} did not answer within {timeout:.0f} s: {asked.stderr[-300:]}")
            time.sleep(0.5)
    except subprocess.TimeoutExpired:
        raise ServeError(f"{image} did not answer within {timeout:.0f} s") from None
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True)
    told = json.loads(asked.stdout)
    compare(told["examples"], told["answers"])
    click.echo(
        f"{image}, version {version}, gave its {len(told['answers'])} example answers, without a network, "
        f"{time.monotonic() - began:.0f} s after it was started"
    )


def _read(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ServeError(f"'{' '.join(command[:2])}' failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def _run(command: list[str]) -> None:
    code = subprocess.run(command).returncode
    if code:
        raise ServeError(f"'{' '.join(command[:4])} …' failed with exit code {code}; its output is above")


if __name__ == "__main__":
    main()
