"""``python -m bench.kinds 3 5 6``: what registered versions of several kinds are worth and cost, one row each."""

import tempfile
from pathlib import Path
from statistics import median

import click
import pandas as pd

from bench.processes import MEGABYTE, BenchError
from bench.servers import SERVERS, measure
from cli import stop_in_order
from data.ingest import TABLE
from data.table import read_table
from registry.store import connect
from registry.versions import Version, fetch, find, predict

TEXTS = 100  # of a batch; long reviews, held out
FITTING = ("features", "fit", "export", "combine")  # steps of a training
COLUMNS = {
    "IMDb": ("imdb/accuracy", "{:.4f}"),
    "Rotten Tomatoes": ("rotten_tomatoes/accuracy", "{:.4f}"),
    "ECE": ("ece", "{:.4f}"),
    "training, s": ("training", "{:,.0f}"),
    "artifact, MB": ("megabytes", "{:.1f}"),
    "cold start, s": ("cold_start", "{:.1f}"),
    "p50 of one review, ms": ("p50", "{:.2f}"),
    "answers/s to 8 clients": ("throughput_8", "{:,.0f}"),
    "rows/s in batches of 100": ("rows", "{:,.0f}"),
    "RSS of the worker, MB": ("worker", "{:.0f}"),
}


def judged(version: Version) -> dict[str, float]:
    """Return what the run of a version logged."""
    metrics = connect().get_run(version.run_id).data.metrics
    return metrics | {"training": sum(metrics.get(f"seconds/{step}", 0.0) for step in FITTING)}


@click.command(help="Measure registered versions side by side: quality, training, size, speed, memory.")
@click.argument("versions", nargs=-1, required=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of each load.")
def main(versions: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Run the benchmark: each version once a round, medians at the end."""
    stop_in_order()
    client = connect()
    chosen = [find(client, version) for version in versions]
    table = read_table(TABLE)
    long = table[(table["split"] == "test") & (table["source"] == "imdb")]
    if len(long) < TEXTS:
        raise BenchError(f"{TABLE} has {len(long)} held-out IMDb reviews, {TEXTS} are needed")
    texts = long["review"].sample(TEXTS, random_state=0).reset_index(drop=True)
    found: dict[int, list[dict[str, float]]] = {version.number: [] for version in chosen}
    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as temporary:
        copies = {}
        for version in chosen:
            folder = Path(temporary, str(version.number))
            folder.mkdir()
            copies[version.number] = fetch(version, folder)
        labels = {number: predict(copy, texts)["sentiment"].tolist() for number, copy in copies.items()}
        job = {"texts": texts.tolist(), "clients": [1, 8], "seconds": seconds, "batches": 3}
        for turn in range(rounds):
            for number, copy in copies.items():
                own = Path(temporary, f"{number}-{turn}")
                own.mkdir()
                figures = measure(SERVERS["mlflow-ours"], str(copy), own, job, labels[number])
                size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file()) / MEGABYTE
                found[number].append(figures | {"rows": TEXTS / figures["batch"] * 1e3, "megabytes": size})
                click.echo(f"round {turn + 1} of {rounds}: version {number} measured")
    click.echo(f"\n| model | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for version in chosen:
        rounds_of = pd.DataFrame(found[version.number])
        figures = judged(version) | {str(name): median(values) for name, values in rounds_of.items()}
        cells = [form.format(figures[key]) if key in figures else "–" for key, form in COLUMNS.values()]
        click.echo(
            f"| {version.tags.get('model', 'ngram')} (version {version.number}) | {' | '.join(cells)} |"
        )
    click.echo(
        f"\n{rounds} rounds, medians; `mlflow models serve` on one core, the load client on another; reviews of {texts.str.len().median():.0f} characters."
    )


if __name__ == "__main__":
    main()
