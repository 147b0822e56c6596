"""The overlays of docker-compose.yml with a real engine, and with images that stand in for those of a registry."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests

from tests.conftest import ROOT, free_port, until
from tests.deploy.test_containers import SMALL, System, docker

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (make env-s3)")

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("engine")]
STAND_INS = ROOT / "tests" / "deploy" / "stand_ins"


@contextmanager
def up(*overlays: str, **environment: str) -> Iterator[System]:
    """`make up` with overlays, whose images are built from Debian's packages."""
    made = System()
    made.project = made.environment["COMPOSE_PROJECT_NAME"] = f"{made.project}-overlay"
    made.environment |= {"COMPOSE_FILE": ":".join(["docker-compose.yml", *overlays])} | environment
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


def stand_in(name: str) -> str:
    """Build the image that stands in, and return its name."""
    image = f"sentiment-stand-in-{name}"
    docker("build", "--tag", image, "--file", str(STAND_INS / f"{name}.Dockerfile"), str(STAND_INS))
    return image


def test_postgresql_and_s3() -> None:
    stand_in("s3")
    port = free_port()
    with up(
        "docker-compose.postgres.yml",
        "tests/deploy/stand_ins/s3.yml",
        POSTGRES_IMAGE=stand_in("postgres"),
        POSTGRES_PASSWORD="aWordOfTheDatabase",
        ARTIFACTS="s3://models/registry",
        MLFLOW_S3_ENDPOINT_URL="http://s3:9000",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        S3_PORT=str(port),
    ) as system:
        system.compose("up", "--detach", "s3")
        s3 = boto3.resource(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        until(lambda: _answers(port), 30, "an answer of S3")
        bucket = s3.create_bucket(Bucket="models")
        told = system.make("up")
        assert told.returncode == 0, told.stdout
        told = system.make("train-docker", f"ARGS={SMALL}")
        assert told.returncode == 0, told.stdout
        system.serves(1)
        assert any(found.key.endswith("MLmodel") for found in bucket.objects.all())
        held = system.shell("$COMPOSE exec -T mlflow-server find /data -type f").split()
        assert not held, "database and artifacts are elsewhere"
        # the database outlives its container
        system.compose("up", "--detach", "--force-recreate", "postgres", "mlflow-server")
        until(lambda: system.versions() == [1], 60, "the registry")


def test_passwords_of_mlflow() -> None:
    admin, reader = ("admin", "a-long-word-of-the-admin"), ("reader", "a-long-word-of-the-reader")
    with up(
        "docker-compose.passwords.yml",
        ADMIN_PASSWORD=admin[1],
        SESSION_KEY="a-long-word-of-the-server",
        READER_PASSWORD=reader[1],
    ) as system:
        told = system.make("up")
        assert told.returncode == 0, told.stdout
        users = f"{system.registry}/api/2.0/mlflow/users"
        until(lambda: system.ready()[0] == 503, 60, "a service that waits")
        for stranger in (None, ("admin", "password1234"), reader):
            assert requests.get(f"{users}/current", auth=stranger, timeout=10).status_code == 401
        made = {"username": reader[0], "password": reader[1]}
        assert requests.post(f"{users}/create", json=made, auth=admin, timeout=10).status_code == 200
        told = system.make("train-docker", f"ARGS={SMALL}")
        assert told.returncode == 0, told.stdout
        system.serves(1)
        body = {"name": "SentimentClassifier", "version": "1", "stage": "Archived"}
        moved = requests.post(
            f"{system.registry}/api/2.0/mlflow/model-versions/transition-stage",
            json=body,
            auth=reader,
            timeout=10,
        )
        assert moved.status_code == 403
        system.serves(1)


def _answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}", timeout=2).status_code < 500
    except requests.ConnectionError:
        return False


def test_prometheus_sees_the_service() -> None:
    """Grafana has no package of Debian's: its part is held against its own files alone."""
    port = free_port()
    with up(
        "docker-compose.monitoring.yml",
        PROMETHEUS_IMAGE=stand_in("prometheus"),
        PROMETHEUS_PORT=str(port),
        GRAFANA_PASSWORD="unused",
    ) as system:
        system.compose("up", "--detach", "--build", "api", "prometheus")

        def targets() -> dict[str, str]:
            try:
                found = requests.get(f"http://127.0.0.1:{port}/api/v1/targets", timeout=5).json()["data"]
            except requests.ConnectionError:
                return {}
            return {target["labels"]["job"]: target["health"] for target in found["activeTargets"]}

        until(
            lambda: targets() == {"sentiment-haproxy": "up", "sentiment-supervisor": "up"}, 60, "both targets"
        )
        rules = requests.get(f"http://127.0.0.1:{port}/api/v1/rules", timeout=5).json()["data"]["groups"]
        assert sum(len(group["rules"]) for group in rules) >= 10
        asked = f"http://127.0.0.1:{port}/api/v1/query?query=sentiment_ready"
        (value,) = requests.get(asked, timeout=5).json()["data"]["result"]
        assert value["value"][1] == "0", "no version is in Production"


@pytest.mark.parametrize(
    ("overlay", "variable"),
    [
        ("docker-compose.postgres.yml", "POSTGRES_PASSWORD"),
        ("docker-compose.postgres.yml", "ARTIFACTS"),
        ("docker-compose.monitoring.yml", "GRAFANA_PASSWORD"),
        ("docker-compose.passwords.yml", "ADMIN_PASSWORD"),
        ("docker-compose.passwords.yml", "SESSION_KEY"),
        ("docker-compose.passwords.yml", "READER_PASSWORD"),
    ],
)
def test_what_must_be_chosen_is_asked_for(overlay: str, variable: str) -> None:
    system = System()
    system.environment |= {"POSTGRES_PASSWORD": "x", "ARTIFACTS": "x", "GRAFANA_PASSWORD": "x"}
    system.environment |= {"ADMIN_PASSWORD": "x", "SESSION_KEY": "x", "READER_PASSWORD": "x"}
    del system.environment[variable]
    system.environment["COMPOSE_FILE"] = f"docker-compose.yml:{overlay}"
    told = system.make("up")
    assert told.returncode != 0
    assert variable in told.stdout
