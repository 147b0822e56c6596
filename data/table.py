"""The table of reviews: validation, duplicates and the split that a row keeps for ever."""

import hashlib
import html
import mmap
import os
import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa

from data.errors import DataError
from data.sources import LABELS, RawRow, read_csv

COLUMNS = ["review", "sentiment", "split", "source"]
REJECT_COLUMNS = ["where", "reason", "review"]
MAX_BAD_SHARE = 0.05
_BATCH = 1 << 23  # characters that are in memory at once while a table is read
_CACHE = 1 << 14  # KiB of the database in which reviews are sifted

# Changing the salt or the normalisation moves rows between the splits: versions trained before and
# after could no longer be compared on rows that neither has seen.
_SALT = b"sentiment-split-1:"
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_WORD = re.compile(r"\w+")
# Python sorts a run of combining marks in time quadratic in its length; they are no words, so that longer ones need not be sorted
_COMBINING = "".join(
    c for c in map(chr, range(0x1F000)) if unicodedata.combining(unicodedata.normalize("NFKD", c)[0])
)
_DIGITS = re.compile("&#[0-9]{4000,}")  # of a number as long as these nobody can tell the character
_PILE = re.compile(f"[{_COMBINING}]{{31,}}")
_SOURCE = re.compile(r"(?!(?:curve|cv|data|seconds|validation)$)[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class Reviews:
    """Validated reviews and the rows set aside, on disk and no longer than this object.

    Attributes
    ----------
    duplicates, rejected : int
        How many were dropped, and how many set aside.
    """

    def __init__(self) -> None:
        self.duplicates = self.rejected = 0
        # "" is a file without a name, which SQLite removes
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -{_CACHE};"
            "CREATE TABLE kept (hash TEXT UNIQUE, review TEXT, sentiment TEXT, split TEXT, source TEXT, place TEXT, characters INT);"
            "CREATE TABLE rejects (place TEXT, reason TEXT, review TEXT); BEGIN"
        )

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Yield ``review``, ``sentiment``, ``split`` and ``source`` of each row, in the order of the source."""
        return self._database.execute("SELECT review, sentiment, split, source FROM kept ORDER BY rowid")

    def rejected_rows(self) -> Iterator[tuple[str, ...]]:
        """Yield ``where``, ``reason`` and ``review`` of each row set aside, in the order of the source."""
        return self._database.execute("SELECT place, reason, review FROM rejects ORDER BY rowid")

    @property
    def table(self) -> pd.DataFrame:
        """The rows, in memory."""
        return pd.DataFrame(self.rows(), columns=COLUMNS)

    @property
    def rejects(self) -> pd.DataFrame:
        """The rows set aside, in memory."""
        return pd.DataFrame(self.rejected_rows(), columns=REJECT_COLUMNS)

    def counts(self, column: str) -> dict[str, int]:
        """Return how many rows have each value of ``sentiment``, ``split`` or ``source``, the most frequent first."""
        return dict(
            self._database.execute(
                f"SELECT {column}, COUNT(*) FROM kept GROUP BY 1 ORDER BY 2 DESC, MIN(rowid)"  # noqa: S608 -- no user's
            )
        )

    def lengths(self) -> np.ndarray:
        """Return the number of characters of each review, of shape (n_rows,)."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM kept").fetchone()
        found = self._database.execute("SELECT characters FROM kept")
        return np.fromiter((length for (length,) in found), np.int64, count)

    def find(self, hashed: str) -> tuple[str, str] | None:
        """Return the sentiment of the row of a hash and where it stands, if there is one."""
        return self._database.execute("SELECT sentiment, place FROM kept WHERE hash = ?", [hashed]).fetchone()

    def hold_out(self, hashed: str) -> None:
        """Make the row of a hash a test row."""
        self._database.execute("UPDATE kept SET split = 'test' WHERE hash = ?", [hashed])

    def keep(self, hashed: str, raw: RawRow, sentiment: str, split: str) -> None:
        """Add a row."""
        row = [hashed, raw.review, sentiment, split, raw.source.strip(), raw.where, len(raw.review)]
        self._database.execute("INSERT INTO kept VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def reject(self, raw: RawRow, reason: str) -> None:
        """Set a row aside."""
        self.rejected += 1
        readable = raw.review.encode("utf-8", "replace").decode()
        self._database.execute("INSERT INTO rejects VALUES (?, ?, ?)", [raw.where, reason, readable])


def row_hash(review: str) -> str:
    """Return the identity of a review: 16 hexadecimal digits of a salted hash of its words.

    Case, punctuation, markup and white space do not count, so that copies of one review stay together.
    """
    text = _TAG.sub(" ", html.unescape(_DIGITS.sub(" ", review)))
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", _PILE.sub(" ", text))
    words = " ".join(_WORD.findall(text.casefold())) or review.strip()
    return hashlib.sha256(_SALT + words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def row_hashes(table: pd.DataFrame) -> pd.Series:
    """Return the :func:`row_hash` of each review, one after the other: `map` would take the whole column into memory."""
    return pd.Series([row_hash(review) for review in table["review"]], dtype="str")


def reviews_of(table: pd.DataFrame, rows: Iterable[int]) -> list[str]:
    """Return the reviews of some rows, by their positions: to index the column would copy all of it."""
    reviews = table["review"].array
    return [reviews[row] for row in rows]


def split_of(hashed: str, test_size: float) -> str:
    """Return ``"test"`` for a share ``test_size`` of all hashes; a larger share contains a smaller one."""
    return "test" if int(hashed, 16) < test_size * 16**16 else "train"


def build(rows: Iterable[RawRow], test_size: float, origin: str) -> Reviews:
    """Validate raw rows, drop duplicates and assign the split.

    Parameters
    ----------
    rows : iterable of RawRow
    test_size : float
        Share of rows held out, unless a row brings its own split.
    origin : str
        What to call the source in messages.

    Raises
    ------
    DataError
        If more than 5 % of the rows are bad, no row or only one class is left, or the disk is full.
    """
    try:
        return _sift(rows, test_size, origin)
    except sqlite3.Error as error:
        raise DataError(
            f"{origin}: the reviews cannot be kept on disk while they are read ({error}); free as much space as they take, "
            "or say where there is some: SQLITE_TMPDIR=folder"
        ) from None


def _sift(rows: Iterable[RawRow], test_size: float, origin: str) -> Reviews:
    found = Reviews()
    total = bad = 0
    for raw in rows:
        total += raw.lines
        reason = raw.fault or _fault(raw)
        hashed = "" if reason else row_hash(raw.review)
        same = None if reason else found.find(hashed)
        if same is not None:
            sentiment, where = same
            if sentiment != LABELS[raw.sentiment.strip().lower()]:
                reason = f"the same text as {where} with another label"
            else:
                found.duplicates += 1
                if raw.split.strip().lower() == "test":
                    found.hold_out(hashed)
                continue
        if reason:
            bad += raw.lines
            found.reject(raw, reason)
            continue
        split = raw.split.strip().lower() or split_of(hashed, test_size)
        found.keep(hashed, raw, LABELS[raw.sentiment.strip().lower()], split)
    _stop_if_bad(origin, total, bad, found)
    classes = found.counts("sentiment")
    if set(classes) != {"positive", "negative"}:
        raise DataError(
            f"{origin}: {sum(classes.values())} usable rows with the labels {sorted(classes)}; both labels are needed"
        )
    return found


def _fault(raw: RawRow) -> str:
    if not raw.review.strip():
        return "review is empty"
    label = raw.sentiment.strip().lower()
    if not label:
        return "sentiment is empty"
    if label not in LABELS:
        return f"sentiment is {raw.sentiment[:40]!r}; expected 'positive' or 'negative' (pos, neg, 1, 0)"
    if raw.split.strip().lower() not in ("", "train", "test"):
        return f"split is {raw.split[:40]!r}; expected 'train' or 'test'"
    if not _SOURCE.fullmatch(raw.source.strip()):
        return f"source is {raw.source[:40]!r}; expected up to 40 of A-Z a-z 0-9 _ . - (and not curve, cv, data, seconds or validation)"
    return ""


def _stop_if_bad(origin: str, total: int, bad: int, found: Reviews) -> None:
    if total == 0:
        raise DataError(f"{origin}: no rows below the header")
    if bad <= MAX_BAD_SHARE * total:
        return
    reasons = Counter(re.sub(r"'[^']*'(?=;)|line \d+", "…", reason) for _, reason, _ in found.rejected_rows())
    examples = "; ".join(f"{where}: {reason}" for where, reason, _ in islice(found.rejected_rows(), 3))
    raise DataError(
        f"{origin}: {bad} of {total} rows cannot be used, more than {MAX_BAD_SHARE:.0%} "
        f"({', '.join(f'{n} × {reason}' for reason, n in reasons.most_common(3))}). First: {examples}. Mend the file and run again"
    )


def read_table(path: Path) -> pd.DataFrame:
    """Return the table that :mod:`data.ingest` wrote, its texts in a file without a name that is mapped into memory.

    Raises
    ------
    DataError
        If the file is missing, is not such a table, or the disk is full.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run 'mlflow run . -e ingest' or 'make data' first")
    folder = path.parent if os.access(path.parent, os.W_OK) else None  # /tmp is memory here and there
    try:
        with TemporaryFile(dir=folder) as file:
            _write_arrow(file, path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(
            f"{path}: its texts cannot be kept in {folder or 'the folder for temporary files'} while they are used "
            f"({error.strerror or error}); free as much space as the table takes"
        ) from None
    return pa.ipc.open_file(pa.py_buffer(mapped)).read_all().to_pandas()


def _write_arrow(file: IO[bytes], path: Path) -> None:
    schema = pa.schema([(column, pa.large_string()) for column in COLUMNS])
    with pa.ipc.new_file(file, schema) as writer:
        for rows in _batches(read_csv(path, default_source="csv")):
            if any(row.fault or row.split not in ("train", "test") for row in rows):
                raise DataError(f"{path} is not a table that ingest wrote; run ingest on it")
            columns = ([getattr(row, column) for row in rows] for column in COLUMNS)
            writer.write_batch(pa.record_batch(list(map(pa.array, columns)), schema=schema))
    file.flush()


def _batches(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    batch: list[RawRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.review)
        if characters > _BATCH:
            yield batch
            batch, characters = [], 0
    yield batch
