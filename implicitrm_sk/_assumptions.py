"""The assumptions of a fit, which a sensitivity analysis varies."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ._validation import check_interval
from .exceptions import ImplicitRMError
from .measurement._model import Measurement

#: With fewer responses of a kind than this, nothing is concluded from them.
MIN_RESPONSES = 20


@dataclass(frozen=True, eq=False)
class Assumptions:
    """The facts that a fit assumes as known.

    Attributes
    ----------
    preference_rate : float, (float, float) or None
        As the user gave it.
    false_action_rate : float, array-like, "estimate" or None
        As the user gave it; None depends on the log. `with_rates_of` and `with_rates` make it an
        ndarray of shape (K,), NaN where it is still to be estimated.
    label_mechanism : {"random", "asked", "acted"}
    signals : dict, list or None
        As the user gave it: what each column of y is.
    examined : bool or None
        Whether every row was looked at. None: not known. False: some rows were not, and this is
        modelled.
    shared_propensity : bool
        Whether all signals have one propensity function, with a factor for each.
    estimates_false_actions : bool
        Whether the false-action rates are learned from the log.
    """

    preference_rate: Any = None
    false_action_rate: Any = None
    label_mechanism: str = "random"
    signals: Any = None
    examined: bool | None = None
    shared_propensity: bool = False
    estimates_false_actions: bool = False

    @classmethod
    def of(cls, estimator):
        """Return the assumptions made by the parameters of an estimator."""
        return cls(
            estimator.preference_rate,
            estimator.false_action_rate,
            estimator.label_mechanism,
            estimator.signals,
            None if estimator.shared_examination is None else not estimator.shared_examination,
            estimator.shared_propensity,
            isinstance(estimator.false_action_rate, str),
        )

    @property
    def preference_interval(self):
        """The interval that contains the mean reward, None if it is not known."""
        if self.preference_rate is None:
            return None
        interval = check_interval(self.preference_rate, "preference_rate")
        return None if interval == (0.0, 1.0) else interval

    @property
    def false_actions(self):
        """How the false-action rates are known: "none" (they are 0), "given" or "estimated"."""
        if self.estimates_false_actions:
            return "estimated"
        return "given" if self.false_action_rate.any() else "none"

    @property
    def models_examination(self):
        """Whether rows that nobody looked at are modelled."""
        return self.examined is False

    def measurement(self, signals):
        """Return the measurement model of some signals."""
        return Measurement(signals, self.models_examination)

    def with_rates(self, rates):
        """Return these assumptions with other false-action rates, of shape (K,)."""
        return replace(self, false_action_rate=rates)

    def with_rates_of(self, log, can_estimate=True):
        """Return these assumptions with one checked false-action rate per signal of a log.

        Rates to be estimated are NaN, if the objective can estimate them. None means 0. With
        repeated exposures, by `exposures` or as rows of one `response_id`, it means "estimate",
        because one stray action among many exposures would prove a preference.
        """
        estimates = self.estimates_false_actions
        repeated = log.exposures is not None or (log.response is not None and log.repeats())
        if can_estimate and self.false_action_rate is None and repeated:
            what = "exposures above 1" if log.response is None else "rows of one response_id"
            self._check_evidence(log, f"false_action_rate=None with {what}")
            estimates = True
        elif estimates:
            self._check_evidence(log, "false_action_rate='estimate'")
        if estimates:
            return replace(
                self,
                false_action_rate=_own_rates(np.full(log.n_signals, np.nan), log.signals),
                estimates_false_actions=True,
            )
        given = 0.0 if self.false_action_rate is None else self.false_action_rate
        try:
            rate = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ImplicitRMError(
                "false_action_rate must be a number, one per signal or 'estimate', got "
                f"{self.false_action_rate!r}. Pass one of these."
            ) from error
        if rate.ndim > 1 or (rate.ndim == 1 and len(rate) != log.n_signals):
            raise ImplicitRMError(
                f"false_action_rate has shape {rate.shape}; expected one number, or one per "
                f"signal: ({log.n_signals},)."
            )
        if not ((rate >= 0) & (rate < 1)).all():
            raise ImplicitRMError(
                f"false_action_rate must lie in [0, 1), got {self.false_action_rate!r}. It is the "
                "share of responses that have the action although they are not preferred."
            )
        return self.with_rates(_own_rates(np.broadcast_to(rate, log.n_signals).copy(), log.signals))

    def _check_evidence(self, log, asked):
        both = log.can_show(0) and log.can_show(1)
        evidence = log.false_action_evidence(self.label_mechanism)
        for k, target, counts in zip(log.acts.column, log.acts.target, evidence, strict=True):
            if max(counts) >= MIN_RESPONSES or "rate" not in log.signals[k].takes:
                continue
            often = {2: "two", 3: "three", 4: "four"}[
                max(log.signals[k].least_exposures, 2 if both else 3)
            ]
            raise ImplicitRMError(
                f"{asked} needs evidence from at least {MIN_RESPONSES} responses for each signal. "
                f"The evidence is three signals logged together, {often} "
                "exposures, or labels of not preferred responses. "
                f"y has {log.n_signals} signal(s). Signal "
                f"{log.signal_names[k]!r} has {counts[0]} responses where it is one of three "
                f"logged signals, {counts[1]} shown {often} times, and "
                f"{counts[2]} with a label of {1 - target}. With less, false and true actions "
                "cannot be distinguished. Pass a number, 0.0 if users never act by mistake."
            )

    def model_rates(self, objective):
        """Return the rates that a model of this objective uses, of shape (K,).

        None if all are 0 or the objective does not use rates.
        """
        if objective.single_signal or not self.false_action_rate.any():
            return None
        return torch.as_tensor(self.false_action_rate)


def _own_rates(rates, signals):
    """Return the rates, with a signal's own rate where it has one, 0 for kinds without rates."""
    for k, signal in enumerate(signals):
        own = getattr(signal, "false_rate", None)
        if own is not None or "rate" not in signal.takes:
            rates[k] = own or 0.0
    return rates
