"""TLS and passwords in front of a real service and a real registry, with a certificate made here."""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.tracking import MlflowClient

from inference.service.proxy import find_haproxy
from tests.conftest import ROOT, free_port, running, tracking_server, until
from tests.inference.conftest import Registry, Service

pytestmark = [pytest.mark.haproxy, pytest.mark.large]
EDGE = ROOT / "deploy" / "edge" / "haproxy.cfg"
APP, TRAINER = ("app", "a word of the app"), ("trainer", "a word of the trainer")


@dataclass
class Edge:
    """Where it is, and whom it can be believed by."""

    service: str
    registry: str
    certificate: Path


def make_certificate(folder: Path) -> Path:
    """Make one for localhost, and return the file with it and its key."""
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "edge.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return both


@contextmanager
def guarded(certificate: Path, app: str, trainer: str, **places: str) -> Iterator[Edge]:
    """Run the edge with these passwords in front of these places."""
    ports = [free_port() for _ in range(2)]
    environment = places | {
        "CERTIFICATE": str(certificate),
        "APP_PASSWORD": app,
        "TRAINER_PASSWORD": trainer,
        "SERVICE_BIND": f"127.0.0.1:{ports[0]}",
        "REGISTRY_BIND": f"127.0.0.1:{ports[1]}",
    }
    made = Edge(f"https://localhost:{ports[0]}", f"https://localhost:{ports[1]}", certificate)
    with subprocess.Popen([find_haproxy(), "-db", "-f", str(EDGE)], env=environment) as proxy:
        try:
            until(lambda: status(made.service, made) == 401, 20, "an answer of the edge")
            yield made
        finally:
            proxy.kill()


@pytest.fixture
def edge(service: Service, versions: Registry, tmp_path: Path) -> Iterator[Edge]:
    """A service and a registry on the same store, both behind one HAProxy."""
    url = f"http://127.0.0.1:{free_port()}"
    registry = tracking_server(url, "--workers", "1", "--artifacts-destination", str(tmp_path / "artifacts"))
    registry += ["--backend-store-uri", service.environment["MLFLOW_TRACKING_URI"]]
    service.begin(versions)
    with (
        running(registry, f"{url}/health", tmp_path),
        guarded(
            make_certificate(tmp_path),
            APP[1],
            TRAINER[1],
            SERVICE=f"127.0.0.1:{service.port}",
            REGISTRY=url.removeprefix("http://"),
        ) as made,
    ):
        yield made


def status(url: str, edge: Edge, who: tuple[str, str] | None = None) -> int:
    try:
        return requests.get(f"{url}/ready", auth=who, verify=str(edge.certificate), timeout=10).status_code
    except requests.ConnectionError:
        return 0


def test_the_service_is_for_who_knows_a_word_and_the_page_for_its_own_browser(edge: Edge) -> None:
    def ask(who: tuple[str, str] | None) -> requests.Response:
        return requests.post(
            f"{edge.service}/invocations",
            json={"inputs": ["A wonderful film."]},
            auth=who,
            verify=str(edge.certificate),
            timeout=30,
        )

    for stranger in (None, ("app", "wrong"), ("nobody", APP[1])):
        told = ask(stranger)
        assert told.status_code == 401
        assert "predictions" not in told.text
    for who in (APP, TRAINER):
        told = ask(who)
        assert told.json()["predictions"][0]["sentiment"] == "positive"
        assert told.headers["X-Model-Version"] == "1"

    def ask_from(origin: str) -> int:
        return requests.post(
            f"{edge.registry}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            headers={"Origin": origin},
            auth=TRAINER,
            verify=str(edge.certificate),
            timeout=10,
        ).status_code

    assert ask_from(edge.registry) == 200
    assert ask_from("https://evil.example") == 403


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_nobody_speaks_without_tls_or_an_old_one(tmp_path: Path) -> None:
    with guarded(make_certificate(tmp_path), APP[1], TRAINER[1]) as edge:
        with pytest.raises(requests.ConnectionError):
            requests.get(edge.service.replace("https", "http"), timeout=5)
        old = ssl.create_default_context(cafile=str(edge.certificate))
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        port = int(edge.service.rsplit(":", 1)[1])
        with (
            pytest.raises(ssl.SSLError, match="protocol version"),
            old.wrap_socket(
                socket.create_connection(("127.0.0.1", port), timeout=5), server_hostname="localhost"
            ),
        ):
            pass


def test_who_may_ask_for_sentiments_may_not_change_what_is_served(
    edge: Edge, service: Service, versions: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(edge.registry, edge) == 401
    assert status(edge.registry, edge, APP) == 403
    versions.add()
    # MLflow's own client, as a trainer on another machine uses it
    there = {
        "MLFLOW_TRACKING_URI": edge.registry,
        "MLFLOW_TRACKING_USERNAME": TRAINER[0],
        "MLFLOW_TRACKING_PASSWORD": TRAINER[1],
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(edge.certificate),
    }

    def history(**changed: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "registry.history"]
        environment = os.environ | there | changed
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)

    told = history()
    assert "1  Production" in told.stdout, told.stderr
    for changed, said in (
        ({"MLFLOW_TRACKING_USERNAME": APP[0], "MLFLOW_TRACKING_PASSWORD": APP[1]}, "does not let you in"),
        (
            {"MLFLOW_TRACKING_PASSWORD": "wrong"},
            "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        ),
        (
            {"MLFLOW_TRACKING_SERVER_CERT_PATH": requests.utils.DEFAULT_CA_BUNDLE_PATH},
            "give it in MLFLOW_TRACKING_SERVER_CERT_PATH",
        ),
    ):
        told = history(**changed)
        assert told.returncode != 0
        assert said in told.stderr
        assert "Traceback" not in told.stderr
    for variable, value in there.items():
        monkeypatch.setenv(variable, value)
    remote = MlflowClient(edge.registry)
    remote.set_model_version_tag("SentimentClassifier", "2", "seen", "through the edge")
    assert versions.client.get_model_version("SentimentClassifier", "2").tags["seen"] == "through the edge"
    mlflow.set_tracking_uri(service.environment["MLFLOW_TRACKING_URI"])


def test_an_empty_password_lets_nobody_in(tmp_path: Path) -> None:
    with guarded(make_certificate(tmp_path), "", "") as edge:
        for url in (edge.service, edge.registry):
            assert [status(url, edge, (who, "")) for who in ("app", "trainer")] == [403, 403]


def test_without_passwords_it_does_not_start() -> None:
    for variable in ("CERTIFICATE", "APP_PASSWORD", "TRAINER_PASSWORD"):
        given = {"CERTIFICATE": "x", "APP_PASSWORD": "x", "TRAINER_PASSWORD": "x"}
        del given[variable]
        told = subprocess.run(
            [find_haproxy(), "-c", "-f", str(EDGE)], env=given, capture_output=True, text=True, check=False
        )
        assert told.returncode != 0
        assert "give CERTIFICATE" in told.stderr
