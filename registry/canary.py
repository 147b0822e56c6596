"""The share of requests that a candidate is to get, as the registry holds it."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow.tracking import MlflowClient

from registry.store import MODEL_NAME, answering
from registry.versions import tags

CANARY = "canary"
STOPPED = "canary_stopped"


@dataclass(frozen=True)
class Canary:
    """A candidate and its share of the requests in percent, beside one version in Production."""

    version: int
    percent: int
    beside: int
    at: str


def start(client: MlflowClient, version: int, percent: int, beside: int) -> None:
    """Ask for a canary; it replaces one that is there."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with answering():
        client.set_registered_model_tag(
            MODEL_NAME, CANARY, json.dumps(asdict(Canary(version, percent, beside, at)))
        )


def stop(client: MlflowClient) -> Canary | None:
    """Take the canary back, and return what it was; None if there was none."""
    told = tags(client).get(CANARY)
    if told is not None:
        with answering():
            client.delete_registered_model_tag(MODEL_NAME, CANARY)
    return _read(told)


def asked(client: MlflowClient) -> Canary | None:
    """Return the canary that is asked for; None if there is none, or what stands there is none."""
    return _read(tags(client).get(CANARY))


def _read(told: str | None) -> Canary | None:
    try:
        canary = Canary(**json.loads(told or "null"))
    except (TypeError, ValueError):
        return None
    numbers = (canary.version, canary.percent, canary.beside)
    return canary if all(isinstance(n, int) for n in numbers) and 1 <= canary.percent <= 99 else None
