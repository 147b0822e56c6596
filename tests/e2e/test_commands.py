"""The commands that users type, driven as they type them, in a copy of the project."""

import os
import re
import signal
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import Project, copy_project

pytestmark = pytest.mark.medium


def versions(project: Project) -> dict[int, str]:
    found = project.client().search_model_versions("name = 'SentimentClassifier'")
    return {int(version.version): version.current_stage or "None" for version in found}


@pytest.mark.large
def test_evaluate_judges_a_version_on_any_csv(project: Project, tmp_path: Path) -> None:
    csv = tmp_path / "mine.csv"
    rows = [f"A wonderful film number {i}.,1\nA dull and boring film number {i}.,0\n" for i in range(30)]
    csv.write_text("text,label\n" + "".join(rows))
    evaluate = ["mlflow", "run", ".", "--env-manager", "local", "-e", "evaluate", "-P", f"source={csv}"]
    told = project.run(*evaluate, "-P", "version=1")
    assert "version 1 on" in told
    assert float(told.split("accuracy")[1].split()[0]) > 0.9


def test_evaluate_leaves_out_what_the_version_was_trained_on(project: Project, tmp_path: Path) -> None:
    table = pd.read_csv(project.folder / "data" / "imdb.csv").sample(1500, random_state=0)
    table.to_csv(tmp_path / "some.csv", index=False)
    options = ["--version", "1", "--source", str(tmp_path / "some.csv")]
    told = project.call("training.evaluate", *options)
    seen, of = (
        int(word.replace(",", "")) for word in re.findall(r"left out: ([\d,]+) of ([\d,]+) rows", told)[0]
    )
    assert of == 1500
    assert 100 < seen < 300, "4,000 of 33,429 rows were trained on"
    assert f"score: {of - seen:,} rows" in told, "the others alone are judged"
    assert "imdb/accuracy" in told


def test_a_wrong_parameter_makes_mlflow_run_fail(project: Project) -> None:
    told = project.run("mlflow", "run", ".", "--env-manager", "local", "-P", "C=none", code=1)
    assert "'none' is not allowed; expected a number from 1e-06" in told


def test_make_alone_lists_the_targets(project: Project) -> None:
    assert "make run" in project.make()
    assert project.make() == project.make("help")


def test_make_promote_without_a_version_says_what_to_type(project: Project) -> None:
    assert "make promote VERSION=n" in project.make("promote", code=2)


@pytest.mark.large
def test_a_run_killed_near_registration_leaves_whole_versions(
    tmp_path: Path, all_reviews: pd.DataFrame
) -> None:
    """kill -9 at four moments, each in a repeat of the command that was killed before; at last it finishes the job."""
    project = copy_project(tmp_path / "project")
    all_reviews.sample(1200, random_state=0).to_csv(project.folder / "some.csv", index=False)
    command = ["python", "-u", "-m", "training.main", "--source", "some.csv", "--ngram-max", "1"]
    command += ["--promote", "always"]  # so few held-out rows do not pass the gate
    for after in ("log: ", "register: ", "registered: ", "promote: "):
        with project.start(*command) as running:
            assert running.stdout is not None
            for line in running.stdout:
                if line.startswith(after):
                    os.killpg(running.pid, signal.SIGKILL)
                    break
            else:
                pytest.fail(f"the run never said {after!r}")
        assert running.returncode == -signal.SIGKILL
        for number in versions(project):
            version = project.client().get_model_version("SentimentClassifier", str(number))
            assert {"manifest", "content_digest", "held_out_digest", "accuracy"} <= set(version.tags)
            assert version.description
        assert list(versions(project).values()).count("Production") <= 1

    told = project.run(*command)
    assert "is in Production" in told
    assert list(versions(project).values()).count("Production") == 1


@pytest.mark.large
def test_ctrl_c_ends_a_run_cleanly(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    with project.start("python", "-u", "-m", "training.main", "--limit", "2500") as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("features: "):
                break
        os.killpg(running.pid, signal.SIGINT)
        deadline = time.monotonic() + 30
        rest = running.stdout.read()
        running.wait(timeout=max(1, deadline - time.monotonic()))
    assert running.returncode == 1
    assert "Aborted!" in rest
    assert "Traceback" not in rest
    (run,) = project.client().search_runs(["0"])
    assert run.info.status == "KILLED"
    assert versions(project) == {}
