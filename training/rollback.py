"""Entry point ``rollback``: go back to the previous Production version."""

import click

from cli import Command, Number
from registry import stages
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, find


@click.command(cls=Command, help="Go back to the latest earlier Production version.")
@click.option(
    "--from",
    "leaving",
    type=Number(int, 0),
    default=0,
    help="Do nothing unless this version is in Production: makes a retry harmless. 0 for whichever is.",
)
@click.option("--reason", default="", help="Why, for the audit trail.")
def main(leaving: int, reason: str) -> None:
    """Run the entry point."""
    client = connect()
    moved = stages.rollback(client, leaving or None, reason or "no reason given")
    if moved is None:
        serving = find(client, PRODUCTION).number
        click.echo(f"nothing to do: version {leaving} is not in Production, version {serving} is")
        return
    left, back = moved
    click.echo(
        f"rolled back: {MODEL_NAME} version {back} is in Production, version {left} was left and marked"
    )
    click.echo(f"to repeat this command without harm: make rollback FROM={left}")


if __name__ == "__main__":
    main()
