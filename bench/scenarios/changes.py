"""Changes of version under load."""

import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict
from http.client import HTTPConnection
from typing import Any

import numpy as np

from bench.openloop import Seen
from bench.processes import BenchError
from bench.scenarios.base import (
    Bench,
    Change,
    Outcome,
    back_and_forth,
    change,
    faults_of,
    percentiles,
    post,
    say,
    six_slow,
    wait_gone,
)


def seconds(values: list[float]) -> str:
    """Return the median and the largest, for a table."""
    return f"{statistics.median(values):.2f} / {max(values):.2f}"


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


def switching(bench: Bench, rate: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change the version again and again under one load; return figures and what the plot shows."""
    settings, changes = bench.settings, []
    with bench.serving() as service, ExitStack() as stack:
        load = stack.enter_context(bench.load(service, rate))
        time.sleep(settings["steady"])
        for made in back_and_forth(bench, service, settings["changes"]):
            changes.append(made)
            say(
                f"  {rate}/s: {made.action} to version {made.version}, "
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
    """Measure changes under open-loop load at several rates."""
    out = Outcome("Promotions and rollbacks under open-loop load")
    found: list[dict[str, Any]] = []
    shown = []
    for rate in bench.settings["rates"]:
        figures, series = switching(bench, rate)
        found.append(figures)
        shown.append({"rate": rate} | series)
    total, changes = sum(f["requests"] for f in found), sum(f["changes"] for f in found)
    failed, stale = sum(f["failed"] for f in found), sum(f["stale"] for f in found)
    faults = {what: n for f in found for what, n in f["faults"].items()}
    out.check("promotions and rollbacks", "≥ 20", changes, changes >= 20)
    out.check("requests under way meanwhile", "≥ 100,000", f"{total:,}", total >= 100_000)
    out.check(
        "failed, reset or answered wrong",
        "0",
        f"{failed:,} of {total:,}" + (f" {faults}" if faults else ""),
        not failed,
    )
    out.check("sent after /ready named the new version, answered by another", "0", stale, stale == 0)
    not_ready = sum(f["not ready"] for f in found)
    out.check(
        "GET /ready without a version",
        "0",
        f"{not_ready} of {sum(f['polls'] for f in found):,}",
        not not_ready,
    )
    for key, what in (
        ("seen", "change seen: from the return of the call to the log line “bringing up”, s, largest"),
        ("served", "the same to the log line “SERVING”"),
        ("answered", "the same to the first answer of the new version"),
    ):
        most = max(value for f in found for value in f[key])
        out.check(what, "< 10", f"{most:.2f}", most < 10)
    for f in found:
        out.check(
            f"p99 during a switch beside the steady p99, at {f['rate']}/s",
            "≤ 2 ×",
            f"{f['ratio']:.2f} × ({f['switch']['p99']:.1f} ms beside {f['steady']['p99']:.1f} ms)",
            f["ratio"] <= 2,
        )
    heads = [
        *("requests/s", "requests", "failed", "steady p50, ms", "p99", "max"),
        *("during a switch p50, ms", "p99", "max", "p99 ratio", "the client itself late, p99 ms"),
    ]
    rows = []
    for f in found:
        latency = [f"{f[when][key]:.1f}" for when in ("steady", "switch") for key in ("p50", "p99", "max")]
        numbers = [f"{f['requests']:,}", f"{f['failed']:,}"]
        rows.append([f["rate"], *numbers, *latency, f"{f['ratio']:.2f}", f"{f['late']['p99']:.1f}"])
    out.tables.append({"heads": heads, "rows": rows})
    heads = [
        "requests/s",
        "seen, s",
        "server start, s",
        "served, s",
        "first answer, s",
        "old one ended, s",
    ]
    rows = [
        [f["rate"], *(seconds(f[key]) for key in ("seen", "start", "served", "answered", "ended"))]
        for f in found
    ]
    out.tables.append({"heads": heads, "rows": rows})
    out.notes.append(
        "Latency counts from when a request was due. “During a switch” is from the call to the end of the old server's process; steady is "
        "the rest of the same run, but for a second after each. Seconds are median / largest, from the return of the call; the start is from “bringing up” to "
        "“SERVING”, the end from there."
    )
    out.data = {"runs": found, "series": shown}
    return out


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

    with bench.serving() as service, ThreadPoolExecutor(8) as pool, ExitStack() as stack:
        stack.callback(stop.set)  # else the pool would wait for ever when something fails
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
