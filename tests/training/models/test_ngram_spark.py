"""Training on a real Spark: the same numbers as on one machine, and the same artifact."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from spark.session import session
from tests.conftest import SMALL, copy_project
from training.errors import TrainingError
from training.models.features import MinDocumentFrequency, count_ngrams, raised_min_df
from training.models.ngram import write_scorer
from training.models.ngram_fit import Fit
from training.parameters import Ngram
from training.report.explain import ngram_table
from training.report.metrics import scores_by_source

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark():
    with session("local[2]", "tests", spark_driver_memory="2g") as started:
        yield started


@pytest.fixture(scope="module")
def counted(spark, reviews: pd.DataFrame):
    from training.models.ngram_spark_counts import count, reviews_of

    return count(reviews_of(spark, reviews), SMALL)


@pytest.fixture(scope="module")
def on_spark(counted) -> Fit:
    from training.models.ngram_spark import fit

    return fit(counted, SMALL)


@pytest.mark.parametrize("settings", [SMALL, Ngram(ngram_max=4, min_df=3), Ngram(ngram_max=1)])
def test_counts_are_those_of_one_machine(spark, reviews: pd.DataFrame, settings: Ngram) -> None:
    from training.models.ngram_spark_counts import count, reviews_of

    counted = count(reviews_of(spark, reviews), settings)
    counter, expected = count_ngrams(reviews["review"].tolist(), settings.ngram_max, settings.min_df)
    assert counted.names.to_pylist() == counter.get_feature_names_out().tolist()
    np.testing.assert_array_equal(counted.frequency.sum(axis=1), np.asarray(expected.sum(axis=0)).ravel())
    test = (reviews["split"] == "test").to_numpy()
    np.testing.assert_array_equal(
        counted.frequency[:, -1], np.asarray(expected[np.flatnonzero(test)].sum(axis=0)).ravel()
    )
    found: dict[int, set[int]] = {}
    for row, _, _, start, ngram in counted.blocks.collect():
        found |= {number: set(ngram[a:b]) for number, a, b in zip(row, start, start[1:], strict=False)}
    assert found == {number: set(expected[number].indices) for number in range(len(reviews))}


def test_what_is_learnt_before_the_classifier_is_that_of_one_machine(fitted: Fit, on_spark: Fit) -> None:
    here, there = fitted.pipeline, on_spark.pipeline
    assert there[0].vocabulary_ == here[0].vocabulary_
    np.testing.assert_array_equal(there[1].document_frequency_, here[1].document_frequency_)
    np.testing.assert_allclose(there[2].idf_, here[2].idf_, rtol=1e-12)
    ours, theirs = (pipeline[-1].linear[0].log_count_ratio_ for pipeline in (there, here))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_answers_are_close_to_those_of_one_machine(reviews: pd.DataFrame, fitted: Fit, on_spark: Fit) -> None:
    here, there = (fit.pipeline[-1].linear[-1] for fit in (fitted, on_spark))
    gap = np.abs(here.coef_ - there.coef_).max() / np.abs(here.coef_).max()
    assert gap < 0.02
    answers = [expit(fit.pipeline.decision_function(reviews["review"])) for fit in (fitted, on_spark)]
    # the folds are drawn otherwise, and so the calibration differs
    assert np.abs(answers[0] - answers[1]).max() < 0.06
    assert np.abs(expit(fitted.held_out) - expit(on_spark.held_out)).max() < 0.06
    train = reviews[reviews["split"] == "train"].assign(log_odds=on_spark.cross_validated)
    assert 0.6 < scores_by_source(train)["accuracy"] < 0.95  # by models that had not seen them


def test_held_out_labels_do_not_matter_to_their_judgement(
    spark, reviews: pd.DataFrame, on_spark: Fit
) -> None:
    from training.models.ngram_spark import fit
    from training.models.ngram_spark_counts import count, reviews_of

    flipped = reviews.copy()
    test = flipped["split"] == "test"
    flipped.loc[test, "sentiment"] = flipped.loc[test, "sentiment"].map(
        {"positive": "negative", "negative": "positive"}
    )
    again = fit(count(reviews_of(spark, flipped), SMALL), SMALL)
    np.testing.assert_array_equal(again.held_out, on_spark.held_out)
    np.testing.assert_array_equal(again.cross_validated, on_spark.cross_validated)
    assert (again.pipeline[-1].linear[-1].coef_ != on_spark.pipeline[-1].linear[-1].coef_).any()


def test_the_exported_scorer_equals_the_pipeline(
    on_spark: Fit, reviews: pd.DataFrame, tmp_path: Path
) -> None:
    write_scorer(on_spark.pipeline, ngram_table(on_spark.pipeline), tmp_path, check_on=reviews["review"])


def test_max_features_keeps_the_same_ngrams(spark, reviews: pd.DataFrame) -> None:
    from training.models.ngram_spark_counts import SEEN, count, reviews_of

    few = Ngram(ngram_max=3, max_features=2000)
    counted = count(reviews_of(spark, reviews), few)
    counter, counts = count_ngrams(reviews["review"].tolist(), few.ngram_max, few.min_df)
    names = counter.get_feature_names_out()
    for seen, rows in ((SEEN[0], slice(None)), (SEEN[1], np.flatnonzero(reviews["split"] == "train"))):
        here = MinDocumentFrequency(few.min_df, few.max_features).fit(counts[rows])
        frequency = counted.frequency @ seen
        kept = frequency >= raised_min_df(frequency, few.min_df, few.max_features)
        assert np.array(counted.names)[kept].tolist() == names[here.get_support()].tolist()
    assert len(counted.names) < 4000  # what no model keeps does not leave Spark


def test_too_little_data_is_one_clear_message(spark, reviews: pd.DataFrame) -> None:
    from training.models.ngram_spark_counts import count, reviews_of

    with pytest.raises(TrainingError, match=r"the train split has \d positive rows, at least 5 are needed"):
        count(reviews_of(spark, reviews[reviews["split"] == "train"].head(6)), SMALL)
    with pytest.raises(TrainingError, match="no n-gram stands in min_df=100000"):
        count(reviews_of(spark, reviews), Ngram(ngram_max=2, min_df=100_000))


def test_a_version_trained_on_spark_is_judged_and_promoted_like_any_other(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    settings = ("engine=spark", "master=local[2]", "limit=2600", "ngram_max=1", "C=1")
    given = [part for setting in settings for part in ("-P", setting)]
    told = project.run("mlflow", "run", ".", "--env-manager", "local", *given)
    assert "gate passed" in told
    version = project.client().get_model_version_by_alias("SentimentClassifier", "production")
    assert version.current_stage == "Production"
    assert project.client().get_run(str(version.run_id)).data.params["engine"] == "spark"
    assert {"manifest", "content_digest"} <= version.tags.keys()


def test_a_master_that_does_not_answer_is_one_line_and_nothing_is_registered(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    told = project.run(
        *("python", "-m", "training.main", "--limit", "2600", "--engine", "spark"),
        *("--master", "spark://127.0.0.1:1"),
        code=1,
    )
    assert "Error: master=spark://127.0.0.1:1 does not answer" in told
    assert "Traceback" not in told
    assert not project.client().search_registered_models()
