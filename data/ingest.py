"""Entry point ``ingest``: acquire → validate → split → ``data/imdb.csv``, rejects and a summary."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import mlflow
import numpy as np
from filelock import FileLock

from cli import Command
from data.errors import DataError
from data.options import source_option, test_size_option
from data.sources import locate, read
from data.table import COLUMNS, REJECT_COLUMNS, Reviews, build
from files import atomic_output, file_digest

FOLDER = Path(__file__).resolve().parent
TABLE = FOLDER / "imdb.csv"
FORMAT = 1  # of the table; another number makes every table be written anew

out_option = click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=TABLE,
    help="The table to write.  [default: data/imdb.csv]",
)


def rejects_path(table: Path) -> Path:
    """Return where the rows set aside from ``table`` are written."""
    return table.with_suffix(".rejects.csv")


def summary_path(table: Path) -> Path:
    """Return where the summary of ``table`` is written."""
    return table.with_suffix(".summary.json")


def ingest(source: str, test_size: float, out: Path = TABLE) -> dict[str, Any]:
    """Write the table of reviews, the rejects and the summary; keep them if they are there already.

    Parameters
    ----------
    source : str
        ``package``, ``aclimdb``, an aclImdb archive, or the path of a CSV.
    test_size : float
        Share of the rows that are held out, in (0, 1), unless the source has its own split.
    out : Path
        The table. Rejects and summary stand beside it. All three appear whole or not at all.

    Returns
    -------
    dict
        The summary: source, digests, counts of rows, classes, splits, duplicates, rejects, lengths.

    Raises
    ------
    DataError
        If the source cannot be had, read or used.
    """
    path = locate(source, out.parent / "downloads")
    _refuse_own_files(source, path, out)
    request = {
        "format": FORMAT,
        "source": source,
        "source_sha256": file_digest(path),
        "test_size": test_size,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_name(f".{out.name}.lock").touch()
    except OSError as error:
        raise DataError(
            f"{out.parent} cannot be written ({error.strerror}); give another file: --out (-P out=)"
        ) from None
    with FileLock(out.with_name(f".{out.name}.lock")):
        summary = _present(out, request)
        if summary is not None:
            click.echo(f"data: {out.name} is there already ({summary['rows']} rows from {source})")
            return summary
        reviews = build(read(source, path), test_size, origin=source)
        _keep_if_edited(out)
        try:
            return _write_all(reviews, request, out)
        except OSError as error:
            raise DataError(
                f"{out} and what stands beside it cannot be written ({error.strerror}); mend that and run again, "
                "or give another file: --out (-P out=)"
            ) from None


def _write_all(reviews: Reviews, request: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write rejects, summary and table, the table last: what the summary does not name is not ours."""
    with (  # the last to get its name is the first here
        atomic_output(out) as table_part,
        atomic_output(summary_path(out)) as summary_part,
        atomic_output(rejects_path(out)) as rejects_part,
    ):
        _write_csv(table_part, COLUMNS, reviews.rows())
        _write_csv(rejects_part, REJECT_COLUMNS, map(_inert, reviews.rejected_rows()))
        counts = {"duplicates": reviews.duplicates, "rejected": reviews.rejected}
        summary = request | _describe(reviews) | counts | {"table_sha256": file_digest(table_part)}
        summary_part.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    click.echo(
        f"data: {summary['rows']} rows from {request['source']} in {out.name}, "
        f"{reviews.duplicates} duplicates dropped, {reviews.rejected} rows set aside"
        + (f" in {rejects_path(out).name}" if reviews.rejected else "")
    )
    return summary


def read_summary(table: Path = TABLE) -> dict[str, Any]:
    """Return the summary that stands beside a table.

    Raises
    ------
    DataError
        If it is missing, or the table was changed since.
    """
    try:
        summary: dict[str, Any] = json.loads(summary_path(table).read_text(encoding="utf-8"))
        if summary["table_sha256"] != file_digest(table):
            raise DataError(
                f"{table} was changed since ingest wrote it; move it away and give its new place as source"
            )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{summary_path(table)} cannot be read ({error}); run ingest again") from None
    return summary


def log_summary(summary: dict[str, Any], table: Path = TABLE) -> None:
    """Log the summary and the rejects of ``table`` to the active MLflow run."""
    mlflow.log_dict(summary, "data/summary.json")
    mlflow.log_artifact(str(rejects_path(table)), "data")
    mlflow.set_tags(
        {"data.source": summary["source"], "data.sha256": summary["table_sha256"]},
    )
    counts = {"rows", "duplicates", "rejected"}
    mlflow.log_metrics({f"data/{name}": summary[name] for name in counts})
    mlflow.log_metrics({f"data/{name}_rows": n for name, n in summary["splits"].items()})


def _present(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the summary of ``out`` if it stands for the same request and the table is unchanged."""
    try:
        summary = json.loads(summary_path(out).read_text(encoding="utf-8"))
        same = all(summary.get(key) == value for key, value in request.items())
        unchanged = same and summary["table_sha256"] == file_digest(out) and rejects_path(out).is_file()
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return summary if unchanged else None


def _refuse_own_files(source: str, path: Path, out: Path) -> None:
    """Stop before a file of the user's own would be overwritten."""
    headers = {out: ",".join(COLUMNS), rejects_path(out): "where,reason,review", summary_path(out): "{"}
    for ours, header in headers.items():
        if not ours.exists():
            continue
        with ours.open("rb") as file:
            first = file.readline(200).decode("utf-8", "replace").strip()
        if first != header:
            raise DataError(
                f"{ours} is a file that ingest writes, and the one there is your own: "
                "move it away and give its new place as source (nothing was changed)"
            )
        if path.resolve() == ours.resolve():
            raise DataError(
                f"source {source} is a file that ingest writes itself: copy it elsewhere, "
                "or give the source that it came from (nothing was changed)"
            )


def _keep_if_edited(out: Path) -> None:
    """Move a table that was changed since ingest wrote it out of the way instead of losing the changes."""
    if not out.exists():
        return
    digest = file_digest(out)
    try:
        if json.loads(summary_path(out).read_text(encoding="utf-8"))["table_sha256"] == digest:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no summary to tell: keep the file
    aside = out.with_suffix(f".{digest[:8]}.csv")
    out.replace(aside)
    click.echo(f"data: {out.name} had been changed since ingest wrote it and is kept as {aside.name}")


def _describe(reviews: Reviews) -> dict[str, Any]:
    lengths = reviews.lengths()
    return {
        "rows": len(lengths),
        "classes": reviews.counts("sentiment"),
        "splits": reviews.counts("split"),
        "sources": reviews.counts("source"),
        "characters": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p99": float(np.quantile(lengths, 0.99)),
            "max": int(lengths.max()),
        },
    }


def _inert(row: Iterable[str]) -> list[str]:
    """Return cells, shortened, that a spreadsheet does not take for formulas."""
    signs = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
    cells = (cell[:500] for cell in row)
    return [
        f"'{cell}" if cell.startswith(signs) or cell.lstrip().startswith(signs) else cell for cell in cells
    ]


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@click.command(cls=Command, help="Acquire and validate reviews, assign the splits, write the table.")
@source_option
@test_size_option
@out_option
def main(source: str, test_size: float, out: Path) -> None:
    """Run the entry point."""
    with mlflow.start_run(run_name="ingest"):
        summary = ingest(source, test_size, out)
        log_summary(summary, out)


if __name__ == "__main__":
    main()
