"""A scikit-learn pipeline in a hand-written FastAPI app; ``PIPELINE`` names its file."""

import os

import joblib
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
pipeline = joblib.load(os.environ["PIPELINE"])


class Question(BaseModel):
    """Reviews to judge."""

    reviews: list[str]


class Answer(BaseModel):
    """Sentiment of one review."""

    sentiment: str
    confidence: float


@app.post("/predict")
def predict(question: Question) -> list[Answer]:
    """Judge every review."""
    positive = pipeline.predict_proba(question.reviews)[:, 1].tolist()
    return [
        Answer(sentiment="positive" if p >= 0.5 else "negative", confidence=max(p, 1 - p)) for p in positive
    ]
