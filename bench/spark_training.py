"""What training on Spark costs, on reviews made up on its executors: ``python -m bench.spark_training --sizes 50000``."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pandas as pd
import psutil
import requests

from bench.processes import family
from data.ingest import TABLE
from data.table import read_table
from sentiment_model.cleaning import tokenize
from spark.session import master_option, session
from training.parameters import Ngram
from training.report.metrics import scores_by_source

if TYPE_CHECKING:
    from pyspark import RDD

LABELS = ("negative", "positive")
STEPS = 100


def vocabulary(real: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the words of real reviews, how often each stands in reviews of either label up to it, and the lengths."""
    numbers: dict[str, int] = {}
    found: dict[str, list[int]] = {label: [] for label in LABELS}
    lengths = []
    for review, sentiment in zip(real["review"], real["sentiment"], strict=True):
        tokens = [numbers.setdefault(token, len(numbers)) for token in tokenize(review)]
        found[sentiment] += tokens
        lengths.append(len(tokens))
    drawn = np.array([np.bincount(found[label], minlength=len(numbers)) for label in LABELS])
    # a word that stands in reviews of one label alone would tell it for sure: two thirds of the difference
    shares = drawn / drawn.sum(axis=1, keepdims=True)
    shares = shares.mean(axis=0) + (shares - shares.mean(axis=0)) * 2 / 3
    return np.array(list(numbers), dtype=object), shares.cumsum(axis=1), np.array(lengths)


@contextmanager
def memory(peak: dict[str, float]) -> Iterator[None]:
    """Keep in ``peak`` the most gigabytes that the processes of each kind held while the block ran."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            held = dict.fromkeys(("driver", "JVM", "workers"), 0.0)
            for member in family(os.getpid()):
                try:
                    kind = "JVM" if member.name() == "java" else "workers"
                    held["driver" if member.pid == os.getpid() else kind] += member.memory_info().rss / 1e9
                except psutil.NoSuchProcess:
                    continue
            for kind, gigabytes in held.items():
                peak[kind] = max(peak.get(kind, 0), gigabytes)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def measure(rows: int, real: pd.DataFrame, master: str, driver_memory: str, steps: int) -> dict[str, object]:
    """Train on so many made-up reviews, with so many steps of each fit at most; return what it cost."""
    parameters = Ngram(ngram_max=2, min_df=max(2, rows // 10_000), max_features=1_000_000)
    peak: dict[str, float] = {}
    seconds: dict[str, float] = {}

    @contextmanager
    def lap(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[name] = round(time.perf_counter() - start, 1)

    with (
        memory(peak),
        session(
            master,
            "bench",
            spark_driver_memory=driver_memory,
            spark_ui_enabled="true",
            spark_ui_retainedStages="100000",
        ) as spark,
    ):
        from training.models import ngram_spark as on_spark
        from training.models.ngram_spark_counts import count

        context = spark.sparkContext
        shared = context.broadcast(vocabulary(real))

        def make_up(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
            words, cumulative, lengths = shared.value
            for batch in batches:
                random = np.random.default_rng(int(batch["id"].iloc[0]))
                labels = random.integers(0, 2, len(batch))
                reviews = [
                    " ".join(
                        words[
                            np.searchsorted(cumulative[label], random.random(n) * cumulative[label, -1]).clip(
                                max=len(words) - 1
                            )
                        ]
                    )
                    for label, n in zip(labels, random.choice(lengths, len(batch)), strict=True)
                ]
                yield pd.DataFrame(
                    {
                        "row": batch["id"],
                        "review": reviews,
                        "sentiment": np.take(LABELS, labels),
                        "split": np.where(random.random(len(batch)) < 0.1, "test", "train"),
                        "source": "made up",
                    }
                )

        parts = max(context.defaultParallelism, rows // 50_000)
        reviews = (
            spark.range(0, rows, 1, parts)
            .mapInPandas(make_up, "row long, review string, sentiment string, split string, source string")
            .persist()
        )
        with lap("make up"):
            characters = reviews.selectExpr("sum(length(review))").collect()[0][0]
        passes = 0
        sum_of_blocks = on_spark._sum

        def counting(blocks: "RDD", task: Callable[..., np.ndarray]) -> np.ndarray:
            nonlocal passes
            passes += 1
            return sum_of_blocks(blocks, task)

        on_spark._sum, on_spark.STEPS = counting, steps
        with lap("features"):
            counts = count(reviews, parameters)
        with lap("fit"):
            fitted = on_spark.fit(counts, parameters)
        test = (
            reviews.filter("split = 'test'")
            .select("row", "sentiment", "source")
            .toPandas()
            .sort_values("row")
        )
        stages = requests.get(
            f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/stages", timeout=60
        ).json()
        cached = requests.get(
            f"{context.uiWebUrl}/api/v1/applications/{context.applicationId}/storage/rdd", timeout=60
        ).json()
        return {
            "rows": rows,
            "characters": characters,
            "parameters": parameters.used(),
            "master": master,
            "driver_memory": driver_memory,
            "partitions": parts,
            "seconds": seconds,
            "ngram records shuffled": sum(stage["shuffleWriteRecords"] for stage in stages),
            "ngrams kept": len(counts.names),
            "shuffle bytes": sum(stage["shuffleWriteBytes"] for stage in stages),
            "bytes spilled to disk": sum(stage["diskBytesSpilled"] for stage in stages),
            "cached bytes": sum(one["memoryUsed"] + one["diskUsed"] for one in cached),
            "jobs' stages": len(stages),
            "accuracy": round(scores_by_source(test.assign(log_odds=fitted.held_out))["accuracy"], 4),
            "steps": int(fitted.pipeline[-1].linear[-1].n_iter_[0]),
            "passes over the reviews": passes,
            "peak gigabytes": {kind: round(value, 2) for kind, value in peak.items()},
        }


@click.command(help="Train on made-up reviews at several sizes; print what each cost, a line of JSON a size.")
@click.option("--sizes", default="50000,400000,1600000", show_default=True, help="Numbers of rows.")
@click.option("--driver-memory", default="6g", show_default=True, help="Of the JVM.")
@click.option("--data", type=click.Path(path_type=Path), default=TABLE, help="The real reviews.")
@click.option(
    "--steps", default=STEPS, show_default=True, help="Of each fit, at most: fewer is no model, but a figure."
)
@master_option
def main(sizes: str, driver_memory: str, data: Path, steps: int, master: str) -> None:
    """Run the measurements."""
    real = read_table(data)
    for rows in map(int, sizes.split(",")):
        click.echo(json.dumps(measure(rows, real, master, driver_memory, steps)))


if __name__ == "__main__":
    main()
