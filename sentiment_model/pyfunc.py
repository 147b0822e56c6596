"""The custom ``mlflow.pyfunc.PythonModel``: cleaning, TF-IDF and classifier behind one ``predict``."""

import gc
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from pyarrow.lib import ArrowException

from .contract import Answer, answer, explanations_asked, refusal, refuse_too_many, refused, row_error
from .scorers import load

TOO_MUCH_MEMORY = "the texts take too much memory; send fewer at once"
SERVER = "mlflow.pyfunc.scoring_server.app"  # what `mlflow models serve` and MLflow's image run


class SentimentModel(PythonModel):
    """Answers ``sentiment``, ``confidence`` and ``error`` for every row of the column ``text``."""

    _serves = False  # from a server anyone may ask

    def load_context(self, context: PythonModelContext) -> None:
        """Read the exported scorer that ``context.artifacts["scorer"]`` points to."""
        self._scorer: Any = load(Path(context.artifacts["scorer"]))
        self._serves = SERVER in sys.modules
        if self._serves:
            # what is loaded by now stays: looked through again and again, it holds every request up for 0.15 s
            gc.collect()
            gc.freeze()

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[Answer]:
        """Score the rows of ``model_input``; a row that cannot be scored never costs the others.

        Parameters
        ----------
        context : PythonModelContext
            Not used after loading.
        model_input : DataFrame
            One column, ``text``: MLflow drops others before it asks.
        params : dict, optional
            ``explain``: how many of the n-grams that moved the score most each answer lists, under
            ``explanation``. 0, the default, adds nothing. Not for every kind of model.

        Raises
        ------
        MlflowException
            If ``explain`` is out of its range or not available, and, where it is served, if there are too many rows or they take too
            much memory. The server answers it with status 400.

        Returns
        -------
        list of dict, length n_rows
            A list and not a DataFrame: MLflow writes a null in a DataFrame as ``NaN``, which is not JSON.
        """
        explains = hasattr(self._scorer, "explain")
        most = explanations_asked(params, explains)
        if self._serves:
            refuse_too_many(len(model_input), self._scorer.most_rows, most > 0, explains)
        try:
            return self._answers(model_input, most)
        except MemoryError:
            raise refused(TOO_MUCH_MEMORY) from None

    def _answers(self, model_input: pd.DataFrame, most: int) -> list[Answer]:
        try:
            (texts,) = (
                model_input.to_numpy().T.tolist()
            )  # to look the column up by name takes ten times as long
        except (UnicodeDecodeError, ArrowException):  # nobody has read the strings of a Parquet file yet
            texts = [_read(model_input, row) for row in range(len(model_input))]
        errors = [row_error(text, row) for row, text in enumerate(texts)]
        scores = iter(
            self._scorer.log_odds(
                text for text, error in zip(texts, errors, strict=True) if error is None
            ).tolist()
        )
        answers = [refusal(error) if error else answer(next(scores)) for error in errors]
        if most:
            for text, given in zip(texts, answers, strict=True):
                given["explanation"] = None if given["error"] else self._scorer.explain(text, most)
        return answers


def _read(rows: pd.DataFrame, row: int) -> object:
    try:
        return rows.iat[row, 0]
    except UnicodeDecodeError:
        return b""  # bytes, and no text
