"""Two models as one: what the combination gains, and where the n-grams decide alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sentiment_model.ngrams import NgramScorer
from training.artifact import write_settings
from training.report.metrics import accuracy_and_log_loss

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (make env-onnx)")
from sentiment_model.stack import Settings, StackScorer, combine, features


@pytest.fixture
def judged() -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of two models that are right about different rows, of texts of all lengths, and the truth."""
    random = np.random.default_rng(0)
    y = random.random(4000) < 0.5
    signs = np.where(y, 1.0, -1.0)
    ngrams = 2 * signs + 2 * random.standard_normal(len(y))
    network = 2 * signs + 2 * random.standard_normal(len(y))
    return features(ngrams, network, random.integers(5, 500, len(y))), y


@pytest.mark.deep
def test_the_combination_is_better_than_either(judged: tuple[np.ndarray, np.ndarray]) -> None:
    from training.models.stack import fit

    both, y = judged
    combined, _ = accuracy_and_log_loss(y, combine(both, fit(both, y, cascade=False)))
    for alone in (both[:, 0], both[:, 2]):
        assert combined > accuracy_and_log_loss(y, alone)[0] + 0.03


@pytest.mark.deep
def test_the_cascade_costs_next_to_nothing_where_it_was_learnt(judged: tuple[np.ndarray, np.ndarray]) -> None:
    from training.models.stack import ACCURACY, LOG_LOSS, fit

    both, y = judged
    always, cascade = (fit(both, y, cascade=asked) for asked in (False, True))
    assert always.sure is None
    assert cascade.sure is not None
    assert cascade == replace(always, sure=cascade.sure)
    accuracy, log_loss = accuracy_and_log_loss(y, combine(both, always))
    right, loss = accuracy_and_log_loss(y, combine(both, cascade))
    assert right >= accuracy - ACCURACY
    assert loss <= log_loss * LOG_LOSS
    sooner = replace(cascade, sure=0.5 * cascade.sure)
    right, loss = accuracy_and_log_loss(y, combine(both, sooner))
    assert right < accuracy - ACCURACY or loss > log_loss * LOG_LOSS, "it is the least that is good enough"


class Counting:
    """Stands in for the transformer: counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def calibrated(self, texts) -> tuple[np.ndarray, np.ndarray]:
        self.asked = list(texts)
        return np.full(len(self.asked), 5.0), np.full(len(self.asked), 10.0)


def test_the_transformer_is_asked_only_where_the_n_grams_are_unsure() -> None:
    from sentiment_model import ngrams

    words = ["fine", "so", "dull"]
    linear = ngrams.Settings(1, bias=0.0, scale=1.0, saturating=0.0, growing=1 / np.log(2), intercept=0.0)
    table = NgramScorer(sorted(words), np.ones(3), np.array([-4.0, 4.0, 0.5]), linear)
    settings = Settings(1.0, 0.0, 1.0, 0.0, intercept=0.0, sure=2.0)
    network = Counting()
    odds = StackScorer(table, network, settings).log_odds(["fine", "so", "dull", "so"])  # type: ignore[arg-type]  # a stand-in
    assert network.asked == ["so", "so"]
    np.testing.assert_allclose(odds, [4.0, 5.5, -4.0, 5.5])
    always = StackScorer(table, network, replace(settings, sure=None))  # type: ignore[arg-type]  # a stand-in
    np.testing.assert_allclose(always.log_odds(["fine", "so"]), [9.0, 5.5])
    assert network.asked == ["fine", "so"]


def test_settings_are_json_that_others_read_too(tmp_path: Path) -> None:
    write_settings(tmp_path, "stack", {"sure": None})
    text = (tmp_path / "settings.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"scorer": "stack", "sure": None}
