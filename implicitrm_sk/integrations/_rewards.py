"""Rewards of text or vectors from an estimator or a pipeline."""

import numpy as np
import torch

from .._pipeline import split_pipeline
from .._prediction import FittedMixture, component_logits
from ..exceptions import ImplicitRMError
from ..measurement import _mixture


def check_pessimism(pessimism):
    """Return pessimism as a float; raise unless it is a number >= 0."""
    try:
        value = float(pessimism)
    except (TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise ImplicitRMError(
            f"pessimism must be a number >= 0, got {pessimism!r}. Pass how many times the spread "
            "of the reward to subtract, or 0."
        )
    return value


def rewards(est, X, *, output="probability", pessimism=0.0):
    """Return reward and spread of each row, as ndarrays in float64.

    The reward is mean - pessimism * spread. The spread is the standard deviation over the
    components of the mixture, of the probability or of the logit; NaN of a single member.
    """
    est, transform = split_pipeline(est)
    (logits,) = component_logits(est, transform(X), "reward_logit")
    mixture = FittedMixture.of(est)
    if output == "probability":
        mean, spread = _mixture.reward(logits)
    else:
        mean, spread = _mixture.mean_logit(logits), logits.std(0, correction=0)
    spread = mixture.spread(spread)
    if pessimism:
        if not mixture.has_spread:
            n = mixture.model.config["n_members"]
            kept = "has one member" if n == 1 else f"kept one of its {n} members"
            raise ImplicitRMError(
                f"pessimism={pessimism:g} subtracts the spread over the members, but the fit "
                f"{kept} and no spread. Pass pessimism=0, or fit with n_estimators={max(4, 2 * n)}."
            )
        mean = mean - pessimism * spread
    return tuple(part.to(torch.float64).numpy() for part in (mean, spread))


def component_rewards(est, X):
    """Return the reward R of each component of the mixture, shape (components, n)."""
    est, transform = split_pipeline(est)
    (logits,) = component_logits(est, transform(X), "reward_logit")
    return torch.sigmoid(logits.to(torch.float64)).numpy()
