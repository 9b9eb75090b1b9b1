"""A score test whether some rows were not looked at, for a fit that takes all rows to be."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from .measurement._one_step import MAX_OUTCOMES, Activity, correction, score

#: Rows not looked at contradict a fit if they explain the log better by more standard errors ...
Z = 3.3
#: ... and if their share is estimated to be larger than this.
SHARE = 0.05
#: With fewer rows of all signals nothing is tested.
MIN_ROWS = 100
#: Maximum number of rows times outcomes.
MAX_WORK = 2**20
#: Rows at a time.
CHUNK = 4096
#: Ridge of the information, so that rows that hardly tell the share do not decide.
RIDGE = 0.001


@dataclass(frozen=True)
class ExaminationTest:
    """The result of `examination_test`.

    Attributes
    ----------
    share : float
        A first estimate of the share of rows that nobody looked at. It is too large where many
        rows were not, since the fit has adapted to them.
    z : float
        The score in standard errors; positive if rows were not looked at.
    n_rows : int
    """

    share: float
    z: float
    n_rows: int

    @property
    def rejected(self):
        """Whether the log contradicts that every row was looked at."""
        return self.z > Z and self.share > SHARE

    def __str__(self):
        return (
            "the signals of a row are silent together more often than they would be if every row "
            f"was looked at, by {self.z:.1f} standard errors"
        )


def can_show_examination(est, log):
    """Return whether the likelihood distinguishes rows not looked at from dislike.

    It does with two signals of each polarity. With fewer, the model in which every row was looked
    at fits the same data exactly, with v R in place of the reward R.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        Fitted.
    log : FeedbackLog
    """
    return (
        est.evidence_.shown_twice == (0, 1)
        and "shared_examination=True" in est.objective_.uses
        and log.exposures is None
        and log.propensity is None
        and all(signal.silence is not None for signal in log.signals)
    )


def examination_test(measurement, reward_logit, propensity_logit, log, rates, activity=None):
    """Return the score test of a share w of rows that nobody looked at; None with too few rows.

    With w, the probability of the actions y of a row is (1 - w) P(y | x) + w S(y), where S is 1 if
    all signals are silent. The score of w = 0 is t = S / P(y | x) - 1. Let s be the score of the
    logits of the row, and I its information. Then t - E[t s'] I^-1 s does not depend on the errors
    of the fit to first order. E[t s'] is the score of silence. This is the C(alpha) test of Neyman
    (Optimal asymptotic tests of composite statistical hypotheses, 1959).

    Parameters
    ----------
    measurement : Measurement
        Without examination.
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, P)
    log : FeedbackLog
        Only its rows with all signals are tested.
    rates : Tensor of shape (K,) or None
    activity : Activity or None
        That of the user of each row, given the other rows of the user.

    Returns
    -------
    test : ExaminationTest or None
    """
    rows = np.flatnonzero(log.logged().all(axis=1) & (log.sample_weight > 0))
    n_outcomes = np.prod([len(signal.values) for signal in measurement.signals])
    if len(rows) < MIN_ROWS or n_outcomes > MAX_OUTCOMES:
        return None
    rows = rows[:: -(-len(rows) * n_outcomes // MAX_WORK)]
    actions, weight = torch.as_tensor(log.actions), log.sample_weight[rows]
    scores, variances = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        mine = None
        if activity is not None:
            mine = Activity(activity.shift[:, part], activity.log_weight[:, part], activity.sample)
        found = _efficient(
            measurement, reward_logit[part], propensity_logit[part], actions[part], rates, mine
        )
        scores[start : start + CHUNK], variances[start : start + CHUNK] = found
    weight = weight / weight.sum()
    error = np.sqrt(weight**2 @ scores**2)
    total = float(weight @ scores)
    if not error > 0:
        return None
    return ExaminationTest(total / float(weight @ variances), total / float(error), len(rows))


def _efficient(measurement, f, u, y, rates, activity):
    """Return the efficient score of w, and its variance, of each row; 0 where it has none."""
    silent = y.new_tensor([signal.silence for signal in measurement.signals]).expand_as(y)
    log_prob, own = score(measurement, f, u, y, rates, activity=activity)
    log_silence, of_silence = score(measurement, f, u, silent, rates, activity=activity)
    known = torch.zeros(len(f), own.shape[-1], own.shape[-1], dtype=own.dtype)
    for outcome in itertools.product(*(signal.values for signal in measurement.signals)):
        each = y.new_tensor(outcome).expand_as(y)
        log_p, s = score(measurement, f, u, each, rates, activity=activity)
        known += log_p.exp()[:, None, None] * s[:, :, None] * s[:, None]
    is_silent = (y == silent).all(-1)
    t = torch.where(is_silent, torch.exp(-log_prob), 0.0) - 1
    explained, singular = correction(of_silence, known, own, RIDGE)
    lost, _ = correction(of_silence, known, of_silence, RIDGE)
    variance = torch.exp(-log_silence) - 1 - lost
    return (torch.where(singular, 0.0, part).numpy() for part in (t - explained, variance))
