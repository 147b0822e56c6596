"""A page of a stranger in the browser of one who trains: by another name, or from another origin, it is told nothing and moves nothing."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
import requests

from tests.conftest import Project, free_port, running

pytestmark = pytest.mark.large

FOREIGN = [
    "evil.example",
    "evil.example:5000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "evil.example@localhost",
]


@pytest.fixture(scope="module")
def made_ui(project: Project) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """What `make ui` starts: its address, and the process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["make", "ui", f"UI_PORT={port}"]
    with running(command, f"{url}/health", project.folder, project.environment) as process:
        yield url, process


@pytest.fixture
def ui(made_ui: tuple[str, "subprocess.Popen[bytes]"]) -> str:
    """Its address."""
    return made_ui[0]


@pytest.mark.parametrize("host", FOREIGN)
def test_by_another_name_it_answers_nothing(ui: str, host: str) -> None:
    """So a name of the stranger's that comes to point at this machine (DNS rebinding) is of no use."""
    models = f"{ui}/api/2.0/mlflow/registered-models/search"
    assert "SentimentClassifier" in requests.get(models, timeout=30).text
    answer = requests.get(models, headers={"Host": host}, timeout=30)
    assert answer.status_code == 403
    assert "SentimentClassifier" not in answer.text


def test_a_page_of_another_origin_moves_nothing(ui: str, project: Project) -> None:
    answer = requests.post(
        f"{ui}/api/2.0/mlflow/model-versions/transition-stage",
        json={"name": "SentimentClassifier", "version": "1", "stage": "Archived"},
        headers={"Origin": "http://evil.example"},
        timeout=30,
    )
    assert answer.status_code == 403
    assert project.client().get_model_version("SentimentClassifier", "1").current_stage == "Production"


def test_make_ui_starts_no_job_runners_and_ends_whole(
    made_ui: tuple[str, "subprocess.Popen[bytes]"],
) -> None:
    """The last test of the file: the others ask what this one ends."""
    url, server = made_ui
    told = os.popen(f"ps -o args= -g {os.getpgid(server.pid)}").read()
    assert "mlflow server" in told
    assert "huey" not in told
    os.killpg(server.pid, signal.SIGINT)
    server.wait(30)
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=5)
