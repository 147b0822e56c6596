"""HAProxy with the real ``haproxy.cfg`` before a real model server: bad requests, bounds, answers and log lines."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from inference.service.proxy import SERVER
from tests.cases import ANY, BAD, CSV, FLAT, GOOD, JSON, MEDIA_TYPES, SECRET, body
from tests.conftest import ROOT, free_port, until

HAPROXY = shutil.which("haproxy") or shutil.which(
    "haproxy", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
)
pytestmark = [
    pytest.mark.haproxy,
    pytest.mark.skipif(
        HAPROXY is None,
        reason="HAProxy is not installed: apt-get install haproxy (Debian, Ubuntu) or brew install haproxy (macOS)",
    ),
]

CONFIGURATION = ROOT / "inference" / "service" / "haproxy.cfg"


@dataclass
class Answer:
    """What a client read."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def version(self) -> str | None:
        return self.headers["X-Model-Version"]

    @property
    def message(self) -> str:
        """The sentence of an error answer, which must be one JSON object that gives nothing away."""
        assert self.headers["Content-Type"] == "application/json", self.body
        told = json.loads(self.body)
        assert set(told) == {"error_code", "message"}
        for wrong in ("Traceback", "stack_trace", "Error(", SECRET, "/site-packages", "<class"):
            assert wrong not in self.body.decode()
        assert not re.search(r"/(work|tmp|usr|home|opt)/", self.body.decode())
        return str(told["message"])


class Connection:
    """One TCP connection, on which bytes are sent as they are."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, sent: bytes) -> "Connection":
        self.socket.sendall(sent)
        return self

    def read(self, method: str = "POST") -> Answer:
        with http.client.HTTPResponse(self.socket, method=method) as response:
            response.begin()
            return Answer(response.status, response.headers, response.read())

    def closed(self) -> bool:
        """Whether the other side closes; bytes before that fail."""
        return self.socket.recv(1) == b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def request(
    body: bytes = GOOD, headers: dict[str, str] = JSON, line: str = "POST /invocations HTTP/1.1"
) -> bytes:
    sent = {"Host": "example.org", **headers, "Content-Length": str(len(body))}
    return "".join([f"{line}\r\n", *(f"{k}: {v}\r\n" for k, v in sent.items()), "\r\n"]).encode() + body


def check(line: str) -> dict[str, Any]:
    """Return a log line's fields after checking that a program can read them and that they hold no text of a client."""
    assert SECRET not in line
    entry: dict[str, Any] = json.loads(line)
    numbers = {"epoch_ms", "status", "bytes_in", "bytes_out", "ms", "queue_ms", "server_ms"}
    words = {"time", "client", "method", "endpoint", "version", "retries", "end"}
    assert set(entry) == numbers | words
    assert all(type(entry[name]) is int for name in numbers)
    assert all(type(entry[name]) is str for name in words)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])
    assert entry["method"] in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other", "-"}
    assert entry["endpoint"] in {"/invocations", "/ready", "/ping", "/health", "/version", "other", "-"}
    return entry


class Proxy:
    """A running HAProxy; each argument of ``changes`` replaces a text that must stand in the configuration."""

    def __init__(self, stack: ExitStack, changes: dict[str, str]) -> None:
        # not under pytest's own folders: the path of a socket is limited to some hundred characters
        self.state = Path(tempfile.mkdtemp(prefix="proxy-"))
        stack.callback(shutil.rmtree, self.state)
        self.port, self.metrics_port = free_port(), free_port()
        text = CONFIGURATION.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        configuration = CONFIGURATION
        if changes:
            configuration = self.state / "haproxy.cfg"
            configuration.write_text(text)
        (self.state / "service.map").touch()
        self.log = self.state / "requests.jsonl"
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        environment = os.environ | {
            "STATE": str(self.state),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "METRICS_PORT": str(self.metrics_port),
            "REQUEST_LOG": str(descriptor),
        }
        assert HAPROXY
        process = subprocess.Popen(
            [HAPROXY, "-db", "-f", str(configuration)], env=environment, pass_fds=[descriptor]
        )
        os.close(descriptor)
        stack.callback(process.wait, 10)
        stack.callback(process.kill)

        def ready() -> bool | None:
            assert process.poll() is None, "HAProxy ended"
            try:
                return bool(self.tell("show info"))
            except OSError:
                return None

        until(ready, 10)

    def tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.state / "haproxy.sock"))
            connection.sendall(command.encode() + b"\n")
            with connection.makefile() as told:
                return told.read()

    def serve(self, port: int, version: int = 3, maxconn: int = 64, check: str = "inter 2s fall 10") -> None:
        """Send requests to a model server, as the supervisor does."""
        options = SERVER.replace("maxconn 64", f"maxconn {maxconn}", 1).replace("inter 2s fall 10", check)
        self.tell(f"add server models/{version} 127.0.0.1:{port} weight 100 {options}")
        self.tell(f"enable health models/{version}")
        self.tell(f"set server models/{version} state ready")
        self.tell(f"add map {self.state}/service.map version {version}")
        until(lambda: self.answer(line="GET /ready HTTP/1.1").status == 200, 10)

    def connect(self) -> Connection:
        return Connection(self.port)

    def answer(
        self, body: bytes = b"", headers: dict[str, str] = JSON, line: str = "POST /invocations HTTP/1.1"
    ) -> Answer:
        with self.connect() as connection:
            return connection.send(request(body, headers, line)).read(line.split()[0])

    def open(self) -> int:
        """How many requests are not yet over and logged."""
        return self.tell("show sess").count(" fe=service ")

    def logged(self) -> list[str]:
        return self.log.read_text().splitlines()

    @contextmanager
    def logging(self, count: int = 1, held: int = 0) -> Iterator[list[dict[str, Any]]]:
        """The checked log lines of what happens within the block: so many and no more.

        A line is written a moment after its answer: so those of earlier requests are waited for first, except
        of so many that are ``held``.
        """
        until(lambda: self.open() == held, 10)
        before = len(self.logged())
        entries: list[dict[str, Any]] = []
        yield entries
        until(lambda: len(self.logged()) >= before + count, 10)
        entries += [check(line) for line in self.logged()[before:]]
        assert len(entries) == count


@contextmanager
def proxy_with(changes: dict[str, str]) -> Iterator[Proxy]:
    """Run HAProxy with other numbers than those of the configuration."""
    with ExitStack() as stack:
        yield Proxy(stack, changes)


class StandInModelServer:
    """Stands in for a model server that is slow, broken or mean: it answers what a test puts into ``answer``.

    A request whose body holds ``hold`` waits for ``release``; one that holds ``half`` gets half of the answer before that.
    So many requests as ``dying`` says find their connection closed instead of an answer.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.answer: tuple[int, str, bytes] = (200, "application/json", b'{"predictions": []}')
        self.release = threading.Event()
        self.asked = 0
        self.dying = 0
        self.health = b'{"error": null}'
        self.path, self.headers = "", ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, kind, told = 200, "application/json", outer.health
                if b'A wonderful film."]' not in body:  # else it is the proxy's health check
                    outer.asked += 1
                    outer.path, outer.headers = self.path, str(self.headers)
                    if b"hold" in body:
                        outer.release.wait(30)
                    status, kind, told = outer.answer
                    if outer.dying > 0:
                        outer.dying -= 1
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                if b"half" in body:
                    self.wfile.write(told[: len(told) // 2])
                    outer.release.wait(30)
                    told = told[len(told) // 2 :]
                self.wfile.write(told)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # clients and proxies that leave early are what is tested

        server = Server(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        stack.callback(self.release.set)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@contextmanager
def standing_in_behind(
    changes: dict[str, str] | None = None, maxconn: int = 64
) -> Iterator[tuple[Proxy, StandInModelServer]]:
    with ExitStack() as stack:
        proxy = Proxy(stack, changes or {})
        server = StandInModelServer(stack)
        proxy.serve(server.port, maxconn=maxconn)
        yield proxy, server


@pytest.fixture(scope="module")
def proxy(model_server: int) -> Iterator[Proxy]:
    """The configuration as it is, before the real model server."""
    with proxy_with({}) as running:
        running.serve(model_server)
        yield running


@pytest.fixture(scope="module")
def bare() -> Iterator[tuple[Proxy, StandInModelServer]]:
    """The configuration as it is, before a stand-in."""
    with standing_in_behind({"time 5s if failed": "time 300ms if failed"}) as both:
        yield both


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_is_a_clean_400_with_one_sentence(proxy: Proxy, bad: str) -> None:
    headers, sent, said = BAD[bad]
    with proxy.logging() as entries:
        answer = proxy.answer(sent, headers)
    assert answer.status == 400
    assert said in answer.message
    assert answer.version == "3"
    entry = entries[0]
    assert (entry["method"], entry["endpoint"], entry["status"], entry["version"]) == (
        "POST",
        "/invocations",
        400,
        "3",
    )


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_an_unknown_content_type_is_a_clean_415(proxy: Proxy, kind: str) -> None:
    headers, said = MEDIA_TYPES[kind]
    with proxy.logging() as entries:
        answer = proxy.answer(GOOD, headers)
    assert answer.status == entries[0]["status"] == 415
    assert said in answer.message
    assert answer.version == "3"


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        (JSON, GOOD),
        ({}, GOOD),
        (JSON, body(instances=[SECRET, None, " "])),
        (JSON, body(dataframe_split={"columns": ["text"], "data": [[SECRET], [None], [5]]})),
        (JSON, body(dataframe_records=[{"text": f"{SECRET} {n}"} for n in range(5000)])),
        (JSON, body(inputs=[SECRET], params={"explain": 3})),
        (CSV, f"text\n{SECRET}\nNA\n".encode()),
    ],
)
def test_a_good_answer_passes_untouched(
    proxy: Proxy, model_server: int, headers: dict[str, str], sent: bytes
) -> None:
    with Connection(model_server) as direct:
        expected = direct.send(request(sent, headers or JSON)).read()
    with proxy.logging() as entries:
        answer = proxy.answer(sent, headers)
    assert answer.status == expected.status == entries[0]["status"] == 200
    assert answer.body == expected.body
    assert answer.version == entries[0]["version"] == "3"
    assert entries[0]["bytes_out"] > len(answer.body)
    assert entries[0]["bytes_in"] > len(sent)
    assert 0 <= entries[0]["server_ms"] <= entries[0]["ms"] < 20_000


def test_a_good_answer_is_passed_on_as_it_comes(bare: tuple[Proxy, StandInModelServer]) -> None:
    proxy, server = bare
    server.release.clear()
    server.answer = (200, "application/json", b'{"predictions": "' + b"x" * 100_000 + b'"}')
    with proxy.logging(), proxy.connect() as connection:
        connection.send(request(b"half"))
        early = b""
        while len(early) < 50_000:
            early += connection.socket.recv(65536)
        server.release.set()
        late = b""
        while not late.endswith(b'"}'):
            late += connection.socket.recv(65536)
    assert (early + late).endswith(server.answer[2])


def echo(error_code: str, message: str, **more: object) -> bytes:
    """Return what MLflow answers with."""
    return json.dumps(
        {"error_code": error_code, "message": message, "sqlstate": "KAM00", "error_class": error_code, **more}
    ).encode()


TRACE = f'Traceback (most recent call last):\n  File "/srv/app/a.py", line 1\nValueError: {SECRET}'
FOUND = f"Failed to predict data '{SECRET}'. \nError: "
UNEXPECTED = "Encountered an unexpected error while evaluating the model. Verify"


@pytest.mark.parametrize(
    ("status", "kind", "told", "expected", "said"),
    [
        # a model that fails is no fault of the request, whatever MLflow says
        (400, "application/json", echo("BAD_REQUEST", UNEXPECTED, stack_trace=TRACE), 500, "failed on this"),
        (500, "application/json", echo("INTERNAL_ERROR", FOUND + SECRET), 500, "failed on this"),
        (500, "text/plain", b"Internal Server Error", 500, "failed on this"),
        (500, "text/plain", TRACE.encode() * 1000, 500, "failed on this"),
        (404, "application/json", b'{"detail": "Not Found"}', 500, "failed on this"),
        (422, "application/json", b'{"detail": [{"input": "%s"}]}' % SECRET.encode(), 500, "failed on this"),
        (503, "text/plain", SECRET.encode(), 500, "failed on this"),
        (504, "application/json", b"Request processing time exceeded limit", 504, "no answer within 60 s"),
        (429, "application/json", echo("REQUEST_LIMIT_EXCEEDED", FOUND + SECRET), 429, "send slower"),
        # words that nobody knows yet
        (400, "application/json", echo("BAD_REQUEST", SECRET), 400, ANY),
        (400, "application/json", echo("BAD_REQUEST", f"Invalid input. {SECRET}"), 400, FLAT),
        (400, "application/json", echo("BAD_REQUEST", FOUND + SECRET, stack_trace=TRACE), 400, ANY),
        (400, "text/html", f"<html>{SECRET}".encode() * 5000, 400, ANY),
        (400, "text/plain", b"Invalid HTTP request received.", 400, "a header holds characters"),
        (400, "application/json", b"", 400, ANY),
        # a model's own words about a request, and what is none
        (
            400,
            "application/json",
            echo("X", FOUND + SECRET, refused="5 rows; send at most 3"),
            400,
            "5 rows; send at",
        ),
        (400, "application/json", echo("X", FOUND + SECRET, refused=f"<b>{SECRET}</b>"), 400, ANY),
        (400, "application/json", echo("X", FOUND + SECRET, refused=f"{SECRET} " * 50), 400, ANY),
        (400, "application/json", echo("X", FOUND + f'", "refused": "{SECRET}"}}'), 400, ANY),
        (400, "application/json", echo("X", SECRET, refused=SECRET), 400, ANY),
        # those of a version that was registered before they had a key
        (
            400,
            "application/json",
            echo("X", FOUND + "100001 rows; send at most 100,000 at once"),
            400,
            "refuses the",
        ),
        (
            400,
            "application/json",
            echo("X", FOUND + "the texts take too much memory; send"),
            400,
            "refuses the",
        ),
        (400, "application/json", echo("X", FOUND + "params: explain is 101; send"), 400, "refuses the"),
    ],
)
def test_no_error_of_a_model_server_is_passed_on(
    bare: tuple[Proxy, StandInModelServer], status: int, kind: str, told: bytes, expected: int, said: str
) -> None:
    proxy, server = bare
    server.answer = (status, kind, told)
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(request()).read()
    assert answer.status == entries[0]["status"] == expected
    assert said in answer.message
    assert answer.version == entries[0]["version"] == "3"


def test_an_error_that_never_ends_does_not_leak(bare: tuple[Proxy, StandInModelServer]) -> None:
    proxy, server = bare
    server.release.clear()
    server.answer = (500, "text/plain", TRACE.encode())
    with proxy.logging():
        answer = proxy.answer(b"half")
    server.release.set()
    assert answer.status == 504
    assert answer.message


METHODS = [
    ("GET /invocations", 405, "send a POST to /invocations"),
    ("OPTIONS /invocations", 405, "send a POST to /invocations"),
    ("PATCH /invocations", 405, "send a POST to /invocations"),
    (f"{SECRET} /invocations", 405, "send a POST to /invocations"),
    ("POST /ping", 405, "send a GET"),
    ("GET /docs", 404, "send POST /invocations, or GET"),
    ("GET /openapi.json", 404, "send POST /invocations, or GET"),
    (f"GET /{SECRET}?{SECRET}", 404, "send POST /invocations, or GET"),
    (f'GET /"{SECRET}', 404, "send POST /invocations, or GET"),
    ("POST /invocations/", 404, "send POST /invocations, or GET"),
    ("CONNECT example.org:80", 404, "send POST /invocations, or GET"),
    ("OPTIONS *", 404, "send POST /invocations, or GET"),
]


@pytest.mark.parametrize(("line", "status", "said"), METHODS)
def test_other_methods_and_paths_are_refused(proxy: Proxy, line: str, status: int, said: str) -> None:
    with proxy.logging() as entries:
        answer = proxy.answer(line=f"{line} HTTP/1.1")
    assert answer.status == entries[0]["status"] == status
    assert said in answer.message
    assert entries[0]["endpoint"] == ("other" if status == 404 else line.split()[1])
    assert answer.version == "3"


@pytest.mark.parametrize(
    ("line", "status"), [("HEAD /ready", 200), ("HEAD /ping", 405), ("HEAD /invocations", 405)]
)
def test_the_answer_to_head_has_no_body(proxy: Proxy, line: str, status: int) -> None:
    with proxy.logging(2), proxy.connect() as connection:
        answer = connection.send(request(b"", JSON, f"{line} HTTP/1.1")).read("HEAD")
        assert (answer.status, answer.body, answer.version) == (status, b"", "3")
        # nothing of a body stands before the next answer
        assert connection.send(request(b"", {}, "GET /ready HTTP/1.1")).read().status == 200


@pytest.mark.parametrize("path", ["/ping", "/health", "/version"])
def test_the_small_questions_of_mlflow_are_answered(proxy: Proxy, path: str) -> None:
    with proxy.logging() as entries:
        answer = proxy.answer(line=f"GET {path}?{SECRET} HTTP/1.1")
    assert (answer.status, answer.version, entries[0]["endpoint"]) == (200, "3", path)


@pytest.mark.parametrize(
    "line",
    [
        f"POST /invocations?text={SECRET} HTTP/1.1",
        f"POST http://example.org/invocations?{SECRET} HTTP/1.1",
        "POST /invocations HTTP/1.0",
    ],
)
def test_a_request_is_understood_however_its_first_line_is_written(proxy: Proxy, line: str) -> None:
    with proxy.logging() as entries:
        answer = proxy.answer(GOOD, JSON, line)
    assert answer.status == 200
    assert len(json.loads(answer.body)["predictions"]) == 1
    assert entries[0]["endpoint"] == "/invocations"


def test_requests_sent_at_once_are_answered_in_order(proxy: Proxy) -> None:
    sizes = [1, 3, 2, 5, 4]
    with proxy.logging(5), proxy.connect() as connection:
        connection.send(b"".join(request(body(inputs=[SECRET] * size)) for size in sizes))
        raw = b""
        while raw.count(b"predictions") < 5 or not raw.endswith(b"]}"):
            raw += connection.socket.recv(65536)
    assert [part.count(b"sentiment") for part in raw.split(b"predictions")[1:]] == sizes


HEAD = f"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nX: {SECRET}\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
INNER = b"0\r\n\r\nGET /docs HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + CHUNKED + b"\r\n" + INNER, 411),
        (HEAD + CHUNKED + b"Content-Length: 5\r\n\r\n" + INNER, 411),
        (HEAD + b"\r\n", 411),
        (HEAD + b"Content-Length: 16777217\r\n\r\n", 413),
        (HEAD + b"Content-Length: 9223372036854775807\r\n\r\n", 413),
        (HEAD + b"Content-Length: 18446744073709551615\r\n\r\n", 413),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 16777217\r\n\r\n", 413),
    ],
)
def test_a_body_without_a_usable_length_is_refused_and_the_connection_closed(
    proxy: Proxy, sent: bytes, status: int
) -> None:
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(sent).read()
        assert answer.status == status
        assert answer.message
        assert answer.version == "3"
        assert connection.closed()  # what is left of the body is not read as a request
    assert entries[0]["status"] == status


@pytest.mark.parametrize(
    "sent",
    [
        f"{SECRET}\r\n\r\n".encode(),
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 300,  # TLS
        f'"{SECRET}" /ready HTTP/1.1\r\nHost: a\r\n\r\n'.encode(),
        f"GET /{SECRET} {SECRET} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        HEAD + b"Content-Length: 30\r\nContent-Length: 5\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: 30, 5\r\n\r\n" + GOOD,
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 18446744073709551646\r\n\r\n",
        HEAD + b"Content-Length: " + SECRET.encode() + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: " + SECRET.encode() + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc",
        HEAD + b"X-Long: " + SECRET.encode() * 2000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
        HEAD + b"X " + SECRET.encode() + b": a\r\n\r\n",
        b"GET /" + SECRET.encode() * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_400_and_one_log_line(proxy: Proxy, sent: bytes) -> None:
    """HAProxy 2.6 cannot word this answer itself: it is its own short HTML page, without a version."""
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(sent).read()
    assert answer.status == 400
    assert b"Your browser sent an invalid request" in answer.body
    assert SECRET.encode() not in answer.body
    assert (entries[0]["status"], entries[0]["endpoint"], entries[0]["version"]) == (400, "-", "-")


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_a_model_server_learns_neither_query_nor_upgrade(bare: tuple[Proxy, StandInModelServer]) -> None:
    proxy, server = bare
    server.answer = (200, "application/json", b'{"predictions": []}')
    with proxy.logging(2):
        line = f"POST http://example.org/invocations?{SECRET} HTTP/1.1"
        assert proxy.answer(GOOD, JSON, line).status == 200
        assert server.path == "/invocations"
        assert proxy.answer(headers=UPGRADE, line="GET /ping HTTP/1.1").status == 200
        assert server.path == "/ping"
    assert "upgrade: " not in server.headers.lower()


def test_a_connection_to_a_model_server_ends_with_its_answer(bare: tuple[Proxy, StandInModelServer]) -> None:
    """Else uvicorn keeps what belonged to it for as long as its keep-alive: gigabytes in an hour, once."""
    proxy, server = bare
    server.answer = (200, "application/json", b'{"predictions": []}')
    with proxy.connect() as connection:
        for _ in range(2):
            assert connection.send(request()).read().status == 200
            assert "connection: close" in server.headers.lower()


def test_a_connection_is_not_turned_into_another_protocol(proxy: Proxy) -> None:
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    with proxy.connect() as connection:
        assert connection.send(http2).read().status == 400
    assert proxy.answer(headers=UPGRADE, line="GET /ping HTTP/1.1").status == 200


def test_a_chunked_body_is_named_in_its_refusal(proxy: Proxy) -> None:
    with proxy.logging(), proxy.connect() as connection:
        assert "not a chunked body" in connection.send(HEAD + CHUNKED + b"\r\n" + INNER).read().message


def test_a_client_reads_the_413_while_it_is_sending(proxy: Proxy) -> None:
    length = 17 << 20
    with proxy.logging() as entries, proxy.connect() as connection:
        connection.send(HEAD + b"Content-Length: %d\r\n\r\n" % length)
        sent = 0
        try:
            while sent < length:
                sent += connection.socket.send(b"x" * 65536)
        except OSError:
            assert sent < length
        answer = connection.read()
    assert answer.status == entries[0]["status"] == 413
    assert "the body is longer than 16 MiB" in answer.message


def test_the_longest_body_is_answered(proxy: Proxy) -> None:
    longest = body(dataframe_records=[{"text": ""}])
    longest = longest.replace(b'""', b'"' + b"a " * ((16777216 - len(longest)) // 2) + b'"')
    longest += b" " * (16777216 - len(longest))
    with proxy.logging():
        answer = proxy.answer(longest)
    assert answer.status == 200, answer.body


def test_a_body_is_asked_for_when_the_client_waits_to_be(proxy: Proxy) -> None:
    with proxy.logging(), proxy.connect() as connection:
        connection.send(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(GOOD))
        assert connection.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.send(GOOD).read().status == 200


def test_a_client_that_leaves_is_one_log_line(proxy: Proxy) -> None:
    with proxy.logging() as entries, proxy.connect() as connection:
        connection.send(request()[:-5])
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.closed()
    assert entries[0]["status"] == -1
    assert entries[0]["end"].startswith("C")


def test_a_connection_that_asks_nothing_is_no_log_line(proxy: Proxy) -> None:
    with proxy.logging():
        with proxy.connect() as connection:
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.closed()
        proxy.answer(line="GET /ready HTTP/1.1")


def test_connections_past_the_bound_are_told_so_and_the_others_go_on() -> None:
    with standing_in_behind({"fe_conn gt 1000": "fe_conn gt 5"}) as (proxy, _), ExitStack() as stack:
        early = [stack.enter_context(proxy.connect()) for _ in range(5)]
        with proxy.logging() as entries, proxy.connect() as late:
            answer = late.send(request()).read()
            assert late.closed()
        assert answer.status == entries[0]["status"] == 503
        assert "more than 1,000 connections are open" in answer.message
        assert answer.version == "3"
        assert answer.headers["Retry-After"] == "1"
        for connection in early:
            assert connection.send(request()).read().status == 200
        early.pop().socket.close()
        until(lambda: proxy.answer(GOOD).status == 200, 10)


def held(proxy: Proxy, pool: ThreadPoolExecutor, server: StandInModelServer) -> Any:
    """Have a request wait in the model server."""
    asked = server.asked
    future = pool.submit(proxy.answer, b"hold")
    until(lambda: server.asked > asked, 10)
    return future


def waiting(proxy: Proxy) -> int:
    """How many requests wait for a model server."""
    rows = [line.split(",") for line in proxy.tell("show stat").splitlines() if line.startswith("models,")]
    return sum(int(row[2]) for row in rows)


def test_requests_past_the_queue_are_a_429_and_the_waiting_ones_are_answered() -> None:
    with (
        standing_in_behind({"queue(models) ge 800": "queue(models) ge 2"}, maxconn=1) as (proxy, server),
        ThreadPoolExecutor(3) as pool,
    ):
        first = held(proxy, pool, server)
        queued = [pool.submit(proxy.answer, GOOD) for _ in range(2)]
        until(lambda: waiting(proxy) == 2, 10)
        with proxy.logging(held=3) as entries:
            answer = proxy.answer(GOOD)
        assert answer.status == entries[0]["status"] == 429
        assert "800 requests are waiting already" in answer.message
        assert answer.version == "3"
        assert answer.headers["Retry-After"] == "1"
        server.release.set()
        assert [one.result().status for one in (first, *queued)] == [200] * 3


def test_a_request_does_not_wait_longer_than_the_bound() -> None:
    with (
        standing_in_behind({"timeout queue 15s": "timeout queue 200ms"}, maxconn=1) as (proxy, server),
        ThreadPoolExecutor(1) as pool,
    ):
        first = held(proxy, pool, server)
        with proxy.logging(held=1) as entries:
            answer = proxy.answer(GOOD)
        assert answer.status == entries[0]["status"] == 503
        assert "no model server was free in time" in answer.message
        assert answer.version == "3"
        assert entries[0]["queue_ms"] >= 200
        server.release.set()
        assert first.result().status == 200


@pytest.mark.parametrize("used_before", [False, True])
def test_a_short_request_outlives_the_model_server_that_dies_under_it(used_before: bool) -> None:
    with standing_in_behind() as (proxy, server), proxy.connect() as connection:
        if used_before:
            assert connection.send(request()).read().status == 200
        asked, server.dying = server.asked, 2
        with proxy.logging() as entries:
            answer = connection.send(request()).read()
        assert answer.status == entries[0]["status"] == 200
        assert entries[0]["retries"] == "2"
        assert server.asked == asked + 3


def test_a_long_request_is_not_sent_to_the_next_model_server() -> None:
    """It may be what killed the first."""
    long = body(inputs=["a" * 9000])
    with standing_in_behind() as (proxy, server), proxy.connect() as connection:
        server.dying = 100
        with proxy.logging() as entries:
            answer = connection.send(request(long)).read()
        assert answer.status == entries[0]["status"] == 502
        assert "the model server ended before it had answered" in answer.message
        assert answer.version == "3"
        assert server.asked == 1

        # known limit: on a connection that was used before, HAProxy closes without a word, and logs nothing
        server.dying = 0
        with proxy.connect() as later:
            assert later.send(request()).read().status == 200
            server.dying = 100
            assert later.send(request(long)).closed()
        assert server.asked == 3


def test_a_model_server_that_is_gone_is_a_clean_503() -> None:
    with proxy_with({"retries 20": "retries 1"}) as proxy, ExitStack() as stack:
        proxy.serve(StandInModelServer(stack).port)
        stack.close()
        with proxy.logging() as entries:
            answer = proxy.answer(GOOD)
        assert answer.status == entries[0]["status"] == 503
        assert "no model server was free in time" in answer.message
        assert answer.version == "3"


SHORT = {
    "timeout http-request 30s": "timeout http-request 300ms",
    "wait-for-body time 30s": "wait-for-body time 300ms",
    "timeout client 30s": "timeout client 600ms",
    "timeout server 70s": "timeout server 1s",
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[tuple[Proxy, StandInModelServer]]:
    """The configuration with short time-outs for slow clients."""
    with standing_in_behind(SHORT) as both:
        yield both


def test_slow_headers_are_a_408(impatient: tuple[Proxy, StandInModelServer]) -> None:
    """HAProxy 2.6 cannot word this answer itself either."""
    proxy, _ = impatient
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(HEAD).read()
        assert connection.closed()
    assert answer.status == entries[0]["status"] == 408


def test_a_slow_body_is_a_408_and_no_model_server_is_asked(
    impatient: tuple[Proxy, StandInModelServer],
) -> None:
    proxy, server = impatient
    asked = server.asked
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(request()[:-5]).read()
        assert connection.closed()
    assert answer.status == entries[0]["status"] == 408
    assert "the request did not arrive within 30 s" in answer.message
    assert answer.version == "3"
    assert server.asked == asked


def test_a_long_body_that_stops_is_a_504(impatient: tuple[Proxy, StandInModelServer]) -> None:
    """Past 15 kB the model server waits for it too: MLflow gives up after 60 s, the proxy after 70 s."""
    proxy, _ = impatient
    with proxy.logging() as entries, proxy.connect() as connection:
        answer = connection.send(request(b"x" * 100_000)[:-5]).read()
    assert answer.status == entries[0]["status"] == 504
    assert "no answer within 60 s" in answer.message
    assert answer.version == "3"


def test_a_client_that_stops_reading_is_dropped(impatient: tuple[Proxy, StandInModelServer]) -> None:
    proxy, server = impatient
    server.answer = (200, "application/json", b"x" * (20 << 20))
    with proxy.logging() as entries, proxy.connect() as connection:
        connection.send(request())
        until(lambda: proxy.open() == 0, 10)
    assert entries[0]["end"] == "cD"


def test_a_connection_can_be_used_later(proxy: Proxy) -> None:
    with proxy.logging(2), proxy.connect() as early:
        assert proxy.answer(GOOD).status == 200
        assert early.send(request()).read().status == 200


def test_ready_says_why_not() -> None:
    with proxy_with({}) as proxy, ExitStack() as stack:

        def ask() -> tuple[int, dict[str, object]]:
            answer = proxy.answer(line="GET /ready HTTP/1.1")
            return answer.status, json.loads(answer.body)

        assert ask() == (503, {"ready": False, "reason": "no version is served yet"})
        with proxy.logging() as entries:
            answer = proxy.answer(GOOD)
        assert answer.status == 503
        assert answer.message == "no version is served yet; GET /ready says why"
        assert answer.headers["Retry-After"] == "1"
        assert entries[0]["version"] == "-"
        assert answer.version is None

        service = proxy.state / "service.map"
        proxy.tell(f'add map {service} waiting no\\ "Production"\\ version')
        assert ask() == (503, {"ready": False, "reason": 'no "Production" version'})
        proxy.tell(f"del map {service} waiting")

        server = StandInModelServer(stack)
        proxy.serve(server.port, version=7)
        assert ask() == (200, {"ready": True, "version": "7"})
        assert proxy.answer(line="GET /ready HTTP/1.1").version == "7"
        proxy.tell("set server models/7 state drain")
        assert ask() == (503, {"ready": False, "reason": "version 7 does not answer its health check"})


def test_an_answer_names_the_version_that_gave_it() -> None:
    """Whatever the supervisor says meanwhile."""
    with standing_in_behind() as (proxy, _):
        proxy.tell(f"set map {proxy.state}/service.map version 9")
        with proxy.logging() as entries:
            assert proxy.answer(GOOD).version == "3"
        assert entries[0]["version"] == "3"
        assert proxy.answer(line="GET /ready HTTP/1.1").version == "9"


def test_a_model_server_is_ready_while_it_answers_a_real_request() -> None:
    with proxy_with({}) as proxy, ExitStack() as stack:
        server = StandInModelServer(stack)
        proxy.serve(server.port, check="inter 50ms fall 1")
        server.health = b'{"error": "row 0: the model is not itself"}'  # with status 200
        until(lambda: proxy.answer(line="GET /ready HTTP/1.1").status == 503, 10)
        server.health = b'{"error": null}'
        until(lambda: proxy.answer(line="GET /ready HTTP/1.1").status == 200, 10)


def test_the_port_of_operators_has_metrics_alone(proxy: Proxy) -> None:
    with Connection(proxy.metrics_port) as connection:
        told = connection.send(b"GET /invocations HTTP/1.1\r\nHost: a\r\n\r\n").read("GET")
    assert told.status == 404
    assert b"there is /metrics and /metrics/supervisor" in told.body


def test_metrics_carry_the_version(proxy: Proxy) -> None:
    with Connection(proxy.metrics_port) as connection:
        told = connection.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").read("GET")
    assert b'proxy="models",server="3"' in told.body
