"""A registry for more than one machine: a real PostgreSQL, artifacts in an S3 that runs here, the same commands."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from registry.store import MODEL_NAME
from registry.versions import all_versions
from tests.conftest import TRAIN, Project, copy_project, free_port, running, tracking_server, until

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (make env-s3)")
psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed (make env-postgres)")

INITDB = next(
    iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
) or shutil.which("initdb")
pytestmark = [
    pytest.mark.skipif(
        INITDB is None, reason="PostgreSQL is not installed: apt-get install postgresql (Debian, Ubuntu)"
    ),
    pytest.mark.large,
]
PASSWORD = "a word of the database"
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "models"


@dataclass
class Shared:
    """A tracking server on PostgreSQL and S3, and what lies behind it."""

    url: str
    database: str
    bucket: Any

    def objects(self) -> list[str]:
        """The objects in the bucket."""
        return sorted(found.key for found in self.bucket.objects.all())


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a PostgreSQL of the tests' own. It does not run as root."""
    assert INITDB
    programs, folder = Path(INITDB).parent, Path(tempfile.mkdtemp(prefix="pg-"))
    user = "postgres" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    word = folder / "word"
    word.write_text(PASSWORD)
    word.chmod(0o644)
    port = free_port()
    make = [str(INITDB), "--pgdata", str(folder / "data"), "--username", "mlflow", "--auth", "scram-sha-256"]
    subprocess.run([*make, "--pwfile", str(word)], check=True, capture_output=True, user=user, cwd=folder)
    serve = [str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
    address = f"postgresql+psycopg2://mlflow:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        with suppress(psycopg2.OperationalError):
            psycopg2.connect(address.replace("+psycopg2", "")).close()
            return True
        return False

    process = subprocess.Popen([*serve, "-c", "listen_addresses=127.0.0.1"], user=user, cwd=folder)
    try:
        until(answers, 60, "an answer of PostgreSQL")
        yield address
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shared(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The server that docker-compose.postgres.yml and the production overlay describe."""
    folder = tmp_path_factory.mktemp("shared")
    s3, url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with running(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", s3.rsplit(":", 1)[1]],
        s3,
    ):
        bucket = boto3.resource(
            "s3",
            endpoint_url=s3,
            region_name=AWS["AWS_DEFAULT_REGION"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)
        command = tracking_server(url, "--workers", "2", "--artifacts-destination", f"s3://{BUCKET}/registry")
        environment = os.environ | AWS | {"MLFLOW_BACKEND_STORE_URI": database, "MLFLOW_S3_ENDPOINT_URL": s3}
        with running(command, f"{url}/health", folder, environment):
            yield Shared(url, database, bucket)


@pytest.fixture(scope="module")
def project(shared: Shared, tmp_path_factory: pytest.TempPathFactory, all_reviews: pd.DataFrame) -> Project:
    """A client of it that knows neither database nor bucket."""
    made = copy_project(tmp_path_factory.mktemp("client") / "project")
    all_reviews.sample(1500, random_state=0).to_csv(made.folder / "some.csv", index=False)
    made.environment["MLFLOW_TRACKING_URI"] = shared.url
    assert not {*AWS, "MLFLOW_S3_ENDPOINT_URL"} & made.environment.keys()
    return made


@pytest.fixture(scope="module")
def two(project: Project) -> Project:
    """The same with two versions, the second one in Production."""
    assert "version 1 is in Production" in project.run("python", "-m", *TRAIN, "--promote", "always")
    assert "version 2 is in Production" in project.call(*TRAIN, "--promote", "always")
    return project


def test_the_whole_life(two: Project, shared: Shared) -> None:
    assert "version 1 is in Production, version 2 was left" in two.make("rollback")
    assert '"sentiment": "positive"' in two.run("python", "-m", "inference.smoke")
    assert "version 2 is in Production" in two.make("promote", "VERSION=2", "FORCE=1")
    told = two.call("registry.history")
    assert [line.split()[1:3] for line in told.splitlines()[-4:]] == [
        ["promote", "1"],
        ["promote", "2"],
        ["rollback", "1"],
        ["promote", "2"],
    ]
    assert any(key.startswith("registry/") and key.endswith("MLmodel") for key in shared.objects())
    assert not (two.folder / "mlruns").exists()
    assert not (two.folder / "mlflow.db").exists()


def test_two_machines_promote_at_once(two: Project, shared: Shared, tmp_path: Path) -> None:
    """Each has locks of its own: whatever the order, one version is in Production and the alias names it."""
    client = MlflowClient(shared.url)
    machines = []
    for name in ("one", "other"):
        machine = Project(two.folder)
        (tmp_path / name).mkdir()
        machine.environment |= {"MLFLOW_TRACKING_URI": shared.url, "TMPDIR": str(tmp_path / name)}
        machines.append(machine)
    for _ in range(3):
        commands = [
            machine.start("python", "-m", "training.promote", "--version", number, "--force", "yes")
            for machine, number in zip(machines, "12", strict=True)
        ]
        told = [command.communicate(timeout=120)[0] for command in commands]
        for command, said in zip(commands, told, strict=True):
            with command:
                assert command.returncode == 0 or "stays" in said or "run again" in said, said
                assert "Traceback" not in said
        serving = [v.number for v in all_versions(client) if v.stage == "Production"]
        assert len(serving) == 1, told
        assert int(client.get_model_version_by_alias(MODEL_NAME, "production").version) == serving[0]
        assert sum("is in Production" in said for said in told) >= 1
    # the audit trail is whole, and whoever comes next can go on
    assert "version 1 is in Production" in two.call("training.promote", "--version", "1", "--force", "yes")
    assert "pending" not in client.get_registered_model(MODEL_NAME).tags


def test_pruning_deletes_the_objects_too(two: Project, shared: Shared) -> None:
    two.call(*TRAIN, "--promote", "never")
    two.call(*TRAIN, "--promote", "never")
    before = shared.objects()
    told = two.make("prune", "KEEP=1")
    assert "deleted: version 3" in told
    gone = set(before) - set(shared.objects())
    assert any(key.endswith("MLmodel") for key in gone)
    assert '"sentiment": "positive"' in two.run("python", "-m", "inference.smoke")


def test_a_database_without_its_driver_is_one_line_without_the_password(shared: Shared) -> None:
    """`postgresql://` alone means psycopg 3 to SQLAlchemy, with which MLflow cannot promote: it is not installed."""
    told = subprocess.run(
        [sys.executable, "-m", "registry.history"],
        env=os.environ | {"MLFLOW_TRACKING_URI": shared.database.replace("+psycopg2", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode != 0
    assert "does not answer (No module named 'psycopg')" in told.stderr
    assert "Traceback" not in told.stderr
    assert PASSWORD.replace(" ", "%20") not in told.stdout + told.stderr
