"""The model card: what the version is, how good, how to call it, where it fails."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from training.fit import RATIO_POWER, Settings

_METRICS = ("accuracy", "f1", "precision", "recall", "roc_auc", "log_loss", "brier", "ece")


def model_card(
    settings: Settings,
    summary: dict[str, Any],
    scores: dict[str, float],
    cross_validated: dict[str, float],
    strongest: pd.DataFrame,
    unknown: dict[str, Any],
    rows: int,
) -> str:
    """Return the card in Markdown.

    Parameters
    ----------
    settings : Settings
    summary : dict
        What ingest said of the data.
    scores, cross_validated : dict
        Metrics on the held-out rows and over the folds of the training rows.
    strongest : DataFrame
        Columns ``ngram`` and ``contribution``, most positive first.
    unknown : dict
        The answer for a text without one known n-gram.
    rows : int
        Rows that the registered model was fitted on.
    """
    sources = sorted({name.split("/")[0] for name in scores if "/" in name})
    columns = ["all held-out rows", *sources, "cross-validation"]
    table = [
        f"| metric | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for metric in _METRICS:
        cells = [scores.get(metric), *(scores.get(f"{source}/{metric}") for source in sources)]
        cells.append(cross_validated.get(metric))
        table.append(f"| {metric} | {' | '.join('–' if c is None else f'{c:.4f}' for c in cells)} |")
    positive = strongest[strongest["contribution"] > 0]["ngram"].head(10)
    negative = strongest[strongest["contribution"] < 0]["ngram"].tail(10).iloc[::-1]
    counts = ", ".join(f"{n:,} from {name}" for name, n in list(summary["sources"].items())[:10])
    most = f"at most {settings.max_features:,} " if settings.max_features else ""
    return "\n".join(
        [
            "# SentimentClassifier",
            "",
            "Says whether an English review is positive or negative, and how sure it is.",
            "",
            "## Model",
            "",
            f"Cleaning, TF-IDF over {most}1- to {settings.ngram_max}-grams of words and punctuation (binary term "
            f"frequency, min_df {settings.min_df}), Naive-Bayes log-count ratios (Wang & Manning 2012; smoothing "
            f"{settings.alpha:g}, to the power of {RATIO_POWER:g}), logistic "
            f"regression (C = {settings.C:g}), calibration by length on cross-validated scores; seed {settings.seed}.",
            "",
            "## Data",
            "",
            f"Source {_code([summary['source']])}, table sha256 `{summary['table_sha256'][:16]}…`: {counts}; "
            f"{summary['duplicates']} duplicates dropped, {summary['rejected']} rows set aside. "
            f"The metrics are of a model that never saw the held-out rows; the registered model was then "
            f"fitted on all {rows:,} rows.",
            "",
            "## Metrics",
            "",
            *table,
            "",
            "## Strongest n-grams",
            "",
            f"Positive: {_code(positive)}",
            "",
            f"Negative: {_code(negative)}",
            "",
            "## Answers",
            "",
            "`sentiment` (positive or negative), `confidence` (calibrated probability of that answer, 0.5 to 1) and "
            f"`error` (why a row could not be scored). A text without one known n-gram is answered "
            f"{unknown['sentiment']} with confidence {unknown['confidence']:.2f}.",
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
