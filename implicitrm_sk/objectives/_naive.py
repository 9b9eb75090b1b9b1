"""The naive objective: no action is taken for a dislike."""

import torch

from .._stratification import full_precision
from ._base import Objective


class Naive(Objective):
    """Binary cross-entropy of R against the action: R estimates P(y=1 | x), not the reward.

    The baseline that every correction is compared with. Several signals are reduced to "any
    logged action".
    """

    single_signal = True
    models_propensity = False

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the cross-entropy of each member and row."""
        f = full_precision(reward_logit)
        target = batch.actions[:, 0].to(f).expand_as(f)
        return torch.nn.functional.binary_cross_entropy_with_logits(f, target, reduction="none")

    def initial_rates(self, action_rate, any_rate):
        """Return the share of acted rows."""
        return any_rate, action_rate
