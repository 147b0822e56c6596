"""Entry point ``main``: the whole pipeline, from reviews to a version in Production."""

from pathlib import Path
from typing import Any

import click

from cli import Command
from data.errors import DataError
from data.ingest import ingest, log_summary, out_option, read_summary
from data.options import source_option, test_size_option
from data.table import read_table
from registry.store import connect
from training.errors import GateRefused, TrainingError
from training.models.catalog import model_of
from training.options import limit_option, register_option
from training.parameters import choose, parameter_options
from training.promote import promote as promote_version
from training.steps import PATIENT, run, step
from training.train import pick, register_candidate, train


@click.command(cls=Command, help="Acquire, train, evaluate, log, register, gate and promote.")
@source_option
@test_size_option
@out_option
@parameter_options
@limit_option
@register_option
@click.option(
    "--promote",
    type=click.Choice(["gated", "always", "never"]),
    default="gated",
    show_default=True,
    help="gated: unless the gate refuses; always: bypass the gate; never: leave Production alone.",
)
def main(
    source: str,
    test_size: float,
    out: Path,
    limit: int,
    register: str,
    promote: str,
    model: str,
    **given: Any,
) -> None:
    """Run the entry point."""
    if register == "no" and promote == "always":
        raise TrainingError("promote=always needs register=yes: only a registered version can be promoted")
    chosen = choose(model, given)
    model_of(chosen)  # that what it needs is installed
    client = connect(PATIENT)
    with run("sentiment"):
        with step("ingest", f"reviews from {source}"):
            summary = ingest(source, test_size, out)
            log_summary(summary, out)
        table = pick(read_table(out), limit, chosen.seed)
        if read_summary(out) != summary:
            raise DataError(f"{out} was written anew meanwhile; run again")
        candidate = train(table, summary, chosen)
        version = register_candidate(candidate) if register == "yes" else None
        if version and promote != "never":
            with step("promote", f"version {version}, {promote}"):
                try:
                    promote_version(client, version, force=promote == "always")
                except GateRefused as refused:
                    click.echo(f"NOT PROMOTED: {refused.message}", err=True)


if __name__ == "__main__":
    main()
