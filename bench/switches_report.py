"""The report of ``bench.switches``: a table of what was promised, figures, a plot, and everything as JSON."""

import importlib.metadata
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.processes import ROOT
from bench.report import FLOOR, OURS, PEER, machine, write_together
from inference.service.proxy import find_haproxy

PACKAGES = ("mlflow", "uvicorn", "uvloop", "httptools", "fastapi", "numpy", "pandas", "psutil")
BAD = "#c0392b"


def write(result: dict[str, Any], out: Path) -> Path:
    """Write ``switches.md``, ``switches.png`` and ``switches.json`` to ``out``, each whole or not at all; return the first."""
    result |= {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "versions": versions(),
    }
    # what was not measured again stays, with its date
    if not result["quick"] and (out / "switches.json").exists():
        before = json.loads((out / "switches.json").read_text(encoding="utf-8"))["scenarios"]
        result["scenarios"] = before | result["scenarios"]
    order = result.pop("order")
    result["not_run"] = [name for name in order if name not in result["scenarios"]]
    result["scenarios"] = {name: result["scenarios"][name] for name in order if name in result["scenarios"]}
    figure = plot(result["scenarios"])
    short = json.loads(json.dumps(result), parse_float=lambda digits: round(float(digits), 3))
    files: dict[str, str | Figure] = {"switches.png": figure} if figure is not None else {}
    files["switches.json"] = json.dumps(short) + "\n"
    files["switches.md"] = markdown(result, figure is not None)
    write_together(files, out)
    return out / "switches.md"


def versions() -> dict[str, str]:
    """Return the versions of what was measured, and the commit of this project."""
    told = subprocess.run([find_haproxy(), "-v"], capture_output=True, text=True, check=True, timeout=30)
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.strip()
    return (
        {"HAProxy": told.stdout.split()[2]}
        | {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"this project": commit or "not in git"}
    )


def _table(heads: list[str], rows: list[list[Any]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
        *(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in rows),
        "",
    ]


def markdown(result: dict[str, Any], drawn: bool) -> str:
    """Return the report."""
    settings, scenarios = result["settings"], result["scenarios"]
    checks = [check for outcome in scenarios.values() for check in outcome["checks"]]
    kept = sum(check["passed"] for check in checks)
    lines = ["# Changes of version under load", ""]
    if result["quick"]:
        lines += ["**A quick try: these figures say nothing.**", ""]
    lines += [
        f"{result['date']}. {result['machine']}.",
        "",
        f"`make serve FOLLOW=1` on a temporary store, with versions of one model of {settings['rows'] or 'all'} rows "
        f"({result['artifact']:.0f} MB), all on this machine: the follower, HAProxy, model servers and load client share "
        f"its cores. Requests are single held-out reviews (median {result['characters']:,.0f} characters). The load client is an open loop: it "
        "sends at fixed times over kept-alive connections, whatever comes back, and latency counts from when a request was due; "
        "each answer is compared with the one that the same review got before the load. It has a raised priority where it may. Promotions and rollbacks are made by a "
        "process of their own. Scenarios measured at another time say so. Every figure: [switches.json](switches.json). Again: `make switches`.",
        "",
        f"**{kept} of {len(checks)} bounds were kept.**",
        "",
    ]
    if drawn:
        lines += ["![latency, versions, memory and descriptors over changes of version](switches.png)", ""]
    for outcome in scenarios.values():
        lines += [f"## {outcome['title']}", "", f"{outcome['date']}, {outcome['minutes']:.0f} min.", ""]
        if outcome["not_run"]:
            lines += [f"Not run: {outcome['not_run']}.", ""]
        if outcome["checks"]:
            rows = [
                [c["what"], c["bound"], c["measured"], "yes" if c["passed"] else "**no**"]
                for c in outcome["checks"]
            ]
            lines += _table(["", "bound", "measured", "kept"], rows)
        for table in outcome["tables"]:
            lines += _table(table["heads"], table["rows"])
        for note in outcome["notes"]:
            lines += [note, ""]
    if result["not_run"]:
        lines += ["## Not run", "", f"{', '.join(result['not_run'])}.", ""]
    lines += ["## Versions", "", ", ".join(f"{name} {v}" for name, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def plot(scenarios: dict[str, Any]) -> Figure | None:
    """Return latency and versions over time, and memory and descriptors over switches; None if neither was measured."""
    series = scenarios.get("switches", {}).get("data", {}).get("series", [])
    growth = scenarios.get("growth", {}).get("data", {})
    if not series and not growth:
        return None
    height = 5.4 * bool(series) + 3.4 * bool(growth)
    figure = Figure(figsize=(12.0, height), dpi=110, layout="constrained")
    parts: list[Any] = [figure]
    if series and growth:
        parts = list(figure.subfigures(2, 1, height_ratios=[5.4, 3.4], squeeze=False)[:, 0])
    if series:
        _draw_series(parts[0], series)
    if growth:
        _draw_growth(parts[-1], growth)
    return figure


def _draw_series(figure: Any, series: list[dict[str, Any]]) -> None:
    latency, version = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    offset = 0.0
    names: set[int] = set()
    failed = 0
    for part, run in enumerate(series):
        rows = run["seconds"]
        at = [offset + row["second"] + 0.5 for row in rows]
        for key, colour, width in (("p99", PEER, 1.0), ("p50", OURS, 1.4)):
            latency.plot(
                at, [row[key] for row in rows], color=colour, linewidth=width, label=key if not part else None
            )
        for number, made in enumerate(run["changes"]):
            first = not part and not number
            for ax in (latency, version):
                ax.axvspan(
                    offset + made["start"],
                    offset + made["ended"],
                    color=FLOOR,
                    alpha=0.25,
                    linewidth=0,
                    label="from the call to the end of the old server" if first else None,
                )
                ax.axvline(
                    offset + made["start"],
                    color="black",
                    linestyle=":",
                    linewidth=0.8,
                    label="promotion or rollback" if first else None,
                )
                ax.axvline(
                    offset + made["serving"], color=OURS, linewidth=0.8, label="switch" if first else None
                )
        for row, x in zip(rows, at, strict=True):
            for name in row["versions"]:
                names.add(int(name))
                version.scatter(x, int(name), s=5, color=OURS if int(name) > 0 else BAD)
        crosses = [offset + x for x in run["failed"]]
        failed += len(crosses)
        if crosses:
            latency.scatter(crosses, [1.0] * len(crosses), marker="x", color=BAD, s=20)
        latency.annotate(
            f"{run['rate']} requests/s",
            (offset, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
        )
        offset += rows[-1]["second"] + 1
        if part < len(series) - 1:
            for ax in (latency, version):
                ax.axvline(offset, color="black", linewidth=1.2)
    what = f"failed request: {failed}" if failed else "failed request: none"
    latency.scatter([], [], marker="x", color=BAD, label=what)
    latency.set(
        yscale="log",
        ylabel="ms from when a request was due",
        title="Latency of each second, and who answered",
    )
    latency.set_xlim(0, offset)
    figure.legend(*latency.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    version.set_yticks(sorted(names), [str(name) if name > 0 else "none" for name in sorted(names)])
    version.margins(y=0.3)
    version.set(ylabel="version", xlabel="seconds of load")


def _draw_growth(figure: Any, growth: dict[str, Any]) -> None:
    memory, descriptors = figure.subplots(1, 2)
    for ax, unit, title in (
        (memory, "RSS, MB", "Memory (RSS) beside that after the first switch, MB"),
        (descriptors, "descriptors", "File descriptors beside those after the first switch"),
    ):
        _draw_measure(ax, growth, unit)
        ax.set(title=title, xlabel="switches")
    figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)


def _draw_measure(ax: Axes, growth: dict[str, Any], unit: str) -> None:
    for rows, name, label, colour, style in (
        (growth["samples"], "supervisor", "supervisor", OURS, "-"),
        (growth["samples"], "HAProxy", "HAProxy", PEER, "-"),
        (
            growth["control"],
            "supervisor",
            "a supervisor that leaks 0.5 MB and a descriptor a switch",
            BAD,
            "--",
        ),
    ):
        values = [row[f"{name} {unit}"] - rows[0][f"{name} {unit}"] for row in rows]
        ax.plot(range(1, len(values) + 1), values, color=colour, linestyle=style, label=label)
