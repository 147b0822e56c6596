import csv
import functools
import gzip
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data import sources
from data.errors import DataError
from data.sources import MAX_UNPACKED, download, locate, read, read_aclimdb, read_csv
from data.table import build
from files import file_digest


def csv_file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read_all(path: Path) -> list[tuple[str, str, str]]:
    return [(row.review, row.sentiment, row.fault) for row in read_csv(path, "csv")]


def test_package_has_25000_imdb_reviews_and_8530_sentences() -> None:
    rows = list(read("package", locate("package", Path())))
    assert sum(row.source == "imdb" for row in rows) == 25_000
    assert sum(row.source == "rotten_tomatoes" for row in rows) == 8_530


@pytest.mark.parametrize("header", ["review,sentiment", "text,label", "Text , LABEL", "id,label,text"])
def test_csv_columns_go_by_either_name(tmp_path: Path, header: str) -> None:
    cells = {"review": "good", "text": "good", "sentiment": "1", "label": "1", "id": "7"}
    row = ",".join(cells[name.strip().lower()] for name in header.split(","))
    assert read_all(csv_file(tmp_path, f"{header}\n{row}\n")) == [("good", "1", "")]


def test_csv_without_the_columns_says_what_it_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: the columns are 'a', 'b'; expected 'review'"):
        list(read_csv(csv_file(tmp_path, "a,b\n1,2\n"), "csv"))


def test_empty_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        list(read_csv(csv_file(tmp_path, ""), "csv"))


@pytest.mark.parametrize(
    ("content", "review"),
    [
        ("\ufeffreview,sentiment\nfine,positive\n".encode(), "fine"),
        ("review,sentiment\ncafé 😀,positive\n".encode("utf-16"), "café 😀"),
        (b"review,sentiment\r\nfine\x00film,positive\r\n", "fine\x00film"),
        (b'review,sentiment\n"two\nlines, one ""row""",positive\n', 'two\nlines, one "row"'),
        (b"review,sentiment\n" + b"long " * 200_000 + b",positive\n", "long " * 200_000),
    ],
    ids=["bom", "utf-16", "nul", "quoted newline", "one million characters"],
)
def test_csv_reads_what_spreadsheets_write(tmp_path: Path, content: bytes, review: str) -> None:
    assert read_all(csv_file(tmp_path, content)) == [(review, "positive", "")]


@pytest.mark.parametrize("fault", [b"\n", b"\x3d\xd8"], ids=["odd byte at the end", "lone surrogate"])
def test_a_wrong_byte_in_utf_16_costs_one_row(tmp_path: Path, fault: bytes) -> None:
    good = "".join(f"film number {i},positive\nbad film number {i},negative\n" for i in range(1000))
    content = f"review,sentiment\n{good}".encode("utf-16")
    middle = len(content) // 2 // 2 * 2
    broken = content + fault if fault == b"\n" else content[:middle] + fault + content[middle:]
    found = build(read_csv(csv_file(tmp_path, broken), "csv"), 0.1, "reviews.csv")
    assert len(found.table) >= 1999
    assert len(found.rejects) == 1


def test_broken_rows_are_named_by_line_and_the_others_kept(tmp_path: Path) -> None:
    good = "".join(f"a good film number {i},positive\na bad film number {i},negative\n" for i in range(100))
    content = (
        b"review,sentiment\n"
        + good.encode()
        + b"caf\xe9,positive\n"
        + b"no label at all\n"
        + b'"quoted" badly,positive\n'
        + b"so so,neutral\n"
        + b" ,positive\n"
        + b"after the broken ones,positive\n"
    )
    found = build(read_csv(csv_file(tmp_path, content), "csv"), 0.1, "reviews.csv")
    assert len(found.table) == 201
    rejects = dict(zip(found.rejects["where"], found.rejects["reason"], strict=True))
    assert rejects["line 202"] == "not valid UTF-8; save the file as UTF-8"
    assert rejects["line 203"] == "1 fields, expected 2"
    assert rejects["line 204"].startswith("broken quoting")
    assert rejects["line 205"] == "sentiment is 'neutral'; expected 'positive' or 'negative' (pos, neg, 1, 0)"
    assert rejects["line 206"] == "review is empty"
    assert len(rejects) == 5


def test_an_unclosed_quote_counts_every_line_that_it_swallows(tmp_path: Path) -> None:
    good = "".join(f"film number {i},positive\n" for i in range(50))
    content = f'review,sentiment\n{good}"never closed,positive\n{good}'
    with pytest.raises(DataError, match=r"51 of 101 rows cannot be used, more than 5%.*line 52"):
        build(read_csv(csv_file(tmp_path, content), "csv"), 0.1, "reviews.csv")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small archive of the official one's shape."""
    path = tmp_path / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        files = {"aclImdb/README": b"read me", "aclImdb/train/unsup/0_0.txt": os.urandom(500_000)}
        for split in ("train", "test"):
            for label, score in (("pos", 9), ("neg", 2)):
                for i in range(20):
                    name = f"aclImdb/{split}/{label}/{i}_{score}.txt"
                    files[name] = f"{label} film {i} of {split}<br />".encode()
        files["aclImdb/train/pos/99_9.txt"] = files["aclImdb/test/pos/3_9.txt"]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_aclimdb_keeps_its_official_split(archive: Path) -> None:
    found = build(read_aclimdb(archive), 0.1, "aclimdb")
    assert found.table.groupby(["split", "sentiment"]).size().to_dict() == {
        ("test", "negative"): 20,
        ("test", "positive"): 20,
        ("train", "negative"): 20,
        ("train", "positive"): 20,
    }
    assert found.duplicates == 1, "the copy of a test review in train is dropped, the test row stays"
    assert set(found.table["source"]) == {"imdb"}


def test_a_damaged_archive_is_named(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged archive after"):
        list(read_aclimdb(archive))


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match="no aclImdb"):
        list(read_aclimdb(path))


def memory_to_ingest(path: Path) -> tuple[int, str]:
    """Return the peak memory (bytes) of a process that reads a source, and what it said in the end."""
    program = (
        "import resource, sys, data.sources as s\n"
        "from pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "said = 'read'\n"
        "try:\n"
        "    for row in s.read('', Path(sys.argv[1])): said = row.fault or said\n"
        "except s.DataError as error: said = error.message\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, said)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    grown, said = done.stdout.split(" ", 1)
    return 1024 * int(grown), said


def write_zeros(file: IO[bytes] | gzip.GzipFile, size: int) -> None:
    block = bytes(1 << 20)
    for _ in range(size // len(block)):
        file.write(block)


def bomb(path: Path, name: str, kind: bytes, size: int) -> Path:
    """Write an archive of one member of so many zeros."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member.tobuf())
        write_zeros(file, size)
        file.write(bytes(1024))
    return path


@pytest.mark.parametrize("name", ["aclImdb/train/pos/0_9.txt", "aclImdb/other"])
@pytest.mark.large
def test_an_archive_that_unpacks_to_too_much_is_refused_and_takes_no_memory(
    tmp_path: Path, name: str
) -> None:
    size = 2 * MAX_UNPACKED
    path = bomb(tmp_path / "bomb.tar.gz", name, tarfile.REGTYPE, size)
    assert path.stat().st_size < size / 100
    grown, said = memory_to_ingest(path)
    assert "unpacks to more than 1 GiB" in said
    assert grown < 100 << 20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "gnu"])
@pytest.mark.large
def test_a_header_that_claims_to_be_huge_takes_no_more_memory_than_the_bound(
    tmp_path: Path, kind: bytes
) -> None:
    grown, said = memory_to_ingest(bomb(tmp_path / "bomb.tar.gz", "x", kind, 3 * MAX_UNPACKED))
    assert "unpacks to more than 1 GiB" in said
    assert grown < 1.5 * MAX_UNPACKED


def test_a_huge_review_in_an_archive_is_set_aside(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.tar.gz", "aclImdb/train/pos/0_9.txt", tarfile.REGTYPE, 100 << 20)
    grown, said = memory_to_ingest(path)
    assert said.strip() == "longer than 10,000,000 bytes"
    assert grown < 50 << 20


def test_a_csv_of_one_endless_line_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.csv"
    with path.open("wb") as file:
        file.write(b"review,sentiment\n")
        write_zeros(file, 1 << 30)
    grown, said = memory_to_ingest(path)
    assert "line 2: longer than 20,000,000 characters" in said
    assert grown < 200 << 20


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "x,y"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "3"},
    ],
)
def test_an_archive_with_forged_headers_is_called_damaged(tmp_path: Path, headers: dict[str, str]) -> None:
    path = tmp_path / "forged.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        member.size, member.pax_headers = 4, headers
        tar.addfile(member, io.BytesIO(b"Good"))
    with pytest.raises(DataError):
        list(read_aclimdb(path))


def test_a_name_that_no_terminal_should_see_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "names.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("0_9\x1b]0;mine\x07.txt", "1_9\udcff.txt"):
            member = tarfile.TarInfo(f"aclImdb/train/pos/{name}")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"\xff"))
    for row in read_aclimdb(path):
        assert row.fault
        assert row.where.isprintable()
        assert row.where.encode()


def test_a_huge_field_costs_its_row_alone(tmp_path: Path) -> None:
    good = "".join(f"film number {i},positive\n" for i in range(50))
    content = f"review,sentiment\n{good}{'a' * 10_000_001},positive\n{good}"
    rows = list(read_csv(csv_file(tmp_path, content), "csv"))
    assert [row.where for row in rows if row.fault] == ["line 52"]
    assert len(rows) == 101
    whole = f"review,sentiment\n{'a' * 10_000_000},positive\n"
    assert not next(read_csv(csv_file(tmp_path, whole), "csv")).fault


def test_a_header_of_a_million_columns_is_told_in_few_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"and 999990 more; expected") as caught:
        list(read_csv(csv_file(tmp_path, ",".join(["x" * 9] * 10**6) + "\n1\n"), "csv"))
    assert len(caught.value.message) < 500


class RangeServer(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, and breaks off after `limit` bytes while `limit` is set."""

    limit: int | None = None
    ranges: list[str | None]

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if self.limit is None else start + self.limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(archive: Path) -> Iterator[tuple[str, type[RangeServer]]]:
    handler = type("Handler", (RangeServer,), {"ranges": [], "limit": None})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(archive.parent))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/{archive.name}", handler
        running.shutdown()


def test_an_interrupted_download_goes_on_where_it_stopped(
    server: tuple[str, type[RangeServer]], archive: Path, tmp_path: Path
) -> None:
    url, handler = server
    target = tmp_path / "downloads" / "a.tar.gz"
    handler.limit = 300_000
    with pytest.raises(DataError, match="Run again to go on"):
        download(url, target, file_digest(archive))
    assert not target.exists()
    handler.limit = None
    download(url, target, file_digest(archive))
    assert target.read_bytes() == archive.read_bytes()
    first, second = handler.ranges
    assert first is None
    assert second is not None
    assert 200_000 < int(second.removeprefix("bytes=").rstrip("-")) <= 300_000
    download(url, target, file_digest(archive))
    assert len(handler.ranges) == 2, "a complete file is not downloaded again"


def test_a_download_with_another_checksum_is_dropped(
    server: tuple[str, type[RangeServer]], tmp_path: Path
) -> None:
    target = tmp_path / "downloads" / "a.tar.gz"
    with pytest.raises(DataError, match=r"sha256 is .*, expected 000"):
        download(server[0], target, "0" * 64)
    assert list(target.parent.iterdir()) == []


def test_a_dead_server_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download http://127\.0\.0\.1:9/"):
        locate("http://127.0.0.1:9/aclImdb_v1.tar.gz", tmp_path)


def test_the_official_archive_is_pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def note(url: str, path: Path, sha256: str | None) -> Path:
        asked.append((url, sha256))
        return path

    monkeypatch.setattr(sources, "download", note)
    locate("aclimdb", tmp_path)
    assert asked == [(sources.ACLIMDB_URL, sources.ACLIMDB_SHA256)]


def test_a_missing_file_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; give 'package', 'aclimdb', or the path"):
        locate(str(tmp_path / "nothing.csv"), tmp_path)


REVIEW = st.text(st.characters(codec="utf-8"), max_size=60).filter(str.strip)


@given(st.lists(st.tuples(REVIEW, st.sampled_from(["positive", "0"])), min_size=1, max_size=8), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_review_holds_it_is_read_as_it_was_written(
    tmp_path: Path, rows: list[tuple[str, str]], utf_16: bool
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("review", "sentiment"), *rows])
    encoding = "utf-16" if utf_16 else "utf-8"
    found = read_all(csv_file(tmp_path, text.getvalue().encode(encoding)))
    if utf_16:  # where a byte is wrong it is read as this character
        rows = [row for row in rows if "\ufffd" not in row[0]]
        found = [row for row in found if not row[2]]
    assert found == [(*row, "") for row in rows]


@given(
    st.sampled_from(
        [b"review,sentiment\n", b"text,label,split\n", b"", b"\xff\xfe", b"\xef\xbb\xbftext,label\n"]
    ),
    st.lists(
        st.sampled_from(
            [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xed\xa0\x80", b"good", b"positive", b"=1+1"]
        )
        | st.binary(max_size=8),
        max_size=30,
    ).map(b"".join),
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_a_file_holds_the_rows_after_them_are_read(
    tmp_path: Path, head: bytes, junk: bytes
) -> None:
    path = csv_file(tmp_path, head + junk)
    said = ""
    try:
        build(read_csv(path, "csv"), 0.1, str(path))
    except DataError as error:
        said = error.message
    assert not said or str(path) in said
    if not head.startswith((b"review", b"text", b"\xef")):
        return
    for review, _, fault in read_all(path):
        assert fault or review.encode().decode() == review, "no half of a character"
    if b'"' not in junk:
        last_row = b"\nGood.,positive" + b"," * head.count(b"split") + b"\n"
        assert read_all(csv_file(tmp_path, head + junk + last_row))[-1] == ("Good.", "positive", "")
