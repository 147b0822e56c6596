"""The share that a candidate is to get, as the registry holds it."""

import pytest
from mlflow.tracking import MlflowClient

from registry import canary
from registry.stages import promote, rollback
from registry.store import MODEL_NAME
from registry.versions import in_production, register
from training.train import Candidate


@pytest.fixture
def three(store: MlflowClient, candidate: Candidate) -> MlflowClient:
    """A store with three versions, the first in Production."""
    for _ in range(3):
        register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    promote(store, 1, None, "test", False)
    return store


def test_it_is_asked_for_replaced_and_taken_back(three: MlflowClient) -> None:
    assert canary.asked(three) is None
    assert canary.stop(three) is None
    canary.start(three, 2, 10, beside=1)
    first = canary.asked(three)
    assert first is not None
    assert (first.version, first.percent, first.beside) == (2, 10, 1)
    canary.start(three, 3, 50, beside=1)
    second = canary.asked(three)
    assert second is not None
    assert (second.version, second.percent) == (3, 50)
    assert second.at > first.at
    assert canary.stop(three) == second
    assert canary.asked(three) is None


@pytest.mark.parametrize("change", ["promoted itself", "another promoted", "rolled back"])
def test_a_change_of_production_ends_it(three: MlflowClient, change: str) -> None:
    if change == "rolled back":
        promote(three, 2, 1, "test", False)
        canary.start(three, 3, 10, beside=2)
        rollback(three, None, "test")
    else:
        canary.start(three, 2, 10, beside=1)
        promote(three, 2 if change == "promoted itself" else 3, 1, "test", False)
    assert canary.asked(three) is None
    assert len(in_production(three)) == 1


@pytest.mark.parametrize(
    "tag",
    ["", "3", "{}", "not json", '{"version": 2, "percent": 0, "beside": 1, "at": ""}', '{"version": 2, "percent": "all", "beside": 1, "at": ""}'],
)  # fmt: skip
def test_what_is_no_canary_is_none(three: MlflowClient, tag: str) -> None:
    three.set_registered_model_tag(MODEL_NAME, canary.CANARY, tag)
    assert canary.asked(three) is None
    canary.stop(three)
    assert canary.CANARY not in three.get_registered_model(MODEL_NAME).tags


def test_a_store_without_the_model_has_none(store: MlflowClient) -> None:
    assert canary.asked(store) is None
