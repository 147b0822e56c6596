"""The report: tables in Markdown, plots, and every figure of every round as JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from matplotlib.figure import Figure

from bench.inprocess import PEERS
from bench.processes import ROOT
from bench.servers import MLSERVER, SERVERS

PACKAGES = (
    *("mlflow", "scikit-learn", "numpy", "scipy", "pandas", "pyarrow", "numba", "fastapi", "starlette"),
    *("pydantic", "uvicorn", "uvloop", "httptools", "bentoml", "fasttext-numpy2-wheel", "vaderSentiment"),
    *("textblob",),
)
MLSERVER_PACKAGES = (
    "mlserver",
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "uvloop",
    "httptools",
    "scikit-learn",
)
MODELS = {
    "ours": "ours",
    "sklearn": "the scikit-learn pipeline that ours equals",
    "usual": "usual scikit-learn pipeline",
    "fasttext": "fastText",
    "vader": "VADER",
    "textblob": "TextBlob",
}
OURS, PEER, FLOOR = "#1b7f4b", "#7a8794", "#c9b458"


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, where its figures are, and which end is the best."""

    heading: str
    key: str
    best: Any
    digits: int = 0


_MODEL_COLUMNS = [
    Column("accuracy", "accuracy", max, 4),
    Column("IMDb", "imdb", max, 4),
    Column("Rotten Tomatoes", "rotten_tomatoes", max, 4),
    Column("training, s", "train_seconds", min, 1),
    Column("on disk, MB", "megabytes", min, 1),
]
_IN_PROCESS_COLUMNS = [
    Column("one review, p50 µs", "p50", min),
    Column("p99 µs", "p99", min),
    Column("batch, reviews/s", "throughput", max),
]
_HTTP_COLUMNS = [
    Column("one review, p50 ms", "p50", min, 2),
    Column("p99 ms", "p99", min, 2),
    Column("requests/s, 1 client", "throughput_1", max),
    Column("8 clients", "throughput_8", max),
    Column("32 clients", "throughput_32", max),
    Column("batch of {texts:,}, ms", "batch", min),
    Column("cold start, s", "cold_start", min, 2),
    Column("RSS of a worker, MB", "worker", min),
    Column("RSS of all processes, MB", "memory", min),
]


def write(result: dict[str, Any], out: Path) -> Path:
    """Write ``README.md``, plots and ``results.json`` to ``out``, each whole or not at all; return the first."""
    result |= {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "versions": versions(),
    }
    drawn = plots(result)
    files: dict[str, str | Figure] = {f"{name}.png": figure for name, figure in drawn.items()}
    files["results.json"] = json.dumps(result, indent=1) + "\n"
    files["README.md"] = markdown(result, list(drawn))
    write_together(files, out)
    return out / "README.md"


def write_together(files: dict[str, str | Figure], out: Path) -> None:
    """Write texts and plots to a folder once all of them can be written."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as staging:
        for name, content in files.items():
            if isinstance(content, str):
                Path(staging, name).write_text(content, encoding="utf-8")
            else:
                content.savefig(Path(staging, name))
        for file in Path(staging).iterdir():
            file.replace(out / file.name)


def machine() -> str:
    """Return processor, cores, memory, system and Python in one line."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    if sys.platform == "linux":
        system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {system}"
    return (
        f"{processor}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {system}, "
        f"Python {platform.python_version()}"
    )


def versions() -> dict[str, str]:
    """Return the versions of what was measured, and the commit of this project."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    if MLSERVER.exists():
        ask = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
        command = [str(MLSERVER.with_name("python")), "-c", ask, *MLSERVER_PACKAGES]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        pairs = [f"{name} {version}" for name, version in zip(MLSERVER_PACKAGES, told, strict=True)]
        found["mlserver"] = f"{told[0]} (beside it {', '.join(pairs[1:])})"
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.strip()
    return found | {"this project": commit or "not in git"}


def table(
    rows: dict[str, dict[str, Any]], titles: dict[str, str], columns: list[Column], unranked: frozenset[str]
) -> list[str]:
    """Return the lines of a table with medians, ranges over the rounds, and the best of each column in bold."""
    medians = {
        (name, column.key): statistics.median(value if isinstance(value, list) else [value])
        for name, figures in rows.items()
        for column in columns
        if (value := figures.get(column.key)) is not None
    }
    lines = [
        "| | " + " | ".join(column.heading for column in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name, figures in rows.items():
        cells = []
        for column in columns:
            if (name, column.key) not in medians:
                cells.append("–")
                continue
            median, value = medians[name, column.key], figures[column.key]
            ranked = [m for (n, key), m in medians.items() if key == column.key and n not in unranked]
            text = f"{median:,.{column.digits}f}"
            if name not in unranked and median == column.best(ranked):
                text = f"**{text}**"
            if isinstance(value, list) and len(value) > 1:
                text += f" ({min(value):,.{column.digits}f}–{max(value):,.{column.digits}f})"
            cells.append(text)
        lines.append(f"| {titles[name]} | {' | '.join(cells)} |")
    return [*lines, ""]


def markdown(result: dict[str, Any], drawn: list[str]) -> str:
    """Return the report."""
    settings = result["settings"]
    pinned = result["cores"]
    where = (
        f"Whatever is measured runs on core {pinned[0]}, the load client on core {pinned[1]}"
        + (", the same: client and server take turns" if pinned[0] == pinned[1] else "")
        if pinned
        else "Nothing could be pinned to a core on this system"
    )
    http = [Column(c.heading.format(**settings), c.key, c.best, c.digits) for c in _HTTP_COLUMNS]
    lines = ["# Benchmark", ""]
    if result["quick"]:
        lines += ["**A quick try: these figures say nothing.**", ""]
    lines += [
        f"{result['date']}. {result['machine']}.",
        "",
        f"Medians (smallest–largest) over rounds, of which there were {result['rounds']}. In each round every peer has its turn, in another "
        f"order each time. **Bold** is the best of its column, whoever it is. {where}; BLAS and OpenMP have one "
        f"thread. The texts are {settings['texts']:,} held-out IMDb reviews (median {result['characters']:,.0f} characters). "
        f"The whole took {result['minutes']:.0f} min. Every figure of every round: [results.json](results.json). "
        "Again: `make bench`.",
        "",
    ]
    for remark in result["remarks"]:
        lines += [f"Note: {remark}.", ""]
    if result["models"]:
        rows = settings["fit_rows"]
        lines += ["## Models", ""]
        lines += table(result["models"], MODELS, _MODEL_COLUMNS, frozenset())
        lines += [
            "Accuracy on the held-out rows. The registered version was afterwards fitted on all rows, so its accuracy is not "
            "measured here: it is what its run logged, of the same model fitted on the training rows alone. The others are "
            f"trained here, on {f'{rows:,} of ' if rows else ''}the training rows (VADER and TextBlob: not at all), and judged on the same held-out rows; their settings stand in `bench/fit.py`. "
            "Training of ours is counting n-grams and five-fold cross-validation, calibration and two fits, on all cores, as its run "
            "logged it; of the others one fit on one core. Each was measured once. On disk: our whole MLflow artifact; the "
            "pickle; the fastText binary; the installed package of VADER and TextBlob.",
            "",
        ]
    if result["in_process"]:
        lines += ["## In a Python process", ""]
        titles = {name: peer.title for name, peer in PEERS.items()}
        lines += table(result["in_process"], titles, _IN_PROCESS_COLUMNS, frozenset())
        lines += [
            "From raw texts to scores, each peer alone in a new process on one core, after a warm-up: every review once by itself, "
            "then all of them as a batch for at least a second. fastText is given one lower-cased line with "
            "punctuation set apart, and that counts.",
            "",
        ]
    if result["http"]:
        checked = sum(sum(figures["answers"]) for figures in result["http"].values())
        titles = {name: server.title for name, server in SERVERS.items()}
        lines += ["## Over HTTP", ""]
        lines += table(result["http"], titles, http, frozenset({"mlflow-noop"}))
        lines += [
            "One server at a time, one worker unless it says more, all its processes on one core; log settings as each ships. "
            "The client is the same for all: raw HTTP/1.1, kept-alive connections, TCP_NODELAY. One review is the time of a request while one "
            f"client asks, for {settings['seconds']:g} s; a batch is one request with all reviews. All {checked:,.0f} answers were "
            "200 with the label that the model gives in process, else there would be no report. Cold start: from the start of the "
            "process to the first answer with 200, files in the page cache; ours has run on this machine before, else it compiles "
            "for some 2 s more. Each has its fastest documented settings: uvloop and httptools for all, MLServer without its pool of "
            "worker processes, and for MLflow `inputs` for one review, `dataframe_split` for the batch. RSS after the load; a worker is the largest process "
            "without children. The floor has no rank: it answers without reading.",
            "",
        ]
    lines += [f"![{name.replace('_', ' ')}]({name}.png)\n" for name in drawn]
    lines += ["## Versions", "", ", ".join(f"{name} {v}" for name, v in result["versions"].items()) + ".", ""]
    return "\n".join(lines)


def plots(result: dict[str, Any]) -> dict[str, Figure]:
    """Return bars of latency and throughput over HTTP, and accuracy over speed in process."""
    found = {}
    if result["http"]:
        found["latency"] = _bars(result["http"], {"p50": "p50", "p99": "p99"}, "One review over HTTP, ms")
        by_clients = {f"throughput_{n}": f"{n} client{'s' * (n > 1)}" for n in (1, 8, 32)}
        found["throughput"] = _bars(result["http"], by_clients, "Requests per second over HTTP")
    judged = {name: PEERS[name].model for name in result["in_process"] if name != "ours-pyfunc"}
    if judged:
        figure = Figure(figsize=(8.0, 5.0), dpi=110, layout="constrained")
        ax = figure.subplots()
        for name, model in judged.items():
            x = statistics.median(result["in_process"][name]["throughput"])
            y = result["models"][model]["accuracy"]
            ax.scatter(x, y, color=OURS if model == "ours" else PEER)
            ax.annotate(
                MODELS[model],
                (x, y),
                xytext=(0, -14 if model == "ours" else 7),  # its twin may be at the same place
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        ax.set(
            xscale="log",
            xlabel="Reviews per second in a batch on one core",
            ylabel="Accuracy on held-out rows",
            title="Accuracy and speed",
        )
        ax.margins(0.2)
        found["accuracy_and_speed"] = figure
    return found


def _bars(rows: dict[str, dict[str, list[float]]], keys: dict[str, str], title: str) -> Figure:
    figure = Figure(figsize=(9.0, 0.32 * len(rows) * len(keys) + 1.2), dpi=110, layout="constrained")
    ax = figure.subplots()
    thickness = 0.8 / len(keys)
    for i, (key, label) in enumerate(keys.items()):
        for row, (name, figures) in enumerate(rows.items()):
            values = figures[key]
            median = statistics.median(values)
            place = row + (i - (len(keys) - 1) / 2) * thickness
            colour = OURS if SERVERS[name].model == "ours" else FLOOR if name == "mlflow-noop" else PEER
            ax.barh(
                place,
                median,
                thickness * 0.9,
                xerr=[[median - min(values)], [max(values) - median]],
                color=colour,
                alpha=1 - 0.25 * i,
                ecolor="black",
            )
            said = f"{label}: {median:,.{0 if median >= 100 else 2}f}"
            ax.annotate(
                said, (max(values), place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7
            )
    ax.set_yticks(range(len(rows)), [SERVERS[name].title.replace("`", "") for name in rows])
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_title(title)
    return figure
