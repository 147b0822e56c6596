"""Files are scored alike on this machine, on Spark, and over HTTP; and an output appears whole or not at all."""

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from pyarrow import csv as pa_csv

from inference.batch.answers import Counts, Scored
from inference.batch.files import FileError, Piece, find, look, read
from inference.batch.output import whole
from inference.batch.score import score
from registry.versions import in_production
from spark.session import SparkError, session
from tests.conftest import Project, free_port, until

pytestmark = pytest.mark.medium

on_spark = pytest.mark.spark
ENGINES = ["local", pytest.param("spark", marks=on_spark)]
NASTY = [
    "",
    "  \t ",
    "\u200b",
    "None",
    "nan",
    " NULL ",
    "NA",
    "0",
    "A 'quoted', \"doubly\" quoted\ttext\\",
    "two\nlines\r\nand a third\rhere",
    ",,,",
    '"',
    "a\x00b",
    "😀😀 ❤",
    "ليس سيئا",
    "e" + "\u0301" * 500,
    "\ufeffwith a mark",
    "\u2028 separated \u2029",
    "<b>bold</b> &amp; &#9999999999;",
    "=1+1",
    "zxqvjk",
    "bad " * 70_000,
]


@pytest.fixture
def copy(model: str, one_session: None) -> Path:
    """The files of a version."""
    return Path(model)


def scored(copy: Path, given: Path, output: Path, engine: str, **options: Any) -> Counts:
    source = look(find(str(given)), options.pop("column", "text"))
    added = Scored(source, 7, options.pop("prefix", ""))
    return score(source, added, copy, output, engine, "local[2]", **{"overwrite": False} | options)


def as_json(path: Path) -> list[dict[str, Any]]:
    """The rows of an output of JSON lines, a file or a folder of parts."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def write_json(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@on_spark
def test_twenty_thousand_rows_are_scored_alike_on_spark_and_on_one_machine(
    copy: Path, all_reviews: pd.DataFrame, tmp_path: Path
) -> None:
    texts: list[Any] = all_reviews["review"].head(20_000).tolist()
    for at, nasty in enumerate([*NASTY, None, 5, 2.5, True, ["a"], {"a": 1}, "half \ud83d of a pair"]):
        texts[at * 700] = nasty
    rows = [
        {
            "id": at,
            "text": text,
            "stars": at / 2 if at % 3 else None,
            "of": [at],
            "mixed": at if at % 2 else "b",
            "wide": 2**53 + at if at % 2 else 0.5,
            "huge": 2**70 + at,
            "_answer": "theirs",
        }
        for at, text in enumerate(texts)
    ]
    given = write_json(tmp_path / "in.jsonl", rows)
    with given.open("ab") as file:
        file.write(b"no JSON\n[1]\n\xff\xfe\n")
    counts = {}
    for engine in ("local", "spark"):
        counts[engine] = scored(copy, given, tmp_path / f"{engine}.jsonl", engine)
    assert counts["local"] == counts["spark"]
    assert counts["local"].rows == 20_003
    parts = sorted((tmp_path / "spark.jsonl").iterdir())
    assert len(parts) > 1
    assert b"".join(part.read_bytes() for part in parts) == (tmp_path / "local.jsonl").read_bytes()

    found = as_json(tmp_path / "local.jsonl")
    assert [row["id"] for row in found[:20_000]] == list(range(20_000))
    for before, after in zip(rows, found, strict=False):
        for name in ("stars", "of", "mixed", "wide", "huge", "_answer"):
            assert before[name] == after[name]
        assert after["model_version"] == 7
        assert (after["error"] is None) == (after["sentiment"] in ("positive", "negative"))
        assert (after["error"] is None) == (after["confidence"] is not None)
        if isinstance(before["text"], str) and "half" not in before["text"]:
            assert before["text"] == after["text"]
    assert counts["local"].refused == sum(row["error"] is not None for row in found) == 16
    assert found[22 * 700]["error"] == "text is null; send a non-empty string"
    assert found[23 * 700]["error"] == "text is of type int; send a non-empty string"
    assert [row["text"] for row in found[20_000:]] == ["no JSON", "[1]", "\ufffd\ufffd"]


@pytest.mark.parametrize("engine", ENGINES)
def test_answers_are_those_over_http(
    copy: Path, model_server: int, reviews: pd.DataFrame, tmp_path: Path, engine: str
) -> None:
    texts = [*NASTY, None, *reviews["review"].head(300)]
    given = write_json(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    scored(copy, given, tmp_path / "out.jsonl", engine)
    asked = {"dataframe_split": {"columns": ["text"], "data": [[text] for text in texts]}}
    answered = requests.post(f"http://127.0.0.1:{model_server}/invocations", json=asked, timeout=60).json()
    for ours, theirs in zip(as_json(tmp_path / "out.jsonl"), answered["predictions"], strict=True):
        assert ours["sentiment"] == theirs["sentiment"]
        if theirs["error"]:
            assert ours["confidence"] is None
            assert ours["error"] == re.sub(r"^row \d+: ", "", theirs["error"])
        else:
            assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_csv_keeps_its_rows_and_strings(copy: Path, tmp_path: Path, engine: str) -> None:
    table = pa.table({"no": [f"0{at}" for at in range(len(NASTY))], "my text": NASTY, "sentiment": NASTY})
    given = tmp_path / "in.csv"
    pa_csv.write_csv(table, given)
    with given.open("ab") as file:
        file.write(b'\n7,caf\xe9,x\n8,too few\n9,too,many,fields\n10,"odd"quotes,x\n11,fine,x')
    for end in ("csv.gz", "parquet"):
        output = tmp_path / f"out.{end}"
        counts = scored(copy, given, output, engine, column="my text", prefix="p.")
        assert (counts.rows, counts.refused) == (len(NASTY) + 5, 6 + 4)
        files = sorted(output.iterdir()) if output.is_dir() else [output]
        if end == "parquet":
            found = pa.concat_tables(pq.read_table(file) for file in files).to_pylist()
        else:
            with gzip.open(files[0], "rt", newline="") as text:
                found = pd.read_csv(text, dtype=str, keep_default_na=False, lineterminator=None).to_dict(
                    "records"
                )
        assert list(found[0]) == [
            "no",
            "my text",
            "sentiment",
            "p.sentiment",
            "p.confidence",
            "p.error",
            "p.model_version",
        ]
        assert [row["no"] for row in found] == [*table["no"].to_pylist(), "7", "8", "9", "", "11"]
        assert [row["p.error"] or None for row in found[-5:]] == [
            "'my text' holds what is not UTF-8",
            "the line has 2 fields, the header has 3",
            "the line has 4 fields, the header has 3",
            "the line is not CSV: text after a closing quote; quotes within a field are doubled",
            None,
        ]
        if end == "parquet":
            assert [row["my text"] for row in found[:-5]] == NASTY
            lines = ["8,too few", "9,too,many,fields", '10,"odd"quotes,x']  # nothing of them is lost
            assert [row["my text"] for row in found[-4:-1]] == lines
            assert [row["sentiment"] for row in found[:-5]] == NASTY


@pytest.mark.parametrize("engine", ENGINES)
def test_parquet_keeps_its_types(copy: Path, tmp_path: Path, engine: str) -> None:
    now = pd.Timestamp("2026-01-02 03:04:05.678901")
    table = pa.table(
        {
            "at": pa.array([now, None], pa.timestamp("us")),
            "zoned": pa.array([now, None], pa.timestamp("us", "Europe/Berlin")),
            "TEXT": pa.array([1, None], pa.uint8()),
            "text": pa.array([b"A wonderful film.", b"caf\xe9"], pa.binary()),
            "day": pa.array([now.date(), None], pa.date32()),
            "price": pa.array([None, "1.10"]).cast(pa.decimal128(9, 2)),
            "nested": pa.array([{"a": [1, None]}, None]),
            "a.`b": pa.array(["x", None]).dictionary_encode(),
        }
    )
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "1.parquet")
    pq.write_table(table.slice(0, 1), folder / "2.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").touch()
    counts = scored(copy, tmp_path / "in", tmp_path / "out.parquet", engine)
    assert (counts.rows, counts.refused) == (3, 1)
    found = pq.read_table(tmp_path / "out.parquet")
    expected = pa.concat_tables([table, table.slice(0, 1)])
    for name in set(table.column_names) - {"text"}:
        if name != "a.`b":
            assert found[name].type == table.schema.field(name).type, name
        assert found[name].to_pylist() == expected[name].to_pylist(), name
    assert found["text"].to_pylist() == ["A wonderful film.", "caf\ufffd", "A wonderful film."]
    assert found["error"].to_pylist() == [None, "text is not UTF-8", None]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_row_is_an_output_too(copy: Path, tmp_path: Path, engine: str) -> None:
    (tmp_path / "in.csv").write_text("text,id\n")
    assert scored(copy, tmp_path / "in.csv", tmp_path / "out.parquet", engine) == Counts()
    assert pq.read_table(tmp_path / "out.parquet").column_names[:2] == ["text", "id"]
    (tmp_path / "in.jsonl").touch()
    assert scored(copy, tmp_path / "in.jsonl", tmp_path / "out.jsonl", engine) == Counts()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_value_that_the_format_cannot_hold_is_one_line(copy: Path, tmp_path: Path, engine: str) -> None:
    table = pa.table({"text": ["Dull."], "raw": [b"\xff"], "at": pa.array([2**62], pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "in.parquet")
    for end, said in (("csv", "a value cannot be written as csv: .*UTF8"), ("jsonl", "as jsonl: ")):
        with pytest.raises(click.ClickException, match=said) as told:
            scored(copy, tmp_path / "in.parquet", tmp_path / f"out.{end}", engine)
        assert "\n" not in told.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_rows_of_many_batches_come_out_in_the_order_they_went_in(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.batch.files.ROWS", 2)
    rows = [{"text": "Dull." if at % 3 else "", "id": at} for at in range(11)]
    scored(copy, write_json(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", "local")
    found = as_json(tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == list(range(11))
    assert [row["error"] is None for row in found] == [bool(row["text"]) for row in rows]


def test_an_output_that_holds_the_input_is_refused(copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both.csv"
    folder.mkdir()
    (folder / "in.csv").write_text("text\nDull.\n")
    with pytest.raises(FileError, match=r"both.csv is an input too, or holds one"):
        scored(copy, folder, folder, "local", overwrite=True)
    assert (folder / "in.csv").exists()


def test_an_utf_16_file_is_read(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes("text,id\ncafé,1\n".encode("utf-16"))
    scored(copy, tmp_path / "in.csv", tmp_path / "out.jsonl", "local")
    assert as_json(tmp_path / "out.jsonl")[0]["text"] == "café"


def bad_inputs(folder: Path) -> Iterator[tuple[str, str, str]]:
    """A name, what is given, and what is said."""
    good = '{"text": "good", "id": 1}\n'
    yield "missing", "nowhere.csv", r"nowhere.csv: no such file or folder; a relative path counts from /"
    yield "no match", f"{folder}/*.parquet", "no file matches"
    (folder / "empty").mkdir()
    (folder / "empty" / "_SUCCESS").touch()
    yield "empty folder", f"{folder}/empty", "the folder holds no file"
    (folder / "void.csv").touch()
    yield "empty file", f"{folder}/void.csv", "is empty; its first line must name its columns"
    (folder / "other.csv").write_text("review,stars\na,1\n")
    yield (
        "no column",
        f"{folder}/other.csv",
        r"no column 'text' \(it has: review, stars\); say which with --column NAME",
    )
    (folder / "semicolons.csv").write_text("text;id\na;1\n")
    yield (
        "semicolons",
        f"{folder}/semicolons.csv",
        r"no column 'text' \(it has: text;id\); separate fields by commas, not ';'",
    )
    (folder / "two").mkdir()
    (folder / "two" / "1.csv").write_text("text,id\na,1\n")
    (folder / "two" / "2.csv").write_text("text,no\na,1\n")
    yield (
        "other columns",
        f"{folder}/two",
        r"2.csv and \S*1.csv differ: only the second has a column 'id'",
    )
    (folder / "mix").mkdir()
    (folder / "mix" / "1.csv").write_text("text\na\n")
    (folder / "mix" / "2.jsonl").write_text(good)
    yield "two formats", f"{folder}/mix", "are of several formats"
    (folder / "drift").mkdir()
    (folder / "drift" / "1.jsonl").write_text(good)
    (folder / "drift" / "2.jsonl").write_text('{"text": "bad", "id": "five"}\n')
    yield "another type", f"{folder}/drift", "2.jsonl: the column 'id' holds \"five\", which is no int64"
    whole_numbers = "".join(f'{{"text": "good", "id": {at}}}\n' for at in range(10_000))
    (folder / "cut.jsonl").write_text(f'{whole_numbers}{{"text": "bad", "id": 1.5}}\n')
    yield "a fraction", f"{folder}/cut.jsonl", "the column 'id' holds 1.5, which is no int64"
    (folder / "new").mkdir()
    (folder / "new" / "1.jsonl").write_text(good)
    (folder / "new" / "2.jsonl").write_text('{"text": "bad", "new": 1}\n')
    yield "a new column", f"{folder}/new", "2.jsonl: the column 'new' stands in the line"
    (folder / "broken").mkdir()
    for at in range(4):
        (folder / "broken" / f"{at}.jsonl.gz").write_bytes(
            gzip.compress(good.encode() * 1000)[: 30 if at == 2 else None]
        )
    yield "broken in the middle", f"{folder}/broken", r"2.jsonl.gz cannot be read: "
    (folder / "open.csv").write_text('text,id\n"it does not end,1\n' + "more,2\n" * 1000)
    yield "open quote", f"{folder}/open.csv", r"open.csv, line \d+: a field in quotes does not end"
    (folder / "no.parquet").write_text("no Parquet at all")
    yield "no Parquet", f"{folder}/no.parquet", "no.parquet cannot be read: "
    pq.write_table(pa.table({"text": [1, 2]}), folder / "numbers.parquet")
    yield "numbers", f"{folder}/numbers.parquet", "the column 'text' is int64, no string"
    (folder / "notes.txt").write_text("text\na\n")
    yield "unknown format", f"{folder}/notes.txt", "the name does not say the format; expected .csv"
    (folder / "twice.csv").write_text("text,id,id\na,1,2\n")
    yield "a column twice", f"{folder}/twice.csv", "the column 'id' twice; rename one"
    (folder / "taken.csv").write_text("text,sentiment\na,1\n")
    yield "a taken name", f"{folder}/taken.csv", r"has a column 'sentiment' of its own; give a prefix"


def read_all(path: str) -> None:
    source = Scored(look(find(path), "text"), 7).source
    for file in source.files:
        deque(read(source, Piece(file)), maxlen=0)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for name, path, said in bad_inputs(tmp_path):
        with pytest.raises(FileError, match=said) as told:
            read_all(path)
        assert "\n" not in told.value.message, name


@pytest.mark.parametrize("engine", ENGINES)
def test_where_reading_fails_nothing_is_written(copy: Path, tmp_path: Path, engine: str) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for name, path, said in bad_inputs(given):
        if name in ("another type", "broken in the middle", "a fraction"):
            with pytest.raises((FileError, SparkError), match=said) as told:
                scored(copy, Path(path), tmp_path / "out" / "scored.jsonl", engine)
            assert "\n" not in told.value.message, name
            assert not list((tmp_path / "out").iterdir()), name


@pytest.mark.large
def test_a_line_of_a_hundred_megabytes_is_a_row_with_a_reason(copy: Path, tmp_path: Path) -> None:
    rows = [{"text": "A wonderful film."}, {"text": "x" * 100_000_000}, {"text": "Dull."}]
    scored(copy, write_json(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet", "local")
    found = pq.read_table(tmp_path / "out.parquet", columns=["sentiment", "error"])
    assert found["error"].to_pylist() == [None, "text is longer than 16 MiB; send a shorter one", None]


def test_an_output_is_whole_refused_and_replaced(tmp_path: Path) -> None:
    output = tmp_path / "new" / "scored.csv"
    with whole(output, False) as hidden:
        hidden.write_text("first")
        with pytest.raises(FileError, match="is being written by another process"), whole(output, True):
            pass
    assert output.read_text() == "first"
    with pytest.raises(FileError, match="is there already; give --overwrite yes"), whole(output, False):
        pass

    def fail(fault: BaseException) -> None:
        with whole(output, True) as hidden:
            hidden.write_text("half")
            raise fault

    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    with pytest.raises(FileError, match="No space left"):
        fail(OSError(28, "No space left on device"))
    assert output.read_text() == "first"
    with whole(output, True) as hidden:
        hidden.mkdir()
        (hidden / "part").write_text("second")
    assert (output / "part").read_text() == "second"
    link = tmp_path / "link.csv"
    link.symlink_to(output)
    with whole(link, True) as hidden:
        hidden.write_text("third")
    assert link.is_symlink()
    assert output.read_text() == "third"
    output.rename(
        output.with_name(".scored.csv.old")
    )  # as a process leaves it that is killed between its two renames
    with pytest.raises(FileError, match="is there already"), whole(output, False):
        pass
    assert [path.name for path in output.parent.iterdir()] == ["scored.csv"]


@contextmanager
def scoring(project: Project, *options: str) -> Iterator["subprocess.Popen[str]"]:
    with project.start("python", "-m", "inference.batch.score", *options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.large
def test_a_job_that_is_killed_leaves_nothing_and_the_next_one_finishes(
    project: Project, all_reviews: pd.DataFrame, tmp_path: Path, number: signal.Signals
) -> None:
    given, output = tmp_path / "in.csv", tmp_path / "out.csv"
    all_reviews[["review"]].to_csv(given, index=False)
    options = ("--input", str(given), "--output", str(output), "--column", "review")
    with scoring(project, *options) as process:
        part = tmp_path / ".out.csv.part"
        # the first line stands there while processes start, which must not be cut off; kill -9 cannot be held
        least = 1000 if number == signal.SIGKILL else 1
        until(lambda: part.exists() and part.stat().st_size >= least)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in told
    assert not output.exists()
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "who scores ends with who asked"
    if number == signal.SIGKILL:  # which alone leaves something
        told = project.run("python", "-m", "inference.batch.score", *options)
        assert f"out.csv: {len(all_reviews):,} rows" in told
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
        assert len(pd.read_csv(output)) == len(all_reviews)


def test_the_entry_point_and_make_score_files(project: Project, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,id\nA wonderful film.,1\n,2\n")
    command = [
        "mlflow",
        "run",
        ".",
        "--env-manager",
        "local",
        "-e",
        "score",
        "-P",
        f"input={tmp_path}/in.csv",
    ]
    told = project.run(*command, "-P", f"output={tmp_path}/out.jsonl")
    assert "out.jsonl: 2 rows, 1 positive, 1 without an answer (column error says why)" in told
    first, second = as_json(tmp_path / "out.jsonl")
    (production,) = in_production(project.client())
    assert (first["sentiment"], first["model_version"]) == ("positive", production.number)
    assert second["error"] == "text is blank; send a non-empty string"
    run = max(project.client().search_runs(["0"]), key=lambda run: run.info.start_time)
    assert run.data.tags["version"] == str(production.number)
    assert (run.data.metrics["rows"], run.data.metrics["rows_without_answer"]) == (2, 1)

    told = project.make("score", f"INPUT={tmp_path}/in.csv", f"OUTPUT={tmp_path}/out.jsonl", code=2)
    assert "out.jsonl is there already; give --overwrite yes" in told
    told = project.make(
        "score", f"INPUT={tmp_path}/in.csv", f"OUTPUT={tmp_path}/o.csv", "ARGS=--version 99", code=2
    )
    assert "SentimentClassifier has no version '99' (it has: " in told


@pytest.mark.large
def test_what_is_missing_for_spark_is_said_in_one_line(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.csv").write_text("text\nA wonderful film.\n")

    def told(before: str, master: str) -> str:
        options = ["--input", f"{tmp_path}/in.csv", "--output", f"{tmp_path}/out.csv", "--engine", "spark"]
        run = f"{before}\nfrom inference.batch.score import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-c", run, *options, "--master", master],
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not list(tmp_path.glob("*out*"))
        return done.stderr

    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'pyspark' else f(n)"
    assert "Apache Spark is not installed: run 'make env-spark'" in told(hide, "local[1]")

    pytest.importorskip("pyspark", reason="what follows is said of a Spark that is installed")
    if shutil.which("java"):
        nobody = f"spark://127.0.0.1:{free_port()}"
        assert f"{nobody} does not answer" in told("", nobody)

    def refused(master: str, said: str) -> None:
        with pytest.raises(SparkError, match=said) as told, session(master, "tests"):
            pass
        assert "\n" not in told.value.message

    refused("yarm", r"master='yarm' is not known; expected local\[n\]")
    if shutil.which("java"):
        refused("yarn", "set HADOOP_CONF_DIR")
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    refused("local[1]", "Spark needs Java 17 or newer")
    old = tmp_path / "old" / "bin"
    old.mkdir(parents=True)
    (old / "java").write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    (old / "java").chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(old.parent))
    refused("local[1]", 'openjdk version "11.0.2"')


@on_spark
def test_a_cluster_scores_on_when_an_executor_is_killed(
    project: Project, all_reviews: pd.DataFrame, tmp_path: Path
) -> None:
    """A real master and a real worker, on the loopback address."""
    import pyspark

    given = write_json(
        tmp_path / "in.jsonl",
        all_reviews.rename(columns={"review": "text"})[["text"]].head(5000).to_dict("records"),
    )
    options = ("--input", str(given), "--column", "text")
    project.run("python", "-m", "inference.batch.score", *options, "--output", str(tmp_path / "local.jsonl"))

    port = free_port()
    master = f"spark://127.0.0.1:{port}"
    environment = project.environment | {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_JAVA_OPTS": os.environ["SPARK_SUBMIT_OPTS"],
        "SPARK_WORKER_DIR": str(tmp_path / "work"),
    }
    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    deploy = "org.apache.spark.deploy"
    where = ["--host", "127.0.0.1", "--webui-port", "0"]
    commands = [
        [spark_class, f"{deploy}.master.Master", *where, "--port", str(port)],
        [spark_class, f"{deploy}.worker.Worker", *where, "--cores", "2", "--memory", "2g", master],
    ]
    cluster = [
        subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        until(lambda: listens(port), what="the master")
        output = tmp_path / "cluster.jsonl"
        project.environment["SPARK_LOCAL_IP"] = "127.0.0.1"
        with scoring(
            project, *options, "--output", str(output), "--engine", "spark", "--master", master
        ) as process:
            hidden = tmp_path / ".cluster.jsonl.part"
            until(lambda: list(hidden.glob("_*")) or process.poll() is not None, 180, "a first part")
            executors = [
                child
                for child in psutil.Process(cluster[1].pid).children(recursive=True)
                if child.status() != psutil.STATUS_ZOMBIE
                and "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())
            ]
            assert len(executors) == 1
            executors[0].kill()
            told, _ = process.communicate(timeout=300)
        assert process.returncode == 0, told
    finally:
        del project.environment["SPARK_LOCAL_IP"]
        for server in cluster:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    logs = list((tmp_path / "work").glob("app-*/*"))
    assert len(logs) >= 2, "a second executor came in the place of the first"
    found = b"".join(part.read_bytes() for part in sorted(output.iterdir()))
    assert found == (tmp_path / "local.jsonl").read_bytes()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
