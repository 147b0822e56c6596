"""Each row of a stream comes out once, whatever is killed when; bad ones apart; by the version in Production."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from inference.batch.answers import Counts
from inference.batch.files import FileError
from inference.batch.stream import Files, Model, main
from tests.conftest import ROOT, until
from tests.inference.conftest import Registry

pytestmark = pytest.mark.spark
GIVEN = "in [1] 50%41"  # neither a pattern nor encoded
KILLS = int(os.environ.get("KILLS", "1"))


def arrive(folder: Path, name: str, rows: list[Any], compress: bool = False) -> None:
    """Move a complete file of JSON lines into a folder."""
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    hidden = folder.with_name(f"{folder.name}-{name}")
    hidden.write_bytes(gzip.compress(content) if compress else content)
    hidden.rename(folder / name)


def rows(output: Path) -> list[dict[str, Any]]:
    """What a folder of micro-batches holds, in their order."""
    found = []
    for part in sorted(output.glob("batch-*/part-*")):
        assert part.suffix in (".jsonl", ".parquet")
        if part.suffix == ".parquet":
            found += pq.read_table(part).to_pylist()
        else:
            found += [json.loads(line) for line in part.read_bytes().splitlines()]
    return found


class Streaming:
    """The entry point in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.given, self.output = folder / "in", folder / "out"
        self.given.mkdir()
        self._log = folder / "log"
        self._options = ("--input", str(self.given), "--output", str(self.output), "--every", "0", *options)

    @contextmanager
    def running(self, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
        command = [
            sys.executable,
            "-m",
            "inference.batch.stream",
            "--master",
            "local[2]",
            *self._options,
            *options,
        ]
        with self._log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run_once(self) -> None:
        with self.running("--once", "yes") as process:
            assert process.wait(timeout=300) == 0, self.log()

    def works_past(self, batches: int, process: "subprocess.Popen[bytes]") -> bool:
        """Whether a micro-batch is in work after so many, or the process has ended."""
        done = len(list((self.output / "scored").glob("batch-*")))
        return process.poll() is not None or (done >= batches and any(self.output.glob("_batch-*")))

    def log(self) -> str:
        return self._log.read_text()

    def scored(self) -> list[dict[str, Any]]:
        return rows(self.output / "scored")


@pytest.fixture
def once(versions: Registry, one_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Score what is in a folder, in this process."""
    from pyspark.sql import SparkSession

    from inference.batch.stream import run

    versions.add()
    versions.promote(1)
    given, output = tmp_path / GIVEN, tmp_path / "out"
    given.mkdir()

    def score(form: str = "jsonl", most: int = 100) -> Path:
        spark = SparkSession.getActiveSession()
        assert spark
        checkpoint = output / "_checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        model = Model(tmp_path)
        with mlflow.start_run() as logged:
            files = Files(given, output, checkpoint, "text", form, "", most)
            run(spark, files, checkpoint, model, logged.info.run_id, once=True, every=0)
        return output

    return score


def test_bad_rows_and_files_go_apart_with_their_reason(once: Any, tmp_path: Path) -> None:
    given = tmp_path / GIVEN
    (given / "0.jsonl").write_text("garbage\n")  # it says nothing of the columns
    arrive(
        given,
        "1.jsonl",
        [{"id": 1, "text": "A wonderful film."}, {"id": 2, "text": None}, {"id": 3, "text": 5}],
    )
    output = once()
    arrive(
        given,
        "2 ü%20#?.jsonl",
        [{"id": "x", "text": "Dull."}, {"id": 4, "text": "Dull.", "new": 1}, {"id": 5, "text": "Dull."}],
    )
    arrive(given, "3.jsonl.gz", [{"id": 6, "text": "Dull."}], compress=True)
    (given / "4.jsonl.gz").write_bytes(gzip.compress(b'{"id": 7, "text": "Dull."}\n' * 999)[:40])
    (given / "5.csv").write_text("text,other\nDull.,1\n")
    (given / "6.txt").write_text("Dull.")
    (given / "7.jsonl").write_bytes(b'{"id": 8, "text": "Dull."}\nno JSON\n')
    once()
    assert [row["id"] for row in rows(output / "scored")] == [1, 5, 6, 8]
    assert all(row["error"] is None and row["model_version"] == 1 for row in rows(output / "scored"))
    rejected = rows(output / "rejected")
    assert all(row["sentiment"] is None and row["error"] for row in rejected)
    by_reason = {row["error"].removeprefix(f"{given}/"): row["text"] for row in rejected}
    expected = {
        "text is null; send a non-empty string": None,
        "text is of type int; send a non-empty string": '{"id": 3, "text": 5}',
        "2 ü%20#?.jsonl: the column 'id' holds \"x\", which is no int64; the columns are those of the first file of the stream": '{"id": "x", "text": "Dull."}',
        "2 ü%20#?.jsonl: the column 'new' is new; the columns are those of the first file of the stream": '{"id": 4, "text": "Dull.", "new": 1}',
        "the line is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0)": "no JSON",
    }
    assert expected.items() <= by_reason.items()
    for start in (
        "4.jsonl.gz cannot be read: ",
        "5.csv and the first file of the stream differ: only the second has a column 'id'",
        "6.txt: the name does not say",
    ):
        assert sum(reason.startswith(start) for reason in by_reason) == 1, start
    assert len(rejected) == 9


def test_parquet_in_and_out_and_nothing_new(once: Any, tmp_path: Path) -> None:
    from pyspark.sql import SparkSession

    table = pa.table({"text": ["A wonderful film.", ""], "n": pa.array([1, 2], pa.uint8())})
    for at in range(5):
        pq.write_table(table, tmp_path / GIVEN / f"{at}.parquet")
        os.utime(tmp_path / GIVEN / f"{at}.parquet", (at * 1e8, at * 1e8))  # of years: none is too old
    output = once("parquet", most=2)
    once("parquet")
    assert len(list((output / "scored").glob("batch-*"))) == 3
    assert [row["n"] for row in rows(output / "scored")] == [1] * 5
    assert [row["n"] for row in rows(output / "rejected")] == [2] * 5

    other = Files(tmp_path / GIVEN, output, tmp_path / "other", "text", "parquet", "", 2)
    with pytest.raises(FileError, match=r"holds batch-000000002, which .*other has not begun"), other.ready():
        pass  # else new files would be taken for done
    with replace(other, checkpoint=output / "_checkpoint").ready():
        pass

    spark = SparkSession.getActiveSession()
    assert spark
    gone = spark.createDataFrame([], "path string, modificationTime timestamp")
    assert other.take(gone, 9, Model(tmp_path)) == (Counts(), 0)
    assert (output / "scored" / "batch-000000009").exists()


def spoil(folder: Path) -> None:
    """Take the settings of a model's text cleaning away."""
    next(folder.rglob("settings.json")).write_text("{}")


def test_a_stream_follows_production_and_ends_at_a_signal(versions: Registry, tmp_path: Path) -> None:
    """The next micro-batch has the new version; a bad one, or no registry, does not end it."""
    streaming = Streaming(tmp_path, "--format", "jsonl")
    versions.add(), versions.add()
    versions.promote(1)

    def next_version(name: str) -> int:
        before = len(streaming.scored())
        arrive(streaming.given, name, [{"text": "A wonderful film."}])
        found = until(lambda: streaming.scored()[before:], 120, "a scored row")
        return int(found[0]["model_version"])

    with streaming.running() as process:
        assert next_version("1.jsonl") == 1
        with streaming.running() as second:
            assert second.wait(timeout=60) == 1
        assert f"{streaming.output} is being written by another process" in streaming.log()
        versions.promote(2)
        assert next_version("2.jsonl") == 2
        bad = versions.forge(spoil, tmp_path / "bad")
        versions.promote(bad.number)
        assert next_version("3.jsonl") == 2
        assert "WARNING: version 2 goes on scoring: " in streaming.log()
        database = tmp_path / "store" / "mlflow.db"
        database.rename(tmp_path / "gone")
        (tmp_path / "store" / "mlflow.db").mkdir()
        assert next_version("4.jsonl") == 2
        (tmp_path / "store" / "mlflow.db").rmdir()
        (tmp_path / "gone").rename(database)
        versions.promote(1)
        assert next_version("5.jsonl") == 1
        (run,) = [r for r in versions.client.search_runs(["0"]) if r.info.run_name == "stream"]

        def logged() -> dict[int, float]:
            history = versions.client.get_metric_history(run.info.run_id, "version")
            return {m.step: m.value for m in history}

        until(lambda: 4 in logged(), 60, "the version of the last micro-batch")
        process.terminate()
        assert process.wait(timeout=60) == 0
    assert "ended by SIGTERM; it goes on where it was" in streaming.log()
    assert "Traceback" not in streaming.log(), streaming.log()
    found = logged()
    assert [found[step] for step in (0, 1, 4)] == [1, 2, 1]
    run = versions.client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert {"rows", "rows_rejected", "rows_per_second", "lag_seconds"} <= run.data.metrics.keys()


def test_each_row_comes_out_once_however_often_it_is_killed(versions: Registry, tmp_path: Path) -> None:
    """KILLS=20 kills it so often, at any moment from the start of a micro-batch on, and starts it again."""
    versions.add()
    versions.promote(1)
    streaming = Streaming(tmp_path, "--format", "jsonl", "--most", "3")
    chance = random.Random(0)
    stop = threading.Event()
    sent: list[int] = []

    def feed() -> None:
        at = 0
        while not stop.wait(0.2):
            if at // 40 > 3 * len(list((streaming.output / "scored").glob("batch-*"))) + 4:
                continue  # enough is waiting
            texts = [{"id": at + i, "text": "Dull." if i % 5 else None} for i in range(40)]
            arrive(streaming.given, f"{at:06}.jsonl", texts)
            sent.extend(range(at, at + 40))
            at += 40

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        for _ in range(KILLS):
            with streaming.running() as process:
                before = len(list((streaming.output / "scored").glob("batch-*")))
                reached = partial(streaming.works_past, before + chance.randrange(3), process)
                until(reached, 120, "a micro-batch")
                assert process.poll() is None, streaming.log()
                time.sleep(chance.uniform(0, 2))
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        stop.set()
        feeder.join()
    streaming.run_once()
    found = Counter(row["id"] for row in streaming.scored() + rows(streaming.output / "rejected"))
    assert found == Counter(sent), "lost or twice"
    assert all(id % 5 for id in (row["id"] for row in streaming.scored()))
    assert not list(streaming.output.glob("_batch-*")), "what was half-written is removed"
    print(f"{KILLS} kills, {len(sent):,} rows, none lost, none twice")


def test_messages_of_kafka_become_answers(versions: Registry, model: str, one_session: None) -> None:
    """What is done with messages; no broker is asked here."""
    from pyspark.sql import SparkSession

    from inference.batch.answers import Scored
    from inference.batch.files import FAULT, Source
    from inference.batch.spark import as_messages, messages, udf, with_answers

    spark = SparkSession.getActiveSession()
    assert spark
    values = [b'{"text": "A wonderful film.", "id": 1}', b'{"text": null}', b"no JSON", None, b'{"other": 1}']
    table = spark.createDataFrame(
        [(None, value, "reviews", 3, 10 + at) for at, value in enumerate(values)],
        "key binary, value binary, topic string, partition int, offset long",
    ).coalesce(1)
    schema = pa.schema([(name, pa.string()) for name in ("place", "message", "text", FAULT)])
    source = Source([Path("reviews")], "text", schema)
    scored = Scored(source, 1)
    answers = with_answers(messages(table, "text"), udf(spark, Path(model)), source, scored)
    sent = as_messages(answers, scored, "answers").collect()
    assert [row.key for row in sent] == [f"reviews/3/{10 + at}" for at in range(5)]
    assert [row.topic for row in sent] == ["answers"] + ["answers.rejected"] * 4
    read = [json.loads(row.value) for row in sent]
    assert read[0]["message"] == '{"text": "A wonderful film.", "id": 1}'
    assert (read[0]["sentiment"], read[0]["model_version"], read[0]["error"]) == ("positive", 1, None)
    assert [row["error"] for row in read[1:]] == [
        "text is null; send a non-empty string",
        "the line is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0)",
        "the line is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0)",
        "text is null; send a non-empty string",
    ]


def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    for options, said in (
        (["--input", "nowhere"], "nowhere: no such folder"),
        (["--input", "topic", "--source", "kafka"], "source=kafka: give the folder of the checkpoint"),
        (["--input", str(tmp_path)], f"lies in {tmp_path}: its files would be scored too"),
        (
            ["--input", f"{output}.rejected", "--source", "kafka", "--checkpoint", str(tmp_path / "c")],
            "is an output too",
        ),
    ):
        told = CliRunner().invoke(main, [*options, "--output", output])
        assert told.exit_code == 1
        assert said in told.stderr
        assert len(told.stderr.splitlines()) == 1, told.stderr
        assert not (tmp_path / "out").exists()
