"""Versions that should not serve, and shares for a candidate."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection

from bench.scenarios.base import Bench, Outcome, metric, post, say, within
from registry.versions import REFUSED


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


def canaries(bench: Bench) -> Outcome:
    """Share requests with a candidate: the share, candidates that are worse, one that is not."""
    out = Outcome("Canaries")
    second = bench.good[1]
    rate = bench.settings["canary_rate"]
    rows = []
    with bench.serving() as service:
        # broken requests and large batches fall to both
        with (
            bench.load(service, rate, wrong_every=20) as load,
            ThreadPoolExecutor(1) as pool,
            ExitStack() as stack,
        ):
            stop = threading.Event()
            stack.callback(stop.set)  # else the pool would wait for ever when something fails

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
