"""Memory and descriptors over many switches."""

import statistics
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

from bench.openloop import Seen
from bench.processes import MEGABYTE
from bench.scenarios.base import Bench, Outcome, back_and_forth, post, say

NOMINAL = 200


def slope(values: list[float]) -> float:
    """Return the median of the slopes between all pairs (Theil, 1950; Sen, 1968): a few outliers do not move it."""
    pairs = [(b - a) / (j - i) for i, a in enumerate(values) for j, b in list(enumerate(values))[i + 1 :]]
    return statistics.median(pairs)


def growth_of(samples: list[dict[str, float]]) -> dict[str, float]:
    """Return what the second half of 200 switches adds, by the slope of the second half of the samples.

    Parameters
    ----------
    samples : list of dict
        After each switch, of each process ``… RSS, MB`` and ``… descriptors``.
    """
    half = samples[len(samples) // 2 :]
    return {key: slope([sample[key] for sample in half]) * NOMINAL / 2 for key in half[0]}


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
        f"{len(samples)} switches under 20 requests a second, sampled after each. Growth is the median of the slopes between all pairs of "
        f"samples (Theil–Sen) of the second half, times {NOMINAL // 2}: what the second half of {NOMINAL} switches adds; from the {len(control)} of the control it is projected."
    )
    out.data = {"samples": samples, "control": control, **seen.counts()}
    return out


def endurance(bench: Bench) -> Outcome:
    """Ask one model server for minutes, over kept connections and over new ones, and look at its memory."""
    out = Outcome("One model server under load")
    settings, samples = bench.settings, []
    stop, short = threading.Event(), [0]

    def ask_anew(port: int) -> None:
        while not stop.wait(0.02):
            with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
                short[0] += post(connection, bench.texts[:1])[0] == 200

    with bench.serving() as service, bench.load(service, settings["rates"][0]) as load:
        *_, (worker, _) = service.servers()[bench.good[0]]
        watched = {"model server": worker, "HAProxy": service.haproxy, "supervisor": service.supervisor}
        thread = threading.Thread(target=ask_anew, args=(service.port,), daemon=True)
        thread.start()
        end = time.monotonic() + settings["endurance"]
        while time.monotonic() < end:
            time.sleep(settings["endurance"] / 60)
            samples.append({name: process.memory_info().rss / MEGABYTE for name, process in watched.items()})
        stop.set()
        thread.join()
        seen = load.stop()
    out.none_failed(seen)
    half = samples[len(samples) // 2 :]
    asked = len(seen.due) + short[0]
    for name in watched:
        added = slope([sample[name] for sample in half]) * len(half)
        out.check(
            f"growth of the {name} in the second half, MB (RSS {half[-1][name]:.0f} at the end)",
            "≤ 5",
            f"{added:+.1f}",
            added <= 5,
        )
    out.notes.append(
        f"{asked:,} requests in {settings['endurance']:.0f} s, {short[0]:,} of them over a connection of their own; RSS sampled {len(samples)} times; "
        "growth is the median of the slopes between all pairs of samples (Theil–Sen) of the second half, times their number."
    )
    out.data = {"samples": samples, "short": short[0], **seen.counts()}
    return out
