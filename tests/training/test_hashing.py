"""The online model: going on from a registered version."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from data.table import row_hash
from sentiment_model.hashing import HashingScorer
from tests.conftest import SUMMARY, standing_in
from training.errors import TrainingError
from training.settings import Settings
from training.train import Candidate, register_candidate, train

QUICK = Settings(model="hashing", ngram_max=1, n_features=2**16)


def trained(table: pd.DataFrame, settings: Settings) -> Candidate:
    with mlflow.start_run():
        return train(table, SUMMARY, settings)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, reviews: pd.DataFrame) -> Iterator[MlflowClient]:
    """A store in which version 1 has seen the first 600 rows, with what is to be held out later among them as test rows."""
    with standing_in(tmp_path_factory.mktemp("online")) as client:
        with mlflow.start_run():
            assert register_candidate(train(reviews.head(600), SUMMARY, QUICK)) == 1
        yield client


def scorer(candidate: Candidate, to: Path) -> HashingScorer:
    files = mlflow.artifacts.download_artifacts(artifact_uri=candidate.model_uri, dst_path=str(to))
    return HashingScorer.load(Path(files, "artifacts", "scorer"))


def test_it_goes_on_with_what_the_version_has_not_seen(
    reviews: pd.DataFrame, first: MlflowClient, tmp_path: Path
) -> None:
    later = reviews.iloc[300:].reset_index(drop=True)  # what was seen before need not be there any more
    on = trained(later, replace(QUICK, warm_start=1))
    told = re.search(r"5 passes over (\d+) reviews on top of version 1, which had seen (\d+)", on.description)
    assert told
    new_rows = (reviews["split"].iloc[600:] == "train").sum()
    assert int(told[2]) == (reviews["split"].head(600) == "train").sum()
    assert 0 < int(told[1]) <= new_rows
    old = HashingScorer.load(
        Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri="models:/SentimentClassifier/1", dst_path=str(tmp_path / "old")
            ),
            "artifacts",
            "scorer",
        )
    )
    new = scorer(on, tmp_path / "new")
    seen = pd.read_parquet(
        mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{on.run_id}/data/trained_on.parquet")
    )
    assert set(seen["row"]) == set(reviews["review"][reviews["split"] == "train"].map(row_hash))
    assert new.settings.updates > old.settings.updates > 1
    assert on.scores["accuracy"] > 0.6


def test_nothing_new_is_refused(reviews: pd.DataFrame, first: MlflowClient) -> None:
    with pytest.raises(TrainingError, match="version 1 has seen all training rows already"):
        trained(reviews.head(600), replace(QUICK, warm_start=1))


def test_other_features_are_refused(reviews: pd.DataFrame, first: MlflowClient) -> None:
    with pytest.raises(TrainingError, match="that version has n_features=65536; give the same"):
        trained(reviews, replace(QUICK, warm_start=1, n_features=2**15))


def test_rows_that_are_held_out_now_are_refused(reviews: pd.DataFrame, first: MlflowClient) -> None:
    more = reviews["split"].where(reviews.index >= 100, "test")
    with pytest.raises(
        TrainingError, match=r"version 1 was trained on \d+ of the rows that are held out here"
    ):
        trained(reviews.assign(split=more), replace(QUICK, warm_start=1))
