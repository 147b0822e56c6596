"""Entry point ``evaluate``: judge any registered version on any labelled reviews."""

import tempfile
from pathlib import Path

import click
import mlflow
import numpy as np
import pandas as pd
from scipy.special import logit

from cli import Command
from data.ingest import FOLDER
from data.sources import locate, read
from data.table import build, row_hashes
from registry.store import connect
from registry.versions import Version, fetch, find, predict
from training.errors import TrainingError
from training.report.explain import confident_mistakes
from training.report.metrics import scores_by_source
from training.report.plots import judgement_plots
from training.steps import run, step
from training.trained_on import trained_on

SLOWEST = 5.0  # rows a second that a version must answer


def evaluate(version: Version, table: pd.DataFrame) -> dict[str, float]:
    """Score the rows that ``version`` was not trained on with its own code, and log to the active run.

    Parameters
    ----------
    version : Version
    table : DataFrame
        Columns ``review``, ``sentiment`` and ``source``.

    Returns
    -------
    dict
        Metrics by name.

    Raises
    ------
    TrainingError
        If the version was trained on every row.
    """
    seen = row_hashes(table).isin(trained_on(version))
    if seen.all():
        raise TrainingError(
            f"version {version.number} was trained on all {len(table)} rows: nothing can be judged. "
            "Its metrics on rows held out in training are on its run page"
        )
    if seen.any():
        click.echo(
            f"left out: {seen.sum():,} of {len(table):,} rows, version {version.number} was trained on them"
        )
    rows = table[~seen].reset_index(drop=True)
    what = f"{len(rows):,} rows, by the version's own code in its own process"
    with step("score", what), tempfile.TemporaryDirectory() as folder:
        patient = max(1800.0, len(rows) / SLOWEST)
        answers = predict(fetch(version, Path(folder)), rows["review"], timeout=patient)
    failed = answers["sentiment"].isna()
    if failed.any():
        click.echo(
            f"left out: {failed.sum()} rows without an answer, first: {answers['error'][failed].iloc[0]}"
        )
    margin = logit(answers["confidence"].clip(0.5, 1 - 1e-15))
    signed = np.where(answers["sentiment"] == "positive", margin, -margin)
    judged = rows.assign(log_odds=signed)[~failed.to_numpy()].reset_index(drop=True)
    if judged.empty:
        raise TrainingError(
            f"version {version.number} answered none of the {len(rows)} rows: nothing can be judged"
        )
    scores = scores_by_source(judged)
    mlflow.log_metrics(scores | {"rows": len(judged), "rows_left_out": int(seen.sum() + failed.sum())})
    mlflow.set_tags({"version": version.number})
    for name, figure in judgement_plots(judged).items():
        mlflow.log_figure(figure, f"plots/{name}.png")
    mlflow.log_table(confident_mistakes(judged, judged), "confident_mistakes.json")
    return scores


@click.command(cls=Command, help="Judge a registered version on labelled reviews that it was not trained on.")
@click.option("--version", default="Production", show_default=True, help="Number, Production or latest.")
@click.option(
    "--source",
    required=True,
    help="Labelled reviews: a CSV, aclimdb, an aclImdb .tar.gz, or package.",
)
def main(version: str, source: str) -> None:
    """Run the entry point."""
    client = connect()
    chosen = find(client, version)
    path = locate(source, FOLDER / "downloads")
    reviews = build(read(source, path), test_size=0.5, origin=source)
    with run(f"evaluate version {chosen.number}"):
        mlflow.set_tag("data.source", source)
        scores = evaluate(chosen, reviews.table)
    click.echo(f"version {chosen.number} on {source}:")
    for name, value in scores.items():
        click.echo(f"  {name:<28} {value:.4f}")


if __name__ == "__main__":
    main()
