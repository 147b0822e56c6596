"""Scores a file in one way: ``python -m bench.scoring_job`` reads which, and says how long it took."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import mlflow
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import pandas_udf

from inference.batch import local
from inference.batch import spark as on_spark
from inference.batch.answers import Scored
from inference.batch.files import Source, find, look, writing
from inference.batch.spark import SETTINGS
from spark.session import session

ANSWERS = "sentiment string, confidence double"


def in_process(source: Source, copy: str) -> None:
    """Ask the model alone, through pyfunc, for pieces of 1,000 texts."""
    model = mlflow.pyfunc.load_model(copy)
    texts = pd.concat([pd.read_parquet(file, columns=["text"]) for file in source.files])
    for at in range(0, len(texts), 1000):
        model.predict(texts[at : at + 1000])


def on_one_machine(source: Source, copy: str, output: Path) -> None:
    """Score as ``engine=local`` does."""
    scored = Scored(source, 1, "")
    output.parent.mkdir()
    with writing(output, "parquet", None, scored.schema) as write:
        local.score(source, Path(copy), scored, write)


def by_udf_of_ours(spark: SparkSession, source: Source, copy: str, output: Path | None) -> None:
    """Score as ``engine=spark`` does; without an output its rows are thrown away."""
    scored = Scored(source, 1, "")
    model = on_spark.udf(spark, Path(copy))
    answers = on_spark.with_answers(on_spark.rows(spark, source), model, source, scored)
    if output is None:
        thrown_away(answers)
    else:
        on_spark.write(answers, scored, output, "parquet", None)


def by_udf_of_scikit_learn(spark: SparkSession, source: Source, pipeline: str, output: Path) -> None:
    """Score with a pandas UDF as tutorials write it, around the scikit-learn pipeline that ours equals."""

    @pandas_udf(ANSWERS)  # type: ignore[call-overload]  # its stubs know no types as text
    def sentiment(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        classify = joblib.load(pipeline).predict_proba  # once a task
        for texts in batches:
            positive = classify(texts)[:, 1]
            said = pd.Series(positive >= 0.5).map({True: "positive", False: "negative"})
            yield pd.DataFrame({"sentiment": said, "confidence": abs(positive - 0.5) + 0.5})

    table = spark.read.parquet(*(str(file) for file in source.files))
    table.withColumn("answer", sentiment("text")).select("*", "answer.*").drop("answer").write.parquet(
        str(output)
    )


def by_nothing(spark: SparkSession, source: Source) -> None:
    """Send the texts through a pandas UDF that does nothing."""

    @pandas_udf(ANSWERS)  # type: ignore[call-overload]  # its stubs know no types as text
    def sentiment(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        for texts in batches:
            yield pd.DataFrame({"sentiment": "positive", "confidence": 1.0}, index=texts.index)

    thrown_away(on_spark.rows(spark, source).withColumn("answer", sentiment("text")))


def thrown_away(table: DataFrame) -> None:
    """Have Spark compute all rows, and write none."""
    table.write.format("noop").mode("overwrite").save()


def measure(job: dict[str, Any]) -> list[float]:
    """Return the seconds of a small job and of a large one; of Spark without its start and after a small one."""
    small, large = (look(find(job[name]), "text") for name in ("small", "large"))
    copy, pipeline, output = job["copy"], job["pipeline"], Path(job["output"])

    def seconds(act: Callable[[Source], object]) -> list[float]:
        found = []
        for source in (small, large):
            shutil.rmtree(output, ignore_errors=True)
            start = time.perf_counter()
            act(source)
            found.append(time.perf_counter() - start)
        return found

    if job["way"] == "model":
        return seconds(lambda source: in_process(source, copy))
    if job["way"] == "local":
        return seconds(lambda source: on_one_machine(source, copy, output / "answers.parquet"))
    with session(job["master"], "bench", **SETTINGS) as spark:
        ways: dict[str, Callable[[Source], object]] = {
            "ours": lambda source: by_udf_of_ours(spark, source, copy, output),
            "scikit-learn": lambda source: by_udf_of_scikit_learn(spark, source, pipeline, output),
            "read": lambda source: thrown_away(on_spark.rows(spark, source)),
            "through": lambda source: by_nothing(spark, source),
            "unwritten": lambda source: by_udf_of_ours(spark, source, copy, None),
        }
        ways[job["way"]](small)
        return seconds(ways[job["way"]])


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
