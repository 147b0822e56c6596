"""What the scenarios of ``make switches`` share: how to ask, change the version, wait, and say what was found."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy as np
import psutil
import requests

from bench.following import Registry, Service, serving
from bench.load import PROTOCOLS
from bench.openloop import Load, Seen
from bench.processes import QUIET, ROOT, BenchError

SECONDS_A_SWITCH = 7.5  # for the estimate alone


KILL = signal.SIGKILL


@dataclass
class Bench:
    """What all scenarios share.

    Attributes
    ----------
    folder : Path
        Logs and stores; removed in the end.
    registry : Registry
    good : list of int
        Versions of the same model.
    texts : list of str
        Held-out reviews.
    settings : dict
        ``FULL`` or ``QUICK``.
    switches : int
        How many, where growth is looked for.
    """

    folder: Path
    registry: Registry
    good: list[int]
    texts: list[str]
    settings: dict[str, Any]
    switches: int

    def load(self, service: Service, rate: float | None = None, wrong_every: int = 0) -> Load:
        """Return an open-loop client for a service."""
        rate = rate or self.settings["background"]
        return Load(service.port, rate, self.texts, self.folder, wrong_every)

    def serving(self, patches: dict[str, Any] | None = None) -> Any:
        """Return a service that serves the first version."""
        return serving(self.registry, self.folder, self.good[0], patches)


@dataclass
class Outcome:
    """What a scenario found.

    Attributes
    ----------
    title : str
    checks : list of dict
        ``what``, ``bound``, ``measured``, ``passed``.
    tables : list of dict
        ``heads`` and ``rows``, for the report.
    notes : list of str
        Sentences for the report.
    data : dict
        Every figure, and what the plot needs.
    """

    title: str
    checks: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    not_run: str = ""

    def check(self, what: str, bound: str, measured: Any, passed: bool) -> None:
        """Compare a figure with what was promised, and say so."""
        self.checks.append({"what": what, "bound": bound, "measured": str(measured), "passed": bool(passed)})
        say(f"  {'ok    ' if passed else 'FAILED'} {what}: {measured} (bound: {bound})")

    def none_failed(
        self, seen: Seen, what: str = "requests that failed, were reset or answered wrong"
    ) -> None:
        """Check that every request was answered right."""
        counts = seen.counts()
        measured = f"{counts['failed']:,} of {counts['requests']:,}"
        if counts["faults"]:
            told = "; ".join(f"{n} × {kind}" for kind, n in counts["faults"].items())
            self.notes.append(f"{what}: {told}")
            measured += f" ({told})"
        self.check(what, "0", measured, counts["failed"] == 0)


def say(text: str) -> None:
    """Print a line of progress."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}")


@dataclass
class Change:
    """A promotion or rollback, and when what followed from it happened, on the monotonic clock."""

    action: str
    version: int
    before: int
    start: float  # of the call
    returned: float
    bringing: float = 0.0  # logged: bringing up
    serving: float = 0.0  # logged: SERVING
    ended: float = 0.0  # logged: the process of the version before has ended


def change(bench: Bench, service: Service, before: int, to: int | None = None, timeout: float = 60) -> Change:
    """Promote a version, or roll back if none is given, and wait until the version before has ended."""
    answer = bench.registry.ask("promote", to) if to is not None else bench.registry.ask("rollback")
    version = to if to is not None else int(answer["value"])
    action = "promotion" if to is not None else "rollback"
    made = Change(action, version, before, answer["start"], answer["end"])
    made.bringing = service.wait_for(rf"bringing up version {version}$", made.start, timeout)
    made.serving = service.wait_for(rf"SERVING: version {version},", made.bringing, timeout)
    made.ended = service.wait_for(rf"version {before} has ended", made.serving, timeout)
    return made


def back_and_forth(bench: Bench, service: Service, count: int) -> Iterator[Change]:
    """Promote the second and the third version in turn, and roll back to the first after each."""
    current = bench.good[0]
    for turn in range(count):
        to = bench.good[1 + turn // 2 % 2] if turn % 2 == 0 else None
        made = change(bench, service, current, to)
        current = made.version
        yield made


def percentiles(ms: np.ndarray) -> dict[str, float]:
    """Return p50, p99 and the largest of some latencies; nan of none."""
    if not len(ms):
        return dict.fromkeys(("p50", "p99", "max"), float("nan"))
    p50, p99, most = np.percentile(ms, [50, 99, 100])
    return {"p50": float(p50), "p99": float(p99), "max": float(most)}


def post(connection: HTTPConnection, texts: list[str]) -> tuple[int, int]:
    """Ask over a connection; return status and version, 0 and -1 if there is no answer."""
    protocol = PROTOCOLS["mlflow"]
    try:
        connection.request("POST", protocol.path, protocol.body(texts), {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status, int(response.headers.get("X-Model-Version", -1))
    except (OSError, HTTPException, ValueError):
        return 0, -1


@dataclass
class Slow:
    """A request whose body takes long to arrive."""

    start: float
    end: float
    status: int
    version: int
    whole: bool
    fault: str = ""


def send_slowly(port: int, texts: list[str], lasting: float) -> Slow:
    """Send more of a body than the proxy keeps at once, and the rest in pieces over ``lasting`` seconds."""
    protocol = PROTOCOLS["mlflow"]
    body = protocol.body(texts)
    start = time.monotonic()
    first, pieces = 24_000, 20
    step = -(-(len(body) - first) // pieces)
    with closing(HTTPConnection("127.0.0.1", port, timeout=90)) as connection:
        try:
            connection.putrequest("POST", protocol.path)
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:first])
            for piece in range(pieces):
                time.sleep(max(start + lasting * (piece + 1) / pieces - time.monotonic(), 0))
                if select.select([connection.sock], [], [], 0)[0]:
                    break  # answered before it was whole
                connection.send(body[first + piece * step : first + (piece + 1) * step])
            response = connection.getresponse()
            answers = json.loads(response.read()).get("predictions", [])  # an error is JSON too
            whole = len(answers) == len(texts) and all(answer["error"] is None for answer in answers)
            version = int(response.headers.get("X-Model-Version", -1))
            return Slow(start, time.monotonic(), response.status, version, whole)
        except (OSError, HTTPException, ValueError, LookupError) as error:
            return Slow(start, time.monotonic(), 0, -1, False, repr(error))


def six_slow(pool: ThreadPoolExecutor, service: Service, bench: Bench) -> list["Future[Slow]"]:
    """Begin six slow requests that last 8 to 15 s."""
    texts = (bench.texts * 200)[:200]
    return [pool.submit(send_slowly, service.port, texts, 8.0 + 1.4 * turn) for turn in range(6)]


def faults_of(told: list[Slow]) -> str:
    """Return what went wrong with slow requests."""
    return "; ".join(
        sorted({s.fault or f"status {s.status}" for s in told if s.status != 200 or not s.whole})
    )


def wait_gone(processes: list[psutil.Process], timeout: float) -> float | None:
    """Return when the last of some processes has ended; None if they do not within ``timeout``."""
    _, alive = psutil.wait_procs(processes, timeout)
    return None if alive else time.monotonic()


def metric(service: Service, name: str) -> float | None:
    """Return a metric of the supervisor, as Prometheus reads it."""
    with suppress(requests.RequestException):
        text = requests.get(f"http://127.0.0.1:{service.metrics_port}/metrics/supervisor", timeout=5).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None
    return None


def within(timeout: float, question: Callable[[], Any]) -> Any:
    """Ask until the answer is true or time is up; return the last answer."""
    deadline = time.monotonic() + timeout
    while not (answer := question()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


def failed_before(seen: Seen, moment: float) -> int:
    """Return how many requests that were sent before a moment were not answered right."""
    return int((~seen.right[seen.sent < moment]).sum())


def train(uri: str, rows: int, folder: Path) -> None:
    """Train and register one version in a store; ``rows`` of 0 is all."""
    environment = os.environ | QUIET | {"MLFLOW_TRACKING_URI": uri}
    if uri.startswith("sqlite"):
        mlflow.MlflowClient(uri).create_experiment(
            "switches", artifact_location=(folder / "artifacts").as_uri()
        )
        environment["MLFLOW_EXPERIMENT_NAME"] = "switches"
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.pop(name)
    done = subprocess.run(
        [sys.executable, "-m", "training.main", "--promote", "never", "--limit", str(rows)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if done.returncode:
        raise BenchError(f"training failed: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
