"""The load client, the same for every server: ``python -m bench.load`` reads a job and says what it saw.

Raw HTTP/1.1 over kept-alive connections with TCP_NODELAY: a client library would cost more than some of
the servers. Answers are kept while the clock runs and checked, every one, after it has stopped.
"""

import asyncio
import gc
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import uvloop


@dataclass(frozen=True)
class Protocol:
    """How a server wants to be asked, and where its answer holds the labels."""

    path: str
    question: Callable[[list[str]], dict[str, Any]]
    labels: Callable[[Any], list[str]]

    def body(self, texts: list[str]) -> bytes:
        """Return the request body for ``texts``."""
        return json.dumps(self.question(texts)).encode()


def _fastest_for_mlflow(texts: list[str]) -> dict[str, Any]:
    """Return a question in the form that MLflow reads fastest: ``inputs`` makes all rows as wide as the longest."""
    if len(texts) == 1:
        return {"inputs": texts}
    return {"dataframe_split": {"columns": ["text"], "data": [[text] for text in texts]}}


_REVIEWS = Protocol(
    "/predict", lambda texts: {"reviews": texts}, lambda answer: [row["sentiment"] for row in answer]
)
PROTOCOLS = {
    "mlflow": Protocol(
        "/invocations",
        _fastest_for_mlflow,
        lambda answer: [row["sentiment"] for row in answer["predictions"]],
    ),
    "fastapi": _REVIEWS,
    "bentoml": _REVIEWS,
    "mlserver": Protocol(
        "/v2/models/sentiment/infer",
        lambda texts: {
            "inputs": [{"name": "review", "shape": [len(texts), 1], "datatype": "BYTES", "data": texts}]
        },
        lambda answer: answer["outputs"][0]["data"],
    ),
}


@dataclass(frozen=True)
class Exchange:
    """One request and what came back."""

    which: int
    seconds: float
    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """A kept-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._end = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn Nagle's algorithm off."""
        self.transport = cast(asyncio.Transport, transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Collect until the answer is whole."""
        self._received += data
        if not self._end:
            head, blank, _ = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            _, found, rest = head.lower().partition(b"\r\ncontent-length:")
            if not found:
                self.connection_lost(ValueError(f"an answer without Content-Length: {bytes(head)!r}"))
                return
            self._start = len(head) + 4
            self._end = self._start + int(rest.partition(b"\r\n")[0])
        if len(self._received) >= self._end:
            self._answer.set_result(
                (int(self._received[9:12]), bytes(self._received[self._start : self._end]))
            )

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request under way."""
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body."""
        self._received.clear()
        self._end = 0
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


def http_request(path: str, body: bytes) -> bytes:
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def run_client(
    port: int, requests: list[bytes], turns: Iterator[int], deadline: float
) -> list[Exchange]:
    """Send one request after the other over one connection until the deadline or the last turn."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    seen = []
    for turn in turns:
        which = turn % len(requests)
        start = time.perf_counter()
        status, body = await connection.ask(requests[which])
        end = time.perf_counter()
        seen.append(Exchange(which, end - start, status, body))
        if end >= deadline:
            break
    connection.transport.close()
    return seen


async def run_clients(
    port: int, requests: list[bytes], clients: int, seconds: float
) -> tuple[list[Exchange], float]:
    """Run clients side by side; return all exchanges and the seconds from first to last."""
    turns = itertools.count()
    start = time.perf_counter()
    seen = await asyncio.gather(*(run_client(port, requests, turns, start + seconds) for _ in range(clients)))
    return list(itertools.chain.from_iterable(seen)), time.perf_counter() - start


def check(protocol: Protocol, seen: list[Exchange], expected: list[list[str]]) -> None:
    """Read every answer.

    Raises
    ------
    SystemExit
        If one is not 200, does not parse, or holds another label than the model gives in process.
    """
    wrong = []
    for exchange in seen:
        labels = None
        if exchange.status == 200:
            with suppress(ValueError, LookupError, TypeError):
                labels = protocol.labels(json.loads(exchange.body))
        if labels != expected[exchange.which]:
            wrong.append(exchange)
    if wrong:
        first = wrong[0]
        raise SystemExit(
            f"{len(wrong)} of {len(seen)} answers are wrong, first: {first.status} {first.body[:200]!r}, "
            f"expected {expected[first.which][:3]}"
        )


async def measure(job: dict[str, Any]) -> dict[str, float]:
    """Return milliseconds, requests per second by number of clients, and how many answers were checked.

    Parameters
    ----------
    job : dict
        ``port``, ``protocol`` (a key of ``PROTOCOLS``), ``texts`` with their ``labels``, ``clients``
        (how many at a time), ``seconds`` for each of these, ``batches`` (how often all texts at once).
    """
    protocol, port, texts, labels = PROTOCOLS[job["protocol"]], job["port"], job["texts"], job["labels"]
    singles = [http_request(protocol.path, protocol.body([text])) for text in texts]
    expected = [[label] for label in labels]
    seen, _ = await run_clients(port, singles, 8, job["seconds"] / 4)  # warm-up
    check(protocol, seen, expected)
    found: dict[str, float] = {"answers": len(seen)}
    for clients in job["clients"]:
        seen, seconds = await run_clients(port, singles, clients, job["seconds"])
        check(protocol, seen, expected)
        found["answers"] += len(seen)
        found[f"throughput_{clients}"] = len(seen) / seconds
        if clients == 1:
            p50, p99 = np.percentile([exchange.seconds for exchange in seen], [50, 99]) * 1e3
            found |= {"p50": p50, "p99": p99}
    whole = http_request(protocol.path, protocol.body(texts))
    seen = await run_client(port, [whole], iter(range(job["batches"])), float("inf"))
    check(protocol, seen, [labels])
    found["answers"] += len(seen)
    found["batch"] = float(np.median([exchange.seconds for exchange in seen])) * 1e3
    return found


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    gc.disable()
    print(json.dumps(uvloop.run(measure(job))))


if __name__ == "__main__":
    main()
