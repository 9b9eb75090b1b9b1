"""The stratified objective: maximum likelihood of the actions through the four latent groups."""

import numpy as np
import torch

from ..measurement._model import log_likelihood, propensity_risk, stratified_risk
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

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> preferred = X[:, 0] > 0
    >>> acted = preferred & (rng.random(2000) < 0.5)  # on half of what is preferred
    >>> settings = {"max_epochs": 20, "early_stopping": False, "learning_rate_init": 0.01}
    >>> settings |= {"n_estimators": 1, "random_state": 0}
    >>> est = ImplicitRewardEstimator("stratified", **settings)
    >>> est = est.fit(X, acted)
    >>> print(f"{est.predict(X)[preferred].mean():.2f}")
    0.72
    """

    uses = frozenset(
        {
            "response_id",
            "exposures",
            "preference",
            "propensity",
            "preference_rate",
            "false_action_rate='estimate'",
        }
    )

    def loss(self, reward_logit, propensity_logit, batch):
        """Return E_pref + E_prop of each member and response."""
        terms = _likelihood_terms(batch)
        loss = stratified_risk(reward_logit, propensity_logit, **terms)
        if batch.propensity_target is not None:
            rows = propensity_risk(
                propensity_logit, batch.propensity_target, batch.false_action_rate
            )
            loss = loss + (
                rows
                if batch.response is None
                else torch.zeros_like(loss).index_add(-1, batch.response, rows)
            )
        return loss

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of actions and labels, per member and response."""
        return -log_likelihood(reward_logit, propensity_logit, **_likelihood_terms(batch))

    def initial_rates(self, action_rate, any_rate):
        """Return the symmetric split of the action rate: R = sqrt(P(any action))."""
        reward = np.sqrt(any_rate)
        return reward, action_rate / reward

    def swap_symmetric(self, n_signals):
        """Return True for one signal: (R, A) and (A, R) fit equally well."""
        return n_signals == 1


def _likelihood_terms(batch):
    names = "actions false_action_rate exposures response preference propensity"
    return {name: getattr(batch, name) for name in names.split()}
