"""The custom ``mlflow.pyfunc.PythonModel``: cleaning, TF-IDF and classifier behind one ``predict``."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from .contract import TEXT, Answer, answer, refusal, row_error
from .ngrams import NgramScorer


class SentimentModel(PythonModel):
    """Answers ``sentiment``, ``confidence`` and ``error`` for every row of the column ``text``."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the exported scorer that ``context.artifacts["scorer"]`` points to."""
        self._scorer = NgramScorer.load(Path(context.artifacts["scorer"]))

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
            One column, ``text``.
        params : dict, optional
            None are defined yet.

        Returns
        -------
        list of dict, length n_rows
            A list and not a DataFrame: MLflow writes a null in a DataFrame as ``NaN``, which is not JSON.
        """
        texts = model_input[TEXT].tolist()
        errors = [row_error(text, row) for row, text in enumerate(texts)]
        scores = iter(
            self._scorer.log_odds(text for text, error in zip(texts, errors, strict=True) if error is None)
        )
        return [refusal(error) if error else answer(float(next(scores))) for error in errors]
