"""The stratified objective: maximum likelihood of the actions through the four latent groups."""

import numpy as np

from .._stratification import log_likelihood, stratified_risk
from ._base import Objective


class Stratified(Objective):
    """E_pref + E_prop of ImplicitRM, for any number of signals.

    Training loss: cross-entropy of R against the posterior mass PA + PP plus, per logged signal,
    cross-entropy of A_k against P(a_k=1 | y), posteriors refreshed at each step and held fixed.
    Its gradient is that of the negative log-likelihood of the actions, which is the held-out
    criterion.

    References
    ----------
    Wang et al., "ImplicitRM: Unbiased Reward Modeling from Implicit Preference Data for LLM
    Alignment", arXiv 2603.23184, 2026.
    """

    def loss(self, reward_logit, propensity_logit, batch):
        """Return E_pref + E_prop of each member and row."""
        return stratified_risk(
            reward_logit, propensity_logit, batch.actions, batch.false_action_rate
        )

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of the actions of each member and row."""
        return -log_likelihood(
            reward_logit, propensity_logit, batch.actions, batch.false_action_rate
        )

    def initial_rates(self, action_rate, any_rate):
        """Return the symmetric split of the action rate: R = sqrt(P(any action))."""
        reward = np.sqrt(any_rate)
        return reward, action_rate / reward

    def swap_symmetric(self, n_signals):
        """Return True for one signal: (R, A) and (A, R) fit equally well."""
        return n_signals == 1
