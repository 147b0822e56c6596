"""What serves and scores does not notice which kind of model a version is."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from registry.stages import rollback
from registry.versions import fetch, find, register
from tests.conftest import SUMMARY
from tests.inference.batch.test_score import as_json, scored, write_json
from tests.inference.conftest import Registry, Service, load
from training.parameters import choose
from training.train import train

pytestmark = [pytest.mark.real_models, pytest.mark.large]

OWN = "tests.pipelines:tfidf"


def add(
    model: str, versions: Registry, reviews: pd.DataFrame, request: pytest.FixtureRequest, tmp_path: Path
) -> int:
    """Train and register a version of a kind."""
    quick: dict[str, Any] = {} if model == OWN else {"ngram_max": 2}
    if model == "stack":
        weights = str(request.getfixturevalue("tiny"))
        quick |= {
            "weights": weights,
            "max_tokens": 48,
            "epochs": 1,
            "learning_rate": 1e-3,
            "precision": "int8",
            "checkpoints": str(tmp_path / "checkpoints"),
        }
    with mlflow.start_run():
        made = train(reviews, SUMMARY, choose(model, quick))
    return register(versions.client, made.model_uri, made.run_id, made.tags, made.description).number


@pytest.mark.haproxy
@pytest.mark.parametrize("others", [("hashing", OWN), pytest.param((OWN, "stack"), marks=pytest.mark.deep)])
def test_promotion_and_rollback_across_kinds_lose_nothing(
    others: tuple[str, str],
    service: Service,
    versions: Registry,
    reviews: pd.DataFrame,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """From n-grams to one kind, to the other, and back to the one."""
    kinds = [versions.add(), *(add(model, versions, reviews, request, tmp_path) for model in others)]
    versions.promote(kinds[0])
    service.start()
    service.serves(kinds[0])
    with load(service.port) as clients:
        for other in kinds[1:]:
            versions.promote(other)
            service.serves(other, 120)
            answer = service.ask()
            assert answer.headers["X-Model-Version"] == str(other)
            (row,) = answer.json()["predictions"]
            assert row["error"] is None
            assert row["sentiment"] in ("positive", "negative")
        assert rollback(versions.client, kinds[2], "test") == (kinds[2], kinds[1])
        service.serves(kinds[1], 120)
        assert service.ask().headers["X-Model-Version"] == str(kinds[1])
    clients.check()
    assert set(clients.versions()) == set(map(str, kinds))


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("hashing", "local"),
        pytest.param("stack", "spark", marks=[pytest.mark.deep, pytest.mark.spark]),
    ],
)
def test_files_are_scored_as_the_model_answers(
    model: str,
    engine: str,
    versions: Registry,
    reviews: pd.DataFrame,
    one_session: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    other = add(model, versions, reviews, request, tmp_path)
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
