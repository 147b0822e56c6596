"""``make bench``: rounds in which every peer is measured in turn, and a report at the end."""

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd

from bench.inprocess import PEERS
from bench.models import JUDGES, accuracies, fetch_ours, label, megabytes, train
from bench.processes import ROOT, BenchError, ask, cores
from bench.report import write
from bench.servers import MLSERVER, SERVERS, measure
from cli import stop_in_order
from data.ingest import TABLE
from data.table import read_table

FULL: dict[str, Any] = {"texts": 1000, "seconds": 4.0, "batches": 5, "fit_rows": None}
QUICK: dict[str, Any] = {"texts": 100, "seconds": 0.4, "batches": 2, "fit_rows": 3000}


def choose(only: str | None) -> list[str]:
    """Return the names of the peers to measure."""
    known = [*PEERS, *SERVERS]
    if only is None:
        return [name for name in known if name in PEERS or SERVERS[name].default]
    names = only.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"--only: no peer {unknown[0]!r}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def bench(names: list[str], rounds: int, settings: dict[str, Any], model: str | None) -> dict[str, Any]:
    """Obtain the models, then measure each peer once a round; return every figure.

    Parameters
    ----------
    names : list of str
        Keys of ``PEERS`` and ``SERVERS``.
    rounds : int
    settings : dict
        ``FULL`` or ``QUICK``.
    model : str, optional
        Path or URI of ours; default: the version in Production.
    """
    started = time.monotonic()
    pinned = cores()
    core = pinned[0] if pinned else None
    in_process = [name for name in names if name in PEERS]
    servers = [name for name in names if name in SERVERS]
    needed = {PEERS[name].model for name in in_process} | {SERVERS[name].model for name in servers}
    table = read_table(TABLE)
    training_rows = table[table["split"] == "train"]
    if settings["fit_rows"]:
        training_rows = training_rows.sample(settings["fit_rows"], random_state=0)
    held_out = table[table["split"] == "test"].sample(frac=1, random_state=0).reset_index(drop=True)
    long = held_out.index[held_out["source"] == "imdb"][: settings["texts"]]
    texts = held_out.loc[long, "review"].tolist()

    files: dict[str, str] = {}
    models: dict[str, dict[str, float]] = {name: {} for name in JUDGES if name in needed}
    labels: dict[str, list[str]] = {}
    remarks: list[str] = []
    found: dict[str, dict[str, dict[str, list[float]]]] = {"in_process": {}, "http": {}}

    def note(turn: int, kind: str, name: str, figures: dict[str, float]) -> None:
        kept = found[kind].setdefault(name, {})
        for key, value in figures.items():
            kept.setdefault(key, []).append(value)
        shown = ", ".join(f"{key} {value:,.6g}" for key, value in figures.items())
        click.echo(f"round {turn + 1} of {rounds}: {name}: {shown}")

    with tempfile.TemporaryDirectory(prefix="sentiment-bench-") as temporary:
        folder = Path(temporary)
        if needed & {"ours", "sklearn"}:
            (folder / "ours").mkdir()
            files, logged, remarks = fetch_ours(model, len(table), folder / "ours")
            models |= {name: dict(logged) for name in files if name in needed}
        for name in sorted(needed & {"usual", "fasttext"}):
            files[name] = str(folder / name)
            models[name]["train_seconds"] = train(name, training_rows, folder / name, core)
        for name in sorted(needed):
            labels[name] = label(name, files, held_out["review"].tolist(), core)
        for name, figures in models.items():
            if "accuracy" not in figures:
                figures |= accuracies(labels[name], held_out)
            figures["megabytes"] = megabytes(name, files)
            click.echo(f"{name}: accuracy {figures['accuracy']:.4f}")
        job = {"texts": texts, "clients": [1, 8, 32]}
        job |= {key: settings[key] for key in ("seconds", "batches")}
        for turn in range(rounds):
            for name in _rotated(in_process, turn):
                asked = {"do": "measure", "peer": name, "files": files, "texts": texts}
                note(turn, "in_process", name, ask("bench.inprocess", asked, core))
            for name in _rotated(servers, turn):
                server = SERVERS[name]
                own = folder / f"{name}-{turn}"
                own.mkdir()
                expected = [labels[server.model][row] for row in long]
                note(turn, "http", name, measure(server, files.get(server.model), own, job, expected))
    if {"ours", "sklearn"} <= needed:
        pairs = list(zip(labels["ours"], labels["sklearn"], strict=True))
        agree = sum(ours == theirs for ours, theirs in pairs)
        remarks.append(
            f"ours and the scikit-learn pipeline give the same label to {agree:,} of {len(pairs):,} held-out reviews"
        )
    return {
        "rounds": rounds,
        "settings": settings,
        "characters": float(pd.Series(texts).str.len().median()),
        "cores": pinned,
        "remarks": remarks,
        "minutes": (time.monotonic() - started) / 60,
        "models": models,
        **found,
    }


def _rotated(names: list[str], turn: int) -> list[str]:
    cut = turn % len(names) if names else 0
    return names[cut:] + names[:cut]


@click.command(help="Measure ours and its peers in interleaved rounds, and write tables and plots.")
@click.option("--rounds", type=click.IntRange(min=1), help="How many rounds.  [default: 5; quick: 1]")
@click.option("--quick", is_flag=True, help="Tiny settings, to see that all works. The figures mean nothing.")
@click.option("--only", help="Names of peers, separated by commas; a wrong one lists all.")
@click.option("--model", help="Path or URI of our model.  [default: the one in Production]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the report.  [default: docs/benchmarks; quick: a temporary folder]",
)
def main(rounds: int | None, quick: bool, only: str | None, model: str | None, out: Path | None) -> None:
    """Run the benchmark."""
    stop_in_order()
    names = choose(only)
    if any(name.startswith("mlserver") for name in names) and not MLSERVER.exists():
        raise BenchError(f"{MLSERVER.relative_to(ROOT)} is missing; 'make bench' installs it")
    result = bench(names, rounds or (1 if quick else 5), QUICK if quick else FULL, model)
    if out is None:
        out = Path(tempfile.mkdtemp(prefix="bench-quick-")) if quick else ROOT / "docs" / "benchmarks"
    click.echo(f"written: {write(result | {'quick': quick}, out)}")


if __name__ == "__main__":
    main()
