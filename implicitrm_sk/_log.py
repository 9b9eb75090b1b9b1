"""The feedback log as checked arrays: who did what on which response, and what else is known."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ._assumptions import MIN_RESPONSES
from ._coincidences import Coincidences
from ._labels import check_label_values, check_labels, selected_by_action, shared_label
from ._tables import as_frame, as_values, column_names, columns_of, opened, taken
from ._validation import (
    as_float,
    check_actions,
    check_both_classes,
    check_groups,
    check_n_signals,
    check_one_form,
    check_propensity,
    check_sample_weight,
    in_columns,
    is_missing,
    shown_id,
)
from ._waits import MATURE, check_waits, refuse_late_with
from ._warnings import warn
from .exceptions import ImplicitRMError
from .measurement._action import Action
from .measurement._choice import Choice
from .measurement._model import Measurement, is_dispersed
from .measurement._signal import Signal
from .objectives._base import check_uses

#: A signal that more than this share of its logged rows have may be the absence of its opposite.
NEARLY_ALL = 0.7
#: Rows below which that suspicion is not raised.
MIN_ROWS = 100
#: A share of acted rows is below a false-action rate by more than this many standard errors.
BEYOND_CHANCE = 3.3


@dataclass(frozen=True)
class Acts:
    """A log as binary actions: one for each column of y and each preference that it can show.

    For a log of actions, these are the columns of y.

    Attributes
    ----------
    counts : ndarray of shape (n, K')
        How often users acted; NaN where not logged.
    column : ndarray of int of shape (K',)
        The column of y that each act belongs to.
    target : ndarray of int of shape (K',)
        The preference that the act shows, 1 or 0.
    bounds : ndarray of bool of shape (K',)
        Whether the share of the act bounds the reward, as `Signal.bounds`.
    """

    counts: np.ndarray
    column: np.ndarray
    target: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, actions, signals):
        """Return the acts of some columns of y."""
        signals = signals or (Action(),) * actions.shape[1]
        pairs = [(k, c) for k, s in enumerate(signals) for c in sorted(s.shows, reverse=True)]
        column, target = np.array(pairs, dtype=int).reshape(-1, 2).T
        counts = actions
        if not all(isinstance(signal, Action) for signal in signals):
            counts = np.empty((len(actions), len(pairs)))
            for position, (k, c) in enumerate(pairs):
                y = actions[:, k]
                seen = y if isinstance(signals[k], Action) else signals[k].seen(y)[c]
                counts[:, position] = np.where(np.isnan(y), np.nan, seen)
        bounds = np.array([signals[k].bounds for k in column], dtype=bool)
        return cls(counts, column, target, bounds)


@dataclass(frozen=True)
class FeedbackLog:
    """n rows of actions on m responses; without `response` every row is a response (m = n).

    Attributes
    ----------
    actions : ndarray of shape (n, K)
        Actions, or their number if there are exposures. For other kinds of signal, the codes of
        what users did. NaN where not logged.
    sample_weight : ndarray of shape (m,)
    exposures : ndarray of shape (n, K) or None
    response : ndarray of int of shape (n,) or None
        0 to m - 1, in order of first appearance.
    first : ndarray of int of shape (m,) or None
        First row of each response.
    labels : ndarray of shape (m,) or None
    propensity : ndarray of shape (n, K) or None
    age, delay : ndarray of shape (n, K) or None
        For late actions: the time since the row was shown, and the time until the action came.
    user : ndarray of int of shape (n,) or None
        0 to `n_users` - 1. Each row without an id is a user of its own; these users come last.
    user_ids : ndarray or None
        The ids of the users that have one; these users come first.
    signals : tuple of Signal
        The kind of each column of the actions.
    names : ndarray of str of shape (K,) or None
        Names of the signals, if y had names.
    one_dimensional : bool
        Whether y was one-dimensional.
    """

    actions: np.ndarray
    sample_weight: np.ndarray
    exposures: np.ndarray | None = None
    response: np.ndarray | None = None
    first: np.ndarray | None = None
    labels: np.ndarray | None = None
    propensity: np.ndarray | None = None
    age: np.ndarray | None = None
    delay: np.ndarray | None = None
    user: np.ndarray | None = None
    user_ids: np.ndarray | None = None
    signals: tuple = ()
    names: np.ndarray | None = None
    one_dimensional: bool = False

    @classmethod
    def from_arguments(
        cls,
        y,
        n_samples,
        assumptions,
        objective,
        *,
        purpose="fit",
        name="y",
        known=None,
        sample_weight=None,
        response_id=None,
        exposures=None,
        labels=None,
        propensity=None,
        user_id=None,
        age=None,
        delay=None,
    ):
        """Return a log from y and the arguments of `fit`, each checked once.

        Parameters
        ----------
        y, sample_weight, response_id, exposures, labels, propensity, user_id, age, delay
            Arguments of `fit`.
        n_samples : int
            Rows of X.
        assumptions : Assumptions
        objective : Objective
            Arguments that it does not use are refused.
        purpose : {"fit", "batch", "query"}
            For "fit", y is a whole log, which needs rows with and without actions, and whose
            signals are examined. For "batch", it is a part of one, whose labels must agree with its
            actions. For "query", it is the rows to predict, without labels.
        name : str
            Name of the argument `y`, for the messages.
        known : KnownSignals or None
            The signals of an earlier fit, with which y must agree.

        Returns
        -------
        log : FeedbackLog
        assumptions : Assumptions
            With one false-action rate for each signal.
        """
        side = {
            "sample_weight": sample_weight,
            "response_id": response_id,
            "exposures": exposures,
            "labels": labels,
            "propensity": propensity,
            "user_id": user_id,
            "age": age,
            "delay": delay,
        }
        check_uses(objective, side, assumptions)
        y, names = _with_names(y, known and known.names)
        exposures = _in_order_of(names, exposures, "exposures")
        propensity = _in_order_of(names, propensity, "propensity")
        given = assumptions.signals if known is None else known.signals
        y, given = _encoded(y, given, known is not None, names, name)
        actions, one_dimensional, exposures = check_actions(
            y, n_samples, name=name, n_signals=known and len(known.signals), exposures=exposures
        )
        signals = given if known is not None else resolve_signals(given, names, actions.shape[1])
        _check_kinds(signals, assumptions, exposures, response_id, name)
        if assumptions.models_examination:
            _check_examination(signals, exposures, propensity, name)
        if exposures is None:
            _check_values(actions, signals, names, name)
        refuse_late_with(signals, side, assumptions, name)
        age, delay = check_waits(age, delay, actions, signals)
        weight = check_sample_weight(sample_weight, n_samples)
        if labels is not None:
            labels = check_label_values(labels, n_samples)
        response = first = None
        if response_id is not None:
            ids = check_groups(response_id, n_samples, "response_id")
            response, first = number_responses(ids)
            check_constant(
                weight, response, first, ids, "sample_weight", "One response has one weight"
            )
            weight = weight[first]
            if labels is not None:
                labels = shared_label(labels, response, first, ids)
            if len(first) == n_samples:  # nothing is repeated
                response = first = None
        if exposures is not None and (exposures == 1).all():
            exposures = None
        log = cls(
            actions,
            weight,
            exposures,
            response,
            first,
            labels,
            age=age,
            delay=delay,
            signals=signals,
            names=names,
            one_dimensional=one_dimensional,
        )
        if purpose == "fit":
            log.check_dispersed()
        if known is None:
            estimable = "false_action_rate='estimate'" in objective.uses
            assumptions = assumptions.with_rates_of(log, can_estimate=estimable)
            log.check_suits(objective)
        if propensity is not None:
            propensity = check_propensity(propensity, actions, assumptions.false_action_rate)
            _check_known_propensities(propensity, log)
            if not np.isnan(propensity).all():
                log = replace(log, propensity=propensity)
        if user_id is not None:
            log = log.with_users(user_id, assumptions)
        if purpose == "fit":
            check_both_classes(log.acts.counts, log.per_row(weight), exposures)
        if purpose != "query":
            log.check_contradictions(assumptions.false_action_rate)
            log = check_labels(log, assumptions.false_action_rate, assumptions.label_mechanism)
        if purpose == "fit":
            log.warn_about_signals()
            for contradiction, cure in log.refuted(assumptions):
                warn(f"{contradiction}. {cure}")
        return log, assumptions

    def check_dispersed(self):
        """Raise if too few responses were shown often enough for a correlation of exposures."""
        shown = self.observations()[self.sample_weight > 0]
        for k, name in enumerate(self.signal_names):
            signal = self.signals[k]
            if not is_dispersed(signal):
                continue
            least = signal.least_exposures
            n = np.count_nonzero(shown[:, self.acts.column == k] >= least)
            if n < MIN_RESPONSES:
                raise ImplicitRMError(
                    f"signal {name!r} has beta-binomial counts, but {n} of its responses have "
                    f"{least} exposures; expected at least {MIN_RESPONSES}. With fewer, a "
                    "correlation of exposures and a preference cannot be distinguished. Pass "
                    "exposures=, or leave counts out."
                )

    def check_suits(self, objective):
        """Raise if an objective cannot learn from the signals."""
        if objective.single_signal:
            self.check_reducible(objective)
        if objective.needs_both_polarities and not (self.can_show(0) and self.can_show(1)):
            raise ImplicitRMError(
                f"{type(objective).__name__} compares positive with negative actions, but all "
                f"signals of y are {'positive' if self.can_show(1) else 'negative'}. Name "
                "the others in signals=, or use objective='stratified'."
            )

    @property
    def measurement(self):
        """The model of how the preference shows in the signals."""
        return Measurement(self.signals)

    def with_users(self, user_id, assumptions):
        """Return the log with its users, or without them if they carry no information."""
        if self.propensity is not None:
            raise ImplicitRMError(
                "user_id is not available with propensity: the P(action | preferred) of an "
                "experiment averages over all users, and this is not modelled. Leave one of the "
                "two out."
            )
        if assumptions.estimates_false_actions:
            repeated = ""
            if self.response is not None:
                n = len(self.response) - self.n_responses
                repeated = (
                    f"{n} rows have the response_id of an earlier row, which shows it again. If "
                    "the log merely holds them twice, keep one of each. If not: "
                )
            raise ImplicitRMError(
                f"{repeated}user_id is not available with false-action rates that are estimated, "
                "as they are by default where responses were shown repeatedly. Their EM treats all "
                "users as equally active. Give false_action_rate as a number, 0.0 if users never "
                "act by mistake. Or give the false_action_rate_ of a fit without user_id."
            )
        user, ids = number_users(user_id, len(self.actions))
        if len(np.unique(user)) == len(user):
            warn(
                f"user_id has {len(user)} different users in {len(user)} rows and is ignored: "
                "users with one row each carry no information about activity. Pass the id of the "
                "person who acted, not of the row."
            )
            return self
        return replace(self, user=user, user_ids=ids)

    @property
    def n_users(self):
        """Number of users; each row without an id counts as one."""
        return int(self.user.max()) + 1

    @property
    def rows_of_users(self):
        """Number of rows of each user who has an id."""
        return np.bincount(self.user, minlength=self.n_users)[: len(self.user_ids)]

    @property
    def n_signals(self):
        """Number of signals K."""
        return self.actions.shape[1]

    @property
    def signal_names(self):
        """Names of the signals, or their positions."""
        return list(range(self.n_signals) if self.names is None else self.names)

    @property
    def n_responses(self):
        """Number of responses m."""
        return len(self.sample_weight)

    @cached_property
    def acts(self):
        """The log as binary actions."""
        return Acts.of(self.actions, self.signals)

    @cached_property
    def coincidences(self):
        """How often the acts coincide."""
        return Coincidences.of(self)

    def act_names(self):
        """Return the name of each act, which is the name of its signal."""
        names = self.signal_names
        return [names[k] for k in self.acts.column]

    def per_response(self, rows):
        """Sum the values of rows over the rows of each response."""
        if self.response is None:
            return rows
        return np.bincount(self.response, weights=rows, minlength=self.n_responses)

    def per_row(self, responses):
        """Repeat the values of responses for each of their rows."""
        return responses if self.response is None else responses[self.response]

    def logged(self):
        """Return whether each signal of each row was logged, shape (n, K)."""
        return ~np.isnan(self.actions)

    def observations(self):
        """Return how often each act was possible on each response: rows times exposures."""
        shown = ~np.isnan(self.acts.counts) * (1.0 if self.exposures is None else self.exposures)
        return np.column_stack([self.per_response(column) for column in shown.T])

    def least_exposures(self):
        """Return how often each act has to be possible to count as repeated, shape (K',)."""
        return np.array([self.signals[k].least_exposures for k in self.acts.column])

    def repeats(self):
        """Return whether some act was possible more than once on some response."""
        return bool((self.observations()[self.sample_weight > 0] > 1).any())

    def signals_of_nearly_all(self):
        """Return (name, share) of actions that most logged rows have, but not all.

        Such a column may record that a negative action did not happen ("not regenerated").
        """
        weight = self.per_row(self.sample_weight)
        found = []
        for k, (name, signal) in enumerate(zip(self.signal_names, self.signals, strict=True)):
            rows = ~np.isnan(self.actions[:, k]) & (weight > 0)
            if not isinstance(signal, Action) or np.count_nonzero(rows) < MIN_ROWS:
                continue
            shown = 1 if self.exposures is None else self.exposures[rows, k]
            total = weight[rows] @ np.broadcast_to(shown, rows.sum())
            share = weight[rows] @ self.actions[rows, k] / total
            if NEARLY_ALL < share < 1:
                found.append((str(name), float(share)))
        return found

    def check_reducible(self, objective):
        """Warn that an objective sees one signal only, or raise if none of them is positive."""
        name, positive = type(objective).__name__, self.acts.column[self.shows(1)]
        if not len(positive):
            raise ImplicitRMError(
                f"{name} learns from positive actions, but all signals of y are negative. Use "
                "objective='stratified', which learns from both."
            )
        names = self.signal_names
        ignored = [
            f"the negative outcomes of {names[k]!r}" if k in positive else repr(names[k])
            for k in self.acts.column[self.shows(0)]
        ]
        if ignored:
            warn(
                f"{name} uses positive actions only: {', '.join(ignored)} of y "
                f"{'is' if len(ignored) == 1 and ignored[0][0] != 't' else 'are'} ignored. Use "
                "objective='stratified' to learn from both."
            )
        if len(positive) > 1:
            warn(
                f"{name} works on one signal: the {len(positive)} signals of y are reduced to "
                '"any logged action". Pass one signal to avoid this warning.',
            )

    def shows(self, preference):
        """Return which acts show a preference, 1 or 0, shape (K',)."""
        return self.acts.target == preference

    def telling_of_level(self):
        """Return which acts bound the reward, or all acts if none does, shape (K',)."""
        bounds = self.acts.bounds
        return bounds if bounds.any() else ~bounds

    def can_show(self, preference):
        """Return whether some signal can show a preference, 1 or 0."""
        return bool(self.shows(preference).any())

    def proves(self, false_action_rate):
        """Return which acts prove the preference they show, by row, shape (n, K')."""
        certain = (false_action_rate[self.acts.column] == 0) & self.acts.bounds
        return certain & (self.acts.counts > 0)

    def check_contradictions(self, false_action_rate):
        """Raise if a response has actions that prove opposite preferences."""
        proves = self.proves(false_action_rate)
        counted = self.sample_weight > 0
        by_polarity = [
            (self.per_response(proves[:, self.shows(c)].any(axis=1)) > 0) & counted for c in (0, 1)
        ]
        both = by_polarity[0] & by_polarity[1]
        if not both.any():
            return
        response = np.flatnonzero(both)[0]
        rows = proves if self.response is None else proves[self.response == response]
        found = proves[response] if self.response is None else rows.any(axis=0)
        first = response if self.first is None else self.first[response]
        names = self.act_names()
        acts = [np.flatnonzero(found & self.shows(c))[0] for c in (1, 0)]
        positive, negative = (names[k] for k in acts)
        kinds = [self.signals[self.acts.column[k]] for k in acts]
        rate = "a number or 'estimate'" if self.user is None else "a number"
        cures = [f"false_action_rate ({rate})"] if any("rate" in s.takes for s in kinds) else []
        cures += [
            f"false_rate of the {type(s).__name__} (a number)"
            for s in dict.fromkeys(kinds)
            if "rate" not in s.takes and hasattr(s, "false_rate")
        ]
        raise ImplicitRMError(
            f"Contradiction in {both.sum()} responses: each has a positive and a negative action. "
            f"Without false actions, both are proof. The first is row {first}: "
            f"signal {positive!r} shows that it is preferred, signal {negative!r} that it is not. "
            "If one of them has the wrong sign, correct signals=. If users act by mistake, set "
            f"{' and '.join(dict.fromkeys(cures))}."
        )

    def refuted(self, assumptions):
        """Return what the log contradicts of the assumptions, and what to do, in pairs of words."""
        return [*self._refuted_rates(assumptions), *self._refuted_preference_rate(assumptions)]

    def _refuted_rates(self, assumptions):
        row_weight = self.per_row(self.sample_weight)
        counts, names = self.acts.counts, self.act_names()
        shown = np.ones_like(counts) if self.exposures is None else self.exposures
        rates = assumptions.false_action_rate[self.acts.column]
        for name, column, exposures, e in zip(names, counts.T, shown.T, rates, strict=True):
            is_logged = ~np.isnan(column) & (row_weight > 0)
            acted, exposures, weight = (
                column[is_logged],
                exposures[is_logged],
                row_weight[is_logged],
            )
            rate = weight @ acted / (weight @ exposures) if acted.size else 1.0
            # False for a rate that is still to be estimated.
            if e - rate > BEYOND_CHANCE * np.sqrt(e * (1 - e) / max(exposures.sum(), 1)):
                yield (
                    f"false_action_rate={e:g} of signal {name!r} contradicts the log: only "
                    f"{rate:.3g} of all rows, preferred or not, have this action",
                    "The reward would come out near 0. Lower false_action_rate.",
                )

    def _refuted_preference_rate(self, assumptions):
        interval = assumptions.preference_interval
        if interval is None or assumptions.false_actions != "none" or not self.acts.bounds.any():
            return
        given = f"preference_rate={assumptions.preference_rate!r} contradicts the log"
        disproved = np.average(self.fired(0), weights=self.sample_weight)
        if 1 - interval[0] < disproved:
            yield (
                f"{given}: {disproved:.3g} of all responses have a negative action, which with "
                "false_action_rate=0 proves that they are not preferred",
                "Lower preference_rate, or set false_action_rate.",
            )
        proved = np.average(self.fired(1), weights=self.sample_weight)
        if interval[1] < proved:
            yield (
                f"{given}: {proved:.3g} of all responses have an action, which with "
                "false_action_rate=0 proves that they are preferred",
                "Raise preference_rate, or set false_action_rate.",
            )

    def warn_about_signals(self):
        """Warn of signals that carry no information, or hardly any."""
        self._warn_of_silence()
        names = self.act_names()
        for name, share in self.signals_of_nearly_all():
            warn(
                f"signal {name!r} of y is 1 on {share:.0%} of the rows where it is logged. If it "
                "means that a negative action did not happen, pass 1 - y as a negative signal. If "
                "not, ignore this warning."
            )
        if len(names) == 1:
            return  # a single constant signal is an error
        self._warn_of_steps()
        self._warn_of_signals_apart()
        whole = dict(enumerate(np.bincount(self.acts.column)))
        idle = self.coincidences.idle()
        for signal, why in idle.items():
            column = self.acts.column[signal]
            if whole[column] > 1:
                self._warn_of_outcome(column, self.acts.target[signal], why)
                continue
            if isinstance(why, str):
                problem = {
                    "never": "is 0 in every row where it is logged: it",
                    "always": "is 1 in every row where it is logged: it",
                    "not logged": "is never logged: it",
                }[why]
            else:
                problem = f"equals signal {names[why]!r} wherever both are logged: a copy"
            warn(
                f"signal {names[signal]!r} of y {problem} carries no information about the reward. "
                "Leave it out, or check how the log was joined.",
            )

    def _warn_of_silence(self):
        """Warn of widgets that nobody left alone, if some rows have no value: these may be that."""
        for name, signal, column in zip(
            self.signal_names, self.signals, self.actions.T, strict=True
        ):
            empty = np.isnan(column)
            if not isinstance(signal, Choice) or signal.silence is None or not empty.any():
                continue
            if not (column == signal.silence).any():
                warn(
                    f"signal {name!r} of y is never {signal.silent!r}, its label for silence, and "
                    f"has no value in {empty.sum():,} of {len(column):,} rows. No value means that "
                    "the widget was not offered. If users chose nothing there, write "
                    f"{signal.silent!r} there. If not, ignore this warning."
                )

    def _warn_of_steps(self):
        """Warn of signals that hardly ever happen without another."""
        names = self.act_names()
        for k, j in self.coincidences.steps():
            warn(
                f"signal {names[k]!r} of y hardly ever happens without {names[j]!r}: the two are "
                "steps of one action, not independent signals. Keep the more informative one."
            )

    def _warn_of_signals_apart(self):
        """Warn of signals that hardly ever happen together with others of their sign."""
        names = self.act_names()
        for k, seen, expected in self.coincidences.apart():
            warn(
                f"signal {names[k]!r} of y coincides with others of its sign {seen} times, where "
                f"chance gives {expected:.0f}. It may show the opposite preference (correct "
                "signals=), exclude the others (pass one Choice), or belong to other responses. "
                "Signals of this sign count as one."
            )

    def _warn_of_outcome(self, column, preference, why):
        """Warn that no row, or every row, has an outcome of a signal that shows a preference."""
        if isinstance(why, str):
            which = {"never": "none", "always": "every one", "not logged": "none"}[why]
            warn(
                f"signal {self.signal_names[column]!r} of y can show that a response is "
                f"{'preferred' if preference else 'not preferred'}, and {which} of its rows does. "
                "So it carries no information about the reward. Check how the log was joined."
            )

    def check_same_reward(self, reward_part, response_id):
        """Raise unless the reward columns are the same in all rows of a response."""
        check_constant(
            reward_part,
            self.response,
            self.first,
            as_values(response_id),
            "X",
            "A response has one reward: name the columns that vary with the exposure in "
            "propensity_features",
        )

    def telling_signals(self, false_action_rate):
        """Return which acts are informative, shape (K',): neither a copy nor its original is.

        A model that treats both as separate signals is wrong about both. The same holds for an act
        that hardly happens without another, and for one that most rows have while it counts as
        proof. If one act of a sign hardly coincides with the others, no act of that sign is
        informative.
        """
        idle = self.coincidences.idle()
        originals = {why for why in idle.values() if not isinstance(why, str)}
        steps = {act for pair in self.coincidences.steps() for act in pair}
        names = [name for name, _ in self.signals_of_nearly_all()]
        frequent = [
            act
            for act, column in enumerate(self.acts.column)
            if str(self.signal_names[column]) in names and false_action_rate[column] == 0
        ]
        targets = self.acts.target[[k for k, _, _ in self.coincidences.apart()]]
        apart = np.flatnonzero(np.isin(self.acts.target, targets))
        doubtful = [*idle, *originals, *steps, *frequent, *apart]
        return ~np.isin(np.arange(len(self.acts.column)), doubtful)

    def labels_selected(self, proved):
        """Return whether users' actions decide which responses have a label, as thumbs do.

        `proved`, of shape (responses,), says whose preference actions prove.
        """
        return self.labels is not None and selected_by_action(self, proved)

    def false_action_evidence(self, label_mechanism):
        """Return how many responses distinguish each act's false actions from its true ones.

        There are three counts. First, the act is one of three logged. Second, it was observed three
        times, or twice where both polarities were observed; if its exposures are correlated, four
        times. Third, it was observed where the known
        preference is the one that it does not show. Responses with zero weight do not count.
        """
        counted = self.sample_weight > 0
        # A grade is not an act, even a low one.
        observed = self.observations()[counted] * self.acts.bounds
        contrary = np.zeros(observed.shape, dtype=bool)
        if self.labels is not None and label_mechanism != "acted":
            contrary = self.labels[counted][:, None] == self.shows(0)
        seen = observed > 0
        least = self.least_exposures()
        repeated = observed >= np.maximum(least, 3)
        if self.can_show(0) and self.can_show(1):
            both = [(observed[:, self.shows(c)] >= 2).any(axis=1) for c in (0, 1)]
            repeated |= (observed >= least) & (both[0] & both[1])[:, None]
        kinds = (
            seen & (seen.sum(axis=1, keepdims=True) >= 3),
            repeated,
            seen & contrary,
        )
        return np.stack([kind.sum(axis=0) for kind in kinds], axis=1)

    def proved(self, false_action_rate):
        """Return which responses the actions prove to be preferred, and which not preferred.

        Without false actions, an action proves the preference that it shows. If an action certainly
        follows a preference and did not happen, it disproves that preference. Responses with zero
        weight prove nothing.
        """
        counted = self.sample_weight > 0
        proves = self.proves(false_action_rate)
        disproves = np.zeros_like(proves)
        if self.propensity is not None:
            disproves = (self.propensity == 1)[:, self.acts.column] & (self.not_acted() > 0)
        found = []
        for c in (1, 0):
            rows = proves[:, self.shows(c)].any(axis=1) | disproves[:, self.shows(1 - c)].any(
                axis=1
            )
            found.append((self.per_response(rows) > 0) & counted)
        return tuple(found)

    def not_acted(self):
        """Return how often users did not act, by act; NaN where not logged."""
        return (1 if self.exposures is None else self.exposures) - self.acts.counts

    def fired(self, preference=None):
        """Return whether users acted on each response, shape (m,).

        Counts the acts that bound the reward, or those of them that show a preference, 1 or 0. In a
        log without such acts, all acts count. Every row has a grade, so grades count only in a log
        without actions.
        """
        mine = self.telling_of_level()
        mine = mine if preference is None else mine & self.shows(preference)
        return self.per_response((self.acts.counts[:, mine] > 0).any(axis=1)) > 0

    def balance(self):
        """Return the value of each response that a split balances, shape (m,).

        This is whether the response has an action. If both polarities are logged, or every response
        has an action, it is the share of positive minus the share of negative actions.
        """
        if not self.can_show(0) and not self.fired()[self.usable()].all():
            return self.fired().astype(float)
        share = np.zeros(self.n_responses)
        for c, sign in ((1, 1.0), (0, -1.0)):
            mine = self.shows(c)
            acted = self.per_response(np.nansum(self.acts.counts[:, mine], axis=1))
            share += sign * acted / np.maximum(self.observations()[:, mine].sum(axis=1), 1)
        return share

    def rests(self):
        """Return whether any logged signal of a response did not fire, shape (m,)."""
        return self.per_response((self.not_acted() > 0).any(axis=1)) > 0

    def n_events(self):
        """Return the number of logged (act, exposure) pairs of each response, shape (m,)."""
        return self.observations().sum(axis=1)

    def usable(self):
        """Return the responses of positive weight that are logged or labelled."""
        informative = self.n_events() > 0
        if self.labels is not None:
            informative |= ~np.isnan(self.labels)
        return np.flatnonzero((self.sample_weight > 0) & informative)

    def part(self, rows, responses):
        """Return some rows of a log, which are all rows of some responses."""
        response = None if self.response is None else number_responses(self.response[rows])[0]

        def taken(values, chosen):
            return None if values is None else values[chosen]

        return replace(
            self,
            actions=self.actions[rows],
            exposures=taken(self.exposures, rows),
            propensity=taken(self.propensity, rows),
            age=taken(self.age, rows),
            delay=taken(self.delay, rows),
            user=taken(self.user, rows),
            sample_weight=self.sample_weight[responses],
            labels=taken(self.labels, responses),
            response=response,
            first=None if response is None else np.unique(response, return_index=True)[1],
        )

    def sorted(self):
        """Return the log with the rows of a response side by side, and the order of the rows."""
        order = np.argsort(self.response, kind="stable")
        rows = {
            name: None if value is None else value[order]
            for name, value in (
                ("actions", self.actions),
                ("exposures", self.exposures),
                ("propensity", self.propensity),
                ("response", self.response),
                ("user", self.user),
            )
        }
        first = np.searchsorted(rows["response"], np.arange(self.n_responses))
        return replace(self, first=first, **rows), order

    def reduced(self):
        """Return "any positive action" per response, one row each, for single-signal objectives."""
        if not all(isinstance(s, Action) and s.target for s in self.signals):
            return self._positive().reduced()
        fired = self.fired()
        actions = np.where(self.n_events() > 0, fired, np.nan)[:, None]
        if self.propensity is None:
            return FeedbackLog(actions, self.sample_weight, signals=(Action(),))
        # The probability of any logged action, if they are independent; known where all are.
        shown = np.where(np.isnan(self.actions), 0, 1 if self.exposures is None else self.exposures)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_none = np.where(shown > 0, shown * np.log1p(-self.propensity), 0.0)
        propensity = -np.expm1(self.per_response(log_none.sum(axis=1)))[:, None]
        return FeedbackLog(
            actions,
            self.sample_weight,
            signals=(Action(),),
            propensity=np.where(np.isnan(actions) | (propensity == 0), np.nan, propensity),
        )

    def tensors(self):
        """Return what the likelihood needs of the log, a dict of tensors or None."""
        fields = {
            name: getattr(self, name)
            for name in ("actions", "exposures", "response", "propensity", "age", "delay")
        }
        return {
            name: None if value is None else torch.as_tensor(value)
            for name, value in fields.items()
        }

    def waits_of(self, k, takes):
        """Return age and delay of a column as arguments of a signal that takes them."""
        waits = {"age": self.age, "delay": self.delay}
        return {
            name: None if values is None else values[:, k]
            for name, values in waits.items()
            if name in takes
        }

    def matured(self, mean_delay):
        """Return the log without the entries of late actions that may still come.

        The age alone decides which entries stay, so they have the same share of actions as all.

        Parameters
        ----------
        mean_delay : ndarray of shape (K,)
            NaN for signals that are not late.
        """
        if self.age is None:
            return self
        young = self.age < MATURE * mean_delay
        return replace(self, actions=np.where(young, np.nan, self.actions))

    def propensity_target(self):
        """Return the known propensities of signals that are logged nowhere else, or None."""
        if self.propensity is None:
            return None
        known = ~np.isnan(self.propensity)
        taught_elsewhere = (~known & self.logged()).any(axis=0)
        if taught_elsewhere.all():
            return None
        return np.where(taught_elsewhere, np.nan, self.propensity)

    def _positive(self):
        """Return the log of the positive acts alone, as actions."""
        kept = self.shows(1)
        columns = self.acts.column[kept]
        return replace(
            self,
            actions=self.acts.counts[:, kept],
            exposures=None if self.exposures is None else self.exposures[:, columns],
            propensity=None if self.propensity is None else self.propensity[:, columns],
            signals=(Action(),) * len(columns),
            names=None if self.names is None else self.names[columns],
        )

    def rates(self, responses):
        """Return the share of each act (K',), and the share of responses with any action.

        The second is a pair: with a negative, and with a positive action. One row of each kind is
        added, so that the value is finite for a signal that never or always fires. "Any action"
        means the acts that bound the reward, if there are such acts.
        """
        weight = np.zeros(self.n_responses)
        weight[responses] = self.sample_weight[responses]
        row_weight = self.per_row(weight)
        acted = row_weight @ np.nan_to_num(self.acts.counts)
        total = acted + row_weight @ np.nan_to_num(self.not_acted())
        observed = self.observations()
        any_rates = []
        for c in (0, 1):
            logged = observed[:, self.shows(c) & self.telling_of_level()].sum(axis=1) > 0
            any_rates.append((weight @ self.fired(c) + 1) / (weight @ logged + 2))
        return (acted + 1) / (total + 2), any_rates


@dataclass(frozen=True)
class KnownSignals:
    """The signals of an earlier fit.

    Attributes
    ----------
    signals : tuple of Signal
    names : array-like of str or None
    """

    signals: tuple
    names: Any = None

    @classmethod
    def of(cls, estimator):
        """Return the signals of a fitted estimator."""
        return cls(estimator.signals_, getattr(estimator, "signal_names_in_", None))


def resolve_signals(signals, names, n_columns):
    """Return the `Signal` of each column of y.

    Parameters
    ----------
    signals : dict, list or None
        Parameter of the estimator.
    names : array of str or None
        Names of the columns of y.
    n_columns : int
    """
    if signals is None:
        return (Action(),) * n_columns
    if isinstance(signals, Mapping):
        if names is None:
            raise ImplicitRMError(
                f"signals is a dict with the keys {list(signals)}, but the columns of y do not "
                "have names. Pass y as a DataFrame, or signals as a list in the order of the "
                "columns. A DataFrame loses its names in scikit-learn's cross_val_predict with "
                "method='predict_proba': pass a list there."
            )
        missing = [name for name in names if name not in signals]
        extra = [name for name in signals if name not in set(names)]
        if missing:
            other = f", and names {extra}, which y does not have" if extra else ""
            raise ImplicitRMError(
                f"signals lacks the columns {missing} of y{other}. Name every column: 'positive', "
                "'negative' or a Signal."
            )
        if extra:
            raise ImplicitRMError(
                f"signals names {extra}, but y has the columns {list(names)}. Correct the names."
            )
        given = [signals[name] for name in names]
    else:
        given = list(signals)
        if len(given) != n_columns:
            raise ImplicitRMError(
                f"signals has {len(given)} entries, but y has {n_columns} columns. Pass one entry "
                "per column, in the order of the columns."
            )
    kinds = {"positive": Action(1), "negative": Action(0)}
    resolved = []
    for position, value in enumerate(given):
        signal = kinds.get(value) if isinstance(value, str) else value
        if not isinstance(signal, Signal):
            where = position if names is None else names[position]
            raise ImplicitRMError(
                f"signals[{where!r}] is {value!r}; expected 'positive', 'negative' or a Signal of "
                "implicitrm_sk.signals. Correct this entry."
            )
        resolved.append(signal)
    return tuple(resolved)


def _encoded(y, signals, resolved, names, name):
    """Return y with labels replaced by numbers, and the settled kinds of signal."""
    given = signals.values() if isinstance(signals, Mapping) else signals or ()
    if y is None or all(
        not isinstance(signal, Signal) or type(signal).encode is Signal.encode for signal in given
    ):
        return y, signals
    table = opened(y)
    one_dimensional = as_frame(table) is None and np.ndim(table) == 1
    if as_frame(table) is None and np.ndim(table) > 2:
        return y, signals
    parts = columns_of(table)
    width = len(parts)
    if resolved:
        check_n_signals(width, len(signals), name)
    else:
        signals = resolve_signals(signals, names, width)
    columns, kinds = [], []
    for k, (part, signal) in enumerate(zip(parts, signals, strict=True)):
        shown = name if width == 1 else in_columns(name, [k if names is None else names[k]])
        kinds.append(signal if resolved else signal.settled(part, shown))
        columns.append(as_float(kinds[-1].encode(part, shown), shown))
    return columns[0] if one_dimensional else np.column_stack(columns), tuple(kinds)


def _check_values(actions, signals, names, name):
    """Let each kind of signal check, and replace, its columns of the actions."""
    shown = list(range(len(signals)) if names is None else names)
    blocks = Measurement(signals).blocks
    for block in blocks:
        columns = list(block.columns)
        of = name if len(blocks) == 1 else in_columns(name, [shown[k] for k in columns])
        actions[:, columns] = block.signal.check(actions[:, columns], of)


def _check_kinds(signals, assumptions, exposures, response_id, name):
    """Raise if a kind of signal cannot be combined with the other arguments."""
    for signal in signals:
        if isinstance(signal, Action):
            signal.check_arguments()
        if is_dispersed(signal) and response_id is not None:
            raise ImplicitRMError(
                f"response_id is not available for the signal {signal!r} of {name}: the exposures "
                "of a response are correlated, whichever row they are in. Sum the actions over the "
                "rows of each response, and pass the number of rows as exposures."
            )
    for what, asked, why, why_of_action in (
        (
            "exposures",
            exposures is not None,
            "neither the number nor the order of its outcomes is modelled",
            "each of its exposures would have a delay of its own",
        ),
        (
            "shared_propensity",
            assumptions.shared_propensity,
            "its logits are not the logits of propensities",
            "one of its logits is not the logit of a propensity",
        ),
    ):
        others = [signal for signal in signals if what not in signal.takes]
        if asked and others:
            cure = "split the column into actions"
            if isinstance(others[0], Action):
                cure = f"leave {'counts' if is_dispersed(others[0]) else 'delay'} out"
                why = why_of_action
            raise ImplicitRMError(
                f"{what} is not available for the signal {others[0]!r} of {name}: {why}. Leave "
                f"{what} out, or {cure}."
            )


def _check_examination(signals, exposures, propensity, name):
    """Raise if rows that nobody looked at cannot be modelled."""
    mute = [signal for signal in signals if signal.silence is None]
    if mute:
        raise ImplicitRMError(
            f"shared_examination=True is not available for the signal {mute[0]!r} of {name}: none "
            "of its values means that users did nothing. Leave the column out, or use "
            "shared_examination=None."
        )
    if exposures is not None and (np.nan_to_num(as_float(exposures, "exposures")) > 1).any():
        raise ImplicitRMError(
            "shared_examination=True is not available with exposures above 1: counts do not "
            "record which signals fired together, which is what identifies the rows that nobody "
            "looked at. Give each exposure a row of its own, with response_id."
        )
    if propensity is not None:
        raise ImplicitRMError(
            "shared_examination=True is not available with propensity. The P(action | preferred) "
            "of an experiment is over all rows; the propensity of this model is over the rows "
            "that were looked at. Leave one of the two out."
        )


def _check_known_propensities(propensity, log):
    known = ~np.isnan(propensity).all(axis=0)
    for name, signal, given in zip(log.signal_names, log.signals, known, strict=True):
        if given and "propensity" not in signal.takes:
            raise ImplicitRMError(
                f"propensity is given for signal {name!r}, which is {signal!r}; expected known "
                "propensities of actions only. Use NaN for this column."
            )


def _with_names(y, known):
    """Return y and the names of its signals, or None; they must agree with the known ones."""
    y = opened(y)
    names = column_names(y)
    names = None if names is None else np.asarray(names, dtype=object)
    if known is None:
        return y, names
    if names is not None and list(names) != list(known):
        raise ImplicitRMError(
            f"the signals are {list(names)}, but the estimator was fitted with {list(known)}. Pass "
            "the same signals in the same order, with NaN where one was not logged."
        )
    return y, np.asarray(known, dtype=object)


def _in_order_of(names, table, what):
    """Return a table with its columns in the order of the signals, if both have names."""
    table = opened(table)
    columns = None if names is None else column_names(table)
    if columns is None or columns == list(names):
        return table
    if sorted(columns) != sorted(names):
        raise ImplicitRMError(
            f"{what} has the columns {columns}, but y has {list(names)}; expected the same names. "
            "Rename them."
        )
    return taken(table, [columns.index(name) for name in names])


def check_user_id(user_id, n_samples):
    """Return user ids as an array; of dtype object unless they are numbers or strings."""
    ids = as_values(user_id)
    if ids.shape != (n_samples,):
        raise ImplicitRMError(
            f"user_id has shape {ids.shape}; expected one user per row of X, ({n_samples},). Pass "
            "the person who acted on each row, NaN or None if not known."
        )
    check_one_form(ids, "user_id")
    return ids


def number_users(user_id, n_samples):
    """Return the number of each row's user, and the ids of the users that have one.

    Parameters
    ----------
    user_id : array-like of shape (n_samples,)
        Hashable ids. A row without an id is a user of its own.
    n_samples : int
    """
    ids = check_user_id(user_id, n_samples)
    known = ~is_missing(ids)
    user = np.empty(n_samples, dtype=np.int64)
    if ids.dtype == object:
        codes: dict[Any, int] = {}
        try:
            user[known] = [codes.setdefault(one, len(codes)) for one in ids[known].tolist()]
        except TypeError as error:
            raise ImplicitRMError(
                f"user_id holds a value that cannot be an id ({error}); expected hashable values: "
                "numbers, strings or tuples. Convert them first."
            ) from error
        users = np.empty(len(codes), dtype=object)
        for one, code in codes.items():
            users[code] = one
    else:
        users, user[known] = np.unique(ids[known], return_inverse=True)
    user[~known] = len(users) + np.arange(np.count_nonzero(~known))
    return user, users


def number_responses(ids):
    """Return the number of each row's response, in order of appearance, and their first rows."""
    _, first, codes = np.unique(ids, return_index=True, return_inverse=True)
    appearance = np.argsort(first)
    return np.argsort(appearance)[codes], first[appearance]


def check_constant(values, response, first, ids, name, rule):
    """Raise unless values (n,) or (n, d) are the same in all rows of a response."""
    differs = values != values[first][response]
    if differs.ndim > 1:
        columns = np.flatnonzero(differs.any(axis=0))
        differs = differs.any(axis=1)
    if not differs.any():
        return
    row = np.flatnonzero(differs)[0]
    where = "" if values.ndim == 1 else f" (position {columns[0]} of the reward columns)"
    raise ImplicitRMError(
        f"{name} differs{where} between rows of one response_id in "
        f"{len(np.unique(response[differs]))} responses. The first is {shown_id(ids[row])} (row "
        f"{row}). {rule}."
    )
