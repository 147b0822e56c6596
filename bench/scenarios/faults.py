"""What goes wrong around a follower: it is stopped or killed, its registry, disk and servers fail."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import requests

from bench.following import Registry, Service, serving
from bench.openloop import SHED
from bench.processes import MEGABYTE, QUIET, ROOT, BenchError, family
from bench.scenarios.base import (
    KILL,
    Bench,
    Outcome,
    failed_before,
    faults_of,
    metric,
    say,
    six_slow,
    train,
    wait_gone,
    within,
)
from inference.server import free_port


def stops(bench: Bench) -> Outcome:
    """End the whole in order, and the supervisor alone by force."""
    out = Outcome("Stopping, and a supervisor that is killed")
    ways: dict[str, list[str] | None] = {
        "SIGTERM": None,
        "make stop": [sys.executable, "-m", "inference.service.stop", "--port", "0", "--state", ""],
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
    hold = bench.settings["hold"] + 12  # the follower waits 5 s for an answer, and asks twice
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
            if not subprocess.run(["umount", str(state)], capture_output=True, timeout=30).returncode:
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
        "The others wait in the proxy while a server is started anew, 800 at most and 15 s at most in its queue; what comes past that is shed."
    )
    out.data = {"rows": rows}
    return out
