"""Plans of fits: where training starts and goes on, preference rate, preliminary fits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAST, LEARN, make_log, simulated, some_labels
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import begin_fit
from implicitrm_sk.training._plan import FitPlan, Hooks

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
    with pytest.raises(ValueError, match="training cannot continue .*reward_features selected"):
        estimator.set_params(reward_features=[0, 2]).fit(X, y)


def test_warm_start_keeps_to_the_same_columns_of_as_many():
    X, y, _ = make_log()
    both = {"reward_features": [0, 1], "propensity_features": [2, 3]}
    estimator = ImplicitRewardEstimator(warm_start=True, **FAST, **both).fit(X, y)
    with pytest.raises(ValueError, match="training cannot continue"):
        estimator.set_params(reward_features=[2, 3], propensity_features=[4, 5]).fit(X, y)


# ---------------------------------------------------------------- where training starts


def plan_and_data(X, y, **params):
    begun = begin_fit(ImplicitRewardEstimator(**FAST | params), X, y)
    return begun.plan, begun.data


def start_of(plan, data):
    """Return the reward and the propensities where training starts, of shape (members,), (K,)."""
    model = plan.initial_model(data, np.random.RandomState(0))
    heads = model.reward, model.propensity
    return [torch.sigmoid(head.biases[-1][0]).detach().numpy() for head in heads]


def test_training_starts_at_the_action_rate_by_either_head():
    """Reward and propensity of one signal start at its square root, the middle of what can be."""
    X, y, _ = make_log()
    plan, data = plan_and_data(X, y)
    rate = (y[data.train].sum() + 1) / (len(data.train) + 2)
    reward, propensity = start_of(plan, data)
    assert_allclose(reward * propensity, rate, rtol=1e-5)
    assert_allclose(reward, np.sqrt(rate), rtol=1e-5)


def test_start_values_of_each_member():
    X, y, _ = make_log()
    plan, data = plan_and_data(X, y)
    starts = np.array([0.2, 0.8])
    rate = (y[data.train].sum() + 1) / (len(data.train) + 2)
    reward, propensity = start_of(replace(plan, starts=starts), data)
    assert_allclose(reward[:, 0], rate**starts, rtol=1e-5)
    assert_allclose(reward * propensity, rate, rtol=1e-5)


def test_training_starts_within_the_preference_rate():
    X, y, _ = make_log()
    plan, data = plan_and_data(X, y, preference_rate=(0.8, 0.9))
    reward, propensity = start_of(plan, data)
    rate = (y[data.train].sum() + 1) / (len(data.train) + 2)
    assert_allclose(reward, 0.8, rtol=1e-5)
    assert_allclose(reward * propensity, rate, rtol=1e-5)


def test_epochs_where_none_can_be_held_out():
    X, y, _ = make_log()
    plan, data = plan_and_data(X, y, max_epochs=100)
    assert plan.n_epochs(data, True) == 100
    data.valid = data.valid[:0]
    assert plan.n_epochs(data, True) == 50
    assert plan.n_epochs(data, False) == 100
    assert replace(plan, max_epochs=7).n_epochs(data, True) == 7


# ---------------------------------------------------------------- plans side by side

SETTINGS = (
    {},
    {"learning_rate_init": 0.03, "weight_decay": 0.5},
    {"dropout": 0.4},
    {"n_iter_no_change": 1, "tol": 0.01},
    {"max_epochs": 3},
)


def stacked(X, y, settings, **params):
    """Return a plan of several, its data, their own plans, and a generator as the fit leaves it."""
    heads = [ImplicitRewardEstimator(**FAST | params | own) for own in settings]
    begun = begin_fit(heads[0], X, y)
    plans = [
        FitPlan.of(
            head,
            begun.plan.columns,
            begun.plan.objective,
            begun.plan.measurement,
            begun.plan.assumptions,
        )
        for head in heads
    ]
    return FitPlan.stack(plans), begun.data, plans, begun.random_state


@pytest.mark.parametrize("early_stopping", [True, False])
def test_stacked_plans_are_trained_as_each_alone(early_stopping):
    X, y, _ = make_log()
    params = {"dtype": "float64", "early_stopping": early_stopping, "n_iter_no_change": 2}

    def begun(settings):
        return stacked(X, y, settings, **params)

    together, data, plans, random_state = begun(SETTINGS)
    assert together.fits == tuple(plans)
    assert together.max_epochs == 8 and together.n_members == 2
    model = together.initial_model(data, random_state)
    assert model.config["n_members"] == 10
    result = together.run(data, model, 8, random_state)
    found = result.unstack()
    assert [own.plan for own in found] == plans
    lengths = []
    for number, own in enumerate(found):
        _, data, plans, random_state = begun(SETTINGS)
        plan = plans[number]
        model = plan.initial_model(data, random_state)
        alone = plan.run(data, model, plan.n_epochs(data, early_stopping), random_state)
        for name, value in alone.model.state_dict().items():
            assert_allclose(own.model.state_dict()[name], value, rtol=0, atol=1e-9)
        assert own.model.config == alone.model.config
        assert own.n_running == alone.n_running
        assert own.n_epochs == max(alone.members.epochs)
        assert own.progress is None and own.members is None
        lengths.append(own.n_epochs)
    assert lengths[4] == 3
    assert not early_stopping or lengths[3] < 8


def test_a_stacked_plan_may_pause():
    X, y, _ = make_log()
    params = {"dtype": "float64", "early_stopping": False}
    rates = [{"learning_rate_init": 0.003}, {"learning_rate_init": 0.03}]
    plan, data, _, random_state = stacked(X, y, rates, **params)
    whole = plan.run(data, plan.initial_model(data, random_state), 8, random_state).unstack()

    plan, data, _, random_state = stacked(X, y, rates, **params)
    model = plan.initial_model(data, random_state)
    paused = plan.run(data, model, 8, random_state, pause=3).unstack()
    assert [own.n_epochs for own in paused] == [3, 3]
    # The second goes on without the first.
    plan, data, _, random_state = stacked(X, y, rates[1:], **params)
    model = plan.initial_model(data, random_state)
    (resumed,) = plan.run(data, model, 8, random_state, progress=[paused[1].progress]).unstack()
    assert resumed.progress is None and resumed.n_epochs == 8
    for name, value in whole[1].model.state_dict().items():
        assert_allclose(resumed.model.state_dict()[name], value, rtol=0, atol=1e-9)


def test_a_plan_that_diverges_leaves_no_result():
    X, y, _ = make_log()
    rates = [{"learning_rate_init": rate} for rate in (0.003, 1e200, 0.03)]
    plan, data, _, random_state = stacked(X, y, rates, early_stopping=False, preference_rate=0.6)
    model = plan.initial_model(data, random_state)
    first, second, third = plan.run(data, model, 8, random_state).unstack()
    assert second is None
    for own in (first, third):
        assert all(torch.isfinite(value).all() for value in own.model.state_dict().values())


def test_hooks_of_a_run():
    X, y, _ = make_log()
    plan, data = plan_and_data(X, y)
    calls = []
    hooks = Hooks(
        epoch_begin=lambda: calls.append("begin"),
        epoch_end=lambda record: calls.append(sorted(record)) or len(calls) == 4,
    )
    random_state = np.random.RandomState(0)
    model = plan.initial_model(data, random_state)
    result = plan.run(data, model, 8, random_state, hooks=hooks)
    assert calls == ["begin", ["train_loss", "valid_loss"]] * 2
    assert result.model is model and result.plan is plan and result.progress is None


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
    assert estimator.score(X, None, true_preference=log.true_preference) > without.score(
        X, None, true_preference=log.true_preference
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
    estimator.fit(X, log.actions, labels=some_labels(log.true_preference, 0.4))
    # 200 labels of not preferred rows: a standard error of 0.025.
    assert estimator.false_action_rate_[0] == pytest.approx(0.15, abs=0.05)


def test_false_action_rate_and_preference_rate_with_a_last_batch_of_one_row():
    X, y, _ = make_log(n=257, n_signals=3)
    params = FAST | {"false_action_rate": "estimate", "preference_rate": 0.5, "batch_size": 256}
    estimator = ImplicitRewardEstimator(**params).fit(X, y)
    assert estimator.predict(X).mean() == pytest.approx(0.5, abs=1e-4)


def test_false_action_rate_is_estimated_only_from_what_tells_it():
    X, y, preference = make_log(n_signals=3)

    def fit(y, X=X, **arguments):
        params = FAST | {"false_action_rate": "estimate", "max_epochs": 2, "early_stopping": False}
        params |= {k: arguments.pop(k) for k in ("label_mechanism",) if k in arguments}
        ImplicitRewardEstimator(**params).fit(X, y, **arguments)

    refused = "false_action_rate='estimate' needs .* three signals logged together.* Pass a number"
    never_three = np.where(np.arange(400)[:, None] % 3 == range(3), np.nan, y)
    for arguments in (
        {"y": y[:, 0]},
        {"y": y[:, :2]},
        {"y": never_three},
        {"y": y[:, 0], "exposures": np.full(400, 2)},
        {"y": y[:, 0], "labels": np.where(np.arange(400) % 4 == 0, 0.5, np.nan)},
        {"y": y[:, 0], "labels": np.where(np.cumsum(preference == 0) < 20, preference, np.nan)},
        {
            "y": y[:, 0],
            "labels": np.where(y[:, 0] == 1, np.arange(400) % 2, np.nan),
            "label_mechanism": "acted",
        },
    ):
        with pytest.raises(ValueError, match=refused):
            fit(**arguments)
    message = (
        r"y has 2 signal\(s\). Signal 0 has 0 responses where it is one of three logged signals, 0 "
        "shown three times, and 0 with a label of 0"
    )
    with pytest.raises(ValueError, match=message):
        fit(y[:, :2])
    # Each signal needs evidence of its own, of one kind.
    apart = y.astype(float)
    apart[10:, 1:] = np.nan
    rejected = np.where(np.isin(np.arange(400), np.flatnonzero(preference == 0)[-12:]), 0, np.nan)
    with pytest.raises(ValueError, match="Signal 0 has 10 responses .* 12 with a label of 0"):
        fit(apart, labels=rejected)
    unlogged = np.where(preference == 0, np.nan, y[:, 0])
    with pytest.raises(ValueError, match="Signal 0 has .* and 0 with a label of 0"):
        fit(unlogged, labels=np.where(preference == 0, 0, np.nan))
    with pytest.raises(ValueError, match="Signal 2 has 0 resp"):
        fit(
            np.where([False, False, True], np.nan, y),
            labels=np.where(preference == 0, 0, np.nan),
        )
    fit(y)
    fit(y[:, 0], exposures=np.full(400, 3))
    fit(y[:, 0], labels=np.where(np.arange(400) % 4 == 0, preference, np.nan))
    few = np.zeros((400, 3))
    few[:15] = 1
    message = (
        "needs at least 5 responses with an action and 5 that lack one in each of 5 parts of the "
        "log"
    )
    with pytest.raises(ValueError, match=f"{message}. .* 15 with one and 385 that lack one, in 5"):
        fit(few)
    with pytest.raises(ValueError, match=f"{message}. .* in 3 parts .* together. Collect more"):
        fit(y, groups=np.arange(400) % 3)
    with pytest.raises(ValueError, match="in 1 part that .* equal X are one group: pass groups="):
        fit(y, X=np.ones_like(X))
