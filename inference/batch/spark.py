"""Scoring a source with Apache Spark: its tasks read and write with the same code as one machine does, MLflow's UDF scores."""

import logging
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from inference.batch import files
from inference.batch.answers import ANSWER, ROW, Counts, Scored
from inference.batch.files import (
    COMPRESSIONS,
    FAULT,
    FORMATS,
    FileError,
    Piece,
    Source,
    Write,
    as_object,
    packed,
    pieces,
    read,
    text_of,
    writing,
)
from registry.versions import check_examples
from spark.session import first_line, session, told

for ours in (files, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(ours)  # the executors need not have this project
ZONE = "UTC"
SETTINGS = {"spark.sql.caseSensitive": "true", "spark.sql.session.timeZone": ZONE}


@dataclass
class Part(WriterCommitMessage):
    """What a task wrote: the file of this attempt, the name that it gets, and in which folders."""

    attempt: str
    name: str
    folders: list[Path]


def score(
    source: Source, copy: Path, scored: Scored, output: Path, form: str, compression: str | None, master: str
) -> Counts:
    """Score a source into a folder of parts, whose order is that of the rows.

    Raises
    ------
    SparkError
        If Spark does not start, or a task failed as often as Spark tries it.
    """
    with session(master, "score", **SETTINGS) as spark:
        model = udf(spark, copy)
        check_examples(copy, lambda texts: ask(spark, model, texts))
        return write(
            with_answers(rows(spark, source), model, source, scored), scored, output, form, compression
        )


def udf(spark: SparkSession, copy: Path) -> Any:
    """Return MLflow's UDF of the verified files of a version, from texts to structs of an answer."""
    for name in ("mlflow.pyfunc", "mlflow.models.flavor_backend_registry"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it recommends to build an environment per task
    with told("the job failed"):
        return mlflow.pyfunc.spark_udf(
            spark,
            str(copy),
            result_type=from_arrow_schema(ANSWER),
            env_manager="local",
            extra_env={"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        )


def ask(spark: SparkSession, model: Any, texts: pd.Series) -> pd.DataFrame:
    """Return the answers to a few texts, as the executors give them."""
    with told("the job failed"):
        asked = spark.createDataFrame([(text,) for text in texts], "text string").coalesce(1)
        return asked.select(model("text").alias("answer")).select("answer.*").toArrow().to_pandas()


def rows(spark: SparkSession, source: Source, parts: list[Piece] | None = None) -> DataFrame:
    """Return the rows of a source, one partition a piece, in their order.

    Parameters
    ----------
    spark : SparkSession
    source : Source
    parts : list of Piece, optional
        By default all of it.

    Raises
    ------
    FileError
        If Spark cannot carry the columns as they are.
    """
    schema = carried_schema(source.schema, source.files[0])
    carried = to_arrow_schema(schema, timezone=ZONE)
    parallel = spark.sparkContext.defaultParallelism
    groups = packed(pieces(source, parallel) if parts is None else parts, parallel) or [[]]

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            return [
                InputPartition([replace(one, file=one.file.absolute()) for one in group]) for group in groups
            ]

        def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
            for piece in partition.value:
                for batch, _ in read(source, piece):
                    yield batch.cast(carried)

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


def carried_schema(schema: pa.Schema, file: Path) -> StructType:
    """Return columns as Spark has them.

    Raises
    ------
    FileError
        If it cannot carry them as they are.
    """
    for field in schema:
        if "timestamp[ns" in str(field.type):
            raise FileError(
                f"{file}: Spark cannot carry the nanoseconds of the column {field.name!r}; use engine=local"
            )
    try:
        found = from_arrow_schema(_signed(schema))
        to_arrow_schema(found, timezone=ZONE)
    except (PySparkException, ValueError) as error:
        raise FileError(
            f"{file}: Spark cannot carry its columns ({first_line(error)}); use engine=local"
        ) from None
    return found


def _signed(schema: pa.Schema) -> pa.Schema:
    """Return a schema with wider types for the unsigned ones, which Spark has not; :func:`write` takes them back."""
    wider = {
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.decimal128(20),
    }
    return pa.schema([(field.name, wider.get(field.type, field.type)) for field in schema])


def with_answers(table: DataFrame, model: Any, source: Source, scored: Scored) -> DataFrame:
    """Return the rows with their answers and the version."""
    text, fault = _column(source.column), _column(FAULT)
    name = "_answer"
    while name in source.schema.names:
        name += "_"
    answer = F.col(f"`{name}`")
    # MLflow's UDF makes the text "None" of a null: the number beside it says which it was
    refused = answer["confidence"].isNull() | F.isnan(answer["confidence"])
    error = F.coalesce(fault, F.when(refused, F.regexp_replace(answer["error"], ROW, "")))
    sentiment, confidence = (F.when(~refused, answer[name]) for name in ("sentiment", "confidence"))
    added = [sentiment, confidence, error, F.lit(scored.version).cast("long")]
    asked = table.withColumn(name, model(F.when(fault.isNull(), text)))
    kept = [_column(name) for name in source.schema.names[:-1]]
    return asked.select(*kept, *(value.alias(name) for value, name in zip(added, scored.added, strict=True)))


def write(
    table: DataFrame,
    scored: Scored,
    folder: Path,
    form: str,
    compression: str | None,
    apart: Path | None = None,
) -> Counts:
    """Write scored rows to a new folder, one part a partition.

    Parameters
    ----------
    table : DataFrame
        What :func:`with_answers` returned.
    scored : Scored
    folder : Path
    form, compression : str, str or None
    apart : Path, optional
        Another new folder, for the rows without an answer.
    """
    folders = [one.absolute() for one in (folder, apart) if one]
    for one in folders:
        one.mkdir(parents=True)
    ending = next(end for end, known in FORMATS.items() if known == form)
    ending += next((end for end, known in COMPRESSIONS.items() if known == compression), "")
    schema = scored.schema
    _, _, error, _ = scored.added

    class Parts(DataSourceArrowWriter):
        def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
            task = TaskContext.get()
            assert task is not None  # noqa: S101 -- it runs in one
            part = Part(f"_{uuid.uuid4().hex}", f"part-{task.partitionId():05}{ending}", [])
            with ExitStack() as stack:
                writes: dict[Path, Write] = {}
                for batch in iterator:
                    refused = batch[error].is_valid()
                    split = (
                        (batch,)
                        if len(folders) == 1
                        else (batch.filter(pc.invert(refused)), batch.filter(refused))
                    )
                    for one, some in zip(folders, split, strict=True):
                        if not len(some):
                            continue
                        if one not in writes:
                            file = one / part.attempt
                            writes[one] = stack.enter_context(writing(file, form, compression, schema))
                            part.folders.append(one)
                        writes[one](some.cast(schema))
            return part

        def commit(self, messages: list[WriterCommitMessage | None]) -> None:
            for part in messages:
                assert isinstance(part, Part)  # noqa: S101 -- each task gives one
                for one in part.folders:
                    (one / part.attempt).rename(one / part.name)
            for one in folders:
                for attempt in one.glob("_*"):  # of tasks that were tried again
                    attempt.unlink()
            if not any(folder.iterdir()):  # where there is no row, the columns are still said
                with writing(folder / f"part-00000{ending}", form, compression, schema):
                    pass

        def abort(self, messages: list[WriterCommitMessage | None]) -> None:
            pass  # whoever asked removes the folder

    class Answers(DataSource):
        @classmethod
        def name(cls) -> str:
            return "answers"

        def writer(self, schema: StructType, overwrite: bool) -> Parts:
            return Parts()

    table.sparkSession.dataSource.register(Answers)
    with told("the job failed"):
        return counted(table, scored, lambda answers: answers.write.format("answers").mode("append").save())


def counted(table: DataFrame, scored: Scored, act: Callable[[DataFrame], None]) -> Counts:
    """Do something with scored rows, and count them on the way."""
    observed = Observation()
    sentiment, _, error, _ = map(_column, scored.added)
    act(
        table.observe(
            observed,
            F.count(F.lit(1)).alias("rows"),
            F.count(error).alias("refused"),
            F.count_if(sentiment == "positive").alias("positive"),
        )
    )
    return Counts(**observed.get)


def _column(name: str) -> Column:
    return F.col(f"`{name.replace('`', '``')}`")


def messages(table: DataFrame, column: str) -> DataFrame:
    """Return the texts of Kafka's messages, which are JSON objects: where each stood, what it was, its text or fault."""

    def texts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            lines = [value or b"" for value in batch["value"].to_pylist()]
            found = [text_of(*as_object(line), line, column) for line in lines]
            said, faults = (pa.array(values, pa.string()) for values in zip(*found, strict=True))
            shown = pa.array([line.decode("utf-8", "replace") for line in lines], pa.string())
            yield pa.RecordBatch.from_arrays(
                [batch["place"], shown, said, faults], names=["place", "message", column, FAULT]
            )

    place = F.concat_ws("/", "topic", "partition", "offset").alias("place")
    return table.select(place, "value").mapInArrow(
        texts, f"place string, message string, `{column}` string, `{FAULT}` string"
    )


def as_messages(table: DataFrame, scored: Scored, topic: str) -> DataFrame:
    """Return scored messages as Kafka takes them: key, value and topic."""
    fields = [_column(name) for name in ("message", *scored.added)]
    error = _column(scored.added[2])
    return table.select(
        F.col("place").alias("key"),
        F.to_json(F.struct(*fields), {"ignoreNullFields": "false"}).alias("value"),
        F.when(error.isNull(), topic).otherwise(f"{topic}.rejected").alias("topic"),
    )
