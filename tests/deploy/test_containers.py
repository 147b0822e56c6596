"""The image and docker-compose.yml with a real engine, by the commands of the README."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT, free_port, until
from tests.inference.conftest import load

SMALL = "-P limit=2500 -P ngram_max=1"


def engine() -> bool:
    """Whether a Docker engine answers."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True).returncode == 0


class System:
    """What `make up` starts, under a project name and on ports of its own."""

    def __init__(self) -> None:
        self.project = f"sentiment-test-{os.getpid()}"
        self.port, self.registry_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.registry = f"http://127.0.0.1:{self.registry_port}"
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            "PORT": str(self.port),
            "MLFLOW_PORT": str(self.registry_port),
            "METRICS_PORT": str(free_port()),
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def make(self, *arguments: str, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
        """Run a target as the README says."""
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )

    def compose(self, *arguments: str) -> str:
        """Run a compose command; it must end well."""
        command = ["docker", "compose"]
        if subprocess.run([*command, "version"], capture_output=True).returncode:
            command = ["docker-compose"]
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def train(self, *arguments: str) -> str:
        """Run a command in a container of `train`."""
        return self.compose("run", "--rm", "-T", "train", *arguments)

    def ready(self) -> tuple[int, str]:
        """Status of /ready, and the version or the reason."""
        try:
            answer = requests.get(f"{self.url}/ready", timeout=5)
        except requests.ConnectionError:
            return 0, "no answer"
        said = answer.json()
        return answer.status_code, said.get("version") or said["reason"]

    def serves(self, version: int) -> None:
        """Wait until a version serves, and ask it."""
        until(lambda: self.ready() == (200, str(version)), 90, f"version {version} at /ready")
        answer = requests.post(f"{self.url}/invocations", json={"inputs": ["A wonderful film."]}, timeout=30)
        assert answer.headers["X-Model-Version"] == str(version)
        assert answer.json()["predictions"][0]["sentiment"] == "positive"

    def inspect(self, service: str, what: str) -> str:
        """One thing about the container of a service."""
        container = self.compose("ps", "-q", service).strip()
        told = subprocess.run(
            ["docker", "inspect", "--format", what, container], capture_output=True, text=True, check=True
        )
        return told.stdout.strip()


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """The system, up, with no version yet."""
    if not engine():
        pytest.skip("no Docker engine answers: start one (dockerd, or Docker Desktop)")
    running = System()
    try:
        told = running.make("up", timeout=1500)
        assert told.returncode == 0, told.stdout
        yield running
    finally:
        running.compose("down", "--volumes", "--timeout", "5")


@pytest.mark.docker
def test_the_life_of_a_version(system: System) -> None:
    # 1. nothing is in Production: it waits, and says so
    waiting = (503, "no version of SentimentClassifier is in Production")
    until(lambda: system.ready() == waiting, 90, "an answer of the waiting service")
    # 2. a version is trained in a container and promoted: it is served
    told = system.make("train-docker", f"ARGS={SMALL}")
    assert told.returncode == 0, told.stdout
    assert "promoted: SentimentClassifier version 1 is in Production" in told.stdout
    system.serves(1)
    until(lambda: system.inspect("api", "{{.State.Health.Status}}") == "healthy", 60, "health of api")
    # 3. promotion and rollback under load
    system.train(*f"mlflow run . --env-manager local -P out=/data/imdb.csv {SMALL} -P promote=never".split())
    with load(system.port) as clients:
        system.train("python", "-m", "training.promote", "--version", "2", "--force", "yes")
        system.serves(2)
        until(lambda: "2" in clients.versions(), what="an answer of version 2")
        system.train("python", "-m", "training.rollback", "--from", "2")
        system.serves(1)
    clients.check()
    assert set(clients.versions()) == {"1", "2"}
    # 4. the volumes outlive the containers
    assert system.make("down").returncode == 0
    assert system.make("up").returncode == 0
    system.serves(1)


@pytest.mark.docker
@pytest.mark.parametrize("service", ["mlflow-server", "api"])
def test_a_container_can_do_no_more_than_it_must(system: System, service: str) -> None:
    def tried(command: str) -> "subprocess.CompletedProcess[str]":
        container = system.compose("ps", "-q", service).strip()
        return subprocess.run(
            ["docker", "exec", container, "sh", "-c", command], capture_output=True, text=True
        )

    assert tried("id -u").stdout.strip() == "10001"
    assert "Read-only file system" in tried("echo > /app/training/new.py").stderr
    assert tried("command -v gcc || command -v pip || command -v git").stdout == ""
    assert tried("grep CapEff /proc/1/status").stdout.split()[1].strip("0") == ""
    assert int(system.inspect(service, "{{.HostConfig.Memory}}")) > 0
    ports = json.loads(system.inspect(service, "{{json .NetworkSettings.Ports}}"))
    assert {bound["HostIp"] for bindings in ports.values() for bound in bindings or []} == {"127.0.0.1"}


@pytest.mark.docker
def test_the_image_holds_the_code_and_nothing_that_lay_about(system: System) -> None:
    told = system.train("sh", "-c", "find /app -type f -not -name '*.py'").split()
    known = {"MLproject", "conda.yaml", "python_env.yaml", "requirements.txt", "requirements-server.txt"}
    assert {Path(name).name for name in told} == known | {"haproxy.cfg"}


@pytest.mark.docker
def test_the_registry_answers_under_its_names_alone(system: System) -> None:
    for host in (f"localhost:{system.registry_port}", "mlflow-server:5000", "mlflow-server", "localhost"):
        told = requests.get(
            f"{system.registry}/api/2.0/mlflow/experiments/get?experiment_id=0",
            headers={"Host": host},
            timeout=10,
        )
        assert told.status_code == 200, (host, told.text)
    told = requests.get(
        f"{system.registry}/api/2.0/mlflow/experiments/get?experiment_id=0",
        headers={"Host": "evil.example"},
        timeout=10,
    )
    assert told.status_code == 403


def test_without_an_engine_make_says_so() -> None:
    environment = os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    for target in ("up", "down", "logs", "train-docker"):
        done = subprocess.run(["make", target], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode != 0
        assert "no Docker engine answers: start one" in done.stdout
