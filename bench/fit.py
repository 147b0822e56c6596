"""Trains the peers that are trained: ``python -m bench.fit`` reads a job and says how long it took."""

import json
import sys
import time
from pathlib import Path

import fasttext
import joblib
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from bench.inprocess import fasttext_line


def usual_pipeline() -> Pipeline:
    """Return what most tutorials write, unfitted: 140,000 words and bigrams with all training rows."""
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000),
    )


def fit_usual(rows: pd.DataFrame, path: Path) -> None:
    """Write the fitted :func:`usual_pipeline`."""
    joblib.dump(usual_pipeline().fit(rows["review"], rows["sentiment"]), path)


def fit_fasttext(rows: pd.DataFrame, path: Path) -> None:
    """Write a fastText classifier with bigrams and the ten hidden units of its paper.

    References
    ----------
    A. Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017.
    """
    lines = path.with_suffix(".txt")
    shuffled = rows.sample(frac=1, random_state=0)  # it learns row by row, and ours are sorted by label
    lines.write_text(
        "".join(
            f"__label__{label} {fasttext_line(review)}\n"
            for review, label in zip(shuffled["review"], shuffled["sentiment"], strict=True)
        )
    )
    model = fasttext.train_supervised(
        str(lines), wordNgrams=2, dim=10, epoch=5, lr=0.5, thread=1, seed=0, verbose=0
    )
    model.save_model(str(path))


def main() -> None:
    """Do the job on standard input."""
    job = json.load(sys.stdin)
    rows = pd.read_json(job["rows"])
    start = time.perf_counter()
    {"usual": fit_usual, "fasttext": fit_fasttext}[job["model"]](rows, Path(job["path"]))
    print(json.dumps(time.perf_counter() - start))


if __name__ == "__main__":
    main()
