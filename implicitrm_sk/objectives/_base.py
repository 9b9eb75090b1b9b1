"""The base class of all training objectives."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator


@dataclass(frozen=True)
class Batch:
    """What an objective sees of a batch beside the logits: n rows of m responses.

    Attributes
    ----------
    actions : Tensor of shape (n, K)
        1 acted, 0 did not act, NaN not logged; with `exposures` the number of actions.
    false_action_rate : Tensor of shape (K,) or (members, 1, K), or None
        P(y_k=1 | r*=0); None where all are 0. While they are estimated, each member has its own.
    exposures : Tensor of shape (n, K) or None
        How often the response was shown; None is once.
    response : Tensor of int of shape (n,) or None
        The response of each row, 0 to m - 1; None where every row is one (m = n).
    preference : Tensor of shape (m,) or None
        Labels in [0, 1], NaN where unknown.
    propensity : Tensor of shape (n, K) or None
        P(y_k=1 | r*=1) where it is known, NaN elsewhere.
    propensity_target : Tensor of shape (n, K) or None
        What the propensity head is to learn where nothing else teaches it, NaN elsewhere.
    """

    actions: torch.Tensor
    false_action_rate: torch.Tensor | None = None
    exposures: torch.Tensor | None = None
    response: torch.Tensor | None = None
    preference: torch.Tensor | None = None
    propensity: torch.Tensor | None = None
    propensity_target: torch.Tensor | None = None


def any_action(actions):
    """Return 1 where any logged signal fired, 0 where none did, NaN where nothing is logged.

    Parameters
    ----------
    actions : ndarray of shape (n, K)

    Returns
    -------
    any_action : ndarray of shape (n, 1)
    """
    fired = np.nanmax(np.where(np.isnan(actions), -1.0, actions), axis=1, keepdims=True)
    return np.where(fired < 0, np.nan, fired)


class Objective(BaseEstimator):
    """What the two heads are trained to do.

    A subclass implements `loss` and states, by class attributes, what it models. Its constructor
    parameters are ordinary scikit-learn parameters (reachable as ``objective__name``).

    Attributes
    ----------
    single_signal : bool
        Works on one action signal; several are reduced to "any logged action".
    models_propensity : bool
        Trains a propensity head. Otherwise the propensity is taken to be 1.
    models_actions : bool
        R and A together are a model of P(y | x), so that likelihoods of actions mean something.
    uses : frozenset of str
        The side information that `loss` takes into account, out of "response_id", "exposures",
        "preference", "propensity" (arguments of `fit`), "preference_rate" and
        "false_action_rate='estimate'"; the estimator refuses any other. The first two need no
        mention where `single_signal` is set: actions then come reduced to one per response.
    """

    single_signal = False
    models_propensity = True
    models_actions = True
    uses = frozenset()

    def loss(self, reward_logit, propensity_logit, batch):
        """Return the training loss of each member and row.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, m)
            One per response; m = n unless ``batch.response`` is set.
        propensity_logit : Tensor of shape (members, n, K)
            Infinite if the objective does not model the propensity.
        batch : Batch
            Every response has at least one logged signal or a label.

        Returns
        -------
        loss : Tensor of shape (members, m)
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss: see Objective.loss.")

    def validation_loss(self, reward_logit, propensity_logit, batch):
        """Return the held-out criterion of each member and row; by default, the loss.

        Early stopping takes its weighted mean over the validation rows; lower is better.
        Parameters and result are those of `loss`.
        """
        return self.loss(reward_logit, propensity_logit, batch)

    def initial_rates(self, action_rate, any_rate):
        """Return the reward and propensities (K,) at which training starts.

        Parameters
        ----------
        action_rate : ndarray of shape (K,)
            Share of acted rows per signal, false actions taken off.
        any_rate : float
            Share of rows with any logged action, false actions taken off.
        """
        return 0.5, np.full(len(action_rate), 0.5)

    def swap_symmetric(self, n_signals):
        """Return whether reward and propensity could be swapped with equal likelihood."""
        return False
