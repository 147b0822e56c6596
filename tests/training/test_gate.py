from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files import file_digest
from registry.versions import Version
from training.gate import HELD_OUT_DIGEST, Floors, judge, read_held_out


def predictions(right: list[bool], first: int = 0) -> pd.DataFrame:
    """Held-out predictions whose answers are right or wrong as listed, nine times in ten sure."""
    y = np.arange(len(right)) % 2 == 0
    signs = np.where(np.array(right) == y, 1.0, -1.0)
    return pd.DataFrame(
        {
            "row": [f"{first + i:016x}" for i in range(len(right))],
            "sentiment": np.where(y, "positive", "negative"),
            "log_odds": signs * 2.2,
        }
    )


GOOD = [i % 10 != 0 for i in range(1000)]


def test_a_good_first_version_passes_on_floors_alone_and_says_so() -> None:
    verdict = judge(predictions(GOOD), None)
    assert verdict.passed
    assert "FLOORS ONLY, nothing to compare with: no version is in Production" in str(verdict)


def test_the_same_answers_are_not_worse() -> None:
    verdict = judge(predictions(GOOD), predictions(GOOD), 3)
    assert verdict.passed
    assert verdict.numbers["p_worse"] == 1
    assert "not significantly worse than version 3 on the same 1000 rows" in str(verdict)


def test_a_little_worse_passes_and_clearly_worse_does_not() -> None:
    a_little = [right and i not in range(1, 5) for i, right in enumerate(GOOD)]
    clearly = [right and i not in range(1, 31) for i, right in enumerate(GOOD)]
    assert judge(predictions(a_little), predictions(GOOD), 1).passed
    verdict = judge(predictions(clearly), predictions(GOOD), 1)
    assert not verdict.passed
    assert verdict.numbers["p_worse"] < 0.001
    assert [reason.split(" on ")[0] for reason in verdict.reasons] == ["significantly worse than version 1"]


def test_five_to_none_is_where_the_exact_test_turns() -> None:
    """0.5 ** 4 = 0.0625 is not significant at 95 %, 0.5 ** 5 = 0.031 is."""
    for lost, passes in ((4, True), (5, False)):
        worse = [right and i not in range(1, lost + 1) for i, right in enumerate(GOOD)]
        assert judge(predictions(worse), predictions(GOOD), 1).passed is passes


@pytest.mark.parametrize(
    ("right", "confidence", "reason"),
    [
        ([i % 4 != 0 for i in range(1000)], 2.2, "accuracy 0.7500, floor 0.8"),
        (GOOD, 9.0, "ece 0.0999, ceiling 0.05"),
        (GOOD[:100], 2.2, "100 held-out rows, at least 200"),
        ([], 2.2, "0 held-out rows, at least 200"),
    ],
)
def test_each_floor_holds(right: list[bool], confidence: float, reason: str) -> None:
    rows = predictions(right)
    rows["log_odds"] *= confidence / 2.2
    verdict = judge(rows, None, floors=Floors(ece=0.05))
    assert not verdict.passed
    assert reason in verdict.reasons[0]


def test_the_ranking_has_a_floor_too() -> None:
    rows = predictions(GOOD)
    rows.loc[~np.array(GOOD), "log_odds"] *= 100  # the mistakes are the surest answers
    verdict = judge(rows, None, floors=Floors(roc_auc=0.95, ece=1))
    assert verdict.reasons == [f"roc_auc {verdict.numbers['roc_auc']:.4f}, floor 0.95"]
    assert judge(rows, None, floors=Floors(roc_auc=0.5, ece=1)).passed


def test_only_shared_rows_are_compared() -> None:
    mine, theirs = predictions(GOOD), predictions(GOOD, first=500)
    assert judge(mine, theirs, 1).numbers["compared_rows"] == 500


def test_too_few_shared_rows_leave_the_floors_and_say_so() -> None:
    verdict = judge(predictions(GOOD), predictions(GOOD, first=950), 4)
    assert verdict.passed
    assert "FLOORS ONLY, nothing to compare with: only 50 held-out rows are shared with version 4" in str(
        verdict
    )


def test_rows_whose_label_changed_are_not_compared() -> None:
    theirs = predictions(GOOD)
    theirs.loc[:99, "sentiment"] = "other"
    assert judge(predictions(GOOD), theirs, 1).numbers["compared_rows"] == 900


def test_held_out_predictions_that_were_changed_after_training_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "predictions.parquet"
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", lambda **_: str(file))
    rows = predictions(GOOD).assign(source="imdb")
    rows.to_parquet(file, index=False)
    version = Version(1, "None", "READY", "run", "models:/m-1", {HELD_OUT_DIGEST: file_digest(file)})
    assert len(read_held_out(version, tmp_path)) == len(GOOD)
    rows.assign(log_odds=rows["log_odds"] * 2).to_parquet(file, index=False)
    with pytest.raises(ValueError, match="version 1 are not those that its tag names"):
        read_held_out(version, tmp_path)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_version_passes_against_itself_and_never_both_ways_fail(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (predictions((rng.uniform(size=400) < 0.9).tolist()) for _ in range(2))
    floors = Floors(accuracy=0, roc_auc=0, ece=1)
    assert judge(a, a, 1, floors=floors).passed
    assert judge(a, b, 1, floors=floors).passed or judge(b, a, 1, floors=floors).passed
