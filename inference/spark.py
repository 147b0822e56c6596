"""Scoring a source with Apache Spark: its tasks read and write with the same code as one machine does, MLflow's UDF scores."""

import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import TaskContext, cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.datasource import (
    DataSource,
    DataSourceArrowWriter,
    DataSourceReader,
    InputPartition,
    WriterCommitMessage,
)
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from inference import files
from inference.answers import ANSWER, ROW, Counts, Scored
from inference.files import COMPRESSIONS, FAULT, FORMATS, FileError, Source, Writer, pieces, read
from registry.versions import check_examples
from spark.session import SparkError, first_line, session

cloudpickle.register_pickle_by_value(files)  # the executors need not have this project
_TOLD = re.compile(r"(?:\bFileError|OSError|NoSpaceLeft\w*|MemoryError)\S*: (.+)")


@dataclass
class Part(WriterCommitMessage):
    """What a task wrote: the file of this attempt, and the name that it gets."""

    attempt: str
    name: str


def score(
    source: Source, copy: Path, scored: Scored, output: Path, form: str, compression: str | None, master: str
) -> Counts:
    """Score a source into a folder of parts, whose order is that of the rows.

    Raises
    ------
    SparkError
        If Spark does not start, or a task failed as often as Spark tries it.
    """
    with session(master, "score", spark_sql_caseSensitive="true", spark_sql_session_timeZone="UTC") as spark:
        model = udf(spark, copy)
        check_examples(copy, lambda texts: ask(spark, model, texts))
        return write(
            with_answers(rows(spark, source), model, source, scored), scored, output, form, compression
        )


def udf(spark: SparkSession, copy: Path) -> Any:
    """Return MLflow's UDF of the verified files of a version, from texts to structs of an answer."""
    logging.getLogger("mlflow.pyfunc").setLevel(
        logging.ERROR
    )  # it recommends to build an environment per task
    with told():
        return mlflow.pyfunc.spark_udf(
            spark,
            str(copy),
            result_type=from_arrow_schema(ANSWER),
            env_manager="local",
            extra_env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        )


def ask(spark: SparkSession, model: Any, texts: pd.Series) -> pd.DataFrame:
    """Return the answers to a few texts, as the executors give them."""
    with told():
        asked = spark.createDataFrame([(text,) for text in texts], "text string").coalesce(1)
        return asked.select(model("text").alias("answer")).select("answer.*").toPandas()


def rows(spark: SparkSession, source: Source) -> DataFrame:
    """Return the rows of a source, one partition a piece, in their order."""
    try:
        schema = from_arrow_schema(source.schema)
    except PySparkException as error:
        raise FileError(
            f"{source.files[0]}: Spark cannot carry all of its columns ({first_line(error)}); use engine=local"
        ) from None
    for field in source.schema:
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            raise FileError(
                f"{source.files[0]}: Spark cannot carry the nanoseconds of the column {field.name!r}; use engine=local"
            )
    source = replace(source, files=[file.absolute() for file in source.files])

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            return [InputPartition(piece) for piece in pieces(source)]

        def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
            for batch, _ in read(source, partition.value):
                yield batch

    class Texts(DataSource):
        @classmethod
        def name(cls) -> str:
            return "texts"

        def schema(self) -> StructType:
            return schema

        def reader(self, schema: StructType) -> Reader:
            return Reader()

    spark.dataSource.register(Texts)
    return spark.read.format("texts").load()


def with_answers(table: DataFrame, model: Any, source: Source, scored: Scored) -> DataFrame:
    """Return the rows with their answers and the version."""
    text, fault = _column(source.column), _column(FAULT)
    answer = F.col("_answer")
    # MLflow's UDF makes the text "None" of a null: the number beside it says which it was
    refused = answer["confidence"].isNull() | F.isnan(answer["confidence"])
    error = F.coalesce(fault, F.when(refused, F.regexp_replace(answer["error"], ROW, "")))
    sentiment, confidence = (F.when(~refused, answer[name]) for name in ("sentiment", "confidence"))
    added = [sentiment, confidence, error, F.lit(scored.version).cast("long")]
    asked = table.withColumn("_answer", model(F.when(fault.isNull(), text)))
    kept = [_column(name) for name in source.schema.names[:-1]]
    return asked.select(*kept, *(value.alias(name) for value, name in zip(added, scored.added, strict=True)))


def write(table: DataFrame, scored: Scored, output: Path, form: str, compression: str | None) -> Counts:
    """Write scored rows to a folder, one part a partition."""
    folder = output.absolute()
    folder.mkdir()
    ending = next(end for end, known in FORMATS.items() if known == form)
    ending += next((end for end, known in COMPRESSIONS.items() if known == compression), "")
    schema = scored.schema

    class Parts(DataSourceArrowWriter):
        def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
            task = TaskContext.get()
            name = f"part-{task.partitionId():05}{ending}"
            attempt = folder / f"_{uuid.uuid4().hex}"
            first = next(iterator, None)
            if first is None and task.partitionId():  # the first part says the columns where there is no row
                return Part("", "")
            with Writer(attempt, form, compression, schema) as writer:
                for batch in chain([first] if first else [], iterator):
                    writer.write(batch.cast(schema))
            return Part(attempt.name, name)

        def commit(self, messages: list[WriterCommitMessage | None]) -> None:
            for part in messages:
                if part.attempt:
                    (folder / part.attempt).rename(folder / part.name)
            for attempt in folder.glob("_*"):  # of tasks that were tried again
                attempt.unlink()

        def abort(self, messages: list[WriterCommitMessage | None]) -> None:
            pass  # the folder is removed

    class Answers(DataSource):
        @classmethod
        def name(cls) -> str:
            return "answers"

        def writer(self, schema: StructType, overwrite: bool) -> Parts:
            return Parts()

    table.sparkSession.dataSource.register(Answers)
    observed = Observation()
    sentiment, _, error, _ = map(_column, scored.added)
    counts = [
        F.count(F.lit(1)).alias("rows"),
        F.count(error).alias("refused"),
        F.count_if(sentiment == "positive").alias("positive"),
    ]
    with told():
        table.observe(observed, *counts).write.format("answers").mode("append").save()
    return Counts(**observed.get)


@contextmanager
def told() -> Iterator[None]:
    """Say in one line why a job of Spark failed.

    Raises
    ------
    SparkError
        If it did.
    """
    try:
        yield
    except (PySparkException, Py4JError) as error:
        found = _TOLD.search(str(error))
        raise SparkError(f"the job failed: {found[1].strip() if found else first_line(error)}") from None


def _column(name: str) -> Column:
    return F.col(f"`{name.replace('`', '``')}`")
