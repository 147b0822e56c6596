"""The training rows that some models leave out of fitting, and the judgement of a model that is not fitted once more."""

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.table import reviews_of, row_hashes
from sentiment_model.base import Scorer
from training.errors import TrainingError
from training.models.base import Trained, copy_scorer
from training.steps import step

VALIDATION_SHARE = 16  # one training row of so many is left out, for early stopping, calibration and choices
SLICE = 256


def validation_rows(table: pd.DataFrame) -> np.ndarray:
    """Return which training rows are left out of fitting: by the hash of the text, the same for ever.

    Raises
    ------
    TrainingError
        If there are not at least ten of each class.
    """
    left_out = [int(digits, 16) % VALIDATION_SHARE == 0 for digits in row_hashes(table)]
    chosen = (table["split"] == "train").to_numpy() & left_out
    for label in ("positive", "negative"):
        there = int((table["sentiment"][chosen] == label).sum())
        if there < 10:
            raise TrainingError(
                f"{there} {label} rows are left for validation, one in {VALIDATION_SHARE} of the training rows; at least 10 "
                "are needed: give more rows (limit)"
            )
    return chosen


def judge(
    scorer: Scorer,
    folder: TemporaryDirectory[str],
    recipe: str,
    packages: tuple[str, ...],
    table: pd.DataFrame,
    left_out: np.ndarray,
) -> Trained:
    """Judge an exported scorer on the rows that it was not fitted on.

    Parameters
    ----------
    scorer : Scorer
        Fitted on the training rows but those of validation, on which it was calibrated.
    folder : TemporaryDirectory
        Where it was exported to.
    recipe, packages
        As in :class:`training.models.base.Trained`.
    table : DataFrame
    left_out : ndarray of bool of shape (n_rows,)
        Its :func:`validation_rows`.
    """
    unseen = left_out | (table["split"] == "test").to_numpy()
    log_odds = np.full(len(table), np.nan)
    with step("score", f"{unseen.sum():,} reviews that were left out, by what is exported"):
        log_odds[unseen] = log_odds_of(scorer, table, unseen)
    return Trained(
        log_odds=log_odds,
        seen=(table["split"] == "train").to_numpy(),
        judged="validation",
        recipe=recipe,
        export=partial(copy_scorer, folder),
        packages=packages,
    )


def with_progress(
    scores: Callable[[list[str]], tuple[np.ndarray, ...]], table: pd.DataFrame, rows: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return what ``scores`` gives for the reviews of some rows, asked for a slice at a time behind a progress bar.

    Parameters
    ----------
    scores : callable
    table : DataFrame
    rows : ndarray of bool of shape (n_rows,)
    """
    found = []
    numbers = np.flatnonzero(rows)
    with tqdm(total=len(numbers), desc="scoring", unit=" reviews", disable=None) as progress:
        for start in range(0, len(numbers), SLICE):
            found.append(scores(reviews_of(table, numbers[start : start + SLICE])))
            progress.update(len(found[-1][0]))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def log_odds_of(scorer: Scorer, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Return the log-odds of the reviews of some rows, as :func:`with_progress` takes them."""
    (found,) = with_progress(lambda texts: (scorer.log_odds(texts),), table, rows)
    return found
