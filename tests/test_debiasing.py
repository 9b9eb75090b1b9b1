"""What signals and side information are for: the reward comes closer to the preference."""

import numpy as np
import pytest
from conftest import FULL_BATCH, LEARN, make_log, simulated, some_labels

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


@pytest.mark.slow
def test_reward_is_debiased_with_two_signals():
    X, y, preference = make_log(n=6000, n_signals=2)
    X_test, _, truth = make_log(n=3000, seed=1)
    r2 = {}
    for name, actions, objective in [
        ("naive", y[:, 0], "naive"),
        ("two", y, "stratified"),
        ("labels", preference, "naive"),
    ]:
        estimator = ImplicitRewardEstimator(
            objective, random_state=0, learning_rate_init=0.003, max_epochs=60
        ).fit(X, actions)
        r2[name] = estimator.score(X_test, None, true_preference=truth)
    assert r2["naive"] < 0
    assert (r2["two"] - r2["naive"]) / (r2["labels"] - r2["naive"]) > 0.9


@pytest.mark.slow
def test_false_actions_are_not_taken_for_preference():
    X, y, preference = make_log(n=6000, n_signals=2)
    rng = np.random.default_rng(5)
    y = np.where(preference[:, None] == 0, rng.uniform(size=y.shape) < 0.15, y)
    X_test, _, truth = make_log(n=3000, seed=1)
    params = {"random_state": 0, "learning_rate_init": 0.003, "max_epochs": 60}
    given, ignored = (
        ImplicitRewardEstimator(false_action_rate=rate, **params)
        .fit(X, y)
        .score(X_test, None, true_preference=truth)
        for rate in (0.15, 0.0)
    )
    assert given > ignored + 0.1


def r2(X, y, truth, params=None, **side_information):
    estimator = ImplicitRewardEstimator(**LEARN | (params or {})).fit(X, y, **side_information)
    return estimator.score(X, None, true_preference=truth)


def test_some_labels_help():
    X, log = simulated()
    truth = log.true_preference
    without = r2(X, log.actions, truth)
    with_labels = r2(X, log.actions, truth, labels=some_labels(truth, 0.1))
    assert with_labels > without + 0.15


def test_all_labels_leave_nothing_to_the_actions():
    """With every preference known the reward is the classifier trained on the labels."""
    X, log = simulated(n=300)
    params = FULL_BATCH | {"n_estimators": 1, "max_epochs": 60}
    labelled = ImplicitRewardEstimator(**params)
    labelled.fit(X, log.actions, labels=log.true_preference)
    labels = ImplicitRewardEstimator("naive", **params).fit(X, log.true_preference)
    # They start at different rates.
    assert np.corrcoef(labelled.predict(X), labels.predict(X))[0, 1] > 0.98


def test_labels_of_acted_rows_with_misclicks():
    X, log = simulated(n=800, false_action_rate=0.2, intercept=0.5)
    truth, acted = log.true_preference, log.actions == 1
    labels = np.where(acted, some_labels(truth, 0.6), np.nan)
    params = {"false_action_rate": 0.2}
    with pytest.raises(ValueError, match="these labels are not missing at random"):
        r2(X, log.actions, truth, params, labels=labels)
    without = r2(X, log.actions, truth, params)
    params["label_mechanism"] = "acted"
    assert r2(X, log.actions, truth, params, labels=labels) > without + 0.2
    with pytest.raises(ValueError, match="labels of acted .* while false_action_rate is 0"):
        r2(
            X,
            log.actions,
            truth,
            {"label_mechanism": "acted"},
            labels=np.where(acted, 1, np.nan),
        )


def test_unlogged_rows_learn_from_their_labels():
    X, log = simulated(n=600)
    y = log.actions.astype(float)
    y[:400] = np.nan
    labels = np.where(np.isnan(y), log.true_preference, np.nan)
    params = LEARN | {"early_stopping": False}
    estimator = ImplicitRewardEstimator(**params).fit(X, y, labels=labels)
    assert estimator.score(X[400:], None, true_preference=log.true_preference[400:]) > 0.3
    assert estimator.score(X, y) == pytest.approx(estimator.score(X[400:], y[400:]), rel=1e-5)


def test_exclusion_helps():
    X, _ = simulated()
    context = np.random.default_rng(5).normal(size=(1000, 2))
    log = simulate_feedback(
        1 / (1 + np.exp(-3 * X[:, 0] - X[:, 2])),
        propensity=1 / (1 + np.exp(-2 * context[:, 0])),
        random_state=1,
    )
    both = np.c_[X, context]
    truth = log.true_preference
    without = r2(both, log.actions, truth)
    assert r2(both, log.actions, truth, {"propensity_features": slice(5, 7)}) > without + 0.1


def test_known_propensities_help():
    X, log = simulated(n=1200)
    truth = log.true_preference
    known = some_labels(log.propensity, 0.4)
    assert r2(X, log.actions, truth, propensity=known) > r2(X, log.actions, truth) + 0.15


def test_propensity_head_learns_given_propensities_where_there_are_no_others():
    X, log = simulated()
    params = LEARN | {"max_epochs": 60, "early_stopping": False}
    estimator = ImplicitRewardEstimator(**params).fit(X, log.actions, propensity=log.propensity)
    assert np.corrcoef(estimator.propensity(X), log.propensity)[0, 1] > 0.95
    assert estimator.score(X, None, true_preference=log.true_preference) > 0.4


def test_preference_rate_settles_the_level_of_exclusion():
    X, _ = simulated(n=800)
    context = np.random.default_rng(5).normal(size=(800, 2))
    reward = 1 / (1 + np.exp(1 - 3 * X[:, 0] - X[:, 2]))
    # Nowhere is acting near certain, so that the level is open.
    propensity = 0.6 / (1 + np.exp(-2 * context[:, 0]))
    log = simulate_feedback(reward, propensity=propensity, random_state=1)
    both, truth = np.c_[X, context], log.true_preference
    params = LEARN | {"propensity_features": [5, 6], "max_epochs": 30}
    errors = [
        np.abs(
            ImplicitRewardEstimator(**params, preference_rate=rate)
            .fit(both, log.actions)
            .predict(both)
            - reward
        ).mean()
        for rate in (None, truth.mean())
    ]
    assert errors[1] < errors[0] - 0.01
