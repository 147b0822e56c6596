"""A scikit-learn pipeline as a pyfunc with our signature, served as ours is."""

from typing import Any

import joblib
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class PipelineModel(PythonModel):
    """Judges reviews."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the pipeline."""
        self.pipeline = joblib.load(context.artifacts["pipeline"])

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Judge every review."""
        positive = self.pipeline.predict_proba(model_input["text"].tolist())[:, 1].tolist()
        return [
            {"sentiment": "positive" if p >= 0.5 else "negative", "confidence": max(p, 1 - p), "error": None}
            for p in positive
        ]


set_model(PipelineModel())
