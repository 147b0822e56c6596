"""What a session of Spark needs is looked for before Spark is started, so neither Spark nor Java is needed to test it."""

from pathlib import Path

import pytest

from spark.session import SparkError, _check_answers, _check_java
from tests.conftest import free_port


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a Java that says what is given in the place of the machine's own."""

    def put(says: str) -> None:
        home = tmp_path / "java"
        (home / "bin").mkdir(parents=True)
        (home / "bin" / "java").write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        (home / "bin" / "java").chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(home))

    return put


@pytest.mark.parametrize("says", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19'])
def test_java_that_is_new_enough_is_taken(java, says: str) -> None:
    java(says)
    _check_java()


@pytest.mark.parametrize(
    "says", ['openjdk version "16.0.2"', 'java version "1.8.0_392"', "no Java at all", ""]
)
def test_java_that_is_too_old_is_named(java, says: str) -> None:
    java(says)
    with pytest.raises(SparkError, match="Spark needs Java 17 or newer") as told:
        _check_java()
    assert says.split("\n")[0] in told.value.message


def test_a_java_home_without_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SparkError, match=f"JAVA_HOME={tmp_path} holds none"):
        _check_java()


@pytest.mark.parametrize("variable", ["HADOOP_CONF_DIR", "YARN_CONF_DIR"])
def test_yarn_needs_one_folder_of_configuration(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SparkError, match="set HADOOP_CONF_DIR"):
        _check_answers("yarn")
    monkeypatch.setenv(variable, "/etc/hadoop")
    _check_answers("yarn")


def test_a_master_that_does_not_answer_is_named() -> None:
    port = free_port()
    with pytest.raises(SparkError, match=rf"does not answer \(127.0.0.1:{port}: Connection refused\)"):
        _check_answers(f"spark://127.0.0.1:{port}")
