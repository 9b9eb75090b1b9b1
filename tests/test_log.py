"""The feedback log: shared responses, labels that actions prove, counts, and its checks."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from implicitrm_sk import _log
from implicitrm_sk._assumptions import Assumptions
from implicitrm_sk._log import (
    FeedbackLog,
    KnownSignals,
    check_constant,
    check_labels,
    number_responses,
    resolve_signals,
)
from implicitrm_sk._validation import check_actions
from implicitrm_sk.objectives import Naive, Stratified
from implicitrm_sk.signals import Action

nan = np.nan
NO_FALSE_ACTIONS = np.zeros(1)


def make(y, purpose="query", *, false_action_rate=0.0, **arguments):
    """Return the log, unlike that of `fit` not compared with its labels."""
    assumptions = Assumptions(false_action_rate=false_action_rate)
    log, _ = FeedbackLog.from_arguments(
        y, len(y), assumptions, Stratified(), purpose=purpose, **arguments
    )
    return log


def label(y, preference, *, e=0.0, mechanism="random", **arguments):
    """Return the labels of a log after check_labels."""
    log = make(y, labels=preference, **arguments)
    e = np.broadcast_to(np.asarray(e, dtype=float), log.actions.shape[1:])
    return check_labels(log, e, mechanism).labels


# ---------------------------------------------------------------- what is made of the arguments


def test_a_plain_log():
    log = make([1, 0, nan])
    assert log.one_dimensional
    assert_array_equal(log.actions, [[1], [0], [nan]])
    assert_array_equal(log.sample_weight, [1, 1, 1])
    assert log.n_responses == 3
    for name in ("exposures", "response", "first", "labels", "propensity"):
        assert getattr(log, name) is None
    assert_array_equal(log.not_acted(), [[0], [1], [nan]])
    assert_array_equal(log.fired(), [True, False, False])
    assert_array_equal(log.n_events(), [1, 1, 0])
    assert_array_equal(log.usable(), [0, 1])
    rows = np.array([1.0, 2.0, 3.0])
    assert log.per_response(rows) is rows and log.per_row(rows) is rows
    assert not make([[1], [0]]).one_dimensional


def test_side_information_of_every_kind_in_one_log():
    log = make(
        [[1, nan], [0, 0], [nan, 2]],
        sample_weight=[2, 2, 1],
        response_id=["b", "b", "a"],
        exposures=[[3, 5], [1, 1], [0, 2]],
        labels=[nan, 1, nan],
        propensity=[[0.5, nan], [nan, nan], [nan, 1]],
    )
    assert_array_equal(log.response, [0, 0, 1])
    assert_array_equal(log.first, [0, 2])
    assert_array_equal(log.sample_weight, [2, 1])
    assert_array_equal(log.labels, [1, nan])
    assert_array_equal(log.exposures, [[3, 1], [1, 1], [1, 2]])
    assert_array_equal(log.not_acted(), [[2, nan], [1, 1], [nan, 0]])
    assert_array_equal(log.n_events(), [3 + 1 + 1, 2])
    assert_array_equal(log.fired(), [True, True])
    assert_array_equal(log.per_row(np.array([7.0, 8.0])), [7, 7, 8])
    assert_array_equal(log.per_response(np.array([1.0, 2.0, 4.0])), [3, 4])


def test_input_is_neither_kept_nor_changed():
    given = {
        "sample_weight": np.ones(4),
        "exposures": np.array([2.0, 2, 0, 2]),
        "labels": np.array([nan, 0.5, nan, 1]),
        "propensity": np.full(4, 0.5),
    }
    y = np.array([1.0, 0, 0, 2])
    copies = {name: value.copy() for name, value in given.items()}
    log = make(y, **given)
    log.actions[:] = log.sample_weight[:] = 9
    assert_array_equal(y, [1, 0, 0, 2])
    for name, value in given.items():
        assert_array_equal(value, copies[name])


@pytest.mark.parametrize(
    "as_type",
    [list, pd.Series, torch.tensor, lambda v: pd.Series(v).astype("Float64"), np.float32],
)
def test_any_kind_of_vector(as_type):
    log = make(
        as_type([1.0, 0.0, nan]),
        exposures=as_type([2.0, 2.0, nan]),
        labels=as_type([nan, 1.0, 0.0]),
        propensity=as_type([0.5, nan, 1.0]),
        sample_weight=as_type([1.0, 2.0, 0.0]),
    )
    assert_array_equal(log.actions, [[1], [0], [nan]])
    assert_array_equal(log.labels, [nan, 1, 0])
    assert_array_equal(log.propensity, [[0.5], [nan], [1]])
    assert_array_equal(log.usable(), [0, 1])


def test_what_knows_nothing_is_none():
    log = make([1, 0], labels=[nan, nan], propensity=[nan, nan])
    assert log.labels is None and log.propensity is None


def test_one_column_of_exposures_serves_every_signal():
    log = make([[1, 0], [0, nan]], exposures=[2, 3])
    assert_array_equal(log.exposures, [[2, 2], [3, 1]])


def test_one_column_of_propensities_is_refused_for_several_signals():
    message = r"propensity has shape \(2,\); expected the shape of the actions, \(2, 2\). Pass one"
    with pytest.raises(ValueError, match=message):
        make([[1, 0], [0, nan]], propensity=[0.5, nan])
    assert_array_equal(make([[1], [0]], propensity=[0.5, nan]).propensity, [[0.5], [nan]])


def test_never_shown_is_not_logged():
    log = make([0, 0, 1], exposures=[0, 2, 1])
    assert_array_equal(log.actions, [[nan], [0], [1]])
    assert_array_equal(log.n_events(), [0, 2, 1])
    log = make([nan, 0], exposures=[nan, 2])
    assert_array_equal(log.exposures, [[1], [2]])


def test_nothing_repeated_is_a_plain_log():
    log = make([1, 0, nan], exposures=[1, 1, 0], response_id=["b", "a", "c"], labels=[1, 0, 1])
    assert log.response is log.first is log.exposures is None
    assert_array_equal(log.labels, [1, 0, 1])


def test_exposures_of_one_are_none_at_all():
    y = np.array([[1, 0], [nan, 1], [nan, nan]])
    once, plain = make(y, exposures=np.ones((3, 2))), make(y)
    assert_array_equal(once.not_acted(), plain.not_acted())
    assert_array_equal(once.n_events(), plain.n_events())
    assert_array_equal(once.fired(), plain.fired())


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    "ids",
    [
        ["u", "a", "u", "z", "a"],
        [5, -1, 5, 9, -1],
        [0.5, 0.1, 0.5, 2.5, 0.1],
        pd.Series(["u", "a", "u", "z", "a"], dtype="category"),
        pd.to_datetime(["2024-03-01", "2024-01-01", "2024-03-01", "2025-01-01", "2024-01-01"]),
    ],
)
def test_responses_are_numbered_as_they_appear(ids):
    response, first = number_responses(np.asarray(ids))
    assert_array_equal(response, [0, 1, 0, 2, 1])
    assert_array_equal(first, [0, 1, 3])
    log = make([0, 0, 1, 0, 0], response_id=ids)
    assert_array_equal(log.response, response)
    assert_array_equal(log.fired(), [True, False, False])


def test_many_ids():
    ids = np.random.default_rng(0).integers(0, 50, size=400)
    response, first = number_responses(ids)
    assert_array_equal(ids[first][response], ids)
    assert (np.diff(first) > 0).all()
    assert_array_equal(response[first], np.arange(len(first)))
    assert all((ids[:row] != ids[row]).all() for row in first)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], r"response_id has shape \(2,\); expected one value per row of X, \(3,\)"),
        ([[1], [2], [3]], r"response_id has shape \(3, 1\)"),
        ("abc", r"response_id has shape \(\)"),
        (
            [1.0, nan, 2.0],
            r"response_id is missing \(NaN\) in 1 rows; the first is row 1. Give each",
        ),
        (
            np.array([1, nan, 0], dtype=object),
            r"response_id is missing \(NaN\) in 1 rows; the first is row 1. Give each response",
        ),
        (pd.array([1, None, 0], dtype="Int64"), r"response_id is missing \(NaN\) in 1 rows"),
        ([None, "a", "b"], r"response_id is missing \(NaN\) in 1 rows"),
    ],
)
def test_bad_ids(ids, message):
    with pytest.raises(ValueError, match=message):
        make([1, 0, 0], response_id=ids)


def test_rows_of_a_response_agree_or_the_first_that_do_not_are_named():
    ids = np.array(["x", "b", "b", "a", "a"])
    response, first = number_responses(ids)
    check_constant(np.array([1, 2, 2, 3, 3]), response, first, ids, "it", "Rule")
    values = np.array([1, 2, 5, 3, 4])
    with pytest.raises(ValueError, match=r"it differs between .* in 2 responses.* 'b' \(row 2\)"):
        check_constant(values, response, first, ids, "it", "Rule")
    table = np.column_stack([np.zeros(5), [1, 2, 2, 3, 4]])
    message = r"X differs \(position 1 of the reward columns\).* in 1 responses.* 'a' \(row 4\)"
    with pytest.raises(ValueError, match=message):
        check_constant(table, response, first, ids, "X", "Rule")
    with pytest.raises(ValueError, match=r"sample_weight differs .*'b' \(row 2\). One response"):
        make([1, 0, 0, 0, 0], response_id=ids, sample_weight=[1, 1, 2, 1, 1])


# ---------------------------------------------------------------- labels


def test_a_response_has_the_label_of_any_of_its_rows():
    log = make([0] * 5, response_id=list("bbaac"), labels=[nan, 1, 0.5, 0.5, nan])
    assert_array_equal(log.labels, [1, 0.5, nan])
    message = r"labels differ between .* in 1 responses; the first is 'a'.* graded one"
    with pytest.raises(ValueError, match=message):
        make([0] * 5, response_id=list("bbaac"), labels=[nan, 1, 0, 1, nan])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 1.5],
            r"labels must lie in \[0, 1\] .* but 1 value\(s\) lie outside, e.g. 1.5. Rescale",
        ),
        ([-1, 1, 2], r"2 value\(s\) lie outside, e.g. -1"),
        ([np.inf, 1, 0], r"1 value\(s\) lie outside, e.g. inf"),
        ([0, 1], r"labels has shape \(2,\); expected one label per row of X, \(3,\)"),
        ([[0], [1], [1]], r"labels has shape \(3, 1\)"),
        (["yes", "no", "no"], "labels must be numbers"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        make([1, 0, 0], labels=labels)


def test_labels_that_agree_with_the_actions_stay():
    assert check_labels(make([1, 0]), NO_FALSE_ACTIONS, "random").labels is None
    given = [1, nan, 0, 1, 0.3, nan]
    assert_array_equal(label([1, 1, 0, 0, 0, nan], given), given)


def test_label_0_on_an_acted_response_contradicts():
    y, preference = [1, 1, 1, 0], [0, 0, 1, 0]
    with pytest.raises(ValueError, match="labels are 0 on 2 responses that have an action: with"):
        label(y, preference)
    assert_array_equal(label(y, preference, e=0.1), preference)
    with pytest.raises(ValueError, match="labels are 0 on 1 responses that have"):
        label([1, 0, 0], [nan, 0, nan], response_id=[7, 7, 8])
    with pytest.raises(ValueError, match="labels are 0 on 1 responses that have"):
        label([2, 0], [0, 0], exposures=[5, 5])


def test_only_signals_without_false_actions_prove_preference():
    y = [[1, 0], [0, 1], [0, 0]]
    with pytest.raises(ValueError, match="labels are 0 on 1 responses"):
        label(y, [0, 0, 0], e=[0, 0.2])
    assert_array_equal(label(y, [1, 0, 0], e=[0, 0.2]), [1, 0, 0])
    with pytest.warns(UserWarning, match="1 graded labels were replaced"):
        assert_array_equal(label(y, [0.4, 0.4, 0.4], e=[0, 0.2]), [1, 0.4, 0.4])


def test_graded_labels_that_actions_settle_are_replaced_with_one_warning():
    y = [1, 1, 1, 0, 0]
    with pytest.warns(
        UserWarning, match="^2 graded labels were replaced .* is preferred, 1"
    ) as record:
        found = label(y, [0.2, 0.9, nan, 0.4, 0])
    assert len(record) == 1
    assert_array_equal(found, [1, 1, nan, 0.4, 0])
    assert_array_equal(label(y, [0.2, 0.9, nan, 0.4, 0], e=0.1), [0.2, 0.9, nan, 0.4, 0])


def test_no_action_where_it_is_certain_to_follow_disproves_preference():
    known = {"propensity": [1.0, 1.0, nan]}
    assert_array_equal(label([0, 1, 0], [0, 1, nan], **known), [0, 1, nan])
    with pytest.raises(ValueError, match="labels are 1 on 1 responses without an action whose"):
        label([0, 1, 0], [1, 1, nan], **known)
    with pytest.warns(UserWarning, match="1 graded labels were replaced"):
        assert_array_equal(label([0, 1, 0], [0.5, 1, nan], **known), [0, 1, nan])
    message = "Contradiction in 1 responses: .* an action with propensity=1 is missing"
    for more in ({}, {"labels": [0.5, nan]}):
        with pytest.raises(ValueError, match=message):
            check_labels(
                make([[1, 0], [1, 1]], propensity=[[nan, 1], [nan, 1]], **more),
                np.zeros(2),
                "random",
            )
    with pytest.raises(ValueError, match="Contradiction in 1 responses: an action"):
        check_labels(make([1], exposures=[2], propensity=[1.0]), NO_FALSE_ACTIONS, "random")


def test_while_false_action_rates_are_unknown_nothing_is_proved():
    log = make([1, 1, 0], labels=[0, 0.5, nan])
    assert_array_equal(check_labels(log, np.array([nan]), "random").labels, [0, 0.5, nan])


def acted_labels(n_labels, share_acted, value=1.0):
    """Return y and labels of 100 responses, labels on acted ones only."""
    y = (np.arange(100) < 100 * share_acted).astype(float)
    preference = np.full(100, nan)
    preference[:n_labels] = value
    return y, preference


def test_labels_on_acted_responses_only_are_not_missing_at_random():
    y, preference = acted_labels(20, 0.3)
    message = "all 20 labels lie on responses with an action, but 70% .* set label_mechanism='act"
    for e in (0.0, 0.1):
        with pytest.raises(ValueError, match=message):
            label(y, preference, e=e)
    # Few such labels, or where nearly all are acted on, may be chance.
    for n_labels, share in ((5, 0.3), (20, 0.9)):
        y, preference = acted_labels(n_labels, share)
        assert_array_equal(label(y, preference), preference)
    y, preference = acted_labels(20, 0.3)
    preference[99] = 0
    words = "66.7% of the responses with an action, and of 1.4% .*described by a Choice in signals="
    with pytest.warns(UserWarning, match=words):
        assert_array_equal(label(y, preference), preference)


def test_labels_where_the_user_acted_need_false_actions():
    y, preference = acted_labels(20, 0.3)
    preference[:5] = 0
    assert_array_equal(label(y, preference, e=0.1, mechanism="acted"), preference)
    with pytest.raises(ValueError, match="labels of acted .* while false_action_rate is 0"):
        label(y, np.where(preference == 0, 1, preference), mechanism="acted")
    preference[98:] = 0
    message = "only acted responses have labels, but 2 without any action have one. Use label_mech"
    with pytest.raises(ValueError, match=message):
        label(y, preference, e=0.1, mechanism="acted")


def test_a_button_that_only_likers_press_is_no_label():
    y = np.zeros(60)
    y[:20] = 1
    preference = np.full(60, nan)
    preference[30:50] = 1
    with pytest.warns(UserWarning, match="all 20 labels of responses without an action are 1. Lab"):
        label(y, preference)
    preference[30:50] = 0
    with pytest.warns(
        UserWarning, match="are 0. .* complaints alone do not represent all responses"
    ):
        label(y, preference)
    preference[30:50] = 0.5
    label(y, preference)  # graded labels may well be equal
    preference[30:50] = 1
    preference[30] = 0
    label(y, preference)
    preference[30] = nan
    label(y, preference)  # 19 may be chance


def test_rows_of_no_weight_do_not_speak_about_the_mechanism():
    y, preference = acted_labels(20, 0.3)
    weight = np.ones(100)
    weight[:20] = 0
    assert_array_equal(label(y, preference, sample_weight=weight), preference)


# ---------------------------------------------------------------- propensities and counts


@pytest.mark.parametrize(
    ("propensity", "message"),
    [
        ([0.5, 0, nan], r"propensity must lie in \(0, 1\], .* but 1 value\(s\) do not, e.g. 0. It"),
        ([0.5, -0.1, 1.5], r"2 value\(s\) do not, e.g. -0.1"),
        ([np.inf, 0.5, 0.5], r"1 value\(s\) do not, e.g. inf"),
        ([0.5, 0.5], "propensity has 2 rows but X has 3"),
        (np.full((3, 2), 0.5), r"propensity has shape \(3, 2\); .* \(3, 1\). Pass one"),
        (np.full((3, 1, 1), 0.5), "propensity has 3 dimensions"),
        (["high"] * 3, "propensity must be numbers"),
    ],
)
def test_bad_propensity(propensity, message):
    with pytest.raises(ValueError, match=message):
        make([1, 0, 0], propensity=propensity)


def test_propensity_is_above_the_false_action_rate():
    y = [[1, 0], [0, 0]]
    with pytest.raises(ValueError, match=r"not above false_action_rate in 2 value\(s\), e.g. 0.2"):
        make(y, propensity=np.full((2, 2), 0.2), false_action_rate=np.array([0.1, 0.2]))
    log = make(y, propensity=np.full((2, 2), 0.3), false_action_rate=np.array([0.1, 0.2]))
    assert_array_equal(log.propensity, 0.3)
    assert make(y, propensity=[[1, 1], [1, 1]]).propensity.max() == 1


@pytest.mark.parametrize(
    ("y", "exposures", "message"),
    [
        (
            [1, 3, 4],
            [2, 2, 3],
            "y counts more actions than exposures in 2 rows. The first is row 1",
        ),
        ([1, 3, 0], [2, 2, 3], "row 1: 3 actions in 2 exposures"),
        ([1, 1, 0], [0, 1, 1], "row 0: 1 actions in 0 exposures"),
        ([0.5, 1, 0], [2, 2, 2], r"y must hold counts .* but 1 value\(s\) do not, e.g. 0.5"),
        ([-1, 1, 0], [2, 2, 2], r"y must hold counts \(integers >= 0\).* e.g. -1"),
        ([1, 1, 0], [2.5, 2, 2], "exposures must hold counts .* e.g. 2.5"),
        ([1, 1, 0], [-2, 2, 2], "exposures must hold counts .* e.g. -2"),
        ([1, 1, 0], [np.inf, 2, 2], "exposures must hold counts .* e.g. inf"),
        ([1, 1, 0], [nan, 2, 2], "exposures must hold counts .* where y is logged"),
        ([1, 1, 0], [2, 2], "exposures has 2 rows but X has 3"),
        ([1, 1, 0], np.full((3, 2), 2), r"exposures has shape \(3, 2\)"),
        ([1, 1, 0], ["many"] * 3, "exposures must be numbers"),
        ([1, 2, 0], None, "y must be an action in .* are something else: 2.* counts together with"),
    ],
)
def test_bad_counts(y, exposures, message):
    with pytest.raises(ValueError, match=message):
        make(y, exposures=exposures)


def test_the_name_of_the_argument_is_told():
    with pytest.raises(ValueError, match="actions counts more actions than exposures"):
        make([3], exposures=[2], name="actions")
    with pytest.raises(
        ValueError, match=re.escape("actions has 1 signal(s), but the estimator was")
    ):
        make([1], name="actions", known=KnownSignals((Action(), Action())))


# ---------------------------------------------------------------- all arguments of a method

BAD = {
    "objective": (Naive(), Stratified(), "Naive makes no use of labels, propensity"),
    "known": (
        KnownSignals((Action(),), ["share"]),
        None,
        "the signals are ['copy'], but the estimator was fitted",
    ),
    "y": (pd.DataFrame({"copy": [2.0, 1, 0, 0]}), pd.DataFrame({"copy": [1.0, 1, 0, 0]}),
          "y must be an action in {0,1}"),
    "sample_weight": (-np.ones(4), np.array([1.0, 2, 1, 1]), "sample_weight has 4 negative"),
    "labels": (np.full(4, 9.0), np.array([0.0, 1, nan, nan]), "labels must lie"),
    "response_id": (np.arange(3), np.array([0, 0, 1, 2]), "response_id has shape (3,)"),
    # Now that the rows have responses, two things differ within the first one.
    "sample_weight of a response": (None, np.ones(4), "sample_weight differs between rows"),
    "labels of a response": (None, np.array([0.0, nan, nan, nan]), "labels differ betw"),
    "false_action_rate": (1.5, 0.0, "false_action_rate must lie in [0, 1)"),
    "propensity": (np.zeros(4), np.full(4, 0.5), "propensity must lie in (0, 1]"),
    # What is left: y has actions of one kind only where it counts, and labels contradict them.
    "y of both classes": (None, None, "y has one class only: all 2 logged actions are 1"),
    "labels against actions": (None, None, "labels are 0 on 1 responses that have an action"),
}  # fmt: skip


def test_order_of_the_checks():
    """With everything wrong at once, what is put right in turn is told in turn."""
    given = {name: bad for name, (bad, _, _) in BAD.items() if bad is not None}

    def read():
        arguments = dict(given)
        assumptions = Assumptions(false_action_rate=arguments.pop("false_action_rate"))
        y, objective = arguments.pop("y"), arguments.pop("objective")
        return FeedbackLog.from_arguments(y, 4, assumptions, objective, **arguments)

    for name, (_, good, message) in BAD.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            read()
        if name == "y of both classes":
            given["y"] = pd.DataFrame({"copy": [1.0, 1, 0, 0]})
            given["sample_weight"] = np.ones(4)
        elif name == "labels against actions":
            given["labels"] = np.array([1.0, nan, nan, 0])
        else:
            given[name.removesuffix(" of a response")] = good
            if name == "propensity":
                given["sample_weight"] = np.array([1.0, 1, 0, 0])
    log, assumptions = read()
    assert log.n_responses == 3
    assert_array_equal(assumptions.false_action_rate, [0.0])


def purposes(y, **arguments):
    """Return which purposes a log is good for."""
    found = []
    for purpose in ("fit", "batch", "query"):
        try:
            make(y, purpose, **arguments)
        except ValueError:
            continue
        found.append(purpose)
    return found


def test_purposes():
    """Only a whole log needs both kinds of rows; only a query has no labels to agree with."""
    assert purposes([1, 0]) == ["fit", "batch", "query"]
    assert purposes([0, 0]) == ["batch", "query"]
    assert purposes([nan, nan]) == ["batch", "query"]
    assert purposes([1, 0], labels=[0, nan]) == ["query"]
    assert purposes([1, 0], labels=[nan, 5]) == []  # no labels at all
    assert purposes([1, 2]) == []


def test_only_a_whole_log_is_told_what_its_signals_do_not_tell():
    y = np.column_stack([np.arange(40) % 2, np.zeros(40)])
    with pytest.warns(UserWarning, match="signal 1 of y is 0 in every row"):
        make(y, "fit")
    with pytest.warns(UserWarning, match="contradicts the log"):
        FeedbackLog.from_arguments(
            y[:, 0], 40, Assumptions(preference_rate=0.1), Stratified(), purpose="fit"
        )
    for purpose in ("batch", "query"):
        make(y, purpose)
        FeedbackLog.from_arguments(
            y[:, 0], 40, Assumptions(preference_rate=0.1), Stratified(), purpose=purpose
        )


def test_rates_of_an_earlier_fit_are_taken_as_they_are():
    """What was estimated is not asked for its evidence once more."""
    known = Assumptions(estimates_false_actions=True).with_rates(np.array([0.3]))
    _, found = FeedbackLog.from_arguments(
        [1, 0], 2, known, Stratified(), known=KnownSignals((Action(),))
    )
    assert found is known
    with pytest.raises(ValueError, match="three signals logged together"):
        FeedbackLog.from_arguments([1, 0], 2, known, Stratified())


@pytest.mark.parametrize("purpose", ["fit", "batch", "query"])
def test_actions_are_checked_once(purpose, monkeypatch):
    """Propensities are compared with the checked actions, which a table of many rows notices."""
    calls = []

    def spy(y, *args, **kwargs):
        calls.append(y)
        return check_actions(y, *args, **kwargs)

    monkeypatch.setattr(_log, "check_actions", spy)
    y = np.array([1.0, 0, nan])
    log = make(y, purpose, propensity=[0.5, nan, 0.5], exposures=[1, 1, 1], labels=[1, 0, nan])
    assert_array_equal(log.propensity, [[0.5], [nan], [0.5]])
    assert len(calls) == 1 and calls[0] is y


# ---------------------------------------------------------------- views


def test_usable_responses_have_weight_and_an_action_or_a_label():
    log = make(
        [1, 0, nan, nan, 1, nan],
        sample_weight=[1, 1, 1, 1, 0, 0],
        labels=[nan, nan, 1, nan, nan, 0],
    )
    assert_array_equal(log.usable(), [0, 1, 2])
    log = make([nan, 1, nan, 0], response_id=[3, 3, 4, 5], sample_weight=[1, 1, 1, 0])
    assert_array_equal(log.usable(), [0])


def test_rates_count_exposures_and_weights():
    log = make([[1, 0], [1, nan], [0, nan], [nan, nan]], sample_weight=[3, 1, 1, 5])
    per_signal, (any_negative, any_signal) = log.rates(np.arange(4))
    assert any_negative == 0.5  # as many with one as without, of which there are none
    assert_allclose(per_signal, [(4 + 1) / (5 + 2), (0 + 1) / (3 + 2)])
    assert any_signal == pytest.approx((4 + 1) / (5 + 2))
    per_signal, (_, any_signal) = log.rates(np.array([2, 3]))
    assert_allclose(per_signal, [1 / 3, 1 / 2])
    assert any_signal == pytest.approx(1 / 3)
    log = make([2, 0, 1], exposures=[5, 5, 2], response_id=[1, 1, 2])
    per_signal, (_, any_signal) = log.rates(np.arange(2))
    assert_allclose(per_signal, [(3 + 1) / (12 + 2)])
    assert any_signal == pytest.approx((2 + 1) / (2 + 2))
    assert_allclose(log.rates(np.array([1]))[0], [(1 + 1) / (2 + 2)])


def test_sorted_puts_rows_of_a_response_side_by_side():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 12, size=60)
    y = rng.integers(0, 3, size=(60, 2)).astype(float)
    log = make(y, response_id=ids, exposures=np.full(60, 3), propensity=rng.uniform(size=(60, 2)))
    arranged, order = log.sorted()
    assert_array_equal(ids[order], ids[log.first][arranged.response])
    assert (np.diff(arranged.response) >= 0).all()
    assert_array_equal(arranged.response[arranged.first], np.arange(12))
    assert (arranged.response[arranged.first[1:] - 1] == np.arange(11)).all()
    assert_array_equal(arranged.actions, y[order])
    assert_array_equal(arranged.propensity, log.propensity[order])
    for values in ("n_events", "fired", "usable"):
        assert_array_equal(getattr(arranged, values)(), getattr(log, values)())
    # Rows of one response keep their order.
    assert all((np.diff(order[arranged.response == r]) > 0).all() for r in range(12))


def test_reduced_is_any_logged_action_per_response():
    y = [[1, nan], [0, 0], [nan, nan], [0, nan]]
    log = make(y, sample_weight=[1, 2, 3, 4])
    assert_array_equal(log.reduced().actions, [[1], [0], [nan], [0]])
    assert_array_equal(log.reduced().sample_weight, [1, 2, 3, 4])
    log = make(y, response_id=["b", "b", "a", "c"], exposures=[4, 4, 4, 0])
    reduced = log.reduced()
    assert isinstance(reduced, FeedbackLog) and reduced.response is None
    assert_array_equal(reduced.actions, [[1], [nan], [nan]])
    assert reduced.exposures is None


def test_signals_that_hardly_meet_are_not_two():
    rng = np.random.default_rng(0)
    n, preferred = 1000, np.arange(1000) < 500
    copied = preferred & (rng.random(n) < 0.5)
    shared = preferred & (rng.random(n) < 0.4)
    regenerated = ~preferred & (rng.random(n) < 0.4)
    nothing = np.zeros(3)

    def log(*columns, signals=None):
        y = np.column_stack(columns).astype(float)
        return FeedbackLog(y, np.ones(n), signals=resolve_signals(signals, None, y.shape[1]))

    assert log(copied, shared).coincidences.apart() == []
    assert log(copied, shared).telling_signals(nothing).all()
    found = log(copied, shared, regenerated)
    ((k, seen, expected),) = found.coincidences.apart()
    chance = (copied.sum() + shared.sum()) * regenerated.sum() / n
    assert (k, seen) == (2, 0) and expected == pytest.approx(chance)
    assert not found.telling_signals(nothing).any()
    assert [k for k, _, _ in log(copied, regenerated).coincidences.apart()] == [0, 1]
    # Of other signs they may not meet; few rows show nothing.
    signs = ["positive", "positive", "negative"]
    assert log(copied, shared, regenerated, signals=signs).coincidences.apart() == []
    rare = [column & (np.arange(n) % 10 == 0) for column in (copied, regenerated)]
    assert log(*rare).coincidences.apart() == []
    with pytest.warns(UserWarning, match="signal 2 of y .* sign 0 times, where chance gives"):
        found._warn_of_signals_apart()


# ---------------------------------------------------------------- what co-occurs


@pytest.mark.parametrize(
    ("acted", "idle"),
    [
        ((20, 20, 20), {1: 0}),
        ((19, 19, 19), {}),  # too few to say
        ((20, 21, 20), {}),  # a row tells them apart
        ((20, 1, 0), {}),
        ((20, 0, 0), {1: "never"}),
        ((20, 49, 19), {}),  # once not done
        ((20, 50, 20), {1: "always"}),
    ],
)
def test_signals_without_information_of_their_own(acted, idle):
    first, second, both = acted
    y = np.zeros((50, 2))
    y[:first, 0] = 1
    y[first - both : first - both + second, 1] = 1
    assert make(y).coincidences.idle() == idle


@pytest.mark.parametrize(
    ("n", "seen", "apart"),
    [(80, 4, True), (80, 5, False), (81, 4, False)],  # by chance 20, 20 and 19.75
)
def test_signals_that_meet_less_often_than_a_quarter_of_chance(n, seen, apart):
    y = np.zeros((n, 2))
    y[:40, 0] = 1
    y[40 - seen : 80 - seen, 1] = 1
    expected = [(0, seen, 20.0), (1, seen, 20.0)] if apart else []
    assert make(y).coincidences.apart() == expected


def test_coincidences_of_parts_add_up():
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < 0.4).astype(float)
    y[rng.random(y.shape) < 0.2] = nan
    weight = rng.integers(0, 3, 200).astype(float)
    whole = make(y, sample_weight=weight).coincidences
    parts = [make(y[i::2], sample_weight=weight[i::2]).coincidences for i in (0, 1)]
    for name in ("logged", "acted", "both", "unequal", "passive"):
        assert_array_equal(getattr(parts[0] + parts[1], name), getattr(whole, name))
    counted = y[weight > 0]
    assert whole.both[0, 1] == ((counted[:, 0] == 1) & (counted[:, 1] == 1)).sum()
    assert whole.acted[0, 1] == ((counted[:, 0] == 1) & ~np.isnan(counted[:, 1])).sum()
    exposed = make(y, exposures=np.full(200, 2)).coincidences
    assert (whole + exposed).counts_exposures and not (whole + whole).counts_exposures


def steps(n_part=20, n_whole=50, n=200, n_alone=0):
    """Return actions on n rows: the second on some rows of the first, and alone on others."""
    y = np.zeros((n, 2))
    y[:n_whole, 0] = 1
    y[n_whole - n_part + n_alone : n_whole + n_alone, 1] = 1
    return y


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (steps(), [(1, 0)]),
        (steps()[:, ::-1], [(0, 1)]),
        (steps(n_part=19), []),  # too few to say
        (steps(n_part=50, n_alone=1), [(0, 1), (1, 0)]),  # in 98 % of the rows
        (steps(n_part=49, n_alone=1), []),  # in less, in either direction
        (steps(n_part=50, n_alone=1, n_whole=186), []),  # the other is in nearly all rows
        (steps(n_part=50, n_alone=1, n_whole=182), [(1, 0)]),
    ],
)
def test_an_action_that_is_a_step_of_another(y, expected):
    assert make(y).coincidences.steps() == expected
    # Rows without weight do not count; signs that differ and counts over exposures are not steps.
    both = np.vstack([y, y[::-1]])
    weight = np.repeat([1, 0], len(y))
    assert make(both, sample_weight=weight).coincidences.steps() == expected
    assert make(y, exposures=np.full(len(y), 2)).coincidences.steps() == []
    signals = resolve_signals(["positive", "negative"], None, 2)
    assert FeedbackLog(y, np.ones(len(y)), signals=signals).coincidences.steps() == []
