"""Signals with a degree: dwell time, share of the text kept, edit distance."""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from .._tables import as_values
from .._validation import as_float, is_missing
from ..exceptions import ImplicitRMError
from ._signal import Signal, full_precision, log1mexp

#: A signal with fewer grades is an action.
MIN_GRADES = 3
#: The smallest distance of two cut points, whose difference is then exact in single precision.
MIN_GAP = 1e-3
#: The shift at which training starts.
FIRST_SHIFT = 1.0


class Graded(Signal):
    """A signal whose degree shows the preference: dwell time, share of the text kept.

    The values fall into B ordered grades j = 0 .. B - 1, which follow an ordered logit
    (proportional odds [1]_). r* is 1 if the user prefers the response, and 0 if not:

    ``P(grade >= j | r*, x) = sigmoid(m(x) +- s / 2 - c_j)``,  j = 1 .. B - 1

    with + if r* = `target` and - otherwise. The location m(x) is the output of the propensity head,
    the same for both preferences. Columns that make readers dwell whether or not they like the
    response, such as its length, belong in the propensity columns. The shift s >= 0 and the
    distances of the cut points c_1 < c_2 < ... are estimated with the heads. Each member has its
    own, the same for all rows. The mean of the first and the last cut point is 0, because m(x) can
    take any other value. The bins of the values are not estimated. They are given, or fixed once
    from the values that `fit` gets.

    A graded signal proves nothing. Alone, it does not identify the reward. Beside other signals, it
    is one more view of the same preference, and does not change the verdict.

    Parameters
    ----------
    target : {1, 0}, default=1
        The preference that high values show: 1 for dwell time, 0 for the edit distance.
    bins : int or sequence, default=5
        How values become grades. An int is the largest number of quantile bins, which `fit` finds
        from all values in y. Equal values share a bin. With no more distinct values than `bins`,
        each value is a grade of its own; `signals_` shows the bins. A sequence of B + 1 increasing
        numbers gives the edges of B bins (low, high], where the lowest bin includes its own edge. A
        sequence of strings gives the categories, the lowest first. At least three bins are needed.

    See Also
    --------
    Action : An act that users do or do not do.

    References
    ----------
    .. [1] McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical
       Society B 42 (2), 1980.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.signals import Graded
    >>> dwell = Graded(bins=[0, 2, 10, np.inf])  # seconds
    >>> dwell.encode([0.0, 1.5, 2.0, 30.0, None], "dwell")
    array([ 0.,  0.,  0.,  2., nan])
    >>> Graded(bins=3).settled([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "dwell")
    Graded(target=1, bins=(-inf, 2.0, 8.0, inf))
    """

    assumption = "grades follow an ordered logit with a constant shift"

    def __init__(self, target: int = 1, bins: int | Sequence[float] | Sequence[str] = 5) -> None:
        self.target = target
        self.bins = bins

    # ------------------------------------------------------------------ what follows from arguments

    @property
    def _n_grades(self):
        if isinstance(self.bins, Integral):
            return int(self.bins)
        return len(self.bins) - (not self._has_categories)

    @property
    def _has_categories(self):
        return not isinstance(self.bins, Integral) and isinstance(self.bins[0], str)

    @property
    def values(self):
        """The grades, from 0."""
        return tuple(float(grade) for grade in range(self._n_grades))

    @property
    def n_outputs(self):
        """One logit for the location, one for the shift, and one for each inner bin."""
        return self._n_grades

    @property
    def n_shared(self):
        """All logits except the location."""
        return self._n_grades - 1

    @property
    def given(self):
        """The preference that high values show."""
        return self.target

    # ------------------------------------------------------------------ y

    def _check(self):
        """Raise unless the arguments describe grades."""
        if self.target not in (0, 1):
            raise ImplicitRMError(
                f"target of Graded is {self.target!r}; expected 1 or 0. Pass the preference that "
                "high values show."
            )
        bins, valid = self.bins, False
        if isinstance(bins, Integral):
            valid = not isinstance(bins, bool) and bins >= MIN_GRADES
        elif isinstance(bins, Sequence | np.ndarray) and not isinstance(bins, str):
            bins = list(bins)
            if all(isinstance(label, str) for label in bins):
                valid = len(bins) == len(set(bins)) >= MIN_GRADES
            elif all(isinstance(edge, Real) for edge in bins):
                valid = len(bins) > MIN_GRADES and bool((np.diff(bins) > 0).all())
        if not valid:
            raise ImplicitRMError(
                f"bins of Graded is {self.bins!r}; expected a number of quantile bins, increasing "
                f"edges, or different strings from the lowest category to the highest. At least "
                f"{MIN_GRADES} bins are needed. For two categories, use 'positive' or 'negative'."
            )

    def settled(self, column, name):
        """Return the signal with its bins, which are found from the values unless given.

        Raises
        ------
        ValueError
            If the arguments do not describe grades, or the column has too few of them.
        """
        self._check()
        if isinstance(self.bins, Integral):
            y = self._numbers(column, name)
            distinct, counts = np.unique(y[~np.isnan(y)], return_counts=True)
            if len(distinct) < MIN_GRADES:
                shown = ", ".join(f"{value:g}" for value in distinct) or "none"
                raise ImplicitRMError(
                    f"{name} has {len(distinct)} distinct values ({shown}); expected at least "
                    f"{MIN_GRADES} for {self!r}. Leave a constant column out. For two values, name "
                    "one 'positive' or 'negative' in signals."
                )
            edges = _quantile_edges(distinct, counts, int(self.bins))
            return Graded(self.target, (-np.inf, *edges, np.inf))
        kind = str if self._has_categories else float
        kept = Graded(self.target, tuple(kind(edge) for edge in self.bins))
        found = np.unique(kept.encode(column, name))
        if np.count_nonzero(~np.isnan(found)) < 2:
            raise ImplicitRMError(
                f"{name} has the same grade in every row where it is logged, by {self!r}; expected "
                "several grades. Leave the column out, or give bins that separate its values."
            )
        return kept

    def _numbers(self, column, name):
        return as_float(column, name, "numbers, NaN where it was not logged")

    def encode(self, column, name):
        """Return the grades of values.

        Raises
        ------
        ValueError
            If a value is outside all bins, or a category is unknown.
        """
        self._check()
        if self._has_categories:
            labels = np.asarray(as_values(column), dtype=object)
            codes = {label: float(code) for code, label in enumerate(self.bins)}
            missing = is_missing(labels)
            found = np.full(len(labels), np.nan)
            for row in np.flatnonzero(~missing):
                if labels[row] not in codes:
                    raise ImplicitRMError(
                        f"{name} is {labels[row]!r} in row {row}; expected one of "
                        f"{', '.join(map(repr, codes))}, or NaN where it was not logged. Add the "
                        "category to bins of Graded, or correct the column."
                    )
                found[row] = codes[labels[row]]
            return found
        y = self._numbers(column, name)
        if isinstance(self.bins, Integral):
            return y  # these are grades already
        edges = np.asarray(self.bins, dtype=float)
        outside = (y < edges[0]) | (y > edges[-1])
        if outside.any():
            row = np.flatnonzero(outside)[0]
            raise ImplicitRMError(
                f"{name} is {y[row]:g} in row {row}; expected a value from {edges[0]:g} to "
                f"{edges[-1]:g}, the bins of Graded, or NaN where it was not logged. Widen the "
                "bins (-np.inf and np.inf accept every value), or correct the column."
            )
        grades = np.searchsorted(edges[1:-1], y, side="left").astype(float)
        return np.where(np.isnan(y), np.nan, grades)

    def seen(self, y):
        """Return where the grade is in the lower half, and where in the upper, by `target`.

        The middle grade of an odd number is in the upper half. This convention serves start values
        and the four groups; a grade does not prove a preference.
        """
        middle = self._n_grades // 2
        low, high = y < middle, y >= middle
        return (low, high) if self.target else (high, low)

    def sample(self, u, preferred, rng):
        """Draw categories, the middle of bins (1 beyond the edge if they are open), or grades."""
        grades = super().sample(u, preferred, rng).astype(int)
        if isinstance(self.bins, Integral):
            return grades.astype(float)
        if self._has_categories:
            return np.asarray(self.bins, dtype=object)[grades]
        edges = np.asarray(self.bins, dtype=float)
        low = np.where(np.isinf(edges[:-1]), edges[1:] - 2, edges[:-1])
        high = np.where(np.isinf(edges[1:]), low + 2, edges[1:])
        return ((low + high) / 2)[grades]

    # ------------------------------------------------------------------ likelihood

    def _parts(self, u):
        """Return location, shift, gaps (..., B - 2) and cut points (..., B - 1)."""
        # softplus by hand: the derivative of torch's is rounded to 1 from 20 on.
        shift, gaps = -logsigmoid(-u[..., 1]), MIN_GAP - logsigmoid(-u[..., 2:])
        cuts = torch.cat([torch.zeros_like(gaps[..., :1]), gaps.cumsum(-1)], -1)
        return u[..., 0], shift, gaps, cuts - cuts[..., -1:] / 2

    def _ends(self, u, y):
        """Return shift, gaps, location, the cut points around the grades, log(1 - exp(-gap))."""
        m, shift, gaps, cuts = self._parts(u)
        at = torch.nan_to_num(y).long()[..., None].expand(*u.shape[:-1], 1)
        infinite = torch.full_like(cuts[..., :1], torch.inf)
        zero = torch.zeros_like(infinite)
        upper = torch.cat([cuts, infinite], -1).gather(-1, at)[..., 0]
        lower = torch.cat([-infinite, cuts], -1).gather(-1, at)[..., 0]
        width = torch.cat([zero, log1mexp(-gaps), zero], -1).gather(-1, at)[..., 0]
        return m, shift, gaps, upper, lower, width, at

    def _side(self, preferred):
        return 0.5 if preferred == self.target else -0.5

    def log_prob(self, u, y, preferred):
        """Return the log-probability of the grades.

        With a and b the cut points above and below the grade, minus the location, it is
        log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b) + log(1 - exp(b - a)).
        """
        m, shift, _, upper, lower, width, _ = self._ends(full_precision(u), y)
        t = m + self._side(preferred) * shift
        return logsigmoid(upper - t) + logsigmoid(t - lower) + width

    def terms(self, u, y, grad=False):
        """Return log P(y | r*, x) and its derivative.

        With respect to the location, the derivative is D = sigmoid(b) - sigmoid(-a); for the shift,
        D / 2 or - D / 2. For the width g_i of the inner bin i, it is D / 2 if i > j, and - D / 2 if
        i < j. If i = j, it is D / 2 + sigmoid(-a) + 1 / (exp(g_j) - 1).
        """
        u = full_precision(u).unflatten(-1, (y.shape[-1], self.n_outputs))
        m, shift, gaps, upper, lower, width, at = self._ends(u, y)
        unlogged = torch.isnan(y)
        inner = torch.arange(1, self._n_grades - 1, device=u.device)
        slope = torch.sigmoid(u[..., 1:])
        parts, derivatives = [], []
        for c in (0, 1):
            side = self._side(c)
            t = m + side * shift
            log_prob = logsigmoid(upper - t) + logsigmoid(t - lower) + width
            parts.append(log_prob.masked_fill(unlogged, 0.0).sum(-1))
            if grad:
                above = torch.sigmoid(t - upper)
                d = (torch.sigmoid(lower - t) - above)[..., None]
                own = above[..., None] + 1 / torch.expm1(gaps)
                of_gap = d / 2 + torch.where(inner == at, own, torch.where(inner < at, -d, 0.0))
                each = torch.cat([d, torch.cat([side * d, of_gap], -1) * slope], -1)
                derivatives.append(each.masked_fill(unlogged[..., None], 0.0).flatten(-2))
        return torch.stack(parts), tuple(derivatives) if grad else None

    def initial_logits(self, y, weight, reward, acted):
        """Return the logits at which the grades without a shift have their shares in the log."""
        logged = ~np.isnan(y)
        counts = np.bincount(
            y[logged].astype(int), weights=weight[logged], minlength=self._n_grades
        )
        share = (counts + 1) / (counts.sum() + self._n_grades)
        below = np.cumsum(share)[:-1]
        cuts = np.log(below / (1 - below))
        gaps = np.diff(cuts) - MIN_GAP
        positive = np.log(np.expm1(np.array([FIRST_SHIFT, *gaps.clip(MIN_GAP)])))
        logits = np.array([-(cuts[0] + cuts[-1]) / 2, *positive])
        return np.broadcast_to(logits, (*np.shape(reward)[:-1], self.n_outputs))


def _quantile_edges(distinct, counts, n_bins):
    """Return the inner edges of at most `n_bins` bins of about equal counts, none of them empty.

    The edges are quantiles. If equal values span several quantiles, the largest other bins are
    halved until there are as many bins as requested.

    Parameters
    ----------
    distinct : ndarray
        Values, in increasing order.
    counts : ndarray of int
    n_bins : int
    """
    n_bins = min(n_bins, len(distinct))
    total = np.cumsum(counts)
    asked = total[-1] * np.arange(1, n_bins) / n_bins
    # A bin ends with the value that reaches the quantile; the last bin does not need an edge.
    ends = set(np.searchsorted(total, asked)) - {len(distinct) - 1}
    while len(ends) < n_bins - 1:
        edges = np.array([-1, *sorted(ends), len(distinct) - 1])
        rows = np.diff(np.append(0, total)[edges + 1])
        rows[np.diff(edges) < 2] = 0
        largest = np.argmax(rows)
        low, high = edges[largest], edges[largest + 1]
        before = total[low] if low >= 0 else 0
        inner = np.arange(low + 1, high)
        ends.add(int(inner[np.argmin(np.abs(total[inner] - before - rows[largest] / 2))]))
    return [float(distinct[end]) for end in sorted(ends)]
