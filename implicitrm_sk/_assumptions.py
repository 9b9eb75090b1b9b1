"""What is taken as known of the world, and what a sensitivity analysis would vary."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ._validation import check_interval

#: Fewer responses of a kind than this are no basis for telling anything from them.
MIN_RESPONSES = 20


@dataclass(frozen=True, eq=False)
class Assumptions:
    """What is taken as known of the world.

    Attributes
    ----------
    preference_rate : float, (float, float) or None
        As the user gave it.
    false_action_rate : float, array-like or "estimate"
        As the user gave it, until `with_rates_of` or `with_rates` has made it an ndarray of shape
        (K,), NaN where it is still to be estimated.
    label_mechanism : {"random", "acted"}
    estimates_false_actions : bool
        Whether the false-action rates are learned from the log.
    """

    preference_rate: Any = None
    false_action_rate: Any = 0.0
    label_mechanism: str = "random"
    estimates_false_actions: bool = False

    @classmethod
    def of(cls, estimator):
        """Return what the parameters of an estimator assume."""
        return cls(
            estimator.preference_rate,
            estimator.false_action_rate,
            estimator.label_mechanism,
            isinstance(estimator.false_action_rate, str),
        )

    @property
    def preference_interval(self):
        """The interval that holds the mean reward, None if nothing is known of it."""
        if self.preference_rate is None:
            return None
        interval = check_interval(self.preference_rate, "preference_rate")
        return None if interval == (0.0, 1.0) else interval

    @property
    def false_actions(self):
        """How the false-action rates are known: "none" happen, "given" or "estimated"."""
        if self.estimates_false_actions:
            return "estimated"
        return "given" if self.false_action_rate.any() else "none"

    def with_rates(self, rates):
        """Return the same with these false-action rates, of shape (K,)."""
        return replace(self, false_action_rate=rates)

    def with_rates_of(self, log):
        """Return the same with one checked false-action rate for each signal of a log."""
        if self.estimates_false_actions:
            self._check_evidence(log)
            return self.with_rates(np.full(log.n_signals, np.nan))
        try:
            rate = np.asarray(self.false_action_rate, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"false_action_rate must be a number, one per signal or 'estimate', got "
                f"{self.false_action_rate!r}."
            ) from error
        if rate.ndim > 1 or (rate.ndim == 1 and len(rate) != log.n_signals):
            raise ValueError(
                f"false_action_rate has shape {rate.shape}; expected is one number, or one per "
                f"signal: ({log.n_signals},)."
            )
        if not ((rate >= 0) & (rate < 1)).all():
            raise ValueError(
                f"false_action_rate must lie in [0, 1), got {self.false_action_rate!r}. It is the "
                "share of not preferred responses that still draw the action."
            )
        return self.with_rates(np.broadcast_to(rate, log.n_signals).copy())

    def _check_evidence(self, log):
        for name, counts in zip(
            log.signal_names, log.false_action_evidence(self.label_mechanism), strict=True
        ):
            if max(counts) >= MIN_RESPONSES:
                continue
            raise ValueError(
                "false_action_rate='estimate' needs three signals logged together (or three "
                f"exposures) or labels of not preferred responses, at least {MIN_RESPONSES} "
                f"responses of a kind for each signal; y has {log.n_signals} signal(s), and "
                f"signal {name!r} has {counts[0]} responses on which it is one of three "
                f"logged, {counts[1]} shown three times, and {counts[2]} with preference=0. "
                "With less, false and true actions cannot be told apart: pass a number."
            )

    def model_rates(self, objective):
        """Return the rates that a model of this objective works with, of shape (K,).

        None if all are 0 or the objective does without them.
        """
        if objective.single_signal or not self.false_action_rate.any():
            return None
        return torch.as_tensor(self.false_action_rate)
