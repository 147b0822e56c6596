"""Progress and wall time of the steps of a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import mlflow


@contextmanager
def step(name: str, what: str) -> Iterator[None]:
    """Announce a step, and log its wall time to the active run as the metric ``seconds/<name>``."""
    click.echo(f"{name}: {what} …")
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    mlflow.log_metric(f"seconds/{name}", seconds)
    click.echo(f"{name}: done in {seconds:.1f} s")
