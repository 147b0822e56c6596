"""Counting n-grams, and the two transformers between counts and classifier."""

from functools import partial
from typing import Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from sentiment_model.ngrams import ngrams


def ngram_counter(ngram_max: int, min_df: int) -> CountVectorizer:
    """Return an unfitted vectorizer that marks which n-grams a raw review holds.

    Fitted once on all rows; :class:`MinDocumentFrequency` then forgets, for every subset of the rows,
    the n-grams that are too rare in that subset, so that cross-validation need not count again.
    """
    return CountVectorizer(
        analyzer=partial(ngrams, ngram_max=ngram_max), binary=True, min_df=min_df, dtype=np.float64
    )


class MinDocumentFrequency(SelectorMixin, BaseEstimator):
    """Keep the columns that are not zero in at least ``min_df`` rows.

    Parameters
    ----------
    min_df : int, default=2

    Attributes
    ----------
    document_frequency_ : ndarray of shape (n_features,)

    Examples
    --------
    >>> MinDocumentFrequency(min_df=2).fit_transform([[1, 0], [1, 1]])
    array([[1],
           [1]])
    """

    def __init__(self, min_df: int = 2) -> None:
        self.min_df = min_df

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
        if not self._get_support_mask().any():
            raise ValueError(f"no feature occurs in min_df={self.min_df} of {X.shape[0]} samples")
        return self

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.document_frequency_ >= self.min_df

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

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

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
        shares = []
        for rows in (last, ~last):
            mass = np.asarray(X[rows].sum(axis=0), dtype=np.float64).ravel() + self.alpha
            shares.append(mass / mass.sum())
        self.log_count_ratio_ = np.log(shares[0] / shares[1])
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
