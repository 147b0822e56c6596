import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from data import ingest as module
from data.errors import DataError
from data.ingest import ingest, read_summary, rejects_path, summary_path
from data.table import read_table
from tests.conftest import ROOT


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\u00a0@", "＝"])
def test_no_cell_of_the_rejects_is_a_formula(start: str) -> None:
    assert module._inert([f"{start}1+1", "fine"]) == [f"'{start}1+1", "fine"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.csv"
    lines = [f"=film number {i},{'positive' if i % 2 else 'negative'}\n" for i in range(100)]
    path.write_text("review,sentiment\n" + "".join(lines) + "=1+1,neutral\n")
    return path


def test_table_rejects_and_summary_are_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "imdb.csv"
    summary = ingest(str(source), 0.1, out)
    assert summary["rows"] == len(read_table(out)) == 100
    assert summary["classes"] == {"negative": 50, "positive": 50}
    assert summary["rejected"] == 1
    assert json.loads(summary_path(out).read_text()) == summary
    rejects = pd.read_csv(rejects_path(out))
    assert rejects["where"].tolist() == ["line 102"]
    assert rejects["review"].tolist() == ["'=1+1"], "a spreadsheet must not run it"


def test_reviews_come_back_as_they_went_in(tmp_path: Path) -> None:
    texts = ['say "hi",\nthen\r\ngo', "NA", "nul \x00 inside", "<br />&amp; 😀", "  spaces  "]
    source = tmp_path / "source.csv"
    table = pd.DataFrame({"review": [*texts, "bad"], "sentiment": ["positive"] * 5 + ["negative"]})
    module._write_csv(source, table.columns, table.itertuples(index=False))
    ingest(str(source), 0.1, tmp_path / "imdb.csv")
    assert read_table(tmp_path / "imdb.csv")["review"].tolist() == [*texts, "bad"]


def test_a_second_call_keeps_the_table(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "imdb.csv"
    first = ingest(str(source), 0.1, out)
    stamp = out.stat().st_mtime_ns
    assert ingest(str(source), 0.1, out) == first
    assert out.stat().st_mtime_ns == stamp
    assert "is there already" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["source", "table", "test_size", "summary"])
def test_whatever_changed_makes_the_table_anew(source: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "imdb.csv"
    ingest(str(source), 0.1, out)
    if change == "source":
        source.write_text(source.read_text() + "one more film,positive\n")
    elif change == "table":
        out.write_text("review,sentiment,split,source\nbroken")
    elif change == "summary":
        summary_path(out).write_text("{")
    summary = ingest(str(source), 0.3 if change == "test_size" else 0.1, out)
    assert len(read_table(out)) == summary["rows"] == (101 if change == "source" else 100)
    assert read_summary(out) == summary


def test_a_failed_ingest_leaves_the_old_table(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "imdb.csv"
    ingest(str(source), 0.1, out)
    before = out.read_bytes()
    source.write_text("review,sentiment\nall,bad\n")
    with pytest.raises(DataError):
        ingest(str(source), 0.1, out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*part"))


def test_a_write_that_breaks_off_leaves_the_old_table(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "imdb.csv"
    first = ingest(str(source), 0.1, out)

    def full(path: Path, *_: object) -> None:
        path.write_text("half a ta")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module, "_write_csv", full)
        with pytest.raises(DataError, match=r"imdb.csv.* cannot be written \(No space left"):
            ingest(str(source), 0.3, out)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*part"))
    assert ingest(str(source), 0.1, out)["rows"] == first["rows"] == len(read_table(out))


@pytest.mark.parametrize("name", ["imdb.rejects.csv", "imdb.summary.json", "imdb.csv"])
def test_no_output_is_taken_for_a_source_and_no_file_of_the_user_for_an_output(
    source: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "imdb.csv"
    mine = out.with_name(name)
    mine.write_text("mine\n")
    with pytest.raises(DataError, match="is your own"):
        ingest(str(source), 0.1, out)
    assert mine.read_text() == "mine\n"
    mine.unlink()
    ingest(str(source), 0.1, out)
    before = mine.read_bytes()
    with pytest.raises(DataError, match="is a file that ingest writes itself"):
        ingest(str(mine), 0.1, out)
    assert mine.read_bytes() == before


def test_two_ingests_at_once_leave_one_whole_table(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("review,sentiment\n" + "".join(f"film {i},{i % 2}\n" for i in range(60)))
    out = tmp_path / "imdb.csv"
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda path: ingest(str(path), 0.1, out), [source, other] * 4))
    assert len(read_table(out)) == read_summary(out)["rows"]
    assert len(read_table(out)) in (60, 100)


def test_a_file_of_the_users_own_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "imdb.csv"
    out.write_text("review,sentiment\nmine,positive\n")
    for given in (source, out):
        with pytest.raises(DataError, match=r"your own: move it away .*\(nothing was changed\)"):
            ingest(str(given), 0.1, out)
    assert out.read_text() == "review,sentiment\nmine,positive\n"


def test_edits_of_the_table_are_kept_aside(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "imdb.csv"
    ingest(str(source), 0.1, out)
    edited = out.read_text() + "mine,positive,train,csv\n"
    out.write_text(edited)
    ingest(str(source), 0.1, out)
    assert len(read_table(out)) == 100
    assert [path.read_text() for path in tmp_path.glob("imdb.????????.csv")] == [edited]


@pytest.mark.parametrize("summary", [None, "{", "{\n}"], ids=["missing", "broken", "of something else"])
def test_a_table_whose_summary_cannot_be_read_is_kept_aside(
    source: Path, tmp_path: Path, summary: str | None
) -> None:
    out = tmp_path / "imdb.csv"
    ingest(str(source), 0.1, out)
    edited = out.read_text() + "mine,positive,train,csv\n"
    out.write_text(edited)
    if summary is None:
        summary_path(out).unlink()
    else:
        summary_path(out).write_text(summary)
    ingest(str(source), 0.1, out)
    assert len(read_table(out)) == 100
    assert [path.read_text() for path in tmp_path.glob("imdb.????????.csv")] == [edited]


def test_a_table_changed_by_hand_is_noticed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "imdb.csv"
    ingest(str(source), 0.1, out)
    out.write_text(out.read_text() + "mine,positive,train,csv\n")
    with pytest.raises(DataError, match="was changed since ingest wrote it"):
        read_summary(out)


@pytest.mark.large
def test_fifty_thousand_reviews_load(all_reviews: pd.DataFrame, tmp_path: Path) -> None:
    source = tmp_path / "kaggle.csv"
    long = all_reviews[all_reviews["source"] == "imdb"]
    again = long.assign(review=long["review"] + " again")
    table = pd.concat([long, again])[["review", "sentiment"]]
    table.to_csv(source, index=False)
    start = time.perf_counter()
    summary = ingest(str(source), 0.1, tmp_path / "imdb.csv")
    print(
        f"{summary['rows']} rows of {source.stat().st_size / 1e6:.0f} MB: {time.perf_counter() - start:.1f} s"
    )
    assert summary["rows"] == len(table)


LITTLE_DISK = """
import resource, sys
from pathlib import Path
from data import ingest, table

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
if sys.argv[1] == "sift":
    ingest.ingest("large.csv", 0.1, Path("new.csv"))
else:
    table.read_table(Path("imdb.csv"))
"""


@pytest.mark.parametrize(
    ("what", "says"), [("sift", "cannot be kept on disk while they are read"), ("read", "cannot be kept in")]
)
@pytest.mark.large
def test_a_disk_too_small_for_the_texts_is_one_clear_line(tmp_path: Path, what: str, says: str) -> None:
    rows = "".join(f"film {row} {'was so good ' * 2000},{row % 2}\n" for row in range(1_500))
    (tmp_path / "large.csv").write_text(f"text,label\n{rows}")
    if what == "read":
        ingest(str(tmp_path / "large.csv"), 0.1, tmp_path / "imdb.csv")
    before = {path.name for path in tmp_path.iterdir()} | {".new.csv.lock"}
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_DISK, what],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SQLITE_TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"DataError: {'large' if what == 'sift' else 'imdb'}.csv: " in done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} <= before, "nothing is left of what was begun"
