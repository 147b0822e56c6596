"""``make canary`` and ``make canary-stop``: have followers send a share of the requests to a candidate."""

import tempfile
from pathlib import Path

import click

from cli import Command
from registry import canary
from registry.errors import RegistryError
from registry.stages import ROLLED_BACK
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, fetch, find


@click.group(help="Try a candidate on a share of the requests.")
def main() -> None:
    """Group the two commands."""


@main.command(
    cls=Command, help="Have a candidate answer a share of the requests beside the version in Production."
)
@click.option("--version", required=True, help="Number of the candidate, or latest.")
@click.option("--percent", type=click.IntRange(1, 99), default=10, show_default=True)
def start(version: str, percent: int) -> None:
    """Check the candidate's files and ask for the canary."""
    client = connect()
    serving = find(client, PRODUCTION)
    candidate = find(client, version)
    if candidate.number == serving.number:
        raise RegistryError(f"version {candidate.number} is in Production: it gets all requests")
    if candidate.tags.get(ROLLED_BACK):
        raise RegistryError(
            f"version {candidate.number} was rolled back at {candidate.tags[ROLLED_BACK]}: it gets no share of the requests; "
            "try another version"
        )
    with tempfile.TemporaryDirectory() as folder:
        fetch(candidate, Path(folder))
    canary.start(client, candidate.number, percent, serving.number)
    click.echo(
        f"asked for: {MODEL_NAME} version {candidate.number} gets {percent} % of the requests beside version "
        f"{serving.number}, as soon as a follower has brought it up\n"
        f"it ends with 'make promote VERSION={candidate.number}', 'make canary-stop', or when it is grossly worse"
    )


@main.command(cls=Command, help="Send all requests to the version in Production again.")
def stop() -> None:
    """Take the canary back."""
    was = canary.stop(connect())
    click.echo(
        f"stopped: version {was.version} gets no share any more"
        if was
        else "nothing to do: there is no canary"
    )


if __name__ == "__main__":
    main()
