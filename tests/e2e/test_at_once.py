"""Commands that run at the same time on one SQLite store: no lost update, and nothing of a locked database for users."""

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.stages import history
from registry.versions import all_versions, fetch, in_production
from tests.conftest import Project, copy_project, standing_in

pytestmark = pytest.mark.large

TURNS = int(os.environ.get("TURNS") or 1)
TRAIN = ["mlflow", "run", ".", "--env-manager", "local", "-P", "limit=2000", "-P", "ngram_max=1"]


def at_once(project: Project, *commands: list[str], apart: float = 0.0) -> list[tuple[int, str]]:
    """Start commands together, and return the exit code of each and what it printed."""
    with ExitStack() as stack:
        started = []
        for command in commands:
            started.append(stack.enter_context(project.start(*command)))
            time.sleep(apart)  # so that they meet at different points, and wait for nothing
        told = [process.communicate(timeout=300)[0] for process in started]
    for text in told:
        assert "locked" not in text, text
        assert "UNIQUE" not in text, text
    return [(process.returncode, text) for process, text in zip(started, told, strict=True)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which two people typed ``mlflow run .`` at the same moment, on a store that is new but there.

    Where it is not there yet MLflow itself makes its tables in both, and one run may end at that.
    """
    made = copy_project(tmp_path_factory.mktemp("at-once") / "project")
    made.make("history")
    for code, told in at_once(made, TRAIN, TRAIN):
        assert code == 0, told
        assert "registered: SentimentClassifier version" in told
        assert "Traceback" not in told
        made.first_run += told
    return made


def test_two_first_runs_both_end_well(project: Project) -> None:
    client = project.client()
    assert [version.number for version in all_versions(client)] == [1, 2]
    assert len(in_production(client)) == 1
    assert "promoted: SentimentClassifier version" in project.first_run
    runs = client.search_runs(["0"])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert {run.data.tags["version"] for run in runs} == {"1", "2"}


def test_whatever_is_typed_at_once_one_version_is_in_production_and_whole(
    project: Project, tmp_path: Path
) -> None:
    client = project.client()
    python = ["python", "-m"]
    for turn in range(TURNS):
        before = {version.number for version in all_versions(client)}
        newest = max(before)
        results = at_once(
            project,
            TRAIN,
            [*python, "training.promote", "--version", str(min(before)), "--force", "yes"],
            [*python, "training.promote", "--version", str(newest), "--force", "yes"],
            [*python, "training.rollback"],
            [*python, "registry.prune", "--keep", "1"],
            [*python, "registry.history"],
            [*python, "registry.prune", "--keep", "1"],
            apart=0.3,
        )
        for code, told in results:
            assert "Traceback" not in told, told
            assert code in (0, 1, 3), told
            assert code == 0 or "Error: " in told, told
        assert results[0][0] == results[4][0] == results[5][0] == 0, results
        (serving,) = in_production(client)
        (tmp_path / str(turn)).mkdir()
        with standing_in(project.folder):
            fetch(serving, tmp_path / str(turn))
        assert history(client)[-1].version == serving.number
        assert max(version.number for version in all_versions(client)) == newest + 1
        assert "pending" not in client.get_registered_model("SentimentClassifier").tags
