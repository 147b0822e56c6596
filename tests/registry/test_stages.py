import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from registry import canary, stages
from registry.errors import RegistryError, VerificationError
from registry.history import main as print_history
from registry.stages import ProductionChangedError, history, promote, rollback
from registry.store import MODEL_NAME, connect
from registry.versions import all_versions, find, in_production, register
from training.train import Candidate

pytestmark = pytest.mark.medium


@pytest.fixture
def four(store: MlflowClient, candidate: Candidate) -> MlflowClient:
    """A store with four versions, none of them in Production."""
    for _ in range(4):
        register(store, candidate.model_uri, candidate.run_id, candidate.tags, candidate.description)
    return store


def production(client: MlflowClient) -> list[int]:
    return [version.number for version in in_production(client)]


def alias(client: MlflowClient) -> int:
    return int(client.get_model_version_by_alias(MODEL_NAME, "production").version)


def intercept(
    patch: pytest.MonkeyPatch, names: Iterable[str], around: Callable[[int, Callable[[], Any]], Any]
) -> Callable[[], int]:
    """Have ``around(n, call)`` make the nth call of these methods of a client; return what tells how many there were."""
    calls = 0

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(MlflowClient, name)

        def call(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return around(calls, lambda: real(self, *args, **kwargs))

        return call

    for name in names:
        patch.setattr(MlflowClient, name, counted(name))
    return lambda: calls


def go(client: MlflowClient, number: int, force: bool = False) -> None:
    serving = production(client)
    promote(client, number, serving[0] if serving else None, "test", force)


def test_promotion_leaves_one_version_and_the_alias_follows(four: MlflowClient) -> None:
    for number in (2, 4, 1):
        go(four, number)
        assert production(four) == [number]
        assert alias(four) == number
    assert [version.stage for version in all_versions(four)] == ["Production", "Archived", "None", "Archived"]


def test_history_says_who_when_and_why(four: MlflowClient) -> None:
    go(four, 1)
    go(four, 2)
    rollback(four, None, "too slow")
    events = [(e.action, e.version, e.replaced, e.reason) for e in history(four)]
    assert events == [("promote", 1, None, "test"), ("promote", 2, 1, "test"), ("rollback", 1, 2, "too slow")]
    assert all(event.by and event.at.endswith("Z") for event in history(four))
    told = CliRunner().invoke(print_history, []).output.splitlines()[-len(events) :]
    assert [line.split()[1:4] for line in told] == [[e[0], str(e[1]), str(e[2] or "-")] for e in events]


def test_a_clock_that_is_set_back_changes_no_order(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(four, 1)
    go(four, 2)

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Yesterday":
            return super().now(tz) - timedelta(days=1)

    monkeypatch.setattr(stages, "datetime", Yesterday)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 86_400 * 10**9)
    go(four, 3)
    go(four, 4)
    assert [event.version for event in history(four)] == [1, 2, 3, 4]
    assert rollback(four, None, "bad") == (4, 3)
    assert rollback(four, None, "bad, too") == (3, 2)


def test_a_clock_that_is_set_back_makes_no_older_promotion_the_last(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(four, 1)
    real, move = time.time_ns, stages._transition
    moved: list[int] = []

    def raced(client: MlflowClient, version: int, stage: str) -> None:
        """Move a version, and the first time have the old one put back by other means."""
        move(client, version, stage)
        if not moved:
            moved.append(version)
            with pytest.warns(FutureWarning):
                client.transition_model_version_stage(MODEL_NAME, "1", "Production")

    monkeypatch.setattr(time, "time_ns", lambda: real() - 86_400 * 10**9)
    monkeypatch.setattr(stages, "_transition", raced)
    go(four, 2)
    assert moved == [2]
    assert production(four) == [2]


def test_history_outlives_a_deleted_version(four: MlflowClient) -> None:
    go(four, 1)
    go(four, 2)
    four.delete_model_version(MODEL_NAME, "1")
    assert [event.version for event in history(four)] == [1, 2]


def test_rollback_goes_back_and_marks_what_it_left(four: MlflowClient) -> None:
    for number in (1, 2, 3):
        go(four, number)
    assert rollback(four, None, "bad") == (3, 2)
    assert production(four) == [2]
    assert alias(four) == 2
    assert "rolled_back" in find(four, 3).tags
    assert rollback(four, None, "bad") == (2, 1)
    with pytest.raises(RegistryError, match="no earlier Production version to go back to from version 1"):
        rollback(four, None, "bad")
    assert production(four) == [1]


def test_rollback_with_from_can_be_repeated(four: MlflowClient) -> None:
    for number in (1, 2, 3):
        go(four, number)
    assert rollback(four, 3, "bad") == (3, 2)
    for _ in range(3):
        assert rollback(four, 3, "bad") is None
    assert production(four) == [2]


def test_a_version_promoted_by_other_means_is_a_rollback_target(four: MlflowClient) -> None:
    with pytest.warns(FutureWarning):
        four.transition_model_version_stage(MODEL_NAME, "1", "Production")
    go(four, 2)
    assert rollback(four, None, "bad") == (2, 1)


def test_rollback_skips_deleted_versions(four: MlflowClient) -> None:
    for number in (1, 2, 3):
        go(four, number)
    four.delete_model_version(MODEL_NAME, "2")
    assert rollback(four, None, "bad") == (3, 1)


def test_rollback_to_changed_files_changes_nothing(four: MlflowClient) -> None:
    go(four, 1)
    go(four, 2)
    entry = Path(four.get_model_version_download_uri(MODEL_NAME, "1")) / "entry.py"
    entry.write_text(entry.read_text() + "\n")
    with pytest.raises(VerificationError):
        rollback(four, None, "bad")
    assert production(four) == [2]
    assert "rolled_back" not in find(four, 2).tags


def test_a_rolled_back_version_needs_force(four: MlflowClient) -> None:
    go(four, 1)
    go(four, 2)
    rollback(four, None, "bad")
    with pytest.raises(RegistryError, match=r"version 2 was rolled back at .*; FORCE=1"):
        go(four, 2)
    assert production(four) == [1]
    go(four, 2, force=True)
    assert production(four) == [2]
    assert "rolled_back" not in find(four, 2).tags


def test_unknown_and_deleted_versions_are_refused(four: MlflowClient) -> None:
    go(four, 1)
    four.delete_model_version(MODEL_NAME, "3")
    for number in (3, 9):
        with pytest.raises(RegistryError, match=f"has no version '{number}'"):
            go(four, number)
    assert production(four) == [1]


def test_a_decision_on_another_champion_is_refused(four: MlflowClient) -> None:
    go(four, 1)
    with pytest.raises(ProductionChangedError, match="version 1 is in Production now, not none"):
        promote(four, 2, None, "test", False)
    assert production(four) == [1]


@pytest.mark.parametrize("left", ["two in production", "alias behind", "no alias"])
def test_the_same_command_mends_what_was_left_half_done(four: MlflowClient, left: str) -> None:
    go(four, 1)
    go(four, 2)
    if left == "two in production":
        with pytest.warns(FutureWarning):
            four.transition_model_version_stage(MODEL_NAME, "1", "Production")
    elif left == "alias behind":
        four.set_registered_model_alias(MODEL_NAME, "production", "1")
    else:
        four.delete_registered_model_alias(MODEL_NAME, "production")
    promote(four, 2, 2, "again", False)
    assert production(four) == [2]
    assert alias(four) == 2
    assert [event.version for event in history(four)] == [1, 2]


def interrupt_rollback(four: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break a rollback of version 2 off before anything moves."""
    go(four, 1)
    go(four, 2)
    with monkeypatch.context() as broken:
        broken.setattr(
            "registry.stages._make_production", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            rollback(four, 2, "bad")


def test_an_interrupted_rollback_is_finished_by_the_same_command(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_rollback(four, monkeypatch)
    assert production(four) == [2]
    assert rollback(four, 2, "bad") == (2, 1)
    assert production(four) == [1]


def test_an_interrupted_rollback_that_is_withdrawn_leaves_no_mark(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_rollback(four, monkeypatch)
    assert "rolled_back" in find(four, 2).tags
    go(four, 3)
    assert "rolled_back" not in find(four, 2).tags
    assert rollback(four, None, "bad") == (3, 2)


# what is left after a call is what is left before the next: the one in `make test`, the other in `make test-all`
@pytest.mark.parametrize(
    "before", [True, pytest.param(False, marks=pytest.mark.large)], ids=["before", "after"]
)
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_whichever_call_of_the_registry_fails_the_same_command_finishes(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch, action: str, before: bool
) -> None:
    """Fail the Nth call for N = 1, 2, 3 … until none fails; repeat after each failure."""
    go(four, 1)
    calls_that_write = [
        "transition_model_version_stage",
        "set_model_version_tag",
        "set_registered_model_alias",
        "set_registered_model_tag",
        "delete_model_version_tag",
        "delete_registered_model_tag",
    ]

    def stopped(nth: int, n: int, call: Callable[[], Any]) -> Any:
        if n == nth and before:
            raise KeyboardInterrupt
        result = call()
        if n == nth:
            raise KeyboardInterrupt
        return result

    def run() -> None:
        if action == "promote":
            serving = production(four)
            promote(four, 2, serving[0] if serving else None, "test", False)
        else:
            rollback(four, None, "test")

    for nth in range(1, 40):
        if action == "promote":
            promote(four, 1, production(four)[0], "start", True)
        else:
            promote(four, 2, production(four)[0], "start", True)
        events = len(history(four))
        with monkeypatch.context() as broken:
            intercept(broken, calls_that_write, partial(stopped, nth))
            try:
                run()
                interrupted = False
            except KeyboardInterrupt:
                interrupted = True
        assert len(production(four)) == 1, nth
        done = not interrupted or "pending" not in four.get_registered_model(MODEL_NAME).tags
        if action == "promote" or not (done and production(four) == [1]):
            run()  # a second rollback of a finished one would be another
        end = 2 if action == "promote" else 1
        assert production(four) == [end], nth
        assert alias(four) == end
        assert [(e.action, e.version) for e in history(four)[events:]] == [(action, end)], nth
        assert bool(find(four, 2).tags.get("rolled_back")) == (action == "rollback")
        if not interrupted:
            break
    assert 5 < nth < 39, "every call had its turn"


def promote_in_a_race(number: int) -> None:
    """Promote a version until no other process has promoted one meanwhile."""
    client = connect()
    for _ in range(50):
        serving = in_production(client)
        with suppress(ProductionChangedError):
            return promote(client, number, serving[0].number if serving else None, "race", False)
    raise AssertionError("it never had its turn")


def test_eight_promotions_at_once_leave_one_version(four: MlflowClient) -> None:
    processes = get_context("forkserver")  # MLflow is imported once for all of them
    processes.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(8, processes) as racing:
        list(racing.map(promote_in_a_race, [1, 2, 3, 4] * 2, timeout=240))
    assert len(production(four)) == 1
    assert alias(four) == production(four)[0]
    assert history(four)[-1].version == production(four)[0]


@pytest.mark.parametrize("deleted", ["the one that is promoted", "the one that it replaces"])
@pytest.mark.parametrize("action", ["promote", "rollback"])
@pytest.mark.large
def test_a_deletion_in_the_midst_of_it_leaves_one_version(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch, action: str, deleted: str
) -> None:
    """Delete a version, as the UI does, before the Nth call, for N = 1, 2, 3 …, until all calls are over."""
    template, delete = four.get_model_version(MODEL_NAME, "4"), four.delete_model_version
    methods = [name for name in dir(MlflowClient) if "model_version" in name or "registered_model" in name]

    def deleted_before(nth: int, going: int, n: int, call: Callable[[], Any]) -> Any:
        if n == nth:
            delete(MODEL_NAME, str(going))
        return call()

    go(four, 3)
    last = 0
    for nth in range(1, 60, 3):
        old, new = (
            int(
                four.create_model_version(
                    MODEL_NAME, str(template.source), template.run_id, template.tags
                ).version
            )
            for _ in range(2)
        )
        if action == "rollback":
            go(four, new)
        go(four, old, force=True)
        going = new if deleted == "the one that is promoted" else old
        with monkeypatch.context() as counting:
            calls = intercept(counting, methods, partial(deleted_before, nth, going))
            try:
                promote(four, new, old, "test", True) if action == "promote" else rollback(four, old, "test")
                said = ""
            except RegistryError as error:
                said = error.message
        left = {version.number for version in all_versions(four)}
        if calls() < nth:
            assert going in left
            break
        assert going not in left
        if not said:  # it was over, or took no notice
            assert four.get_registered_model(MODEL_NAME).tags.keys().isdisjoint({"pending"})
            if action == "rollback" and going == new and nth < 4:
                assert len(production(four)) == 1, "it goes back to another"
                continue
            last = last or nth
            assert production(four) == ([new] if going == old else [])
        elif going == new:
            assert not last
            assert production(four) == [old]
        else:
            assert nth < 4, "there was nothing to replace any more"
            assert production(four) == []
            go(four, new)
    assert 10 < nth < 59
    assert (last > 10) == (deleted == "the one that is promoted")


@pytest.mark.parametrize("tag", ["pending", "audit.2026", "promoted_at_ns"])
@pytest.mark.parametrize("written", ["x", "{}", "null", '{"at": 1}', '["a"]'])
@pytest.mark.large
def test_what_somebody_else_wrote_into_a_tag_stops_nothing(
    four: MlflowClient, tag: str, written: str
) -> None:
    go(four, 1)
    if tag == "promoted_at_ns":
        four.set_model_version_tag(MODEL_NAME, "1", tag, written)
    else:
        four.set_registered_model_tag(MODEL_NAME, tag, written)
    go(four, 2)
    go(four, 3)
    assert rollback(four, None, "bad") == (3, 2)
    assert production(four) == [2]
    assert [event.version for event in history(four)] == [1, 2, 3, 2]


def test_an_interrupted_promotion_whose_version_is_deleted_gives_back_what_it_replaced(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(four, 1)
    with monkeypatch.context() as broken:
        broken.setattr("registry.canary.stop", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            go(four, 2)
    four.delete_model_version(MODEL_NAME, "2")
    assert production(four) == []
    with pytest.raises(RegistryError, match="no earlier Production version"):
        rollback(four, None, "bad")
    assert production(four) == [1]


def test_a_promotion_whose_announcement_is_taken_away_does_not_call_itself_done(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(four, 1)
    finish = stages.finish_pending

    def taken_away(client: MlflowClient, move: bool = False) -> stages.Event | None:
        if move:
            client.delete_registered_model_tag(MODEL_NAME, "pending")
        return finish(client, move)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "finish_pending", taken_away)
        with pytest.raises(RegistryError, match="changed by other means"):
            go(four, 2)
    assert production(four) == [1]


def test_a_model_that_is_deleted_in_the_midst_is_one_line(
    four: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(four, 1)
    monkeypatch.setattr(stages, "_mark", lambda client, _: client.delete_registered_model(MODEL_NAME))
    with pytest.raises(RegistryError, match="deleted meanwhile"):
        go(four, 2)
    assert canary.stop(four) is None
