import os
import py_compile
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from registry.errors import RegistryError, VerificationError
from registry.store import MODEL_NAME, connect
from registry.versions import Version, all_versions, check_examples, fetch, find, predict, register
from tests.conftest import ROOT
from training.train import Candidate

pytestmark = pytest.mark.medium


@pytest.fixture
def version(store: MlflowClient, candidate: Candidate) -> Version:
    return register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)


def files(store: MlflowClient, version: Version) -> Path:
    """The folder where the artifact store keeps the version."""
    return Path(str(store.get_model_version_download_uri(MODEL_NAME, str(version.number))))


def test_a_version_carries_everything_from_its_first_moment(store: MlflowClient, version: Version) -> None:
    found = store.get_model_version(MODEL_NAME, str(version.number))
    assert {"accuracy", "ece", "manifest", "content_digest", "held_out_digest", "data_sha256"} <= set(
        found.tags
    )
    assert found.description
    assert found.description.startswith("# SentimentClassifier")
    assert found.run_id


def test_an_untouched_version_is_fetched_and_answers(version: Version, tmp_path: Path) -> None:
    copy = fetch(version, tmp_path / "copy")
    check_examples(copy)
    answers = predict(copy, pd.Series(["A wonderful film.", "none"]))
    assert answers["sentiment"].tolist()[0] == "positive"
    assert answers["error"].tolist()[1].startswith("row 1: text is 'none'")


def test_a_load_in_place_does_not_change_the_digest(
    store: MlflowClient, version: Version, tmp_path: Path
) -> None:
    folder = files(store, version)
    assert not list(folder.rglob("__pycache__")), "no bytecode is logged"
    mlflow.pyfunc.load_model(f"models:/{MODEL_NAME}/{version.number}")
    assert (folder / "registered_model_meta").exists()
    assert list(folder.rglob("__pycache__")), "the load left bytecode in the store"
    fetch(version, tmp_path / "copy")
    shutil.rmtree(folder / "__pycache__")
    fetch(version, tmp_path / "another")


def test_forged_bytecode_never_runs(store: MlflowClient, version: Version, tmp_path: Path) -> None:
    folder = files(store, version)
    canary = tmp_path / "canary"
    source = folder / "code" / "sentiment_model" / "contract.py"
    before = source.read_text()
    stat = source.stat()
    source.write_text(f"__import__('pathlib').Path({str(canary)!r}).touch()\n" + before)
    assert py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text(before)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_examples(fetch(version, tmp_path / "copy"))
    assert not canary.exists()
    mlflow.pyfunc.load_model(str(folder))
    assert canary.exists(), "loaded in place it would have run"


def test_one_flipped_bit_in_any_file_is_refused(
    store: MlflowClient, version: Version, tmp_path: Path
) -> None:
    folder = files(store, version)
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "registered_model_meta"]
    assert len(paths) > 10
    for i, path in enumerate(paths):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(VerificationError, match="is not what was registered"):
            fetch(version, tmp_path / f"copy{i}")
        path.write_bytes(content)
    fetch(version, tmp_path / "copy")


@pytest.mark.parametrize("change", ["missing", "added", "moved", "gone"])
def test_missing_added_and_moved_files_are_refused(
    store: MlflowClient, version: Version, tmp_path: Path, change: str
) -> None:
    folder = files(store, version)
    if change == "missing":
        (folder / "entry.py").unlink()
    elif change == "added":
        (folder / "code" / "extra.py").write_text("print('hello')")
    elif change == "moved":
        (folder / "conda.yaml").rename(folder / "conda2.yaml")
    else:
        shutil.rmtree(folder)
    with pytest.raises(VerificationError):
        fetch(version, tmp_path / "copy")


def test_a_link_out_of_the_artifact_is_refused(store: MlflowClient, version: Version, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("print('hello')")
    (files(store, version) / "code" / "link.py").symlink_to(outside)
    with pytest.raises(VerificationError):
        fetch(version, tmp_path / "copy")


def test_a_version_of_somebody_else_is_refused(store: MlflowClient, version: Version, tmp_path: Path) -> None:
    stranger = store.create_model_version(MODEL_NAME, version.source, version.run_id)
    with pytest.raises(VerificationError, match="has no tag 'manifest'"):
        fetch(find(store, stranger.version), tmp_path / "copy")


def test_wrong_example_answers_are_noticed(version: Version, tmp_path: Path) -> None:
    copy = fetch(version, tmp_path / "copy")
    examples = copy / "artifacts" / "scorer" / "examples.json"
    examples.write_text(examples.read_text().replace('"sentiment": "positive"', '"sentiment": "negative"'))
    with pytest.raises(RegistryError, match="does not give its own example answers"):
        check_examples(copy)


def test_a_version_that_does_not_load_is_one_clear_message(version: Version, tmp_path: Path) -> None:
    copy = fetch(version, tmp_path / "copy")
    (copy / "entry.py").write_text("raise RuntimeError('broken on purpose')")
    with pytest.raises(RegistryError, match=r"does not load or answer: .*broken on purpose"):
        check_examples(copy)


def test_finding_says_what_there_is(store: MlflowClient, version: Version) -> None:
    assert find(store, "latest") == find(store, 1) == all_versions(store)[0]
    with pytest.raises(RegistryError, match=r"has no version '7' \(it has: 1\)"):
        find(store, 7)
    with pytest.raises(RegistryError, match="no version of SentimentClassifier is in Production"):
        find(store, "Production")


def test_an_unreachable_store_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match="does not answer") as caught:
        connect()
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("revision", ["of_a_newer_mlflow", "451aebb31d03"])
def test_a_store_with_tables_of_another_mlflow_is_one_clear_message(
    store: MlflowClient, revision: str
) -> None:
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    told = subprocess.run(
        [sys.executable, "-m", "registry.history"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode != 0
    assert "does not answer (Detected out-of-date database schema" in told.stderr
    assert "mlflow db upgrade" in told.stderr
    assert "Traceback" not in told.stderr
