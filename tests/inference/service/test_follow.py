"""A running service follows Production: real HAProxy, real registry, and real `mlflow models serve` where a test is marked so."""

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from registry.stages import rollback
from tests.conftest import until
from tests.inference.conftest import Registry, Service, load

pytestmark = [pytest.mark.haproxy, pytest.mark.medium]

# the same in less time: two retries, half a second apart
FAST = "import inference.service.slots\ninference.service.slots.LONGEST_WAIT = 0.5\ninference.service.slots.RETRIES = 2\n"


@pytest.mark.real_models
def test_it_waits_for_production_and_starts_by_itself(service: Service, versions: Registry) -> None:
    service.start()
    service.says("NOT READY: no version of SentimentClassifier is in Production")
    assert service.ready() == (503, "no version of SentimentClassifier is in Production")
    answer = service.ask()
    assert answer.status_code == 503
    assert "GET /ready" in answer.json()["message"]
    number = versions.add()
    versions.promote(number)
    service.serves(number)
    answer = service.ask()
    assert answer.headers["X-Model-Version"] == str(number)
    assert answer.json()["predictions"][0]["sentiment"] == "positive"
    assert service.metric("sentiment_version_wanted") == service.metric("sentiment_version_served") == number
    assert len({p.pid for p in service.model_servers()}) == 2, "one server: mlflow and its uvicorn"


@pytest.mark.real_models
def test_promotions_and_rollbacks_lose_nothing_and_leave_nothing_stale(
    service: Service, versions: Registry
) -> None:
    service.begin(versions, 3)
    with load(service.port) as clients:
        switched = {}
        for number, move in ((2, None), (3, None), (2, "rollback")):
            connections = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(10)]
            opened = time.monotonic()
            if move:
                assert rollback(versions.client, 3, "test") == (3, 2)
            else:
                versions.promote(number)
            service.says(f"bringing up version {number}", 10)  # a change is seen within 10 s
            service.serves(number)
            switched[time.monotonic()] = str(number)
            for connection in connections:
                connection.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
                answer = connection.recv(100)
                # one on which nothing is asked for 30 s is closed, switch or not
                idle = time.monotonic() - opened > 30 and answer == b""
                assert idle or answer.startswith(b"HTTP/1.1 200 "), "opened before the switch"
                connection.close()
        until(lambda: len(clients.answers) > 500, what="500 answers")
    clients.check()
    changes = sorted(switched)
    for asked, _, version in clients.answers:
        due = [switched[change] for change in changes if change < asked]
        later = [switched[change] for change in changes if change >= asked]
        assert version in {*(due[-1:] or ["1"]), *later}, "an answer of the version before the switch"
    until(lambda: len(service.model_servers()) == 2, what="the end of the old servers")
    assert sorted(path.name for path in (service.state / "versions").iterdir()) == ["2", "3"]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="Linux does not group sessions here")
@pytest.mark.real_models
@pytest.mark.large
def test_a_start_leaves_the_processor_to_what_serves_and_takes_it_when_nothing_does(
    service: Service, versions: Registry
) -> None:
    def niceness(version: int) -> set[str]:
        found = set()
        for process in service.model_servers(version):
            with suppress(OSError):
                found.add(Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1])
        return found

    versions.add()
    versions.add()
    versions.promote(1)
    service.start()
    service.says("bringing up version 1")

    def came_up() -> bool:
        assert niceness(1) <= {"0"}, "nobody is there to be left the processor"
        return "given its example answers" in service.said

    until(came_up, what="version 1")
    versions.promote(2)
    until(lambda: niceness(2) == {"10"}, what="a start that gives way")
    assert niceness(1) == {"0"}
    service.serves(2)
    until(lambda: niceness(2) == {"0"}, 5, "the priority of what serves")


def test_slow_requests_in_flight_at_a_switch_are_answered_by_the_version_that_had_them(
    service: Service, versions: Registry
) -> None:
    service.begin(versions, 2)
    slow = [begin_slow_request(service.port) for _ in range(6)]
    until(lambda: in_flight(service, 1) == 6, what="6 requests at the model server")
    versions.promote(2)
    service.serves(2)
    assert in_flight(service, 1) == 6, "they go on"
    assert service.ask().headers["X-Model-Version"] == "2"
    for connection in slow:
        head = finish_slow_request(connection)
        assert head.startswith(b"HTTP/1.1 200 "), head
        assert b"x-model-version: 1\r\n" in head
    service.says("version 1 has ended")


BIG = b'{"inputs": ["' + b"A wonderful film. " * 2000 + b'"]}'


def begin_slow_request(port: int) -> socket.socket:
    """Send a request but for its last bytes; its length makes the proxy pass on what is there."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=40)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BIG)}\r\n\r\n"
    connection.sendall(head.encode() + BIG[:-10])
    return connection


def finish_slow_request(connection: socket.socket) -> bytes:
    connection.sendall(BIG[-10:])
    with connection:
        return connection.recv(4096)


def in_flight(service: Service, version: int) -> int:
    text = requests.get(f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=5).text
    name = f'haproxy_server_current_sessions{{proxy="models",server="{version}"}} '
    return next((int(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def changes(path: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).write_text(text)

    return change


def wrong_answers(folder: Path) -> None:
    path = folder / "artifacts" / "scorer" / "examples.json"
    path.write_text(path.read_text().replace('"sentiment": "positive"', '"sentiment": "negative"'))


def other_pins(folder: Path) -> None:
    path = folder / "requirements.txt"
    path.write_text(path.read_text().replace("mlflow==", "mlflow==0."))


# the version that is slow has 5 s to come up, all others the time that they may need beside other tests
IMPATIENT = """
from inference.service.loading import Loading
begin = Loading.__init__
def impatient(self, version, state):
    begin(self, version, state)
    if version.number == {number}:
        self._deadline -= 115
Loading.__init__ = impatient
"""

BAD = {
    "does not load": (changes("entry.py", "raise RuntimeError('on purpose')"), "its server ended while it started"),
    "crashes": (changes("entry.py", "import os\nos._exit(3)"), "its server ended while it started"),
    "is slow": (changes("entry.py", "import threading\nthreading.Event().wait()"), "it did not answer within"),
    "gives wrong answers": (wrong_answers, "the model does not give its own example answers"),
    "has other pins": (other_pins, "it was trained in a different environment: mlflow==0."),
    "was changed": (None, "is not what was registered"),
    "is missing": (None, "is not what was registered"),
}  # fmt: skip


@pytest.mark.real_models
@pytest.mark.large
def test_a_bad_version_never_replaces_the_good_one(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    """Each kind in turn is promoted under load; the good one goes on, the fault is said, the next one comes."""
    slow = 2 + list(BAD).index("is slow")  # version 1 is the good one
    service.begin(versions, patch=FAST + IMPATIENT.format(number=slow))
    with load(service.port, clients=2) as clients:
        for kind, (change, reason) in BAD.items():
            folder = tmp_path / kind.replace(" ", "-")
            bad = versions.forge(change or (lambda _: None), folder)
            if kind == "was changed":
                (folder / "entry.py").write_text("open('canary', 'w')")
            elif kind == "is missing":
                shutil.rmtree(folder)
            versions.promote(bad.number)
            service.says(f"REFUSED: version {bad.number}, failure 1: ", 120)
            assert (
                reason in service.said.split(f"REFUSED: version {bad.number}, failure 1: ")[1].splitlines()[0]
            )
            assert reason in versions.wait_for_tag(bad.number, "serve_refused")
            assert service.ready() == (200, "1"), kind
            assert service.metric(f'sentiment_refused{{version="{bad.number}"}}') == 1
            assert service.metric("sentiment_version_wanted") == bad.number
            if kind == "does not load":
                service.says(f"REFUSED: version {bad.number}, failure 3: ", 120)
                assert "is not tried again; 'make promote VERSION=2' has it tried again" in service.said
                versions.promote(bad.number)
                until(lambda: service.said.count("REFUSED: version 2, failure 1: ") == 2, 120, "anew")
        good = versions.add()
        versions.promote(good)
        service.serves(good)
        until(lambda: str(good) in clients.versions(), what="an answer of the good version")
    clients.check()
    assert set(clients.versions()) == {"1", str(good)}
    assert service.metric(f'sentiment_refused{{version="{bad.number}"}}') is None
