"""Fixtures: real reviews, a real SQLite store, a copy of the project to drive commands in."""

import importlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from click.testing import CliRunner
from filelock import FileLock
from mlflow.tracking import MlflowClient

from data.sources import locate, read
from data.table import build
from registry.store import RETRIES, connect
from tests import sizes
from training.models.ngram_fit import count, fit
from training.parameters import Ngram
from training.train import Candidate, train

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
ROOT = Path(__file__).resolve().parent.parent

# as on a user's machine, whatever is set where the tests run
for name in ("PYTHONDONTWRITEBYTECODE", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "ARGS"):
    os.environ.pop(name, None)
sys.dont_write_bytecode = False
# a shell starts background jobs with SIGINT ignored, and so would be every process that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)
# Spark on a few rows: a JVM that compiles little starts in half the time
os.environ.setdefault(
    "SPARK_SUBMIT_OPTS",
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dspark.ui.enabled=false -Dspark.sql.shuffle.partitions=2",
)
# several processes of tests share the cores: threads that spin while they wait would take them from each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
SMALL = Ngram(ngram_max=2)
# a training in seconds, by `Project.run("python", "-m", *TRAIN, ...)` or `Project.call(*TRAIN, ...)`
TRAIN = ["training.main", "--source", "some.csv", "--out", "data.csv", "--ngram-max", "1"]
SKIPS = {"deep": "make env-deep", "spark": "make env-spark"}  # a mark, and what installs what its tests need


def pytest_configure(config: pytest.Config) -> None:
    """Measure tests, and let one process, which all others report to, add up the seconds."""
    config.pluginmanager.register(sizes, "sizes")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(sizes.Sizes(), "added-sizes")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Tell it where the pace of this run is written."""
    added = session.config.pluginmanager.get_plugin("added-sizes")
    if added is not None:
        factory = session.config._tmp_path_factory  # type: ignore[attr-defined]  # pytest's own, before any fixture
        added.pace_file = factory.getbasetemp() / "trained" / "seconds"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups next
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and keep the tests that share the project's folder in one process."""
    missing = {
        "deep": []
        if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")
        else ["PyTorch"],
        "spark": ["Apache Spark"] * (not importlib.util.find_spec("pyspark"))
        + ["Java"] * (not shutil.which("java")),
    }
    for item in items:
        for mark, names in missing.items():
            if item.get_closest_marker(mark) is None:
                continue
            item.add_marker(pytest.mark.large)  # `make test` needs no extra
            if names:
                reason = f"{' and '.join(names)} is not installed ({SKIPS[mark]})"
                item.add_marker(pytest.mark.skip(reason=reason))
        group = None if item.get_closest_marker("xdist_group") else group_of(item)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))


def group_of(item: pytest.Item) -> str | None:
    """Return the name of what a test shares with others, all of which run in one process; None if it shares nothing dear."""
    if item.get_closest_marker("spark"):
        return "spark"  # one JVM
    fixtures = getattr(item, "_fixtureinfo", None)
    known = {} if fixtures is None else fixtures.name2fixturedefs
    for shared in ("model_server", "project"):
        if shared in known and known[shared][-1].scope == "session":  # not one that a module has of its own
            return shared
    of_module = any(found[-1].scope == "module" for found in known.values())
    return item.nodeid.split("::")[0] if of_module else None


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made once for all worker processes of a run, by the first that asks."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def all_reviews(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of the default source."""

    def make(folder: Path) -> None:
        build(read("package", locate("package", Path())), 0.1, "package").table.to_pickle(folder / "reviews")

    return pd.read_pickle(once(tmp_path_factory, "all_reviews", make) / "reviews")


@pytest.fixture(scope="session")
def reviews(all_reviews: pd.DataFrame) -> pd.DataFrame:
    """A few real reviews of both sources and splits."""
    return all_reviews.sample(1200, random_state=0).reset_index(drop=True)


@pytest.fixture(scope="session")
def fitted(reviews: pd.DataFrame):
    """A fit on the few reviews."""
    counter, counts = count(reviews, SMALL)
    return fit(reviews, counter, counts, SMALL)


SUMMARY = {
    "source": "package",
    "table_sha256": "0" * 64,
    "sources": {"imdb": 1},
    "duplicates": 0,
    "rejected": 0,
}


@contextmanager
def standing_in(folder: Path) -> Iterator[MlflowClient]:
    """Work in a folder with the SQLite store in it, artifacts beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        yield connect()
        if mlflow.active_run():
            mlflow.end_run()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, reviews: pd.DataFrame) -> tuple[Path, Candidate]:
    """A folder with a store in which one model was trained on the few reviews, not registered."""

    def make(folder: Path) -> None:
        began = time.perf_counter()
        with standing_in(folder), mlflow.start_run():
            candidate = train(reviews, SUMMARY, SMALL)
        (folder / "candidate.json").write_text(json.dumps(asdict(candidate)))
        (folder / "seconds").write_text(str(time.perf_counter() - began))

    folder = once(tmp_path_factory, "trained", make)
    return folder, Candidate(**json.loads((folder / "candidate.json").read_text()))


@pytest.fixture
def store(trained: tuple[Path, Candidate], tmp_path: Path) -> Iterator[MlflowClient]:
    """A test's own copy of the store with the trained model."""
    template, _ = trained
    folder = tmp_path / "store"
    shutil.copytree(template, folder)
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(template), str(folder))
            )
    database.close()
    with standing_in(folder) as client:
        yield client


@pytest.fixture
def candidate(trained: tuple[Path, Candidate], store: MlflowClient) -> Candidate:
    """The trained model, in the test's own store."""
    return trained[1]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a transformer of two small layers, as `save_pretrained` writes them, and the tokenizer of MiniLM."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from training.models.pretrained import find_weights

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    BertModel(small).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_weights("minilm")).save_pretrained(folder)
    return folder


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(happens: Callable[[], Any], seconds: float = 60, what: str = "it") -> Any:
    """Poll until something is true, and return it; fail when the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.05)
    return found


def until_answered(process: "subprocess.Popen[bytes]", url: str, seconds: float = 60) -> None:
    """Wait until ``url`` answers; fail if the process ends or the time is over."""

    def answers() -> bool:
        assert process.poll() is None, "the server ended"
        try:
            return requests.get(url, timeout=2).ok
        except requests.RequestException:
            return False

    until(answers, seconds, f"an answer of {url}")


@contextmanager
def running(
    command: list[str], url: str, folder: Path | None = None, environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the block ends; ``url`` must answer within a minute."""
    with subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True) as process:
        try:
            until_answered(process, url)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def tracking_server(url: str, *options: str) -> list[str]:
    """Return the command of a real `mlflow server`, without what it starts for evaluations by language models."""
    port = url.rsplit(":", 1)[1]
    return [
        "env",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        *options,
    ]


class Project:
    """A copy of the project, as a user has it after a clone, with the tests' environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first_run = ""  # what the first `mlflow run .` printed
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MLFLOW_", "MAKE", "PYTHONPATH"))
        }
        self.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment["MLFLOW_DISABLE_TELEMETRY"] = "true"

    def run(self, *command: str, code: int | None = 0, timeout: float = 300) -> str:
        """Run a command to its end, check its exit code, and return all that it printed."""
        with self.start(*command) as running:
            try:
                told, _ = running.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                raise
        if code is not None:
            assert running.returncode == code, told
        return told

    def call(self, module: str, *options: str, code: int | None = 0) -> str:
        """Run the command of a module of ours in this process, which has imported MLflow already; return what it printed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder}/mlflow.db")
            for name in ("MLFLOW_RUN_ID", RETRIES):
                patch.delenv(name, raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            result = CliRunner().invoke(importlib.import_module(module).main, options)
            while mlflow.active_run():  # whose end could not be written
                mlflow.end_run("FAILED")
        assert code in (None, result.exit_code), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return result.output

    def make(self, *arguments: str, code: int = 0, timeout: float = 300) -> str:
        """Run make with the environment that the tests run in."""
        return self.run("make", "--no-print-directory", *arguments, code=code, timeout=timeout)

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own, its output to be read line by line."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def client(self) -> MlflowClient:
        """A client of this copy's store."""
        uri = f"sqlite:///{self.folder}/mlflow.db"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def copy_project(to: Path) -> Project:
    """Copy what git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)
    # make finds the tests' own environment, ready
    venv = Path(sys.prefix)
    (to / ".venv").symlink_to(venv)
    for extra in ("run", "follow", "test", "test-all", "image", "sign", "spark", "deep"):
        if extra in ("run", "follow") or (venv / f".{extra}").exists():
            (venv / f".{extra}").touch()
    return Project(to)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, reviews: pd.DataFrame) -> Project:
    """A project in which `mlflow run .` has trained, registered and promoted version 1."""
    copy = copy_project(tmp_path_factory.mktemp("project"))
    copy.first_run = copy.run("mlflow", "run", ".", "--env-manager", "local", "-P", "limit=4000")
    return copy


@pytest.fixture(scope="session")
def url(project: Project) -> Iterator[str]:
    """Its Production version, served by the command of the mission, word for word but for the port."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", "models:/SentimentClassifier/Production"]
    command += ["--env-manager", "local", "-p", str(port)]
    with running(command, f"http://127.0.0.1:{port}/ping", project.folder, project.environment):
        yield f"http://127.0.0.1:{port}"
