"""The online model: going on from a registered version."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from data.table import row_hash
from sentiment_model.hashing import HashingScorer
from tests.conftest import ROOT, SUMMARY, standing_in
from training.errors import TrainingError
from training.parameters import Hashing
from training.train import Candidate, register_candidate, train

pytestmark = pytest.mark.medium

QUICK = Hashing(ngram_max=1, n_features=2**16)


def trained(table: pd.DataFrame, parameters: Hashing) -> Candidate:
    with mlflow.start_run():
        return train(table, SUMMARY, parameters)


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


PEAK = """
import sys, threading, time
from pathlib import Path
from training.main import main

peaks = []
def watch():
    while True:
        peaks.append(int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]))
        time.sleep(0.01)  # a sample of memory each time; nothing is waited for

threading.Thread(target=watch, daemon=True).start()
main(sys.argv[1:], standalone_mode=False)
print("peak", max(peaks))
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel tells memory of a process from files in /proc"
)
@pytest.mark.large
def test_texts_are_never_in_memory_together(tmp_path: Path) -> None:
    """From the CSV to the version in Production: five times as many rows, and memory that does not grow with them."""

    def peak(rows: int) -> tuple[float, float]:
        """Return the size of a CSV of so many rows, and the most memory that the pipeline had for itself, in MB."""
        folder = tmp_path / str(rows)
        folder.mkdir()
        source = folder / "source.csv"
        with source.open("w") as file:
            file.write("text,label\n")
            for row in range(rows):
                word, label = ("bad", 0) if row % 2 else ("good", 1)
                long = word + 300 * "o"  # so that a large text has few n-grams
                file.write(f"film {row} was {30 * f'{long} '},{label}\n")
        asked = f"--source {source} --out {folder}/imdb.csv --model hashing --ngram-max 1 --n-features 4096 --passes 1 --promote always"
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *asked.split()],
            cwd=folder,
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
                "SQLITE_TMPDIR": str(folder),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "version 1 is in Production" in done.stdout
        return source.stat().st_size / 1e6, int(done.stdout.split()[-1]) / 1e3

    (small, little), (large, much) = peak(2_000), peak(10_000)
    assert large - small > 50
    assert much - little < (large - small) / 4, (
        f"{large - small:.0f} MB of text more took {much - little:.0f} MB"
    )
