"""A test, for every pair of signals, whether they co-occur as their signs allow."""

import itertools
import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

#: An association counts if chance alone has less than this probability of bringing it about for one
#: of all pairs ...
SIGNIFICANCE = 0.01
#: ... and if it is larger than this share of the expected co-occurrences. Fitted marginals are
#: never exact, and with many rows even small errors are significant.
LEAST_SHARE = 0.2
#: With fewer rows on which both signals are logged, a pair is not tested.
MIN_ROWS = 100
#: Of more rows than this, an evenly spaced sample is tested.
MAX_ROWS = 20_000


@dataclass(frozen=True)
class Association:
    """The test of one pair: whether two signals co-occur as their signs allow.

    Attributes
    ----------
    signals : (str, str)
        Their names.
    same_sign : bool
        Whether both show the same preference. If so, they may not co-occur too rarely. If not, they
        may not co-occur too often.
    seen, expected : float
        The number of rows with both, and its expectation if they are independent given x.
    z : float
        The covariance given x, in standard errors.
    p_value : float
        The probability that chance alone brings a tested pair this far to the wrong side.
    n_rows : int
        The number of rows on which both are logged.
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
        """Whether the association has the wrong sign, beyond chance and enough to matter."""
        difference = self.seen - self.expected
        wrong = -difference if self.same_sign else difference
        return self.p_value < SIGNIFICANCE and wrong > LEAST_SHARE * self.expected

    def __str__(self):
        first, second = map(repr, self.signals)
        kind = "of the same sign" if self.same_sign else "of opposite signs"
        return (
            f"{first} and {second} ({kind}) co-occur on {self.seen:.0f} of {self.n_rows} rows that "
            f"were tested, where independence given x gives {self.expected:.0f}"
        )


def association_test(counts, covariates, weight, clusters, target, column, names):
    """Test for every pair of acts whether it co-occurs as the signs of the two allow.

    R(x) is the reward. A_j(x) is the probability of act j if the preference is the one that it
    shows, and e_j is its probability otherwise. Given x, two acts that show the same preference
    have the covariance

    R (1 - R) (A_j - e_j) (A_k - e_k) >= 0,

    and two acts that show opposite preferences have its negative. The statistic is

    z = sum_i w_i (y_ij - p_ij) (y_ik - p_ik) / sqrt(V),
    V = sum_g (sum_{i in g} w_i (y_ij - p_ij) (y_ik - p_ik))^2,

    the generalised covariance measure [1]_, for actions y_ij of row i with weight w_i, and a
    variance by cluster g [2]_. p_ij is a logistic regression of y_j on `covariates`. These are the
    predictions of a fit that has not seen the rows. The regression recalibrates them, because a
    misfit that two marginals share looks like association.

    V is at least its value under independence, sum_i w_i^2 p_ij (1 - p_ij) p_ik (1 - p_ik), because
    co-occurrences that did not happen do not have a spread of their own. A few rare ones that did
    happen raise V too. The one-sided p-value is multiplied by the number of pairs (Bonferroni).

    Parameters
    ----------
    counts : ndarray of shape (n, K)
        0, 1 or NaN.
    covariates : ndarray of shape (n, q)
    weight : ndarray of shape (n,)
    clusters : ndarray of int of shape (n,) or None
        Rows of one cluster may depend on each other. None: all rows are independent.
    target, column : ndarray of int of shape (K,)
        The preference that each act shows, and the column of y that it belongs to. Acts of one
        column are not compared.
    names : list of str
        The names of the acts.

    Returns
    -------
    tested : list of Association
        All pairs except those logged together on fewer than 100 rows, and those with a constant act
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
    """Return P(act j | covariates) for all rows."""
    if j not in fitted:
        logged = ~np.isnan(counts[:, j]) & (weight > 0)
        w = weight[logged] / weight[logged].mean()  # the penalty is relative to the sum of weights
        regression = LogisticRegression(C=100.0, max_iter=200)
        with warnings.catch_warnings():
            # The last steps change no prediction by much, and users cannot change the scale.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit(covariates[logged], counts[logged, j], sample_weight=w)
        fitted[j] = regression.predict_proba(covariates)[:, 1]
    return fitted[j]


def explain(tested):
    """Describe the pairs that contradict their signs, and the possible causes, in words.

    One cause is singled out only if there are at least three signals.

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
    """Return the signal, of three or more, that is part of all contradictions, or None."""
    names = {name for each in tested for name in each.signals}
    common = set.intersection(*(set(each.signals) for each in found))
    if len(names) < 3 or len(common) != 1:
        return None
    (suspect,) = common
    return suspect if {name for each in found for name in each.signals} == names else None
