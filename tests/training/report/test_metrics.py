import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from training.report.metrics import expected_calibration_error, scores, scores_by_source


def test_ece_of_perfectly_calibrated_answers_is_small() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    assert expected_calibration_error(rng.uniform(size=p.size) < p, p) < 0.005


def test_ece_of_overconfident_answers_is_their_overconfidence() -> None:
    rng = np.random.default_rng(0)
    p = np.where(rng.uniform(size=100_000) < 0.5, 0.95, 0.05)
    y = rng.uniform(size=p.size) < np.where(p > 0.5, 0.75, 0.25)
    assert expected_calibration_error(y, p) == pytest.approx(0.20, abs=0.01)


def test_scores_of_a_known_case() -> None:
    found = scores(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.6, 0.1]))
    assert found["accuracy"] == 0.5
    assert found["precision"] == 0.5
    assert found["recall"] == 0.5
    assert found["roc_auc"] == 0.75
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)


def test_roc_auc_is_left_out_of_one_class() -> None:
    assert "roc_auc" not in scores(np.array([True]), np.array([0.9]))


def test_each_larger_source_has_its_own_scores() -> None:
    rows = pd.DataFrame(
        {
            "sentiment": ["positive", "negative"] * 60,
            "source": ["long"] * 60 + ["short"] * 50 + ["tiny"] * 10,
            "log_odds": logit([0.9, 0.2] * 30 + [0.2, 0.9] * 30),
        }
    )
    found = scores_by_source(rows)
    assert found["accuracy"] == 0.5
    assert found["long/accuracy"] == 1
    assert found["short/accuracy"] == 0
    assert "tiny/accuracy" not in found
