"""What the functions of `inspection` take of the arguments of `fit`, and what they refuse."""

import warnings
from inspect import signature

import numpy as np
import pytest
from conftest import FAST

from implicitrm_sk import ImplicitRewardEstimator, inspection
from implicitrm_sk.inspection import (
    compare_groups,
    identification_report,
    label_queue,
    reward_interval,
    sensitivity_report,
    user_taste,
)
from implicitrm_sk.inspection._arguments import OF_FIT
from implicitrm_sk.signals import Action

N = 240
RNG = np.random.default_rng(0)
RESPONSE = np.arange(N) // 2
X = RNG.normal(size=(N // 2, 3))[RESPONSE]
LIKED = (RNG.random(N // 2) < 1 / (1 + np.exp(-2 * X[::2, 0])))[RESPONSE]
Y = (LIKED & (RNG.random(N) < 0.6)).astype(int)
BY = np.arange(N) % 2
QUICK = FAST | {"max_epochs": 2, "early_stopping": False}
#: Arguments of `fit`, each with settings and actions that go with it.
ARGUMENTS = {
    "sample_weight": (np.ones(N), {}, Y),
    "groups": (RESPONSE, {}, Y),
    "response_id": (RESPONSE, {"false_action_rate": 0.0}, Y),
    "exposures": (np.full(N, 2), {"false_action_rate": 0.0}, Y),
    "labels": (np.where((np.arange(N) < 60) & (Y == 0), LIKED * 1.0, np.nan), {}, Y),
    "propensity": (np.full(N, 0.6), {}, Y),
    "user_id": (np.arange(N) % 40, {}, Y),
    "age": (np.full(N, 3.0), {"signals": [Action(delay="exponential")]}, Y[:, None]),
    "delay": (np.where(Y, 0.5, np.nan), {"signals": [Action(delay="exponential")]}, Y[:, None]),
}


def taste(est, X, y, **given):
    return user_taste(est.fit(X, y), X, y, **{"user_id": np.arange(N) % 40} | given)


#: Functions that take est, X and y of a log, called with little else.
FUNCTIONS = {
    "identification_report": lambda *log, **given: identification_report(*log, n_starts=2, **given),
    "reward_interval": lambda *log, **given: reward_interval(*log, X[:3], n_bootstrap=2, **given),
    "compare_groups": lambda *log, **given: compare_groups(*log, BY, n_folds=2, **given),
    "sensitivity_report": lambda *log, **given: sensitivity_report(
        *log, violations={"false_positive": 0.01}, **given
    ),
    "label_queue": lambda *log, **given: label_queue(*log, 5, **given),
    "user_taste": taste,
}
#: What each of them refuses.
REFUSED = {
    "compare_groups": {"response_id", "exposures", "propensity", "age", "delay"},
    "sensitivity_report": {"response_id", "exposures", "propensity", "age", "delay"},
    "user_taste": {
        "sample_weight", "groups", "response_id", "labels", "propensity", "age", "delay",
    },
}  # fmt: skip


def test_the_table_is_complete():
    assert set(ARGUMENTS) == set(OF_FIT)
    of_logs = {
        name
        for name in inspection.__all__
        if callable(getattr(inspection, name)) and name[0].islower()
        if {"est", "X", "y"} <= set(signature(getattr(inspection, name)).parameters)
    }
    assert set(FUNCTIONS) == of_logs


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_argument_of_fit_is_taken_or_refused_with_the_reason(function, name):
    value, params, y = ARGUMENTS[name]
    given = {name: value}
    refused = name in REFUSED.get(function, ())
    if name == "delay" and not refused:
        given["age"] = ARGUMENTS["age"][0]
    est = ImplicitRewardEstimator(**QUICK | ({} if refused else params))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not refused:
            assert FUNCTIONS[function](est, X, y, **given) is not None
            return
        message = rf"^{function} does not take {name}: .+\. (Leave|Pass|Give) .+\.$"
        with pytest.raises(ValueError, match=message):
            FUNCTIONS[function](est, X, Y, **given)
        assert FUNCTIONS[function](est, X, Y, **{name: None}) is not None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_argument_that_fit_does_not_have_is_named(function):
    est = ImplicitRewardEstimator(**QUICK)
    message = (
        f"{function} has no argument response_ids, and neither has fit. It takes these of fit: "
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TypeError, match=message):
            FUNCTIONS[function](est, X, Y, response_ids=RESPONSE)


@pytest.mark.parametrize("function", ["reward_interval", "label_queue"])
def test_users_who_share_responses_are_refused(function):
    est = ImplicitRewardEstimator(**QUICK | {"false_action_rate": 0.0})
    with pytest.raises(ValueError, match=f"{function} does not take response_id beside user_id: "):
        FUNCTIONS[function](est, X, Y, response_id=RESPONSE, user_id=np.arange(N) % 40)


def test_ids_of_responses_that_are_all_different_say_nothing():
    est = ImplicitRewardEstimator(**QUICK)
    ids = [f"response {i}" for i in range(N)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            FUNCTIONS["compare_groups"](est, X, Y, **given) for given in ({}, {"response_id": ids})
        )
    assert one.to_frame().equals(other.to_frame())
