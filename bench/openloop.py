"""The open-loop client: ``python -m bench.openloop`` sends requests at fixed times, whatever comes back.

A client that waits for an answer before it asks again sends least when a server is slowest, and so hides
what it does to others ("coordinated omission", G. Tene, "How NOT to measure latency", 2015). Here the
time of a request counts from when it was due.
"""

import asyncio
import gc
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import uvloop

from bench.load import PROTOCOLS, Connection, http_request, run_clients
from bench.processes import QUIET, ROOT, BenchError

CONNECTIONS = 64  # that are there from the beginning; more are opened when all are busy
MOST_CONNECTIONS = 900  # HAProxy turns away those past the thousandth
LONGEST = 90.0  # seconds that an answer may take
POLL = 0.02
SHED = frozenset({429, 503})
_VERSION = re.compile(rb"\r\nx-model-version: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class KeptAlive(Connection):
    """A connection that also tells which version answered."""

    def data_received(self, data: bytes) -> None:
        """Collect until the answer is whole; what comes without a question closes the connection."""
        if not hasattr(self, "_answer") or self._answer.done():
            self.transport.close()
        else:
            super().data_received(data)

    async def get(self, request: bytes) -> tuple[int, bytes, int]:
        """Return status, body, and the version in the header, -1 if there is none."""
        status, body = await self.ask(request)
        head = bytes(self._received[: self._start])
        if _CLOSE.search(head):
            self.transport.close()
        found = _VERSION.search(head)
        return status, body, int(found[1]) if found else -1


async def connect(port: int) -> KeptAlive:
    """Return a new connection."""
    _, connection = await asyncio.get_running_loop().create_connection(KeptAlive, "127.0.0.1", port)
    return connection


class OpenLoop:
    """Requests at a fixed rate over kept-alive connections, until told to stop.

    Parameters
    ----------
    job : dict
        ``port``, ``rate`` (a second), ``texts``, ``out`` (the file that :meth:`save` writes), and
        ``wrong_every`` (which of the requests are broken ones, and right if answered with 400).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._port, self._rate, self._out = job["port"], job["rate"], Path(job["out"])
        protocol = PROTOCOLS["mlflow"]
        bodies = [protocol.body([text]) for text in job["texts"]]
        if job.get("wrong_every"):
            bodies[:: job["wrong_every"]] = [b'{"inputs": '] * len(bodies[:: job["wrong_every"]])
        self._requests = [http_request(protocol.path, body) for body in bodies]
        self._expected: list[tuple[int, bytes]] = []
        self._idle: deque[KeptAlive] = deque()
        self._open = self._most = 0
        self._waiting: deque[tuple[int, float]] = deque()
        self._rows: list[tuple[float, float, float, int, int, bool]] = []
        self._faults: list[tuple[float, str]] = []
        self._polls: list[tuple[float, float, int]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = threading.Event()

    async def run(self) -> None:
        """Learn the right answers, then ask until standard input says stop or ends."""
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            self._idle.append(await connect(self._port))
        self._open = self._most = CONNECTIONS
        for connection, request in zip(itertools.cycle(list(self._idle)), self._requests, strict=False):
            status, body, _ = await connection.get(request)
            self._expected.append((status, body))
            if status != (200 if b"}" in request else 400):
                raise SystemExit(f"before the load: status {status}, {body[:200]!r}")
        poller = loop.create_task(self._poll())
        start = time.monotonic() + 0.1
        clock = threading.Thread(target=self._tick, args=(loop, start), daemon=True)
        clock.start()
        print(json.dumps({"started": start}), flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        self._over.set()
        await loop.run_in_executor(None, clock.join)
        await asyncio.sleep(0)
        deadline = time.monotonic() + LONGEST + 5
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(self._tasks, timeout=1)
        poller.cancel()
        with suppress(asyncio.CancelledError):
            await poller
        self.save()

    def save(self) -> None:
        """Write what was seen."""
        columns = list(zip(*self._rows, strict=True)) or [()] * 6
        names = ("due", "sent", "done", "status", "version", "right")
        kinds = (float, float, float, int, int, bool)
        arrays: dict[str, Any] = {
            name: np.array(column, dtype=kind)
            for name, column, kind in zip(names, columns, kinds, strict=True)
        }
        polls = np.array(self._polls, dtype=float).reshape(-1, 3)
        np.savez(self._out, polls=polls, **arrays)
        told = {"faults": self._faults, "connections": self._most}
        self._out.with_suffix(".json").write_text(json.dumps(told))

    def _tick(self, loop: asyncio.AbstractEventLoop, start: float) -> None:
        # a thread, since the loop's own timers are good to a millisecond only
        for turn in itertools.count():
            due = start + turn / self._rate
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if self._over.is_set():
                return
            loop.call_soon_threadsafe(self._send, turn % len(self._requests), due)

    def _send(self, which: int, due: float) -> None:
        while self._idle and self._idle[0].transport.is_closing():
            self._idle.popleft()
            self._open -= 1
        connection = self._idle.popleft() if self._idle else None
        if connection is None:
            if self._open >= MOST_CONNECTIONS:
                self._waiting.append((which, due))
                return
            self._open += 1
            self._most = max(self._most, self._open)
        task = asyncio.get_running_loop().create_task(self._exchange(which, due, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _exchange(self, which: int, due: float, connection: KeptAlive | None) -> None:
        sent = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST):
                connection = connection or await connect(self._port)
                sent = time.monotonic()
                status, body, version = await connection.get(self._requests[which])
        except (OSError, TimeoutError, ValueError) as error:
            self._faults.append((due, f"{type(error).__name__}: {error}"[:200]))
            self._rows.append((due, sent, time.monotonic(), 0, -1, False))
            self._open -= 1
            if connection is not None:
                connection.transport.abort()
        else:
            right = (status, body) == self._expected[which]
            self._rows.append((due, sent, time.monotonic(), status, version, right))
            if not right:
                self._faults.append((due, f"status {status}, {body[:150].decode(errors='replace')}"))
            if connection.transport.is_closing():
                self._open -= 1
            else:
                self._idle.append(connection)
        if self._waiting:
            self._send(*self._waiting.popleft())

    async def _poll(self) -> None:
        """Ask ``/ready`` every 20 ms; note which version it names, 0 for none, -1 for no answer."""
        request = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection = None
        while True:
            sent, version = time.monotonic(), -1
            try:
                async with asyncio.timeout(5):
                    if connection is None or connection.transport.is_closing():
                        connection = await connect(self._port)
                    status, _, named = await connection.get(request)
                version = named if status == 200 else 0
            except (OSError, TimeoutError, ValueError):
                connection = None
            self._polls.append((sent, time.monotonic(), version))
            await asyncio.sleep(max(POLL - (time.monotonic() - sent), 0.001))


@dataclass
class Seen:
    """What an open-loop client saw; times are those of the system's monotonic clock, in seconds.

    Attributes
    ----------
    due, sent, done : ndarray of shape (n_requests,)
        When a request should have been sent, was, and its answer was whole.
    status : ndarray of shape (n_requests,)
        0 for none.
    version : ndarray of shape (n_requests,)
        What the header of the answer names, -1 for none.
    right : ndarray of bool of shape (n_requests,)
        Whether status and body were those expected.
    polls : ndarray of shape (n_polls, 3)
        When ``/ready`` was asked, when it answered, and the version that it named: 0 none, -1 no answer.
    faults : list
        Of each request that failed, when it was due and what happened.
    connections : int
        Most that were open at a time.
    """

    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    status: np.ndarray
    version: np.ndarray
    right: np.ndarray
    polls: np.ndarray
    faults: list[tuple[float, str]]
    connections: int

    @classmethod
    def read(cls, path: Path) -> "Seen":
        """Read what the client wrote, ordered by when requests were due."""
        with np.load(path) as found:
            order = np.argsort(found["due"], kind="stable")
            columns = {name: found[name] for name in found.files}
        polls = columns.pop("polls")
        told = json.loads(path.with_suffix(".json").read_text())
        return cls(
            **{name: column[order] for name, column in columns.items()},
            polls=polls,
            faults=[(due, what) for due, what in told["faults"]],
            connections=told["connections"],
        )

    @property
    def ms(self) -> np.ndarray:
        """Milliseconds from when each request was due to its answer."""
        return (self.done - self.due) * 1e3

    @property
    def late(self) -> np.ndarray:
        """Milliseconds by which the client itself was late in sending each request."""
        return (self.sent - self.due) * 1e3

    def within(self, windows: list[tuple[float, float]]) -> np.ndarray:
        """Return which requests were due in one of the windows."""
        chosen = np.zeros(len(self.due), dtype=bool)
        for start, end in windows:
            chosen |= (self.due >= start) & (self.due < end)
        return chosen

    def named(self, version: int, since: float) -> float | None:
        """Return when ``/ready`` had first named a version, after a moment."""
        after = self.polls[(self.polls[:, 0] >= since) & (self.polls[:, 2] == version)]
        return float(after[0, 1]) if len(after) else None

    def first_answer(self, version: int, since: float) -> float | None:
        """Return when a version's first answer was there, of those to requests sent after a moment."""
        done = self.done[(self.sent >= since) & (self.version == version) & (self.status == 200)]
        return float(done.min()) if len(done) else None

    def stale(self, version: int, start: float, end: float) -> int:
        """Return how many requests sent in a window were answered by another version."""
        chosen = (self.sent > start) & (self.sent < end) & (self.status == 200)
        return int((self.version[chosen] != version).sum())

    def counts(self) -> dict[str, Any]:
        """Return how many requests there were, and how many failed in which way."""
        kinds = Counter(re.sub(r"\d{5,}", "n", what)[:90] for _, what in self.faults)
        return {
            "requests": len(self.due),
            "failed": int((~self.right).sum()),
            "without an answer": int((self.status == 0).sum()),
            "wrong answers": int(((self.status == 200) & ~self.right).sum()),
            "shed (429, 503)": int(np.isin(self.status, list(SHED)).sum()),
            "connections": self.connections,
            "faults": dict(kinds.most_common(5)),
        }


class Load:
    """An open-loop client in a process of its own, from ``with`` to :meth:`stop`."""

    _numbers = itertools.count()

    def __init__(self, port: int, rate: float, texts: list[str], folder: Path, wrong_every: int = 0) -> None:
        self.rate = rate
        self._out = folder / f"load-{next(self._numbers)}.npz"
        self._job = {"port": port, "rate": rate, "texts": texts, "out": str(self._out)}
        self._job["wrong_every"] = wrong_every

    def __enter__(self) -> "Load":
        self._log = self._out.with_suffix(".log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.openloop"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env=os.environ | QUIET,
            start_new_session=True,
        )
        self._stdin.write(json.dumps(self._job) + "\n")
        self._stdin.flush()
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            self.__exit__(None, None, None)
            said = self._out.with_suffix(".log").read_text().strip().splitlines()[-1:]
            raise BenchError(f"the load client does not start: {' '.join(said)}")
        self.started = float(json.loads(line)["started"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    @property
    def _stdin(self) -> IO[str]:
        return cast(IO[str], self._process.stdin)

    def stop(self) -> Seen:
        """Send no more, wait for what is in flight, and return all that was seen."""
        self._stdin.write("stop\n")
        self._stdin.flush()
        try:
            self._process.wait(LONGEST + 30)
        except subprocess.TimeoutExpired:
            raise BenchError("the load client did not end") from None
        if self._process.returncode:
            said = self._out.with_suffix(".log").read_text().strip().splitlines()[-1:]
            raise BenchError(f"the load client failed: {' '.join(said)}")
        return Seen.read(self._out)


async def closed_loop(job: dict[str, Any]) -> dict[str, float]:
    """Return requests per second and p50 and p99 in milliseconds, with each number of clients.

    Each client asks as soon as it has its answer: what a server can do at most, beside what it does at a
    given rate.
    """
    protocol = PROTOCOLS["mlflow"]
    requests = [http_request(protocol.path, protocol.body([text])) for text in job["texts"]]
    seen, _ = await run_clients(job["port"], requests, 4, job["seconds"] / 4)  # warm-up
    expected = {exchange.which: exchange.body for exchange in seen}
    found: dict[str, float] = {"answers": 0, "wrong": 0}
    for clients in job["clients"]:
        seen, seconds = await run_clients(job["port"], requests, clients, job["seconds"])
        wrong = [x for x in seen if x.status != 200 or x.body != expected.setdefault(x.which, x.body)]
        found["answers"] += len(seen)
        found["wrong"] += len(wrong)
        found[f"throughput_{clients}"] = len(seen) / seconds
        p50, p99 = np.percentile([exchange.seconds for exchange in seen], [50, 99]) * 1e3
        found |= {f"p50_{clients}": p50, f"p99_{clients}": p99}
    return found


def main() -> None:
    """Do the job in the first line of standard input until the second."""
    job = json.loads(sys.stdin.readline())
    with suppress(OSError):
        os.nice(-10)  # where it may: what is measured must not wait for whoever measures
    gc.disable()
    if "clients" in job:
        print(json.dumps(uvloop.run(closed_loop(job))))
    else:
        uvloop.run(OpenLoop(job).run())


if __name__ == "__main__":
    main()
