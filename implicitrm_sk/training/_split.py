"""The split of a log into training and validation rows."""

import numpy as np

from .._sources import chunks


def row_codes(X):
    """Return an integer per row, equal for identical rows.

    It is a random linear hash of the bits. Two different rows share a code with probability below
    2**-31, and would then only stay on the same side of the split.
    """
    rng = np.random.default_rng(0)
    words = X.dtype.itemsize // np.dtype(np.uint32).itemsize
    multipliers = rng.integers(2**63, size=X.shape[1] * max(words, 1), dtype=np.uint64) | np.uint64(
        1
    )
    codes = np.empty(len(X), dtype=np.uint64)
    for start, chunk in chunks(X, 4096):
        chunk = np.ascontiguousarray(chunk)
        # Adding 0 turns -0.0 into 0.0, which compares equal but differs in its bits.
        bits = (chunk + chunk.dtype.type(0)).view(np.uint32 if words else np.uint16)
        codes[start : start + 4096] = (bits.astype(np.uint64) * multipliers).sum(
            axis=1, dtype=np.uint64
        )
    return codes


def validation_split(acted, groups, validation_fraction, rng):
    """Return a mask of the validation rows that keeps groups together and the share of acted rows.

    Groups are sorted by their share of acted rows, with ties in random order. Validation groups are
    taken from this order at equal distances.

    Parameters
    ----------
    acted : ndarray of bool of shape (n,)
        Whether any logged signal of a row fired.
    groups : array-like of shape (n,)
        Rows of equal value stay together.
    validation_fraction : float
        Share of the groups used for validation.
    rng : numpy.random.RandomState

    Returns
    -------
    is_validation : ndarray of bool of shape (n,)
        All False if there is only one group.
    """
    codes, order = _groups_by_share(acted, groups, rng)
    n_groups = len(order)
    chosen = np.zeros(n_groups, dtype=bool)
    if n_groups > 1:
        n_chosen = min(max(round(validation_fraction * n_groups), 1), n_groups - 1)
        positions = (np.arange(n_chosen) + rng.uniform()) * n_groups / n_chosen
        chosen[order[np.minimum(positions.astype(int), n_groups - 1)]] = True
    return chosen[codes]


def cross_fitting_folds(acted, groups, n_folds, rng):
    """Return the fold of each row, 0 to n_folds - 1, with groups together and equal shares acted.

    The parameters are those of `validation_split`. With fewer groups than folds, some folds are
    empty.
    """
    codes, order = _groups_by_share(acted, groups, rng)
    fold = np.empty(len(order), dtype=int)
    fold[order] = np.arange(len(order)) % n_folds
    return fold[codes]


def _groups_by_share(acted, groups, rng):
    """Return the number of each row's group, and the groups sorted by share of acted rows."""
    _, first, codes, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    # Numbered as they appear, so that renaming the groups or rescaling X changes no split.
    appearance = np.argsort(first)
    codes, sizes = np.argsort(appearance)[codes], sizes[appearance]
    share = np.bincount(codes, weights=acted, minlength=len(sizes)) / sizes
    return codes, np.lexsort((rng.permutation(len(sizes)), share))
