"""What a request row may be, and what an answer row looks like."""

import math
import unicodedata
from typing import Any, NotRequired, TypedDict

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from .cleaning import NOTHING

TEXT = "text"
EXPLAIN_MOST = 100
MOST_EXPLAINED = 10_000  # rows of one request to a server; a scorer says how many others it takes
MOST_BYTES = 16 * 2**20  # of a text in UTF-8
# characters of a text that is not in NFKC, in which one of them can become eighteen
MOST_TO_NORMALIZE = 1_000_000
NOT_A_TEXT = frozenset({"none", "nan", "null"})  # none has more than four letters


class Contribution(TypedDict):
    """What one n-gram adds to the log-odds of *positive*."""

    ngram: str
    contribution: float


class Explanation(TypedDict):
    """The log-odds of *positive* as a sum: ``bias``, the strongest ``ngrams``, the ``rest`` of them."""

    log_odds: float
    bias: float
    rest: float
    ngrams: list[Contribution]


class Answer(TypedDict):
    """One row of a response. Three fields are always there, the last one if explanations were asked for."""

    sentiment: str | None
    confidence: float | None
    error: str | None
    explanation: NotRequired[Explanation | None]


def refused(why: str) -> MlflowException:
    """Return the error of a request as a whole, which the server answers with status 400.

    Parameters
    ----------
    why : str
        In ASCII letters, digits, spaces and ``-,;:.()_``, without anything that a client sent but numbers. The error answer
        repeats it under the key ``refused``, after the message: the proxy passes on that key alone.
    """
    return MlflowException(why, error_code=INVALID_PARAMETER_VALUE, refused=why)


def explanations_asked(params: dict[str, Any] | None, explains: bool) -> int:
    """Return the param ``explain`` of a request, 0 if it was not given.

    Raises
    ------
    MlflowException
        If it is not between 0 and 100, or above 0 where nothing ``explains``.
    """
    asked = (params or {}).get("explain", 0)
    if asked is None or not 0 <= asked <= EXPLAIN_MOST:
        raise refused(
            f"params: explain is {'null' if asked is None else str(asked)[:20]}; send a whole number from 0 (no explanation) to {EXPLAIN_MOST}"
        )
    if asked and not explains:
        raise refused(
            "params: explain is not available for this model, whose score is no sum over words; send 0, or leave it out"
        )
    return int(asked)


def refuse_too_many(rows: int, most: int, explained: bool, explains: bool) -> None:
    """Raise MlflowException, which the server answers with status 400, if a request has too many rows.

    A file of a few kilobytes can hold millions.

    Parameters
    ----------
    rows : int
    most : int
        How many the scorer takes at once.
    explained, explains : bool
        Whether explanations are asked for, and whether there are any.
    """
    if rows > (MOST_EXPLAINED if explained else most):
        raise refused(
            f"{rows:,} rows; send at most {most:,} at once"
            + (f", with explain {MOST_EXPLAINED:,}" if explains else "")
        )


def row_error(value: object, row: int) -> str | None:
    """Return why the ``row``-th value (counted from 0) of a request cannot be scored, or None if it can.

    MLflow casts a null under ``inputs`` and ``instances`` to the text ``None``: so the whole texts
    ``None``, ``nan`` and ``null`` are refused in every request form.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return f"row {row}: {TEXT} is null; send a non-empty string"
    if not isinstance(value, str):
        return f"row {row}: {TEXT} is of type {type(value).__name__}; send a non-empty string"
    whole = value.strip(NOTHING)
    if not whole:
        return f"row {row}: {TEXT} is blank; send a non-empty string"
    if len(whole) <= 4 and whole.lower() in NOT_A_TEXT:
        return (
            f"row {row}: {TEXT} is {whole!r}, which is how a missing value arrives; send a non-empty string"
        )
    if len(value) > MOST_TO_NORMALIZE:
        if len(value.encode("utf-8", "surrogatepass")) > MOST_BYTES:
            return f"row {row}: {TEXT} is longer than 16 MiB; send a shorter one"
        if not unicodedata.is_normalized("NFKC", value):
            return (
                f"row {row}: {TEXT} is longer than {MOST_TO_NORMALIZE:,} characters and not in NFKC; "
                "send it in this normal form of Unicode, or a shorter one"
            )
    return None


def answer(log_odds: float) -> Answer:
    """Return the answer row for the calibrated log-odds of *positive*.

    Examples
    --------
    >>> answer(0.0)
    {'sentiment': 'positive', 'confidence': 0.5, 'error': None}
    """
    confidence = 1.0 / (1.0 + math.exp(-min(abs(log_odds), 700.0)))
    sentiment = "positive" if log_odds >= 0 else "negative"
    return {"sentiment": sentiment, "confidence": confidence, "error": None}


def refusal(error: str) -> Answer:
    """Return the answer row that stands in the place of a row that cannot be scored."""
    return {"sentiment": None, "confidence": None, "error": error}
