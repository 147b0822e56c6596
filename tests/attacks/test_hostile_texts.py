"""Reviews and file names that are markup, formulas or mathematics: on the run page they are text."""

import re

import mlflow
import pandas as pd
from mlflow.tracking import MlflowClient

from tests.conftest import SMALL, SUMMARY
from training.train import train

MARKUP = "` | <script>document.title = 'mine'</script> &lt;b&gt; [x](javascript:alert(1)) $\\frac ![x](http://x) =1+1"


def test_a_run_page_takes_no_word_of_a_review_or_file_name_for_markup(
    store: MlflowClient, reviews: pd.DataFrame
) -> None:
    good = reviews["sentiment"] == "positive"
    hostile = reviews.assign(review=reviews["review"].where(~good, MARKUP + " " + reviews["review"]))
    summary = SUMMARY | {"source": "<img src=x onerror=alert(1)>`|\n# [x](javascript:alert(1)).csv"}
    with mlflow.start_run():
        candidate = train(hostile, summary, SMALL)
    card = candidate.description
    assert "javascript" in card, "it is among the strongest n-grams"
    outside = re.sub(r"`[^`\n]*`", "", card)
    assert "`" not in outside
    assert not re.search(r"<|&\w+;|\]\(|javascript|onerror|script", outside)
    assert len({line.count("|") for line in outside.splitlines() if "|" in line}) == 1, "one table, and whole"
    assert re.findall("^# .*", outside, re.MULTILINE) == ["# SentimentClassifier"]

    run = store.get_run(candidate.run_id)
    assert run.data.tags["mlflow.note.content"] == card
    assert {item.path for item in store.list_artifacts(candidate.run_id, "plots")} >= {
        "plots/strongest_ngrams.png"
    }
    held_out = mlflow.artifacts.list_artifacts(run_id=candidate.run_id, artifact_path="held_out")
    assert {item.path.rsplit(".", 1)[1] for item in held_out} <= {"json", "parquet"}, (
        "no spreadsheet opens these"
    )
