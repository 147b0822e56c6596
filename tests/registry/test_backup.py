"""A registry is copied while it is in use, destroyed, restored, and serves."""

import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

from registry.stages import promote
from registry.versions import register
from tests.conftest import ROOT
from training.train import Candidate


def run(*command: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def back_up(folder: Path, to: Path | str) -> "subprocess.CompletedProcess[str]":
    return run(sys.executable, "-m", "registry.backup", str(folder), str(to))


def test_backed_up_destroyed_restored_served(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    folder, archive = Path.cwd(), tmp_path / "backup.tar"
    made = register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    promote(store, made.number, None, "test", force=False)
    told = back_up(folder, archive)
    assert told.returncode == 0, told.stderr
    assert "MiB; 'tar -x -f " in told.stdout
    shutil.rmtree(folder)
    folder.mkdir()
    assert run("tar", "-x", "-f", str(archive), "-C", str(folder)).returncode == 0
    told = run(sys.executable, "-m", "inference.smoke")
    assert '"sentiment": "positive"' in told.stdout, told.stderr


def test_a_copy_that_is_taken_while_runs_are_written_is_whole(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    folder, archive, stop = Path.cwd(), tmp_path / "backup.tar", threading.Event()
    uri = mlflow.get_tracking_uri()

    def write() -> None:
        client = MlflowClient(uri)
        while not stop.is_set():
            run_id = client.create_run("0").info.run_id
            client.log_text(run_id, "text", "some.txt")
            client.set_tag(run_id, "written", "yes")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
        told = back_up(folder, archive)
    finally:
        stop.set()
        writer.join()
    assert told.returncode == 0, told.stderr
    restored = tmp_path / "restored"
    with tarfile.open(archive) as file:
        file.extractall(restored, filter="data")
    with closing(sqlite3.connect(restored / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        written = [row[0] for row in database.execute("SELECT run_uuid FROM tags WHERE key = 'written'")]
    assert all(
        (restored / "mlruns" / "0" / run_id / "artifacts" / "some.txt").is_file() for run_id in written
    )


def test_where_nothing_can_be_copied_it_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = back_up(tmp_path / "empty", tmp_path / "backup.tar")
    assert told.returncode != 0
    assert f"{tmp_path}/empty holds no mlflow.db" in told.stderr
    (tmp_path / "empty" / "mlflow.db").write_text(
        "this is no database, and longer than the header of one" * 100
    )
    told = back_up(tmp_path / "empty", tmp_path / "backup.tar")
    assert told.returncode != 0
    assert "mlflow.db cannot be copied: file is not a database" in told.stderr
    told = back_up(tmp_path / "empty", tmp_path / "nowhere" / "backup.tar")
    assert told.returncode != 0
    assert "backup.tar cannot be written: No such file or directory" in told.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_archive_goes_to_standard_output_too(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    (tmp_path / "elsewhere").mkdir()
    command = f"{sys.executable} -m registry.backup {Path.cwd()} - | tar -x -C {tmp_path / 'elsewhere'}"
    assert run("sh", "-c", command).returncode == 0
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"mlflow.db", "mlruns"}
