"""Binary actions: copy, share, regenerate, a press of a button."""

from functools import reduce

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from .._validation import check_binary
from ..exceptions import ImplicitRMError
from ._delay import late_initial_logits, late_log_passive, late_terms, split
from ._signal import Signal, full_precision, initial_logit, times


class Action(Signal):
    """An act that users do, or do not do, because they like a response or because they dislike it.

    r* is 1 if the user prefers the response, and 0 if not. Let u be a logit of the model. A
    positive action (`target` 1: copy, share) has the propensity A = e + (1 - e) sigmoid(u) if r*=1.
    If r*=0, it has the false-action rate e. A negative action (`target` 0: regenerate, thumbs down,
    report) is the mirror image: A if r*=0, and e if r*=1.

    Parameters
    ----------
    target : {1, 0}, default=1
        The preference that the action shows.
    false_rate : float, default=None
        The rate e, P(action | the other preference), in [0, 1). None means the `false_action_rate`
        of the estimator.
    delay : {"exponential"}, default=None
        Whether the action may come late. With "exponential", of the users who will act, a share
        1 - exp(-age / mean delay) has acted at each age of the row. So a silent row counts less
        the younger it is. `fit` then takes the ages as `age=`, and learns one mean delay for the
        signal. False actions are not available then. None: all rows are old enough.

    Examples
    --------
    >>> from implicitrm_sk.signals import Action
    >>> Action(target=0)  # regenerate: a negative action
    Action(target=0, false_rate=None)
    >>> Action(delay="exponential")  # shared, perhaps a day later
    Action(target=1, false_rate=None, delay='exponential')
    """

    values = (0.0, 1.0)
    bounds = True
    silence = 0.0

    def __init__(
        self, target: int = 1, false_rate: float | None = None, delay: str | None = None
    ) -> None:
        self.target = target
        self.false_rate = false_rate
        self.delay = delay

    def __repr__(self):
        shown = {name: value for name, value in self.get_params().items() if name != "delay"}
        if self.delay is not None:
            shown["delay"] = self.delay
        return f"Action({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def takes(self):
        """The arguments with which the action can be combined."""
        if self.delay is not None:
            return frozenset({"age", "delay"})
        return frozenset({"rate", "exposures", "propensity", "shared_propensity"})

    @property
    def n_outputs(self):
        """One logit, of the propensity; for a late action also the logarithm of its rate."""
        return 1 if self.delay is None else 2

    @property
    def n_shared(self):
        """One for a late action, whose last output (the rate of the delay) does not depend on x."""
        return 0 if self.delay is None else 1

    @property
    def shows(self):
        """The preference that the action shows."""
        return (self.target,)

    def check(self, y, name):
        """Return y if all its values are 0, 1 or NaN.

        Raises
        ------
        ValueError
            If they are not, or if the kind of delay is unknown.
        """
        if self.delay not in (None, "exponential"):
            raise ImplicitRMError(
                f"delay={self.delay!r} of an Action; expected 'exponential' or None. Pass None for "
                "actions that come at once."
            )
        if self.delay is not None and self.false_rate:
            raise ImplicitRMError(
                f"false_rate={self.false_rate!r} is not available for an Action with a delay, "
                "because the delay of false actions is not modelled. Leave one of the two out."
            )
        return check_binary(y, name)

    def seen(self, y):
        """Return where there is an action, under the preference that it shows."""
        acted = y > 0
        return self._by_class(acted, acted & False)

    def sample(self, u, preferred, rng):
        """Sample actions, including those that are still to come."""
        u = u if self.delay is None else u[..., ::2]
        e = 0.0 if self.false_rate is None else self.false_rate
        p = e + (1 - e) / (1 + np.exp(-u))
        p = np.where((np.asarray(preferred) == self.target)[:, None], p, e)
        return (rng.random(p.shape) < p).astype(float)

    def _by_class(self, matching, other):
        return (other, matching) if self.target else (matching, other)

    def log_prob(self, u, y, preferred):
        """Return the log-probability of actions at their own false-action rate."""
        rate = u.new_tensor(self.false_rate or 0.0)
        log_a, log_not_a = torch.log(rate), torch.log1p(-rate)
        if preferred == self.target:
            log_a, log_not_a = action_log_probs(u[..., 0], rate if rate else None)
        return torch.where(y > 0, log_a, log_not_a).expand(u.shape[:-1])

    def terms(
        self,
        u,
        y,
        grad=False,
        *,
        rate=None,
        exposures=None,
        propensity=None,
        age=None,
        delay=None,
    ):
        """Return log P(y | r*, x) and its derivative; for late actions see `late_terms`.

        With s = sigmoid(u) and E exposures, d log P(y | r*=target) / du = (y - E A) s / A. The
        derivative is 0 for the other preference, because the action then has the rate e.
        """
        acted, unlogged = y > 0, torch.isnan(y)
        if self.delay is not None:
            hit, derivative = late_terms(u, y, age, delay, grad)
            miss = torch.zeros_like(hit).masked_fill(acted.any(-1), -torch.inf)
            derivative = self._by_class(derivative, None) if grad else None
            return torch.stack(self._by_class(hit, miss)), derivative
        u = full_precision(u)
        miss = u.new_zeros(len(y)).masked_fill(acted.any(-1), -torch.inf)
        if rate is None and exposures is None and propensity is None:
            # log sigmoid(s u), whose derivative is s (1 - sigmoid(s u)). Not logged: log 1.
            sign = torch.where(acted, 1.0, -1.0).to(u)
            each = logsigmoid((u * sign).masked_fill_(unlogged, torch.inf))
            derivative = self._by_class(torch.expm1(each).mul_(-sign), None) if grad else None
            hit = _over_columns(each)
            return torch.stack(self._by_class(hit, miss.expand_as(hit))), derivative
        log_a, log_not_a = action_log_probs(u, rate, propensity)
        e = None if rate is None else rate.to(u)
        if exposures is None:
            hit = torch.where(acted, log_a, log_not_a)
            by_mistake = None if e is None else torch.where(acted, torch.log(e), torch.log1p(-e))
        else:
            count = torch.nan_to_num(y)
            rest = torch.nan_to_num(exposures - y)
            hit = times(count, log_a) + times(rest, log_not_a)
            if e is not None:
                by_mistake = times(count, torch.log(e)) + times(rest, torch.log1p(-e))
        hit = hit.masked_fill(unlogged, 0.0).sum(-1)
        if e is not None:
            miss = by_mistake.masked_fill(unlogged, 0.0).sum(-1)
        derivative = None
        if grad:
            a, not_a = log_a.exp(), log_not_a.exp()
            if exposures is None:
                # 1 - A for an action: no cancellation if A is close to 1.
                derivative = torch.where(acted, not_a, -a)
            else:
                derivative = count * not_a - rest * a
            if e is not None:
                derivative = derivative * (logsigmoid(u) - log_a).exp()
            fixed = unlogged if propensity is None else unlogged | ~torch.isnan(propensity)
            derivative = self._by_class(derivative.masked_fill(fixed, 0.0), None)
        return torch.stack(self._by_class(hit, miss.expand_as(hit))), derivative

    def log_passive(
        self, u, y, *, rate=None, exposures=None, propensity=None, age=None, delay=None
    ):
        """Return log P(no action | r*, y).

        If r* is the preference that the action shows, y is known for logged signals. Otherwise y
        carries no information about it.
        """
        if self.delay is not None:
            return torch.stack(self._by_class(*late_log_passive(u, y, age)))
        _, log_not_a = action_log_probs(full_precision(u), rate, propensity)
        unlogged = torch.isnan(y)
        seen = log_not_a.masked_fill(~unlogged, 0.0).sum(-1)
        seen = seen.masked_fill((y > 0).any(-1), -torch.inf)
        if exposures is not None:
            log_not_a = log_not_a * torch.where(unlogged, 1.0, exposures)
        return torch.stack(self._by_class(seen, log_not_a.sum(-1)))

    def log_shown(self, u, *, rate=None):
        """Return log P(action, at any age | r*, x) of each column, and the preference it shows."""
        u = u if self.delay is None else split(u)[0]
        log_a, _ = action_log_probs(u, rate)
        e = torch.zeros(1, dtype=log_a.dtype, device=log_a.device) if rate is None else rate
        other = torch.log(e.to(log_a)).expand_as(log_a)
        shows = torch.full((u.shape[-1],), self.target, device=u.device)
        return torch.stack(self._by_class(log_a, other)), shows

    def initial_logits(self, y, weight, reward, acted, *, age=None, delay=None):
        """Return the logit of the share of actions among responses with the preference."""
        prior = np.atleast_1d(reward if self.target else 1 - np.asarray(reward))
        if self.delay is not None:
            return late_initial_logits(y, weight, prior, acted, age, delay)
        return initial_logit(acted / prior)


def _over_columns(values):
    """Return the sum over the last dimension, whose few entries `sum` adds up slowly."""
    return reduce(torch.add, values.unbind(-1))


def action_log_probs(propensity_logit, false_action_rate=None, propensity=None):
    """Return log A and log(1 - A) of actions, where A = e + (1 - e) sigmoid(u).

    Parameters
    ----------
    propensity_logit : Tensor of shape (..., n, K)
    false_action_rate : Tensor of shape (K,) or (..., 1, K), or None
    propensity : Tensor of shape (n, K) or None
        Known A, NaN elsewhere.

    Returns
    -------
    log_propensity, log_complement : Tensors of shape (..., n, K)
    """
    u = full_precision(propensity_logit)
    log_a, log_not_a = logsigmoid(u), logsigmoid(-u)
    if false_action_rate is not None:
        e = false_action_rate.to(u)
        log_a = torch.logaddexp(torch.log(e), torch.log1p(-e) + log_a)
        log_not_a = torch.log1p(-e) + log_not_a
    if propensity is not None:
        unknown = torch.isnan(propensity)
        known = propensity.to(u)
        log_a = torch.where(unknown, log_a, torch.log(known))
        log_not_a = torch.where(unknown, log_not_a, torch.log1p(-known))
    return log_a, log_not_a
