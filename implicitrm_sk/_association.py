"""Do signals co-occur as their signs allow? A test for every pair, on rows held out of the fit."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

#: An association counts if chance alone would bring one of all pairs about with less than this
#: probability, ...
SIGNIFICANCE = 0.01
#: ... and if it is larger than this share of the expected co-occurrences: marginals that are fitted
#: are never exact, which many rows make significant.
LEAST_SHARE = 0.2
#: Fewer rows on which both signals are logged tell nothing.
MIN_ROWS = 100
#: More rows than this, evenly spaced, are not looked at.
MAX_ROWS = 20_000


@dataclass(frozen=True)
class Association:
    """Two signals that co-occur as their signs do not allow.

    Attributes
    ----------
    signals : (str, str)
        Their names.
    same_sign : bool
        Whether both show the same preference; they then co-occur too rarely, else too often.
    seen, expected : float
        Rows with both, and how many there would be were they independent given x.
    z : float
        The difference in standard errors.
    n_rows : int
        Rows on which both are logged.
    """

    signals: tuple
    same_sign: bool
    seen: float
    expected: float
    z: float
    n_rows: int

    def __str__(self):
        first, second = map(repr, self.signals)
        kind = "of the same sign" if self.same_sign else "of opposite signs"
        return (
            f"{first} and {second} ({kind}) co-occur on {self.seen:.0f} of {self.n_rows} rows, "
            f"where independence given x gives {self.expected:.0f}"
        )


def find_associations(counts, covariates, weight, clusters, target, column, names):
    """Return the pairs of acts that co-occur as their signs do not allow.

    Given x, two acts that show the same preference have the covariance
    R (1 - R) (A_j - e_j) (A_k - e_k) >= 0, and two that show opposite ones that of
    -R (1 - R) (A_j - e_j) (A_k - e_k) <= 0. The statistic is the sum of the products of residuals,
    (y_j - p_j) (y_k - p_k), over its standard error, which is summed by cluster (the generalised
    covariance measure [1]_). p_j is a logistic regression of y_j on `covariates`: what a fit that
    has not seen these rows predicts, recalibrated. The pairs share the significance by Bonferroni.

    Parameters
    ----------
    counts : ndarray of shape (n, K)
        0, 1 or NaN.
    covariates : ndarray of shape (n, q)
    weight : ndarray of shape (n,)
    clusters : ndarray of int of shape (n,) or None
        Rows of one cluster may depend on each other; None: none do.
    target, column : ndarray of int of shape (K,)
        The preference that each act shows, and the column of y that it is of.
    names : list of str
        Of the acts.

    Returns
    -------
    found : list of Association

    References
    ----------
    .. [1] Shah & Peters, "The Hardness of Conditional Independence Testing and the Generalised
       Covariance Measure", Annals of Statistics 48 (3), 2020.
    """
    clusters = np.arange(len(counts)) if clusters is None else clusters
    pairs = [
        (j, k)
        for j, k in itertools.combinations(range(counts.shape[1]), 2)
        if column[j] != column[k]
    ]
    fitted = {}
    found = []
    for j, k in pairs:
        both = ~np.isnan(counts[:, [j, k]]).any(axis=1) & (weight > 0)
        y = counts[both][:, [j, k]]
        if len(y) < MIN_ROWS or (y.min(axis=0) == y.max(axis=0)).any():
            continue
        w = weight[both] / weight[both].mean()
        p = np.column_stack(
            [_marginal(fitted, i, counts, covariates, weight)[both] for i in (j, k)]
        )
        product = w * np.prod(y - p, axis=1)
        by_cluster = np.bincount(np.unique(clusters[both], return_inverse=True)[1], product)
        # Rare co-occurrences that did not happen have no spread of their own.
        variance = max((by_cluster**2).sum(), (w**2 * np.prod(p * (1 - p), axis=1)).sum())
        z = product.sum() / math.sqrt(variance)
        seen, expected = w @ np.prod(y, axis=1), w @ np.prod(p, axis=1)
        same = target[j] == target[k]
        wrong = -z if same else z
        significant = math.erfc(wrong / math.sqrt(2)) / 2 * len(pairs) < SIGNIFICANCE
        if significant and abs(seen - expected) > LEAST_SHARE * expected:
            signals = (str(names[j]), str(names[k]))
            found.append(Association(signals, bool(same), seen, expected, float(z), len(y)))
    return found


def _marginal(fitted, j, counts, covariates, weight):
    """Return P(act j | covariates), of all rows."""
    if j not in fitted:
        logged = ~np.isnan(counts[:, j]) & (weight > 0)
        regression = LogisticRegression(C=100.0, max_iter=200)
        regression.fit(covariates[logged], counts[logged, j], sample_weight=weight[logged])
        fitted[j] = regression.predict_proba(covariates)[:, 1]
    return fitted[j]


def explain(found):
    """Return in words what associations speak against, and what can cause them."""
    signals = [name for each in found for name in each.signals]
    common = [name for name in dict.fromkeys(signals) if signals.count(name) == len(found)]
    text = f"{'; '.join(map(str, found))}. Possible causes: "
    if len(found) > 1 and len(common) == 1:
        text += f"{common[0]!r} disagrees with each of the others, so its sign is probably wrong; "
    else:
        text += "one of them has the wrong sign (see signals); "
    return text + (
        "they exclude each other, as the outcomes of one widget do (see implicitrm_sk.signals."
        "Choice); or 0 was logged where one of them was not offered (use NaN)"
    )
