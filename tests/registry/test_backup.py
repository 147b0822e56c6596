"""A registry is copied while it is in use, destroyed, restored, and serves."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from registry.stages import promote
from registry.versions import register
from tests.conftest import ROOT, until
from training.train import Candidate

pytestmark = pytest.mark.medium


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
    restore = told.stdout.split("to restore it at the same place: ")[1]
    shutil.rmtree(folder)
    folder.mkdir()
    assert run("sh", "-c", restore).returncode == 0
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
    assert "the backup was not written ([Errno 2] No such file or directory" in told.stderr
    told = run("sh", "-c", f"{sys.executable} -m registry.backup {tmp_path / 'empty'} - > /dev/null")
    assert told.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_full_disk_is_one_line(store: MlflowClient) -> None:
    told = run("sh", "-c", f"{sys.executable} -m registry.backup {Path.cwd()} - > /dev/full")
    assert told.returncode != 0
    assert "the backup was not written ([Errno 28] No space left on device" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_folder_that_is_a_link_is_followed(store: MlflowClient, tmp_path: Path) -> None:
    Path("mlruns").rename(tmp_path / "larger disk")
    Path("mlruns").symlink_to(tmp_path / "larger disk")
    assert back_up(Path.cwd(), tmp_path / "backup.tar").returncode == 0
    with tarfile.open(tmp_path / "backup.tar") as file:
        assert any(name.startswith("mlruns/") and name.endswith("MLmodel") for name in file.getnames())


@pytest.mark.parametrize(
    ("where", "said"),
    [("file:///elsewhere/x", "such as /elsewhere/x"), ("s3://models/x", "such as s3://models/x")],
)
def test_artifacts_that_it_would_not_hold_are_named_before_anything_is_written(
    store: MlflowClient, tmp_path: Path, where: str, said: str
) -> None:
    store.create_run(store.create_experiment("away", where))
    told = back_up(Path.cwd(), tmp_path / "backup.tar")
    assert told.returncode != 0
    assert said in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "backup.tar").exists()


def test_make_backup_refuses_another_store(store: MlflowClient) -> None:
    told = run("make", "--no-print-directory", "backup")
    assert told.returncode != 0
    assert "not this project's own mlflow.db" in told.stdout


def test_an_archive_goes_to_standard_output_too(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    (tmp_path / "elsewhere").mkdir()
    command = f"{sys.executable} -m registry.backup {Path.cwd()} - | tar -x -C {tmp_path / 'elsewhere'}"
    assert run("sh", "-c", command).returncode == 0
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"mlflow.db", "mlruns"}


def test_a_backup_that_is_ended_leaves_nothing(
    store: MlflowClient, candidate: Candidate, tmp_path: Path
) -> None:
    with open(Path.cwd() / "mlruns" / "long", "wb") as file:
        file.truncate(2**36)
    backing_up = subprocess.Popen(
        [sys.executable, "-m", "registry.backup", str(Path.cwd()), str(tmp_path / "backup.tar")], cwd=ROOT
    )
    until(lambda: any(part.stat().st_size for part in tmp_path.glob(".backup.tar.*")), what="a part")
    backing_up.terminate()
    assert backing_up.wait(10) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*backup*"))
