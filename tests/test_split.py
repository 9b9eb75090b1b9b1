"""The split of a log into training and validation rows."""

import numpy as np
import pytest

from implicitrm_sk.training._split import cross_fitting_folds, row_codes, validation_split

DTYPES = [np.float16, np.float32, np.float64]


def split(acted, groups, fraction=0.2, seed=0):
    return validation_split(
        np.asarray(acted, dtype=bool), groups, fraction, np.random.RandomState(seed)
    )


def singletons(n, n_acted, seed=0):
    acted = np.zeros(n, dtype=bool)
    acted[np.random.default_rng(seed).permutation(n)[:n_acted]] = True
    return acted, np.arange(n)


# Codes of rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_features", [1, 2, 7, 64])
def test_equal_codes_are_equal_rows(dtype, n_features):
    rng = np.random.default_rng(0)
    # Few values, so that many rows are equal; a sign, so that some zeros are -0.0.
    X = (rng.integers(-1, 2, size=(6000, n_features)) * 0.0).astype(dtype)
    X += rng.integers(0, 40, size=(6000, 1)).astype(dtype) / 4
    X[:, -1] += rng.integers(0, 3, size=6000).astype(dtype)
    codes = row_codes(X)
    assert codes.shape == (6000,)
    _, by_value = np.unique(X, axis=0, return_inverse=True)
    pairs = np.unique(np.column_stack([by_value.astype(np.uint64), codes]), axis=0)
    assert len(pairs) == len(np.unique(by_value)) == len(np.unique(codes))


@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_zero_is_zero(dtype):
    X = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0]], dtype=dtype)
    assert np.signbit(X[1, 0])
    a, b, c = row_codes(X)
    assert a == b != c


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_see_the_last_bit_and_the_order_of_columns(dtype):
    X = np.array([[1, 2, 3], [1, 2, 3], [2, 1, 3]], dtype=dtype)
    X[1, 2] = np.nextafter(X[1, 2], dtype(9))
    assert len(np.unique(row_codes(X))) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_structured_rows_do_not_collide(dtype):
    """Sums of columns would collide on one-hot rows, and on rows that differ in two columns."""
    one_hot = np.eye(300, dtype=dtype)
    pairs = (one_hot[:, None] + one_hot)[np.triu_indices(300, 1)]
    X = np.concatenate([0 * one_hot[:1], one_hot, 2 * one_hot, pairs])
    assert len(np.unique(row_codes(X))) == len(X)


def test_codes_do_not_depend_on_position_or_chunk():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(9001, 3))  # over two chunk borders
    codes = row_codes(X)
    order = rng.permutation(len(X))
    assert np.array_equal(row_codes(X[order]), codes[order])
    for rows in (slice(0, 1), slice(4095, 4097), slice(8192, None), slice(17, 4200, 7)):
        assert np.array_equal(row_codes(X[rows]), codes[rows])
    assert np.array_equal(row_codes(X), codes)  # no state


def test_codes_of_any_memory_layout():
    rng = np.random.default_rng(2)
    X = rng.normal(size=(50, 6))
    codes = row_codes(X)
    before = X.copy()
    wide = np.repeat(X, 2, axis=1)
    read_only = X.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(X), wide[:, ::2], X[::-1][::-1], read_only):
        assert np.array_equal(row_codes(same), codes)
    assert np.array_equal(X, before)


# The split


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.75])
@pytest.mark.parametrize("n_acted", [0, 1, 7, 100, 499, 500])
def test_share_of_acted_rows_is_kept(fraction, n_acted):
    """With single rows as groups: the rounded share, to within one row."""
    acted, groups = singletons(500, n_acted)
    for seed in range(20):
        chosen = split(acted, groups, fraction, seed)
        assert chosen.sum() == round(fraction * 500)
        assert abs(acted[chosen].sum() - fraction * n_acted) < 1 + 1e-9


def test_share_of_acted_rows_is_kept_with_groups():
    """Groups of 1 to 8 rows: much closer than a split that draws groups at random."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(1, 9, size=400))
    acted = rng.random(len(groups)) < rng.beta(0.5, 2, size=400)[groups]  # users differ

    def error(chosen):
        return acted[chosen].mean() - acted.mean()

    ours = [error(split(acted, groups, 0.2, seed)) for seed in range(50)]
    at_random = [error(np.isin(groups, rng.permutation(400)[:80])) for _ in range(50)]
    assert np.std(ours) < np.std(at_random) / 2
    assert abs(np.mean(ours)) < 0.01


@pytest.mark.parametrize("kind", [int, float, str])
def test_groups_stay_together(kind):
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 30, size=400).astype(kind)
    acted = rng.random(400) < 0.2
    for seed in range(10):
        chosen = split(acted, groups, 0.3, seed)
        assert not set(groups[chosen]) & set(groups[~chosen])
        assert len(set(groups[chosen])) == 9


@pytest.mark.parametrize("dtype", DTYPES)
def test_identical_rows_stay_together(dtype):
    rng = np.random.default_rng(4)
    distinct = rng.normal(size=(60, 5)).astype(dtype)
    distinct[:20, 0] = 0
    copies = rng.integers(0, 60, size=500)
    X = distinct[copies]
    X[:, 0] *= rng.choice([-1, 1], size=500) * (X[:, 0] == 0) + (X[:, 0] != 0)
    assert np.signbit(X[X[:, 0] == 0, 0]).any()
    chosen = split(rng.random(500) < 0.3, row_codes(X))
    assert chosen.any()
    assert not set(copies[chosen]) & set(copies[~chosen])


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("n_groups", [2, 3, 5])
def test_few_groups_leave_one_on_each_side(n_groups, fraction):
    groups = np.repeat(np.arange(n_groups), 10)
    expected = min(max(round(fraction * n_groups), 1), n_groups - 1)
    for seed in range(10):
        chosen = split(np.arange(len(groups)) % 3 == 0, groups, fraction, seed)
        assert chosen.reshape(n_groups, 10).all(axis=1).sum() == expected
        assert chosen.sum() == 10 * expected


@pytest.mark.parametrize("n", [1, 20])
def test_one_group_validates_nothing(n):
    chosen = split(np.ones(n), np.zeros(n))
    assert chosen.dtype == bool
    assert not chosen.any()
    assert len(chosen) == n


def test_reproducible_and_different_by_seed():
    acted, groups = singletons(200, 40)
    first = split(acted, groups, seed=1)
    assert np.array_equal(first, split(acted, groups, seed=1))
    assert not np.array_equal(first, split(acted, groups, seed=2))


def test_names_of_groups_do_not_matter():
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 50, size=300)
    acted = rng.random(300) < 0.3
    renamed = rng.permutation(1000)[groups]
    assert np.array_equal(split(acted, groups), split(acted, renamed))
    assert np.array_equal(split(acted, groups), split(acted, renamed.astype(str)))


def test_each_row_validates_equally_often():
    acted, groups = singletons(20, 6)
    n_splits = 2000
    counts = sum(split(acted, groups, 0.25, seed).astype(int) for seed in range(n_splits))
    # 20 counts of 2000 draws with probability 1/4: 4.5 standard errors bound all of them.
    assert np.abs(counts / n_splits - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / n_splits)


def test_global_generator_is_not_used():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    row_codes(np.ones((3, 2)))
    split(*singletons(20, 5))
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# Folds


def test_every_row_is_in_one_fold_and_no_group_is_cut():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 500)
    fold = cross_fitting_folds(rng.random(500) < 0.2, groups, 5, np.random.RandomState(0))
    assert set(fold) == set(range(5))
    for group in range(60):
        assert len(set(fold[groups == group])) == 1


def test_folds_have_equal_shares_of_acted_rows():
    acted, groups = singletons(1000, 103)
    fold = cross_fitting_folds(acted, groups, 5, np.random.RandomState(0))
    assert set(np.bincount(fold)) == {200}
    assert set(np.bincount(fold[acted])) <= {20, 21}


def test_folds_are_reproducible_and_do_not_depend_on_names():
    acted, groups = singletons(200, 50)
    folds = [
        cross_fitting_folds(acted, names, 5, np.random.RandomState(seed))
        for names, seed in ((groups, 0), (groups, 0), (-3 * groups, 0), (groups, 1))
    ]
    assert np.array_equal(folds[0], folds[1]) and np.array_equal(folds[0], folds[2])
    assert not np.array_equal(folds[0], folds[3])


def test_fewer_groups_than_folds_leave_folds_empty():
    fold = cross_fitting_folds(np.ones(9), np.arange(9) % 3, 5, np.random.RandomState(0))
    assert sorted(set(fold)) == [0, 1, 2]
