"""kill -9 at any moment, a disk that is full or read-only: what is there is whole, and the same command finishes.

``KILLS=30`` in the environment kills each command so often; once is enough for each run of the tests.
"""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest

from data.errors import DataError
from data.ingest import read_summary
from data.table import read_table
from registry.digests import digests
from registry.store import MODEL_NAME
from registry.versions import all_versions, in_production
from tests.conftest import Project, copy_project

pytestmark = pytest.mark.large

KILLS = int(os.environ.get("KILLS") or 1)
TRAIN = ["python", "-m", "training.main", "--source", "some.csv", "--ngram-max", "1", "--promote", "always"]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, all_reviews: pd.DataFrame) -> tuple[Project, float]:
    """A project with two versions, the second in Production, and the seconds that it took."""
    made = copy_project(tmp_path_factory.mktemp("killed"))
    all_reviews.sample(3000, random_state=0).to_csv(made.folder / "some.csv", index=False)
    made.run(*TRAIN)
    return made, seconds_of(made, TRAIN)


@pytest.fixture
def trained_twice(twice: tuple[Project, float]) -> Project:
    """The project."""
    return twice[0]


def check_whole(project: Project) -> int:
    """All that is there is whole; return the version in Production."""
    table = project.folder / "data" / "imdb.csv"
    assert len(read_table(table)) == read_summary(table)["rows"]
    client = project.client()
    for version in all_versions(client):
        assert version.status == "READY"
        folder = Path(client.get_model_version_download_uri(MODEL_NAME, str(version.number)))
        assert version.tags.items() >= digests(folder).items(), version.number
        assert "accuracy" in version.tags
    (serving,) = in_production(client)
    return serving.number


def kill_at_random(project: Project, command: list[str], longest: float, chosen: random.Random) -> None:
    with project.start(*command) as running:
        try:
            running.communicate(timeout=chosen.uniform(0, longest))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


def seconds_of(project: Project, command: list[str]) -> float:
    began = time.monotonic()
    project.run(*command)
    return time.monotonic() - began


def test_training_registering_and_promoting(twice: tuple[Project, float]) -> None:
    (trained_twice, longest), chosen = twice, random.Random(0)
    for _ in range(KILLS):
        before = check_whole(trained_twice)
        kill_at_random(trained_twice, TRAIN, longest, chosen)
        assert check_whole(trained_twice) >= before
    versions = len(all_versions(trained_twice.client()))
    assert f"version {versions + 1} is in Production" in trained_twice.run(*TRAIN)
    assert check_whole(trained_twice) == versions + 1
    assert not list((trained_twice.folder / "data").glob(".*part"))


def test_promoting(trained_twice: Project) -> None:
    chosen = random.Random(1)
    last = len(all_versions(trained_twice.client()))

    def promote(version: int) -> list[str]:
        return ["python", "-m", "training.promote", "--version", str(version), "--force", "yes"]

    longest = seconds_of(trained_twice, promote(1))
    for kill in range(KILLS):
        wanted, other = (last, 1) if kill % 2 == 0 else (1, last)
        kill_at_random(trained_twice, promote(wanted), longest, chosen)
        assert check_whole(trained_twice) in (wanted, other)
        trained_twice.run(*promote(wanted))
        assert check_whole(trained_twice) == wanted


def test_rolling_back(trained_twice: Project) -> None:
    chosen = random.Random(2)
    last = len(all_versions(trained_twice.client()))
    back = ["python", "-m", "training.rollback", "--from", str(last)]
    promote = ["python", "-m", "training.promote", "--force", "yes", "--version"]
    trained_twice.run(*promote, "1")
    trained_twice.run(*promote, str(last))
    longest = seconds_of(trained_twice, back)
    for _ in range(KILLS):
        trained_twice.run(*promote, "1")
        trained_twice.run(*promote, str(last))
        kill_at_random(trained_twice, back, longest, chosen)
        assert check_whole(trained_twice) in (1, last)
        trained_twice.run(*back)
        assert check_whole(trained_twice) == 1


def shut(command: list[str], *options: str, before: str = "true") -> list[str]:
    """Return a command in namespaces of its own, in which ``before`` has been run."""
    inside = ["unshare", "--user", "--map-root-user", *options]
    tried = subprocess.run([*inside, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")
    return [*inside, "sh", "-c", f'{before} && exec "$@"', "sh", *command]


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Let this process write no file beyond a size in bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_on_the_disk(trained_twice: Project) -> None:
    """No file may grow beyond a limit, which is doubled until the command succeeds."""
    versions, steps = len(all_versions(trained_twice.client())), set()
    for power in range(5, 17):
        # other rows than before: the table is written again
        command = [*TRAIN[2:], "--out", "data/imdb.csv", "--test-size", f"0.{10 + power}"]
        with files_no_larger_than(2**power * 1024):
            told = trained_twice.call(*command, code=None)
        check_whole(trained_twice)
        if "is in Production" in told:
            break
        assert len(all_versions(trained_twice.client())) == versions
        last = told.strip().splitlines()[-1]
        assert last.startswith("Error: "), told
        assert "cannot be written" in last
        steps.add(last.split(" cannot be written")[0].rsplit(" ", 1)[-1])
    else:
        pytest.fail("it never succeeded")
    assert check_whole(trained_twice) == versions + 1
    assert len(steps) > 1, "more than one kind of file had its turn"


@pytest.mark.parametrize("folder", ["data", "mlruns"])
def test_a_read_only_folder(trained_twice: Project, folder: str) -> None:
    versions = len(all_versions(trained_twice.client()))
    where = trained_twice.folder / folder
    locked = f"mount --bind {where} {where} && mount -o remount,bind,ro {where}"
    command = [*TRAIN, "--test-size", "0.3"]
    told = trained_twice.run(*shut(command, "--mount", before=locked), code=1)
    assert f"/{folder}" in told.strip().splitlines()[-1]
    assert "cannot be written" in told.strip().splitlines()[-1]
    check_whole(trained_twice)
    assert len(all_versions(trained_twice.client())) == versions


def test_without_a_network_it_trains_and_answers(trained_twice: Project) -> None:
    versions = len(all_versions(trained_twice.client()))
    lo = "ip link set lo up"
    told = trained_twice.run(*shut(TRAIN, "--net"))
    assert f"version {versions + 1} is in Production" in told
    assert "positive" in trained_twice.run(*shut(["python", "-m", "inference.smoke"], "--net", before=lo))


def test_ingesting(tmp_path: Path, all_reviews: pd.DataFrame) -> None:
    """Two sources in turn, each of which replaces the table of the other."""
    project, chosen = copy_project(tmp_path / "project"), random.Random(3)
    for seed, (name, rows) in enumerate([("one.csv", 9000), ("two.csv", 12000)]):
        all_reviews.sample(rows, random_state=seed).to_csv(project.folder / name, index=False)
    command = ["python", "-m", "data.ingest", "--source"]
    project.run(*command, "one.csv")
    longest = seconds_of(project, [*command, "two.csv"])
    table = project.folder / "data" / "imdb.csv"
    for kill in range(KILLS):
        name = ("one.csv", "two.csv")[kill % 2]
        kill_at_random(project, [*command, name], longest, chosen)
        # a table that its summary does not describe is whole, and noticed by whoever reads the summary
        assert len(read_table(table)) > 8000
        with suppress(DataError):
            assert read_summary(table)["rows"] == len(read_table(table))
        project.run(*command, name)
        assert len(read_table(table)) == read_summary(table)["rows"]
    assert not list((project.folder / "data").glob(".*part"))
