"""``make switches``: what a change of version costs those who ask meanwhile, and what the follower survives."""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.following import Registry
from bench.processes import MEGABYTE, ROOT, BenchError
from bench.scenarios.base import SECONDS_A_SWITCH, Bench, Outcome, say, train
from bench.scenarios.candidates import bad, canaries
from bench.scenarios.changes import idle, slow, switches
from bench.scenarios.cost import through_proxy
from bench.scenarios.faults import disk, server_killed, stops, tracker
from bench.scenarios.growth import NOMINAL, endurance, growth
from bench.switches_report import write
from cli import stop_in_order
from data.ingest import TABLE
from data.table import read_table

FULL: dict[str, Any] = {
    "rates": [200],
    "changes": 20,  # at each rate
    "steady": 18.0,  # seconds between two changes
    "idle": 200,
    "idle_rounds": 3,
    "background": 50,  # requests a second under everything that is not about latency
    "endurance": 300.0,  # seconds
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
    "steady": 2.0,
    "idle": 20,
    "idle_rounds": 1,
    "background": 20,
    "endurance": 6.0,
    "control": 4,
    "hold": 2.0,
    "closed": 0.5,
    "rounds": 1,
    "canary": 400,
    "canary_rate": 100,
}


SCENARIOS: dict[str, Callable[[Bench], Outcome]] = {
    "switches": switches,
    "idle": idle,
    "slow": slow,
    "bad": bad,
    "endurance": endurance,
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
        "switches": len(settings["rates"]) * (a_start + settings["changes"] * (SECONDS_A_SWITCH + steady)),
        "idle": a_start + settings["idle_rounds"] * SECONDS_A_SWITCH,
        "slow": a_start + 60,
        "bad": a_start + 6 * (12 + hold),
        "endurance": a_start + settings["endurance"],
        "growth": 2 * a_start + (count + settings["control"]) * SECONDS_A_SWITCH,
        "stops": 6 * (a_start + 10 + 2 * hold),
        "tracker": 90 + 3 * (hold + 12),
        "disk": 50 + hold,
        "server-killed": 6 * (a_start + 28),
        "proxy": a_start + settings["rounds"] * 2 * (3 * settings["closed"] + 4),
        "canary": a_start + 90 + settings["canary"] / settings["canary_rate"],
    }
    return (60 + sum(seconds_of[name] for name in names)) / 60


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
