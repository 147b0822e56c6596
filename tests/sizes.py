"""How long a test file may take: a plugin of pytest that adds up its seconds and fails the run where a file outgrew its size.

A file is small unless it says ``pytestmark = pytest.mark.medium``. Tests marked ``large`` run in ``make test-all`` alone and do not
count; nor do fixtures of the whole session, which many files share. On a machine that is slower than the one the sizes were chosen
on, or busy, they stretch: the shared model is fitted in every run, and its seconds are the measure.
"""

import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SIZES = {"small": 10.0, "medium": 60.0, "long": 120.0}  # long: whole lives of a model or a service
SLACK = 1.5
REFERENCE = 6.0  # seconds that the shared model takes on two idle cores
_shared = 0.0  # seconds that session fixtures took in the current phase of a test


def size_of(item: pytest.Item) -> str:
    """Return ``large``, ``long``, ``medium`` or ``small``."""
    return next((size for size in ("large", "long", "medium") if size in item.keywords), "small")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, Any, Any]:
    """Note how long fixtures of the session take."""
    global _shared
    began, before = time.perf_counter(), _shared
    result = yield
    if fixturedef.scope == "session":
        _shared = before + time.perf_counter() - began  # one within another counts once
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Put the size, and the seconds of the phase without fixtures of the session, into its report."""
    global _shared
    report = yield
    report.own_size, report.own_seconds = size_of(item), report.duration - min(_shared, report.duration)
    _shared = 0.0
    return report


class Sizes:
    """Adds up what the workers report, and judges at the end."""

    def __init__(self, pace_file: Path | None = None) -> None:
        self.seconds: Counter[str] = Counter()
        self.large: Counter[str] = Counter()
        self.sizes: dict[str, str] = {}
        self.pace_file = pace_file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a phase of a test."""
        file = report.nodeid.split("::")[0]
        if not hasattr(report, "own_size"):
            return
        if report.own_size == "large":
            self.large[file] += report.own_seconds
        else:
            self.seconds[file] += report.own_seconds
            self.sizes[file] = report.own_size

    def outgrown(self, pace: float) -> list[str]:
        """Return a line for each file that took more than its size and half as much."""
        return [
            f"{file} is {self.sizes[file]} ({SIZES[self.sizes[file]]:.0f} s) and took {took:.0f} s: make it faster, mark slow tests of it "
            "large, or give it the next size"
            for file, took in sorted(self.seconds.items())
            if took > SIZES[self.sizes[file]] * SLACK * pace
        ]

    def pace(self) -> float:
        """Return how much slower than the reference this run is, 1 if it is not."""
        try:
            return max(1.0, float((self.pace_file or Path()).read_text()) / REFERENCE)
        except (OSError, ValueError):
            return 1.0

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that passed with a file too slow."""
        if self.outgrown(self.pace()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the files by seconds, and those that outgrew their size."""
        pace = self.pace()
        terminalreporter.section(f"seconds by file, sizes stretched {pace:.1f} times")
        for file in sorted(
            {*self.seconds, *self.large}, key=lambda file: -(self.seconds[file] + self.large[file])
        )[:40]:
            size = self.sizes.get(file, "large")
            terminalreporter.line(f"{self.seconds[file]:7.1f} {size:6} {self.large[file]:7.1f} large  {file}")
        for line in self.outgrown(pace):
            terminalreporter.line(f"TOO SLOW: {line}", red=True)
