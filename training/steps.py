"""A run of the pipeline and its steps: progress and wall time."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import mlflow
from mlflow.exceptions import MlflowException

from registry.store import answering
from training.errors import TrainingError

PATIENT = 5  # a server that is started again is waited for


@contextmanager
def run(name: str) -> Iterator[None]:
    """Be in the MLflow run that ``mlflow run`` opened, or in a new one called ``name``.

    Raises
    ------
    TrainingError
        If the artifacts of the run could not be written.
    RegistryError
        If the store fails, does not answer any more, or does not let one write.
    """
    with _sigterm_as_ctrl_c(), answering(), mlflow.start_run(run_name=name) as active:
        uri = mlflow.get_artifact_uri()
        if uri.startswith("mlflow-artifacts:") and not mlflow.get_tracking_uri().startswith("http"):
            raise TrainingError(
                f"the artifacts of this experiment go through an MLflow server ({uri}), because one created it; "
                "set MLFLOW_TRACKING_URI to that server, or use another experiment: MLFLOW_EXPERIMENT_NAME=name "
                "(mlflow run: --experiment-name name)"
            )
        _say_kind(active.info.experiment_id)
        try:
            yield
        except KeyboardInterrupt:
            mlflow.end_run("KILLED")
            raise


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, as of a container that is stopped, leave things as clean as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # no other may set signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_kind(experiment: str) -> None:
    """Have the UI not take the experiment for one of generative AI, and hide what matters here."""
    kind, ours = "mlflow.experimentKind", "custom_model_development"
    if mlflow.get_experiment(experiment).tags.get(kind) == ours:
        return
    try:
        mlflow.set_experiment_tag(kind, ours)
    except MlflowException:  # another run sets it just now
        if mlflow.get_experiment(experiment).tags.get(kind) != ours:
            raise


@contextmanager
def step(name: str, what: str) -> Iterator[None]:
    """Announce a step, and log its wall time to the active run as the metric ``seconds/<name>``."""
    click.echo(f"{name}: {what} …")
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    mlflow.log_metric(f"seconds/{name}", seconds)
    click.echo(f"{name}: done in {seconds:.1f} s")
