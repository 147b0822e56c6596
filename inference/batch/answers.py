"""What scoring adds to a row: the answer of the model, and which version gave it."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from inference.batch.files import FAULT, FileError, Source

ANSWER = pa.schema([("sentiment", pa.string()), ("confidence", pa.float64()), ("error", pa.string())])
ROW = r"^row \d+: "  # the place in a batch, which is no place in a file


@dataclass(frozen=True)
class Scored:
    """The columns of the output: those of the source, then the answer and the version.

    Attributes
    ----------
    source : Source
    version : int
    prefix : str
        Of the names of the added columns.
    """

    source: Source
    version: int
    prefix: str = ""

    def __post_init__(self) -> None:
        if not self.prefix.isprintable():
            raise FileError("the prefix holds characters that cannot be printed; give another one")
        taken = set(self.source.schema.names) & set(self.added)
        if taken:
            raise FileError(
                f"{self.source.files[0]} has a column {min(taken)!r} of its own; give a prefix for those that are added, "
                "as in --prefix predicted_ (mlflow run: -P prefix=predicted_)"
            )

    @property
    def added(self) -> list[str]:
        """The names of the added columns."""
        return [f"{self.prefix}{name}" for name in (*ANSWER.names, "model_version")]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the output."""
        kept = list(self.source.schema)[:-1]
        types = [*ANSWER.types, pa.int64()]
        return pa.schema(
            [*kept, *(pa.field(name, kind) for name, kind in zip(self.added, types, strict=True))]
        )

    def add(self, batch: pa.RecordBatch, answers: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch of the source with its answers in place of its faults."""
        sentiment, confidence, error = (answers[name] for name in ANSWER.names)
        error = pc.coalesce(batch[FAULT], pc.replace_substring_regex(error, ROW, ""))
        version = pa.repeat(pa.scalar(self.version, pa.int64()), len(batch))
        return pa.RecordBatch.from_arrays(
            [*batch.columns[:-1], sentiment, confidence, error, version], schema=self.schema
        )


@dataclass
class Counts:
    """How many rows there are, how many without an answer, and how many answers are positive."""

    rows: int = 0
    refused: int = 0
    positive: int = 0

    def add(self, batch: pa.RecordBatch, scored: Scored) -> None:
        """Count a scored batch."""
        sentiment, _, error, _ = scored.added
        self.rows += len(batch)
        self.refused += len(batch) - batch[error].null_count
        self.positive += pc.sum(pc.equal(batch[sentiment], "positive")).as_py() or 0


def answered(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Return the answer rows of a model as columns."""
    return pa.RecordBatch.from_pylist(rows, schema=ANSWER)
