"""Score tests whether another distribution of the actions, near that of a fit, explains a log."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .measurement._model import Measurement
from .measurement._one_step import MAX_OUTCOMES, Activity, correction, score

#: With fewer rows of all signals nothing is tested.
MIN_ROWS = 100
#: Maximum number of rows times outcomes.
MAX_WORK = 2**18
#: Rows at a time.
CHUNK = 4096
#: Ridge of the information, so that rows that hardly tell the share do not decide.
RIDGE = 0.001


@dataclass(frozen=True)
class ScoreTest:
    """The result of a score test.

    Attributes
    ----------
    share : float
        A first estimate of the share w. It is too large where the share is large, since the fit has
        adapted to it.
    z : float
        The score in standard errors, positive if the share is.
    n_rows : int
    """

    share: float
    z: float
    n_rows: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a log under a fit.

    Attributes
    ----------
    measurement : Measurement
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, P)
    rates : Tensor of shape (K,) or None
    activity : Activity or None
        That of the user of each row, given the other rows of the user.
    """

    measurement: Measurement
    reward_logit: torch.Tensor
    propensity_logit: torch.Tensor
    rates: torch.Tensor | None
    activity: Activity | None

    def part(self, rows):
        """Return some of the rows."""
        mine = self.activity
        if mine is not None:
            mine = Activity(mine.shift[:, rows], mine.log_weight[:, rows], mine.sample)
        f, u = self.reward_logit[rows], self.propensity_logit[rows]
        return Rows(self.measurement, f, u, self.rates, mine)

    def score(self, actions):
        """Return log P(actions) and its derivative in the logits."""
        f, u = self.reward_logit, self.propensity_logit
        return score(self.measurement, f, u, actions, self.rates, activity=self.activity)

    def probability(self, actions, rates=None, preferred=None):
        """Return P(actions), at other rates if given, or P(actions, r* = preferred)."""
        f, u = self.reward_logit, self.propensity_logit
        labels = None if preferred is None else torch.full_like(f, preferred)
        rates = self.rates if rates is None else rates
        if self.activity is not None:
            u = u + self.activity.shift
        found = self.measurement.log_likelihood(
            f.expand(u.shape[:-1]), u, actions, rates, labels=labels
        )
        if self.activity is not None:
            found = torch.logsumexp(found + self.activity.log_weight, 0)
        return found.exp()


#: Returns the probability Q(y) of the actions y, (n, K), of rows, which is of shape (n,).
Distribution = Callable[[Rows, torch.Tensor], torch.Tensor]


def score_tests(rows: Rows, log, distributions: list[Distribution]) -> list[ScoreTest | None]:
    """Return a score test of each distribution Q, None where rows are too few or show nothing.

    A share w of the rows is taken to have actions of the distribution Q: P_w(y) =
    (1 - w) P(y | x) + w Q(y). The score of w = 0 is t = Q / P - 1. Let s be the score of the logits
    of the row, and I its information. Then t - E[t s'] I^-1 s does not depend on the errors of the
    fit to first order. This is the C(alpha) test of Neyman (Optimal asymptotic tests of composite
    statistical hypotheses, 1959).

    Parameters
    ----------
    rows : Rows
    log : FeedbackLog
        Only its rows with all signals are tested.
    distributions : list of callable
    """
    nothing: list[ScoreTest | None] = [None] * len(distributions)
    signals = rows.measurement.signals
    chosen = np.flatnonzero(log.logged().all(axis=1) & (log.sample_weight > 0))
    if any(signal.values is None for signal in signals):
        return nothing
    n_outcomes = int(np.prod([len(signal.values) for signal in signals]))
    if len(chosen) < MIN_ROWS or n_outcomes > MAX_OUTCOMES:
        return nothing
    chosen = chosen[:: -(-len(chosen) * n_outcomes // MAX_WORK)]
    actions, weight = torch.as_tensor(log.actions), log.sample_weight[chosen]
    scores, variances = np.empty((2, len(distributions), len(chosen)))
    for start in range(0, len(chosen), CHUNK):
        part = chosen[start : start + CHUNK]
        found = _efficient(rows.part(part), actions[part], distributions)
        scores[:, start : start + CHUNK], variances[:, start : start + CHUNK] = found
    weight = weight / weight.sum()
    # That of the log is too small where actions that are rare and tell much happen not to occur.
    errors = np.sqrt(np.maximum(scores**2 @ weight**2, variances @ weight**2))
    return [
        ScoreTest(float(weight @ t / (weight @ v)), float(weight @ t / error), len(chosen))
        if error > 0
        else None
        for t, v, error in zip(scores, variances, errors, strict=True)
    ]


def _efficient(rows, y, distributions):
    """Return the efficient scores of the shares, and their variances, both (Q, n).

    They are 0 in rows that do not determine what is left of a share.
    """
    log_prob, own = rows.score(y)
    n, p = own.shape
    known, gradient = own.new_zeros(n, p, p), own.new_zeros(len(distributions), n, p)
    square = own.new_zeros(len(distributions), n)
    for outcome in itertools.product(*(signal.values for signal in rows.measurement.signals)):
        each = y.new_tensor(outcome).expand_as(y)
        log_p, s = rows.score(each)
        known += log_p.exp()[:, None, None] * s[:, :, None] * s[:, None]
        for k, distribution in enumerate(distributions):
            q = distribution(rows, each)
            gradient[k] += q[:, None] * s
            square[k] += torch.where(q > 0, q**2 * torch.exp(-log_p), 0.0)
    scores, variances = [], []
    for distribution, of_q, squared in zip(distributions, gradient, square, strict=True):
        q = distribution(rows, y)
        t = torch.where(q > 0, q * torch.exp(-log_prob), 0.0) - 1
        explained, singular = correction(of_q, known, own, RIDGE)
        lost, _ = correction(of_q, known, of_q, RIDGE)
        for part, values in ((t - explained, scores), (squared - 1 - lost, variances)):
            values.append(torch.where(singular, 0.0, part).numpy())
    return np.array(scores), np.array(variances)
