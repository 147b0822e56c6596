import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.utils.estimator_checks import parametrize_with_checks

from training.features import LogCountRatio, MinDocumentFrequency


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
    with pytest.raises(ValueError, match="no feature occurs in min_df=4 of 3 samples"):
        MinDocumentFrequency(4).fit(X)


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ValueError, match="alpha is 0; expected a positive number"):
        LogCountRatio(alpha=0).fit([[1], [2]], [0, 1])
