"""MLflow's own users and passwords before the tracking server: who may read serves, who may write promotes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import requests

from tests.conftest import ROOT, TRAIN, Project, copy_project, free_port, running, tracking_server

pytestmark = pytest.mark.large

ADMIN, READER = "a-long-word-of-the-admin", "a-long-word-of-the-reader"
TRAIN_AND_PROMOTE = [*TRAIN, "--promote", "always"]


def server(url: str, folder: Path) -> list[str]:
    store = f"sqlite:///{folder}/server.db"
    options = [
        "--workers",
        "1",
        "--backend-store-uri",
        store,
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    return tracking_server(url, *options, "--app-name", "basic-auth")


@pytest.fixture
def guarded(tmp_path: Path, all_reviews: pd.DataFrame) -> Iterator[Project]:
    """A project whose store is a server that asks for a password; nobody has told it one."""
    project = copy_project(tmp_path / "project")
    all_reviews.sample(1500, random_state=0).to_csv(project.folder / "some.csv", index=False)
    url = f"http://127.0.0.1:{free_port()}"
    settings = (ROOT / "deploy" / "passwords" / "basic_auth.ini").read_text()
    (tmp_path / "basic_auth.ini").write_text(settings.replace("/data/", f"{tmp_path}/"))
    project.environment |= {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini")}
    words = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-long-word-of-the-server",
    }
    project.environment["MLFLOW_TRACKING_URI"] = url
    with running(server(url, tmp_path), f"{url}/health", tmp_path, project.environment | words):
        yield project


def be(project: Project, name: str, password: str) -> None:
    project.environment |= {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}


def test_who_may_read_serves_and_who_may_write_promotes(guarded: Project) -> None:
    url = guarded.environment["MLFLOW_TRACKING_URI"]
    told = guarded.call("registry.history", code=1)
    assert "does not let you in" in told
    assert (
        requests.get(
            f"{url}/api/2.0/mlflow/users/current", auth=("admin", "password1234"), timeout=10
        ).status_code
        == 401
    )

    be(guarded, "admin", ADMIN)
    assert "version 1 is in Production" in guarded.call(*TRAIN_AND_PROMOTE)
    assert "version 2 is in Production" in guarded.call(*TRAIN_AND_PROMOTE)
    made = requests.post(
        f"{url}/api/2.0/mlflow/users/create",
        json={"username": "reader", "password": READER},
        auth=("admin", ADMIN),
        timeout=10,
    )
    assert made.status_code == 200, made.text

    be(guarded, "reader", READER)
    assert '"sentiment": "positive"' in guarded.run("python", "-m", "inference.smoke")
    for command in (
        ["training.promote", "--version", "1"],
        ["training.rollback"],
        ["inference.service.canary", "start", "--version", "1"],
        TRAIN_AND_PROMOTE,
    ):
        told = guarded.call(*command, code=1)
        assert told.splitlines()[-1].startswith(
            f"Error: the tracking server {url} does not allow you to do this"
        )
    for kind, which, what in (
        ("experiment", "0", "EDIT"),
        ("registered_model", "SentimentClassifier", "MANAGE"),
    ):
        grant = {"username": "reader", "resource_type": kind, "resource_id": which, "permission": what}
        granted = requests.post(
            f"{url}/api/3.0/mlflow/users/permissions/grant", json=grant, auth=("admin", ADMIN), timeout=10
        )
        assert granted.status_code == 200, granted.text
    assert "version 1 is in Production" in guarded.call("training.rollback")
    told = guarded.call("registry.history")
    for said in ("rollback", "  reader  ", "1  Production"):
        assert said in told


def test_without_a_password_it_does_not_start(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    command = server(f"http://127.0.0.1:{free_port()}", tmp_path)
    environment = project.environment | {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a-long-word-of-the-server"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        told = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" in told
