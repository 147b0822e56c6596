"""A scikit-learn pipeline as a BentoML service; ``PIPELINE`` names its file."""

import os

import bentoml
import joblib
from pydantic import BaseModel


class Answer(BaseModel):
    """Sentiment of one review."""

    sentiment: str
    confidence: float


@bentoml.service(workers=1)
class Sentiment:
    """Judges reviews."""

    def __init__(self) -> None:
        self.pipeline = joblib.load(os.environ["PIPELINE"])

    @bentoml.api
    def predict(self, reviews: list[str]) -> list[Answer]:
        """Judge every review."""
        positive = self.pipeline.predict_proba(reviews)[:, 1].tolist()
        return [
            Answer(sentiment="positive" if p >= 0.5 else "negative", confidence=max(p, 1 - p))
            for p in positive
        ]
