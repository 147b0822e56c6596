"""What the run page tells."""

import io

import cloudpickle
import matplotlib.image
import mlflow
import numpy as np
import pandas as pd
from mlflow.tracking import MlflowClient

from tests.conftest import SMALL
from training.train import Candidate


def test_the_run_tells_the_whole_story(
    store: MlflowClient, candidate: Candidate, reviews: pd.DataFrame
) -> None:
    run = store.get_run(candidate.run_id)
    expected = SMALL.used() | {"rows": 1200}
    assert run.data.params == {name: str(value) for name, value in expected.items()}
    names = {"model", "ngram_max", "min_df", "max_features", "alpha", "C", "seed", "rows", "engine"}
    assert set(expected) == names

    metrics = run.data.metrics
    names = {"accuracy", "f1", "precision", "recall", "roc_auc", "log_loss", "brier", "ece"}
    for prefix in ("", "cv/", "imdb/", "cv/imdb/", "cv/rotten_tomatoes/"):
        assert {prefix + name for name in names} <= set(metrics), prefix
    for step in ("features", "fit", "evaluate", "explain"):
        assert metrics[f"seconds/{step}"] > 0

    assert run.inputs
    assert run.outputs
    contexts = {tag.value: dataset.dataset for dataset in run.inputs.dataset_inputs for tag in dataset.tags}
    assert set(contexts) == {"training", "held-out"}
    assert run.outputs.model_outputs, "the model is linked to the run"

    folders = ("", "data", "held_out", "pipeline", "plots")
    found = {item.path for folder in folders for item in store.list_artifacts(candidate.run_id, folder)}
    assert {
        "data/trained_on.parquet",
        "environment.json",
        "held_out/confident_mistakes.json",
        "held_out/predictions.parquet",
        "model_card.md",
        "pipeline/pipeline.cloudpickle",
        "plots/calibration_curve.png",
        "plots/confidence_histogram.png",
        "plots/confusion_matrix.png",
        "plots/precision_recall_curve.png",
        "plots/roc_curve.png",
        "plots/strongest_ngrams.png",
    } <= found


def test_the_plots_are_pictures(candidate: Candidate) -> None:
    for name in ("confusion_matrix", "calibration_curve", "strongest_ngrams", "confidence_histogram"):
        path = mlflow.artifacts.download_artifacts(run_id=candidate.run_id, artifact_path=f"plots/{name}.png")
        picture = matplotlib.image.imread(path)
        assert picture.shape[0] > 300
        assert picture.std() > 0.05, "not blank"


def test_mistakes_are_wrong_and_most_confident_first(store: MlflowClient, candidate: Candidate) -> None:
    table = mlflow.load_table("held_out/confident_mistakes.json", run_ids=[candidate.run_id])
    assert (table["labelled"] != table["answered"]).all()
    assert table["confidence"].is_monotonic_decreasing
    wrong = 1 - candidate.scores["accuracy"]
    held_out = pd.read_parquet(
        mlflow.artifacts.download_artifacts(
            run_id=candidate.run_id, artifact_path="held_out/predictions.parquet"
        )
    )
    assert len(table) == min(50, round(wrong * len(held_out)))


def test_the_card_is_the_description_and_says_the_figures(candidate: Candidate) -> None:
    card = mlflow.artifacts.load_text(f"runs:/{candidate.run_id}/model_card.md")
    assert candidate.description == card
    assert f"| {candidate.scores['accuracy']:.4f} |" in card
    assert "without one known n-gram is answered" in card


def test_the_pipeline_comes_back_for_notebooks(candidate: Candidate, reviews: pd.DataFrame) -> None:
    path = mlflow.artifacts.download_artifacts(
        run_id=candidate.run_id, artifact_path="pipeline/pipeline.cloudpickle"
    )
    with open(path, "rb") as file:
        pipeline = cloudpickle.load(io.BytesIO(file.read()))
    model = mlflow.pyfunc.load_model(candidate.model_uri)
    texts = reviews["review"].head(100)
    answers = pd.DataFrame(model.predict(pd.DataFrame({"text": texts})))
    positive = np.where(answers["sentiment"] == "positive", answers["confidence"], 1 - answers["confidence"])
    np.testing.assert_allclose(positive, pipeline.predict_proba(texts)[:, 1], atol=1e-6)
