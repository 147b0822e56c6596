"""The image and docker-compose.yml with a real engine, by the commands of the README."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient

from tests.cases import BAD
from tests.conftest import ROOT, free_port, until
from tests.inference.conftest import load

SMALL = "-P limit=2500 -P ngram_max=1"
TRAIN = f"mlflow run . --env-manager local -P out=/data/imdb.csv {SMALL} -P promote=never".split()


def docker(*arguments: str) -> str:
    """Run a docker command, and return what it printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
        self.command = ["docker", "compose"]
        if subprocess.run([*self.command, "version"], capture_output=True).returncode:
            self.command = ["docker-compose"]

    def make(
        self, *arguments: str, timeout: float = 600, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a target as the README says."""
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=ROOT,
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )

    def compose(self, *arguments: str) -> str:
        """Run a compose command; it must end well."""
        done = subprocess.run(
            [*self.command, *arguments],
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

    @contextmanager
    def training(self, name: str) -> Iterator["subprocess.Popen[str]"]:
        """A training in a container of that name, under way."""
        command = [*self.command, "run", "--rm", "-T", "--name", name, "train", *TRAIN]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            yield process

    def versions(self) -> list[int]:
        """The registered versions, each of them whole."""
        client = MlflowClient(self.registry)
        found = sorted(
            client.search_model_versions("name = 'SentimentClassifier'"), key=lambda v: int(v.version)
        )
        assert all(v.status == "READY" and {"manifest", "content_digest"} <= v.tags.keys() for v in found)
        return [int(v.version) for v in found]

    def shell(self, command: str) -> str:
        """Run a line of the documentation."""
        done = subprocess.run(
            ["sh", "-c", command.replace("$COMPOSE", " ".join(self.command))],
            cwd=ROOT,
            env=self.environment,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

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
        assert asks_for_too_much(self.url) == 400
        assert self.ready() == (200, str(version))

    def inspect(self, service: str, what: str) -> str:
        """One thing about the container of a service."""
        return docker("inspect", "--format", what, self.compose("ps", "-q", service).strip())


def asks_for_too_much(url: str) -> int:
    """Send what MLflow would make a table of 6 GB of, and return the status."""
    headers, body, _ = BAD["JSON, too much memory"]
    return requests.post(f"{url}/invocations", data=body, headers=headers, timeout=60).status_code


@pytest.fixture(scope="module")
def system(engine: None) -> Iterator[System]:
    """The system, up, with no version yet."""
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
    system.train(*TRAIN)
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
    known = {
        "MLproject",
        "conda.yaml",
        "python_env.yaml",
        "run.txt",
        "server.txt",
    }
    assert {Path(name).name for name in told} == known | {"haproxy.cfg", "log4j2.properties"}


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


@pytest.mark.docker
def test_two_trainings_at_once_in_a_new_registry(system: System) -> None:
    """Of their own project: the first runs of a registry make what all later ones find."""
    other = System()
    other.project = other.environment["COMPOSE_PROJECT_NAME"] = f"{system.project}-new"
    try:
        other.compose("up", "--detach", "mlflow-server")
        with other.training("sentiment-one") as one, other.training("sentiment-two") as two:
            told = [one.communicate(timeout=300)[0], two.communicate(timeout=300)[0]]
        assert (one.returncode, two.returncode) == (0, 0), told
        assert other.versions() == [1, 2]
    finally:
        other.compose("down", "--volumes", "--timeout", "5")


@pytest.mark.docker
def test_a_training_outlasts_a_restart_of_the_registry(system: System) -> None:
    before = system.versions()
    with system.training("sentiment-restart") as training:
        wait_for(training, "ingest: done")
        system.compose("restart", "mlflow-server")
        told = training.communicate(timeout=300)[0]
    assert training.returncode == 0, told
    assert system.versions() == [*before, before[-1] + 1]


@pytest.mark.docker
@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4])
def test_a_training_killed_while_it_registers_leaves_a_whole_version_or_none(
    system: System, seconds: float
) -> None:
    before = system.versions()
    with system.training("sentiment-victim") as training:
        wait_for(training, "register: one version")
        time.sleep(seconds)
        subprocess.run(["docker", "kill", "sentiment-victim"], capture_output=True)
        training.communicate(timeout=60)
    assert system.versions() in (before, [*before, before[-1] + 1])
    system.train(*TRAIN)
    assert system.versions()[-1] > before[-1]


def wait_for(training: "subprocess.Popen[str]", line: str) -> None:
    """Read what a training prints until a line begins as given."""
    assert training.stdout
    said = []
    for printed in training.stdout:
        said.append(printed)
        if printed.startswith(line):
            return
    pytest.fail(f"no line began with {line!r}: {''.join(said)}")


@pytest.mark.docker
def test_backed_up_destroyed_restored_served(system: System, tmp_path: Path) -> None:
    """The commands of docs/deploy.md. The service has lost its copies too."""
    archive = tmp_path / "registry.tar"
    before = system.versions()
    system.shell(f"$COMPOSE exec -T mlflow-server python -m registry.backup /data - > {archive}")
    serving = system.ready()
    system.compose("down", "--volumes", "--timeout", "5")
    system.shell(f"$COMPOSE run --rm -T --no-deps mlflow-server tar --extract --directory /data < {archive}")
    assert system.make("up").returncode == 0
    until(lambda: system.ready() == serving, 90, "the version that served before")
    assert system.versions() == before
    system.serves(int(serving[1]))


@pytest.mark.docker
def test_old_versions_are_pruned_through_the_server(system: System) -> None:
    for _ in range(2):
        system.train(*TRAIN)
    before = system.versions()
    held = "find /data/artifacts -name MLmodel | wc -l"
    models = int(system.shell(f"$COMPOSE exec -T mlflow-server sh -c '{held}'"))
    told = system.make("prune", "KEEP=1", MLFLOW_TRACKING_URI=system.registry)
    assert told.returncode == 0, told.stdout
    gone = set(before) - set(system.versions())
    assert gone
    assert models - int(system.shell(f"$COMPOSE exec -T mlflow-server sh -c '{held}'")) == len(gone)
    system.serves(int(system.ready()[1]))


@pytest.mark.docker
def test_an_image_of_the_version_in_production(system: System) -> None:
    image = f"{system.project}-image:1"
    bill = ROOT / f"{system.project}-image-1.cdx.json"
    number = system.ready()[1]
    version = MlflowClient(system.registry).get_model_version("SentimentClassifier", number)
    try:
        told = system.make("image", f"IMAGE={image}", MLFLOW_TRACKING_URI=system.registry)
        assert told.returncode == 0, told.stdout
        labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", image))
        assert labels["sentiment.version"] == number
        assert labels["sentiment.run"] == version.run_id
        names = {one["name"].lower() for one in json.loads(bill.read_text())["components"]}
        assert {"mlflow", "numba", "pyarrow", "scikit-learn"} <= names
        assert not {"pip", "pytest", "hypothesis"} & names
        assert labels["sentiment.content_digest"] == version.tags["content_digest"]
        assert docker("inspect", "--format", "{{.Config.User}}", image) == "app"
        # without any network
        told = system.make("image-smoke", f"IMAGE={image}")
        assert told.returncode == 0, told.stdout
        assert f"{image}, version {number}, gave its " in told.stdout
        # on its port
        port = free_port()
        container = docker("run", "--detach", "--rm", "--publish", f"127.0.0.1:{port}:8080", image)
        try:
            url = f"http://127.0.0.1:{port}"

            def answer() -> int:
                try:
                    body = {"inputs": ["A wonderful film."]}
                    return requests.post(f"{url}/invocations", json=body, timeout=10).status_code
                except requests.ConnectionError:
                    return 0

            until(lambda: answer() == 200, 90, "an answer of the image")
            assert asks_for_too_much(url) == 400
            assert answer() == 200
            tools = "command -v gcc || command -v pip || command -v git || command -v nginx || id -u"
            assert docker("exec", container, "sh", "-c", tools) == "10001"
            began = time.monotonic()
            docker("stop", "--time", "30", container)
            assert time.monotonic() - began < 25, "it ends on SIGTERM"
        finally:
            subprocess.run(["docker", "rm", "--force", container], capture_output=True)
        told = system.make("image-smoke", "IMAGE=no-such-image:1")
        assert told.returncode != 0
        assert (
            "there is no image no-such-image:1 here; 'make image IMAGE=no-such-image:1' builds it"
            in told.stdout
        )
        told = system.make("image", "IMAGE=Upper Case", MLFLOW_TRACKING_URI=system.registry)
        assert told.returncode != 0
        assert "give IMAGE=name:tag, in small letters" in told.stdout
        told = system.make("image-smoke", "IMAGE=python:3.11.7-slim")
        assert told.returncode != 0
        assert "the container of python:3.11.7-slim ended" in told.stdout
    finally:
        bill.unlink(missing_ok=True)
        for name in (image, f"sentimentclassifier-built-by-mlflow:{version.tags['manifest'][:12]}"):
            subprocess.run(["docker", "rmi", "--force", name], capture_output=True)


@pytest.mark.docker
def test_a_taken_port_and_a_volume_that_cannot_be_written_are_named(system: System) -> None:
    told = system.make("up", COMPOSE_PROJECT_NAME=f"{system.project}-taken")
    other = [*system.command, "--project-name", f"{system.project}-taken", "down", "--volumes"]
    subprocess.run(other, cwd=ROOT, env=system.environment, capture_output=True)
    assert told.returncode != 0
    assert "give PORT=, MLFLOW_PORT= or METRICS_PORT=" in told.stdout
    command = [*system.command, "run", "--rm", "-T", "--no-deps", "--volume", "/:/data:ro", "mlflow-server"]
    done = subprocess.run(
        command, cwd=ROOT, env=system.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "/data cannot be written by user 10001" in done.stderr
    command = [*system.command, "run", "--rm", "-T", "--no-deps", "--volume", "/:/state:ro", "api"]
    done = subprocess.run(
        command, cwd=ROOT, env=system.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "the state folder /state/follow cannot be made" in done.stdout + done.stderr


@pytest.mark.docker
def test_a_version_deleted_from_the_registry_goes_on_serving(system: System) -> None:
    """The last test of this system: nothing is in Production after it."""
    serving = system.ready()
    MlflowClient(system.registry).delete_model_version("SentimentClassifier", serving[1])
    until(lambda: "in Production: version none" in system.compose("logs", "api"), 30, "its log line")
    assert system.ready() == serving
    system.serves(int(serving[1]))


def test_without_an_engine_make_says_so() -> None:
    environment = os.environ | {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    for target in ("up", "down", "logs", "train-docker"):
        done = subprocess.run(["make", target], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode != 0
        assert "no Docker engine answers: start one" in done.stdout
