"""The measurement of positive actions as functions, as the first edition had them."""

from implicitrm_sk.measurement import _mixture
from implicitrm_sk.measurement._action import action_log_probs as propensity_log_probs
from implicitrm_sk.measurement._model import GROUP_NAMES, Measurement
from implicitrm_sk.measurement._signal import log1mexp

__all__ = [
    "GROUP_NAMES",
    "action",
    "false_action_counts",
    "group_log_joint",
    "group_posterior",
    "log1mexp",
    "log_joint",
    "log_likelihood",
    "lower_bound",
    "mixture_likelihood",
    "nll",
    "posterior",
    "propensity",
    "propensity_log_probs",
    "propensity_risk",
]


def _method(name):
    def function(reward_logit, propensity_logit, *args, **kwargs):
        measurement = Measurement.of_actions(propensity_logit.shape[-1])
        return getattr(measurement, name)(reward_logit, propensity_logit, *args, **kwargs)

    return function


group_log_joint = _method("group_log_joint")
log_likelihood = _method("log_likelihood")
nll = _method("nll")
posterior = _method("posterior")
false_action_counts = _method("false_action_counts")


def log_joint(*args, **kwargs):
    """Return log P(r*=1, y | x) and log P(r*=0, y | x)."""
    not_preferred, preferred = _method("log_joint")(*args, **kwargs)
    return preferred, not_preferred


def propensity_risk(propensity_logit, *args, **kwargs):
    measurement = Measurement.of_actions(propensity_logit.shape[-1])
    return measurement.propensity_risk(propensity_logit, *args, **kwargs)


def _of_mixture(name):
    def function(reward_logit, propensity_logit, *args, **kwargs):
        measurement = Measurement.of_actions(propensity_logit.shape[-1])
        found = getattr(_mixture, name)(
            measurement, reward_logit, propensity_logit, *args, **kwargs
        )
        return found[0] if name == "bounds" else found

    return function


propensity = _of_mixture("propensity")
action = _of_mixture("action")
lower_bound = _of_mixture("bounds")
group_posterior = _of_mixture("group_posterior")
mixture_likelihood = _of_mixture("log_likelihood")
