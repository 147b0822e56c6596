import subprocess
import sys
from collections.abc import Callable
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.utils.estimator_checks import parametrize_with_checks

from sentiment_model.ngrams import ngrams
from tests.conftest import ROOT, until
from training.models import features
from training.models.features import LogCountRatio, MinDocumentFrequency, count_ngrams

pytestmark = pytest.mark.medium


def counted_by_scikit_learn(
    texts: list[str], ngram_max: int, min_df: int
) -> tuple[CountVectorizer, sp.csr_matrix]:
    counter = CountVectorizer(
        analyzer=partial(ngrams, ngram_max=ngram_max), binary=True, min_df=min_df, dtype=np.float64
    )
    return counter, counter.fit_transform(texts)


def assert_same(
    ours: tuple[CountVectorizer, sp.csr_matrix], theirs: tuple[CountVectorizer, sp.csr_matrix]
) -> None:
    assert ours[0].vocabulary_ == theirs[0].vocabulary_
    assert ours[0].get_params().keys() == theirs[0].get_params().keys()
    X, Y = ours[1], theirs[1]
    Y.sort_indices()
    assert X.dtype == Y.dtype
    assert X.shape == Y.shape
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(X, name), getattr(Y, name))


@pytest.mark.large
def test_real_reviews_are_counted_as_scikit_learn_does(
    all_reviews: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several slices, by more than one process."""
    monkeypatch.setattr(features, "REVIEWS_PER_WORKER", 1000)
    texts = all_reviews["review"].sample(4500, random_state=1).tolist()
    ours = count_ngrams(texts, 4, 2)
    assert_same(ours, counted_by_scikit_learn(texts, 4, 2))
    again = ours[0].transform(texts[:100])
    assert (again != ours[1][:100]).nnz == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from(["a", "b", "c", "!", "é", "中", "<b>"]) | st.text("xy'-\u200b", max_size=3)
        ).map(" ".join),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_every_text_is_counted_as_scikit_learn_does(texts: list[str], ngram_max: int, min_df: int) -> None:
    try:
        theirs = counted_by_scikit_learn(texts, ngram_max, min_df)
    except ValueError:
        with pytest.raises(ValueError, match="no n-gram stands in"):
            count_ngrams(texts, ngram_max, min_df)
        return
    assert_same(count_ngrams(texts, ngram_max, min_df), theirs)


@pytest.mark.skipif(joblib.cpu_count() < 2, reason="one core counts without workers")
@pytest.mark.large
def test_a_killed_count_leaves_no_worker() -> None:
    code = "from training.models.features import count_ngrams; count_ngrams(['a b c ' * 200] * 100_000, 1, 2)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True) as process:
        until_workers(process.pid, lambda n: n >= 2)
        process.kill()
    until_workers(process.pid, lambda n: n == 0)


def until_workers(session: int, enough: Callable[[int], bool]) -> None:
    """Wait for the number of worker processes of a session."""

    def reached() -> bool:
        asked = ["pgrep", "-s", str(session), "-f", "LokyProcess"]
        return enough(subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.count("\n"))

    until(reached, what="the number of workers")


@parametrize_with_checks([LogCountRatio(), MinDocumentFrequency(min_df=1)])
def test_scikit_learns_own_checks(estimator, check) -> None:
    check(estimator)


def test_the_ratio_is_wang_and_mannings() -> None:
    counts = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1]])
    y = np.array([1, 1, 0])
    p, q = 1 + counts[:2].sum(axis=0), 1 + counts[2]
    expected = np.log((p / p.sum()) / (q / q.sum()))
    found = LogCountRatio().fit(sp.csr_matrix(counts), y)
    np.testing.assert_allclose(found.log_count_ratio_, expected)
    np.testing.assert_allclose(found.transform(counts), counts * expected)


def test_sparse_stays_sparse() -> None:
    X = sp.random(20, 5, density=0.4, format="csr", random_state=0)
    y = np.arange(20) % 2
    out = LogCountRatio().fit_transform(X, y)
    assert sp.issparse(out)
    np.testing.assert_allclose(out.toarray(), LogCountRatio().fit_transform(X.toarray(), y))


def test_rare_columns_are_dropped() -> None:
    X = sp.csr_matrix([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    assert MinDocumentFrequency(2).fit_transform(X).toarray().tolist() == [[1, 1], [1, 0], [1, 1]]
    with pytest.raises(ValueError, match="no feature occurs in 4 of 3 samples"):
        MinDocumentFrequency(4).fit(X)


def test_max_features_never_splits_columns_of_one_frequency() -> None:
    X = sp.csr_matrix([[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 1]])  # in 3, 2, 2 and 1 rows
    kept = {most: MinDocumentFrequency(1, most).fit(X).get_support().sum() for most in (1, 2, 3, 4, 9)}
    assert kept == {1: 1, 2: 1, 3: 3, 4: 4, 9: 4}
    assert MinDocumentFrequency(3, 4).fit(X).get_support().sum() == 1
    with pytest.raises(ValueError, match="no feature occurs in 3 of 3 samples"):
        MinDocumentFrequency(1, max_features=1).fit(X[:, 1:3])


def test_power_bends_the_ratio_and_keeps_its_sign() -> None:
    X, y = sp.csr_matrix([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]), np.array([1, 0])
    plain = LogCountRatio(alpha=0.5).fit(X, y).log_count_ratio_
    bent = LogCountRatio(alpha=0.5, power=0.75).fit(X, y).log_count_ratio_
    np.testing.assert_allclose(bent, np.sign(plain) * np.abs(plain) ** 0.75)


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ValueError, match="alpha is 0; expected a positive number"):
        LogCountRatio(alpha=0).fit([[1], [2]], [0, 1])
