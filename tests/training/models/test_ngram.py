from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from sentiment_model.ngrams import ngrams
from tests.conftest import SMALL
from training.errors import TrainingError
from training.models.calibration import LengthCalibration
from training.models.features import LogCountRatio
from training.models.ngram_fit import RATIO_POWER, count, fit
from training.parameters import Ngram
from training.report.metrics import scores_by_source


def from_scratch(reviews: pd.Series, y: pd.Series) -> Pipeline:
    """The recipe as a plain scikit-learn pipeline over raw reviews."""
    return make_pipeline(
        CountVectorizer(
            analyzer=partial(ngrams, ngram_max=SMALL.ngram_max), binary=True, min_df=SMALL.min_df, dtype=float
        ),
        TfidfTransformer(),
        LogCountRatio(SMALL.alpha, RATIO_POWER),
        LogisticRegression(C=SMALL.C, solver="liblinear", tol=1e-3, random_state=SMALL.seed),
    ).fit(reviews, y)


def calibration(pipeline: Pipeline, calibrated: np.ndarray, on: pd.Series, scale: float) -> np.ndarray:
    """The three coefficients of the calibration that leads from scores to ``calibrated``; exact or it fails."""
    scores, known = pipeline.decision_function(on) / scale, np.diff(pipeline[:-2].transform(on).indptr)
    features = np.column_stack([np.tanh(scores), scores * np.log1p(known), np.ones(len(scores))])
    found = np.linalg.lstsq(features, calibrated)[0]
    np.testing.assert_allclose(features @ found, calibrated, atol=1e-4)
    return found


def test_held_out_rows_are_judged_by_a_model_that_never_saw_them(reviews: pd.DataFrame, fitted) -> None:
    """Counting once over all rows must equal a pipeline that is given the training rows alone."""
    train, test = (reviews[reviews["split"] == split] for split in ("train", "test"))
    alone = from_scratch(train["review"], train["sentiment"] == "positive")
    # apart from the calibration, which is one for all scores, the two are the same
    scale = fitted.pipeline[-1].calibration.scale_
    saturating, growing, _ = calibration(alone, fitted.held_out, test["review"], scale)
    assert saturating > 0
    assert growing > 0


def test_the_labels_of_held_out_rows_do_not_matter_to_their_judgement(reviews: pd.DataFrame, fitted) -> None:
    flipped = reviews.copy()
    test = flipped["split"] == "test"
    flipped.loc[test, "sentiment"] = flipped.loc[test, "sentiment"].map(
        {"positive": "negative", "negative": "positive"}
    )
    counter, counts = count(flipped, SMALL)
    again = fit(flipped, counter, counts, SMALL)
    np.testing.assert_array_equal(again.held_out, fitted.held_out)
    np.testing.assert_array_equal(again.cross_validated, fitted.cross_validated)


def test_the_same_seed_gives_the_same_bits(reviews: pd.DataFrame, fitted) -> None:
    counter, counts = count(reviews, SMALL)
    again = fit(reviews, counter, counts, SMALL)
    np.testing.assert_array_equal(again.pipeline[-1].linear[-1].coef_, fitted.pipeline[-1].linear[-1].coef_)
    np.testing.assert_array_equal(again.held_out, fitted.held_out)


def test_a_few_reviews_are_enough_to_beat_chance_by_far(reviews: pd.DataFrame, fitted) -> None:
    judged = reviews[reviews["split"] == "test"].assign(log_odds=fitted.held_out)
    scores = scores_by_source(judged)
    assert scores["accuracy"] > 0.7
    assert scores["roc_auc"] > 0.8


def test_calibration_makes_confidence_honest(reviews: pd.DataFrame, fitted) -> None:
    train = reviews[reviews["split"] == "train"].assign(log_odds=fitted.cross_validated)
    positive = 1 / (1 + np.exp(-fitted.cross_validated))
    # the optimum of Platt's line: predicted and observed share of positives agree
    assert positive.mean() == pytest.approx((train["sentiment"] == "positive").mean(), abs=1e-3)
    assert scores_by_source(train)["ece"] < 0.06


def test_calibration_is_learnt_out_of_fold_and_applied(reviews: pd.DataFrame, fitted) -> None:
    y = reviews["sentiment"] == "positive"
    train = reviews["split"] == "train"
    # calibration learnt on scores of rows that the model has seen would leave these overconfident
    again = LogisticRegression(C=np.inf).fit(fitted.cross_validated[:, np.newaxis], y[train])
    assert again.coef_[0, 0] == pytest.approx(1, abs=0.01)
    assert again.intercept_[0] == pytest.approx(0, abs=0.01)

    everything = from_scratch(reviews["review"], y)
    scale = fitted.pipeline[-1].calibration.scale_
    answers = fitted.pipeline.decision_function(reviews["review"])
    registered = calibration(everything, answers, reviews["review"], scale)
    alone = from_scratch(reviews["review"][train], y[train])
    judged = calibration(alone, fitted.held_out, reviews["review"][~train], scale)
    np.testing.assert_allclose(registered, judged, atol=1e-3)


def test_calibration_is_honest_for_short_and_long_texts_alike() -> None:
    """Scores of long texts that say more than those of short ones: one line for all would be wrong twice."""
    random = np.random.default_rng(0)
    known = np.repeat([20, 800], 20_000)
    scores = random.normal(size=len(known))
    truth = 1 / (1 + np.exp(-scores * np.where(known == 20, 0.9, 2.1)))
    y = random.random(len(known)) < truth
    calibrated = 1 / (1 + np.exp(-LengthCalibration().fit(scores, known, y).log_odds(scores, known)))
    assert np.abs(calibrated - truth).max() < 0.03
    line = LogisticRegression(C=np.inf).fit(scores[:, np.newaxis], y).predict_proba(scores[:, np.newaxis])
    assert np.abs(line[:, 1] - truth).max() > 0.08


@pytest.mark.parametrize("seed", range(40))
def test_a_calibration_of_noise_never_falls(seed: int) -> None:
    """Scores that say nothing, or the contrary: no confidence rather than a wrong one."""
    random = np.random.default_rng(seed)
    y = random.random(100) < 0.5
    scores, known = random.normal(size=100) - 0.5 * (seed % 3) * y, random.integers(0, 300, 100)
    calibration = LengthCalibration().fit(scores, known, y)
    assert min(calibration.saturating_, calibration.growing_) >= 0


def test_equal_scores_are_calibrated() -> None:
    y = np.arange(10) < 6
    log_odds = LengthCalibration().fit(np.zeros(10), np.ones(10), y).log_odds(np.zeros(10), np.ones(10))
    np.testing.assert_allclose(expit(log_odds), 0.6, atol=1e-4)


def test_log_odds_never_fall_as_the_score_grows() -> None:
    random = np.random.default_rng(0)
    scores = np.sort(random.normal(size=60))
    for seed in range(20):
        random = np.random.default_rng(seed)
        known = random.integers(0, 50, size=60)
        y = random.random(60) < 1 / (1 + np.exp(-scores))
        fitted = LengthCalibration().fit(scores, known, y)
        for k in (0, 1, 1000):
            assert (np.diff(fitted.log_odds(scores, np.full(60, k))) >= 0).all()


def test_too_little_data_is_one_clear_message(reviews: pd.DataFrame) -> None:
    with pytest.raises(TrainingError, match=r"the train split has \d positive rows, at least 5 are needed"):
        count(reviews[reviews["split"] == "train"].head(6), SMALL)
    with pytest.raises(TrainingError, match="the test split has 0 positive rows"):
        count(reviews[reviews["split"] == "train"], SMALL)
    with pytest.raises(TrainingError, match="no n-gram stands in min_df=100000"):
        count(reviews, Ngram(ngram_max=1, min_df=100_000))


def test_max_features_bounds_the_table(reviews: pd.DataFrame) -> None:
    small = Ngram(ngram_max=2, max_features=2000)
    counter, counts = count(reviews, small)
    pipeline = fit(reviews, counter, counts, small).pipeline
    assert 1500 < pipeline[1].get_support().sum() <= 2000
