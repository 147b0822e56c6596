"""A running service follows Production: real HAProxy, real registry, and real `mlflow models serve` where a test is marked so."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from inference.server import marked
from registry import canary
from registry.stages import rollback
from registry.store import MODEL_NAME
from registry.versions import find
from tests.conftest import ROOT, free_port, until
from tests.inference.conftest import Registry, Service, kill_worker, load

pytestmark = [pytest.mark.haproxy, pytest.mark.long]

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


@pytest.mark.real_models
@pytest.mark.large
def test_a_server_that_dies_comes_back_and_requests_wait_for_it(service: Service, versions: Registry) -> None:
    service.begin(versions)
    with load(service.port) as clients:
        until(lambda: len(clients.answers) > 20, what="load")
        kill_worker(service, 1)
        service.says("DIED: version 1, failure 1")
        until(lambda: service.ready() == (503, "version 1 is being brought up"), 10, "the reason at /ready")
        service.serves(1)
        before = len(clients.answers)
        until(lambda: len(clients.answers) > before + 50, what="answers again")
    clients.check(lost=4)  # an answer that had begun, one a client at most
    assert service.metric("sentiment_server_deaths_total") == 1


def test_a_server_that_hangs_is_replaced(service: Service, versions: Registry) -> None:
    service.begin(
        versions, patch="import inference.service.supervisor\ninference.service.supervisor.PULSE_EVERY = 0.5"
    )
    with load(service.port, clients=2) as clients:
        until(lambda: len(clients.answers) > 20, what="load")
        for process in service.model_servers(1):
            process.suspend()
        service.says("HANGS: version 1")
        service.says("SERVING: version 1, before: 1")
        before = len(clients.answers)
        until(lambda: len(clients.answers) > before + 50, what="answers again")
    clients.check()


@pytest.mark.large
def test_after_kill_9_of_the_supervisor_all_goes_on_and_the_next_start_adopts_it(
    service: Service, versions: Registry
) -> None:
    service.begin(versions, 2)
    proxy, servers = service.haproxy().pid, {p.pid for p in service.model_servers()}
    with load(service.port) as clients:
        service.kill()
        assert service.ready() == (200, "1")
        service.start()
        service.says("adopted version 1, serving")
        assert service.haproxy().pid == proxy
        assert {p.pid for p in service.model_servers()} == servers
        versions.promote(2)
        service.says("bringing up version 2")
        service.kill()  # in the middle of bringing up version 2
        assert service.ready() == (200, "1")
        service.start()
        service.serves(2)
        until(lambda: {mark.get("version") for _, mark in marked(service.state)} == {None, 2}, what="no more")
    clients.check()
    until(lambda: len(service.model_servers()) == 2)


@pytest.mark.large
def test_a_folder_given_by_another_name_is_the_same_one(service: Service, versions: Registry) -> None:
    service.begin(versions)
    before = {p.pid for p in service.model_servers()}
    service.kill()
    real = service.state
    service.state = real.with_name(f"{real.name}-link")
    service.state.symlink_to(real)
    service.start()
    service.says("adopted version 1, serving")
    service.state.unlink()
    service.state = real
    assert {p.pid for p in service.model_servers()} == before


@pytest.mark.large
def test_a_proxy_that_dies_comes_back(service: Service, versions: Registry) -> None:
    service.begin(versions)
    before = {p.pid for p in service.model_servers()}
    service.haproxy().kill()
    service.says("HAPROXY IS GONE")
    service.serves(1)
    assert service.ask().headers["X-Model-Version"] == "1"
    assert {p.pid for p in service.model_servers()} == before
    assert service.metric("sentiment_ready") == 1


def test_a_start_without_the_registry_serves_the_last_good_version(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    service.begin(versions)
    assert service.stop() == 0
    gone = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    service.start(**gone)
    service.says("THE REGISTRY DOES NOT ANSWER")
    service.serves(1)
    assert service.metric("sentiment_registry_up") == 0
    assert service.stop() == 0
    # the copy on the disk is verified like any other
    entry = service.state / "versions" / "1" / "entry.py"
    entry.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + entry.read_text())
    service.start(**gone)
    service.says("REFUSED: version 1, failure 1")
    assert service.ready()[0] == 503
    assert not (tmp_path / "ran").exists()


@pytest.mark.large
def test_a_start_with_a_version_that_fails_fast_brings_the_one_before_up_at_once(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    service.begin(versions)
    two = versions.forge(lambda folder: None, tmp_path / "two")
    versions.promote(two.number)
    service.serves(two.number)
    assert service.stop() == 0
    (tmp_path / "two" / "entry.py").write_text("")
    kept = service.state / "versions" / str(two.number)
    shutil.rmtree(kept)
    kept.symlink_to(tmp_path / "two")  # no folder of ours: fetched anew, and refused
    service.start()
    service.serves(1)
    until(lambda: service.said.count("REFUSED: version 2") > 1, what="another try")
    assert service.said.count("bringing up version 1") == 2, "once in each of its lives"


@pytest.mark.large
def test_an_emptied_production_leaves_what_serves(service: Service, versions: Registry) -> None:
    service.begin(versions)
    versions.client.delete_model_version("SentimentClassifier", "1")
    service.says("in Production: version none")
    assert service.ready() == (200, "1")
    assert service.metric("sentiment_version_wanted") == 0
    assert service.ask().status_code == 200


def test_a_canary_gets_its_share_and_promotion_ends_it(service: Service, versions: Registry) -> None:
    service.begin(versions, 2)
    run = [sys.executable, "-m", "inference.service.canary"]
    told = subprocess.run(
        [*run, "start", "--version", "2", "--percent", "25"], cwd=ROOT, check=True, capture_output=True
    )
    assert b"version 2 gets 25 % of the requests beside version 1" in told.stdout
    service.says("CANARY: version 2 gets 25 % of the requests")
    with load(service.port) as clients:
        until(lambda: len(clients.answers) > 400, what="400 answers")
    clients.check()
    share = clients.versions()["2"] / len(clients.answers)
    assert 0.2 < share < 0.3
    assert service.metric("sentiment_canary_percent") == 25
    servers = {p.pid for p in service.model_servers(2)}
    versions.promote(2)
    service.serves(2)
    assert {p.pid for p in service.model_servers(2)} == servers, "the canary's server goes on"
    assert canary.asked(versions.client) is None
    told = subprocess.run([*run, "stop"], cwd=ROOT, check=True, capture_output=True)
    assert b"nothing to do: there is no canary" in told.stdout


@pytest.mark.real_models
@pytest.mark.large
def test_a_canary_that_is_grossly_worse_stops_by_itself(
    service: Service, versions: Registry, tmp_path: Path
) -> None:
    """It gives its own example answers, and fails on everything else."""
    versions.promote(versions.add())

    def fail_on_others(folder: Path) -> None:
        path = folder / "code" / "sentiment_model" / "pyfunc.py"
        text = path.read_text()
        where = "        errors = [row_error("
        assert where in text
        path.write_text(
            text.replace(where, "        if len(texts) == 1:\n            raise RuntimeError\n" + where)
        )

    bad = versions.forge(fail_on_others, tmp_path / "bad")
    service.start()
    service.serves(1)
    canary.start(versions.client, bad.number, 20, 1)
    service.says(f"CANARY: version {bad.number} gets 20 %")
    with load(service.port) as clients:
        service.says(f"CANARY STOPPED: version {bad.number}: ", 30)
        until(lambda: not service.metric("sentiment_canary_version"), what="the end of the canary")
        stopped = time.monotonic()
        until(lambda: clients.answers[-1][0] > stopped + 1, what="another second")
    late = [version for asked, _, version in clients.answers if asked > stopped]
    assert set(late) == {"1"}
    tag = versions.wait_for_tag(bad.number, canary.STOPPED)
    assert "of its" in tag
    assert "answers are errors" in tag
    until(lambda: canary.asked(versions.client) is None, what="the canary taken back")


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
