"""Fits before the main fit: false-action rates, and preparations of an objective."""

from dataclasses import replace
from operator import itemgetter

import numpy as np
import torch

from .._warnings import warn
from ..measurement._model import is_dispersed
from ..objectives import Naive, TrainingLog
from ._constant import ConstantFit
from ._data import FIXED_EPOCHS, member_logits

#: Number of folds; each is held out once to estimate false-action rates.
N_FOLDS = 5
#: The rates at the start, as shares of the action rates.
STARTS = (0.1, 0.5)


def estimate_false_action_rates(plan, data, random_state):
    """Return the plan with false-action rates learned by EM on rows that are held out once each.

    On training rows a flexible reward adapts to the false actions that it has seen, and the rates
    come out too low. With exposures, or signals of both polarities, the likelihood has several
    maxima. The start with the best held-out likelihood is used.
    """
    log, usable = data.log, data.usable
    held_out = data.held_out_folds(N_FOLDS, random_state)
    weights = []
    for part in (~held_out, held_out):
        weight = np.where(part, log.sample_weight, 0.0)
        weights.append(weight / weight[:, usable].mean(axis=1, keepdims=True))
    several = log.can_show(0) or log.exposures is not None
    own = plan.assumptions.false_action_rate
    share_of_actions = log.rates(usable)[0][np.searchsorted(log.acts.column, np.arange(len(own)))]
    # Lower bounds of the mean of the log give the order of magnitude of the start.
    guesses = [share_of_actions * share for share in (STARTS if several else STARTS[:1])]
    if any(is_dispersed(signal) for signal in log.signals):
        guesses = [ConstantFit.of(log, usable, own).false_action_rate]
    found = []
    for guess in guesses:
        first_guess = plan.assumptions.with_rates(np.where(np.isnan(own), guess, own))
        start = replace(plan, n_members=N_FOLDS, assumptions=first_guess, estimates_rates=True)
        model = start.initial_model(data, random_state, usable)
        net = start.net(model, start.rate_constraint(model, len(usable)))
        parts = data.parts(
            model,
            plan.objective,
            plan.batch_size,
            random_state,
            weights=weights,
            parts=(usable, usable),
        )
        net.fit_loop(parts, epochs=plan.max_epochs)
        rates = net.criterion_.false_action_rate[0].to("cpu", torch.float64).mean(0).numpy()
        losses = np.array([record["valid_loss"] for record in net.history], dtype=float)
        found.append((np.nanmin(losses, axis=0).mean(), rates))
    _, rates = min(found, key=itemgetter(0))
    rates = np.where(np.isnan(own), rates, own)
    if log.propensity is not None:
        low = log.propensity <= rates
        if low.any():
            warn(
                f"{low.sum()} of the known propensities are not above the estimated "
                f"false_action_rate, {rates.round(3).tolist()}. This is a contradiction. Check "
                "propensity, or pass the rates."
            )
    return replace(plan, assumptions=plan.assumptions.with_rates(rates))


def prepare_objective(plan, data, random_state):
    """Let a single-signal objective learn from the whole log; return its further fields."""
    if not plan.objective.single_signal:
        return {}
    log = data.log

    def action_probability():
        preliminary = replace(plan, objective=Naive())
        model = preliminary.initial_model(data, random_state)
        net = preliminary.net(model)
        weight = log.sample_weight
        parts = data.parts(
            model,
            preliminary.objective,
            plan.batch_size,
            random_state,
            weights=(weight, weight),
            parts=(data.train, data.valid),
        )
        most = plan.max_epochs if len(data.valid) else min(plan.max_epochs, FIXED_EPOCHS)
        net.fit_loop(parts, epochs=most)
        (logit,) = member_logits(model, data.X, data.scaler, ("reward_logit",), plan.dtype)
        return torch.sigmoid(logit).numpy()

    is_training = np.zeros(log.n_responses, dtype=bool)
    is_training[data.train] = True
    return plan.objective.prepare(
        TrainingLog(
            X=data.columns.reward_part(data.X),
            actions=log.actions[:, 0],
            sample_weight=log.sample_weight,
            is_training=is_training,
            propensity=None if log.propensity is None else log.propensity[:, 0],
            preference_rate=plan.assumptions.preference_rate,
            action_probability=action_probability,
            random_state=random_state,
        )
    )
