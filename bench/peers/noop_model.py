"""A pyfunc with our signature that does no work: what MLflow itself costs."""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class Noop(PythonModel):
    """Answers every row alike."""

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return one constant row for each row asked."""
        return [{"sentiment": "positive", "confidence": 0.5, "error": None}] * len(model_input)


set_model(Noop())
