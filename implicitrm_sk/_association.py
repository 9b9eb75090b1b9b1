"""Do signals co-occur as their signs allow? A test for every pair, on rows held out of the fit."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr
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
    """Whether two signals co-occur as their signs allow.

    Attributes
    ----------
    signals : (str, str)
        Their names.
    same_sign : bool
        Whether both show the same preference. They may then not co-occur too rarely, else not too
        often.
    seen, expected : float
        Rows with both, and how many there would be were they independent given x.
    z : float
        The covariance given x in standard errors.
    p_value : float
        How likely chance alone brings a pair of all those tested this far to the wrong side.
    n_rows : int
        Rows on which both are logged.
    """

    signals: tuple
    same_sign: bool
    seen: float
    expected: float
    z: float
    p_value: float
    n_rows: int

    @property
    def contradicts(self):
        """Whether the association is on the wrong side, neither by chance nor too weak."""
        difference = self.seen - self.expected
        wrong = -difference if self.same_sign else difference
        return self.p_value < SIGNIFICANCE and wrong > LEAST_SHARE * self.expected

    def __str__(self):
        first, second = map(repr, self.signals)
        kind = "of the same sign" if self.same_sign else "of opposite signs"
        return (
            f"{first} and {second} ({kind}) co-occur on {self.seen:.0f} of {self.n_rows} rows, "
            f"where independence given x gives {self.expected:.0f}"
        )


def association_test(counts, covariates, weight, clusters, target, column, names):
    """Test for every pair of acts whether it co-occurs as the signs of the two allow.

    Let R(x) be the reward, A_j(x) the probability of act j where the preference is the one that it
    shows, and e_j its probability elsewhere. Given x, two acts that show the same preference have
    the covariance

    R (1 - R) (A_j - e_j) (A_k - e_k) >= 0,

    and two that show opposite ones have its negative. The statistic is

    z = sum_i w_i (y_ij - p_ij) (y_ik - p_ik) / sqrt(V),
    V = sum_g (sum_{i in g} w_i (y_ij - p_ij) (y_ik - p_ik))^2,

    the generalised covariance measure [1]_ with a variance by cluster g [2]_. p_ij is a logistic
    regression of y_j on `covariates`. These are what a fit that has not seen the rows predicts, and
    the regression recalibrates it: a misfit that two marginals share looks like association.

    V is at least its value under independence, sum_i w_i^2 p_ij (1 - p_ij) p_ik (1 - p_ik), as
    co-occurrences that did not happen have no spread of their own. A few rare ones that did happen
    raise V with them. The one-sided p-value is multiplied by the number of pairs (Bonferroni).

    Parameters
    ----------
    counts : ndarray of shape (n, K)
        0, 1 or NaN.
    covariates : ndarray of shape (n, q)
    weight : ndarray of shape (n,)
    clusters : ndarray of int of shape (n,) or None
        Rows of one cluster may depend on each other; None: none do.
    target, column : ndarray of int of shape (K,)
        The preference that each act shows, and the column of y that it is of. Acts of one column
        are not compared.
    names : list of str
        Of the acts.

    Returns
    -------
    tested : list of Association
        Without pairs that are logged together on fewer than 100 rows, or of which one is constant
        there.

    References
    ----------
    .. [1] Shah & Peters, "The Hardness of Conditional Independence Testing and the Generalised
       Covariance Measure", Annals of Statistics 48 (3), 2020.
    .. [2] Liang & Zeger, "Longitudinal data analysis using generalized linear models", Biometrika
       73 (1), 1986.
    """
    clusters = np.arange(len(counts)) if clusters is None else clusters
    fitted = {}
    tested = []
    for j, k in itertools.combinations(range(counts.shape[1]), 2):
        both = ~np.isnan(counts[:, [j, k]]).any(axis=1) & (weight > 0)
        y = counts[both][:, [j, k]]
        if column[j] == column[k] or len(y) < MIN_ROWS or (y.min(axis=0) == y.max(axis=0)).any():
            continue
        w = weight[both] / weight[both].mean()
        p = np.column_stack(
            [_marginal(fitted, i, counts, covariates, weight)[both] for i in (j, k)]
        )
        product = w * np.prod(y - p, axis=1)
        by_cluster = np.bincount(np.unique(clusters[both], return_inverse=True)[1], product)
        independent = w**2 @ np.prod(p * (1 - p), axis=1)
        variance = max(by_cluster @ by_cluster, independent)
        z = product.sum() / math.sqrt(variance)
        same = bool(target[j] == target[k])
        tested.append(
            Association(
                signals=(str(names[j]), str(names[k])),
                same_sign=same,
                seen=float(w @ np.prod(y, axis=1)),
                expected=float(w @ np.prod(p, axis=1)),
                z=float(z),
                p_value=float(ndtr(z if same else -z)),
                n_rows=len(y),
            )
        )
    return [replace(each, p_value=min(1.0, len(tested) * each.p_value)) for each in tested]


def _marginal(fitted, j, counts, covariates, weight):
    """Return P(act j | covariates), of all rows."""
    if j not in fitted:
        logged = ~np.isnan(counts[:, j]) & (weight > 0)
        w = weight[logged] / weight[logged].mean()  # the penalty is relative to their sum
        regression = LogisticRegression(C=100.0, max_iter=200)
        regression.fit(covariates[logged], counts[logged, j], sample_weight=w)
        fitted[j] = regression.predict_proba(covariates)[:, 1]
    return fitted[j]


def explain(tested):
    """Return in words what the pairs that contradict their signs are, and what can cause it.

    One cause is singled out only where three signals or more allow it.

    Parameters
    ----------
    tested : list of Association
        All pairs.
    """
    found = [each for each in tested if each.contradicts]
    text = f"{'; '.join(map(str, found))}. Possible causes: "
    suspect = _suspect(tested, found)
    if suspect is not None:
        text += f"{suspect!r} disagrees with each of the others, so its sign is probably wrong; "
    else:
        text += "one of them has the wrong sign (see signals); "
    return text + (
        "they exclude each other, as the outcomes of one widget do (see implicitrm_sk.signals."
        "Choice); or 0 was logged where one of them was not offered (use NaN)"
    )


def _suspect(tested, found):
    """Return the one signal of three or more that all contradictions are with, or None."""
    names = {name for each in tested for name in each.signals}
    common = set.intersection(*(set(each.signals) for each in found))
    if len(names) < 3 or len(common) != 1:
        return None
    (suspect,) = common
    return suspect if {name for each in found for name in each.signals} == names else None
