"""Entry point ``stream``: score files as they arrive, or the messages of a Kafka topic, with Spark Structured Streaming."""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import mlflow
import pyarrow as pa
from mlflow.exceptions import MlflowException

from cli import YES_NO, Command, stop_in_order
from files import atomic_output
from inference.batch.answers import Counts, Scored
from inference.batch.files import (
    FAULT,
    FileError,
    Piece,
    Source,
    columns,
    difference,
    form_of,
    pieces,
    unreadable,
)
from inference.batch.output import alone, sync
from inference.environment import check_environment
from registry.store import MODEL_NAME, answering, connect
from registry.versions import PRODUCTION, check_examples, fetch
from registry.versions import find as find_version
from spark.session import SparkError, check_installed, first_line, master_option, session, signals_noted, told

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCORED, REJECTED, CHECKPOINT = "scored", "rejected", "_checkpoint"
COLUMNS = "columns.arrow"  # in the checkpoint: those of the first file
CONNECTOR = "org.apache.spark:spark-sql-kafka-0-10_2.13"
# what Spark knows of a folder's files; the content is not read
_LISTED = "path string, modificationTime timestamp, length long, content binary"
_NEVER_TOO_OLD = "36500d"  # by default it passes over what is a week older than the newest file


class Model:
    """The version in Production as a UDF.

    Parameters
    ----------
    folder : Path
        For the verified copies.

    Attributes
    ----------
    version : int
    udf : callable
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._refused = ""
        self.version = 0
        self.udf: Any = None

    def follow(self, spark: "SparkSession") -> None:
        """Be the version that is in Production now; the one from before where that cannot be, and say why.

        Parameters
        ----------
        spark : SparkSession
            That of the micro-batch: each has one of its own.

        Raises
        ------
        ClickException
            If there is none from before.
        """
        try:
            wanted = find_version(connect(), PRODUCTION)
            if wanted.number != self.version:
                self._take(wanted, spark)
            self._refused = ""
        except (click.ClickException, MlflowException) as error:
            if not self.version:
                raise
            if str(error) != self._refused:
                click.echo(f"WARNING: version {self.version} goes on scoring: {error}", err=True)
            self._refused = str(error)

    def _take(self, wanted: Any, spark: "SparkSession") -> None:
        from inference.batch.spark import ask, udf

        copy = fetch(wanted, Path(tempfile.mkdtemp(dir=self._folder)))
        check_environment(copy)
        model = udf(spark, copy)
        check_examples(copy, lambda texts: ask(spark, model, texts))
        self.version, self.udf = wanted.number, model
        click.echo(f"{MODEL_NAME} version {self.version} scores from now on")


@dataclass(frozen=True)
class Files:
    """A folder of arriving files, and the folder where their rows get to.

    Attributes
    ----------
    given, output, checkpoint : Path
        ``output`` gets the folders ``scored`` and ``rejected``, with a folder for each micro-batch in them.
    column, form, prefix : str
        Of the texts, of the output, and of the names of the added columns.
    most : int
        Files of a micro-batch.
    """

    given: Path
    output: Path
    checkpoint: Path
    column: str
    form: str
    prefix: str
    most: int

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Run a block while no other stream writes the output.

        Raises
        ------
        FileError
            If one does, or the checkpoint is not that of the output: its micro-batches would be taken for done.
        """
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self.checkpoint.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.output} cannot be written: {error.strerror or error}") from None
        with alone(self.output):
            done = [path.name for path in (self.output / SCORED).glob("batch-*")]
            begun = [int(path.name) for path in (self.checkpoint / "offsets").glob("[0-9]*")]
            last = max(begun, default=-1)
            if max(done, default="") > f"batch-{last:09}":
                raise FileError(
                    f"{self.output} holds {max(done)}, which {self.checkpoint} has not begun; give its checkpoint, or another output"
                )
            yield

    def arriving(self, spark: "SparkSession") -> "DataFrame":
        """Return the stream of their paths; Spark remembers which were taken."""
        reader = spark.readStream.format("binaryFile").schema(_LISTED)
        options = {
            "maxFilesPerTrigger": str(self.most),
            "maxFileAge": _NEVER_TOO_OLD,
            "recursiveFileLookup": "true",
        }
        folder = re.sub(r"([\\{}\[\]*?])", r"\\\1", str(self.given))  # it is no pattern
        return reader.options(**options).load(folder).select("path", "modificationTime")

    def take(self, batch: "DataFrame", number: int, model: Model) -> tuple[Counts, float] | None:
        """Score a micro-batch once: its folder appears whole, and if it is there already nothing is done.

        Returns
        -------
        tuple of Counts and float, or None
            And how long the oldest of its files had waited, in seconds.
        """
        from inference.batch import spark

        name = f"batch-{number:09}"
        done, rejected = self.output / SCORED / name, self.output / REJECTED / name
        if done.exists():  # killed before Spark had noted that
            return None
        hidden = self.output / f"_{name}"
        for left in (hidden, rejected):
            shutil.rmtree(left, ignore_errors=True)
        listed = sorted(batch.collect(), key=lambda row: (row.modificationTime, row.path))
        if not listed:
            click.echo(f"WARNING: batch {number}: its files are gone", err=True)
            done.mkdir(parents=True)
            return Counts(), 0.0
        source = self.source([Path(row.path.removeprefix("file:")) for row in listed])
        scored = Scored(source, model.version, self.prefix)
        table = spark.rows(batch.sparkSession, source, self.parts(source, batch.sparkSession))
        answers = spark.with_answers(table, model.udf, source, scored)
        counts = spark.write(answers, scored, hidden / SCORED, self.form, None, apart=hidden / REJECTED)
        sync(hidden)
        if counts.refused:
            rejected.parent.mkdir(exist_ok=True)
            (hidden / REJECTED).rename(rejected)
        done.parent.mkdir(exist_ok=True)
        (hidden / SCORED).rename(done)  # from here on it is done
        shutil.rmtree(hidden)
        return counts, time.time() - listed[0].modificationTime.timestamp()

    def source(self, files: list[Path]) -> Source:
        """Return files with the columns that the first readable file of the stream had."""
        from inference.batch.spark import carried_schema

        known = self.checkpoint / COLUMNS
        if not known.exists():
            for file in files:
                try:
                    found = columns(file, form_of(file)[0], self.column)
                    carried_schema(found, file)
                except FileError:
                    continue
                if found.metadata:  # it holds nothing
                    continue
                with atomic_output(known) as part:
                    part.write_bytes(found.serialize())
                break
        one = pa.field(self.column, pa.string())
        schema = pa.ipc.read_schema(pa.py_buffer(known.read_bytes())) if known.exists() else pa.schema([one])
        return Source(files, self.column, schema.append(pa.field(FAULT, pa.string())), forgiving=True)

    def parts(self, source: Source, spark: "SparkSession") -> list[Piece]:
        """Return the parts of a micro-batch; a file that does not belong there is a part with a fault."""
        expected = pa.schema(list(source.schema)[:-1])
        parallel = spark.sparkContext.defaultParallelism
        parts: list[Piece] = []
        for file in source.files:
            try:
                form, _ = form_of(file)
                found = columns(file, form, self.column) if form != "jsonl" else expected
                if found.equals(expected):
                    parts += pieces(Source([file], self.column, source.schema), parallel)
                    continue
                fault = f"{file} and the first file of the stream differ: {difference(found, expected)}"
            except FileError as error:
                fault = error.message
            except OSError as error:
                fault = unreadable(file, error).message
            parts.append(Piece(file, fault=fault))
        return parts


@dataclass(frozen=True)
class Topics:
    """Kafka topics: messages that are JSON objects in, answers out, those without an answer to ``<topic>.rejected``.

    An answer may come twice after a crash: its key, ``topic/partition/offset`` of the message, is the same then.

    Attributes
    ----------
    servers : str
        ``host:port`` of brokers.
    given, output : str
        Topics.
    column, prefix : str
        The field of the text, and of the names of what is added.
    most : int
        Messages of a micro-batch.
    """

    servers: str
    given: str
    output: str
    column: str
    prefix: str
    most: int

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Run a block; a checkpoint that two streams use at once Spark refuses."""
        yield

    def arriving(self, spark: "SparkSession") -> "DataFrame":
        """Return the stream of messages."""
        options = {"kafka.bootstrap.servers": self.servers, "subscribe": self.given}
        options |= {"startingOffsets": "earliest", "maxOffsetsPerTrigger": str(self.most)}
        return spark.readStream.format("kafka").options(**options).load()

    def take(self, batch: "DataFrame", number: int, model: Model) -> tuple[Counts, float]:
        """Score a micro-batch and send the answers."""
        from pyspark.sql import functions as F

        from inference.batch import spark

        schema = pa.schema([(name, pa.string()) for name in ("place", "message", self.column, FAULT)])
        source = Source([Path(self.given)], self.column, schema)
        scored = Scored(source, model.version, self.prefix)
        answers = spark.with_answers(spark.messages(batch, self.column), model.udf, source, scored)
        (oldest,) = batch.agg(F.min("timestamp")).collect()[0]

        def send(table: "DataFrame") -> None:
            spark.as_messages(table, scored, self.output).write.format("kafka").option(
                "kafka.bootstrap.servers", self.servers
            ).save()

        return spark.counted(answers, scored, send), time.time() - oldest.timestamp()


def run(
    spark: "SparkSession",
    through: Files | Topics,
    checkpoint: Path,
    model: Model,
    run_id: str,
    once: bool,
    every: float,
) -> None:
    """Score what arrives until SIGINT, SIGTERM or SIGHUP, or with ``once`` what is there; log each micro-batch to a run.

    Raises
    ------
    SparkError
        If a micro-batch cannot be scored or written. It is taken again when the stream is started again.
    """
    for told_by_us in ("py4j", "mlflow.store.db.utils"):  # a fault is one line, not a stack trace
        logging.getLogger(told_by_us).setLevel(logging.CRITICAL)

    faults: list[str] = []  # Spark's own report is cut before the reason

    def take(batch: "DataFrame", number: int) -> None:
        try:
            model.follow(batch.sparkSession)
            start = time.perf_counter()
            taken = through.take(batch, number, model)
        except Exception as error:
            said = error.message if isinstance(error, click.ClickException) else first_line(error)
            faults.append(f"batch {number}: {said}")
            raise SparkError(said) from None
        if taken:
            counts, lag = taken
            seconds = time.perf_counter() - start
            click.echo(
                f"batch {number}: {counts.rows:,} rows, {counts.refused:,} rejected, version {model.version}, "
                f"in {seconds:.1f} s; the oldest had waited {lag:.0f} s"
            )
            log(
                run_id,
                number,
                rows=counts.rows,
                rows_rejected=counts.refused,
                rows_per_second=counts.rows / seconds,
                lag_seconds=lag,
                version=model.version,
            )

    with signals_noted() as signals:
        try:
            with told("the stream failed"):
                model.follow(spark)
                writer = (
                    through.arriving(spark)
                    .writeStream.foreachBatch(take)
                    .option("checkpointLocation", str(checkpoint))
                )
                trigger: dict[str, Any] = (
                    {"availableNow": True} if once else {"processingTime": f"{every} seconds"}
                )
                query = writer.trigger(**trigger).start()
                click.echo("scoring what is there" if once else "waiting for what arrives")
                while not query.awaitTermination(1) and not signals:
                    pass
                query.stop()
        except SparkError as error:
            if not signals:
                raise SparkError(faults[-1] if faults else error.message) from None
    if signals:
        click.echo(
            f"ended by {signals[0].name}; it goes on where it was, a micro-batch in work included, when it is started again"
        )


def log(run_id: str, number: int, **metrics: float) -> None:
    """Log the progress of a micro-batch; a stream does not end because that fails."""
    try:
        with answering():
            # this thread does not know which run is active
            mlflow.log_metrics(metrics, step=number, run_id=run_id)
    except (click.ClickException, MlflowException) as error:
        click.echo(f"WARNING: the progress could not be logged: {error}", err=True)


@click.command(
    cls=Command,
    help="Score files as they arrive in a folder, or the messages of a Kafka topic, until a signal.",
)
@click.option("--source", type=click.Choice(["files", "kafka"]), default="files", show_default=True)
@click.option("--input", "given", required=True, help="A folder; with source=kafka a topic.")
@click.option("--output", required=True, help="A folder; with source=kafka a topic.")
@click.option("--checkpoint", default="", help="A folder.  [default: _checkpoint in the output]")
@click.option("--column", default="text", show_default=True, help="That holds the texts.")
@click.option(
    "--format", "form", type=click.Choice(["parquet", "jsonl"]), default="parquet", show_default=True
)
@click.option("--prefix", default="", help="Of the names of the columns that are added.")
@click.option(
    "--once",
    type=YES_NO,
    default="no",
    show_default=True,
    help="Score what is there, and end.",
)
@click.option(
    "--every",
    type=click.FloatRange(0, 86400),
    default=5.0,
    show_default=True,
    help="Seconds between micro-batches.",
)
@click.option(
    "--most",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Files (messages: times 100) of a micro-batch.",
)
@click.option("--servers", default="127.0.0.1:9092", show_default=True, help="Kafka's, host:port.")
@master_option
def main(
    source: str,
    given: str,
    output: str,
    checkpoint: str,
    column: str,
    form: str,
    prefix: str,
    once: str,
    every: float,
    most: int,
    servers: str,
    master: str,
) -> None:
    """Run the entry point."""
    stop_in_order()
    check_installed()
    from pyspark import __version__

    from inference.batch.spark import SETTINGS

    through: Files | Topics
    settings: dict[str, str] = {}
    if source == "files":
        if not Path(given).is_dir():
            raise FileError(f"{given}: no such folder; files are moved into it when they are complete")
        into = Path(output).absolute()
        at = Path(checkpoint).absolute() if checkpoint else into / CHECKPOINT
        through = Files(Path(given).absolute(), into, at, column, form, prefix, most)
        for one in (into, at):
            if one.resolve().is_relative_to(through.given.resolve()):
                raise FileError(f"{one} lies in {given}: its files would be scored too; give another folder")
    else:
        if not checkpoint:
            raise FileError(
                "source=kafka: give the folder of the checkpoint, --checkpoint FOLDER (mlflow run: -P checkpoint=FOLDER)"
            )
        if given in (output, f"{output}.{REJECTED}"):
            raise FileError(f"the topic {given} is an output too; give another output")
        at = Path(checkpoint).absolute()
        through = Topics(servers, given, output, column, prefix, 100 * most)
        settings["spark_jars_packages"] = f"{CONNECTOR}:{__version__}"
    connect()
    with (
        through.ready(),
        tempfile.TemporaryDirectory(prefix="sentiment-") as folder,
        session(master, "stream", **SETTINGS, **settings) as spark,
        mlflow.start_run(run_name="stream") as logged,
    ):
        run(spark, through, at, Model(Path(folder)), logged.info.run_id, once == "yes", every)


if __name__ == "__main__":
    main()
