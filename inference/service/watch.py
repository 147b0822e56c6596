"""A thread that keeps looking at the registry, so that a slow or silent one never holds up who serves."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from inference.service.slots import Slot
from registry import canary
from registry.canary import Canary
from registry.errors import RegistryError
from registry.store import MODEL_NAME, connect
from registry.versions import PRODUCTION, REFUSED, Version, all_versions, in_production

INTERVAL = 2.0

log = logging.getLogger("follow")


@dataclass(frozen=True)
class Seen:
    """What the registry said last.

    Attributes
    ----------
    reachable : bool
        Whether it answered the last time it was asked; if not, the rest is what it said before.
    production : Version or None
    canary : Canary or None
    candidate : Version or None
        The version of the canary.
    why : str
        The fault, if it did not answer.
    """

    reachable: bool
    production: Version | None = None
    canary: Canary | None = None
    candidate: Version | None = None
    why: str = ""


def why_not_ready(seen: Seen | None, starting: Slot | None, kept: bool) -> str:
    """Return what clients are told while no version serves; ``kept`` is whether copies of earlier ones are there."""
    if seen is None:
        return "the registry is being asked"
    if starting is not None:
        return f"version {starting.version} is being brought up"
    if not seen.reachable and not kept:
        return "the registry does not answer"
    if seen.production is None:
        return f"no version of {MODEL_NAME} is in {PRODUCTION}"
    return f"version {seen.production.number} does not come up; the log and its tag {REFUSED} say why"


class Watch(threading.Thread):
    """Asks the registry every two seconds, and does in between what :meth:`later` was given."""

    def __init__(self) -> None:
        super().__init__(name="watch", daemon=True)
        self.seen: Seen | None = None
        self._jobs: deque[Callable[[MlflowClient], object]] = deque()
        self._stop = threading.Event()

    def later(self, job: Callable[[MlflowClient], object]) -> None:
        """Have ``job`` called with a client as soon as the registry answers."""
        self._jobs.append(job)

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def run(self) -> None:
        """Ask until told to stop."""
        # a server that hangs must not hold the answer back for MLflow's 2 minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        while not self._stop.is_set():
            try:
                self.seen = self._ask()
            except Exception as error:  # whatever it is, the thread must go on asking
                why = (error.message if isinstance(error, RegistryError) else str(error)).splitlines()
                last = self.seen or Seen(False)
                self.seen = Seen(
                    False, last.production, last.canary, last.candidate, (why or [repr(error)])[0]
                )
            self._stop.wait(INTERVAL)

    def _ask(self) -> Seen:
        client = connect()
        while self._jobs:
            job = self._jobs.popleft()
            try:
                job(client)
            except MlflowException as error:  # the version was deleted, say
                log.warning("what happened cannot be noted in the registry: %s", error)
        serving = in_production(client)
        production = serving[0] if serving else None
        asked = canary.asked(client)
        if asked is None or production is None or asked.beside != production.number:
            return Seen(True, production)
        candidate = next((v for v in all_versions(client) if v.number == asked.version), None)
        return Seen(True, production, asked if candidate else None, candidate)
