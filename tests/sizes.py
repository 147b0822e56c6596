"""A pytest plugin that limits the time of each test file.

A file is ``small`` (10 s) unless it is marked ``medium`` (60 s). The run fails if a file takes more than 1.5 times
its limit. Tests marked ``large``, and fixtures of the whole session, do not count. On a slow or busy machine the limits grow with the
time that fitting the shared model takes.
"""

import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SIZES = {"small": 10.0, "medium": 60.0}
SLACK = 1.5
REFERENCE = 6.0  # seconds that the shared model takes on two idle cores
_shared = 0.0  # seconds that session fixtures took in the current phase of a test


def size_of(item: pytest.Item) -> str:
    """Return ``large``, ``medium`` or ``small``."""
    if "docker" in item.keywords:
        return "large"
    return next((size for size in ("large", "medium") if size in item.keywords), "small")


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
        """Return a line for each file that took more than 1.5 times its limit."""
        return [
            f"{file} is {self.sizes[file]} ({SIZES[self.sizes[file]]:.0f} s) and took {took:.0f} s: make it faster, mark its slow tests "
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
        """Fail an otherwise passing run if a file is too slow."""
        if self.outgrown(self.pace()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show the files by seconds, and those that outgrew their size."""
        pace = self.pace()
        terminalreporter.section(f"seconds by file, limits times {pace:.1f}")
        for file in sorted(
            {*self.seconds, *self.large}, key=lambda file: -(self.seconds[file] + self.large[file])
        )[:40]:
            size = self.sizes.get(file, "large")
            terminalreporter.line(f"{self.seconds[file]:7.1f} {size:6} {self.large[file]:7.1f} large  {file}")
        for line in self.outgrown(pace):
            terminalreporter.line(f"TOO SLOW: {line}", red=True)
