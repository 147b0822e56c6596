"""Scores texts in this process: ``python -m bench.inprocess`` reads a job and says how long it took."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_PUNCTUATION = re.compile(r"([.,!?()\"':;])")


@dataclass(frozen=True)
class Peer:
    """A way of scoring texts in a Python process.

    Attributes
    ----------
    title : str
        What the report calls it.
    model : str
        The name of the model that it needs.
    """

    title: str
    model: str


PEERS = {
    "ours": Peer("ours: scorer of the artifact", "ours"),
    "ours-pyfunc": Peer("ours: the same through pyfunc `predict`", "ours"),
    "sklearn-pipeline": Peer("the scikit-learn pipeline that ours equals", "sklearn"),
    "usual-pipeline": Peer("usual scikit-learn pipeline", "usual"),
    "fasttext": Peer("fastText", "fasttext"),
    "vader": Peer("VADER", "vader"),
    "textblob": Peer("TextBlob", "textblob"),
}


@dataclass(frozen=True)
class Scorer:
    """Functions to be timed, and how to read from the answer to a batch which texts are positive."""

    single: Callable[[str], Any]
    batch: Callable[[list[str]], Any]
    positive: Callable[[Any], list[bool]]


def fasttext_line(text: str) -> str:
    """Return a text as the tutorial of fastText wants it: lower case, punctuation set apart, one line."""
    return " ".join(_PUNCTUATION.sub(r" \1 ", text.lower().replace("<br />", " ")).split())


def load(name: str, files: dict[str, str]) -> Scorer:
    """Return the functions of the peer ``name``.

    Parameters
    ----------
    name : str
        A key of ``PEERS``.
    files : dict
        Path of each model.
    """
    path = files.get(PEERS[name].model, "")
    match name:
        case "ours" | "ours-pyfunc":
            return _ours(path, through_pyfunc=name == "ours-pyfunc")
        case "sklearn-pipeline" | "usual-pipeline":
            import joblib

            classify = joblib.load(path).predict_proba
            return Scorer(lambda text: classify([text]), classify, lambda p: (p[:, 1] >= 0.5).tolist())
        case "fasttext":
            import fasttext

            predict = fasttext.load_model(path).predict
            return Scorer(
                lambda text: predict(fasttext_line(text)),
                lambda texts: predict([fasttext_line(text) for text in texts]),
                lambda answer: [labels[0] == "__label__positive" for labels in answer[0]],
            )
        case "vader":
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

            scores = SentimentIntensityAnalyzer().polarity_scores
            return _one_by_one(lambda text: scores(text)["compound"])
        case _:
            from textblob import TextBlob

            return _one_by_one(lambda text: TextBlob(text).sentiment.polarity)


def _ours(path: str, through_pyfunc: bool) -> Scorer:
    import mlflow
    import pandas as pd

    model = mlflow.pyfunc.load_model(path)
    if through_pyfunc:

        def predict(texts: list[str]) -> Any:
            return model.predict(pd.DataFrame({"text": texts}))

        return Scorer(
            lambda text: predict([text]),
            predict,
            lambda rows: [row["sentiment"] == "positive" for row in rows],
        )
    log_odds = model.unwrap_python_model()._scorer.log_odds
    return Scorer(lambda text: log_odds([text]), log_odds, lambda odds: (odds >= 0).tolist())


def _one_by_one(score: Callable[[str], float]) -> Scorer:
    return Scorer(score, lambda texts: list(map(score, texts)), lambda found: [s >= 0 for s in found])


def measure(scorer: Scorer, texts: list[str]) -> dict[str, float]:
    """Return microseconds for single texts, and texts per second for all at once, after a warm-up.

    A batch is repeated for a second; its median counts.
    """
    for text in texts[:100]:
        scorer.single(text)
    seconds = []
    for text in texts:
        start = time.perf_counter()
        scorer.single(text)
        seconds.append(time.perf_counter() - start)
    batches: list[float] = []
    while sum(batches) < 1.0:
        start = time.perf_counter()
        scorer.batch(texts)
        batches.append(time.perf_counter() - start)
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e6
    return {"p50": p50, "p99": p99, "throughput": len(texts) / float(np.median(batches))}


def main() -> None:
    """Do the job on standard input: ``measure`` or ``label`` texts."""
    job = json.load(sys.stdin)
    scorer = load(job["peer"], job["files"])
    if job["do"] == "measure":
        print(json.dumps(measure(scorer, job["texts"])))
    else:
        print(json.dumps(scorer.positive(scorer.batch(job["texts"]))))


if __name__ == "__main__":
    main()
