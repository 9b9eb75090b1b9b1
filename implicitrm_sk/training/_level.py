"""The level of a fitted reward, moved to what its own log says of it.

Heads start at a convention, and early stopping ends them on their way to the most likely level. If
actions are rare, most of this way is left, because the order of the rewards is learned long before
their mean. The mean of one-step estimates over the rows does not depend on the start, to first
order (`measurement._one_step`). So the intercepts of the heads are shifted until the mean reward
agrees with it. This is targeted maximum likelihood in one direction (van der Laan & Rubin, The
International Journal of Biostatistics 2 (1), 2006).
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq, minimize

from .._sources import picked
from ..measurement import _mixture
from ..measurement._one_step import MAX_OUTCOMES, Patterns, one_step, reward_of
from ._data import member_logits

#: Maximum number of rows that are evaluated, and of rows times outcomes.
MAX_ROWS, MAX_WORK = 2**16, 2**20
#: Ridges of the mean and of its standard error. Without them, a few rows that hardly tell the
#: reward decide both.
RIDGE, RIDGE_OF_ERROR = 0.01, 0.001
#: Rows at a time.
CHUNK = 4096
#: The mean is at least this far from 0 and 1.
NEAREST = 1e-3
#: A shift has a normal prior with this standard deviation, in logits. It has the weight of one row,
#: and keeps a propensity near 1 finite.
PRIOR_SD = 1.0


@dataclass(frozen=True)
class Level:
    """The mean reward by the one-step estimates of a fit.

    Attributes
    ----------
    mean : float
    error : float
        Its standard error; rows of a group, or with equal X, depend on each other.
    fitted : float
        The mean of the fitted rewards.
    """

    mean: float
    error: float
    fitted: float


@dataclass(frozen=True, eq=False)
class LevelRows:
    """Rows of a fit whose feedback shows the level of the reward.

    Attributes
    ----------
    X : ndarray of shape (n, d) or StreamedX
        All rows of the fit.
    rows : ndarray of int of shape (m,)
        The rows that are evaluated.
    log : FeedbackLog
        Their log.
    patterns : Patterns
        The signals that were logged in them.
    weight : ndarray of shape (m,) or (members, m)
    scaler : StandardScaler or None
    cluster : ndarray of int of shape (m,)
        Rows of one number may depend on each other.
    """

    X: object
    rows: np.ndarray
    log: object
    patterns: Patterns
    weight: np.ndarray
    scaler: object
    cluster: np.ndarray

    @classmethod
    def of(cls, data, measurement):
        """Return rows of `TrainingData`, or None if one-step estimates do not exist for its log."""
        log, rows = data.log, data.usable
        unknown = (log.exposures, log.response, log.propensity, log.age, log.delay)
        if any(values is not None for values in unknown) or not len(rows):
            return None
        if any(signal.values is None for signal in measurement.signals):
            return None
        patterns = Patterns.of(log, rows)
        n_outcomes = patterns.n_outcomes(measurement.signals)
        if n_outcomes > MAX_OUTCOMES:
            return None
        step = -(-len(rows) // min(MAX_ROWS, MAX_WORK // n_outcomes))
        rows = rows[::step]
        weight = data.population_weight()[..., ::step]
        part = log.part(rows, rows)
        return cls(data.X, rows, part, patterns, weight, data.scaler, data.clusters()[::step])

    def logits(self, model, dtype):
        """Return the logits of all members, (members, m) and (members, m, P)."""
        heads = ("reward_logit", "propensity_logit")
        found = [
            member_logits(model, block, self.scaler, heads, dtype)
            for _, block in picked(self.X, self.rows, MAX_ROWS)
        ]
        return tuple(torch.cat(parts, 1) for parts in zip(*found, strict=True))

    def move(self, model, members, logits, weight, measurement, rates, interval):
        """Shift the intercepts of some members of a model, and return their average logits.

        Let d be the one-step mean less that of the fit, and s the standard error of d. The mean
        moves by d (1 - s^2 / d^2), or not at all if s is larger. This share is an empirical Bayes
        estimate, because d^2 - s^2 estimates the squared error of the fit.

        Parameters
        ----------
        model : RewardModel
            Changed in place.
        members : Tensor of int
        logits : (Tensor, Tensor)
            Those of all members.
        weight : ndarray of shape (m,)
        measurement : Measurement
        rates : Tensor of shape (K,) or None
        interval : (float, float)
            The mean is in it.

        Returns
        -------
        reward_logit, propensity_logit : Tensors of shape (m,) and (m, P)
            As `average` returns them, after the shift.
        """
        f, u = (part[members] for part in logits)
        average = self.average(members, logits)
        weight = weight / weight.sum()
        values, told = self._one_step(*average, measurement, rates, RIDGE)
        mean = float(weight @ torch.sigmoid(average[0]).numpy())
        gap, error = weight @ values - mean, _error(weight, values)
        if not told.any() or abs(gap) <= error:
            return average
        low, high = _mixture.bounds(measurement, *(part[None] for part in average), rates)
        target = mean + gap * (1 - error**2 / gap**2)
        target = np.clip(target, weight @ low[0].numpy(), weight @ high[0].numpy())
        target = np.clip(target, *np.clip(interval, NEAREST, 1 - NEAREST))
        shift = _shift_to(target, f.numpy(), weight)
        others = model.varying_logits()
        of_others = self._shift_of_others(
            average[0] + shift, average[1], others, weight, measurement, rates
        )
        model.shift(members, shift, of_others)
        change = torch.zeros(u.shape[-1], dtype=u.dtype)
        change[others] = torch.as_tensor(of_others)
        return _mixture.mean_logit(f + shift), average[1] + change

    @staticmethod
    def average(members, logits):
        """Return the logits of the mean reward of some members, and their mean other logits."""
        f, u = (part[members] for part in logits)
        return _mixture.mean_logit(f), u.mean(0)

    def level(self, f, u, weight, measurement, rates):
        """Return the `Level` at the logits of `average`."""
        values, _ = self._one_step(f, u, measurement, rates, RIDGE_OF_ERROR)
        weight = weight / weight.sum()
        fitted = float(weight @ torch.sigmoid(f).numpy())
        error = _error(weight, values, self.cluster)
        return Level(float(weight @ values), error, fitted)

    def _one_step(self, f, u, measurement, rates, ridge):
        """Return the one-step estimate of each row, and whether the row has one."""
        labels = None if self.log.labels is None else torch.as_tensor(self.log.labels)
        actions = torch.as_tensor(self.log.actions)
        values, told = np.empty(len(f)), np.empty(len(f), dtype=bool)
        for start in range(0, len(f), CHUNK):
            part = slice(start, start + CHUNK)
            ends, singular = one_step(
                measurement,
                reward_of,
                f[part],
                u[part],
                self.patterns,
                actions[part],
                rates,
                None if labels is None else labels[part],
                ridge=ridge,
            )
            values[part], told[part] = ends[:, 0], ~singular
        return values, told

    def _shift_of_others(self, f, u, others, weight, measurement, rates):
        """Return the most likely shift of the logits that are not the reward's."""
        labels = None if self.log.labels is None else torch.as_tensor(self.log.labels)
        actions, weight = torch.as_tensor(self.log.actions), torch.as_tensor(weight)

        def loss(shift):
            shift = torch.tensor(shift, requires_grad=True)
            change = torch.zeros(u.shape[-1], dtype=u.dtype).index_put((others,), shift)
            nll = measurement.nll(f, u + change, actions, rates, labels=labels)
            total = weight @ nll + (shift**2).sum() / (2 * PRIOR_SD**2 * len(f))
            total.backward()
            return float(total.detach()), shift.grad.numpy()

        return minimize(loss, np.zeros(len(others)), jac=True, method="L-BFGS-B").x


def _error(weight, values, cluster=None):
    """Return the standard error of a mean, of independent rows or clusters."""
    parts = weight * (values - weight @ values)
    if cluster is not None:
        parts = np.bincount(cluster, parts)
    return float(np.sqrt(parts @ parts))


def _shift_to(target, reward_logit, weight):
    """Return the shift of the logits (members, m) at which the mean reward is `target`."""

    def excess(shift):
        return float(weight @ (1 / (1 + np.exp(-reward_logit - shift))).mean(axis=0)) - target

    return brentq(excess, -30.0, 30.0, xtol=1e-10)
