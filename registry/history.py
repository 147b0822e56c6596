"""``make history``: who was in Production, when, and why."""

from textwrap import shorten

import click

from cli import Command
from registry.canary import STOPPED
from registry.stages import ROLLED_BACK, history
from registry.store import MODEL_NAME, connect, store_name
from registry.versions import REFUSED, all_versions

NOTES = {ROLLED_BACK: "rolled back", REFUSED: "refused by a follower", STOPPED: "canary stopped"}


@click.command(cls=Command, help="Print every version with its stage, and every change of Production.")
def main() -> None:
    """Print the history."""
    client = connect()
    versions = all_versions(client)
    if not versions:
        click.echo(
            f"{MODEL_NAME} has no version yet in {store_name()}; 'make run' trains and promotes the first"
        )
        return
    click.echo(f"{'version':>7}  {'stage':<10}  {'model':<12}  {'accuracy':>8}  note")
    for version in versions:
        note = ", ".join(said for tag, said in NOTES.items() if tag in version.tags)
        stage = "-" if version.stage == "None" else version.stage
        model, accuracy = (version.tags.get(name, "") for name in ("model", "accuracy"))
        click.echo(f"{version.number:>7}  {stage:<10}  {model:<12}  {accuracy:>8}  {note}".rstrip())
    click.echo(f"\n{'when (UTC)':<19}  {'action':<8}  {'version':>7}  {'replaced':>8}  {'by':<10}  why")
    for event in history(client):
        click.echo(
            f"{event.at[:19]}  {event.action:<8}  {event.version:>7}  {event.replaced or '-':>8}  "
            f"{event.by:<10}  {shorten(event.reason, 120, placeholder=' …')}"
        )


if __name__ == "__main__":
    main()
