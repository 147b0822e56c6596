"""The table of reviews: validation, duplicates and the split that a row keeps for ever."""

import hashlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.errors import DataError
from data.sources import LABELS, RawRow, read_csv

COLUMNS = ["review", "sentiment", "split", "source"]
MAX_BAD_SHARE = 0.05

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


@dataclass(frozen=True)
class Reviews:
    """Validated reviews, the rows set aside, and how many duplicates were dropped."""

    table: pd.DataFrame
    rejects: pd.DataFrame
    duplicates: int


def row_hash(review: str) -> str:
    """Return the identity of a review: 16 hexadecimal digits of a salted hash of its words.

    Case, punctuation, markup and white space do not count, so that copies of one review stay together.
    """
    text = _TAG.sub(" ", html.unescape(_DIGITS.sub(" ", review)))
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", _PILE.sub(" ", text))
    words = " ".join(_WORD.findall(text.casefold())) or review.strip()
    return hashlib.sha256(_SALT + words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


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

    Returns
    -------
    Reviews
        ``table`` has the columns ``review``, ``sentiment``, ``split`` and ``source``;
        ``rejects`` has ``where``, ``reason`` and ``review``.

    Raises
    ------
    DataError
        If more than 5 % of the rows are bad, or no row or only one class is left.
    """
    kept: dict[str, dict[str, str]] = {}
    first: dict[str, RawRow] = {}
    rejects: list[dict[str, str]] = []
    total = bad = duplicates = 0
    for raw in rows:
        total += raw.lines
        reason = raw.fault or _fault(raw)
        hashed = "" if reason else row_hash(raw.review)
        if hashed in kept:
            same = kept[hashed]
            if same["sentiment"] != LABELS[raw.sentiment.strip().lower()]:
                reason = f"the same text as {first[hashed].where} with another label"
            else:
                duplicates += 1
                if raw.split.strip().lower() == "test":
                    same["split"] = "test"
                continue
        if reason:
            bad += raw.lines
            readable = raw.review.encode("utf-8", "replace").decode()
            rejects.append({"where": raw.where, "reason": reason, "review": readable})
            continue
        first[hashed] = raw
        kept[hashed] = {
            "review": raw.review,
            "sentiment": LABELS[raw.sentiment.strip().lower()],
            "split": raw.split.strip().lower() or split_of(hashed, test_size),
            "source": raw.source.strip(),
        }
    _stop_if_bad(origin, total, bad, rejects)
    table = pd.DataFrame(kept.values(), columns=COLUMNS)
    classes = set(table["sentiment"])
    if classes != {"positive", "negative"}:
        raise DataError(
            f"{origin}: {len(table)} usable rows with the labels {sorted(classes)}; both labels are needed"
        )
    return Reviews(table, pd.DataFrame(rejects, columns=["where", "reason", "review"]), duplicates)


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


def _stop_if_bad(origin: str, total: int, bad: int, rejects: list[dict[str, str]]) -> None:
    if total == 0:
        raise DataError(f"{origin}: no rows below the header")
    if bad <= MAX_BAD_SHARE * total:
        return
    reasons = Counter(re.sub(r"'[^']*'(?=;)|line \d+", "…", reject["reason"]) for reject in rejects)
    examples = "; ".join(f"{reject['where']}: {reject['reason']}" for reject in rejects[:3])
    raise DataError(
        f"{origin}: {bad} of {total} rows cannot be used, more than {MAX_BAD_SHARE:.0%} "
        f"({', '.join(f'{n} × {reason}' for reason, n in reasons.most_common(3))}). First: {examples}. Mend the file and run again"
    )


def read_table(path: Path) -> pd.DataFrame:
    """Return the table that :mod:`data.ingest` wrote.

    Raises
    ------
    DataError
        If the file is missing or is not such a table.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run 'mlflow run . -e ingest' or 'make data' first")
    rows = list(read_csv(path, default_source="csv"))
    table = pd.DataFrame(
        [(row.review, row.sentiment, row.split, row.source) for row in rows], columns=COLUMNS
    )
    if any(row.fault for row in rows) or not set(table["split"]) <= {"train", "test"}:
        raise DataError(f"{path} is not a table that ingest wrote; run ingest on it")
    return table
