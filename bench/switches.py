"""``make switches``: what a change of version costs those who ask meanwhile, and what the follower survives."""

import json
import os
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
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
from bench.openloop import SHED, Load, Seen
from bench.processes import MEGABYTE, QUIET, ROOT, BenchError, ask, family
from bench.switches_report import write
from data.ingest import TABLE
from data.table import read_table
from inference.serve import stop_in_order
from inference.server import free_port
from registry.versions import REFUSED

FULL: dict[str, Any] = {
    "rates": [200],
    "changes": 20,  # at each rate
    "unconfined": 6,  # the same, but with a start on any core
    "steady": 18.0,  # seconds between two changes
    "idle": 200,
    "idle_rounds": 3,
    "background": 50,  # requests a second under everything that is not about latency
    "control": 12,  # switches of the leaking control
    "hold": 8.0,  # seconds that a fault lasts, where its length is free
    "closed": 4.0,  # seconds of each closed-loop measurement
    "rounds": 5,
    "canary": 10_000,  # requests that a good canary must outlive
    "canary_rate": 200,
    "tracker_rows": 3000,
    "loading": 10.0,  # seconds that a version has to come up, where one never does; the product gives 120
}
QUICK: dict[str, Any] = FULL | {
    "rates": [50],
    "changes": 2,
    "unconfined": 1,
    "steady": 2.0,
    "idle": 20,
    "idle_rounds": 1,
    "background": 20,
    "control": 4,
    "hold": 2.0,
    "closed": 0.5,
    "rounds": 1,
    "canary": 400,
    "canary_rate": 100,
}
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


def seconds(values: list[float]) -> str:
    """Return the median and the largest, for a table."""
    return f"{statistics.median(values):.2f} / {max(values):.2f}"


def percentiles(ms: np.ndarray) -> dict[str, float]:
    """Return p50, p99 and the largest of some latencies; nan of none."""
    if not len(ms):
        return dict.fromkeys(("p50", "p99", "max"), float("nan"))
    p50, p99, most = np.percentile(ms, [50, 99, 100])
    return {"p50": float(p50), "p99": float(p99), "max": float(most)}


def by_second(seen: Seen, changes: list[Change]) -> dict[str, Any]:
    """Return what the plot shows of one run, seconds counted from its first request."""
    zero = float(seen.due[0])
    second = (seen.due - zero).astype(int)
    rows = []
    for number in range(second[-1] + 1):
        chosen = second == number
        if chosen.any():
            versions, counts = np.unique(seen.version[chosen], return_counts=True)
            rows.append(
                {"second": number, "n": int(chosen.sum())}
                | percentiles(seen.ms[chosen])
                | {"versions": dict(zip(map(str, versions.tolist()), counts.tolist(), strict=True))}
            )
    return {
        "seconds": rows,
        "failed": (seen.due[~seen.right] - zero).tolist(),
        "changes": [
            asdict(made)
            | {k: getattr(made, k) - zero for k in ("start", "returned", "bringing", "serving", "ended")}
            for made in changes
        ],
    }


def switching(bench: Bench, rate: int, unconfined: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the version again and again under one load; return figures and what the plot shows."""
    settings, changes = bench.settings, []
    with bench.serving({"unconfined": True} if unconfined else None) as service, ExitStack() as stack:
        load = stack.enter_context(bench.load(service, rate))
        time.sleep(settings["steady"])
        for made in back_and_forth(bench, service, settings["unconfined" if unconfined else "changes"]):
            changes.append(made)
            say(
                f"  {rate}/s {'unconfined' if unconfined else 'confined'}: {made.action} to version {made.version}, "
                f"seen after {made.bringing - made.returned:.1f} s, served after {made.serving - made.returned:.1f} s"
            )
            time.sleep(settings["steady"])
        over = time.monotonic()
        seen = load.stop()
    named = [seen.named(made.version, made.start) for made in changes]
    first = [seen.first_answer(made.version, made.start) for made in changes]
    if None in named or None in first:
        raise BenchError(f"a version was never named by /ready or never answered: {named}, {first}")
    ready, answered = [float(t or 0) for t in named], [float(t or 0) for t in first]
    until = [made.start for made in changes[1:]] + [over]
    stale = sum(seen.stale(m.version, t, end) for m, t, end in zip(changes, ready, until, strict=True))
    during = [(made.start, made.ended) for made in changes]
    begin = [load.started + 1.0] + [made.ended + 1.0 for made in changes]
    steady = list(zip(begin, [made.start for made in changes] + [over], strict=True))
    switch, calm = percentiles(seen.ms[seen.within(during)]), percentiles(seen.ms[seen.within(steady)])
    figures = {
        "rate": rate,
        "unconfined": unconfined,
        "changes": len(changes),
        "stale": stale,
        "not ready": int((seen.polls[:, 2] <= 0).sum()),
        "polls": len(seen.polls),
        "seen": [made.bringing - made.returned for made in changes],
        "served": [made.serving - made.returned for made in changes],
        "answered": [t - made.returned for t, made in zip(answered, changes, strict=True)],
        "start": [made.serving - made.bringing for made in changes],
        "ended": [made.ended - made.serving for made in changes],
        "steady": calm,
        "switch": switch,
        "ratio": switch["p99"] / calm["p99"],
        "late": percentiles(seen.late),
        **seen.counts(),
    }
    return figures, by_second(seen, changes)


def switches(bench: Bench) -> Outcome:
    """Measure changes under open-loop load at several rates, with the start confined to a core and without."""
    out = Outcome("Promotions and rollbacks under open-loop load")
    found: list[dict[str, Any]] = []
    shown = []
    for rate in bench.settings["rates"]:
        for unconfined in (False, True):
            figures, series = switching(bench, rate, unconfined)
            found.append(figures)
            if not unconfined:
                shown.append({"rate": rate} | series)
    ours = [figures for figures in found if not figures["unconfined"]]
    total, changes = sum(f["requests"] for f in ours), sum(f["changes"] for f in ours)
    failed, stale = sum(f["failed"] for f in ours), sum(f["stale"] for f in ours)
    faults = {what: n for f in ours for what, n in f["faults"].items()}
    out.check("promotions and rollbacks", "≥ 20", changes, changes >= 20)
    out.check("requests under way meanwhile", "≥ 100,000", f"{total:,}", total >= 100_000)
    out.check(
        "failed, reset or answered wrong",
        "0",
        f"{failed:,} of {total:,}" + (f" {faults}" if faults else ""),
        not failed,
    )
    out.check("sent after /ready named the new version, answered by another", "0", stale, stale == 0)
    not_ready = sum(f["not ready"] for f in ours)
    out.check(
        "GET /ready without a version",
        "0",
        f"{not_ready} of {sum(f['polls'] for f in ours):,}",
        not not_ready,
    )
    for key, what in (
        ("seen", "change seen: from the return of the call to the log line “bringing up”, s, largest"),
        ("served", "the same to the log line “SERVING”"),
        ("answered", "the same to the first answer of the new version"),
    ):
        most = max(value for f in ours for value in f[key])
        out.check(what, "< 10", f"{most:.2f}", most < 10)
    for f in ours:
        out.check(
            f"p99 during a switch beside the steady p99, at {f['rate']}/s",
            "≤ 2 ×",
            f"{f['ratio']:.2f} × ({f['switch']['p99']:.1f} ms beside {f['steady']['p99']:.1f} ms)",
            f["ratio"] <= 2,
        )
    heads = [
        *("requests/s", "start of a server", "requests", "failed", "steady p50, ms", "p99", "max"),
        *("during a switch p50, ms", "p99", "max", "p99 ratio", "the client itself late, p99 ms"),
    ]
    rows = []
    for f in found:
        latency = [f"{f[when][key]:.1f}" for when in ("steady", "switch") for key in ("p50", "p99", "max")]
        confined = "any core" if f["unconfined"] else "one core (as shipped)"
        numbers = [f"{f['requests']:,}", f"{f['failed']:,}"]
        rows.append([f["rate"], confined, *numbers, *latency, f"{f['ratio']:.2f}", f"{f['late']['p99']:.1f}"])
    out.tables.append({"heads": heads, "rows": rows})
    heads = [
        "requests/s",
        "start of a server",
        "seen, s",
        "server start, s",
        "served, s",
        "first answer, s",
        "old one ended, s",
    ]
    rows = [
        [f["rate"], "any core" if f["unconfined"] else "one core (as shipped)"]
        + [seconds(f[key]) for key in ("seen", "start", "served", "answered", "ended")]
        for f in found
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        "Latency counts from when a request was due. “During a switch” is from the call to the end of the old server's process; steady is "
        "the rest of the same run, but for a second after each. Seconds are median / largest, from the return of the call; the start is from “bringing up” to "
        "“SERVING”, the end from there. The checks are about the follower as shipped; the other rows are the same with the confinement of a "
        "starting server to one core taken out."
    )
    out.data = {"runs": found, "series": shown}
    return out


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


def idle(bench: Bench) -> Outcome:
    """Open connections before a switch, use them first after it."""
    out = Outcome("Connections opened before a switch and first used after it")
    count, current = bench.settings["idle"], bench.good[0]
    answered, new, ages = 0, 0, []
    with bench.serving() as service, bench.load(service) as load:
        for turn in range(bench.settings["idle_rounds"]):
            to = bench.good[1 + turn % 2]
            began = time.monotonic()
            opened = [HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(count)]
            for connection in opened:
                connection.connect()
            current = change(bench, service, current, to).version
            ages.append(time.monotonic() - began)
            told = [post(connection, bench.texts[:1]) for connection in opened]
            for connection in opened:
                connection.close()
            answered += sum(status == 200 for status, _ in told)
            new += sum(version == current for _, version in told)
        seen = load.stop()
    total = count * bench.settings["idle_rounds"]
    out.check("answered with 200", "all", f"{answered} of {total}", answered == total)
    out.check("of these by the new version", "all", f"{new} of {total}", new == total)
    out.none_failed(seen, "other requests that failed")
    out.notes.append(f"{count} connections a round, unused for up to {max(ages):.1f} s.")
    out.data = {"answered": answered, "total": total, "ages": ages}
    return out


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


def slow(bench: Bench) -> Outcome:
    """Have slow requests in flight when the version changes, and when everything is told to end."""
    out = Outcome("Slow requests in flight at a switch, and at SIGTERM of the whole")
    before = bench.good[0]
    stop = threading.Event()
    batches: list[tuple[float, float, int]] = []

    def ask_batches(port: int) -> None:
        texts = (bench.texts * 2000)[:2000]
        with closing(HTTPConnection("127.0.0.1", port, timeout=90)) as connection:
            while not stop.is_set():
                start = time.monotonic()
                status, _ = post(connection, texts)
                batches.append((start, time.monotonic(), status))

    with bench.serving() as service, ThreadPoolExecutor(8) as pool:
        with bench.load(service) as load:
            answer = bench.registry.ask("promote", bench.good[1])
            service.wait_for(rf"bringing up version {bench.good[1]}$", answer["start"])
            under_way = six_slow(pool, service, bench)
            big = pool.submit(ask_batches, service.port)
            switched = service.wait_for(rf"SERVING: version {bench.good[1]},", answer["start"])
            told = [future.result() for future in under_way]
            ended = service.wait_for(rf"version {before} has ended", switched, 60)
            stop.set()
            big.result()
            seen = load.stop()
        across = [s for s in told if s.start < switched < s.end]
        right = [s for s in told if s.status == 200 and s.whole]
        out.check("slow requests in flight at the switch", "6", len(across), len(across) == 6)
        out.check(
            "of the six slow requests, answered whole",
            "6",
            f"{len(right)} {faults_of(told)}",
            len(right) == 6,
        )
        old = sum(s.version == before for s in across)
        out.check("by the version that they were sent to", f"{len(across)}", old, old == len(across))
        out.check(
            "the old server ended after the switch, s",
            "≤ 30",
            f"{ended - switched:.1f}",
            ended - switched <= 30,
        )
        fine = sum(status == 200 for _, _, status in batches)
        crossing = sum(start < switched < end for start, end, _ in batches)
        out.check(
            "batches of 2,000 reviews asked one after the other meanwhile, answered",
            "all",
            f"{fine} of {len(batches)} ({crossing} in flight at the switch)",
            fine == len(batches),
        )
        out.none_failed(seen, "other requests that failed")

        under_way = six_slow(pool, service, bench)
        time.sleep(2)
        processes = service.processes()
        sent = time.monotonic()
        service.kill(signal.SIGTERM)
        last = [future.result() for future in under_way]
        gone = wait_gone(processes, 60)
        right = [s for s in last if s.status == 200 and s.whole]
        out.check(
            "of six slow requests in flight at SIGTERM, answered whole",
            "6",
            f"{len(right)} {faults_of(last)}",
            len(right) == 6,
        )
        longest = max(s.end for s in last) - sent
        out.check("the last of them after SIGTERM, s", "≤ 30", f"{longest:.1f}", longest <= 30)
        took = f"{gone - sent:.1f}" if gone else "never"
        out.check(
            "processes left",
            "0",
            f"{len(service.processes())} (the last ended after {took} s)",
            gone is not None,
        )
    out.data = {"switch": [asdict(s) for s in told], "sigterm": [asdict(s) for s in last], "batches": batches}
    return out


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


def bad(bench: Bench) -> Outcome:
    """Promote versions that cannot serve."""
    out = Outcome("Bad promotions under load")
    good = bench.good[0]
    kinds = ("corrupt", "missing", "slow", "crashing", "wrong answers", "other pins")
    rows, visible = [], 0
    with bench.serving({"timeout": bench.settings["loading"]}) as service, bench.load(service) as load:
        for kind in kinds:
            number = bench.registry.value("spoilt", kind)
            answer = bench.registry.ask("promote", number)
            told = service.wait_for(rf"REFUSED: version {number},", answer["start"], 90)
            tag = within(10, partial(bench.registry.value, "tag", number, REFUSED))
            name = f'sentiment_refused{{version="{number}"}}'
            shown = within(5, partial(metric, service, name))
            time.sleep(bench.settings["hold"])  # for the tries that follow
            kept = service.ready() == good
            visible += bool(tag and shown and kept)
            line = (service.said(rf"REFUSED: version {number},", answer["start"]) or (0, ""))[1]
            why = re.sub(r".*failure 1: (.*); it .*", r"\1", line)
            say(f"  {kind}: {why}")
            marks = ["yes" if mark else "NO" for mark in (kept, tag, shown)]
            rows.append([kind, number, f"{told - answer['end']:.1f}", *marks, why])
            back = bench.registry.ask("promote", good)
            service.wait_for(rf"in Production: version {good}", back["start"], 30)
            within(30, partial(service.gone, number))
        seen = load.stop()
    out.none_failed(seen)
    others = sorted(set(seen.version.tolist()) - {good})
    out.check(
        "answered by another version than the good one", "0", int((seen.version != good).sum()), not others
    )
    out.check(
        "old version serves; failure in log, tag and metric",
        "all",
        f"{visible} of {len(kinds)}",
        visible == len(kinds),
    )
    heads = [
        "what is wrong",
        "version",
        "refused after, s",
        "old one serves",
        "tag",
        "metric",
        "what the log says",
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        "Each is a registered copy of the good version with something changed, registered with the digests of the changed files; "
        "“corrupt” was changed after that and “missing” removed. “slow” never loads; it had "
        f"{bench.settings['loading']:.0f} s here and has 120 s as shipped. Each was left in Production for some seconds after its first failure, so that it was tried again."
    )
    out.data = {"rows": rows, **seen.counts()}
    return out


NOMINAL = 200


def slope(values: list[float]) -> float:
    """Return the median of the slopes between all pairs (Theil, 1950; Sen, 1968): a few outliers do not move it."""
    pairs = [(b - a) / (j - i) for i, a in enumerate(values) for j, b in list(enumerate(values))[i + 1 :]]
    return statistics.median(pairs)


def growth_of(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return what the second half of 200 switches adds, judged by the second half of the samples.

    Memory: the fitted slope times a hundred. Descriptors come back in bursts, whenever Python's collector
    has its turn, so what counts is to how many they come back: the fewest of the last quarter less the
    fewest of the quarter before.

    Parameters
    ----------
    samples : list of dict
        After each switch, of each process ``… RSS, MB`` and ``… descriptors``.
    """
    half = samples[len(samples) // 2 :]
    third, last = half[: len(half) // 2], half[len(half) // 2 :]
    return {
        key: slope([sample[key] for sample in half]) * NOMINAL / 2
        if key.endswith("MB")
        else min(sample[key] for sample in last) - min(sample[key] for sample in third)
        for key in half[0]
    }


def check_growth(samples: list[dict[str, float]]) -> list[tuple[str, float, float, bool]]:
    """Return for each measure what it is, its bound, its growth, and whether that passes."""
    rows = []
    for key, value in growth_of(samples).items():
        bound = 20.0 if key.endswith("MB") else 0.0
        rows.append((key, bound, value, value <= bound))
    return rows


def growing(bench: Bench, count: int, patches: dict[str, Any] | None) -> tuple[list[dict[str, float]], Seen]:
    """Switch ``count`` times under a light load; return samples taken after each."""
    samples = []
    with bench.serving(patches) as service, bench.load(service, 20) as load:
        watched = {"supervisor": service.supervisor, "HAProxy": service.haproxy}
        for made in back_and_forth(bench, service, count):
            time.sleep(0.5)
            sample: dict[str, float] = {}
            for name, process in watched.items():
                sample[f"{name} RSS, MB"] = process.memory_info().rss / MEGABYTE
                sample[f"{name} descriptors"] = process.num_fds()
            samples.append(sample)
            if len(samples) % 10 == 0 or len(samples) == count:
                say(f"  switch {len(samples)} of {count} ({made.serving - made.returned:.1f} s): {sample}")
        seen = load.stop()
    return samples, seen


def growth(bench: Bench) -> Outcome:
    """Switch many times and look for memory and descriptors that do not come back; then let it leak."""
    out = Outcome("Growth over many switches")
    samples, seen = growing(bench, bench.switches, None)
    control, _ = growing(bench, bench.settings["control"], {"leak": True})
    out.check("switches", f"≥ {NOMINAL}", len(samples), len(samples) >= NOMINAL)
    out.none_failed(seen)
    for key, bound, value, passed in check_growth(samples):
        out.check(f"growth in the second half: {key}", f"≤ {bound:g}", f"{value:+.1f}", passed)
    caught = [row for row in check_growth(control) if row[0].startswith("supervisor") and not row[3]]
    out.check(
        "the same check fails a supervisor that leaks 0.5 MB and a descriptor at each switch",
        "memory and descriptors",
        ", ".join(f"{key} {value:+.0f}" for key, _, value, _ in caught) or "not noticed",
        len(caught) == 2,
    )
    heads = ["", *samples[0]]
    half = samples[len(samples) // 2 :]
    rows: list[list[Any]] = [
        [name, *(f"{row[key]:.{key.endswith('MB'):d}f}" for key in samples[0])]
        for name, row in (
            ("after the first switch", samples[0]),
            ("in the middle", half[0]),
            ("after the last", samples[-1]),
            (f"control, first of {len(control)}", control[0]),
            ("control, last", control[-1]),
        )
    ]
    spans = [f"{min(s[key] for s in half):.0f}–{max(s[key] for s in half):.0f}" for key in samples[0]]
    rows.insert(3, ["range in the second half", *spans])
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        f"{len(samples)} switches under 20 requests a second, sampled after each. Growth of memory is the median of the slopes between all pairs of "
        f"samples (Theil–Sen) of the second half, times {NOMINAL // 2}: what the second half of {NOMINAL} switches adds; from the {len(control)} of the control it is "
        "projected. Growth of descriptors is the fewest in the last quarter less the fewest in the quarter before it."
    )
    out.data = {"samples": samples, "control": control, **seen.counts()}
    return out


def failed_before(seen: Seen, moment: float) -> int:
    """Return how many requests that were sent before a moment were not answered right."""
    return int((~seen.right[seen.sent < moment]).sum())


def stops(bench: Bench) -> Outcome:
    """End the whole in order, and the supervisor alone by force."""
    out = Outcome("Stopping, and a supervisor that is killed")
    ways: dict[str, list[str] | None] = {
        "SIGTERM": None,
        "make stop": [sys.executable, "-m", "inference.stop", "--port", "0", "--state", ""],
    }
    for name, command in ways.items():
        with bench.serving() as service, bench.load(service) as load:
            time.sleep(bench.settings["hold"])
            processes = service.processes()
            moment = time.monotonic()
            if command is None:
                service.kill(signal.SIGTERM)
            else:
                command[4], command[6] = str(service.port), str(service.state)
                subprocess.run(
                    command, cwd=ROOT, env=os.environ | QUIET, check=True, capture_output=True, timeout=120
                )
            gone = wait_gone(processes, 60)
            left = service.processes()
            seen = load.stop()
        lost = failed_before(seen, moment)
        sent = int((seen.sent < moment).sum())
        out.check(f"{name}: processes left", "0", len(left), gone is not None and not left)
        out.check(f"{name}: requests sent before it that failed", "0", f"{lost} of {sent}", lost == 0)
        if gone:
            out.notes.append(f"{name}: all {len(processes)} processes had ended after {gone - moment:.1f} s.")
    # seconds after “bringing up”; None: at once after SERVING
    moments: dict[str, float | None] = {
        "at rest": 0.0,
        "1 s into a start": 1.0,
        "4 s into a start": 4.0,
        "at a switch": None,
    }
    rows = []
    for name, after in moments.items():
        with bench.serving() as service, bench.load(service) as load:
            current, wanted = bench.good[0], bench.good[0]
            kept = {process.pid for process, _ in service.servers()[current]} | {service.haproxy.pid}
            time.sleep(bench.settings["hold"])
            if name != "at rest":
                wanted = bench.good[1]
                start = bench.registry.ask("promote", wanted)["start"]
                what = "bringing up version" if after is not None else "SERVING: version"
                service.wait_for(rf"{what} {wanted}\b", start)
                time.sleep(after or 0.0)
            service.kill()
            killed = time.monotonic()
            time.sleep(bench.settings["hold"])
            service.start()
            adopted = service.wait_for(r"adopted version", killed)
            ready = service.wait_ready(wanted)
            time.sleep(2)
            within(30, partial(service.alone, wanted))
            servers = service.servers()
            if name == "at rest":
                same = {process.pid for process, _ in servers[current]} | {service.haproxy.pid} == kept
                out.check(
                    "killed at rest: the same proxy and server go on", "yes", "yes" if same else "no", same
                )
            out.check(
                f"killed {name}: servers after the next start",
                f"version {wanted} alone",
                sorted(servers),
                set(servers) == {wanted},
            )
            processes = service.processes()
            service.kill(signal.SIGTERM)
            late = time.monotonic()
            gone = wait_gone(processes, 60)
            seen = load.stop()
        lost = failed_before(seen, late)
        sent = int((seen.sent < late).sum())
        out.check(f"killed {name}: requests that failed", "0", f"{lost} of {sent}", lost == 0)
        out.check(
            f"killed {name}: processes left after SIGTERM of the next",
            "0",
            len(service.processes()),
            gone is not None,
        )
        rows.append([name, f"{adopted - killed:.1f}", f"{ready - killed:.1f}", sent, lost])
    heads = [
        "supervisor killed -9",
        "adopted after, s",
        "serving what is in Production after, s",
        "requests",
        "failed",
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        f"The next supervisor was started {bench.settings['hold']:.0f} s after the last was killed."
    )
    return out


@contextmanager
def tracking_server(
    folder: Path,
) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]], Callable[[signal.Signals], None]]]:
    """Run `mlflow server` with a store of its own; yield its address, how to start it, and how to send it a signal."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    log = (folder / "tracker.log").open("ab")
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True
        )
        started.append(process)
        if not within(60, lambda: _answers(f"{url}/health")):
            raise BenchError("the tracking server does not answer")
        return process

    def send(number: signal.Signals) -> None:
        for member in family(started[-1].pid):
            with suppress(psutil.Error):
                member.send_signal(number)

    try:
        start()
        yield url, start, send
    finally:
        for process in started:
            for member in family(process.pid):
                with suppress(psutil.Error):
                    member.kill()
            process.wait()
        log.close()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def tracker(bench: Bench) -> Outcome:
    """Make the tracking server slow, take it away, bring it back."""
    out = Outcome("The tracking server slow, down, restarted")
    hold = bench.settings["hold"] + 12  # the follower waits 10 s for an answer
    with tracking_server(bench.folder) as (url, start_tracker, signal_tracker), ExitStack() as stack:
        say("  training a small version through the tracking server")
        train(url, bench.settings["tracker_rows"], bench.folder)
        registry = Registry(url, bench.folder)
        stack.callback(registry.close)
        good = [1, *registry.value("copies", 1)]
        service = stack.enter_context(serving(registry, bench.folder, good[0]))
        with bench.load(service) as load:
            began = time.monotonic()
            signal_tracker(signal.SIGSTOP)
            silent = service.wait_for("THE REGISTRY DOES NOT ANSWER", began, 60) - began
            shown = within(5, lambda: metric(service, "sentiment_registry_up") == 0)
            time.sleep(hold)
            signal_tracker(signal.SIGCONT)
            service.wait_for("the registry answers again", began, 60)
            out.check(
                "stopped (SIGSTOP): noticed in log and metric after, s",
                "noticed",
                f"{silent:.1f}",
                bool(shown),
            )
            began = time.monotonic()
            signal_tracker(KILL)
            down = service.wait_for("THE REGISTRY DOES NOT ANSWER", began, 60) - began
            out.check("killed: noticed after, s", "noticed", f"{down:.1f}", True)
            time.sleep(hold)
            service.kill()
            killed = time.monotonic()
            service.start()
            service.wait_for(rf"adopted version {good[0]}", killed)
            time.sleep(hold)
            out.check(
                "supervisor killed and started without it: version served",
                str(good[0]),
                service.ready(),
                service.ready() == good[0],
            )
            back = time.monotonic()
            start_tracker()
            service.wait_for("the registry answers again|in Production", back, 60)
            answer = registry.ask("promote", good[1])
            served = service.wait_for(rf"SERVING: version {good[1]},", answer["start"])
            took = served - answer["end"]
            out.check("brought back: the next promotion is served after, s", "< 10", f"{took:.1f}", took < 10)
            service.wait_for(rf"version {good[0]} has ended", served)
            time.sleep(1)
            seen = load.stop()
        out.none_failed(seen)
        processes = service.processes()
        service.kill(signal.SIGTERM)
        wait_gone(processes, 60)
        signal_tracker(KILL)
        began = time.monotonic()
        service.start()
        cold = service.wait_ready(good[1]) - began
        out.check(
            "whole started anew without it: last good version served after, s", "served", f"{cold:.1f}", True
        )
    out.notes.append(
        f"A real `mlflow server` with a version of {bench.settings['tracker_rows']:,} rows, its artifacts through it. Each fault lasted {hold:.0f} s and more."
    )
    out.data = seen.counts()
    return out


def disk(bench: Bench) -> Outcome:
    """Fill the disk that holds the state folder, then promote."""
    out = Outcome("The disk full")
    state = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    (made,) = bench.folder.glob("artifacts/**/MLmodel")
    size = sum(path.stat().st_size for path in made.parent.rglob("*") if path.is_file())
    room = int(size * 3 / MEGABYTE) + 16
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}m,mode=700", "tmpfs", str(state)]
    if subprocess.run(mount, capture_output=True, timeout=30).returncode:
        state.rmdir()
        out.not_run = "a small file system cannot be mounted here (not root?)"
        return out
    good, new = bench.good[:2]
    service = Service(bench.registry.uri, bench.folder, state)
    try:
        bench.registry.ask("promote", good)
        service.start()
        service.wait_ready(good)
        with bench.load(service) as load:
            time.sleep(1)
            with (state / "filler").open("wb") as filler, suppress(OSError):
                while True:
                    filler.write(bytes(65536))
                    filler.flush()
            left = shutil.disk_usage(state).free
            answer = bench.registry.ask("promote", new)
            refused = service.wait_for(rf"REFUSED: version {new},", answer["start"], 60)
            line = (service.said(rf"REFUSED: version {new},", answer["start"]) or (0, ""))[1]
            time.sleep(bench.settings["hold"])
            out.check("promotion refused after, s", "refused", f"{refused - answer['end']:.1f}", True)
            out.check("version served meanwhile", str(good), service.ready(), service.ready() == good)
            (state / "filler").unlink()
            freed = time.monotonic()
            served = service.wait_for(rf"SERVING: version {new},", freed, 90)
            out.check(
                "room again: served without being asked, after, s", "served", f"{served - freed:.1f}", True
            )
            service.wait_for(rf"version {good} has ended", served)
            seen = load.stop()
        out.none_failed(seen)
        out.notes.append(
            f"A tmpfs of {room} MB as state folder, filled until {left:,} bytes were left. The log said: {line}"
        )
        out.data = seen.counts()
    finally:
        service.close()
        for _ in range(20):
            if not subprocess.run(["umount", str(state)], capture_output=True, timeout=30).returncode:  # noqa: S607
                break
            time.sleep(0.5)
        with suppress(OSError):
            state.rmdir()
    return out


def server_killed(bench: Bench) -> Outcome:
    """Kill a model server under load."""
    out = Outcome("A model server killed -9 under load")
    rows = []
    which: dict[str, Callable[[list[psutil.Process]], list[psutil.Process]]] = {
        "the worker": lambda processes: processes[-1:],
        "its parent": lambda processes: processes[:1],
        "both": lambda processes: processes,
    }
    version = bench.good[0]
    for rate in (20, 100):
        for name, choose in which.items():
            with bench.serving() as service, ThreadPoolExecutor(6) as pool, bench.load(service, rate) as load:
                under_way = six_slow(pool, service, bench)
                time.sleep(3)
                old = [process for process, _ in service.servers()[version]]
                killed = time.monotonic()
                for process in choose(old):
                    process.kill()
                again = service.wait_for(rf"SERVING: version {version},", killed, 60)
                time.sleep(12)
                told = [future.result() for future in under_way]
                seen = load.stop()
            in_flight = (seen.sent <= killed + 0.05) & (seen.done >= killed)
            lost = ~seen.right
            later = int((lost & ~in_flight).sum())
            out.check(
                f"{name} killed at {rate}/s: requests that failed though the server did not have them yet",
                "0",
                f"{later} of {len(seen.due)}",
                later == 0,
            )
            cut = [s.status for s in told if not s.whole] + seen.status[lost & in_flight].tolist()
            out.check(
                f"{name} killed at {rate}/s: what those that it had are told",
                "502 as JSON",
                ", ".join(f"{cut.count(status)} × {status or 'no answer'}" for status in sorted(set(cut)))
                + (f" {faults_of([s for s in told if not s.status])}" if 0 in cut else "")
                or "none failed",
                set(cut) <= {502},
            )
            answers = np.sort(seen.done[seen.right & (seen.done > killed)])
            gaps = np.diff(answers, prepend=killed)
            shed = int(np.isin(seen.status, list(SHED)).sum())
            longest = f"{float(seen.ms[seen.right].max()) / 1e3:.1f}"
            rows.append(
                [rate, name, len(cut), later, shed, f"{again - killed:.1f}", f"{gaps.max():.1f}", longest]
            )
    heads = ["requests/s", "killed", "failed of those that it had", "failed later", "shed (429, 503)"]
    heads += [
        "served again after, s",
        "longest time without an answer, s",
        "longest wait of a right answer, s",
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        "Beside the load six slow requests are half sent when the server is killed: it has them, and no other may be given them. "
        "The others wait in the proxy while a server is started anew, 256 at most and 10 s at most in its queue; what comes past that is shed."
    )
    out.data = {"rows": rows}
    return out


def through_proxy(bench: Bench) -> Outcome:
    """Ask one server through the proxy and past it, in turns."""
    out = Outcome("Through the proxy and past it")
    clients = [1, 8, 32]
    found: dict[str, list[dict[str, float]]] = {"through the proxy": [], "past it": []}
    with bench.serving() as service:
        ((_, port), *_) = service.servers()[bench.good[0]]
        ports = {"through the proxy": service.port, "past it": port}
        for turn in range(bench.settings["rounds"]):
            names = list(ports) if turn % 2 == 0 else list(ports)[::-1]
            for name in names:
                job = {
                    "port": ports[name],
                    "texts": bench.texts,
                    "clients": clients,
                    "seconds": bench.settings["closed"],
                }
                found[name].append(ask("bench.openloop", job, None))
                say(f"  {name}: { ({k: round(v, 2) for k, v in found[name][-1].items()}) }")
    wrong = sum(int(figures["wrong"]) for rows in found.values() for figures in rows)
    total = sum(int(figures["answers"]) for rows in found.values() for figures in rows)
    out.check("wrong answers", "0", f"{wrong} of {total:,}", wrong == 0)
    keys = [
        (f"{kind}_{n}", f"{n} client{'s' * (n > 1)}, {unit}")
        for n in clients
        for kind, unit in (("throughput", "requests/s"), ("p50", "p50 ms"), ("p99", "p99 ms"))
    ]
    rows = []
    for key, title in keys:
        middle = {
            name: statistics.median(figures[key] for figures in rounds) for name, rounds in found.items()
        }
        digits = 0 if key.startswith("throughput") else 2
        cells = [
            f"{middle[name]:,.{digits}f} ({min(r[key] for r in found[name]):,.{digits}f}–{max(r[key] for r in found[name]):,.{digits}f})"
            for name in found
        ]
        rows.append([title, *cells, f"{middle['through the proxy'] / middle['past it']:.2f}"])
    out.tables.append({"heads": ["", *found, "ratio"], "rows": rows})
    out.notes.append(
        f"Closed loop, {bench.settings['rounds']} interleaved rounds of {bench.settings['closed']:g} s each: medians (smallest–largest). One server, one review a request."
    )
    out.data = found
    return out


def canaries(bench: Bench) -> Outcome:
    """Share requests with a candidate: the share, candidates that are worse, one that is not."""
    out = Outcome("Canaries")
    second = bench.good[1]
    rate = bench.settings["canary_rate"]
    rows = []
    with bench.serving() as service:
        # broken requests and large batches fall to both
        with bench.load(service, rate, wrong_every=20) as load, ThreadPoolExecutor(1) as pool:
            stop = threading.Event()

            def ask_batches() -> None:
                with closing(HTTPConnection("127.0.0.1", service.port, timeout=90)) as connection:
                    while not stop.wait(0.5):
                        post(connection, (bench.texts * 300)[:300])

            noise = pool.submit(ask_batches)
            begun = bench.registry.ask("start_canary", second, 10)
            shared = service.wait_for(rf"CANARY: version {second} gets 10", begun["start"]) + 0.5
            wanted = shared + bench.settings["canary"] / rate
            while time.monotonic() < wanted and not service.said("CANARY STOPPED", begun["start"]):
                time.sleep(0.5)
            until = time.monotonic()
            stopped = service.said("CANARY STOPPED", begun["start"])
            bench.registry.ask("stop_canary")
            gone = service.wait_for(rf"version {second} has ended", begun["start"], 60)
            stop.set()
            noise.result()
            time.sleep(1)
            seen = load.stop()
        chosen = (seen.sent > shared) & (seen.sent < until) & (seen.version > 0)
        share = float((seen.version[chosen] == second).mean())
        out.check(
            "share of the requests under a canary of 10 %",
            "10 % ± 1",
            f"{share:.2%} of {int(chosen.sum()):,}",
            abs(share - 0.1) <= 0.01,
        )
        out.check(
            "a good canary under noise (5 % broken requests, large batches) is not stopped within",
            f"{bench.settings['canary']:,} requests",
            stopped[1] if stopped else f"{int(chosen.sum()):,} requests",
            stopped is None,
        )
        out.none_failed(seen, "requests that failed from the start of the canary to its end")
        later = int((seen.version[seen.sent > gone] == second).sum())
        out.check("answered by the canary after it was taken back", "0", later, later == 0)
        for kind in ("failing", "slow-canary"):
            number = bench.registry.value("spoilt", kind)
            with bench.load(service, rate) as load:
                begun = bench.registry.ask("start_canary", number, 10)
                shared = service.wait_for(rf"CANARY: version {number} gets 10", begun["start"])
                told = service.wait_for(rf"CANARY STOPPED: version {number}", shared, 120)
                why = (service.said("CANARY STOPPED", shared) or (0, ""))[1]
                service.wait_for(rf"version {number} gets no new requests", shared, 30)
                service.wait_for(rf"version {number} has ended", told, 60)
                gone = time.monotonic()
                withdrawn = within(15, lambda: bench.registry.value("canary") == 0)
                time.sleep(2)
                seen = load.stop()
            its = seen.version == number
            lost = ~seen.right
            others = int((lost & ~its).sum())
            after = int(lost[seen.sent > gone].sum())
            asked = int(((seen.sent > shared) & (seen.sent < told)).sum())
            rows.append(
                [
                    kind.removesuffix("-canary"),
                    f"{told - shared:.1f}",
                    asked,
                    int(its.sum()),
                    int(lost.sum()),
                    ", ".join(map(str, sorted(set(seen.status[lost].tolist())))) or "–",
                    why.split(": ", 2)[-1],
                ]
            )
            out.check(
                f"{kind}: stopped by itself, and taken back in the registry",
                "yes",
                "yes" if withdrawn else "still asked for",
                withdrawn,
            )
            out.check(f"{kind}: requests of the other version that failed", "0", others, others == 0)
            out.check(f"{kind}: failed after it had ended", "0", after, after == 0)
    heads = [
        "canary of 10 %",
        "stopped after, s",
        "requests until then",
        "answered by it",
        "failed",
        "statuses",
        "reason given",
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        f"{rate} requests a second. The failing one answers its example texts and the health check right, and fails on every other single review; the slow one takes 100 ms more."
    )
    out.data = {"share": share, "rows": rows}
    return out


SCENARIOS: dict[str, Callable[[Bench], Outcome]] = {
    "switches": switches,
    "idle": idle,
    "slow": slow,
    "bad": bad,
    "growth": growth,
    "stops": stops,
    "tracker": tracker,
    "disk": disk,
    "server-killed": server_killed,
    "proxy": through_proxy,
    "canary": canaries,
}


def estimate(names: list[str], settings: dict[str, Any], count: int) -> float:
    """Return about how many minutes the scenarios will take."""
    a_start, steady, hold = 10.0, settings["steady"], settings["hold"]
    seconds_of = {
        "switches": len(settings["rates"])
        * (2 * a_start + (settings["changes"] + settings["unconfined"]) * (SECONDS_A_SWITCH + steady)),
        "idle": a_start + settings["idle_rounds"] * SECONDS_A_SWITCH,
        "slow": a_start + 60,
        "bad": a_start + 6 * (12 + hold),
        "growth": 2 * a_start + (count + settings["control"]) * SECONDS_A_SWITCH,
        "stops": 6 * (a_start + 10 + 2 * hold),
        "tracker": 90 + 3 * (hold + 12),
        "disk": 50 + hold,
        "server-killed": 6 * (a_start + 28),
        "proxy": a_start + settings["rounds"] * 2 * (3 * settings["closed"] + 4),
        "canary": a_start + 90 + settings["canary"] / settings["canary_rate"],
    }
    return (60 + sum(seconds_of[name] for name in names)) / 60


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


def run(names: list[str], settings: dict[str, Any], rows: int, count: int) -> dict[str, Any]:
    """Train, then run the scenarios one after the other; return every outcome."""
    started = time.monotonic()
    outcomes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="swb-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        uri = f"sqlite:///{folder}/mlflow.db"
        say(f"training on {f'{rows:,}' if rows else 'all'} rows")
        train(uri, rows, folder)
        registry = Registry(uri, folder)
        stack.callback(registry.close)
        good = [1, *registry.value("copies", 2)]
        table = read_table(TABLE)
        texts = table[table["split"] == "test"].sample(100, random_state=0)["review"].tolist()
        bench = Bench(folder, registry, good, texts, settings, count)
        for name in names:
            say(f"{name}: {SCENARIOS[name].__doc__}")
            begun = time.monotonic()
            try:
                outcome = SCENARIOS[name](bench)
            except (
                BenchError
            ) as error:  # the others are measured all the same, and this one is shown as failed
                outcome = Outcome(name)
                outcome.check("the scenario came to its end", "yes", error.message, False)
            outcomes[name] = asdict(outcome) | {
                "minutes": (time.monotonic() - begun) / 60,
                "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            }
        size = sum(p.stat().st_size for p in (folder / "artifacts").rglob("*") if p.is_file())
    return {
        "minutes": (time.monotonic() - started) / 60,
        "settings": settings | {"rows": rows, "switches": count},
        "characters": statistics.median(map(len, texts)),
        "artifact": size / MEGABYTE,
        "scenarios": outcomes,
        "order": list(SCENARIOS),
    }


@click.command(help="Measure switches under load, and what the follower survives; write tables and plots.")
@click.option("--quick", is_flag=True, help="Tiny settings, to see that all works. The figures mean nothing.")
@click.option("--only", help=f"Scenarios, separated by commas, of {', '.join(SCENARIOS)}.")
@click.option(
    "--rows", type=click.IntRange(min=0), help="Rows to train on, 0 for all.  [default: 0; quick: 3000]"
)
@click.option(
    "--switches", "count", type=click.IntRange(min=4), help="How many in `growth`.  [default: 200; quick: 6]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the report.  [default: docs/benchmarks; quick: a temporary folder]",
)
def main(quick: bool, only: str | None, rows: int | None, count: int | None, out: Path | None) -> None:
    """Run the benchmark."""
    stop_in_order()
    names = only.split(",") if only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise click.UsageError(f"--only: no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    settings = QUICK if quick else FULL
    count = count or (6 if quick else NOMINAL)
    rows = (3000 if quick else 0) if rows is None else rows
    say(f"{', '.join(names)}: about {estimate(names, settings, count):.0f} min")
    result = run(names, settings, rows, count)
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="switches-quick-")) if quick else ROOT / "docs" / "benchmarks"
    click.echo(f"written: {write(result | {'quick': quick}, out)}")
    failed = [c for o in result["scenarios"].values() for c in o["checks"] if not c["passed"]]
    if failed:
        click.echo(f"{len(failed)} bounds were not kept")


if __name__ == "__main__":
    main()
