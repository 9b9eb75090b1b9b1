"""Binary actions: copy, share, regenerate, a press of a button."""

from functools import reduce

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from .._validation import check_binary
from ..exceptions import ImplicitRMError
from ._delay import late_initial_logits, late_log_passive, late_terms
from ._dispersed import (
    FIRST_CORRELATION,
    effective_counts,
    log_counts,
    sample_means,
    slope_of_spread,
)
from ._signal import Signal, full_precision, initial_logit


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
    counts : {"binomial", "beta-binomial"}, default="binomial"
        How counts over `exposures` vary. "binomial" means that exposures of one response are
        independent, given the preference and x. "beta-binomial" [1]_ [2]_ means that they are
        correlated. The readers of one response may share a mood, or differ from those of another in
        how readily they act. The mean is the same. `fit` learns one correlation for the signal,
        `exposure_correlation_`. This needs at least 20 responses that were shown four times.

    References
    ----------
    .. [1] Skellam, "A Probability Distribution Derived from the Binomial Distribution", Journal of
       the Royal Statistical Society B 10 (2), 1948.
    .. [2] Williams, "The Analysis of Binary Responses from Toxicological Experiments Involving
       Reproduction and Teratogenicity", Biometrics 31, 1975.

    Examples
    --------
    >>> from implicitrm_sk.signals import Action
    >>> Action(target=0)  # regenerate: a negative action
    Action(target=0, false_rate=None)
    >>> Action(delay="exponential")  # shared, perhaps a day later
    Action(target=1, false_rate=None, delay='exponential')
    >>> Action(counts="beta-binomial")  # votes of readers who are alike
    Action(target=1, false_rate=None, counts='beta-binomial')
    """

    values = (0.0, 1.0)
    bounds = True
    silence = 0.0

    def __init__(
        self,
        target: int = 1,
        false_rate: float | None = None,
        delay: str | None = None,
        counts: str = "binomial",
    ) -> None:
        self.target = target
        self.false_rate = false_rate
        self.delay = delay
        self.counts = counts

    def __repr__(self):
        usual = {"delay": None, "counts": "binomial"}
        shown = {
            name: value
            for name, value in self.get_params().items()
            if name not in usual or value != usual[name]
        }
        return f"Action({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def takes(self):
        """The arguments with which the action can be combined."""
        if self.delay is not None:
            return frozenset({"age", "delay"})
        if self.is_dispersed:
            return frozenset({"rate", "exposures", "propensity"})
        return frozenset({"rate", "exposures", "propensity", "shared_propensity"})

    @property
    def is_dispersed(self):
        """Whether exposures of one response are correlated.

        Examples
        --------
        >>> from implicitrm_sk.signals import Action
        >>> Action(counts="beta-binomial").is_dispersed
        True
        """
        return self.counts == "beta-binomial"

    @property
    def least_exposures(self):
        """Two, or four to distinguish a correlation of exposures from a preference."""
        return 4 if self.is_dispersed else 2

    @property
    def n_outputs(self):
        """One logit, of the propensity, and what `n_shared` counts."""
        return 1 + self.n_shared

    @property
    def n_shared(self):
        """One for the logarithm of the rate of a delay, or the logit of a correlation."""
        return int(self.delay is not None or self.is_dispersed)

    @property
    def shows(self):
        """The preference that the action shows."""
        return (self.target,)

    def check(self, y, name):
        """Return y if all its values are 0, 1 or NaN.

        Raises
        ------
        ValueError
            If they are not.
        """
        return check_binary(y, name)

    def check_arguments(self):
        """Raise unless the arguments describe an action.

        Raises
        ------
        ValueError
            If the kind of delay or of counts is unknown, or cannot be combined with the others.

        Examples
        --------
        >>> from implicitrm_sk.signals import Action
        >>> Action(counts="beta-binomial").check_arguments()  # nothing to say
        """
        if self.counts not in ("binomial", "beta-binomial"):
            raise ImplicitRMError(
                f"counts={self.counts!r} of an Action; expected 'binomial' or 'beta-binomial'. "
                "Leave it out for the first."
            )
        if self.is_dispersed and self.delay is not None:
            raise ImplicitRMError(
                "counts='beta-binomial' is not available for an Action with a delay, whose "
                "exposures cannot be counted. Leave one of the two out."
            )
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

    def seen(self, y):
        """Return where there is an action, under the preference that it shows."""
        acted = y > 0
        return self._by_class(acted, acted & False)

    def sample(self, u, preferred, rng, exposures=None):
        """Sample actions, including those still to come, or their counts over exposures (n, C)."""
        u, spread = u[..., :: self.n_outputs], u[..., 1 :: self.n_outputs]
        e = 0.0 if self.false_rate is None else self.false_rate
        p = e + (1 - e) / (1 + np.exp(-u))
        p = np.where((np.asarray(preferred) == self.target)[:, None], p, e)
        if exposures is None:
            return (rng.random(p.shape) < p).astype(float)
        if self.is_dispersed:
            p = sample_means(p, spread, rng)
        return rng.binomial(np.asarray(exposures, dtype=int), p).astype(float)

    def logits(self, u):
        """Return the logits of the propensity of each column, and the other logits.

        Parameters
        ----------
        u : Tensor of shape (..., n, C * n_outputs)
            All logits of C columns.

        Returns
        -------
        logit : Tensor of shape (..., n, C)
            Those of the propensity.
        other : Tensor of shape (..., n, C), or None
            Logarithms of the rate of a delay, or logits of the correlation of exposures.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Action
        >>> Action(counts="beta-binomial").logits(torch.tensor([[0.0, -2.0]]))
        (tensor([[0.]]), tensor([[-2.]]))
        """
        if not self.n_shared:
            return u, None
        u = full_precision(u).unflatten(-1, (-1, 2))
        return u[..., 0], u[..., 1]

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
        derivative is 0 for the other preference, because the action then has the rate e. With
        correlated exposures, the `effective_counts` replace y and E - y. The logit of the
        correlation then has a derivative for both preferences.
        """
        acted, unlogged = y > 0, torch.isnan(y)
        if self.delay is not None:
            hit, derivative = late_terms(u, y, age, delay, grad)
            miss = torch.zeros_like(hit).masked_fill(acted.any(-1), -torch.inf)
            derivative = self._by_class(derivative, None) if grad else None
            return torch.stack(self._by_class(hit, miss)), derivative
        logit, spread = self.logits(u)
        u = full_precision(logit)
        if rate is None and exposures is None and propensity is None and spread is None:
            # log sigmoid(s u), whose derivative is s (1 - sigmoid(s u)). Not logged: log 1.
            sign = torch.where(acted, 1.0, -1.0).to(u)
            each = logsigmoid((u * sign).masked_fill_(unlogged, torch.inf))
            derivative = self._by_class(torch.expm1(each).mul_(-sign), None) if grad else None
            hit = _over_columns(each)
            miss = u.new_zeros(y.shape[:-1]).masked_fill(acted.any(-1), -torch.inf).expand_as(hit)
            return torch.stack(self._by_class(hit, miss)), derivative
        log_a, log_not_a = action_log_probs(u, rate, propensity)
        log_e = None if rate is None else (torch.log(rate.to(u)), torch.log1p(-rate.to(u)))
        miss = slope_of_miss = None
        if exposures is None and spread is None:
            count = rest = None
            hit = torch.where(acted, log_a, log_not_a)
            if log_e is not None:
                miss = torch.where(acted, *log_e)
        else:
            count = torch.nan_to_num(y)
            rest = torch.nan_to_num((1.0 if exposures is None else exposures) - y)
            hit = log_counts(log_a, log_not_a, spread, count, rest)
            if log_e is not None:
                miss = log_counts(*log_e, spread, count, rest)
        hit = hit.masked_fill(unlogged, 0.0).sum(-1)
        if log_e is None:
            miss = torch.zeros_like(hit).masked_fill(acted.any(-1), -torch.inf)
        else:
            miss = miss.masked_fill(unlogged, 0.0).sum(-1).expand_as(hit)
        derivative = None
        if grad:
            a, not_a = log_a.exp(), log_not_a.exp()
            if count is None:
                # 1 - A for an action: no cancellation if A is close to 1.
                derivative = torch.where(acted, not_a, -a)
            else:
                acts, rests = effective_counts(log_a, log_not_a, spread, count, rest)
                derivative = acts * not_a - rests * a
            if log_e is not None:
                derivative = derivative * (logsigmoid(u) - log_a).exp()
            fixed = unlogged if propensity is None else unlogged | ~torch.isnan(propensity)
            derivative = derivative.masked_fill(fixed, 0.0)
            if spread is not None:
                slope = slope_of_spread(spread, acts, rests, count + rest)
                derivative = torch.stack([derivative, slope], -1).flatten(-2)
            if spread is not None and log_e is not None:
                false, none = effective_counts(*log_e, spread, count, rest)
                slope = slope_of_spread(spread, false, none, count + rest)
                slope_of_miss = torch.stack([torch.zeros_like(slope), slope], -1).flatten(-2)
            derivative = self._by_class(derivative, slope_of_miss)
        return torch.stack(self._by_class(hit, miss)), derivative

    def false_counts(self, u, y, rate, exposures=None):
        """Return how many actions, and how many exposures without one, count in the M-step of e.

        These are all, if exposures are independent. For correlated ones, the fixed point that they
        give is that of Minka [1]_ for the mean of a Dirichlet-multinomial distribution.

        Parameters
        ----------
        u : Tensor of shape (..., n, C * n_outputs)
            The logits of C columns.
        y : Tensor of shape (n, C)
            Numbers of actions.
        rate : Tensor of shape (C,)
            False-action rates e.
        exposures : Tensor of shape (n, C), default=None
            How often each response was shown; None means once.

        Returns
        -------
        acted, rested : Tensor of shape (..., n, C)
            How many count as actions, and as exposures without one.

        References
        ----------
        .. [1] Minka, "Estimating a Dirichlet Distribution", technical report, MIT, 2000, section 4.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.signals import Action
        >>> u, y, rate, shown = (torch.tensor([[x]]) for x in (0.0, 2.0, 0.1, 6.0))
        >>> Action().false_counts(u, y, rate, shown)  # independent exposures
        (tensor([[2.]]), tensor([[4.]]))
        """
        _, spread = self.logits(u)
        count = torch.nan_to_num(y)
        rest = torch.nan_to_num((1.0 if exposures is None else exposures) - y)
        if spread is None:
            return count, rest
        e = rate.to(spread)
        return effective_counts(torch.log(e), torch.log1p(-e), spread, count, rest)

    def log_passive(
        self, u, y, *, rate=None, exposures=None, propensity=None, age=None, delay=None
    ):
        """Return log P(no action | r*, y).

        If r* is the preference that the action shows, y is known for logged signals. Otherwise y
        carries no information about it.
        """
        if self.delay is not None:
            return torch.stack(self._by_class(*late_log_passive(u, y, age)))
        logit, spread = self.logits(u)
        log_a, log_not_a = action_log_probs(full_precision(logit), rate, propensity)
        unlogged = torch.isnan(y)
        seen = log_not_a.masked_fill(~unlogged, 0.0).sum(-1)
        seen = seen.masked_fill((y > 0).any(-1), -torch.inf)
        if exposures is not None:
            shown = torch.where(unlogged, 1.0, exposures)
            log_not_a = log_counts(log_a, log_not_a, spread, torch.zeros_like(shown), shown)
        return torch.stack(self._by_class(seen, log_not_a.sum(-1)))

    def log_shown(self, u, *, rate=None):
        """Return log P(action, at any age | r*, x) of each column, and the preference it shows."""
        logit, _ = self.logits(u)
        log_a, _ = action_log_probs(logit, rate)
        e = torch.zeros(1, dtype=log_a.dtype, device=log_a.device) if rate is None else rate
        other = torch.log(e.to(log_a)).expand_as(log_a)
        shows = torch.full((logit.shape[-1],), self.target, device=u.device)
        return torch.stack(self._by_class(log_a, other)), shows

    def initial_logits(self, y, weight, reward, acted, *, age=None, delay=None):
        """Return the logit of the share of actions among responses with the preference."""
        prior = np.atleast_1d(reward if self.target else 1 - np.asarray(reward))
        if self.delay is not None:
            return late_initial_logits(y, weight, prior, acted, age, delay)
        logit = initial_logit(acted / prior)
        if not self.is_dispersed:
            return logit
        spread = np.full_like(logit, initial_logit(FIRST_CORRELATION))
        return np.concatenate([logit, spread], axis=-1)


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
