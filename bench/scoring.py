"""``python -m bench.scoring``: what scoring files costs in each way, with the version in Production and held-out reviews."""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import click
import pandas as pd
import psutil

from bench.models import fetch_ours
from bench.processes import ROOT, BenchError, ask, cores, family
from cli import stop_in_order
from data.ingest import TABLE
from data.table import read_table

FILES = 8
# how it is called, what it is for bench.scoring_job, Spark's master, and whether it has one core
WAYS = {
    "the model alone, one core": ("model", "", True),
    "engine=local": ("local", "", False),
    "engine=spark, local[1] on one core": ("ours", "local[1]", True),
    "engine=spark, local[2]": ("ours", "local[2]", False),
    "pandas UDF of scikit-learn, local[1] on one core": ("scikit-learn", "local[1]", True),
    "pandas UDF of scikit-learn, local[2]": ("scikit-learn", "local[2]", False),
    "mlflow models predict": ("", "", False),
    "only read, local[1] on one core": ("read", "local[1]", True),
    "read, through a UDF that does nothing, local[1] on one core": ("through", "local[1]", True),
    "read and scored, not written, local[1] on one core": ("unwritten", "local[1]", True),
}


def reviews(real: pd.DataFrame, rows: int, folder: Path) -> str:
    """Write so many rows, held-out reviews of the length of IMDb's repeated, into files of a folder."""
    folder.mkdir()
    long = real[(real["split"] == "test") & (real["source"] == "imdb")]
    for at in range(FILES):
        texts = long["review"].sample(rows // FILES, replace=True, random_state=at)
        table = pd.DataFrame({"id": range(at * len(texts), (at + 1) * len(texts)), "text": list(texts)})
        table.to_parquet(folder / f"{at}.parquet", index=False)
    return str(folder)


def predicted(copy: str, texts: pd.DataFrame, folder: Path) -> float:
    """Return the seconds of ``mlflow models predict`` on a CSV file."""
    given, output = folder / "in.csv", folder / "out.json"
    texts.to_csv(given, index=False)
    command = ["mlflow", "models", "predict", "-m", copy, "-i", str(given), "-o", str(output)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command, "-t", "csv", "--env-manager", "local"], capture_output=True
    )
    if done.returncode:
        raise BenchError(f"mlflow models predict failed: {done.stderr.decode()[-300:]}")
    return time.perf_counter() - start


def table_of_ways(files: dict[str, str], rows: int, rounds: int, real: pd.DataFrame) -> None:
    """Measure each way once a round, on a tenth of the rows and on all, and print medians."""
    pinned = cores()
    found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    few = rows // 10
    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as temporary:
        folder = Path(temporary)
        job = {"small": reviews(real, few, folder / "few"), "large": reviews(real, rows, folder / "in")}
        job |= {"copy": files["ours"], "pipeline": files["sklearn"]}
        tables = [pd.read_parquet(job[name])[["text"]] for name in ("small", "large")]
        for turn in range(rounds):
            for name, (way, master, one) in WAYS.items():
                if way:
                    own = {"way": way, "master": master, "output": tempfile.mkdtemp(dir=folder) + "/out"}
                    seconds = ask("bench.scoring_job", job | own, pinned[0] if pinned and one else None)
                else:
                    seconds = [predicted(files["ours"], table, folder) for table in tables]
                found[name].append(seconds)
                shown = ", ".join(f"{one:.2f}" for one in seconds)
                click.echo(f"round {turn + 1} of {rounds}: {name}: {shown} s", err=True)
    characters = tables[1]["text"].str.len().median()
    click.echo(f"\n{rows:,} reviews, {characters:,.0f} characters in the median, medians of {rounds}\n")
    click.echo(f"| way | seconds of {few:,} | seconds of {rows:,} | rows/s past the first {few:,} |")
    click.echo("| --- | ---: | ---: | ---: |")
    for name, each in found.items():
        small, large = map(median, zip(*each, strict=True))
        click.echo(f"| {name} | {small:.1f} | {large:.1f} | {(rows - few) / (large - small):,.0f} |")


def watched(command: list[str]) -> tuple[float, list[float]]:
    """Run a command; return its seconds, and the most gigabytes of all its processes in each quarter of them."""
    held: list[float] = []
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            total = 0.0
            for member in family(process.pid):
                try:
                    total += member.memory_full_info().pss / 1e9  # what processes share counts once
                except psutil.Error:
                    continue
            held.append(total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    if code:
        raise BenchError(f"{' '.join(command)} ended with exit code {code}")
    return seconds, [
        max(held[len(held) * quarter // 4 : len(held) * (quarter + 1) // 4]) for quarter in range(4)
    ]


def long_job(rows: int, real: pd.DataFrame) -> None:
    """Score many rows with both engines, as a user does; print time and memory."""
    click.echo(f"\n{rows:,} reviews by the whole command\n")
    click.echo(
        "| engine | seconds | rows/s | most GB in each quarter of the time |\n| --- | ---: | ---: | --- |"
    )
    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as temporary:
        folder = Path(temporary)
        given = reviews(real, rows, folder / "in")
        for engine in ("local", "spark"):
            output = folder / f"{engine}.parquet"
            seconds, held = watched(
                [
                    sys.executable,
                    "-m",
                    "inference.batch.score",
                    "--input",
                    given,
                    "--output",
                    str(output),
                    "--engine",
                    engine,
                ]
            )
            scored = pd.read_parquet(output, columns=["sentiment"])
            if len(scored) != rows or scored["sentiment"].isna().any():
                raise BenchError(f"engine={engine} did not score all rows")
            quarters = " ".join(f"{gigabytes:.2f}" for gigabytes in held)
            click.echo(f"| {engine} | {seconds:.0f} | {rows / seconds:,.0f} | {quarters} |")


@click.command(help="Measure what scoring files costs; print tables.")
@click.option("--rows", default=100_000, show_default=True, help="Of the comparison.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--many", default=1_000_000, show_default=True, help="Of the long job; 0 leaves it out.")
def main(rows: int, rounds: int, many: int) -> None:
    """Run the measurements."""
    stop_in_order()
    real = read_table(TABLE)
    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as temporary:
        into = Path(temporary) / "ours"
        into.mkdir()
        files, _, remarks = fetch_ours(None, len(real), into)
        for remark in remarks:
            click.echo(remark)
        if rounds:
            table_of_ways(files, rows, rounds, real)
    if many:
        long_job(many, real)


if __name__ == "__main__":
    main()
