import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.conftest import SMALL
from training.errors import TrainingError
from training.features import LogCountRatio, ngram_counter
from training.fit import Settings, count, fit
from training.metrics import scores_by_source


def test_held_out_rows_are_judged_by_a_model_that_never_saw_them(reviews: pd.DataFrame, fitted) -> None:
    """Counting once over all rows must equal a pipeline that is given the training rows alone."""
    train, test = (reviews[reviews["split"] == split] for split in ("train", "test"))
    alone = make_pipeline(
        ngram_counter(SMALL.ngram_max, SMALL.min_df),
        TfidfTransformer(),
        LogCountRatio(),
        LogisticRegression(C=SMALL.C, solver="liblinear", random_state=SMALL.seed),
    ).fit(train["review"], train["sentiment"] == "positive")
    scores = alone.decision_function(test["review"])
    slope, intercept = np.polyfit(scores, fitted.held_out, 1)
    # calibration is one line through all scores; apart from it the two are the same
    np.testing.assert_allclose(slope * scores + intercept, fitted.held_out, atol=1e-6)
    assert slope > 0


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
    np.testing.assert_array_equal(again.pipeline[-1].coef_, fitted.pipeline[-1].coef_)
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
    # a line fitted on scores of rows that the model has seen would leave these overconfident
    again = LogisticRegression(C=np.inf).fit(fitted.cross_validated[:, np.newaxis], y[train])
    assert again.coef_[0, 0] == pytest.approx(1, abs=0.01)
    assert again.intercept_[0] == pytest.approx(0, abs=0.01)

    def line(rows: pd.Series, calibrated: np.ndarray, on: pd.Series) -> np.ndarray:
        raw = make_pipeline(
            ngram_counter(SMALL.ngram_max, SMALL.min_df),
            TfidfTransformer(),
            LogCountRatio(),
            LogisticRegression(C=SMALL.C, solver="liblinear", random_state=SMALL.seed),
        ).fit(reviews["review"][rows], y[rows])
        return np.polyfit(raw.decision_function(on), calibrated, 1)

    every = pd.Series(True, index=reviews.index)
    registered = line(every, fitted.pipeline.decision_function(reviews["review"]), reviews["review"])
    judged = line(train, fitted.held_out, reviews["review"][~train])
    np.testing.assert_allclose(registered, judged, atol=1e-6)
    assert abs(registered[0] - 1) > 0.1, "the line does change the scores"


def test_too_little_data_is_one_clear_message(reviews: pd.DataFrame) -> None:
    with pytest.raises(TrainingError, match=r"the train split has \d positive rows, at least 5 are needed"):
        count(reviews[reviews["split"] == "train"].head(6), SMALL)
    with pytest.raises(TrainingError, match="the test split has 0 positive rows"):
        count(reviews[reviews["split"] == "train"], SMALL)
    with pytest.raises(TrainingError, match="no n-gram stands in min_df=100000"):
        count(reviews, Settings(ngram_max=1, min_df=100_000))
