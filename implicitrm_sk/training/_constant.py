"""The model without X, whose fit is where heads start if exposures are correlated."""

from dataclasses import dataclass

import numpy as np
import torch

from .._independence import minimise
from ..measurement._model import Measurement
from ..measurement._signal import initial_logit

#: Of more responses than this, an evenly spaced sample is fitted.
MAX_RESPONSES = 20_000
#: The rewards, and the correlations of exposures, at which the search for the most likely starts.
REWARDS = (0.3, 0.7)
CORRELATIONS = (0.01, 0.1)
#: At the start, the logits of propensity and false-action rate are this far from that of the share
#: of actions.
STEP = 1.0


@dataclass(frozen=True, eq=False)
class ConstantFit:
    """The most likely model in which nothing depends on X.

    The likelihood of correlated exposures has a ridge: what the two preferences explain, a larger
    correlation explains nearly as well. Heads that start from other correlations stop on it, as
    soon as they fit noise, and their two classes mean little. Without X the maximum is found.

    Attributes
    ----------
    reward_logit : float
    propensity_logit : ndarray of shape (P,)
    false_action_rate : ndarray of shape (K,)
    log_likelihood : float
        The mean over responses.
    """

    reward_logit: float
    propensity_logit: np.ndarray
    false_action_rate: np.ndarray
    log_likelihood: float

    @classmethod
    def of(cls, log, responses, false_action_rate, reward=None):
        """Return the fit to some responses of a log of counts.

        Parameters
        ----------
        log : FeedbackLog
            Counts over exposures, one row per response.
        responses : ndarray of int
        false_action_rate : ndarray of shape (K,)
            NaN where it is to be estimated.
        reward : float, default=None
            The reward, if it is not to be estimated.
        """
        rows = responses[:: -(-len(responses) // MAX_RESPONSES)]
        fits = [
            _fit(log, rows, false_action_rate, start, correlation, reward is None)
            for start in (REWARDS if reward is None else [reward])
            for correlation in CORRELATIONS
        ]
        return max(fits, key=lambda fit: fit.log_likelihood)


def _fit(log, rows, rates, reward, correlation, estimates_reward):
    measurement = Measurement(log.signals)
    fields = {
        name: torch.as_tensor(values[rows])
        for name in ("actions", "exposures", "propensity")
        if (values := getattr(log, name)) is not None
    }
    labels = None if log.labels is None else torch.as_tensor(log.labels[rows])
    weight = torch.as_tensor(log.sample_weight[rows] / log.sample_weight[rows].sum())
    free = torch.as_tensor(np.isnan(rates))
    known = torch.as_tensor(np.nan_to_num(rates))
    some_false = bool(free.any() or known.any())
    n, n_outputs = len(rows), measurement.n_outputs
    share = initial_logit(log.rates(rows)[0])
    # One logit for each column, and the correlation where it has one.
    u = np.full(n_outputs, np.log(correlation / (1 - correlation)))
    u[measurement.own_logits()] = share + STEP

    def parts(parameters):
        f = parameters[:1] if estimates_reward else parameters[:1].detach()
        u, e = parameters[1 : 1 + n_outputs], torch.sigmoid(parameters[1 + n_outputs :])
        return f, u, torch.where(free, e, known)

    def negative(parameters):
        f, u, e = parts(parameters)
        each = measurement.log_likelihood(
            f.expand(1, n),
            u.expand(1, n, n_outputs),
            false_action_rate=e if some_false else None,
            labels=labels,
            **fields,
        )
        return -(each[0] * weight).sum()

    start = np.concatenate([[initial_logit(reward)], u, share - STEP])
    found, value = minimise(negative, torch.as_tensor(start))
    with torch.no_grad():
        f, u, e = parts(found)
    return ConstantFit(float(f), u.numpy(), e.numpy(), -value)
