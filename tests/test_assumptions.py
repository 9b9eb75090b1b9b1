"""What is taken as known of the world: intervals, false-action rates, and how they are checked."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._assumptions import MIN_RESPONSES, Assumptions
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk.objectives import Naive, Stratified

nan = np.nan


def log_of(y, **arguments):
    y = np.asarray(y, dtype=float)
    log, _ = FeedbackLog.from_arguments(
        y, len(y), Assumptions(false_action_rate=0.0), Stratified(), purpose="query", **arguments
    )
    return log


def test_of_an_estimator():
    plain = Assumptions.of(ImplicitRewardEstimator())
    assert plain.preference_rate is None and plain.preference_interval is None
    assert plain.false_action_rate is None and plain.label_mechanism == "random"
    assert plain.estimates_false_actions is False
    estimator = ImplicitRewardEstimator(
        preference_rate=(0.2, 0.4), false_action_rate="estimate", label_mechanism="acted"
    )
    given = Assumptions.of(estimator)
    assert given.preference_rate == given.preference_interval == (0.2, 0.4)
    assert given.false_action_rate == "estimate" and given.estimates_false_actions is True
    assert given.label_mechanism == "acted"
    # It is of the parameters as they were.
    estimator.set_params(preference_rate=None)
    assert given.preference_rate == (0.2, 0.4)


@pytest.mark.parametrize(
    ("rate", "interval"),
    [(None, None), ((0, 1), None), ([0.0, 1.0], None), (0.3, (0.3, 0.3)), ((0, 0.5), (0, 0.5))],
)
def test_preference_interval(rate, interval):
    assert Assumptions(preference_rate=rate).preference_interval == interval


def test_a_bad_preference_rate_is_told_when_it_is_asked_for():
    with pytest.raises(ValueError, match=r"preference_rate=\(0.7, 0.3\) is reversed"):
        _ = Assumptions(preference_rate=(0.7, 0.3)).preference_interval


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.1, [0.1, 0.1]), ([0.0, 0.2], [0.0, 0.2]), (np.float32(0.5), [0.5, 0.5]), (0, [0, 0])],
)
def test_one_rate_for_each_signal(rate, expected):
    log = log_of([[1, 0], [0, 1]])
    given = Assumptions(false_action_rate=rate)
    rates = given.with_rates_of(log).false_action_rate
    assert rates.dtype == np.float64 and rates.flags.writeable
    assert_array_equal(rates, expected)
    assert given.false_action_rate is rate


def test_rates_are_no_view_of_what_was_given():
    rate = np.array([0.1, 0.2])
    found = Assumptions(false_action_rate=rate).with_rates_of(log_of([[1, 0]]))
    rate[:] = 0.9
    assert_array_equal(found.false_action_rate, [0.1, 0.2])


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (["a"], "false_action_rate must be a number, one per signal or 'estimate', got ['a']."),
        ([[0.1], [0.1, 0.2]], "false_action_rate must be a number, one per signal or 'estimate'"),
        ([0.1], "false_action_rate has shape (1,); expected one number"),
        ([[0.1, 0.2]], "false_action_rate has shape (1, 2); expected one number"),
        ([0.1, 1.0], "false_action_rate must lie in [0, 1), got [0.1, 1.0]. It is the share"),
        (-0.1, "false_action_rate must lie in [0, 1), got -0.1."),
        (nan, "false_action_rate must lie in [0, 1), got nan."),
    ],
)  # fmt: skip
def test_bad_rates(rate, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Assumptions(false_action_rate=rate).with_rates_of(log_of([[1, 0], [0, 1]]))


def estimated(label_mechanism="random"):
    return Assumptions(
        false_action_rate="estimate", label_mechanism=label_mechanism, estimates_false_actions=True
    )


def test_rates_to_be_estimated_are_not_known_yet():
    found = estimated().with_rates_of(log_of(np.tile([[1, 0, 1]], (MIN_RESPONSES, 1))))
    assert_array_equal(found.false_action_rate, [nan] * 3)
    assert found.estimates_false_actions and found.false_actions == "estimated"
    found = found.with_rates(np.array([0.0, 0.1, 0.2]))
    assert found.false_actions == "estimated"
    assert_array_equal(found.false_action_rate, [0.0, 0.1, 0.2])


@pytest.mark.parametrize("n", [MIN_RESPONSES - 1, MIN_RESPONSES])
def test_evidence_of_false_actions(n):
    """Three signals, three exposures, or labels of not preferred responses; one kind is enough."""
    rows = np.arange(40)
    known = np.where(rows < n, 0.0, nan)
    y = np.zeros(40)
    three = np.where(rows[:, None] < n, np.zeros((40, 3)), [0, 0, nan])
    cases = [
        ((three,), {}, f"has 3 signal(s). Signal 0 has {n} responses"),
        (
            (y,),
            {"exposures": np.where(rows < n, 3, 1)},
            f"three logged signals, {n} shown three",
        ),
        ((y,), {"labels": known}, f"0 shown three times, and {n} with a label of 0"),
    ]
    for arguments, side, counted in cases:
        log = log_of(*arguments, **side)
        if n >= MIN_RESPONSES:
            assert np.isnan(estimated().with_rates_of(log).false_action_rate).all()
            continue
        with pytest.raises(ValueError, match="three signals logged together") as error:
            estimated().with_rates_of(log)
        assert counted in str(error.value)
        assert "Pass a number, 0.0" in str(error.value)


def test_labels_of_acted_responses_are_no_evidence_of_false_actions():
    log = log_of(np.zeros(40), labels=np.zeros(40))
    assert estimated().with_rates_of(log).estimates_false_actions
    with pytest.raises(ValueError, match="and 0 with a label of 0"):
        estimated("acted").with_rates_of(log)


@pytest.mark.parametrize(
    ("rates", "expected"), [([0.0, 0.0], "none"), ([0.0, 0.1], "given"), ([0.2, 0.1], "given")]
)
def test_how_false_actions_are_known(rates, expected):
    assert Assumptions().with_rates(np.array(rates)).false_actions == expected


def test_rates_of_the_model():
    some, none = (Assumptions().with_rates(np.array(rates)) for rates in ([0.0, 0.1], [0.0, 0.0]))
    rates = some.model_rates(Stratified())
    assert rates.dtype == torch.float64 and rates.tolist() == [0.0, 0.1]
    assert none.model_rates(Stratified()) is None
    assert some.model_rates(Naive()) is None  # which works on one signal, without false actions


def test_without_a_rate_it_is_zero_unless_responses_were_shown_repeatedly():
    plain = log_of(np.zeros((40, 2)))
    assert_array_equal(Assumptions().with_rates_of(plain).false_action_rate, [0, 0])
    counts = log_of(np.zeros(40), exposures=np.full(40, 3))
    found = Assumptions().with_rates_of(counts)
    assert found.estimates_false_actions and np.isnan(found.false_action_rate).all()
    with pytest.raises(ValueError, match="false_action_rate=None with exposures above 1 needs"):
        Assumptions().with_rates_of(log_of(np.zeros(40), exposures=np.full(40, 2)))
    asked = Assumptions(false_action_rate=0.0).with_rates_of(counts)
    assert_array_equal(asked.false_action_rate, [0])
    assert_array_equal(
        Assumptions().with_rates_of(counts, can_estimate=False).false_action_rate, [0]
    )


@pytest.mark.filterwarnings("ignore::implicitrm_sk.IdentificationWarning")
def test_rows_of_one_response_ask_for_e_as_exposures_do():
    """One stray action among several rows of a response would prove a preference."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    twice, thrice = np.repeat(np.arange(60), 2), np.repeat(np.arange(60), 3)
    settings = {"max_epochs": 2, "early_stopping": False, "n_estimators": 1, "random_state": 0}
    est = ImplicitRewardEstimator(**settings)
    y = (np.random.default_rng(1).random(180) < 0.3).astype(int)
    refusal = "false_action_rate=None with rows of one response_id needs .* 0.0 if users never act"
    with pytest.raises(ValueError, match=refusal):
        est.fit(X[twice], y[:120], response_id=twice)
    with pytest.raises(ValueError, match="false_action_rate=None with exposures above 1 needs"):
        est.fit(X, y[:60], exposures=np.full(60, 2))
    est.fit(X[thrice], y, response_id=thrice)
    assert est.false_action_rate_[0] > 0
    est.set_params(false_action_rate=0.0).fit(X[twice], y[:120], response_id=twice)
    assert est.false_action_rate_.tolist() == [0.0]
    # Rows that log one signal each repeat nothing.
    each = np.full((120, 2), np.nan)
    each[np.arange(120), np.arange(120) % 2] = y[:120]
    est.set_params(false_action_rate=None).fit(X[twice], each, response_id=twice)
    assert est.false_action_rate_.tolist() == [0.0, 0.0]
