"""The verdict on what a log identifies of the reward, from its settings alone."""

from dataclasses import dataclass, fields, replace

import numpy as np

from ._association import explain
from ._assumptions import MIN_RESPONSES
from ._warnings import in_worker, warn
from .exceptions import IdentificationWarning
from .measurement._action import Action
from .measurement._model import is_dispersed

#: Token of the fits that gave the last IdentificationWarning.
_warned_in = None

IDENTIFIED = "identified"
RANKING_ONLY = "ranking only"
LEVEL_ONLY = "level only"
BOUNDED = "bounded"
#: Assumptions of the model of users who differ in activity, and the activity that identifies.
ACTIVITY = ("activity shifts the logit, whatever users are shown", "users share one taste")
MIN_LOADING, MIN_ROWS_OF_USER, MIN_USERS = 1.4, 15, 200
LOOKED_AT = "every row was looked at"
#: Assumption of a grade beside signals of rows that users may not have looked at.
UNSEEN_GRADES = "rows that nobody looked at have the grades of responses {}preferred"
#: Assumptions of responses that were shown repeatedly, by whether exposures may be correlated.
EXPOSURES = {
    False: "independent exposures of one preference",
    True: "equally correlated exposures of one preference",
}
#: Assumption of the model of rows that nobody looked at.
LOOKING = "looking depends on x, not on the preference"
NOT_IDENTIFIED = "not identified"
#: A level is shown if the 95 % interval of the mean reward reaches at most this far to each side.
WIDEST, Z = 0.15, 1.96
#: A mean contradicts a model if it differs by more than this many standard errors, and by more than
#: this difference.
CONTRADICTS_Z, CONTRADICTS_DIFFERENCE = 3.3, 0.1
#: Start of the finding against a log whose interval is wider.
TOO_SMALL = "this log is too small to show the level of the reward"


@dataclass(frozen=True)
class Evidence:
    """Numbers of responses with each kind of information; ``+`` adds batches."""

    n_responses: int = 0
    n_acted: int = 0
    n_several_signals: int = 0
    n_three_signals: int = 0
    n_repeated: int = 0
    n_labels: int = 0
    n_labels_telling: int = 0
    n_known_propensity: int = 0
    n_both: int = 0
    n_two_positive: int = 0
    n_two_negative: int = 0
    n_determined: int = 0
    n_ranked: int = 0
    n_labels_selected: int = 0
    n_labels_alike: int = 0

    @property
    def shown_twice(self):
        """The preferences, 0 and 1, that enough responses have two logged signals for."""
        counts = self.n_two_negative, self.n_two_positive
        return tuple(c for c in (0, 1) if counts[c] >= MIN_RESPONSES)

    def __add__(self, other):
        return Evidence(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Evidence)))

    @classmethod
    def of(cls, log, false_action_rate, telling=True):
        """Count the responses of a log, without those of zero weight.

        `false_action_rate`, of shape (K,), is NaN where it is to be estimated. It decides which
        actions prove preference: a label then carries no more information. `telling`, of shape
        (K',), marks the acts that count as several or as repeated.
        """
        counted = log.sample_weight > 0
        logged = log.observations()
        per_signal = logged * (log.acts.bounds & telling)
        n_negative, n_positive = ((per_signal[:, log.shows(c)] > 0).sum(axis=1) for c in (0, 1))
        # The outcomes of a widget are several acts of one signal.
        n_signals = sum(
            (per_signal[:, log.acts.column == k] > 0).any(axis=1).astype(int)
            for k in np.unique(log.acts.column)
        )
        labelled = np.zeros(log.n_responses, dtype=bool)
        if log.labels is not None:
            labelled = ~np.isnan(log.labels)
        known = np.zeros(log.n_responses)
        if log.propensity is not None:
            known = log.per_response((~np.isnan(log.propensity) & log.logged()).any(axis=1))
        preferred, not_preferred = log.proved(false_action_rate)
        proved = preferred | not_preferred
        selected = log.labels_selected(proved)
        labels_tell = labelled & ~proved
        known_labels = log.labels[labels_tell & counted] if labels_tell.any() else np.zeros(0)
        # Labels of one class say nothing of the other, and are seldom those of random responses.
        alike = len(known_labels) > 0 and np.ptp(known_labels) == 0
        kinds = np.array([signal.identifies for signal in log.signals])[log.acts.column]
        determined, ranked = (
            logged[:, (kinds == level) & telling].any(axis=1)
            for level in (IDENTIFIED, RANKING_ONLY)
        )
        return cls(
            *(
                int(np.count_nonzero(counted & kind))
                for kind in (
                    logged.any(axis=1) | labelled,
                    log.fired(),
                    n_signals >= 2,
                    n_signals >= 3,
                    (per_signal >= log.least_exposures()).any(axis=1),
                    labelled,
                    labels_tell & (not selected and not alike),
                    known > 0,
                    (n_positive > 0) & (n_negative > 0),
                    n_positive >= 2,
                    n_negative >= 2,
                    determined,
                    ranked,
                    labels_tell & selected,
                    labels_tell & (not selected and alike),
                )
            )
        )


@dataclass(frozen=True)
class Identification:
    """The verdict on what the settings of a fit identify about the reward.

    Attributes
    ----------
    level : {"identified", "ranking only", "level only", "bounded", "not identified"}
        The part of the reward that any amount of such data identifies. In this order: all of it,
        its order, its mean, an interval at each row, or nothing.
    assumptions : tuple of str
        The assumptions of the verdict.
    reason : str
        The reason for the level.
    advice : tuple of str
        The next things to log or to pass to `fit`.
    swap_symmetric : bool
        Whether reward and propensity could be exchanged without changing the fit. Both sides then
        have equal weight in the fitted mixture.
    against : str
        The findings of tests against the assumptions, which the reason repeats; empty without any.
    """

    level: str
    assumptions: tuple = ()
    reason: str = ""
    advice: tuple = ()
    swap_symmetric: bool = False
    against: str = ""

    def __str__(self):
        if not self.assumptions:
            return self.level
        return f"{self.level} (assuming {', '.join(self.assumptions)})"


ADVICE = {
    "signals": (
        "Log a second kind of positive action of the same user on the same response (copy, share "
        "...). Two identify the reward if they fire independently and every row was looked at."
    ),
    "several": (
        "Use objective='stratified', which learns from each signal of this log. This objective "
        "sees only whether any of them fired."
    ),
    "negative": (
        "Log a negative action (regenerate, thumbs down, report) and name it in signals="
        "{'column': 'negative'}: with a positive one it bounds the reward from both sides."
    ),
    "positive": (
        "Log a positive action (copy, share, thumbs up) beside the negative one: together they "
        "bound the reward from both sides."
    ),
    "examined": (
        "If users looked at every row of the log, state it: shared_examination=False. Signals of "
        "rows that nobody looked at are silent together, which looks like dislike."
    ),
    "attention": (
        "If some rows may not have been looked at, set shared_examination=True: two signals of "
        "each polarity determine the reward then too."
    ),
    "unseen": (
        "Signals of a row are silent together too often. If users may not have looked at every "
        "row, set shared_examination=True, which fits this log better."
    ),
    "second": (
        "Log {} of {} action: two of each polarity determine the reward also where some rows were "
        "not looked at."
    ),
    "plain": (
        "Leave shared_examination=True out here. With fewer than two signals of each polarity the "
        "plain model fits as well, so the split of attention and dislike is a convention."
    ),
    "signs": (
        "Check the signals named in the reason. Name negative ones in signals=, pass the outcomes "
        "of one widget as a Choice, and use NaN where a signal was not offered."
    ),
    "dependent": (
        "Keep one of the signals that the reason names. The model takes them as independent given "
        "preference, so both together move the reward."
    ),
    "third": (
        "Log a third kind of action of one sign. With two, only negative association can be tested."
    ),
    "labels": (
        "Ask for explicit labels on a few hundred randomly chosen responses, acted on or not, and "
        "pass them as labels=."
    ),
    "exclusion": (
        "If columns that say nothing about the response (user, position, scenario) drive how "
        "readily users act, name them in propensity_features."
    ),
    "level": (
        "The level needs the overall preference rate (preference_rate=), labels, or contexts in "
        "which acting is near certain."
    ),
    "reaction": (
        "The level needs the overall preference rate (preference_rate=), or rows in which users "
        "chose nothing (given_reaction=False), which bound it."
    ),
    "selected": (
        "Thumbs and ratings that users give by their own choice are not labels. Pass them as "
        "signals (a Choice, or a positive and a negative action). If you chose by X and y which "
        "responses to ask about, set label_mechanism='asked'."
    ),
    "rates": ("Correct the rate that the log contradicts: the reason says which."),
    "false actions": (
        "Set the false_action_rate of the signal that the reason names, or "
        "false_action_rate='estimate'. Leave the signal out if users act for other reasons than "
        "what they think of the response."
    ),
    "dispersion": (
        "Exposures of one response should be independent given its preference. Ask for labels on "
        "some random responses, and calibrate the reward by them."
    ),
    "dispersed": (
        "Exposures of one response are not independent given its preference. Name the counts in "
        "signals= as Action(counts='beta-binomial'), which estimates their correlation. Rows of "
        "one response_id have to be summed to counts, with exposures=."
    ),
    "everything": (
        "Look at the most active users. Programs and tests act on everything: leave such users "
        "out and fit again."
    ),
    "exposures": (
        "Check how exposures were counted: joins count rows twice, and some products allow one "
        "action per response. Pass such a response as one row, without exposures."
    ),
    "offered": (
        "Use NaN where a signal was not offered or not logged. 0 means that users could take the "
        "action and did not."
    ),
    "propensities": "Check propensity= against the experiment that it comes from, or leave it out.",
    "calibrate": (
        "Leave the labels out of fit and calibrate the fitted reward by them: a LogisticRegression "
        "of the labels on decision_function(X)."
    ),
    "more": (
        "Collect more rows, or add another kind of information: one more action, or labels of "
        "random responses."
    ),
    "idle": (
        "Rows of inactive users are silent together too. If the log has user ids, pass user_id= "
        "first: rows that nobody looked at then remain."
    ),
    "users": (
        "If some users are active in everything, pass user_id= or put session columns into "
        "propensity_features: what such users do is not independent otherwise."
    ),
}


def assess(
    evidence,
    *,
    objective,
    columns="same",
    preference_rate=None,
    false_actions="none",
    label_mechanism="random",
    linear=False,
    n_signals=1,
    signals=(),
    examined=None,
    shared_propensity=False,
):
    """Return the `Identification` that follows from settings and counts.

    Parameters
    ----------
    evidence : Evidence
    objective : Objective
    columns : {"same", "disjoint", "overlapping"}
        See `HeadColumns.relation`.
    preference_rate : tuple of two float or None
    false_actions : {"none", "given", "estimated"}
    label_mechanism : {"random", "asked", "acted"}
    linear : bool
        Both heads are logistic.
    n_signals : int
    signals : tuple of Signal
        Empty if all of them are actions.
    examined : bool or None
        Whether every row was looked at; None is not known; False: those that were not are modelled.
    shared_propensity : bool
        Whether signals of both polarities are ready in a constant ratio.
    """
    if objective.identifies is not None:
        return _assess_by_assumption(evidence, objective, n_signals)
    if not objective.models_propensity:
        return Identification(
            NOT_IDENTIFIED,
            reason=(
                f"{type(objective).__name__} has no propensity: what it calls reward is the "
                "probability of an action."
            ),
            advice=("Use objective='stratified'.",),
        )
    correlated = len(signals) > 0 and all(is_dispersed(signal) for signal in signals)
    ways, reasons, advice = _assess_log(
        evidence, false_actions, label_mechanism, examined, signals, correlated
    )
    ways += _assumptions_of(signals, IDENTIFIED, evidence.n_determined)
    given_reaction = _assumptions_of(signals, RANKING_ONLY, evidence.n_ranked)
    exact_rate = preference_rate is not None and preference_rate[0] == preference_rate[1]
    ranking = _assess_ranking(evidence, columns, shared_propensity, correlated)
    if given_reaction:
        # What else identifies is about all responses, and may disagree by the ratio.
        ways += given_reaction
        reasons.append(f"{evidence.n_ranked} responses enter by what users chose, not by whether")
        level = IDENTIFIED if exact_rate else RANKING_ONLY
        advice += [] if exact_rate else [ADVICE["reaction"]]
    elif ways:
        level = IDENTIFIED
        ways = [EXPOSURES[True], *ways] if correlated else ways
    elif ranking is not None:
        ways, reasons = [ranking[0]], [*reasons, ranking[1]]
        level = IDENTIFIED if exact_rate else RANKING_ONLY
        if not exact_rate:
            advice += [ADVICE["level"]] if correlated else [ADVICE["level"], ADVICE["signals"]]
    else:
        level, more, further = _assess_bounds(
            evidence, columns, linear, n_signals, examined, signals
        )
        reasons += more
        advice += further
        if level == BOUNDED and evidence.shown_twice:
            ways.append("independent signals of rows that were looked at")
        if level == NOT_IDENTIFIED and preference_rate is not None:
            level = LEVEL_ONLY
    if preference_rate is not None:
        lower, upper = preference_rate
        shown = f"{lower:g}" if exact_rate else f"[{lower:g}, {upper:g}]"
        if level == LEVEL_ONLY or exact_rate:
            ways.append(f"the preference rate {'is' if exact_rate else 'is in'} {shown}")
        reasons.append(f"the mean reward is held {'at' if exact_rate else 'in'} {shown}")
    ways += _assumptions_of_views(signals, ways, level, evidence.shown_twice)
    if false_actions != "none" and level == IDENTIFIED:
        ways.append(
            "the false-action rate given"
            if false_actions == "given"
            else "constant false-action rates"
        )
    return Identification(
        level,
        tuple(ways),
        "; ".join(reasons) + ".",
        tuple(advice),
        swap_symmetric=(
            level == NOT_IDENTIFIED
            and columns == "same"
            and evidence.n_labels_telling == evidence.n_labels_selected == 0
            and evidence.n_labels_alike == 0
            and evidence.n_known_propensity == 0
            and evidence.n_repeated == 0
            and not any(is_dispersed(signal) for signal in signals)
            and objective.swap_symmetric(n_signals)
            and examined is not False
            and all(isinstance(signal, Action) for signal in signals)
        ),
    )


def _assumptions_of(signals, level, n_responses):
    """Return the assumptions of the kinds that determine so much by themselves."""
    if n_responses < MIN_RESPONSES:
        return []
    return list(dict.fromkeys(s.assumption for s in signals if s.identifies == level))


def _assumptions_of_views(signals, ways, level, shown_twice):
    """Return the assumptions under which kinds that identify nothing do not mislead the others.

    Bounds by single actions do not need any of them. They follow from the shares of actions, which
    the model fits independently of grades.
    """
    views = [s.assumption for s in signals if s.identifies is None and not s.bounds]
    if not views or not ways or level in (NOT_IDENTIFIED, LEVEL_ONLY):
        return []
    if level == BOUNDED and len(shown_twice) == 1:
        views.append(UNSEEN_GRADES.format("not " if shown_twice == (1,) else ""))
    return list(dict.fromkeys(filter(None, views)))


def _assess_log(evidence, false_actions, label_mechanism, examined, signals, correlated):
    """Return what in the log identifies the reward: assumptions, reasons and advice."""
    ways, reasons, advice = [], [], []
    if evidence.shown_twice and examined and not correlated:
        ways += ["independent signals", LOOKED_AT]
        reasons.append(f"{evidence.n_several_signals} responses have several logged signals")
        advice.append(ADVICE["users"])
        if evidence.n_three_signals < MIN_RESPONSES:
            advice.insert(0, ADVICE["third"])
    elif evidence.shown_twice == (0, 1) and examined is False:
        ways += ["independent signals of rows that were looked at", LOOKING]
        reasons.append(
            f"{evidence.n_two_positive} responses have two positive and "
            f"{evidence.n_two_negative} two negative signals, which determine who looked too"
        )
        advice.append(ADVICE["users"])
    if evidence.n_repeated >= MIN_RESPONSES and not correlated:
        ways += [EXPOSURES[kind] for kind in sorted({is_dispersed(s) for s in signals} or {False})]
        reasons.append(f"{evidence.n_repeated} responses were shown repeatedly")
    n_telling = evidence.n_labels_telling
    if label_mechanism == "asked":
        n_telling += evidence.n_labels_selected  # by whoever asked, not by what users think
    if label_mechanism == "acted":
        n_telling += evidence.n_labels_alike  # the other class is that of a false action
    labels_tell = n_telling >= MIN_RESPONSES
    if labels_tell and label_mechanism != "acted":
        ways.append("labels missing at random")
        reasons.append(f"{n_telling} responses are labelled")
    elif labels_tell and false_actions != "estimated":
        ways.append("labels of acted rows missing at random")
        reasons.append(f"{n_telling} acted responses are labelled")
    n_useless = evidence.n_labels - evidence.n_labels_telling - evidence.n_labels_selected
    n_useless -= evidence.n_labels_alike
    if evidence.n_labels_alike and label_mechanism != "acted":
        reasons.append(
            f"{evidence.n_labels_alike} labels are not counted: all of those that the actions "
            "leave open are equal, and labels of one class say nothing of the other"
        )
        advice.append(ADVICE["labels"])
    if n_useless:
        reasons.append(
            f"{n_useless} of {evidence.n_labels} labels add nothing, because actions prove the "
            "preference of their responses"
        )
    if evidence.n_labels_selected >= MIN_RESPONSES and label_mechanism == "random":
        reasons.append(
            f"{evidence.n_labels_selected} labels are not counted: which responses have one "
            "depends on what users did"
        )
        advice.append(ADVICE["selected"])
    if evidence.n_determined >= MIN_RESPONSES:
        reasons.append(
            f"{evidence.n_determined} responses have a signal that determines it by itself"
        )
    if evidence.n_known_propensity >= MIN_RESPONSES:
        ways.append("the propensities given")
        reasons.append(f"the propensity of {evidence.n_known_propensity} responses is known")
    return ways, reasons, advice


def _assess_ranking(evidence, columns, shared_propensity, correlated):
    """Return the assumption that identifies the order of the reward, and the reason, or None."""
    if correlated and evidence.n_repeated >= MIN_RESPONSES:
        return (
            EXPOSURES[True],
            f"{evidence.n_repeated} responses were shown repeatedly, and a correlation of their "
            "exposures explains much of what the level would",
        )
    if columns == "disjoint":
        return (
            "the reward depends on its columns only, the propensity on its own",
            "reward and propensity read different columns, which determines the reward up to a "
            "factor",
        )
    if shared_propensity and evidence.n_both >= MIN_RESPONSES:
        return (
            "readiness for positive and negative actions in a constant ratio",
            f"{evidence.n_both} responses have signals of both polarities, whose propensities "
            "differ by a factor only",
        )
    return None


def _assess_bounds(evidence, columns, linear, n_signals, examined, signals):
    """Return level, reasons and advice if neither the reward nor its order is identified."""
    advice = [ADVICE["labels"], ADVICE["exclusion"]]
    if evidence.n_both >= MIN_RESPONSES or evidence.shown_twice:
        reasons = []
        if evidence.n_both >= MIN_RESPONSES:
            which, act = "have signals of both polarities", "action"
            if n_signals == 1:
                which, act = "were offered a widget that shows both preferences", "outcome"
            reasons.append(
                f"{evidence.n_both} responses {which}: the reward lies between P(positive {act}) "
                f"and 1 - P(negative {act})"
            )
        if evidence.shown_twice:
            reasons.append(
                f"{evidence.n_several_signals} responses have several logged signals, but rows "
                "that nobody looked at would leave them silent together"
            )
        more = _advice_on_attention(evidence, examined)
        if evidence.shown_twice:
            return BOUNDED, reasons, [*more, *advice]
        return BOUNDED, reasons, [*more, ADVICE["signals"], *advice]
    more = _advice_on_attention(evidence, examined)
    return (
        NOT_IDENTIFIED,
        _what_is_missing(evidence, columns, linear, n_signals, signals),
        [*more, ADVICE["signals"], ADVICE["negative"], *advice],
    )


def _advice_on_attention(evidence, examined):
    """Return what to state or log if rows that nobody looked at leave the reward open."""
    advice, shown_twice = [], evidence.shown_twice
    if examined is False:
        advice.append(ADVICE["plain"])
    if shown_twice:
        advice.append(ADVICE["examined"])
    if len(shown_twice) == 1:
        kinds = "a second kind" if evidence.n_both >= MIN_RESPONSES else "two kinds"
        missing = "negative" if shown_twice == (1,) else "positive"
        advice.append(ADVICE["second"].format(kinds, missing))
    elif shown_twice:
        advice.append(ADVICE["attention"])
    return advice


def _what_is_missing(evidence, columns, linear, n_signals, signals):
    """Return the reason why the reward is not identified."""
    reasons = []
    if signals and not any(s.bounds or s.identifies for s in signals):
        reasons.append(
            "grades alone determine neither the reward nor its bounds: how much of their spread is "
            "preference is open"
        )
    elif n_signals == 1:
        reasons.append("one signal determines only the product of reward and propensity")
    elif sum(s.bounds or bool(s.identifies) for s in signals) == 1:
        reasons.append(
            "one action determines only the product of reward and propensity, and a grade beside "
            "it narrows no bound"
        )
    else:
        reasons.append(
            f"only {evidence.n_several_signals} responses have two signals logged together that "
            "count. Constant signals, copies and steps of one action do not count. Nor do actions "
            "on most rows that would each prove preference, or signals of a sign that hardly "
            "happen together"
        )
    if columns == "overlapping":
        reasons.append("the columns that both heads read can be traded between them")
    if linear:
        reasons.append(
            "linear heads on the same columns would be determined up to the swap R <-> A"
        )
    telling = evidence.n_labels_telling + evidence.n_labels_selected + evidence.n_labels_alike
    if evidence.n_labels and telling < MIN_RESPONSES:
        reasons.append(f"{telling} labels that add something are too few")
    return reasons


def _assess_by_assumption(evidence, objective, n_signals):
    """Return the `Identification` of an objective that is not a likelihood."""
    name = type(objective).__name__
    if "propensity" in objective.uses and evidence.n_known_propensity < evidence.n_responses:
        return Identification(
            NOT_IDENTIFIED,
            reason=(
                f"{name} was given the propensity of {evidence.n_known_propensity} of "
                f"{evidence.n_responses} responses; that of the others is a convention, the "
                "relative popularity of the response."
            ),
            advice=("Pass propensity=, or log more: see objective='stratified'.",),
        )
    return Identification(
        objective.identifies,
        (objective.assumption,),
        f"{name} relies on its assumption, which the log does not test.",
        (ADVICE["signals"] if n_signals == 1 else ADVICE["several"], ADVICE["labels"]),
    )


def with_activity(found, loading, n_rows, looked_at):
    """Return an `Identification` that includes users who differ in activity.

    Users who act on all responses that they like show the reward. There are such users only if
    activity varies widely, and they are recognised only by many rows. The most active user does
    not act on a response that nobody looked at.

    Parameters
    ----------
    found : Identification
    loading : ndarray of shape (signals,)
        How far one standard deviation of activity shifts the logits; all 0 if users do not differ.
    n_rows : ndarray of int of shape (users,)
    looked_at : bool
        Whether it is stated that every row was looked at.
    """
    if found.against:
        return found
    largest, rows = float(np.max(loading)), float(np.median(n_rows)) if len(n_rows) else 0.0
    # Users are known, whether or not they differ.
    found = replace(found, advice=tuple(a for a in found.advice if a != ADVICE["users"]))
    if largest == 0:
        text = "held-out rows do not show that users differ in activity"
        return replace(found, reason=f"{found.reason[:-1]}; {text}.")
    text = (
        f"{len(n_rows)} users of {rows:g} rows (median) differ in activity by a standard deviation "
        f"of {largest:.1f} logits"
    )
    known = {"swap_symmetric": False, "reason": f"{found.reason[:-1]}; {text}."}
    with_users = (*found.assumptions, *ACTIVITY)
    if found.level == IDENTIFIED:
        # Given their activity, signals and exposures are independent, if the model is right.
        independent = ("independent signals", *EXPOSURES.values())
        if any(each.startswith(independent) for each in found.assumptions):
            known["assumptions"] = with_users
        return replace(found, **known)
    missing = [
        f"at least {least:g} {what}, not {number:g}"
        for number, least, what in (
            (len(n_rows), MIN_USERS, "users"),
            (rows, MIN_ROWS_OF_USER, "rows of a user"),
            (round(largest, 2), MIN_LOADING, "logits between users"),
        )
        if number < least
    ]
    if missing:
        known["reason"] = (
            f"{known['reason'][:-1]}, which is too little to determine the reward: it takes "
            f"{', '.join(missing)}."
        )
        return replace(found, **known)
    if not looked_at:
        known["reason"] = (
            f"{known['reason'][:-1]}. Very active users show what is preferred and looked at, but "
            "rows that nobody looked at leave them silent too."
        )
        known["advice"] = tuple(dict.fromkeys((ADVICE["examined"], *found.advice)))
        return replace(found, **known)
    with_users += () if LOOKED_AT in with_users else (LOOKED_AT,)
    return replace(found, level=IDENTIFIED, assumptions=with_users, advice=(), **known)


def before_activity(found, n_rows, looked_at):
    """Return an `Identification` before a fit with users, with what they may add to it.

    `with_activity` decides it after the fit, because only a fit knows how far users differ.

    Parameters
    ----------
    found, n_rows, looked_at
        As in `with_activity`.
    """
    if found.against:
        return found
    found = replace(found, advice=tuple(a for a in found.advice if a != ADVICE["users"]))
    if found.level == IDENTIFIED:
        text = f"If users differ in activity, fit also assumes that {' and that '.join(ACTIVITY)}"
        return replace(found, reason=f"{found.reason} {text}.")
    rows = float(np.median(n_rows)) if len(n_rows) else 0.0
    few = [
        f"too few {what}"
        for number, least, what in (
            (len(n_rows), MIN_USERS, "users"),
            (rows, MIN_ROWS_OF_USER, "rows of a user"),
        )
        if number < least
    ]
    stated = "is stated here" if looked_at else "is not stated here"
    text = (
        "Users who differ in activity identify it if three things hold. There are at least "
        f"{MIN_USERS} users with a median of at least {MIN_ROWS_OF_USER} rows. Fit finds that one "
        f"standard deviation of activity shifts the logits by at least {MIN_LOADING}. And every "
        f"row was looked at (shared_examination=False), which {stated}. This log has "
        f"{len(n_rows):,} users of {rows:g} rows (median): "
        f"{' and '.join(few) or 'enough users and rows'}"
    )
    return replace(found, reason=f"{found.reason} {text}.")


def contradicted(found, against, advice):
    """Return an `Identification` that the data contradict.

    Parameters
    ----------
    found : Identification
    against : str
        The contradiction, in words.
    advice : str
        A key of `ADVICE`.
    """
    return replace(
        found,
        level=NOT_IDENTIFIED,
        assumptions=(),
        reason=f"{found.reason} But {against}.",
        advice=tuple(dict.fromkeys((ADVICE[advice], *found.advice))),
        against=f"{found.against}; {against}" if found.against else against,
    )


def dependent(found, against):
    """Return an `Identification` of a log whose signals are plainly not independent.

    A mean that is given stays as it is, and so do bounds. But users who differ in activity do not
    identify more of a log that the model does not fit.

    Parameters
    ----------
    found : Identification
    against : str
        Which signals depend on each other, in words.
    """
    lower = contradicted(found, against, "dependent")
    if found.level in (BOUNDED, LEVEL_ONLY):
        return replace(lower, level=found.level, assumptions=found.assumptions)
    return lower


def imprecise(found, error):
    """Return an `Identification`, which does not hold if the log hardly shows the level.

    Parameters
    ----------
    found : Identification
    error : float
        Standard error of the mean reward.
    """
    if found.level != IDENTIFIED or Z * error <= WIDEST:
        return found
    return contradicted(found, f"{TOO_SMALL}: its mean has a standard error of {error:.2f}", "more")


def unseen(found, against, knows_users):
    """Return an `Identification` where a log shows that some rows were not looked at.

    Parameters
    ----------
    found : Identification
    against : str
        The finding, in words.
    knows_users : bool
        Whether users were given. Rows of inactive users are silent too.
    """
    if LOOKED_AT in found.assumptions:
        found = contradicted(found, against, "unseen")
    stated = (ADVICE["examined"], ADVICE["attention"])
    rest = [one for one in found.advice if one not in stated]
    users = () if knows_users else (ADVICE["idle"],)
    return replace(found, advice=tuple(dict.fromkeys((*users, ADVICE["unseen"], *rest))))


def contradicted_rate(found, level):
    """Return an `Identification`, which does not hold if the log contradicts the preference rate.

    Parameters
    ----------
    found : Identification
    level : Level
        The level of a fit whose mean reward is the rate, or lies in the interval of rates.
    """
    limit = max(CONTRADICTS_Z * level.error, CONTRADICTS_DIFFERENCE)
    if found.level != IDENTIFIED or abs(level.mean - level.fitted) <= limit:
        return found
    # A fit with a wrong mean shows on which side the right one is, and not where.
    against = (
        f"preference_rate makes the mean reward {level.fitted:.2f}, but the log shows a "
        f"{'lower' if level.mean < level.fitted else 'higher'} one, by "
        f"{abs(level.mean - level.fitted) / level.error:.1f} standard errors"
    )
    return contradicted(found, against, "rates")


def contradicted_signs(found, associations):
    """Return an `Identification` whose signals contradict their signs.

    Parameters
    ----------
    found : Identification
    associations : list of Association
        All pairs. At least one contradicts its signs.
    """
    return contradicted(
        found, f"the signals contradict their signs: {explain(associations)}", "signs"
    )


def warn_not_identified(found, objective, token=None, *, in_search=False):
    """Warn that the reward is not identified, once for all fits that belong together.

    Parameters
    ----------
    found : Identification
    objective : Objective
    token : object or None
        Shared object of these fits; None for a single fit.
    in_search : bool
        Whether a search or pipeline fits. Its workers share nothing but the refit in the main
        process, which gives the warning for them.
    """
    global _warned_in
    if found.level != NOT_IDENTIFIED or not objective.models_propensity:
        return
    if in_search and in_worker():
        return
    if token is not None and token == _warned_in:
        return
    _warned_in = token
    cure = "More rows do not help; other kinds of information do"
    if ADVICE["more"] in found.advice:
        cure = "More rows help, and so do other kinds of information"
    warn(
        f"the reward is not identified: {found.reason} Its value is then a convention. {cure} "
        "(identification_.advice). To silence this: "
        "warnings.filterwarnings('ignore', category=implicitrm_sk.IdentificationWarning).",
        IdentificationWarning,
    )
