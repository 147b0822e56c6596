"""Old versions go, with what lies behind them; what serves and what a rollback needs stays."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel
from mlflow.tracking import MlflowClient

from registry import canary, prune
from registry.errors import RegistryError
from registry.prune import kept
from registry.stages import promote, rollback
from registry.store import MODEL_NAME
from registry.versions import Version, all_versions, fetch, find, in_production, register
from tests.conftest import ROOT

pytestmark = pytest.mark.medium


class Little(PythonModel):
    """A model of some bytes: what is pruned does not depend on what it says."""

    def predict(
        self, context: Any, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[str]:
        """Answer."""
        return model_input


def add(client: MlflowClient) -> Version:
    """Register a version with a run, a model and artifacts of its own."""
    with mlflow.start_run() as run:
        mlflow.log_text("held out", "held_out.csv")
        made = mlflow.pyfunc.log_model(name="model", python_model=Little(), pip_requirements=[])
    return register(client, f"models:/{made.model_id}", run.info.run_id, {}, "")


def go(client: MlflowClient, number: int) -> None:
    serving = in_production(client)
    promote(client, number, serving[0].number if serving else None, "test", force=False)


@pytest.fixture
def six(store: MlflowClient) -> MlflowClient:
    """Six versions; 3 serves, and a rollback goes back to 1."""
    for _ in range(6):
        add(store)
    for number in (1, 2):
        go(store, number)
    rollback(store, None, "test")
    go(store, 3)
    return store


def places(client: MlflowClient, number: int) -> list[Path]:
    """Where the artifacts of a version's run and model are."""
    version = find(client, number)
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    run = client.get_run(version.run_id)
    return [Path(uri.removeprefix("file://")) for uri in (model.artifact_location, run.info.artifact_uri)]


def lives(client: MlflowClient, version: Version) -> bool:
    return client.get_run(version.run_id).info.lifecycle_stage == "active"


def test_production_and_the_rollback_target_stay(six: MlflowClient, tmp_path: Path) -> None:
    before = {version.number: version for version in all_versions(six)}
    folders = {number: places(six, number) for number in before}
    assert kept(six, 1) == {1: "rollback target", 3: "Production", 6: "new"}
    gone, runs = prune.prune(six, 1)
    assert gone == [2, 4, 5]
    assert set(runs) == {before[number].run_id for number in gone}
    assert [version.number for version in all_versions(six)] == [1, 3, 6]
    for number, version in before.items():
        assert lives(six, version) == (number not in gone)
        assert all(any(folder.rglob("*")) == (number not in gone) for folder in folders[number])
        model = version.source.removeprefix("models:/")
        if number in gone:
            with pytest.raises(MlflowException, match="not found"):
                six.get_logged_model(model)
        else:
            fetch(find(six, number), tmp_path / str(number))
    assert rollback(six, 3, "test") == (3, 1)
    assert prune.prune(six, 1) == ([3], [before[3].run_id]), "it was rolled back, and nothing needs it"


def test_a_canary_stays(six: MlflowClient) -> None:
    canary.start(six, 4, 10, beside=3)
    prune.prune(six, 1)
    assert [version.number for version in all_versions(six)] == [1, 3, 4, 6]


def test_a_run_that_a_version_is_left_of_stays(six: MlflowClient) -> None:
    two = find(six, 2)
    register(six, two.source, two.run_id, {}, "")  # as version 7
    gone, runs = prune.prune(six, 1)
    assert gone == [2, 4, 5, 6]
    assert two.run_id not in runs
    assert lives(six, two)


@pytest.mark.parametrize("where", ["delete_model_version", "delete_logged_model", "delete_run"])
def test_what_was_interrupted_is_finished_by_the_next_call(
    six: MlflowClient, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {version.number: version for version in all_versions(six)}
    with monkeypatch.context() as patch:

        def killed(*arguments: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(six, where, killed)
        with pytest.raises(KeyboardInterrupt):
            prune.prune(six, 1)
    prune.prune(six, 1)
    assert [version.number for version in all_versions(six)] == [1, 3, 6]
    assert {number for number, version in before.items() if lives(six, version)} == {1, 3, 6}


def test_what_was_promoted_after_an_interrupted_call_stays_whole(
    six: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def killed(*arguments: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(six, "delete_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            prune.prune(six, 1)
    prune.prune(six, 5)
    assert [version.number for version in all_versions(six)] == [1, 2, 3, 4, 5, 6]
    for version in all_versions(six):
        assert lives(six, version)
        assert all(any(folder.rglob("*")) for folder in places(six, version.number))


def test_a_tag_of_a_user_deletes_nothing(six: MlflowClient) -> None:
    run_id = six.create_run("0").info.run_id
    for tag in ("pruned", "pruned.", f"pruned.{run_id}"):
        six.set_tag(run_id, tag, "1")
    assert prune.prune(six, 6) == ([], [])
    assert six.get_run(run_id).info.lifecycle_stage == "active"


def test_files_that_a_version_under_another_name_or_by_its_path_needs_stay(six: MlflowClient) -> None:
    two, four = places(six, 2)[0], places(six, 4)[0]
    six.create_registered_model("Other")
    six.create_model_version("Other", find(six, 2).source)
    five = find(six, 5)
    six.create_model_version(MODEL_NAME, str(four), run_id=five.run_id)
    prune.prune(six, 1)
    assert [version.number for version in all_versions(six)] == [1, 3, 7]
    assert any(two.rglob("MLmodel"))
    assert any(four.rglob("MLmodel"))
    assert lives(six, five)


def test_a_run_that_cannot_be_deleted_keeps_no_other_and_is_tried_again(
    six: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = find(six, 2).run_id
    with monkeypatch.context() as patch:
        delete = prune._delete

        def deny(client: MlflowClient, run_id: str, needed: set[str]) -> bool:
            if run_id == stuck:
                raise PermissionError("not permitted")
            return delete(client, run_id, needed)

        patch.setattr(prune, "_delete", deny)
        with pytest.raises(RegistryError, match="1 runs could not be deleted"):
            prune.prune(six, 1)
    assert prune.prune(six, 1) == ([], [stuck])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # stages are deprecated
def test_what_an_interrupted_promotion_replaced_is_what_a_rollback_goes_back_to(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        add(store)
    store.transition_model_version_stage(MODEL_NAME, "1", "Production")  # by the UI
    with monkeypatch.context() as patch:
        real = store.set_registered_model_tag

        def killed(name: str, key: str, value: str) -> None:
            if key.startswith("audit."):
                raise KeyboardInterrupt
            real(name, key, value)

        patch.setattr(store, "set_registered_model_tag", killed)
        with pytest.raises(KeyboardInterrupt):
            go(store, 2)
    prune.prune(store, 1)
    assert [version.number for version in all_versions(store)] == [1, 2, 4]


@pytest.mark.large
def test_mlflow_gc_empties_the_trash_after_it(six: MlflowClient) -> None:
    prune.prune(six, 1)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", mlflow.get_tracking_uri()], check=True
    )
    assert not six.search_runs(["0"], run_view_type=ViewType.DELETED_ONLY)
    assert [version.number for version in all_versions(six)] == [1, 3, 6]


def test_without_a_rollback_target_the_rest_goes(store: MlflowClient) -> None:
    for _ in range(3):
        add(store)
    go(store, 1)
    assert kept(store, 1) == {1: "Production", 3: "new"}


def test_a_registry_without_versions_has_nothing_to_prune(store: MlflowClient) -> None:
    assert prune.prune(store, 1) == ([], [])


@pytest.mark.large
def test_make_prune(six: MlflowClient) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = ["make", "--no-print-directory", "prune", *arguments]
        return subprocess.run(command, cwd=ROOT, text=True, capture_output=True)

    told = run()
    assert told.returncode != 0
    assert "say how many of the newest versions stay" in told.stdout
    told = run("KEEP=0")
    assert told.returncode != 0
    assert "0 is not in the range x>=1" in told.stderr
    assert len(all_versions(six)) == 6
    told = run("KEEP=2")
    assert told.returncode == 0, told.stderr
    assert (
        "stays: version 1 (rollback target)\nstays: version 3 (Production)\nstays: version 5 (new)"
        in told.stdout
    )
    assert "pruned: 2 versions, 2 runs" in told.stdout
