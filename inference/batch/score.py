"""Entry point ``score``: files of any size, on this machine or on Spark, by a registered version."""

import tempfile
import time
from pathlib import Path

import click
import mlflow
from mlflow.exceptions import MlflowException

from cli import YES_NO, Command, stop_in_order
from inference.batch import local
from inference.batch.answers import Counts, Scored
from inference.batch.files import FileError, Source, find, form_of, look, writing
from inference.batch.output import refuse_present, whole
from inference.environment import check_environment
from registry.store import MODEL_NAME, answering, connect
from registry.versions import PRODUCTION, Version, fetch
from registry.versions import find as find_version
from spark.session import check_installed, master_option


def score(
    source: Source, scored: Scored, copy: Path, output: Path, engine: str, master: str, overwrite: bool
) -> Counts:
    """Score a source with the verified files of a version, into an output that appears whole or not at all.

    Raises
    ------
    FileError, RegistryError, SparkError
        If it cannot be done; nothing is written then.
    """
    form, compression = form_of(output)
    if any(file.resolve().is_relative_to(output.resolve()) for file in source.files):
        raise FileError(f"{output} is an input too, or holds one; give another output")
    with whole(output, overwrite) as hidden:
        if engine == "spark":
            check_installed()
            from inference.batch import spark

            return spark.score(source, copy, scored, hidden, form, compression, master)
        with writing(hidden, form, compression, scored.schema) as write:
            return local.score(source, copy, scored, write)


def log(version: Version, counts: Counts, seconds: float) -> None:
    """Log what was scored to the MLflow run; what is written stays where that fails."""
    try:
        with answering(), mlflow.start_run(run_name=f"score version {version.number}"):
            mlflow.set_tag("version", version.number)
            mlflow.log_metrics(
                {
                    "rows": counts.rows,
                    "rows_without_answer": counts.refused,
                    "positive": counts.positive,
                    "seconds": seconds,
                    "rows_per_second": counts.rows / seconds,
                }
            )
    except (click.ClickException, MlflowException) as error:
        click.echo(f"WARNING: the run could not be logged: {error}", err=True)


@click.command(cls=Command, help="Score the texts of files with a registered version.")
@click.option(
    "--input",
    "given",
    required=True,
    help="A CSV, JSON lines or Parquet file, a folder or a pattern of them.",
)
@click.option(
    "--output", required=True, help="A .csv, .jsonl or .parquet: a file, with engine=spark a folder of them."
)
@click.option("--column", default="text", show_default=True, help="That holds the texts.")
@click.option("--version", default=PRODUCTION, show_default=True, help="Number, Production or latest.")
@click.option("--engine", type=click.Choice(["local", "spark"]), default="local", show_default=True)
@master_option
@click.option("--prefix", default="", help="Of the names of the columns that are added.")
@click.option(
    "--overwrite", type=YES_NO, default="no", show_default=True, help="Replace an output that is there."
)
def main(
    given: str, output: str, column: str, version: str, engine: str, master: str, prefix: str, overwrite: str
) -> None:
    """Run the entry point."""
    stop_in_order()
    form_of(Path(output))
    refuse_present(Path(output), overwrite == "yes")
    source = look(find(given), column)
    if Path(given).is_dir() and Path(output).resolve().is_relative_to(Path(given).resolve()):
        raise FileError(f"{output} lies in {given}, and would be an input next time; give another output")
    found = find_version(connect(), version)
    scored = Scored(source, found.number, prefix)
    click.echo(f"{MODEL_NAME} version {found.number} scores {len(source.files)} file(s), engine {engine} …")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sentiment-") as folder:
        copy = fetch(found, Path(folder))
        check_environment(copy)
        counts = score(source, scored, copy, Path(output), engine, master, overwrite == "yes")
    seconds = time.perf_counter() - start
    log(found, counts, seconds)
    shown = f"{output}/" if Path(output).is_dir() else output
    click.echo(
        f"{shown}: {counts.rows:,} rows, {counts.positive:,} positive, {counts.refused:,} without an answer (column {prefix}error "
        f"says why), in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
