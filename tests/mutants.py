"""Mutation tests: ``make mutants`` plants each bug of ``mutants.toml`` in a copy of the project and runs tests there.

Each mutant names the tests that should catch it, so that checking one takes seconds. ``killed``: a test failed, or the run
timed out. ``survived``: all tests passed or skipped; install HAProxy, Spark and PyTorch first.
"""

import json
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
TIERS = {"test": "not large and not docker", "test-all": "not docker"}
TIMEOUT = 600.0


@dataclass(frozen=True)
class Mutant:
    """One bug: a line of a file, what it becomes, and the tests that should fail."""

    id: str
    file: str
    old: str
    new: str
    tests: list[str]
    why: str

    def put_into(self, tree: Path) -> str:
        """Change the file in a copy of the project; return what it held before."""
        before = (tree / self.file).read_text()
        if before.count(self.old) != 1:
            raise click.ClickException(
                f"mutant {self.id}: {self.file} has {self.old!r} {before.count(self.old)} times, not once"
            )
        (tree / self.file).write_text(before.replace(self.old, self.new))
        return before


def mutants(root: Path = ROOT) -> list[Mutant]:
    """Return the list of bugs."""
    return [Mutant(**one) for one in tomllib.loads((root / "tests" / "mutants.toml").read_text())["mutant"]]


def copy_tree(root: Path, to: Path) -> Path:
    """Copy all files that git does not ignore into a new repository, because some tests call git."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in filter(None, subprocess.check_output(listed, cwd=root, text=True).split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    (to / ".venv").symlink_to(sys.prefix)  # so that make does not rebuild it
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=to, check=True)
    return to


def run_tests(tree: Path, tests: list[str], tier: str) -> str:
    """Return ``killed``, ``survived``, ``not run`` (none of the tests is in the tier), or an error."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        TIERS[tier],
        *tests,
    ]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return "killed"  # it hangs
    return {0: "survived", 1: "killed", 5: "not run"}.get(done.returncode, f"error: {done.stdout[-300:]}")


@click.command(
    help="Put each bug of tests/mutants.toml into a copy of the project and see whether its tests fail."
)
@click.option("--tier", type=click.Choice(list(TIERS)), default="test-all", show_default=True)
@click.option(
    "--only", default="", help="Run only mutants whose id starts with this; separate several by commas."
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=ROOT,
    help="Project to copy and mutate; the list of mutants is this project's.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the results to this JSON file.")
@click.option("--jobs", default=2, show_default=True)
def main(tier: str, only: str, root: Path, out: Path | None, jobs: int) -> None:
    """Run the selected mutants."""
    wanted = [one for one in mutants() if one.id.startswith(tuple(only.split(",")))]
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            trees.put(copy_tree(root, Path(folder, str(number))))

        def attempt(mutant: Mutant) -> None:
            tree, began = trees.get(), time.monotonic()
            try:
                before = mutant.put_into(tree)
                try:
                    results[mutant.id] = run_tests(tree, mutant.tests, tier)
                finally:
                    (tree / mutant.file).write_text(before)
            finally:
                trees.put(tree)
            seconds = time.monotonic() - began
            click.echo(f"{mutant.id:14} {results[mutant.id]:9} {seconds:5.0f} s  {mutant.why}")

        list(pool.map(attempt, wanted))
    if out:
        out.write_text(json.dumps(dict(sorted(results.items())), indent=2) + "\n")
    killed = sum(result == "killed" for result in results.values())
    click.echo(f"{killed} of {len(wanted)} mutants killed by tests of tier {tier}")
    if killed < len(wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()
