"""The same commands against a tracking server: MLFLOW_TRACKING_URI is all that changes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import TRAIN, Project, copy_project, free_port, running, tracking_server

pytestmark = pytest.mark.large


@pytest.fixture
def remote(tmp_path: Path, all_reviews: pd.DataFrame) -> Iterator[Project]:
    """A project whose store is a real `mlflow server`."""
    project = copy_project(tmp_path / "project")
    all_reviews.sample(1500, random_state=0).to_csv(project.folder / "some.csv", index=False)
    url = f"http://127.0.0.1:{free_port()}"
    command = tracking_server(url, "--workers", "1", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db")
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with running(command, f"{url}/health", tmp_path, project.environment) as server:
        project.environment |= {"MLFLOW_TRACKING_URI": url, "SERVER": str(server.pid)}
        yield project


def test_the_whole_life_against_a_server(remote: Project) -> None:
    assert "version 1 is in Production" in remote.run("python", "-m", *TRAIN, "--promote", "always")
    assert "version 2 is in Production" in remote.call(*TRAIN, "--promote", "always")
    assert "version 1 is in Production, version 2 was left" in remote.call("training.rollback")
    told = remote.call("registry.history")
    assert [line.split()[1:3] for line in told.splitlines()[-3:]] == [
        ["promote", "1"],
        ["promote", "2"],
        ["rollback", "1"],
    ]
    assert '"sentiment": "positive"' in remote.run("python", "-m", "inference.smoke")
    assert not (remote.folder / "mlflow.db").exists()
    assert not (remote.folder / "mlruns").exists()


def test_a_store_whose_artifacts_need_a_server_is_named_before_any_work(
    remote: Project, tmp_path: Path
) -> None:
    """A bare `mlflow server` makes such experiments, and SQLite alone cannot write their artifacts."""
    remote.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path}/server.db"
    told = remote.call(*TRAIN, "--register", "no", code=1)
    assert "the artifacts of this experiment go through an MLflow server" in told
    assert "MLFLOW_EXPERIMENT_NAME=name" in told
    assert "counting n-grams" not in told
    remote.environment["MLFLOW_EXPERIMENT_NAME"] = "mine"
    assert "held out: accuracy" in remote.call(*TRAIN, "--register", "no")


def test_a_server_that_goes_away_ends_a_training_with_one_line(remote: Project) -> None:
    remote.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    with remote.start(
        "python", "-m", "training.main", "--source", "some.csv", "--ngram-max", "1"
    ) as training:
        assert training.stdout
        for line in training.stdout:
            if line.startswith("ingest: done"):
                os.killpg(int(remote.environment["SERVER"]), signal.SIGKILL)
                break
        told, _ = training.communicate(timeout=120)
    assert training.returncode == 1
    assert f"the tracking server {remote.environment['MLFLOW_TRACKING_URI']} does not answer any more" in told
    assert "Traceback" not in told
