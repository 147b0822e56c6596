"""How a follower is started and stopped, what it refuses to start with, and what it writes down."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from inference.server import marked
from registry.store import MODEL_NAME
from registry.versions import find
from tests.conftest import ROOT, free_port, until
from tests.inference.conftest import Registry, Service
from tests.inference.service.test_follow import begin_slow_request, finish_slow_request, in_flight, refused

pytestmark = [pytest.mark.haproxy, pytest.mark.medium]


def test_make_stop_ends_all_also_what_a_killed_supervisor_left(service: Service, versions: Registry) -> None:
    versions.promote(versions.add())
    stop = ["make", "--no-print-directory", "stop", f"PORT={service.port}", f"STATE={service.state}"]
    for killed in (False, True):
        service.start()
        service.serves(1)
        if killed:
            service.kill()
        told = subprocess.run(
            stop, cwd=ROOT, env=service.environment, check=True, capture_output=True, text=True
        ).stdout
        assert ("the follower itself is gone" in told) == killed
        assert f"stopped: nothing runs with the state folder {service.state} any more" in told
        assert not marked(service.state)
    told = subprocess.run(
        stop, cwd=ROOT, env=service.environment, check=True, capture_output=True, text=True
    ).stdout
    assert "nothing to do" in told


def run_follow(*options: str, **environment: str) -> str:
    """Start a follower that must refuse to start, and return what it says."""
    command = [sys.executable, "-m", "inference.service.follow", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_second_follower_is_told_how_to_end_the_first(service: Service) -> None:
    service.start()
    service.says("NOT READY: no version of SentimentClassifier is in Production; train with 'make run'")
    told = run_follow("--port", str(service.port), "--state", str(service.state))
    found = re.search(r"'make (stop PORT=\d+ STATE='.*')' ends it", told)
    assert found, told
    stopped = subprocess.run(
        ["sh", "-c", f"make --no-print-directory {found[1]}"], cwd=ROOT, capture_output=True, text=True
    )
    assert "stopped: nothing runs" in stopped.stdout
    assert service.process
    assert service.process.wait(10) == 0


def test_a_stop_with_another_folder_says_which_and_makes_none(tmp_path: Path) -> None:
    folder = tmp_path / "mistyped"
    command = [sys.executable, "-m", "inference.service.stop", "--state", str(folder)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0
    assert f"nothing runs with the state folder {folder}" in told.stdout
    assert not folder.exists()


@pytest.mark.large
def test_what_an_earlier_follower_refused_is_forgiven_once_it_serves(
    service: Service, versions: Registry
) -> None:
    versions.add()
    versions.client.set_model_version_tag(
        MODEL_NAME, "1", "serve_refused", "its server ended while it started"
    )
    versions.promote(1)
    service.start()
    service.serves(1)
    until(lambda: "serve_refused" not in find(versions.client, 1).tags, 20, "the end of the tag")


def test_one_port_for_both_is_refused(service: Service) -> None:
    port = str(free_port())
    told = run_follow("--port", port, "--metrics-port", port, "--state", str(service.state))
    assert f"PORT and METRICS_PORT are both {port}" in told


@pytest.mark.parametrize("which", ["--port", "--metrics-port"])
def test_a_taken_port_is_named(service: Service, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"--port": free_port(), "--metrics-port": free_port()} | {which: port}
        options = [str(word) for pair in ports.items() for word in pair]
        told = run_follow(*options, "--state", str(service.state))
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in told
    assert "PORT=n" in told


def test_a_state_folder_where_others_may_write_is_refused(service: Service) -> None:
    service.state.chmod(0o777)
    assert "is not the user's own" in run_follow("--state", str(service.state))


def test_a_state_folder_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    assert "too long for a socket" in run_follow("--state", str(tmp_path / ("x" * 100)))


@pytest.mark.large
def test_the_request_log_is_appended_to_and_cut_off_when_it_is_long(
    service: Service, versions: Registry
) -> None:
    service.start(
        "import inference.service.follow, inference.service.state\ninference.service.state.LONGEST_LOG = 20_000\ninference.service.follow.ROTATE_EVERY = 0.5"
    )
    service.says("NOT READY: no version")
    log, older = service.state / "requests.jsonl", service.state / "requests.1.jsonl"
    service.ask()
    before = log.read_text()
    service.haproxy().kill()
    service.says("HAPROXY IS GONE")
    until(lambda: not refused(service.port), what="the proxy")
    service.ask()
    assert log.read_text().startswith(before), "what an earlier proxy wrote stays"
    until(lambda: service.ask() is not None and older.exists(), what="the cut")
    service.ask()
    lines = log.read_text().splitlines()
    assert 1 <= len(lines) < 60
    assert all(json.loads(line)["status"] for line in lines), "no hole where the older lines were"


def test_what_clients_send_is_not_logged(service: Service, versions: Registry) -> None:
    service.begin(versions)
    assert service.ask("the secret of the film").status_code == 200
    log = service.state / "requests.jsonl"
    until(lambda: '"/invocations"' in log.read_text(), what="the line")
    for path in (log, *service.state.glob("*.log")):
        assert "secret" not in path.read_text(), path


def test_sigterm_answers_what_is_in_flight_and_leaves_no_process(
    service: Service, versions: Registry
) -> None:
    service.begin(versions)
    slow = [begin_slow_request(service.port) for _ in range(6)]
    until(lambda: in_flight(service, 1) == 6, what="6 requests at the model server")
    assert service.process
    service.process.send_signal(signal.SIGTERM)
    service.says("stopping")
    until(lambda: refused(service.port), 10, "no new connection")
    for connection in slow:
        assert finish_slow_request(connection).startswith(b"HTTP/1.1 200 ")
    assert service.process.wait(30) == 0
    assert not marked(service.state)
