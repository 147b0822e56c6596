"""What serves and scores does not notice which kind of model a version is."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from registry.stages import rollback
from registry.versions import fetch, find, register
from tests.conftest import SUMMARY
from tests.inference.conftest import Registry, Service, load
from tests.inference.test_score import as_json, scored, write_json
from training.settings import Settings
from training.train import train

pytestmark = [pytest.mark.real_models, pytest.mark.large]

STACK = pytest.param("stack", marks=pytest.mark.deep)
OWN = "tests.pipelines:tfidf"


@pytest.fixture
def other(request: pytest.FixtureRequest, versions: Registry, reviews: pd.DataFrame, tmp_path: Path) -> int:
    """A version of another kind than n-grams, registered."""
    quick: dict[str, Any] = {"ngram_max": 2, "checkpoints": str(tmp_path / "checkpoints")}
    if request.param == "stack":
        weights = str(request.getfixturevalue("tiny"))
        quick |= {
            "weights": weights,
            "max_tokens": 48,
            "epochs": 1,
            "learning_rate": 1e-3,
            "precision": "int8",
        }
    with mlflow.start_run():
        made = train(reviews, SUMMARY, Settings(model=request.param, **quick))
    return register(versions.client, made.model_uri, made.run_id, made.tags, made.description).number


@pytest.mark.haproxy
@pytest.mark.parametrize("other", ["hashing", OWN, STACK], indirect=True)
def test_promotion_and_rollback_across_kinds_lose_nothing(
    other: int, service: Service, versions: Registry
) -> None:
    ngrams = versions.add()
    versions.promote(ngrams)
    service.start()
    service.serves(ngrams)
    with load(service.port) as clients:
        versions.promote(other)
        service.serves(other, 120)
        answer = service.ask()
        assert answer.headers["X-Model-Version"] == str(other)
        (row,) = answer.json()["predictions"]
        assert row["error"] is None
        assert row["sentiment"] in ("positive", "negative")
        assert rollback(versions.client, other, "test") == (other, ngrams)
        service.serves(ngrams)
        assert service.ask().headers["X-Model-Version"] == str(ngrams)
    clients.check()
    assert set(clients.versions()) == {str(other), str(ngrams)}


@pytest.mark.parametrize(
    ("other", "engine"),
    [
        ("hashing", "local"),
        pytest.param("stack", "spark", marks=[pytest.mark.deep, pytest.mark.spark]),
    ],
    indirect=["other"],
)
def test_files_are_scored_as_the_model_answers(
    other: int, engine: str, versions: Registry, reviews: pd.DataFrame, one_session: None, tmp_path: Path
) -> None:
    (tmp_path / "version").mkdir()
    copy = fetch(find(versions.client, str(other)), tmp_path / "version")
    texts = [*reviews["review"].head(150), None, " ", "nan", "bad " * 70_000]
    given = write_json(tmp_path / "in.jsonl", [{"id": at, "text": text} for at, text in enumerate(texts)])
    counts = scored(copy, given, tmp_path / "out.jsonl", engine)
    assert (counts.rows, counts.refused) == (154, 3)
    found = sorted(as_json(tmp_path / "out.jsonl"), key=lambda row: row["id"])
    asked = pd.DataFrame({"text": pd.Series(texts, dtype=object)})
    for row, answer in zip(found, mlflow.pyfunc.load_model(str(copy)).predict(asked), strict=True):
        error = answer["error"] and answer["error"].partition(": ")[2]  # in a file the row is where it stands
        assert (row["sentiment"], row["error"]) == (answer["sentiment"], error)
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-9)
