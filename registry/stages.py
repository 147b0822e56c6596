"""Promotion and rollback. Every call of MLflow's stages, which are deprecated, stands in this file.

The stage is the truth and the alias ``production`` follows it. MLflow changes stages without a
compare-and-set: two transitions at once can leave two versions in Production. So writers on one
machine take turns by a lock, and every writer reads again and repairs until one is left: of several,
the one promoted last, told by the stamp that its tag carries.
"""

import getpass
import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry import canary
from registry.errors import RegistryError, VerificationError
from registry.store import MODEL_NAME, answering
from registry.versions import PRODUCTION, PROMOTED_AT, Version, all_versions, fetch, find, in_production, tags

ALIAS = "production"
ROLLED_BACK = "rolled_back"
_AUDIT = "audit."
_PENDING = "pending"
_ROUNDS = 20


@dataclass(frozen=True)
class Event:
    """One change of Production."""

    at: str
    action: str
    version: int
    replaced: int | None
    by: str
    reason: str


class ProductionChangedError(RegistryError):
    """Another version is in Production than the caller decided upon."""


def promote(client: MlflowClient, version: int, replacing: int | None, reason: str, force: bool) -> None:
    """Make ``version`` the one version in Production, move the alias, and leave an audit event.

    Safe to repeat: what an interrupted call left undone is done, what was done is left.

    Parameters
    ----------
    client : MlflowClient
    version : int
    replacing : int or None
        The version that was in Production when the caller decided.
    reason : str
        For the audit trail.
    force : bool
        Whether a version that was rolled back may be promoted again.

    Raises
    ------
    ProductionChangedError
        If another version than ``replacing`` is in Production by now, or took over meanwhile.
    RegistryError
        If the version does not exist, or was rolled back and ``force`` is not set.
    """
    with turn(client):
        finish_pending(client)
        candidate = find(client, version)
        refuse_rolled_back(candidate, force)
        current = _current(client)
        if current not in (replacing, version):
            raise ProductionChangedError(
                f"version {current or 'none'} is in Production now, not {replacing or 'none'}; run again"
            )
        if current == version:
            _make_production(client, version)
            return
        event = Event(_now(client), "promote", version, current, _user(), reason)
        _announce_and_move(client, event)


def refuse_rolled_back(version: Version, force: bool) -> None:
    """Raise RegistryError if ``version`` was rolled back, unless ``force`` is set."""
    if version.tags.get(ROLLED_BACK) and not force:
        raise RegistryError(
            f"version {version.number} was rolled back at {version.tags[ROLLED_BACK]}; "
            "FORCE=1 (--force yes) promotes it all the same"
        )


def rollback(client: MlflowClient, leaving: int | None, reason: str) -> tuple[int, int] | None:
    """Go back to the latest earlier Production version that was not itself rolled back.

    Parameters
    ----------
    client : MlflowClient
    leaving : int or None
        Do nothing unless this version is in Production: makes a retry harmless.
    reason : str
        For the audit trail.

    Returns
    -------
    tuple of int or None
        The version left and the one gone back to; None if there was nothing to do.

    Raises
    ------
    RegistryError
        If nothing is in Production, or there is no version to go back to, or its files were changed.
    """
    with turn(client):
        finished = finish_pending(client)
        if finished and finished.action == "rollback" and leaving in (None, finished.replaced):
            # the interrupted call that this one repeats
            return finished.replaced or finished.version, finished.version
        current = find(client, PRODUCTION)
        if leaving is not None and current.number != leaving:
            find(client, leaving)
            _make_production(client, current.number)
            return None
        target = rollback_target(client, current)
        with tempfile.TemporaryDirectory() as folder:
            try:
                fetch(target, Path(folder))
            except VerificationError as error:
                raise VerificationError(
                    f"{error.message}. Nothing was changed; 'make history' shows the versions, "
                    "'make promote VERSION=n' promotes another one"
                ) from None
        event = Event(_now(client), "rollback", target.number, current.number, _user(), reason)
        _announce_and_move(client, event)
        return current.number, target.number


def _announce_and_move(client: MlflowClient, event: Event) -> None:
    client.set_registered_model_tag(MODEL_NAME, _PENDING, json.dumps(asdict(event)))
    if finish_pending(client, move=True) is None:
        raise RegistryError("the registry was changed by other means meanwhile; run again")


def finish_pending(client: MlflowClient, move: bool = False) -> Event | None:
    """Finish the change that the tag ``pending`` announces, or withdraw it if it had not begun.

    Each change is announced before it is made and entered into the audit trail after: whoever is killed
    in between leaves the announcement to the next writer.

    Parameters
    ----------
    client : MlflowClient
    move : bool
        Whether the stage is yet to be moved. Else the change is one that was interrupted.

    Returns
    -------
    Event or None
        What was finished.

    Raises
    ------
    RegistryError
        If the version was deleted meanwhile; the one that it would have replaced is in Production again.
    """
    announced = tags(client).get(_PENDING)
    if announced is None:
        return None
    event = _event(announced)
    if event is None:
        client.delete_registered_model_tag(MODEL_NAME, _PENDING)
        return None
    if not move and _current(client) != event.version:
        _undo(client, event)
        return None
    try:
        if move:
            _mark(client, event)
        _make_production(client, event.version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        if _exists(client, event.version):  # it was the other one
            return finish_pending(client, move)
    if not _exists(client, event.version):
        _undo(client, event)
        raise RegistryError(
            f"version {event.version} was deleted meanwhile; "
            f"version {_current(client) or 'none'} is in Production; run again"
        )
    canary.stop(client)  # what it was compared with is gone
    client.set_registered_model_tag(MODEL_NAME, f"{_AUDIT}{event.at}.v{event.version}", announced)
    client.delete_registered_model_tag(MODEL_NAME, _PENDING)
    return event


def _event(told: str) -> Event | None:
    """Return what a tag tells; None if somebody else wrote it, and not this."""
    try:
        event = Event(**json.loads(told))
        datetime.fromisoformat(event.at)
    except (ValueError, TypeError):
        return None
    numbers = (event.version, event.replaced or 0)
    words = (event.at, event.action, event.by, event.reason)
    fine = all(isinstance(n, int) for n in numbers) and all(isinstance(word, str) for word in words)
    return event if fine else None


def _exists(client: MlflowClient, version: int) -> bool:
    return any(known.number == version for known in all_versions(client))


def _mark(client: MlflowClient, event: Event) -> None:
    """Mark what a rollback leaves, or take that mark off what is promoted."""
    for version in all_versions(client):
        if event.action == "rollback" and version.number == event.replaced:
            client.set_model_version_tag(MODEL_NAME, str(version.number), ROLLED_BACK, event.at)
        if event.action == "promote" and version.number == event.version and version.tags.get(ROLLED_BACK):
            client.delete_model_version_tag(MODEL_NAME, str(version.number), ROLLED_BACK)


def _undo(client: MlflowClient, event: Event) -> None:
    """Withdraw a change; if its version is gone, and with it what was in Production, put back what it replaced."""
    if event.replaced and _exists(client, event.replaced):
        if event.action == "rollback":
            client.delete_model_version_tag(MODEL_NAME, str(event.replaced), ROLLED_BACK)
        current = _current(client)
        if current == event.replaced or (current is None and not _exists(client, event.version)):
            _make_production(client, event.replaced)
    if _PENDING in tags(client):  # the whole model may be gone
        client.delete_registered_model_tag(MODEL_NAME, _PENDING)


def _current(client: MlflowClient) -> int | None:
    serving = in_production(client)
    return serving[0].number if serving else None


def history(client: MlflowClient) -> list[Event]:
    """Return every promotion and rollback, oldest first."""
    known = tags(client)
    events = [_event(known[key]) for key in sorted(known) if key.startswith(_AUDIT)]
    return [event for event in events if event]


def rollback_target(client: MlflowClient, current: Version) -> Version:
    """Return the version that a rollback from ``current`` goes back to.

    Raises
    ------
    RegistryError
        If there is none.
    """
    known = {version.number: version for version in all_versions(client)}
    for event in reversed(history(client)):
        # also what was replaced: it may have been put into Production by other means than ours
        for number in (event.version, event.replaced):
            version = known.get(number or 0)
            if version and version.number != current.number and not version.tags.get(ROLLED_BACK):
                return version
    raise RegistryError(
        f"there is no earlier Production version to go back to from version {current.number}: each was deleted "
        "or rolled back, or there was none; 'make history' shows them, "
        "'make promote VERSION=n' promotes another one"
    )


def _promoted_at(version: Version) -> int:
    stamp = version.tags.get(PROMOTED_AT, "")
    return int(stamp) if stamp.isdecimal() and len(stamp) < 30 else 0


def _make_production(client: MlflowClient, version: int) -> None:
    """Move ``version`` to Production and repair until it, or a later promotion, stands there alone."""
    # a clock that was set back must not make an older promotion the last one
    latest = max((_promoted_at(known) for known in all_versions(client)), default=0)
    client.set_model_version_tag(MODEL_NAME, str(version), PROMOTED_AT, str(max(time.time_ns(), latest + 1)))
    _transition(client, version, PRODUCTION)
    for _ in range(_ROUNDS):
        serving = sorted(in_production(client), key=_promoted_at)
        if not serving:
            _transition(client, version, PRODUCTION)
            continue
        last = serving[-1]
        for other in serving[:-1]:
            _transition(client, other.number, "Archived")
        if len(serving) > 1:
            continue
        if str(client.get_registered_model(MODEL_NAME).aliases.get(ALIAS)) != str(last.number):
            client.set_registered_model_alias(MODEL_NAME, ALIAS, str(last.number))
            continue
        if last.number != version:
            raise ProductionChangedError(f"version {last.number} was promoted at the same time and stays")
        return
    raise RegistryError("other writers keep changing Production; run again")


def _transition(client: MlflowClient, version: int, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # stages are deprecated, see above
        client.transition_model_version_stage(
            MODEL_NAME, str(version), stage, archive_existing_versions=stage == PRODUCTION
        )


def _user() -> str:
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):  # as whom the server knows one
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container under a user id without a name
        return str(os.getuid())


def _now(client: MlflowClient) -> str:
    """Return the time, or where the clock was set back since, the moment after the last event."""
    now = datetime.now(UTC)
    if known := history(client):
        now = max(now, datetime.fromisoformat(known[-1].at) + timedelta(microseconds=1))
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def turn(client: MlflowClient, patience: float = 120.0) -> Iterator[None]:
    """Hold the lock that writers to the same store on this machine share."""
    uri = mlflow.get_registry_uri()
    if uri.startswith("sqlite:///"):
        lock = Path(uri.removeprefix("sqlite:///") + ".lock")
    else:
        folder = Path(tempfile.gettempdir(), f"sentiment-registry-{_user()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = folder / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    try:
        with FileLock(lock, timeout=patience), answering():
            yield
    except Timeout:
        raise RegistryError(
            f"another promotion or rollback has held the registry for {patience:.0f} s; run again later"
        ) from None
