"""``make growth``: what training costs against the number of rows, measured on the real command."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from bench.processes import MEGABYTE, ROOT, BenchError, family
from bench.report import OURS, machine, versions
from data.ingest import TABLE
from data.table import read_table
from sentiment_model.cleaning import tokenize

SIZES = (5_000, 10_000, 25_000, 50_000, 100_000, 200_000)
STEPS = ("features", "fit", "explain", "log")
MEASURES = {
    "seconds": "training, s",
    "gigabytes": "peak memory, GB",
    "ngrams": "n-grams, millions",
    "artifact": "artifact, MB",
}
LONGEST = 3_000


def resample(reviews: pd.Series, wanted: int, random: np.random.Generator) -> list[str]:
    """Return new reviews, each a walk from word to word.

    A word is followed by what follows one of its places in ``reviews``, drawn at random. So words and pairs of words
    are as frequent as in real text, and longer n-grams are often new.
    """
    numbers = {"": 0}  # what stands between two reviews
    text = [0]
    for review in reviews:
        text += [numbers.setdefault(token, len(numbers)) for token in tokenize(review)]
        text.append(0)
    tokens, words = np.array(text), list(numbers)
    places = np.argsort(tokens, kind="stable")
    first = np.searchsorted(tokens[places], np.arange(len(words)))
    end = np.append(first[1:], len(tokens))
    end[0] -= 1  # nothing follows the last place
    walks: list[list[str]] = [[] for _ in range(wanted)]
    walking, word = np.arange(wanted), np.zeros(wanted, dtype=np.int64)
    for _ in range(LONGEST):
        word = tokens[places[random.integers(first[word], end[word])] + 1]
        walking, word = walking[word > 0], word[word > 0]
        for walk, number in zip(walking.tolist(), word.tolist(), strict=True):
            walks[walk].append(words[number])
    return [" ".join(walk) for walk in walks if walk]


def write_reviews(real: pd.DataFrame, rows: int, path: Path) -> None:
    """Write ``rows`` reviews: a sample of ``real``, or all of them and resampled ones of either sentiment."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        kept = real.sample(min(rows, len(real)), random_state=0)
        writer.writerows(kept[["review", "sentiment"]].to_numpy().tolist())
        more = max(rows - len(real), 0)
        for sentiment, wanted in (("positive", more // 2), ("negative", more - more // 2)):
            alike = real.loc[real["sentiment"] == sentiment, "review"]
            writer.writerows([text, sentiment] for text in resample(alike, wanted, random))


def watch(command: list[str], store: str) -> tuple[float, float]:
    """Run a command; return its seconds, and the most gigabytes that all its processes held at once.

    Raises
    ------
    BenchError
        If it fails.
    """
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"MLFLOW_TRACKING_URI": store}, stdout=log, stderr=log
        ) as process,
    ):
        peak = 0.0
        while process.poll() is None:
            held = 0
            for member in family(process.pid):
                try:
                    held += member.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peak = max(peak, held / 1e9)
            time.sleep(0.05)
        if process.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-5:]
            raise BenchError("\n".join([f"{' '.join(command)} failed", *said]))
    return time.perf_counter() - start, peak


def measure(rows: int, real: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Ingest and train on ``rows`` reviews, as a user would; return what it cost."""
    source, out, store = folder / "reviews.csv", folder / "imdb.csv", f"sqlite:///{folder}/mlflow.db"
    write_reviews(real, rows, source)
    python = [sys.executable, "-m"]
    watch([*python, "data.ingest", "--source", str(source), "--out", str(out)], store)
    # artifacts go to ./mlruns of the project for a store of this kind: give the experiment a place of its own
    client = mlflow.MlflowClient(store)
    experiment = client.create_experiment("growth", artifact_location=(folder / "artifacts").as_uri())
    train = [*python, "training.train", "--data", str(out), "--register", "no"]
    seconds, peak = watch(["env", "MLFLOW_EXPERIMENT_NAME=growth", *train], store)
    (run,) = client.search_runs([experiment])
    (scorer,) = (folder / "artifacts").rglob("ngrams.parquet")
    model = next(path for path in scorer.parents if (path / "MLmodel").exists())
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    logged = run.data.metrics
    return {
        "rows": int(run.data.params["rows"]),
        "seconds": seconds,
        **{step: logged[f"seconds/{step}"] for step in STEPS},
        "gigabytes": peak,
        "ngrams": pq.read_metadata(scorer).num_rows / 1e6,
        "artifact": size / MEGABYTE,
        "accuracy": logged["accuracy"],
    }


def exponents(found: list[dict[str, float]]) -> dict[str, float]:
    """Return for each measure the slope of a straight line through the logarithms: 1 is in step with the rows."""
    rows = np.log([point["rows"] for point in found])
    return {
        name: float(np.polyfit(rows, np.log([point[name] for point in found]), 1)[0]) for name in MEASURES
    }


def plot(found: list[dict[str, float]], law: dict[str, float], real: int) -> Figure:
    """Return one panel for each measure, on logarithmic axes."""
    figure = Figure(figsize=(9.0, 6.5), dpi=110, layout="constrained")
    rows = [point["rows"] for point in found]
    for ax, (name, title) in zip(figure.subplots(2, 2).flat, MEASURES.items(), strict=True):
        values = [point[name] for point in found]
        ax.plot(rows, values, marker="o", color=OURS)
        for x, y in zip(rows, values, strict=True):
            ax.annotate(
                f"{y:,.3g}", (x, y), xytext=(-4, 6), textcoords="offset points", ha="right", fontsize=8
            )
        ax.axvline(real, color="#c9b458", linestyle=":")
        ax.set(xscale="log", yscale="log", title=f"{title}: ∝ rows^{law[name]:.2f}", xlabel="rows")
        ax.set_xticks(rows, [f"{row / 1000:,.0f}k" for row in rows], minor=False)
        ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        ax.margins(0.15)
    return figure


def markdown(found: list[dict[str, float]], law: dict[str, float], real: int) -> str:
    """Return the report."""
    heads = ["rows", *MEASURES.values(), *(f"of which {step}, s" for step in STEPS)]
    lines = [
        "# Cost of training against rows",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {machine()}. This project: {versions()['this project']}.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---:|' * len(heads)}",
    ]
    for point in found:
        cells = [f"{point['rows']:,.0f}", *(f"{point[name]:,.3g}" for name in (*MEASURES, *STEPS))]
        lines.append(f"| {' | '.join(cells)} |")
    slopes = ", ".join(f"{title.split(',')[0]} as rows^{law[name]:.2f}" for name, title in MEASURES.items())
    last = {name: (found[-1][name] - found[-2][name]) for name in ("rows", *MEASURES)}
    return "\n".join(
        [
            *lines,
            "",
            f"Seen: {slopes} (straight line through the logarithms of all sizes). From the last size but one to the last, 1,000 "
            f"rows more cost {last['seconds'] / last['rows'] * 1e3:.2f} s, {last['gigabytes'] / last['rows'] * 1e6:.0f} MB of memory, "
            f"{last['ngrams'] / last['rows'] * 1e9:,.0f} n-grams and {last['artifact'] / last['rows'] * 1e3:.2f} MB of artifact.",
            "",
            "Each size was trained once by `python -m training.train` with the default settings, from the table to the logged "
            "model; the time is that of the whole command, the memory the largest sum over its processes, sampled every 50 ms. "
            f"Up to {real:,} rows (the dotted line) they are a sample of the default reviews. Larger tables are all of "
            "these and reviews resampled word by word: each word is followed by what follows it somewhere in the real "
            "reviews of that sentiment. Their accuracy would mean nothing and is not shown. Again: `make growth`.",
            "",
            "![growth](growth.png)",
            "",
        ]
    )


@click.command(help="Measure training at several sizes; write a table and a plot.")
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Numbers of rows.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "docs" / "benchmarks",
    help="Folder of the report.  [default: docs/benchmarks]",
)
def main(sizes: str, out: Path) -> None:
    """Run the measurements."""
    real = read_table(TABLE)
    found: list[dict[str, Any]] = []
    for rows in map(int, sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="sentiment-growth-") as folder:
            found.append(measure(rows, real, Path(folder)))
        click.echo(json.dumps(found[-1]))
    law = exponents(found)
    out.mkdir(parents=True, exist_ok=True)
    plot(found, law, len(real)).savefig(out / "growth.png")
    (out / "growth.json").write_text(json.dumps({"sizes": found, "exponents": law}, indent=1) + "\n")
    (out / "growth.md").write_text(markdown(found, law, len(real)), encoding="utf-8")
    click.echo(f"written: {out / 'growth.md'}")


if __name__ == "__main__":
    main()
