"""A pipeline of the user's own: consent, and what is said of one that cannot be."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from tests.conftest import SUMMARY
from training.errors import TrainingError
from training.parameters import Own
from training.train import Candidate, train

pytestmark = pytest.mark.medium


def trained(table: pd.DataFrame, function: str, trust: str = "") -> Candidate:
    with mlflow.start_run():
        return train(table, SUMMARY, Own(model=f"tests.pipelines:{function}", trust=trust))


def test_one_without_a_decision_function_is_taken(reviews: pd.DataFrame, store: MlflowClient) -> None:
    assert trained(reviews, "bayes").scores["roc_auc"] > 0.6


def test_words_that_skops_uses_itself_are_words(reviews: pd.DataFrame, store: MlflowClient) -> None:
    """As keys of the vocabulary, beside the keys of the file in which it stands."""
    words = " file __id__ __class__ __module__ __loader__ content type schema.json"
    few = reviews.head(600).assign(review=lambda table: table["review"] + words)
    assert trained(few, "tfidf").scores["roc_auc"] > 0.6


def test_types_that_are_not_known_ask_for_consent_and_are_shown(
    reviews: pd.DataFrame, store: MlflowClient, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"repeat this with trust=sklearn\.tree\._tree\.Tree") as asked:
        trained(reviews, "forest")
    assert (
        "holds types that skops does not know to be harmless: sklearn.tree._tree.Tree" in asked.value.message
    )
    candidate = trained(reviews, "forest", trust="sklearn.tree._tree.Tree")
    assert "Types agreed to: sklearn.tree._tree.Tree" in candidate.description
    files = Path(
        mlflow.artifacts.download_artifacts(artifact_uri=candidate.model_uri, dst_path=str(tmp_path))
    )
    settings = files / "artifacts" / "scorer" / "settings.json"
    assert json.loads(settings.read_text())["trusted"] == ["sklearn.tree._tree.Tree"]
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"trusted": []}))
    with pytest.raises(Exception, match="Untrusted types found"):
        mlflow.pyfunc.load_model(str(files))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_such", "has no attribute 'no_such'"),
        ("nothing", "returned None, which is no classifier"),
        ("regression", "which is no classifier; return an unfitted scikit-learn pipeline"),
        ("clusters", "which is no classifier"),
        ("a_class", "which is no classifier"),
        ("leaves", "SystemExit: 0"),
        ("fails", "OSError: the disk of the pipeline is full"),
        ("needs_numbers", "the pipeline cannot be fitted: ValueError"),
        ("keeper", "cannot be written by skops"),
        ("with_a_function_of_ones_own", "repeat this with trust=tests.pipelines.shout"),
    ],
)
def test_what_cannot_be_is_one_line_and_registers_nothing(
    function: str, says: str, reviews: pd.DataFrame, store: MlflowClient
) -> None:
    before = len(store.search_logged_models(["0"]))
    with pytest.raises(TrainingError) as told:
        trained(reviews, function)
    assert says in told.value.message
    assert "\n" not in told.value.message
    assert len(store.search_logged_models(["0"])) == before
    assert not store.search_model_versions("name = 'SentimentClassifier'")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("unsure", "its scores are not one finite number for each text"),
        ("torn", "its scores are not one finite number for each text"),
        ("silent", "texts cannot be scored: OSError: no answer today"),
    ],
)
def test_what_cannot_score_is_one_line(
    function: str, says: str, reviews: pd.DataFrame, store: MlflowClient
) -> None:
    with pytest.raises(TrainingError) as told:
        trained(reviews, function, trust=f"tests.pipelines.{function.title()}")
    assert says in told.value.message
    assert "\n" not in told.value.message


def test_what_would_not_ship_is_refused_even_if_it_is_trusted(
    reviews: pd.DataFrame, store: MlflowClient
) -> None:
    with pytest.raises(TrainingError, match="of a module that does not ship with the model"):
        trained(reviews, "with_a_function_of_ones_own", trust="tests.pipelines.shout")


def test_a_module_that_is_not_there_is_named(reviews: pd.DataFrame, store: MlflowClient) -> None:
    settings = Own(model="no_such_module:function")
    with pytest.raises(TrainingError, match="No module named 'no_such_module'"), mlflow.start_run():
        train(reviews, SUMMARY, settings)
