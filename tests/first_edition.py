"""Groups, posteriors, likelihood and the stratified objective: pure tensor functions.

Every function takes logits and actions and broadcasts over leading dimensions (members):

- ``reward_logit`` f, shape (..., n): R = sigmoid(f) = P(r*=1 | x);
- ``propensity_logit`` u, shape (..., n, K): A_k = P(y_k=1 | r*=1, x) = e_k + (1 - e_k) sigmoid(u_k)
  so that e_k < A_k always holds, which states which class is the preferred one;
- ``actions`` y, shape (n, K): 1 acted, 0 did not act, NaN not logged;
- ``false_action_rate`` e, shape (K,): P(y_k=1 | r*=0), or None where all are 0; of shape
  (..., 1, K) where each member has its own.

The model is

    P(y | x) = R prod_k Bern(y_k; A_k) + (1 - R) prod_k Bern(y_k; e_k)     over the logged k,

and what more is known of a row comes by keyword, None where nothing is:

- ``exposures``, shape (n, K): how often a response was shown; y then counts actions, 0 to
  exposures. Likelihoods are those of the sequence, without the binomial coefficient;
- ``response``, shape (n,): rows of one integer, 0 to m - 1, share one r*, as the same response
  shown repeatedly. Reward logits and all results per response then have shape (..., m), and the
  products run over the rows of a response too;
- ``labels``, shape (m,): r* itself (0 or 1), or a graded label q in (0, 1) that stands for the
  posterior of r*; NaN unknown;
- ``propensity``, shape (n, K): A_k where it is known, NaN elsewhere.

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


def propensity_log_probs(propensity_logit, false_action_rate=None, propensity=None):
    """Return log A_k and log(1 - A_k).

    Parameters
    ----------
    propensity_logit : Tensor of shape (..., n, K)
    false_action_rate : Tensor of shape (K,) or (..., 1, K), or None
    propensity : Tensor of shape (n, K) or None
        Known A_k, NaN elsewhere.

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


def _times(count, log_prob):
    # 0 * log 0 is 0: what cannot happen and did not happen costs nothing.
    return torch.where(count > 0, count * log_prob, log_prob.new_zeros(()))


def _counts(actions, exposures):
    """Return how often the user acted and did not act, 0 and 0 where not logged."""
    acted = torch.nan_to_num(actions)
    if exposures is None:
        return acted, torch.nan_to_num(1 - actions)
    return acted, torch.nan_to_num(exposures - actions)


def _log_bernoulli(acted, not_acted, log_prob, log_complement):
    """Sum over k of the log-probability of a sequence with these counts."""
    return (_times(acted, log_prob) + _times(not_acted, log_complement)).sum(-1)


def _per_response(rows, response, n_responses):
    """Sum rows, the last dimension, over the rows of each response."""
    if response is None:
        return rows
    return rows.new_zeros((*rows.shape[:-1], n_responses)).index_add(-1, response, rows)


def log_joint(
    reward_logit,
    propensity_logit,
    actions,
    false_action_rate=None,
    *,
    exposures=None,
    response=None,
    propensity=None,
):
    """Return log P(r*=1, y | x) and log P(r*=0, y | x), each of shape (..., m).

    Parameters
    ----------
    reward_logit : Tensor of shape (..., m)
        One per response; m = n without `response`.
    propensity_logit : Tensor of shape (..., n, K)
    actions : Tensor of shape (n, K)
    false_action_rate : Tensor of shape (K,) or (..., 1, K), or None
    exposures, propensity : Tensors of shape (n, K), or None
    response : Tensor of int of shape (n,) or None
    """
    f = full_precision(reward_logit)
    log_a, log_not_a = propensity_log_probs(propensity_logit, false_action_rate, propensity)
    acted, not_acted = _counts(actions, exposures)
    preferred = _log_bernoulli(acted, not_acted, log_a, log_not_a)
    if false_action_rate is None:
        not_preferred = torch.zeros_like(preferred).masked_fill((acted > 0).any(-1), -math.inf)
    else:
        e = false_action_rate.to(f)
        not_preferred = _log_bernoulli(acted, not_acted, torch.log(e), torch.log1p(-e))
        not_preferred = not_preferred.expand_as(preferred)
    m = f.shape[-1]
    return (
        logsigmoid(f) + _per_response(preferred, response, m),
        logsigmoid(-f) + _per_response(not_preferred, response, m),
    )


def log_likelihood(
    reward_logit, propensity_logit, actions, false_action_rate=None, *, labels=None, **log
):
    """Return log P(y | x), or log P(y, r* | x) where r* is known, of shape (..., m).

    It is summed over the logged signals of a response. With nothing logged it is 0. A graded label
    q gives q log P(y, r*=1 | x) + (1 - q) log P(y, r*=0 | x), whose gradient is that of generalised
    EM with q in place of the posterior of r*.

    Parameters are those of `log_joint`, and `labels`, a Tensor of shape (m,).
    """
    preferred, not_preferred = log_joint(
        reward_logit, propensity_logit, actions, false_action_rate, **log
    )
    total = torch.logaddexp(preferred, not_preferred)
    if labels is None:
        return total
    q = torch.nan_to_num(labels)
    labelled = _times(q, preferred) + _times(1 - q, not_preferred)
    return torch.where(torch.isnan(labels), total, labelled)


def group_log_joint(
    reward_logit,
    propensity_logit,
    actions,
    false_action_rate=None,
    *,
    exposures=None,
    response=None,
    propensity=None,
):
    """Return log P(group, y | x) of the four groups, of shape (..., n, 4).

    "Active" means that at least one of the K signals would fire, logged or not, in at least one of
    the exposures of the row; the a_k are independent of r* and of each other given x, and
    a_k = y_k where r* = 1 and k is logged. Of rows that share a response, y is that of all of them
    and the activity that of the row.

    Parameters are those of `log_joint`.
    """
    _, log_not_a = propensity_log_probs(propensity_logit, false_action_rate, propensity)
    preferred, not_preferred = log_joint(
        reward_logit,
        propensity_logit,
        actions,
        false_action_rate,
        exposures=exposures,
        response=response,
        propensity=propensity,
    )
    if response is not None:
        preferred, not_preferred = preferred[..., response], not_preferred[..., response]
    zero = log_not_a.new_zeros(())
    fired = (actions > 0).any(-1)
    passive_if_preferred = torch.where(torch.isnan(actions), log_not_a, zero).sum(-1)
    passive_if_preferred = passive_if_preferred.masked_fill(fired, -math.inf)
    if exposures is not None:
        log_not_a = log_not_a * torch.where(torch.isnan(actions), 1.0, exposures)
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


def posterior(reward_logit, propensity_logit, actions, false_action_rate=None, **log):
    """Return the stratification posterior P(group | y, x), of shape (..., n, 4), rows summing to 1.

    Parameters are those of `log_joint`. With K = 1 and e = 0, y = 1 gives PA = 1 and y = 0 gives
    NA, PP, NP in proportion to (1-R)A, R(1-A), (1-R)(1-A) (ImplicitRM, Table 1 and appendix).
    """
    return torch.softmax(
        group_log_joint(reward_logit, propensity_logit, actions, false_action_rate, **log), dim=-1
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

    The posterior log-odds of r* are f + sum_k [log P(y_k; A_k) - log P(y_k; e_k)]. With
    q = P(r*=1 | y) or the label, m_k the times not acted, E_k = y_k + m_k the exposures and
    s_k = sigmoid(u_k), for the logged k:
    d E_pref / d f = R - q and d E_prop / d u_k = q (E_k A_k - y_k) s_k / A_k.
    """

    @staticmethod
    def forward(
        ctx,
        reward_logit,
        propensity_logit,
        false_action_rate,
        actions,
        exposures,
        response,
        labels,
        propensity,
    ):
        f, u = full_precision(reward_logit), full_precision(propensity_logit)
        e = None if false_action_rate is None else false_action_rate.to(f)
        log_a, log_not_a = propensity_log_probs(u, e, propensity)
        a, not_a = log_a.exp(), log_not_a.exp()
        acted, unlogged = actions > 0, torch.isnan(actions)
        if exposures is None:
            log_odds = torch.where(acted, log_a, log_not_a)
            if e is not None:
                log_odds = log_odds - torch.where(acted, torch.log(e), torch.log1p(-e))
        else:
            y, m = _counts(actions, exposures)
            log_odds = _times(m, log_not_a if e is None else log_not_a - torch.log1p(-e))
            if e is not None:
                log_odds = log_odds + _times(y, log_a - torch.log(e))
        if e is None:
            # Acting settles it: the odds are infinite.
            log_odds = log_odds.masked_fill(acted, math.inf)
        log_odds = log_odds.masked_fill(unlogged, 0.0).sum(-1)
        q = torch.sigmoid(f + _per_response(log_odds, response, f.shape[-1]))
        if labels is not None:
            q = torch.where(torch.isnan(labels), q, labels.to(f))
        qk = (q if response is None else q[..., response])[..., None]
        free = ~unlogged if propensity is None else ~unlogged & torch.isnan(propensity)
        if exposures is None:
            cross_entropy = _cross_entropy(torch.lerp(a, acted.to(f.dtype), qk), log_a, log_not_a)
            # A - 1 where acted, as -(1 - A): no cancellation where A is close to 1.
            residual = torch.where(acted, -not_a, a)
        else:
            cross_entropy = -_times(qk * y + (1 - qk) * (y + m) * a, log_a)
            cross_entropy = cross_entropy - _times(qk * m + (1 - qk) * (y + m) * not_a, log_not_a)
            residual = m * a - y * not_a
        cross_entropy = cross_entropy.masked_fill(~free, 0.0)
        grad_u = qk * residual
        if e is not None:
            grad_u = grad_u * (logsigmoid(u) - log_a).exp()
        risk = _cross_entropy(q, logsigmoid(f), logsigmoid(-f))
        risk = risk + _per_response(cross_entropy.sum(-1), response, f.shape[-1])
        ctx.save_for_backward(torch.sigmoid(f) - q, grad_u.masked_fill(~free, 0.0), response)
        ctx.dtypes = reward_logit.dtype, propensity_logit.dtype
        return risk

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_risk):
        grad_f, grad_u, response = ctx.saved_tensors
        f_dtype, u_dtype = ctx.dtypes
        grad_rows = (grad_risk if response is None else grad_risk[..., response])[..., None]
        grads = (grad_risk * grad_f).to(f_dtype), (grad_rows * grad_u).to(u_dtype)
        return *grads, None, None, None, None, None, None


def stratified_risk(
    reward_logit,
    propensity_logit,
    actions,
    false_action_rate=None,
    *,
    exposures=None,
    response=None,
    labels=None,
    propensity=None,
):
    """Return E_pref + E_prop per response, with posteriors refreshed from the logits, held fixed.

    E_prop is the sum over the logged k of the cross-entropy of A_k against
    P(a_k=1 | y) = q y_k + (1 - q) A_k, q = P(r*=1 | y) = PA + PP or the known label. Known
    propensities have no E_prop. Its gradient equals that of ``-log_likelihood`` (generalised EM);
    for K = 1, e = 0 and no more known it is the objective of ImplicitRM.

    Parameters are those of `log_likelihood`, both logits with the same leading dimensions.

    Returns
    -------
    risk : Tensor of shape (..., m)
        Differentiable once, in both logits.
    """
    return _StratifiedRisk.apply(
        reward_logit,
        propensity_logit,
        false_action_rate,
        actions,
        exposures,
        response,
        labels,
        propensity,
    )


def false_action_counts(
    reward_logit, propensity_logit, actions, false_action_rate, *, labels=None, **log
):
    """Return the false actions of each signal that are expected given y, and their opportunities.

    Their ratio is the M-step of e_k: sum (1 - q) y_k / sum (1 - q) over the logged k, with
    q = P(r*=1 | y) or the label (EM; Dempster, Laird & Rubin 1977).

    Parameters are those of `log_likelihood`.

    Returns
    -------
    false_actions, opportunities : Tensors of shape (..., n, K)
        Opportunities are the exposures of responses that are not preferred.
    """
    preferred, not_preferred = log_joint(
        reward_logit, propensity_logit, actions, false_action_rate, **log
    )
    not_q = torch.sigmoid(not_preferred - preferred)
    if labels is not None:
        not_q = torch.where(torch.isnan(labels), not_q, 1 - labels.to(not_q))
    response = log.get("response")
    not_q = (not_q if response is None else not_q[..., response])[..., None]
    acted, not_acted = _counts(actions, log.get("exposures"))
    return not_q * acted, not_q * (acted + not_acted)


def propensity_risk(propensity_logit, target, false_action_rate=None):
    """Return the cross-entropy of A_k against known propensities, summed over k, of shape (..., n).

    Parameters
    ----------
    propensity_logit : Tensor of shape (..., n, K)
    target : Tensor of shape (n, K)
        NaN entries are left out.
    false_action_rate : Tensor of shape (K,) or (..., 1, K), or None
    """
    log_a, log_not_a = propensity_log_probs(propensity_logit, false_action_rate)
    entropy = _cross_entropy(torch.nan_to_num(target), log_a, log_not_a)
    return entropy.masked_fill(torch.isnan(target), 0.0).sum(-1)
