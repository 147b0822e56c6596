"""Promotion and rollback. Every call of MLflow's stages, which are deprecated, stands in this file.

The stage is the truth and the alias ``production`` follows it. MLflow changes stages without a
compare-and-set: two transitions at once can leave two versions in Production. So writers on one
machine take turns by a lock, and every writer reads again and repairs until one is left: of several,
the one promoted last, told by the stamp that its tag carries.
"""

import getpass
import hashlib
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry.errors import RegistryError
from registry.store import MODEL_NAME
from registry.versions import PRODUCTION, Version, all_versions, fetch, find, in_production

ALIAS = "production"
ROLLED_BACK = "rolled_back"
_STAMP = "promoted_at_ns"
_AUDIT = "audit."
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
    with _turn(client):
        candidate = find(client, version)
        serving = [v.number for v in in_production(client)]
        refuse_rolled_back(candidate, force)
        current = serving[0] if serving else None
        if current not in (replacing, version):
            raise ProductionChangedError(
                f"version {current or 'none'} is in Production now, not {replacing or 'none'}; run again"
            )
        if candidate.tags.get(ROLLED_BACK):
            client.delete_model_version_tag(MODEL_NAME, str(version), ROLLED_BACK)
        _make_production(client, version)
        if current != version or _last(client) != version:
            _record(client, "promote", version, None if current == version else current, reason)


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
    with _turn(client):
        current = find(client, PRODUCTION)
        if leaving is not None and current.number != leaving:
            left = find(client, leaving)
            _make_production(client, current.number)
            if left.tags.get(ROLLED_BACK) and _last(client) == leaving:
                # an earlier call was interrupted before it could say so
                _record(client, "rollback", current.number, leaving, reason)
            return None
        target = _previous(client, current)
        with tempfile.TemporaryDirectory() as folder:
            fetch(target, Path(folder))
        # marked first: killed between the two, the same command finishes the job
        client.set_model_version_tag(MODEL_NAME, str(current.number), ROLLED_BACK, _now())
        _make_production(client, target.number)
        _record(client, "rollback", target.number, current.number, reason)
        return current.number, target.number


def history(client: MlflowClient) -> list[Event]:
    """Return every promotion and rollback, oldest first."""
    try:
        tags = client.get_registered_model(MODEL_NAME).tags
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    return [Event(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(_AUDIT)]


def _last(client: MlflowClient) -> int | None:
    """Return the version that the audit trail has in Production."""
    events = history(client)
    return events[-1].version if events else None


def _previous(client: MlflowClient, current: Version) -> Version:
    known = {version.number: version for version in all_versions(client)}
    for event in reversed(history(client)):
        version = known.get(event.version)
        if version and version.number != current.number and not version.tags.get(ROLLED_BACK):
            return version
    raise RegistryError(
        f"there is no earlier Production version to go back to from version {current.number} "
        "that exists and was not rolled back; 'make history' shows them, "
        "'make promote VERSION=n' promotes another one"
    )


def _make_production(client: MlflowClient, version: int) -> None:
    """Move ``version`` to Production and repair until it, or a later promotion, stands there alone."""
    client.set_model_version_tag(MODEL_NAME, str(version), _STAMP, str(time.time_ns()))
    _transition(client, version, PRODUCTION)
    for _ in range(_ROUNDS):
        serving = sorted(in_production(client), key=lambda v: int(v.tags.get(_STAMP, 0)))
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


def _record(client: MlflowClient, action: str, version: int, replaced: int | None, reason: str) -> None:
    event = Event(_now(), action, version, replaced, getpass.getuser(), reason)
    client.set_registered_model_tag(MODEL_NAME, f"{_AUDIT}{event.at}.v{version}", json.dumps(asdict(event)))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def _turn(client: MlflowClient, patience: float = 120.0) -> Iterator[None]:
    """Hold the lock that writers to the same store on this machine share."""
    uri = mlflow.get_registry_uri()
    store = hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"sentiment-registry-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        with FileLock(folder / f"{store}.lock", timeout=patience):
            yield
    except Timeout:
        raise RegistryError(
            f"another promotion or rollback has held the registry for {patience:.0f} s; run again later"
        ) from None
