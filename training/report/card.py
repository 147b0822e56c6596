"""The model card: what the version is, how good, how to call it, where it fails."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from training.models.base import Trained

_METRICS = ("accuracy", "f1", "precision", "recall", "roc_auc", "log_loss", "brier", "ece")


def model_card(
    trained: Trained,
    summary: dict[str, Any],
    scores: dict[str, float],
    left_out: dict[str, float],
    strongest: pd.DataFrame | None,
    nothing: dict[str, Any],
) -> str:
    """Return the card in Markdown.

    Parameters
    ----------
    trained : Trained
    summary : dict
        What ingest said of the data.
    scores, left_out : dict
        Metrics on the held-out rows, and on training rows that were left out.
    strongest : DataFrame, optional
        Columns ``ngram`` and ``contribution``, most positive first.
    nothing : dict
        The answer for an empty text.
    """
    table = _table_of_metrics(scores, left_out, trained.judged)
    without = "without one known n-gram" if strongest is not None else "of which nothing is known"
    rows = (
        f"all {len(trained.seen):,}"
        if trained.seen.all()
        else f"{trained.seen.sum():,} of the {len(trained.seen):,}"
    )
    counts = ", ".join(f"{n:,} from {name}" for name, n in list(summary["sources"].items())[:10])
    return "\n".join(
        [
            "# SentimentClassifier",
            "",
            "Says whether an English review is positive or negative, and how sure it is.",
            "",
            "## Model",
            "",
            trained.recipe,
            "",
            "## Data",
            "",
            f"Source {_code([summary['source']])}, table sha256 `{summary['table_sha256'][:16]}…`: {counts}; "
            f"{summary['duplicates']} duplicates dropped, {summary['rejected']} rows set aside. "
            f"The metrics are of a model that never saw the held-out rows; the registered model was "
            f"fitted on {rows} rows.",
            "",
            "## Metrics",
            "",
            *table,
            "",
            *_strongest(strongest),
            "## Answers",
            "",
            "`sentiment` (positive or negative), `confidence` (calibrated probability of that answer, 0.5 to 1) and "
            f"`error` (why a row could not be scored). A text {without} is answered "
            f"{nothing['sentiment']} with confidence {nothing['confidence']:.2f}.",
            "",
            "## Limits",
            "",
            "English film reviews. No neutral answer. Irony, other domains and other languages are answered with a "
            "confidence that was not calibrated for them. Short texts are harder than long ones: compare the columns.",
            "",
        ]
    )


def _code(texts: Iterable[str]) -> str:
    """Return texts as Markdown code that no character of theirs can leave."""
    return ", ".join(f"`{' '.join(text.replace('`', 'ˋ').split())}`" for text in texts)


def _table_of_metrics(scores: dict[str, float], left_out: dict[str, float], judged: str) -> list[str]:
    sources = sorted({name.split("/")[0] for name in scores if "/" in name})
    columns = ["all held-out rows", *sources, judged]
    table = [
        f"| metric | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for metric in _METRICS:
        cells = [scores.get(metric), *(scores.get(f"{source}/{metric}") for source in sources)]
        cells.append(left_out.get(metric))
        table.append(f"| {metric} | {' | '.join('–' if c is None else f'{c:.4f}' for c in cells)} |")
    return table


def _strongest(ngrams: pd.DataFrame | None) -> list[str]:
    if ngrams is None:
        return []
    positive = ngrams[ngrams["contribution"] > 0]["ngram"].head(10)
    negative = ngrams[ngrams["contribution"] < 0]["ngram"].tail(10).iloc[::-1]
    lines = ["## Strongest n-grams", f"Positive: {_code(positive)}", f"Negative: {_code(negative)}"]
    return [line for pair in zip(lines, [""] * 3, strict=True) for line in pair]
