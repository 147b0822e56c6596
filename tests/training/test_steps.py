"""What ended a run is what is said, also where the end of it cannot be written down."""

import click
import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlDataset
from mlflow.tracking import MlflowClient
from sqlalchemy import event

from training.errors import TrainingError
from training.steps import run
from training.train import log_context

AWAY = MlflowException("API request to http://x/api failed with timeout exception: gone")


@pytest.mark.parametrize(
    "ended_by", [KeyboardInterrupt(), TrainingError("too few rows")], ids=["Ctrl-C", "refusal"]
)
def test_what_ended_a_run_is_what_is_said(
    store: MlflowClient, ended_by: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **named: object) -> None:
        raise AWAY

    monkeypatch.setattr(MlflowClient, "set_terminated", away)
    with pytest.raises(type(ended_by)) as caught, run("test"):
        raise ended_by
    assert caught.value is ended_by


def test_a_run_that_was_broken_off_is_marked_so(store: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), run("test"):
        raise KeyboardInterrupt
    (found,) = store.search_runs(["0"], "attributes.run_name = 'test'")
    assert found.info.status == "KILLED"


@pytest.mark.parametrize(
    ("fault", "said"),
    [(AWAY, click.ClickException), (MlflowException("x failed with exception y"), MlflowException)],
)
def test_only_a_server_that_is_away_is_called_so(
    store: MlflowClient, fault: MlflowException, said: type[Exception]
) -> None:
    with pytest.raises(said), run("test"):
        raise fault


def test_two_runs_that_log_the_same_rows_at_once_both_end_well(store: MlflowClient) -> None:
    """MLflow looks whether it knows a data set, then writes it: the other run writes it in between."""
    table = pd.DataFrame({"split": ["train", "test"]})
    summary = {"source": "here", "table_sha256": "f" * 64}
    met: list[str] = []

    def overtake(*_: object) -> None:
        if not met:
            met.append("the other run was faster")
            with mlflow.start_run(nested=True) as other:
                log_context(other.info.run_id, table, summary, {})

    with run("test"):
        (known,) = (one.info.run_id for one in store.search_runs(["0"], "attributes.run_name = 'test'"))
        event.listen(SqlDataset, "init", overtake)
        try:
            log_context(known, table, summary, {})
        finally:
            event.remove(SqlDataset, "init", overtake)
    assert met
    inputs = store.get_run(known).inputs
    assert inputs
    assert len(inputs.dataset_inputs) == 2


def test_two_first_runs_of_an_experiment_say_which_came_second(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(*_: object, **__: object) -> None:
        store.create_experiment("new")
        store.create_experiment("new")

    monkeypatch.setattr(mlflow, "start_run", overtaken)
    with (
        pytest.raises(
            click.ClickException, match="another run made the experiment 'new' just now; run again"
        ) as caught,
        run("test"),
    ):
        pass
    assert "\n" not in caught.value.message
