"""The fitted model as an equal-weight mixture of its members: pure tensor functions.

Components are the first dimension: reward logits of shape (components, n), propensity logits of
shape (components, n, K). All averages are of probabilities, taken in logs where they may be tiny.
False-action rates are of shape (K,).
"""

import math

import torch
from torch.nn.functional import logsigmoid

from . import _model
from ._model import propensity_log_probs


def _log_mean_exp(log_values):
    return torch.logsumexp(log_values, dim=0) - math.log(len(log_values))


def with_mirror_images(reward_logit, propensity_logit):
    """Append to each member of a one-signal model its image with R and A swapped.

    With A = e + (1 - e) sigmoid(u) the likelihood e + (1 - e) sigmoid(f) sigmoid(u) of an action
    is symmetric in f and u, so that a member and its image fit every log equally well.
    """
    mirrored = propensity_logit.squeeze(-1)
    return (
        torch.cat([reward_logit, mirrored]),
        torch.cat([mirrored, reward_logit])[..., None],
    )


def mean(reward_logit):
    """Return the mean of R over the components, shape (n,)."""
    return torch.sigmoid(reward_logit).mean(0)


def reward(reward_logit):
    """Return mean and standard deviation of R over the components, each of shape (n,)."""
    rewards = torch.sigmoid(reward_logit)
    return rewards.mean(0), rewards.std(0, correction=0)


def mean_logit(reward_logit):
    """Return the logit of the mean of R, shape (n,)."""
    return _log_mean_exp(logsigmoid(reward_logit)) - _log_mean_exp(logsigmoid(-reward_logit))


def propensity(reward_logit, propensity_logit, false_action_rate=None):
    """Return mean(R A_k) / mean(R), shape (n, K)."""
    log_a, _ = propensity_log_probs(propensity_logit, false_action_rate)
    log_reward = logsigmoid(reward_logit)[..., None]
    return torch.exp(_log_mean_exp(log_reward + log_a) - _log_mean_exp(log_reward))


def action(reward_logit, propensity_logit, false_action_rate=None):
    """Return mean(R A_k + (1 - R) e_k), shape (n, K)."""
    log_a, _ = propensity_log_probs(propensity_logit, false_action_rate)
    rewards = torch.sigmoid(reward_logit)[..., None]
    e = 0.0 if false_action_rate is None else false_action_rate
    return (rewards * log_a.exp() + (1 - rewards) * e).mean(0)


def lower_bound(reward_logit, propensity_logit, false_action_rate=None):
    """Return the least reward that agrees with the action probabilities, shape (n,).

    With P_k = R A_k + (1 - R) e_k and A_k <= 1, R >= (P_k - e_k) / (1 - e_k) for every signal; with
    e = 0, R >= P(any action | x). No independence of the signals is needed for either.
    """
    if false_action_rate is None:
        _, log_not_a = propensity_log_probs(propensity_logit)
        any_fired = -torch.expm1(log_not_a.sum(-1))
        return (torch.sigmoid(reward_logit) * any_fired).mean(0)
    e = false_action_rate
    excess = action(reward_logit, propensity_logit, false_action_rate) - e
    return (excess / (1 - e)).amax(-1).clamp(0, 1)


def group_posterior(reward_logit, propensity_logit, actions, false_action_rate=None, **log):
    """Return P(group | y, x) of the mixture, shape (n, 4): joint averaged, then normalised."""
    joint = _model.group_log_joint(
        reward_logit, propensity_logit, torch.as_tensor(actions), false_action_rate, **log
    )
    return torch.softmax(torch.logsumexp(joint, dim=0), dim=-1)


def log_likelihood(reward_logit, propensity_logit, actions, false_action_rate=None, **log):
    """Return log P(y | x) of the mixture, shape (n,), or one per response."""
    return _log_mean_exp(
        _model.log_likelihood(
            reward_logit, propensity_logit, torch.as_tensor(actions), false_action_rate, **log
        )
    )
