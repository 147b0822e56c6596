"""Counting n-grams, and the two transformers between counts and classifier."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Self

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from joblib.externals.loky import get_reusable_executor
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags, gen_even_slices
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
from tqdm import tqdm

from cli import end_with
from sentiment_model.cleaning import tokenize
from sentiment_model.ngrams import ngrams

REVIEWS_PER_TASK = 2_000
REVIEWS_PER_WORKER = 50_000  # fewer are counted in less time than a worker needs to start


def count_ngrams(
    reviews: Sequence[str], ngram_max: int, min_df: int
) -> tuple[CountVectorizer, sp.csr_matrix]:
    """Return a fitted vectorizer that marks which n-grams a raw review holds, and its matrix.

    Both equal what ``CountVectorizer.fit_transform`` gives with :func:`sentiment_model.ngrams.ngrams` as
    analyzer, in a fraction of its time and memory: words become numbers on all cores, and an n-gram is the
    number of its prefix and that of its last word, counted only where both are frequent enough [1]_.

    Parameters
    ----------
    reviews : sequence of str, length n_reviews
    ngram_max : int
    min_df : int
        Fewest reviews that an n-gram must stand in.

    Returns
    -------
    counter : CountVectorizer
    counts : csr_matrix of shape (n_reviews, n_ngrams)
        Ones.

    Raises
    ------
    ValueError
        If no n-gram is frequent enough.

    References
    ----------
    .. [1] R. Agrawal and R. Srikant, "Fast Algorithms for Mining Association Rules", VLDB 1994.
    """
    words, tokens, lengths = _number_tokens(reviews)
    review = np.repeat(np.arange(len(reviews), dtype=np.int32), lengths)
    same_review = review[:-1] == review[1:]

    place = np.arange(len(tokens))  # the first token of each n-gram
    ngram, terms, last_word = tokens, words, np.arange(len(words))
    vocabulary: list[pa.Array] = []
    blocks: list[sp.csr_matrix] = []
    for n in range(1, ngram_max + 1):
        if n > 1:
            at = np.full(len(tokens), -1)
            at[place] = ngram
            place = np.flatnonzero((at[:-1] >= 0) & (at[1:] >= 0) & same_review)
            pairs = at[place] * len(terms) + at[place + 1]
            ngram, found = pd.factorize(pairs)
            prefix, suffix = np.divmod(found, max(len(terms), 1))
            last_word = last_word[suffix]
            terms = pc.binary_join_element_wise(
                terms.take(prefix), words.take(last_word), pa.scalar(" ", pa.large_string())
            )
        often = np.bincount(ngram, minlength=len(terms)) >= min_df  # a bound on the reviews that hold it
        marks = often[ngram]
        block = sp.csr_matrix(
            (np.ones(marks.sum()), (review[place[marks]], ngram[marks])), (len(reviews), len(terms))
        )
        block.sum_duplicates()
        frequent = np.bincount(block.indices, minlength=len(terms)) >= min_df
        kept = np.flatnonzero(frequent)
        blocks.append(block[:, kept])
        terms, last_word = terms.take(kept), last_word[kept]
        vocabulary.append(terms)
        marks = frequent[ngram]
        place, ngram = place[marks], (np.cumsum(frequent) - 1)[ngram[marks]]

    names = pa.concat_arrays(vocabulary)
    if not len(names):
        raise ValueError(f"no n-gram stands in {min_df} of {len(reviews)} reviews")
    order = pc.sort_indices(names).to_numpy()
    counts = sp.csr_matrix(sp.hstack(blocks, format="csr"))
    counts.indices = np.argsort(order).astype(np.int32)[counts.indices]
    counts.has_sorted_indices = False
    counts.sort_indices()
    counts.data[:] = 1
    counter = CountVectorizer(
        analyzer=partial(ngrams, ngram_max=ngram_max), binary=True, min_df=min_df, dtype=np.float64
    )
    counter.vocabulary_ = {name: column for column, name in enumerate(names.take(order).to_pylist())}
    counter.fixed_vocabulary_ = False
    return counter, counts


def _number_tokens(reviews: Sequence[str]) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return the distinct tokens of all reviews, the number of each token in order, and the tokens per review."""
    slices = list(gen_even_slices(len(reviews), -(-len(reviews) // REVIEWS_PER_TASK)))
    workers = min(joblib.cpu_count(), -(-len(reviews) // REVIEWS_PER_WORKER))
    jobs = joblib.Parallel(
        n_jobs=workers, return_as="generator", initializer=end_with, initargs=(os.getpid(),)
    )
    numbers: dict[str, int] = {}
    tokens: list[np.ndarray] = []
    lengths: list[int] = []
    with tqdm(total=len(reviews), desc="n-grams", unit=" reviews", disable=None) as progress:
        for words, local, counted in jobs(joblib.delayed(_number_slice)(reviews[s]) for s in slices):
            known = [numbers.setdefault(word, len(numbers)) for word in words]
            tokens.append(np.array(known, dtype=np.int64)[local])
            lengths += counted
            progress.update(len(counted))
    get_reusable_executor().shutdown()
    return pa.array(numbers, pa.large_string()), np.concatenate(tokens), np.array(lengths)


def _number_slice(reviews: Sequence[str]) -> tuple[list[str], np.ndarray, list[int]]:
    numbers: dict[str, int] = {}
    tokens: list[int] = []
    lengths = []
    for review in reviews:
        found = [numbers.setdefault(token, len(numbers)) for token in tokenize(review)]
        tokens += found
        lengths.append(len(found))
    return list(numbers), np.array(tokens, dtype=np.int32), lengths


def raised_min_df(document_frequency: np.ndarray, min_df: int, max_features: int) -> int:
    """Return the least number from ``min_df`` on that no more than ``max_features`` frequencies reach; 0 for any number."""
    if not max_features:
        return min_df
    # how many columns stand in at least 0, 1, 2 ... rows
    at_least = np.bincount(document_frequency)[::-1].cumsum()[::-1]
    few_enough = np.flatnonzero(at_least <= max_features)
    return max(min_df, int(few_enough[0]) if len(few_enough) else len(at_least))


def log_count_ratio(last: np.ndarray, others: np.ndarray, alpha: float, power: float) -> np.ndarray:
    """Return the ratios of :class:`LogCountRatio` from the mass of each feature in the last class and in all others."""
    shares = [(mass + alpha) / (mass + alpha).sum() for mass in (last, others)]
    ratio = np.log(shares[0] / shares[1])
    return np.sign(ratio) * np.abs(ratio) ** power


class MinDocumentFrequency(SelectorMixin, BaseEstimator):
    """Keep the columns that are not zero in at least ``min_df`` rows.

    Parameters
    ----------
    min_df : int, default=2
    max_features : int, default=0
        If not 0, raise ``min_df`` until no more columns than these are left. Ties are never split, so that
        an n-gram never stays without the shorter ones within it.

    Attributes
    ----------
    document_frequency_ : ndarray of shape (n_features,)
    min_df_ : int

    Examples
    --------
    >>> MinDocumentFrequency(min_df=2).fit_transform([[1, 0], [1, 1]])
    array([[1],
           [1]])
    """

    def __init__(self, min_df: int = 2, max_features: int = 0) -> None:
        self.min_df = min_df
        self.max_features = max_features

    def fit(self, X: ArrayLike | sp.spmatrix, y: object = None) -> Self:
        """Count the rows in which each column of ``X``, of shape (n_samples, n_features), is not zero.

        Raises
        ------
        ValueError
            If no column is left.
        """
        X = validate_data(self, X, accept_sparse="csr")
        if sp.issparse(X):
            nonzero = X.indices[X.data != 0]
            self.document_frequency_ = np.bincount(nonzero, minlength=X.shape[1])
        else:
            self.document_frequency_ = np.count_nonzero(X, axis=0)
        self.min_df_ = raised_min_df(self.document_frequency_, self.min_df, self.max_features)
        if not self._get_support_mask().any():
            raise ValueError(f"no feature occurs in {self.min_df_} of {X.shape[0]} samples")
        return self

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.document_frequency_ >= self.min_df_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class LogCountRatio(TransformerMixin, BaseEstimator):
    """Scale each feature by its Naive-Bayes log-count ratio.

    The ratio of a feature is the logarithm of its smoothed share among the feature mass of the last
    class, divided by that of all other classes: the scaling of NBSVM [1]_, for features that need not
    be counts.

    Parameters
    ----------
    alpha : float, default=1.0
        Additive smoothing.
    power : float, default=1.0
        Exponent of the size of the ratio. 0 leaves its sign alone.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    log_count_ratio_ : ndarray of shape (n_features,)

    References
    ----------
    .. [1] S. Wang and C. Manning, "Baselines and Bigrams: Simple, Good Sentiment and Topic
       Classification", ACL 2012. https://aclanthology.org/P12-2018/

    Examples
    --------
    >>> scaler = LogCountRatio().fit([[3, 0], [0, 3]], ["negative", "positive"])
    >>> scaler.log_count_ratio_.round(3)
    array([-1.386,  1.386])
    """

    def __init__(self, alpha: float = 1.0, power: float = 1.0) -> None:
        self.alpha = alpha
        self.power = power

    def fit(self, X: ArrayLike | sp.spmatrix, y: ArrayLike) -> Self:
        """Learn the ratios from non-negative ``X`` of shape (n_samples, n_features) and labels ``y``.

        Raises
        ------
        ValueError
            If ``X`` holds a negative value or ``alpha`` is not positive.
        """
        if self.alpha <= 0:
            raise ValueError(f"alpha is {self.alpha}; expected a positive number")
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_non_negative(X, "LogCountRatio.fit")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        last = y == self.classes_[-1]
        mass, others = (np.asarray(X[rows].sum(axis=0), dtype=np.float64).ravel() for rows in (last, ~last))
        self.log_count_ratio_ = log_count_ratio(mass, others, self.alpha, self.power)
        return self

    def transform(self, X: ArrayLike | sp.spmatrix) -> np.ndarray | sp.csr_matrix:
        """Return ``X`` with column j multiplied by ``log_count_ratio_[j]``."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        if sp.issparse(X):
            return sp.csr_matrix(X @ sp.diags_array(self.log_count_ratio_))
        return X * self.log_count_ratio_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.target_tags.required = True
        return tags
