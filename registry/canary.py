"""The share of requests that a candidate is to get, as the registry holds it."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from registry.store import MODEL_NAME, answering

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
    was = asked(client)
    if _told(client) is not None:
        with answering():
            client.delete_registered_model_tag(MODEL_NAME, CANARY)
    return was


def asked(client: MlflowClient) -> Canary | None:
    """Return the canary that is asked for; None if there is none, or what stands there is none."""
    tag = _told(client)
    try:
        canary = Canary(**json.loads(tag or "null"))
    except (TypeError, ValueError):
        return None
    numbers = (canary.version, canary.percent, canary.beside)
    return canary if all(isinstance(n, int) for n in numbers) and 1 <= canary.percent <= 99 else None


def _told(client: MlflowClient) -> str | None:
    try:
        told = client.get_registered_model(MODEL_NAME).tags.get(CANARY)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return None if told is None else str(told)
