"""The fitted model as a mixture of its members: pure tensor functions.

The components are the first dimension. Reward logits have shape (components, n), propensity logits
(components, n, K). Averages are always of probabilities, computed in logs if they may be tiny.
False-action rates have shape (K,). `log_weight` has shape (components,) or (components, n) and
holds the log-weights of the components, which sum to 1; None means equal weights.
"""

import math

import torch
from torch.nn.functional import logsigmoid


def _log_mean_exp(log_values, log_weight=None):
    if log_weight is None:
        return torch.logsumexp(log_values, dim=0) - math.log(len(log_values))
    return torch.logsumexp(log_values + _like(log_weight, log_values), dim=0)


def _mean(values, log_weight=None):
    if log_weight is None:
        return values.mean(0)
    return (values * _like(log_weight, values).exp()).sum(0)


def _like(log_weight, values):
    """Return weights with as many trailing dimensions as the values have."""
    return log_weight.reshape(*log_weight.shape, *[1] * (values.ndim - log_weight.ndim)).to(values)


def with_nodes(reward_logit, propensity_logit, loading, nodes):
    """Return each member once for each quadrature node of the activity of a user.

    Parameters
    ----------
    reward_logit : Tensor of shape (members, n)
    propensity_logit : Tensor of shape (members, n, P)
    loading : Tensor of shape (members, 1, P)
    nodes : Tensor of shape (Q,)

    Returns
    -------
    reward_logit, propensity_logit : Tensors of shape (Q * members, n) and (Q * members, n, P)
        One node after the other.
    """
    u = propensity_logit + nodes.to(propensity_logit)[:, None, None, None] * loading.to(
        propensity_logit
    )
    return reward_logit.expand(len(nodes), *reward_logit.shape).flatten(0, 1), u.flatten(0, 1)


def with_mirror_images(reward_logit, propensity_logit, target=1):
    """Append to each member of a one-signal model its image with R and A swapped.

    For a negative action (`target` 0), 1 - R and A are swapped.

    With A = e + (1 - e) sigmoid(u), the likelihood e + (1 - e) sigmoid(f) sigmoid(u) of an action
    is symmetric in f and u. So a member and its image fit every log equally well. The same holds
    for a late action at each age; its delay, a further output, stays.
    """
    sign = 1 if target == 1 else -1
    mirrored, further = propensity_logit[..., 0], propensity_logit[..., 1:]
    image = torch.cat([(sign * reward_logit)[..., None], further], -1)
    return torch.cat([reward_logit, sign * mirrored]), torch.cat([propensity_logit, image])


def mean(reward_logit, log_weight=None):
    """Return the mean of R over the components, shape (n,)."""
    return _mean(torch.sigmoid(reward_logit), log_weight)


def mean_of_logs(log_values, log_weight=None):
    """Return the mean over the components of values given as logarithms."""
    return _mean(log_values.exp(), log_weight)


def reward(reward_logit, log_weight=None):
    """Return the mean and standard deviation of R over the components, each of shape (n,)."""
    rewards = torch.sigmoid(reward_logit)
    if log_weight is None:
        return rewards.mean(0), rewards.std(0, correction=0)
    center = _mean(rewards, log_weight)
    return center, _mean((rewards - center) ** 2, log_weight).sqrt()


def mean_logit(reward_logit, log_weight=None):
    """Return the logit of the mean of R, shape (n,)."""
    yes, no = (_log_mean_exp(logsigmoid(sign * reward_logit), log_weight) for sign in (1, -1))
    return yes - no


def propensity(
    measurement, reward_logit, propensity_logit, false_action_rate=None, log_weight=None
):
    """Return P(signal j shows c | r*=c) for the preference c that j shows, shape (n, D).

    It is mean(P(r*=c) P(shown j | c)) / mean(P(r*=c)) over the components.
    """
    log_prob, shows = measurement.log_shown(propensity_logit, false_action_rate)
    log_class = torch.stack([logsigmoid(-reward_logit), logsigmoid(reward_logit)])[..., None]
    matching, log_class = (
        torch.where(shows == 1, values[1], values[0]) for values in (log_prob, log_class)
    )
    return torch.exp(
        _log_mean_exp(log_class + matching, log_weight) - _log_mean_exp(log_class, log_weight)
    )


def action(measurement, reward_logit, propensity_logit, false_action_rate=None, log_weight=None):
    """Return the probability of each action, mean(R P(j | r*=1) + (1 - R) P(j | r*=0)), (n, D)."""
    log_prob, _ = measurement.log_shown(propensity_logit, false_action_rate)
    rewards = torch.sigmoid(reward_logit)[..., None]
    return _mean(rewards * log_prob[1].exp() + (1 - rewards) * log_prob[0].exp(), log_weight)


def logits_of_all(
    measurement, reward_logit, propensity_logit, false_action_rate=None, log_weight=None
):
    """Return the logits of the reward and of each action, shape (n, 1 + D)."""
    p = action(measurement, reward_logit, propensity_logit, false_action_rate, log_weight)
    actions = torch.logit(p, eps=1e-9)
    return torch.cat([mean_logit(reward_logit, log_weight)[:, None], actions], dim=-1)


def bounds(
    measurement,
    reward_logit,
    propensity_logit,
    false_action_rate=None,
    shown_twice=(),
    node_log_weight=None,
):
    """Return the rewards that agree with each member's action probabilities: two tensors (m, n).

    P_k = P(y_k=1 | x) is the probability of signal k, e_k its false-action rate, and A_k <= 1 its
    propensity. Then R >= (P_k - e_k) / (1 - e_k) for every positive signal, and 1 - R >= (P_k -
    e_k) / (1 - e_k) for every negative one. With e = 0, R >= P(any positive action | x) and 1 - R
    >= P(any negative action | x). The bounds of single signals do not need independence.

    Two signals that show one preference, and are independent on rows that were looked at, narrow
    the interval. Take e = 0, and let R' be the reward of the model. If they are positive, R' is c =
    P(r*=1, looked at | x). With n = P(any negative action | x), the reward lies in [c, c / (c +
    n)]. If they are negative, 1 - R' is d = P(r*=0, looked at | x). With p = P(any positive action
    | x), the reward lies in [p / (p + d), 1 - d].

    If the measurement models who looked, c is R' v(x) and d is (1 - R') v(x). Actions then fire
    only on rows that were looked at.

    Parameters
    ----------
    shown_twice : tuple of {0, 1}
        The preferences that several independent signals show. With both of them, R' may be neither
        of these probabilities, so only the bounds of single signals hold.
    node_log_weight : Tensor of shape (Q,), default=None
        The logits are then those of members at the nodes of the activity of users, as `with_nodes`
        returns them. Probabilities are means over users with these weights.
    """
    log_prob, shows, bounding = measurement.log_acts(propensity_logit, false_action_rate)
    classes = torch.sigmoid(torch.stack([-reward_logit, reward_logit]))[..., None]
    if measurement.examined:
        classes = classes * measurement.log_examined(propensity_logit).exp()[..., None]

    def mean(values):
        if node_log_weight is None:
            return values
        return _mean(values.unflatten(0, (len(node_log_weight), -1)), node_log_weight)

    ends = []
    for c in (0, 1):
        mine = (shows == c) & bounding
        matching, other = log_prob[c][..., mine], log_prob[1 - c][..., mine].exp()
        if not mine.any():
            ends.append(mean(torch.zeros_like(reward_logit)))
        elif false_action_rate is None:
            any_fired = -torch.expm1(torch.log1p(-matching.exp()).sum(-1))
            ends.append(mean(classes[c][..., 0] * any_fired))
        else:
            total, e = mean(classes[c] * matching.exp() + classes[1 - c] * other), mean(other)
            ends.append(((total - e) / (1 - e)).amax(-1).clamp(0, 1))
    if len(shown_twice) == 1 and false_action_rate is None:
        (c,) = shown_twice
        looked_at = mean(classes[c][..., 0])
        largest = looked_at / (looked_at + ends[1 - c])
        return (looked_at, largest) if c == 1 else (1 - largest, 1 - looked_at)
    return ends[1], 1 - ends[0]


def group_posterior(
    measurement,
    reward_logit,
    propensity_logit,
    actions,
    false_action_rate=None,
    log_weight=None,
    **log,
):
    """Return P(group | y, x) of the mixture, shape (n, 4): joint averaged, then normalised."""
    joint = measurement.group_log_joint(
        reward_logit, propensity_logit, torch.as_tensor(actions), false_action_rate, **log
    )
    if log_weight is not None:
        joint = joint + _like(log_weight, joint)
    return torch.softmax(torch.logsumexp(joint, dim=0), dim=-1)


def log_likelihood(
    measurement,
    reward_logit,
    propensity_logit,
    actions,
    false_action_rate=None,
    log_weight=None,
    **log,
):
    """Return log P(y | x) of the mixture, shape (n,), or one per response."""
    return _log_mean_exp(
        measurement.log_likelihood(
            reward_logit, propensity_logit, torch.as_tensor(actions), false_action_rate, **log
        ),
        log_weight,
    )
