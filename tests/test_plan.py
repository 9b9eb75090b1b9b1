"""Plans of fits: where training starts and goes on, preference rate, preliminary fits."""

import pickle

import numpy as np
import pytest
import torch
from conftest import FAST, LEARN, make_log, simulated, some_labels
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from implicitrm_sk import ImplicitRewardEstimator

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


# ---------------------------------------------------------------- warm start


def test_warm_start_goes_on():
    X, y, _ = make_log()
    params = FAST | {"early_stopping": False, "max_epochs": 5}
    once = ImplicitRewardEstimator(**params).fit(X, y)
    warm = ImplicitRewardEstimator(warm_start=True, **params).fit(X, y)
    assert_array_equal(warm.predict(X), once.predict(X))
    warm.fit(X, y)
    assert warm.history_[0]["train_loss"][0] < once.history_[0]["train_loss"][0]
    with pytest.raises(ValueError, match="number of columns of X was 6 and is now 5"):
        warm.fit(X[:, :5], y)
    with pytest.raises(ValueError, match="n_estimators was 2 and is now 3"):
        clone(warm).fit(X, y).set_params(n_estimators=3).fit(X, y)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes was \(8,\) and is now \(9,\)"):
        clone(warm).fit(X, y).set_params(hidden_layer_sizes=9).fit(X, y)


def test_warm_start_keeps_to_the_columns():
    X, y, _ = make_log()
    params = FAST | {"warm_start": True, "reward_features": [0, 1]}
    estimator = ImplicitRewardEstimator(**params).fit(X, y)
    estimator.fit(X, y)
    with pytest.raises(ValueError, match="training cannot go on .*reward_features selected"):
        estimator.set_params(reward_features=[0, 2]).fit(X, y)


def test_warm_start_keeps_to_the_same_columns_of_as_many():
    X, y, _ = make_log()
    both = {"reward_features": [0, 1], "propensity_features": [2, 3]}
    estimator = ImplicitRewardEstimator(warm_start=True, **FAST, **both).fit(X, y)
    with pytest.raises(ValueError, match="training cannot go on"):
        estimator.set_params(reward_features=[2, 3], propensity_features=[4, 5]).fit(X, y)


# ---------------------------------------------------------------- the preference rate


RATES = {
    "a number": (0.6, {}),
    "small batches": (0.6, {"batch_size": 8, "max_epochs": 2}),
    "one large batch": (0.6, {"batch_size": 10_000}),
    "without early stopping": (0.6, {"early_stopping": False}),
    "one member": (0.6, {"n_estimators": 1}),
    "near 1": (0.99, {}),
    "float64": (0.6, {"dtype": "float64"}),
    "own columns": (0.6, {"propensity_features": [5]}),
    "false actions": (0.6, {"false_action_rate": 0.05}),
    "above": ((0.8, 0.9), {}),
    "below": ((0.31, 0.32), {}),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", RATES)
def test_preference_rate_is_the_mean_reward(case, weighted):
    rate, params = RATES[case]
    X, y, _ = make_log()
    weight = np.where(X[:, 0] > 0, 3.0, 0.5) if weighted else None
    estimator = ImplicitRewardEstimator(**FAST | {"preference_rate": rate} | params)
    estimator.fit(X, y, sample_weight=weight)
    mean = np.average(estimator.predict(X).astype(float), weights=weight)
    lower, upper = np.atleast_1d(rate)[[0, -1]]
    assert lower - 1e-4 < mean < upper + 1e-4
    assert np.std(estimator.predict(X)) > 0.001


def test_every_member_has_the_preference_rate():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST | {"preference_rate": 0.6, "n_estimators": 3})
    estimator.fit(X, y)
    with torch.no_grad():
        Z = torch.from_numpy((X - estimator.scaler_.mean_) / estimator.scaler_.scale_).float()
        members = torch.sigmoid(estimator.model_.reward_logit(Z)).mean(1)
    assert_allclose(members, 0.6, atol=1e-4)


def test_preference_rate_that_the_reward_has_anyway_changes_nothing():
    X, y, _ = make_log(n_signals=2)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    for interval in ((0, 1), (0.05, 0.95)):
        estimator = ImplicitRewardEstimator(**FAST | {"preference_rate": interval}).fit(X, y)
        assert_allclose(estimator.predict(X), plain.predict(X), atol=1e-6)


# ---------------------------------------------------------------- false-action rates


def test_false_action_rates_are_recovered():
    """Of 600 rows with known r* = 0, e = 0.15 has a standard error of 0.015."""
    given = np.array([0.05, 0.15, 0.02])
    X, log = simulated(n=1200, n_signals=3, false_action_rate=given)
    params = LEARN | {"false_action_rate": "estimate", "max_epochs": 20}
    estimator = ImplicitRewardEstimator(**params).fit(X, log.actions)
    found = estimator.false_action_rate_
    assert np.abs(found - given).max() < 0.04
    assert_array_equal(np.argsort(found), np.argsort(given))
    assert (estimator.propensity(X) > found).all()
    assert estimator.get_params()["false_action_rate"] == "estimate"
    without = ImplicitRewardEstimator(**LEARN).fit(X, log.actions)
    assert estimator.score(X, None, true_preference=log.preference) > without.score(
        X, None, true_preference=log.preference
    )
    # The fit is one with the rates it found.
    copy = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(copy.false_action_rate_, found)
    assert copy.score(X, log.actions) == estimator.score(X, log.actions)
    acted = estimator.predict_action(X)
    reward, A = estimator.predict(X)[:, None], estimator.propensity(X)
    assert_allclose(acted, reward * A + (1 - reward) * found, atol=1e-5)


def test_false_action_rate_from_labels_of_one_signal():
    X, log = simulated(n=1000, false_action_rate=0.15)
    params = LEARN | {"false_action_rate": "estimate", "max_epochs": 20}
    estimator = ImplicitRewardEstimator(**params)
    estimator.fit(X, log.actions, preference=some_labels(log.preference, 0.4))
    # 200 labels of not preferred rows: a standard error of 0.025.
    assert estimator.false_action_rate_[0] == pytest.approx(0.15, abs=0.05)


def test_false_action_rate_and_preference_rate_with_a_last_batch_of_one_row():
    X, y, _ = make_log(n=257, n_signals=3)
    params = FAST | {"false_action_rate": "estimate", "preference_rate": 0.5, "batch_size": 256}
    estimator = ImplicitRewardEstimator(**params).fit(X, y)
    assert estimator.predict(X).mean() == pytest.approx(0.5, abs=1e-4)


def test_false_action_rate_is_estimated_only_from_what_tells_it():
    X, y, preference = make_log(n_signals=3)

    def fit(y, **arguments):
        params = FAST | {"false_action_rate": "estimate", "max_epochs": 2, "early_stopping": False}
        params |= {k: arguments.pop(k) for k in ("label_mechanism",) if k in arguments}
        ImplicitRewardEstimator(**params).fit(X, y, **arguments)

    refused = "false_action_rate='estimate' needs three signals logged together .* pass a number"
    never_three = np.where(np.arange(400)[:, None] % 3 == range(3), np.nan, y)
    for arguments in (
        {"y": y[:, 0]},
        {"y": y[:, :2]},
        {"y": never_three},
        {"y": y[:, 0], "exposures": np.full(400, 2)},
        {"y": y[:, 0], "preference": np.where(np.arange(400) % 4 == 0, 0.5, np.nan)},
        {"y": y[:, 0], "preference": np.where(np.cumsum(preference == 0) < 20, preference, np.nan)},
        {
            "y": y[:, 0],
            "preference": np.where(y[:, 0] == 1, np.arange(400) % 2, np.nan),
            "label_mechanism": "acted",
        },
    ):
        with pytest.raises(ValueError, match=refused):
            fit(**arguments)
    message = (
        r"y has 2 signal\(s\), and signal 0 has 0 responses on which it is one of three logged, 0 "
        "shown three times, and 0 with preference=0"
    )
    with pytest.raises(ValueError, match=message):
        fit(y[:, :2])
    # Each signal needs evidence of its own, of one kind.
    apart = y.astype(float)
    apart[10:, 1:] = np.nan
    rejected = np.where(np.isin(np.arange(400), np.flatnonzero(preference == 0)[-12:]), 0, np.nan)
    with pytest.raises(ValueError, match="signal 0 has 10 responses .* 12 with preference=0"):
        fit(apart, preference=rejected)
    unlogged = np.where(preference == 0, np.nan, y[:, 0])
    with pytest.raises(ValueError, match="signal 0 has .* and 0 with preference=0"):
        fit(unlogged, preference=np.where(preference == 0, 0, np.nan))
    with pytest.raises(ValueError, match="signal 2 has 0 resp"):
        fit(
            np.where([False, False, True], np.nan, y),
            preference=np.where(preference == 0, 0, np.nan),
        )
    fit(y)
    fit(y[:, 0], exposures=np.full(400, 3))
    fit(y[:, 0], preference=np.where(np.arange(400) % 4 == 0, preference, np.nan))
    few = np.zeros((400, 3))
    few[:15] = 1
    message = (
        "needs at least 5 acted and 5 not acted responses in each of 5 parts of the log, which"
    )
    with pytest.raises(
        ValueError, match=f"{message} has 15 acted and 385 not acted ones in 5 parts"
    ):
        fit(few)
    with pytest.raises(ValueError, match=f"{message} .* in 3 parts that no group is cut by"):
        fit(y, groups=np.arange(400) % 3)
