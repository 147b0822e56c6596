"""What a fitted pipeline has learnt, and where it is wrong."""

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.pipeline import Pipeline

from data.table import reviews_of


def ngram_table(pipeline: Pipeline) -> pd.DataFrame:
    """Return the n-grams of a fitted pipeline with ``idf`` and ``weight``, sorted by n-gram.

    ``weight`` is the coefficient times the log-count ratio: what an n-gram adds to the linear score,
    times its idf, divided by the Euclidean norm of the idfs of a text.
    """
    counter, frequent, tfidf, classifier = (step for _, step in pipeline.steps)
    ratio, regression = (step for _, step in classifier.linear.steps)
    return pd.DataFrame(
        {
            "ngram": counter.get_feature_names_out()[frequent.get_support()],
            "idf": tfidf.idf_,
            "weight": (regression.coef_[0] * ratio.log_count_ratio_).astype(np.float32),
        }
    )


def strongest_ngrams(table: pd.DataFrame, each_way: int = 20) -> pd.DataFrame:
    """Return the ``each_way`` n-grams of :func:`ngram_table` that pull most to either side."""
    pulls = pd.DataFrame({"ngram": table["ngram"], "contribution": table["idf"] * table["weight"]})
    ordered = pulls.sort_values("contribution", ascending=False, ignore_index=True)
    if len(ordered) <= 2 * each_way:
        return ordered
    return pd.concat([ordered.head(each_way), ordered.tail(each_way)], ignore_index=True)


def confident_mistakes(rows: pd.DataFrame, table: pd.DataFrame, most: int = 50) -> pd.DataFrame:
    """Return the held-out rows that were answered wrongly with the highest confidence.

    Parameters
    ----------
    rows : DataFrame
        Columns ``sentiment``, ``source`` and ``log_odds``; the index says where in ``table`` a row stands.
    table : DataFrame
        Has the column ``review``.
    """
    wrong = rows[(rows["log_odds"] >= 0) != (rows["sentiment"] == "positive")]
    wrong = wrong.reindex(wrong["log_odds"].abs().sort_values(ascending=False, kind="stable").index)
    wrong = wrong.head(most)
    return pd.DataFrame(
        {
            "labelled": wrong["sentiment"],
            "answered": np.where(wrong["log_odds"] >= 0, "positive", "negative"),
            "confidence": expit(wrong["log_odds"].abs()).round(4),
            "review": [review[:1000] for review in reviews_of(table, wrong.index)],
            "source": wrong["source"],
        }
    )
