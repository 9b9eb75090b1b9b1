"""Checks of `labels`: values, one per response, and agreement with the actions."""

from dataclasses import replace

import numpy as np

from ._assumptions import MIN_RESPONSES
from ._validation import as_float, shown_id
from ._warnings import warn
from .exceptions import ImplicitRMError

#: Significance level below which labels on acted rows are not missing at random.
CHANCE = 1e-6
#: The same level in standard errors.
Z_OF_CHANCE = 4.9
#: Labels are not missing at random if acted responses have them this many times as often as others,
#: or the reverse.
SELECTED = 2.0
RATERS = (
    "Raters may disagree with users: leave their labels out of fit then, and calibrate the fitted "
    "reward by them."
)
THUMBS = (
    "Thumbs and ratings that users give by their own choice are signals. Pass them as a column of "
    "y, described by a Choice in signals="
)
CHOSEN = (
    "If you chose by X and y which responses to ask about, as label_queue does, set "
    "label_mechanism='asked'"
)


def check_label_values(labels, n_samples):
    """Return labels of shape (n,) in [0, 1] or NaN, or None where none is known."""
    labels = as_float(labels, "labels")
    if labels.shape != (n_samples,):
        raise ImplicitRMError(
            f"labels has shape {labels.shape}; expected one label per row of X, ({n_samples},). "
            "Use NaN where the label is not known."
        )
    bad = ~np.isnan(labels) & ~((labels >= 0) & (labels <= 1))
    if bad.any():
        raise ImplicitRMError(
            "labels must lie in [0, 1] (1 preferred, 0 not, graded in between), NaN where "
            f"unknown, but {bad.sum()} value(s) lie outside, e.g. {labels[bad][0]:g}. Rescale "
            "ratings first."
        )
    return None if np.isnan(labels).all() else labels


def shared_label(labels, response, first, ids):
    """Return the label of each response; all its labelled rows must agree."""
    labelled = np.flatnonzero(~np.isnan(labels))
    label = np.full(len(first), np.nan)
    label[response[labelled]] = labels[labelled]
    conflict = labelled[label[response[labelled]] != labels[labelled]]
    if len(conflict):
        raise ImplicitRMError(
            "labels differ between rows of one response_id in "
            f"{len(np.unique(response[conflict]))} responses; the first is "
            f"{shown_id(ids[conflict[0]])}. Rows of one id share one preference. Average their "
            "labels to a graded one, or give rows of different users different ids."
        )
    return label


def check_labels(log, false_action_rate, label_mechanism):
    """Return the log with labels that agree with what the actions prove."""
    preferred, not_preferred = log.proved(false_action_rate)
    if (preferred & not_preferred).any():
        raise ImplicitRMError(
            f"Contradiction in {(preferred & not_preferred).sum()} responses: an action proves "
            "that they are preferred (false_action_rate=0), but an action with propensity=1 is "
            "missing, which proves the opposite. Check propensity, or set false_action_rate > 0."
        )
    label = log.labels
    if label is None:
        return log
    kind = "a positive" if log.can_show(0) else "an"
    proved = {c: log.fired(c) & (log.sample_weight > 0) for c in (0, 1)}
    for wrong, what, cure in (
        (
            preferred & (label == 0) & proved[1],
            f"labels are 0 on {{}} responses that have {kind} action",
            "with false_action_rate=0 an action proves preference. Correct the labels, or set "
            f"false_action_rate if misclicks happen. {RATERS} {THUMBS}",
        ),
        (
            not_preferred & (label == 1) & proved[0],
            "labels are 1 on {} responses that have a negative action",
            "with false_action_rate=0 it proves that they are not preferred. Correct the labels, "
            f"or set false_action_rate if misclicks happen. {RATERS} {THUMBS}",
        ),
        (
            not_preferred & (label == 1) & ~proved[0],
            "labels are 1 on {} responses without an action whose propensity is given as 1",
            "a preferred response would have it. Correct the labels or propensity",
        ),
        (
            preferred & (label == 0) & ~proved[1],
            "labels are 0 on {} responses without a negative action whose propensity is given as 1",
            "a response that is not preferred would have it. Correct the labels or propensity",
        ),
    ):
        if wrong.any():
            raise ImplicitRMError(f"{what.format(wrong.sum())}: {cure}.")
    graded = (label > 0) & (label < 1) & (preferred | not_preferred)
    if graded.any():
        warn(
            f"{graded.sum()} graded labels were replaced by the preference that the actions prove: "
            "with false_action_rate=0, a response that has an action is preferred, 1.",
        )
        label = np.where(graded, preferred.astype(float), label)
    _check_label_mechanism(log, label, false_action_rate, label_mechanism)
    if label_mechanism == "random":
        _warn_of_selected(log, preferred | not_preferred)
    return replace(log, labels=label)


def _warn_of_selected(log, proved):
    """Warn of labels that users chose to give."""
    labelled = ~np.isnan(log.labels) & (log.sample_weight > 0)
    if labelled.sum() < MIN_RESPONSES or not log.labels_selected(proved):
        return
    acted, others = (
        (labelled & kind).sum() / max(kind.sum(), 1) for kind in (log.fired(), ~log.fired())
    )
    warn(
        f"labels are known of {acted:.1%} of the responses with an action, and of {others:.1%} of "
        "the others. Which responses have one depends on what users did, so the verdict does not "
        f"count them. {THUMBS}. {CHOSEN}."
    )


def _check_label_mechanism(log, label, false_action_rate, label_mechanism):
    counted = log.sample_weight > 0
    labelled, acted = ~np.isnan(label) & counted, log.fired() & counted
    passive_labels = label[labelled & ~acted]
    if label_mechanism == "acted":
        if len(passive_labels):
            raise ImplicitRMError(
                "label_mechanism='acted' means that only acted responses have labels, but "
                f"{len(passive_labels)} without any action have one. Use label_mechanism='random' "
                "if these were chosen without regard to preference. If not, leave them out."
            )
        if not false_action_rate.any():
            raise ImplicitRMError(
                "labels of acted responses carry no information while false_action_rate is 0: "
                "every one of them is preferred by assumption. Set false_action_rate, or label "
                "responses without an action too (label_mechanism='random')."
            )
        return
    share = acted.sum() / max(counted.sum(), 1)
    if len(passive_labels) == 0 and share ** labelled.sum() < CHANCE:
        raise ImplicitRMError(
            f"all {labelled.sum()} labels lie on responses with an action, but {1 - share:.0%} of "
            "all responses do not have one: these labels are not missing at random. Label "
            "responses without an action too. Or set label_mechanism='acted', which needs a "
            "false_action_rate above 0."
        )
    if len(passive_labels) < MIN_RESPONSES:
        return
    for value, advice in (
        (
            1,
            "a button that only people who like the response press is a signal, not a label. Pass "
            "it as a column of y",
        ),
        (0, "complaints alone do not represent all responses. Label randomly chosen responses"),
    ):
        if (passive_labels == value).all():
            warn(
                f"all {len(passive_labels)} labels of responses without an action are {value}. "
                f"Labels must not be chosen by their value: {advice}.",
            )


def selected_by_action(log, proved):
    """Return whether acted responses are labelled more or less often than others, beyond chance.

    `proved`, of shape (responses,), says whose preference actions prove. Labels of none of these
    were asked for where they add something.
    """
    counted = log.sample_weight > 0
    labelled, acted = ~np.isnan(log.labels) & counted, log.fired() & counted
    if proved.any() and not (labelled & proved).any():
        return False
    return _differ(labelled, acted, counted & ~acted) is not None


def warn_of_selected_by_reward(log, proved, reward_logit):
    """Warn of labels that are known much more often of responses with a high or low fitted reward.

    The likelihood allows this for labels that were asked for by X and y. But whether users give
    thumbs of their own choice often depends on what they think of the response. Labels of none of
    the responses that `proved` holds were asked for where they add something.

    Parameters
    ----------
    log : FeedbackLog
    proved : ndarray of bool of shape (responses,)
    reward_logit : ndarray of shape (responses,)
    """
    counted = log.sample_weight > 0
    labelled = ~np.isnan(log.labels) & counted
    is_asked = proved.any() and not (labelled & proved).any()
    if is_asked or labelled.sum() < MIN_RESPONSES or log.labels_selected(proved):
        return
    high = reward_logit > np.median(reward_logit[counted])
    shares = _differ(labelled, counted & high, counted & ~high)
    if shares is not None:
        warn(
            f"labels are known of {shares[0]:.1%} of the responses whose fitted reward is above "
            f"the median, and of {shares[1]:.1%} of the others. {THUMBS}. {CHOSEN}.",
        )


def _differ(labelled, ones, others):
    """Return the labelled shares of two parts if they differ twofold and beyond chance, or None."""
    sizes = np.array([ones.sum(), others.sum()])
    if not sizes.all():
        return None
    shares = np.array([(labelled & ones).sum(), (labelled & others).sum()]) / sizes
    pooled = shares @ sizes / sizes.sum()
    error = np.sqrt(pooled * (1 - pooled) * (1 / sizes).sum())
    unlikely = abs(shares[0] - shares[1]) > Z_OF_CHANCE * error
    return shares if unlikely and shares.max() > SELECTED * shares.min() else None
