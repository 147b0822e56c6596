"""The Nth call of store, registry or artifacts fails, once or for good: nothing is half there, and a repeat finishes.

``EVERY=1`` in the environment lets each call of a whole training have its turn; on each run of the tests one in 40 has.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking
from mlflow.tracking import MlflowClient

from registry.digests import digests
from registry.store import MODEL_NAME
from registry.versions import all_versions, in_production
from training.main import main
from training.train import Candidate, register_candidate

EVERY = int(os.environ.get("EVERY") or 40)
ARTIFACTS = {"log_artifact", "log_artifacts", "list_artifacts", "download_artifacts"}


class Faults:
    """Counts the calls, and fails the Nth: once, or with all that come after."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.nth, self.for_good, self.depth = 0, 0, False, 0
        self.named: Counter[str] = Counter()
        for kind in (Registry, Tracking, LocalArtifactRepository):
            for name in dir(kind):
                method = getattr(kind, name)
                wanted = name in ARTIFACTS if kind is LocalArtifactRepository else not name.startswith("_")
                if wanted and callable(method) and not isinstance(method, type):
                    patch.setattr(kind, name, self.around(name, method))

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.depth == 0:  # what a call calls in turn is part of it
                self.calls += 1
                self.named[name] += 1
                if self.nth and (self.calls == self.nth or (self.for_good and self.calls > self.nth)):
                    raise MlflowException(f"call {self.calls} was made to fail")
            self.depth += 1
            try:
                return real(*args, **kwargs)
            finally:
                self.depth -= 1

        return call

    def run(self, command: Callable[[], Any], nth: int, for_good: bool) -> bool:
        """Run a command with the Nth call failing; return whether it succeeded all the same."""
        self.calls, self.nth, self.for_good = 0, nth, for_good
        try:
            command()
        except (MlflowException, click.ClickException):
            return False
        else:
            return True
        finally:
            self.nth = 0
            while mlflow.active_run():
                mlflow.end_run("FAILED")


@pytest.fixture
def faults(store: MlflowClient) -> Iterator[Faults]:
    """The store's calls, each of which can be made to fail."""
    with pytest.MonkeyPatch.context() as patch:
        yield Faults(patch)


def check_whole(client: MlflowClient) -> int:
    """Every version is whole and at most one in Production; return how many there are."""
    found = all_versions(client)
    for version in found:
        assert version.status == "READY"
        folder = Path(client.get_model_version_download_uri(MODEL_NAME, str(version.number)))
        assert version.tags.items() >= digests(folder).items()
        assert "accuracy" in version.tags
        assert client.get_model_version(MODEL_NAME, str(version.number)).description
    assert len(in_production(client)) <= 1
    return len(found)


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.large
def test_whichever_call_of_registering_fails(
    faults: Faults, store: MlflowClient, candidate: Candidate, for_good: bool
) -> None:
    def command() -> None:
        with mlflow.start_run(run_id=candidate.run_id):
            register_candidate(candidate)

    for nth in range(1, 100):
        before = check_whole(store)
        succeeded = faults.run(command, nth, for_good)
        calls = faults.calls
        assert check_whole(store) - before in ((1,) if succeeded else (0, 1))
        before = check_whole(store)
        command()
        assert check_whole(store) == before + 1
        if calls < nth:
            assert succeeded
            break
    assert nth > 8, "every call had its turn"
    assert faults.named["create_model_version"] > 8


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.large
def test_whichever_call_of_a_training_fails(
    faults: Faults, store: MlflowClient, reviews: pd.DataFrame, for_good: bool
) -> None:
    reviews.head(500).to_csv("some.csv", index=False)

    def command() -> None:
        main(
            ["--source", "some.csv", "--out", "data.csv", "--ngram-max", "1", "--promote", "always"],
            standalone_mode=False,
        )

    command()
    assert [version.number for version in in_production(store)] == [1]
    calls = faults.calls
    assert calls > 50
    survived = 0
    for nth in [*range(1, calls + 1, EVERY), calls]:
        before, serving = check_whole(store), in_production(store)[0].number
        survived += faults.run(command, nth, for_good)
        assert check_whole(store) - before in (0, 1)
        (now,) = in_production(store)
        assert now.number in (serving, before + 1)
    assert survived < calls / EVERY
    before = check_whole(store)
    command()
    assert check_whole(store) == before + 1
    assert [version.number for version in in_production(store)] == [before + 1]
