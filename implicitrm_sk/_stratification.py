"""Groups, posteriors, likelihood and the stratified objective: pure tensor functions.

Every function takes logits and actions and broadcasts over leading dimensions (members):

- ``reward_logit`` f, shape (..., n): R = sigmoid(f) = P(r*=1 | x);
- ``propensity_logit`` u, shape (..., n, K): A_k = P(y_k=1 | r*=1, x) = e_k + (1 - e_k) sigmoid(u_k)
  so that e_k < A_k always holds, which states which class is the preferred one;
- ``actions`` y, shape (n, K): 1 acted, 0 did not act, NaN not logged;
- ``false_action_rate`` e, shape (K,): P(y_k=1 | r*=0), or None where all are 0.

The model is

    P(y | x) = R prod_k Bern(y_k; A_k) + (1 - R) prod_k Bern(y_k; e_k)     over the logged k,

with K = 1 and e = 0 the model of ImplicitRM (Wang et al. 2026, arXiv 2603.23184). The latent
groups are those of its Table 1; its printed Eq. 6 swaps NA and PP and is not used.
Half-precision logits are computed with in float32.
"""

import math

import torch
from torch.nn.functional import logsigmoid

#: The four latent groups (r*, a), in the order of every last dimension of length 4.
GROUP_NAMES = ("PA", "NA", "PP", "NP")


def full_precision(logit):
    """Return half-precision logits in float32, others as they are."""
    return logit.float() if logit.dtype in (torch.bfloat16, torch.float16) else logit


def log1mexp(x):
    """Return log(1 - exp(x)) for x <= 0 without cancellation (Maechler 2012, Eq. 7)."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def propensity_log_probs(propensity_logit, false_action_rate=None):
    """Return log A_k and log(1 - A_k).

    Parameters
    ----------
    propensity_logit : Tensor of shape (..., n, K)
    false_action_rate : Tensor of shape (K,) or None

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
    return log_a, log_not_a


def _log_bernoulli(actions, log_prob, log_complement):
    """Sum over the logged k of log Bern(y_k)."""
    zero = log_prob.new_zeros(())
    return (
        torch.where(actions == 1, log_prob, zero) + torch.where(actions == 0, log_complement, zero)
    ).sum(-1)


def _log_joint(log_reward, log_complement, log_a, log_not_a, actions, false_action_rate):
    preferred = log_reward + _log_bernoulli(actions, log_a, log_not_a)
    if false_action_rate is None:
        return preferred, log_complement.masked_fill((actions == 1).any(-1), -math.inf)
    e = false_action_rate.to(log_reward)
    return preferred, log_complement + _log_bernoulli(actions, torch.log(e), torch.log1p(-e))


def log_joint(reward_logit, propensity_logit, actions, false_action_rate=None):
    """Return log P(r*=1, y | x) and log P(r*=0, y | x), each of shape (..., n).

    Parameters
    ----------
    reward_logit : Tensor of shape (..., n)
    propensity_logit : Tensor of shape (..., n, K)
    actions : Tensor of shape (n, K)
    false_action_rate : Tensor of shape (K,) or None
    """
    f = full_precision(reward_logit)
    log_a, log_not_a = propensity_log_probs(propensity_logit, false_action_rate)
    return _log_joint(logsigmoid(f), logsigmoid(-f), log_a, log_not_a, actions, false_action_rate)


def log_likelihood(reward_logit, propensity_logit, actions, false_action_rate=None):
    """Return log P(y | x), summed over the logged signals of a row, of shape (..., n).

    Parameters are those of `log_joint`. A row with nothing logged has log-likelihood 0.
    """
    return torch.logaddexp(*log_joint(reward_logit, propensity_logit, actions, false_action_rate))


def group_log_joint(reward_logit, propensity_logit, actions, false_action_rate=None):
    """Return log P(group, y | x) of the four groups, of shape (..., n, 4).

    "Active" means that at least one of the K signals would fire, logged or not; the a_k are
    independent of r* and of each other given x, and a_k = y_k where r* = 1 and k is logged.

    Parameters are those of `log_joint`.
    """
    f = full_precision(reward_logit)
    log_a, log_not_a = propensity_log_probs(propensity_logit, false_action_rate)
    preferred, not_preferred = _log_joint(
        logsigmoid(f), logsigmoid(-f), log_a, log_not_a, actions, false_action_rate
    )
    zero = log_not_a.new_zeros(())
    fired = (actions == 1).any(-1)
    passive_if_preferred = torch.where(torch.isnan(actions), log_not_a, zero).sum(-1)
    passive_if_preferred = passive_if_preferred.masked_fill(fired, -math.inf)
    passive_if_not = log_not_a.sum(-1)
    return torch.stack(
        [
            preferred + log1mexp(passive_if_preferred),
            not_preferred + log1mexp(passive_if_not),
            preferred + passive_if_preferred,
            not_preferred + passive_if_not,
        ],
        dim=-1,
    )


def posterior(reward_logit, propensity_logit, actions, false_action_rate=None):
    """Return the stratification posterior P(group | y, x), of shape (..., n, 4), rows summing to 1.

    Parameters are those of `log_joint`. With K = 1 and e = 0, y = 1 gives PA = 1 and y = 0 gives
    NA, PP, NP in proportion to (1-R)A, R(1-A), (1-R)(1-A) (ImplicitRM, Table 1 and appendix).
    """
    return torch.softmax(
        group_log_joint(reward_logit, propensity_logit, actions, false_action_rate), dim=-1
    )


def _cross_entropy(target, log_prob, log_complement):
    # 0 * log 0 is 0, which an infinite logit (propensity 1) needs.
    least = torch.finfo(log_prob.dtype).min
    return -(target * log_prob.clamp_min(least) + (1 - target) * log_complement.clamp_min(least))


def preference_risk(reward_logit, preference_posterior):
    """Return E_pref, the cross-entropy of R against the posterior mass PA + PP, per row.

    Parameters
    ----------
    reward_logit : Tensor of shape (..., n)
    preference_posterior : Tensor of shape (..., n)
        P(r*=1 | y, x), held fixed.

    Returns
    -------
    risk : Tensor of shape (..., n)
    """
    f = full_precision(reward_logit)
    return _cross_entropy(preference_posterior, logsigmoid(f), logsigmoid(-f))


class _StratifiedRisk(torch.autograd.Function):
    """`stratified_risk` with its gradient in closed form, at a fraction of autograd's cost.

    The posterior log-odds of r* are f + sum_k [log Bern(y_k; A_k) - log Bern(y_k; e_k)]. With
    q = P(r*=1 | y) and s_k = sigmoid(u_k), for the logged k:
    d E_pref / d f = R - q and d E_prop / d u_k = q (A_k - y_k) s_k / A_k.
    """

    @staticmethod
    def forward(ctx, reward_logit, propensity_logit, actions, false_action_rate):
        f, u = full_precision(reward_logit), full_precision(propensity_logit)
        log_a, log_not_a = propensity_log_probs(u, false_action_rate)
        propensity = log_a.exp()
        acted, unlogged = actions == 1, torch.isnan(actions)
        log_bernoulli = torch.where(acted, log_a, log_not_a)
        if false_action_rate is None:
            # Acting settles it: the odds are infinite.
            log_odds = log_bernoulli.masked_fill(acted, math.inf)
        else:
            e = false_action_rate.to(f)
            log_odds = log_bernoulli - torch.where(acted, torch.log(e), torch.log1p(-e))
        q = torch.sigmoid(f + log_odds.masked_fill(unlogged, 0.0).sum(-1))
        qk = q[..., None]
        active = torch.lerp(propensity, acted.to(f.dtype), qk)
        risk = _cross_entropy(q, logsigmoid(f), logsigmoid(-f))
        cross_entropy = _cross_entropy(active, log_a, log_not_a)
        risk = risk + cross_entropy.masked_fill(unlogged, 0.0).sum(-1)
        # A - 1 where acted, as -(1 - A): no cancellation where A is close to 1.
        residual = torch.where(acted, -log_not_a.exp(), propensity)
        if false_action_rate is not None:
            residual = residual * (logsigmoid(u) - log_a).exp()
        ctx.save_for_backward(torch.sigmoid(f) - q, (qk * residual).masked_fill(unlogged, 0.0))
        ctx.dtypes = reward_logit.dtype, propensity_logit.dtype
        return risk

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_risk):
        grad_f, grad_u = ctx.saved_tensors
        return (
            (grad_risk * grad_f).to(ctx.dtypes[0]),
            (grad_risk[..., None] * grad_u).to(ctx.dtypes[1]),
            None,
            None,
        )


def stratified_risk(reward_logit, propensity_logit, actions, false_action_rate=None):
    """Return E_pref + E_prop per row, with posteriors refreshed from the logits and held fixed.

    E_prop is the sum over the logged k of the cross-entropy of A_k against
    P(a_k=1 | y) = q y_k + (1 - q) A_k, q = P(r*=1 | y) = PA + PP. Its gradient equals that of
    ``-log_likelihood`` (generalised EM); for K = 1, e = 0 it is the objective of ImplicitRM.

    Parameters are those of `log_joint`, both logits with the same leading dimensions.

    Returns
    -------
    risk : Tensor of shape (..., n)
        Differentiable once, in both logits.
    """
    return _StratifiedRisk.apply(reward_logit, propensity_logit, actions, false_action_rate)
