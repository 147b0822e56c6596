"""A real follower with HAProxy and `mlflow models serve`, on a store with small real models."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
from mlflow.tracking import MlflowClient

from inference.server import marked, serving, wait_until_ready
from inference.service.proxy import ProxyError, find_haproxy
from inference.service.state import end_all
from registry.digests import digests
from registry.stages import promote
from registry.store import MODEL_NAME
from registry.versions import Version, find, in_production, register
from spark.session import session
from tests.conftest import ROOT, free_port, standing_in, until
from tests.inference.stand_in import COMMAND
from training.train import Candidate

QUESTION = b'{"inputs": ["A wonderful film."]}'
JSON = {"Content-Type": "application/json"}


class Service:
    """A follower as `make serve FOLLOW=1` starts it, and what a client and an operator see of it.

    Its model servers are stand-ins, unless they are to be real: a real one takes seven seconds to start.
    """

    def __init__(self, uri: str, real: bool = False) -> None:
        self.real = real
        # a short path, as sockets need one
        self.state = Path(tempfile.mkdtemp(prefix="follow-"))
        self.port, self.metrics_port = free_port(), free_port()
        self.environment = os.environ | {"MLFLOW_TRACKING_URI": uri}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, before: str = "", **environment: str) -> None:
        """Start it; `before` is Python that is run in it first."""
        if not self.real:
            before += f"\nimport inference.server\ninference.server.MLFLOW_MODELS = {COMMAND!r}"
            environment.setdefault("PYTHONPATH", str(ROOT))
        run = f"{before}\nfrom inference.service.follow import main\nmain()"
        command = [sys.executable, "-c", run, "--state", str(self.state)]
        command += ["--port", str(self.port), "--metrics-port", str(self.metrics_port)]
        with (self.state / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def begin(self, versions: "Registry", count: int = 1, patch: str = "") -> None:
        """Register versions, and have it serve the first."""
        for _ in range(count):
            versions.add()
        versions.promote(1)
        self.start(patch)
        self.serves(1)

    def kill(self) -> None:
        """Kill -9 the supervisor alone."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Tell the supervisor to end, and return its exit code."""
        assert self.process
        self.process.terminate()
        return self.process.wait(60)

    def end(self) -> None:
        """Leave nothing but what the model servers said, which pytest shows where a test failed."""
        for path in sorted(self.state.rglob("*.log")):
            print(f"{path.name}: {path.read_text(errors='replace')[-3000:]}")
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process, _ in marked(self.state):
            process.kill()
        end_all(self.state)
        shutil.rmtree(self.state)

    @property
    def said(self) -> str:
        """All that the supervisor logged."""
        return (self.state / "supervisor.log").read_text()

    def says(self, text: str, seconds: float = 60) -> None:
        """Wait until it logs something."""
        try:
            until(lambda: text in self.said, seconds, text)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.said}") from None

    def ready(self) -> tuple[int, str]:
        """Status of /ready, and the version or the reason."""
        answer = requests.get(f"http://127.0.0.1:{self.port}/ready", timeout=5)
        found = answer.json()
        return answer.status_code, found.get("version") or found["reason"]

    def serves(self, version: int, seconds: float = 60) -> None:
        """Wait until a version serves."""

        def does() -> bool:
            try:
                return self.ready() == (200, str(version))
            except requests.ConnectionError:
                return False

        try:
            until(does, seconds, f"version {version} in service")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.said}") from None

    def ask(self, text: str = "A wonderful film.") -> requests.Response:
        """Ask for one sentiment."""
        return requests.post(f"http://127.0.0.1:{self.port}/invocations", json={"inputs": [text]}, timeout=40)

    def metric(self, name: str) -> float | None:
        """The value of a metric of the supervisor; None if it is not there."""
        text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics/supervisor", timeout=5).text
        found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
        return float(found[0]) if found else None

    def haproxy(self) -> psutil.Process:
        """Its HAProxy."""
        (found,) = [process for process, mark in marked(self.state) if "version" not in mark]
        return found

    def model_servers(self, version: int | None = None) -> list[psutil.Process]:
        """The processes of its model servers: `mlflow models serve` and the uvicorn under it."""
        return [
            p for p, mark in marked(self.state) if mark.get("version", 0) == (version or mark.get("version"))
        ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs HAProxy where it is not installed."""
    try:
        find_haproxy()
    except ProxyError as error:
        for item in items:
            if item.get_closest_marker("haproxy"):
                item.add_marker(pytest.mark.skip(reason=error.message))


@pytest.fixture
def service(store: MlflowClient, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A follower of the test's own store, not started yet; `real_models` has it start `mlflow models serve`."""
    made = Service(os.environ["MLFLOW_TRACKING_URI"], "real_models" in request.keywords)
    try:
        yield made
    finally:
        made.end()


class Registry:
    """A store in which versions are registered and promoted as the entry points do it."""

    def __init__(self, client: MlflowClient, candidate: Candidate) -> None:
        self.client, self._candidate = client, candidate

    def add(self) -> int:
        """Register a good version."""
        made = self._candidate
        return register(self.client, made.model_uri, made.run_id, made.tags, made.description).number

    def forge(self, change: Callable[[Path], None], folder: Path) -> Version:
        """Register a changed copy of a good version with the digests that it has after the change."""
        good = find(self.client, 1)
        shutil.copytree(self.client.get_model_version_download_uri(MODEL_NAME, "1"), folder)
        for cache in folder.rglob("__pycache__"):
            shutil.rmtree(cache)
        change(folder)
        made = self.client.create_model_version(
            MODEL_NAME, str(folder), good.run_id, tags=good.tags | digests(folder)
        )
        return find(self.client, made.version)

    def promote(self, version: int) -> None:
        """Make a version the one in Production, whatever the gate would say."""
        serving = in_production(self.client)
        promote(self.client, version, serving[0].number if serving else None, "test", force=True)

    def wait_for_tag(self, version: int, tag: str) -> str:
        """Wait until a version carries a tag, and return it."""
        return str(
            until(lambda: self.client.get_model_version(MODEL_NAME, str(version)).tags.get(tag), what=tag)
        )


@pytest.fixture
def versions(store: MlflowClient, candidate: Candidate) -> Registry:
    """The registry of the test's own store."""
    return Registry(store, candidate)


class Load:
    """Clients that keep asking over kept-alive connections, and what came back."""

    def __init__(self, port: int, clients: int = 4, pause: float = 0.02) -> None:
        self._port, self._pause = port, pause
        self.answers: list[tuple[float, int, str]] = []  # when it was asked, status, version
        self.faults: Counter[str] = Counter()
        self.said: list[bytes] = []  # what wrong answers said
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=40)
        while not self._stop.wait(self._pause):
            asked = time.monotonic()
            try:
                connection.request("POST", "/invocations", QUESTION, JSON)
                answer = connection.getresponse()
                said = answer.read()
                right = answer.status == 200 and json.loads(said)["predictions"][0]["sentiment"] == "positive"
                if not right:
                    self.said.append(said)
                version = answer.headers["X-Model-Version"]
                self.answers.append((asked, answer.status if right else -answer.status, version))
            except (OSError, HTTPException, ValueError, LookupError) as error:
                self.faults[repr(error)] += 1
                connection.close()
        connection.close()

    def versions(self) -> Counter[str]:
        """How many answers each version gave."""
        return Counter(version for _, _, version in self.answers)

    def check(self, lost: int = 0) -> None:
        """At most `lost` requests were not answered, and rightly."""
        wrong = [answer for answer in self.answers if answer[1] != 200]
        assert len(wrong) + sum(self.faults.values()) <= lost, (wrong[:5], self.faults, self.said[:5])


@contextmanager
def load(port: int, clients: int = 4) -> Iterator[Load]:
    """Keep asking while the block runs."""
    made = Load(port, clients)
    for thread in made._threads:
        thread.start()
    try:
        yield made
    finally:
        made._stop.set()
        for thread in made._threads:
            thread.join(60)


def kill_worker(service: Service, version: int) -> None:
    """Kill -9 the process that answers for a version."""
    for process in service.model_servers(version):
        if "uvicorn" in " ".join(process.cmdline()[:2]):
            process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def model(trained: tuple[Path, Candidate], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a real model."""
    folder, candidate = trained
    with standing_in(folder):
        return str(
            mlflow.artifacts.download_artifacts(
                candidate.model_uri, dst_path=str(tmp_path_factory.mktemp("model"))
            )
        )


@contextmanager
def model_server_of(model: str) -> Iterator[int]:
    """The port of a real `mlflow models serve`, as `make serve` starts it."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("UVICORN_ACCESS_LOG", "false")
        with serving(Path(model), "127.0.0.1", port) as process:
            wait_until_ready(process, f"http://127.0.0.1:{port}")
            yield port


@pytest.fixture(scope="session")
def model_server(model: str) -> Iterator[int]:
    """One for all tests that ask it only."""
    with model_server_of(model) as port:
        yield port


@pytest.fixture(scope="session")
def one_session() -> Iterator[None]:
    """Keep one session of Spark for all tests of this room in a process: a start takes ten seconds."""
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        yield
        return
    from inference.batch.spark import SETTINGS

    with session("local[2]", "tests", **SETTINGS):
        yield
