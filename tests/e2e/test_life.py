"""One whole life of the model, by the commands that users type."""

import re

import pytest

from tests.conftest import Project
from tests.e2e.test_commands import versions

pytestmark = pytest.mark.medium


def test_mlflow_run_trains_registers_and_promotes(project: Project) -> None:
    assert "registered: SentimentClassifier version 1" in project.first_run
    assert "gate passed" in project.first_run
    assert "promoted: SentimentClassifier version 1 is in Production" in project.first_run
    assert "held out: accuracy" in project.first_run
    assert versions(project)[1] == "Production"
    client = project.client()
    run = client.get_run(str(client.get_model_version("SentimentClassifier", "1").run_id))
    assert run.data.tags["version"] == "1"
    assert run.info.status == "FINISHED"
    assert run.data.params["limit"] == "4000"
    assert run.data.tags["mlflow.note.content"].startswith("# SentimentClassifier")


def test_the_life_of_a_service(project: Project) -> None:
    """Versions 2 and 3 come; 2 is refused, forced, rolled back; the history tells it."""
    train = ["mlflow", "run", ".", "--env-manager", "local", "-e", "train"]
    weak = ["-P", "ngram_max=1", "-P", "C=0.0001", "-P", "limit=4000"]
    assert "registered: SentimentClassifier version 2" in project.run(*train, *weak)
    assert versions(project) == {1: "Production", 2: "None"}

    refused = project.make("promote", "VERSION=2", code=2)
    assert "version 2: gate refused: " in refused
    assert "version 2 was not promoted, version 1 stays in Production" in refused
    assert "significantly worse than version 1" in refused
    assert versions(project) == {1: "Production", 2: "None"}

    assert "version 2 is in Production" in project.make("promote", "VERSION=2", "FORCE=1")
    assert versions(project) == {1: "Archived", 2: "Production"}
    assert "nothing to do" in project.call("training.promote", "--version", "2")

    rolled = project.make("rollback", "FROM=2", "REASON=the 'gate' was right")
    assert "version 1 is in Production, version 2 was left and marked" in rolled
    assert "nothing to do" in project.call("training.rollback", "--from", "2")
    assert versions(project) == {1: "Production", 2: "Archived"}
    assert "was rolled back at" in project.call("training.promote", "--version", "2", code=1)
    canary = "inference.service.canary", "start", "--version", "2", "--percent", "10"
    assert "it gets no share of the requests" in project.call(*canary, code=1)
    assert "FORCE=maybe is not known; give 1" in project.make("promote", "VERSION=2", "FORCE=maybe", code=2)

    told = project.make("history")
    lines = [line for line in told.splitlines() if "promote " in line or "rollback " in line]
    assert len(lines) == 3
    assert "FORCED, gate refused" in lines[1]
    assert "the 'gate' was right" in lines[2]
    assert "rolled back" in told
    assert re.search(r"^ +1  Production  ngram +0\.\d{4}$", told, re.M)

    again = project.run("mlflow", "run", ".", "--env-manager", "local", "-P", "limit=4000")
    assert "is there already" in again, "the second run reuses the data"
    assert "not significantly worse than version 1" in again
    assert versions(project) == {1: "Archived", 2: "Archived", 3: "Production"}
    client = project.client()
    first, third = (client.get_model_version("SentimentClassifier", v).tags for v in ("1", "3"))
    assert first["content_digest"] == third["content_digest"], "same data, same seed, same content"
    assert first["manifest"] != third["manifest"]
