"""What a model server is asked before it serves, and how the commands around it end."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli import stop_in_order
from inference.ask import ask
from inference.server import bound_memory, wait_until_ready

EXAMPLES: list[dict[str, Any]] = [
    {"text": "A wonderful film.", "sentiment": "positive", "confidence": 0.9},
    {"text": "Dull.", "sentiment": "negative", "confidence": 0.8},
]


ANSWER = """
import mmap, sys, threading
loaded = mmap.mmap(-1, 5 * 2**30)  # as a library takes it that maps much
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    threading.Thread(target=print, args=("answered",)).start()
mmap.mmap(-1, 2**30)
mmap.mmap(-1, 2 * 2**30)
"""


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux bounds another process")
def test_whatever_loading_takes_answering_has_2_gib_more_and_not_3() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        bound_memory(psutil.Process(process.pid))
        told, errors = process.communicate("go on\n", timeout=60)
    assert told.count("answered") == 40
    assert "line 9" in errors
    assert "Cannot allocate memory" in errors


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux bounds another process")
def test_where_memory_may_not_be_bounded_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self: psutil.Process, *_: Any) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "rlimit", refused)
    bound_memory(psutil.Process())
    assert "the memory of the model server is not bounded" in caplog.text


def test_no_proxy_answers_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most companies set one; a proxy that says no would be asked again and again."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    class Ping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Ping) as server, subprocess.Popen(["sleep", "60"]) as process:
        threading.Thread(target=server.handle_request, daemon=True).start()
        try:
            wait_until_ready(process, f"http://127.0.0.1:{server.server_port}", 10)
        finally:
            process.kill()


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put the signal handlers of the tests back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_a_signal_ends_reports_the_signal(number: signal.Signals, handlers: None) -> None:
    stop_in_order()
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)
    assert ended.value.code == 128 + number


def test_the_program_that_asks_an_image_asks_a_server(tmp_path: Path) -> None:
    """`make image-smoke` sends its text to the Python of a container; here it asks a server of the standard library."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(
                json.dumps({"predictions": [f"says {text}" for text in asked["inputs"]]}).encode()
            )

    (tmp_path / "examples.json").write_text(json.dumps(EXAMPLES))
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = ask(tmp_path, f"http://127.0.0.1:{server.server_port}/invocations")
    assert found == {"examples": EXAMPLES, "answers": ["says A wonderful film.", "says Dull."]}
