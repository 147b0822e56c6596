import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModelContext

from sentiment_model.contract import Answer, answer, refusal, row_error
from sentiment_model.ngrams import NgramScorer, Settings
from sentiment_model.pyfunc import SentimentModel


@pytest.fixture
def model() -> SentimentModel:
    """A model that knows one word."""
    made = SentimentModel()
    settings = Settings(1, bias=0.0, scale=1.0, saturating=0.0, growing=1 / math.log(2), intercept=0.0)
    made._scorer = NgramScorer(["fine"], np.array([1.0]), np.array([2.0]), settings)
    return made


def ask(model: SentimentModel, texts: list[object], params: dict[str, object] | None = None) -> list[Answer]:
    context = PythonModelContext(artifacts={}, model_config={})
    return model.predict(context, pd.DataFrame({"text": pd.Series(texts, dtype=object)}), params)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is null"),
        (math.nan, "is null"),
        (pd.NA, "is null"),
        ("\0\u200b\x07 \ufeff", "is blank"),
        ("None\0", "is 'None'"),
        ("", "is blank"),
        (" \n", "is blank"),
        ("None", "is 'None'"),
        (" nan ", "is 'nan'"),
        ("NULL", "is 'NULL'"),
        (5, "of type int"),
        (1.5, "of type float"),
        (True, "of type bool"),
        (["a"], "of type list"),
        ({"a": 1}, "of type dict"),
    ],
)
def test_a_bad_row_answers_in_its_place(model: SentimentModel, value: object, why: str) -> None:
    rows = ask(model, ["fine", value, "fine"])
    assert [row["sentiment"] for row in rows] == ["positive", None, "positive"]
    error = rows[1]["error"]
    assert error
    assert error.startswith("row 1: text ")
    assert why in error
    assert rows[1]["confidence"] is None


@pytest.mark.parametrize("text", ["none of it was good", "nan nan", "a null result", "0", "."])
def test_texts_that_only_look_like_missing_ones_are_scored(text: str) -> None:
    assert row_error(text, 0) is None


@given(st.floats(allow_nan=False))
def test_every_score_gives_a_valid_answer(log_odds: float) -> None:
    row = answer(log_odds)
    assert set(row) == {"sentiment", "confidence", "error"}
    assert row["confidence"]
    assert 0.5 <= row["confidence"] <= 1
    assert row["sentiment"] == ("positive" if log_odds >= 0 else "negative")
    json.dumps(row, allow_nan=False)


def test_all_rows_have_the_same_fields() -> None:
    assert set(refusal("why")) == set(answer(1.0))


@pytest.mark.parametrize("asked", [-1, 101, None])
def test_explanations_out_of_range_are_refused(model: SentimentModel, asked: int | None) -> None:
    with pytest.raises(MlflowException, match=r"send a whole number from 0 .* to 100") as refused:
        ask(model, ["fine"], {"explain": asked})
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_explanations_come_only_when_asked_for(model: SentimentModel) -> None:
    assert ask(model, ["fine"], {"explain": 0}) == ask(model, ["fine"])
    good, bad = ask(model, ["fine", None], {"explain": 100})
    assert good["explanation"] == {
        "log_odds": 2.0,
        "bias": 0.0,
        "rest": 0.0,
        "ngrams": [{"ngram": "fine", "contribution": 2.0}],
    }
    assert bad["explanation"] is None


def test_an_empty_batch_is_answered(model: SentimentModel) -> None:
    assert ask(model, []) == []
