"""Whether a canary is grossly worse than what serves beside it, told from the request log."""

import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# answers of the proxy alone, or ones that no version can help
NOT_OF_A_VERSION = frozenset({404, 405, 408, 411, 413, 429})
WINDOW = 20_000  # answers of both versions together, so that what is compared is of one time
ENOUGH_FOR_ERRORS, ENOUGH_FOR_LATENCY = 50, 100
FEWEST_ERRORS, ERROR_SHARE, ERROR_RATIO = 5, 0.05, 5.0
SLOWER_RATIO, SLOWER_MS = 3.0, 20.0


@dataclass(frozen=True)
class Sample:
    """What a version answered: how often, how often with an error, and the milliseconds of the good answers."""

    answers: int
    errors: int
    ms: list[float]

    @property
    def error_share(self) -> float:
        """Share of the answers that are errors."""
        return self.errors / self.answers if self.answers else 0.0


def grossly_worse(canary: Sample, production: Sample) -> str | None:
    """Return how a canary is grossly worse than the version beside it; None if it is not, or not known to be.

    Errors: at least 5 of at least 50 answers, 5 % of them, and five times the share of the version beside
    it. Latency: the median over at least 100 answers of each is over three times the other one and 20 ms
    above it. Medians, since a few slow answers must not stop a canary. Requests are dealt by chance, so
    what clients do wrong comes to both in the same share.

    Examples
    --------
    >>> grossly_worse(Sample(100, 0, [80.0] * 100), Sample(100, 0, [2.0] * 100))
    'its median is 80.0 ms over 100 answers, beside 2.0 ms over 100'
    """
    if (
        canary.answers >= ENOUGH_FOR_ERRORS
        and canary.errors >= FEWEST_ERRORS
        and canary.error_share >= max(ERROR_SHARE, ERROR_RATIO * production.error_share)
    ):
        return (
            f"{canary.errors} of its {canary.answers} answers are errors ({canary.error_share:.1%}), "
            f"beside {production.error_share:.1%} of {production.answers}"
        )
    if min(len(canary.ms), len(production.ms)) >= ENOUGH_FOR_LATENCY:
        theirs, ours = median(production.ms), median(canary.ms)
        if ours > SLOWER_RATIO * theirs and ours > theirs + SLOWER_MS:
            return f"its median is {ours:.1f} ms over {len(canary.ms)} answers, beside {theirs:.1f} ms over {len(production.ms)}"
    return None


class RequestLog:
    """The answers that came to the request log since it was opened, the last 20,000 of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._answers: deque[tuple[int, int, float]] = deque(maxlen=WINDOW)

    def read(self) -> bool:
        """Take in what is new; return whether anything is."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._at:  # it was cut off
                    self._at = 0
                file.seek(self._at)
                new = file.read()
        except OSError:
            return False
        whole, newline, _ = new.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                if row["endpoint"] == "/invocations" and row["status"] not in NOT_OF_A_VERSION:
                    self._answers.append((int(row["version"]), int(row["status"]), float(row["server_ms"])))
            except (ValueError, LookupError, TypeError):
                continue  # answered by no version
        return bool(newline)

    def sample(self, version: int) -> Sample:
        """Return what a version answered."""
        own = [(status, ms) for number, status, ms in self._answers if number == version]
        errors = sum(status >= 400 for status, _ in own)
        return Sample(len(own), errors, [ms for status, ms in own if status < 400])
