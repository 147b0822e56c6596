"""The places that a follower has for versions: one serves, one may be coming up, be tried on a share, or be on its way out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from inference.server import ModelServer
from inference.service.loading import Loading
from inference.service.policy import Phase

RETRIES = 5
LONGEST_WAIT = 32.0


@dataclass
class Slot:
    """A version that is being brought up, serves, or is on its way out."""

    version: int
    phase: Phase
    server: ModelServer | None = None
    loading: Loading | None = None
    percent: int = 0
    missed: int = 0  # pings in a row that it did not answer
    since: float = field(default_factory=time.monotonic)

    def enter(self, phase: Phase) -> None:
        """Go into another phase."""
        self.phase, self.since = phase, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been in its phase."""
        return time.monotonic() - self.since

    @property
    def up(self) -> ModelServer:
        """Its server, which has come up."""
        if self.server is None:
            raise RuntimeError(f"version {self.version} is {self.phase} without a server")
        return self.server


@dataclass
class Tries:
    """How often a version failed in a row, and when it may be tried again."""

    count: int = 0
    again: float = 0.0


class Failures:
    """The tries of each version, under the key of its promotion."""

    def __init__(self) -> None:
        self._tries: dict[tuple[int, str], Tries] = {}

    def add(self, key: tuple[int, str], died: bool, others_can: Callable[[], bool]) -> tuple[int, float]:
        """Count a failure; return how many there were, and the seconds to wait: infinity if another version can serve.

        A server that ``died`` after it had come up is started again at once, the first two times.
        """
        tries = self._tries.setdefault(key, Tries())
        tries.count += 1
        wait = 0.0 if died and tries.count <= 2 else min(2.0**tries.count, LONGEST_WAIT)
        if tries.count > RETRIES and others_can():
            wait = inf
        tries.again = time.monotonic() + wait
        return tries.count, wait

    def until(self, key: tuple[int, str]) -> float:
        """Return when a version may be tried again, on the monotonic clock."""
        return self._tries.get(key, Tries()).again

    def forget(self, key: tuple[int, str]) -> None:
        """Take a version for proved."""
        self._tries.pop(key, None)

    def clear(self) -> None:
        """Have all tried again now."""
        self._tries.clear()
