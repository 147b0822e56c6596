import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from sentiment_model.ngrams import NgramScorer, ngrams
from training.export import write_scorer


@pytest.fixture(scope="module")
def scorer(fitted, tmp_path_factory: pytest.TempPathFactory) -> NgramScorer:
    return write_scorer(fitted.pipeline, tmp_path_factory.mktemp("scorer"), pd.Series(["fine"]))


NASTY = [
    "",
    " ",
    "zxqvjk",
    "a",
    "good " * 5_000,
    "\ud800",
    "\x00",
    "😀" * 100,
    "<br />" * 10,
    "não é bom",
    "İ",
]


@pytest.mark.parametrize("text", NASTY)
def test_nasty_texts_score_as_the_pipeline_does(text: str, scorer: NgramScorer, fitted) -> None:
    assert expit(scorer.log_odds([text])[0]) == pytest.approx(
        fitted.pipeline.predict_proba([text])[0, 1], abs=1e-6
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["good", "bad", "not", "very", "film", "the", ".", "!", "<br/>", "café", "😀", "qzx"])
        | st.text(max_size=20)
    )
)
def test_every_text_scores_as_the_pipeline_does(scorer: NgramScorer, fitted, words: list[str]) -> None:
    text = " ".join(words)
    assert expit(scorer.log_odds([text])[0]) == pytest.approx(
        fitted.pipeline.predict_proba([text])[0, 1], abs=1e-6
    )


def test_real_reviews_score_as_the_pipeline_does(scorer: NgramScorer, fitted, reviews: pd.DataFrame) -> None:
    theirs = fitted.pipeline.predict_proba(reviews["review"])[:, 1]
    np.testing.assert_allclose(expit(scorer.log_odds(reviews["review"])), theirs, atol=1e-6, rtol=0)


def test_a_text_scores_the_same_alone_and_in_any_batch(scorer: NgramScorer, reviews: pd.DataFrame) -> None:
    texts = reviews["review"].head(50).tolist()
    alone = [scorer.log_odds([text])[0] for text in texts]
    assert scorer.log_odds(texts).tolist() == alone
    assert scorer.log_odds(texts[::-1]).tolist() == alone[::-1]


def test_a_text_without_a_known_ngram_gets_the_intercept(scorer: NgramScorer, fitted) -> None:
    intercept = fitted.pipeline[-1].intercept_[0]
    assert scorer.log_odds(["", "zxqvjk"]).tolist() == [intercept, intercept]
    assert math.isfinite(intercept)


def test_ngrams_do_not_leave_the_text() -> None:
    assert ngrams("a b c", 4) == ["a", "b", "c", "a b", "b c", "a b c"]


def test_the_table_is_plain_data(fitted, tmp_path: Path) -> None:
    write_scorer(fitted.pipeline, tmp_path, pd.Series(["fine"]))
    table = pd.read_parquet(tmp_path / "ngrams.parquet")
    assert list(table.columns) == ["ngram", "idf", "weight"]
    assert table["ngram"].is_monotonic_increasing
    assert len(table) == len(fitted.pipeline[0].vocabulary_)
