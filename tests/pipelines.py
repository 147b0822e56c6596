"""Pipelines as users write them, good and bad."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer


def tfidf() -> Pipeline:
    return make_pipeline(TfidfVectorizer(min_df=2), LogisticRegression())


def bayes() -> Pipeline:
    """Without a decision function."""
    return make_pipeline(TfidfVectorizer(min_df=2), MultinomialNB())


def forest() -> Pipeline:
    """Its trees are compiled, of a type that skops does not know to be harmless."""
    return make_pipeline(TfidfVectorizer(min_df=5), RandomForestClassifier(20, max_depth=10, random_state=0))


def shout(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def with_a_function_of_ones_own() -> Pipeline:
    return make_pipeline(FunctionTransformer(shout), TfidfVectorizer(min_df=2), LogisticRegression())


class Keeper(ClassifierMixin, BaseEstimator):
    """Keeps what cannot be written."""

    def fit(self, X: list[str], y: np.ndarray) -> "Keeper":
        self.classes_ = np.unique(y)
        self.open_ = open(__file__)  # noqa: SIM115 -- an open file is what cannot be written
        return self

    def predict_proba(self, X: list[str]) -> np.ndarray:
        return np.full((len(X), 2), 0.5)


class Unsure(ClassifierMixin, BaseEstimator):
    """Does not know what it thinks of a text."""

    def fit(self, X: list[str], y: np.ndarray) -> "Unsure":
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: list[str]) -> np.ndarray:
        return np.full(len(X), np.nan)


class Torn(Unsure):
    """Answers once for all texts."""

    def decision_function(self, X: list[str]) -> np.ndarray:
        return np.zeros((1, 3))


class Silent(Unsure):
    """Does not answer."""

    def decision_function(self, X: list[str]) -> np.ndarray:
        raise OSError("no answer\ntoday")


def unsure() -> Unsure:
    return Unsure()


def torn() -> Torn:
    return Torn()


def silent() -> Silent:
    return Silent()


def a_class() -> type:
    return LogisticRegression


def leaves() -> None:
    raise SystemExit(0)


def keeper() -> Keeper:
    return Keeper()


def regression() -> Pipeline:
    return make_pipeline(TfidfVectorizer(), Ridge())


def clusters() -> Pipeline:
    return make_pipeline(TfidfVectorizer(), KMeans(2))


def nothing() -> None:
    return None


def needs_numbers() -> LogisticRegression:
    """A classifier, but not of texts."""
    return LogisticRegression()


def fails() -> Any:
    raise OSError("the disk of the pipeline is full")
