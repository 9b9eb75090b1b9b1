"""The stratified objective: maximum likelihood of the actions through the four latent groups."""

import numpy as np
import torch

from ._base import Objective


class Stratified(Objective):
    """The likelihood of all signals: ImplicitRM for any number of signals of either polarity.

    Training loss and held-out criterion are the negative log-likelihood of the signals and labels,
    in nats. The gradient is that of E_pref + E_prop of ImplicitRM, the cross-entropies of the
    reward R and the propensities A_k against the stratification posteriors. The posteriors are
    refreshed at each step and held fixed.

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
    >>> acted = preferred & (rng.random(2000) < 0.5)  # on half of the preferred rows
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
            "labels",
            "propensity",
            "user_id",
            "age",
            "delay",
            "preference_rate",
            "false_action_rate='estimate'",
            "shared_examination=True",
        }
    )

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the negative log-likelihood of each member and response.

        Known propensities of signals that are logged nowhere else train the propensity head.
        """
        measurement = batch.signals
        loss = measurement.nll(reward_logit, propensity_logit, **_likelihood_terms(batch))
        if batch.propensity_target is not None:
            rows = measurement.propensity_risk(
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
        return -batch.signals.log_likelihood(
            reward_logit, propensity_logit, **_likelihood_terms(batch)
        )

    def initial_rates(self, action_rate, any_rate):
        """Return the symmetric split of the action rate: R = sqrt(P(any action))."""
        reward = np.sqrt(any_rate)
        return reward, action_rate / reward

    def swap_symmetric(self, n_signals):
        """Return True for one signal: (R, A) and (A, R) fit equally well."""
        return n_signals == 1


def _likelihood_terms(batch):
    names = "actions false_action_rate exposures response labels propensity age delay"
    return {name: getattr(batch, name) for name in names.split()}
