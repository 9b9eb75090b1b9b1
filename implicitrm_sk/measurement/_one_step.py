"""One-step estimates of single rows: a fitted value, corrected by what the row itself shows.

For a row with features x, let theta be the logits of the model. These are f of the reward R(x), u
of the propensities A_k(x), and with examination one of v(x). The score is s(y) =
d log P(y | x) / d theta, and the information is I(x) = E[s s'] of theta in one row. The one-step
estimate of a function h of theta is

``h(theta) + h'(theta) I(x)^-1 s(y)``

If theta was fitted on other rows, its mean over rows is free of the errors of the fitted theta to
first order. All of these are functions of x (van der Vaart, Asymptotic Statistics, 1998, chapter
25; Chernozhukov et al., Econometrics Journal 21, 2018). For two positive actions and h = R, it is
the capture-recapture estimator of Das, Kennedy & Jewell (Journal of the American Statistical
Association, 2023).
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch

from . import _mixture

#: Smallest eigenvalue of the information, scaled to a unit diagonal, that is not a rounded 0.
SINGULAR = 1e-9
#: Maximum number of outcomes, over all patterns of a log, in the sum for the information.
MAX_OUTCOMES = 4096
#: Rows for whose outcomes likelihoods are computed in one pass, unless a log has more.
ROWS_AT_ONCE = 20_000
#: Maximum number of users over which the information is averaged.
MAX_USERS = 32


@dataclass(frozen=True, eq=False)
class Patterns:
    """The patterns of logged signals in rows of a kind, and how often such rows are labelled.

    Attributes
    ----------
    logged : ndarray of bool of shape (patterns, K)
    share : ndarray of shape (patterns,)
        Share of the rows.
    labelled : (float, float)
        Share of labelled rows among those without and with an action. Labelling may depend on the
        action, but not on the preference.
    """

    logged: np.ndarray
    share: np.ndarray
    labelled: tuple = (0.0, 0.0)

    @classmethod
    def of(cls, log, rows):
        """Return the patterns of some rows of a log."""
        weight = log.sample_weight[rows]
        logged, code = np.unique(log.logged()[rows], axis=0, return_inverse=True)
        share = np.bincount(code.ravel(), weights=weight) / weight.sum()
        labelled = [0.0, 0.0]
        if log.labels is not None:
            known, acted = ~np.isnan(log.labels[rows]), log.fired()[rows]
            for kind in (0, 1):
                of_kind = weight * (acted == kind)
                labelled[kind] = float(of_kind @ known / max(of_kind.sum(), 1e-300))
        return cls(logged, share, tuple(labelled))

    def outcomes(self, signals):
        """Yield (y, share) of all possible outcomes, y of shape (K,) with NaN for not logged."""
        for logged, share in zip(self.logged, self.share, strict=True):
            pairs = zip(signals, logged, strict=True)
            values = [signal.values if known else (np.nan,) for signal, known in pairs]
            for y in itertools.product(*values):
                yield np.array(y, dtype=float), float(share)

    def n_outcomes(self, signals):
        """Return the number of outcomes."""
        n_values = np.array([len(signal.values) for signal in signals])
        return int(np.where(self.logged, n_values, 1).prod(axis=1).sum())


@dataclass(frozen=True, eq=False)
class Activity:
    """The activity of users who differ, at quadrature nodes.

    Attributes
    ----------
    shift : Tensor of shape (Q, n, P)
        Shift of the logits of the propensities, at each node.
    log_weight : Tensor of shape (Q, n)
        Log-weights of the nodes, for the user of a row given the other rows of that user.
    sample : Tensor of shape (users, Q)
        Weights of the nodes for users in proportion to their rows. The information is a mean over
        these.
    """

    shift: torch.Tensor
    log_weight: torch.Tensor
    sample: torch.Tensor

    def of_rows(self, rows, like):
        """Return the activity of some rows; users are those of the rows `like` or some of them."""
        chosen = like[:: -(-len(like) // MAX_USERS)]
        sample = self.log_weight[:, chosen].exp().T
        return Activity(self.shift[:, rows], self.log_weight[:, rows], sample)

    def repeat(self, times):
        """Return the activity of the rows, several times one after another."""
        shift, log_weight = self.shift.repeat(1, times, 1), self.log_weight.repeat(1, times)
        return Activity(shift, log_weight, self.sample)


def score(
    measurement,
    reward_logit,
    propensity_logit,
    actions,
    rates=None,
    labels=None,
    activity=None,
):
    """Return log P(y | x), or log P(y, r* | x) if labelled, and its derivative in the logits.

    With users who differ, it is that of the row given the other rows of its user.

    Parameters
    ----------
    measurement : Measurement
    reward_logit : Tensor of shape (n,)
    propensity_logit : Tensor of shape (n, P)
    actions : Tensor of shape (n, K)
    rates : Tensor of shape (K,) or None
    labels : Tensor of shape (n,) or None
    activity : Activity or None
        Activity of users who differ.

    Returns
    -------
    log_prob : Tensor of shape (n,)
    score : Tensor of shape (n, 1 + P)
        0 if y is impossible.
    """
    found = _at_nodes(measurement, reward_logit, propensity_logit, actions, rates, labels, activity)
    return found if activity is None else _averaged(*found, activity.log_weight)


def _at_nodes(measurement, reward_logit, propensity_logit, actions, rates, labels, activity):
    """Return the results of `score`, with the nodes of the activity in front if users differ."""
    f, u = reward_logit.detach(), propensity_logit.detach()
    if activity is not None:
        f, u = f.repeat(len(activity.shift), 1), u + activity.shift
    f, u = f.requires_grad_(), u.requires_grad_()
    log_prob = -measurement.nll(f, u, actions, rates, labels=labels)
    grad_f, grad_u = torch.autograd.grad(log_prob.sum(), (f, u))
    log_prob = log_prob.detach()
    grad = torch.cat([grad_f[..., None], grad_u], -1)
    return log_prob, torch.where(torch.isfinite(log_prob)[..., None], grad, 0.0)


def _averaged(log_prob, grad, log_weight):
    """Return log-probability and score of a mean over nodes, the first dimension."""
    joint = log_prob + log_weight
    total = torch.logsumexp(joint, 0)
    weight = torch.where(torch.isfinite(total), (joint - total).exp(), 0.0)
    return total, (weight[..., None] * grad).sum(0)


def information(measurement, reward_logit, propensity_logit, patterns, rates=None, activity=None):
    """Return I(x) = E[s s'], shape (n, 1 + P, 1 + P), the mean over all outcomes of the model.

    The parameters are those of `score`; `patterns` are the `Patterns` of the rows. With users who
    differ, it is also the mean over users, because other users show what one user leaves open.
    """
    n, p = propensity_logit.shape[0], propensity_logit.shape[1] + 1
    total = reward_logit.new_zeros(n, p, p)
    outcomes = list(_with_labels(measurement.signals, patterns))
    at_once = max(1, ROWS_AT_ONCE // n)
    for start in range(0, len(outcomes), at_once):
        y, share, label = map(np.array, zip(*outcomes[start : start + at_once], strict=True))
        k = len(y)
        log_prob, grad = _at_nodes(
            measurement,
            reward_logit.repeat(k),
            propensity_logit.repeat(k, 1),
            torch.as_tensor(y).repeat_interleave(n, 0),
            rates,
            None if np.isnan(label).all() else torch.as_tensor(label).repeat_interleave(n),
            None if activity is None else activity.repeat(k),
        )
        each = [(log_prob, grad)]
        if activity is not None:
            logs = activity.sample.log()
            each = [_averaged(log_prob, grad, one[:, None]) for one in logs]
        for log_p, s in each:
            weight = torch.as_tensor(share)[:, None] * log_p.exp().view(k, n) / len(each)
            s = s.view(k, n, p)
            total += ((weight[..., None] * s)[..., None] * s[:, :, None]).sum(0)
    return total


def _with_labels(signals, patterns):
    """Yield (y, share, label) of all possible outcomes, the label NaN for those without one."""
    for y, share in patterns.outcomes(signals):
        acted = any(np.any(signal.seen(one)) for signal, one in zip(signals, y, strict=True))
        labelled = patterns.labelled[acted]
        if labelled < 1:
            yield y, share * (1 - labelled), np.nan
        if labelled > 0:
            yield y, share * labelled, 0.0
            yield y, share * labelled, 1.0


def correction(gradient, information, score, ridge=0.0):
    """Return h' I^-1 s of each row, and the rows where I does not determine h.

    Parameters
    ----------
    gradient, score : Tensor of shape (n, p)
    information : Tensor of shape (n, p, p)
    ridge : float
        Is added to the diagonal of I, relative to it. Rows that hardly determine h then take
        shorter steps (Tikhonov regularisation), and keep a part of the error of the fit.

    Returns
    -------
    correction : Tensor of shape (n,)
        0 if it is not determined.
    singular : Tensor of bool of shape (n,)
    """
    scale = information.diagonal(dim1=-2, dim2=-1).sqrt()
    told = scale > 0
    scale = torch.where(told, scale, 1.0)
    unit = information / (scale[:, :, None] * scale[:, None, :])
    unit = unit + torch.diag_embed((~told).to(unit))
    eye = torch.eye(unit.shape[-1]).to(unit)
    # It has a Cholesky factor just if no eigenvalue is smaller, in a seventh of the time.
    singular = torch.linalg.cholesky_ex(unit - SINGULAR * eye)[1] > 0
    singular |= ((gradient != 0) & ~told).any(-1)
    unit = torch.where(singular[:, None, None], eye, unit) + ridge * eye
    step = torch.linalg.solve(unit, (score / scale)[..., None])[..., 0]
    found = ((gradient / scale) * step).sum(-1)
    return torch.where(singular, 0.0, found), singular


def reward_of(measurement, reward_logit, propensity_logit):
    """Return the reward, as a pair of equal ends."""
    reward = torch.sigmoid(reward_logit)
    return reward, reward


def bounds_of(shown_twice):
    """Return the function of the logits that computes the bounds of the reward."""

    def ends(measurement, reward_logit, propensity_logit):
        found = _mixture.bounds(
            measurement, reward_logit[None], propensity_logit[None], None, shown_twice
        )
        return [end[0] for end in found]

    return ends


def one_step(
    measurement,
    ends,
    reward_logit,
    propensity_logit,
    patterns,
    actions,
    rates,
    labels,
    activity=None,
    ridge=0.0,
):
    """Return the one-step estimates of two functions of the logits, and the rows without one.

    Parameters
    ----------
    measurement : Measurement
    ends : callable(measurement, reward_logit, propensity_logit) -> (Tensor, Tensor)
        Each has shape (n,).
    reward_logit, propensity_logit, actions, rates, labels, activity
        As for `score`.
    patterns : Patterns
    ridge : float
        As for `correction`.

    Returns
    -------
    values : ndarray of shape (n, 2)
    singular : ndarray of bool of shape (n,)
    """
    _, s = score(measurement, reward_logit, propensity_logit, actions, rates, labels, activity)
    known = information(measurement, reward_logit, propensity_logit, patterns, rates, activity)
    f, u = (x.detach().requires_grad_() for x in (reward_logit, propensity_logit))
    values, singular = [], torch.zeros(len(f), dtype=torch.bool)
    low, high = ends(measurement, f, u)
    for end in (low,) if high is low else (low, high):
        if end.requires_grad:
            grads = torch.autograd.grad(
                end.sum(), (f, u), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            gradient = torch.cat([grads[0][:, None], grads[1]], -1)
            step, undetermined = correction(gradient, known, s, ridge)
            singular |= undetermined
            end = end.detach() + step
        values.append(end)
    return torch.stack([values[0], values[-1]], -1).numpy(), singular.numpy()
