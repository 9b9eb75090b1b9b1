"""Intervals of single rewards hold what another log of the same users would change."""

import warnings

import numpy as np
import pytest
import torch

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import begin_fit
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import reward_interval
from implicitrm_sk.inspection._interval import prediction_end
from implicitrm_sk.training._users import N_NODES, UserWeights
from tests.conftest import FAST, LEARN, exposed, make_log, some_labels


def settings(**params):
    return ImplicitRewardEstimator(**LEARN | {"shared_examination": False} | params)


def intervals(est, X, y, X_new=None, n_bootstrap=10, **fit_params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X_new = X if X_new is None else X_new
        return reward_interval(est, X, y, X_new, n_bootstrap=n_bootstrap, **fit_params)


def width(found):
    return float((found.high - found.low).mean())


def test_interval_of_an_identified_reward_shrinks_with_the_log():
    X, y, _ = make_log(1200, n_signals=2, propensity=0.6)
    small = intervals(settings(), X[:200], y[:200], X[:200])
    large = intervals(settings(), X, y, X[:200])
    assert small.identification.level == large.identification.level == "identified"
    assert "do not cover a wrong assumption" in repr(small)
    assert width(large) < 0.7 * width(small)
    for found in (small, large):
        assert (found.low <= found.reward).all() and (found.reward <= found.high).all()
        assert (found.low >= 0).all() and (found.high <= 1).all()


def test_interval_grows_with_confidence():
    X, y, _ = make_log(n_signals=2)
    narrow, wide = (intervals(settings(), X, y, confidence=c) for c in (0.5, 0.95))
    assert (narrow.low >= wide.low).all() and (narrow.high <= wide.high).all()
    assert width(wide) > 1.2 * width(narrow)


@pytest.mark.parametrize("n_replicates", [5, 12, 50])
def test_ends_hold_one_more_draw_as_often_as_said(n_replicates):
    """Quantiles of 12 draws, at 5 % and 95 %, hold another one in 76 % of the cases."""
    draws = np.random.default_rng(0).normal(size=(n_replicates + 1, 20_000))
    rewards = 1 / (1 + np.exp(-1 - 0.5 * draws))
    low, high = (prediction_end(rewards[1:], p) for p in (0.05, 0.95))
    assert np.mean((low <= rewards[0]) & (rewards[0] <= high)) == pytest.approx(0.9, abs=0.01)
    quantiles = np.quantile(rewards[1:], [0.05, 0.95], axis=0)
    held = np.mean((quantiles[0] <= rewards[0]) & (rewards[0] <= quantiles[1]))
    assert held < 0.88


def test_an_end_that_all_replicates_have_stays():
    found = prediction_end(np.tile([[0.0, 1.0, 0.3]], (4, 1)), 0.05)
    np.testing.assert_array_equal(found, [0.0, 1.0, 0.3])


@pytest.mark.parametrize(
    ("signals", "level"),
    [(["positive"], "not identified"), (["positive", "negative"], "bounded")],
)
def test_interval_holds_what_the_actions_leave_open(signals, level):
    X = np.random.default_rng(0).normal(size=(1000, 4))
    reward = 1 / (1 + np.exp(-2 * X[:, 0]))
    half = np.full((1000, len(signals)), 0.5)
    log = simulate_feedback(reward, X=X, signals=signals, propensity=half, random_state=0)
    est = settings(signals=signals, shared_examination=None, max_epochs=50)
    found = intervals(est, X, log.actions, X[:500])
    assert found.identification.level == level
    reward = reward[:500]
    acts = 0.5 * reward
    upper = 1.0 if len(signals) == 1 else 1 - 0.5 * (1 - reward)
    assert np.mean((found.low <= acts + 0.05) & (found.high >= upper - 0.05)) >= 0.95
    assert width(found) > np.mean(upper - acts)
    assert "leave open" in repr(found) and level in repr(found)
    assert "wrong assumption" not in repr(found)


def test_rows_of_a_group_are_drawn_together():
    """A log whose rows are each logged five times knows no more than one of them."""
    X, y, _ = make_log(100, n_signals=2)
    X_new = make_log(100, seed=1)[0]
    copies = np.repeat(np.arange(100), 5)
    apart = intervals(settings(), X[copies], y[copies], X_new, 20, groups=np.arange(500))
    together = intervals(settings(), X[copies], y[copies], X_new, 20, groups=copies)
    assert width(together) > 1.2 * width(apart)


def test_interval_is_reproducible_and_leaves_generators_alone():
    X, y, _ = make_log(n_signals=2)
    state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    est = settings()
    first, second = (intervals(est, X, y, X[:20]) for _ in range(2))
    np.testing.assert_array_equal(first.low, second.low)
    np.testing.assert_array_equal(first.high, second.high)
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert not hasattr(est, "model_")
    frame = first.to_frame()
    assert list(frame) == ["reward", "reward_low", "reward_high"] and len(frame) == 20


@pytest.mark.parametrize("early_stopping", [True, False])
def test_each_replicate_has_weights_and_a_split_of_its_own(early_stopping):
    X, y, _ = make_log(200, n_signals=2)
    est = settings(early_stopping=early_stopping)
    est._validate_params()
    weight = np.linspace(0.5, 2.0, 200)
    data = begin_fit(est, X, y, sample_weight=weight).data
    factors = np.random.default_rng(0).exponential(size=(3, 200))
    data.resample(factors, 0.2, np.random.RandomState(0))
    train, valid = data.part_weights()
    np.testing.assert_allclose(train.mean(axis=1), 1)
    np.testing.assert_allclose(data.population_weight(), factors * weight)
    if not early_stopping:
        np.testing.assert_allclose(train, (f := factors * weight) / f.mean(1, keepdims=True))
        return
    np.testing.assert_allclose(valid.mean(axis=1), 1)
    assert ((train > 0) != (valid > 0)).all()
    held = valid > 0
    np.testing.assert_allclose(held.mean(axis=1), 0.2, atol=0.02)
    assert (held[0] != held[1]).any() and (held[1] != held[2]).any()


def test_side_information_of_fit_is_passed_on():
    X, y, preferred = make_log(600, n_signals=1)
    label = some_labels(preferred, 0.5)
    found = intervals(settings(), X, y, labels=label, sample_weight=np.ones(600))
    assert found.identification.level == "identified"
    X, exposures, counts, _, _ = exposed()
    found = intervals(
        settings(false_action_rate=0.0), X, counts, exposures=exposures, n_bootstrap=5
    )
    assert found.identification.level == "identified"
    assert (found.low <= found.high).all()


@pytest.mark.slow
def test_rows_of_a_user_are_drawn_together_and_users_differ():
    rng = np.random.default_rng(0)
    X, user = rng.normal(size=(4000, 3)), rng.integers(200, size=4000)
    reward = 1 / (1 + np.exp(-2 * X[:, 0]))
    log = simulate_feedback(reward, X=X, user_id=user, user_activity=3.0, random_state=0)
    est = settings(max_epochs=40)
    found = intervals(est, X, log.actions, X[:300], user_id=user)
    assert found.identification.level == "identified"
    assert "users share one taste" in repr(found)
    assert np.corrcoef(found.low, reward[:300])[0, 1] > 0.9
    assert np.mean((found.low <= reward[:300]) & (reward[:300] <= found.high)) > 0.6


def test_what_is_known_of_users_does_not_depend_on_their_weights():
    messages, prior = torch.randn(2, 3, N_NODES), torch.randn(2, 3, N_NODES).log_softmax(-1)
    factors = [np.array([[0.5, 2.0]] * 3), np.array([[3.0, 0.1]] * 3)]
    plain, weighted = UserWeights(2, 3, "cpu"), UserWeights(2, 3, "cpu", factors)
    plain.messages += messages
    weighted.messages += messages * torch.tensor(factors[0].T[..., None]).float()
    plain.refresh(), weighted.refresh()
    torch.testing.assert_close(plain.weight, weighted.weight)
    plain.messages += prior
    weighted.messages += prior * torch.tensor(factors[1].T[..., None]).float()
    of_users = torch.logsumexp(prior + plain.weight.log(), -1)
    torch.testing.assert_close(plain.held_out_risk(10), -of_users.double().sum(0) / 10)
    expected = -(of_users * torch.tensor(factors[1].T).float()).double().sum(0) / 10
    torch.testing.assert_close(weighted.held_out_risk(10), expected)


def test_rows_of_a_response_are_drawn_together():
    X, _, _, rows, acted = exposed()
    est = settings(false_action_rate=0.0)
    found = intervals(est, X[rows], acted, X, response_id=rows, n_bootstrap=5)
    assert found.identification.level == "identified" and len(found.low) == len(X)


def test_ids_of_single_rows_say_nothing_beside_users():
    X, y, _ = make_log(300)
    user = np.arange(300) % 30
    with_ids, without = (
        intervals(settings(), X, y, user_id=user, response_id=ids, n_bootstrap=3)
        for ids in ([f"r{i}" for i in range(300)], None)
    )
    np.testing.assert_array_equal(with_ids.low, without.low)
    with pytest.raises(ValueError, match="does not take response_id beside user_id"):
        intervals(settings(), X, y, user_id=user, response_id=np.arange(300) // 2, n_bootstrap=3)


def test_estimated_rates_and_preference_rate():
    X, y, _ = make_log(1500, n_signals=1, propensity=0.7)
    found = intervals(settings(preference_rate=0.4), X, y, n_bootstrap=4)
    assert abs(found.reward.mean() - 0.4) < 0.02
    X = np.random.default_rng(0).normal(size=(800, 4))
    log = simulate_feedback(
        1 / (1 + np.exp(-2 * X[:, 0])), X=X, n_signals=3, false_action_rate=0.1, random_state=0
    )
    est = settings(false_action_rate="estimate", max_epochs=5)
    found = intervals(est, X, log.actions, n_bootstrap=3)
    assert found.identification.level == "identified"
    assert width(found) > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_bootstrap": 1}, "n_bootstrap must be an integer of at least 2, got 1"),
        ({"n_bootstrap": 2.5}, "n_bootstrap must be an integer"),
        ({"confidence": 90}, "confidence must be a number between 0 and 1, got 90"),
        ({"user_id": np.zeros(399)}, "user_id"),
        ({"sample_weight": np.zeros(400)}, "sample_weight"),
        ({"groups": np.zeros(399)}, "groups"),
    ],
)
def test_bad_arguments(arguments, message):
    X, y, _ = make_log(n_signals=2)
    with pytest.raises(ValueError, match=message):
        reward_interval(ImplicitRewardEstimator(**FAST), X, y, X, **arguments)


@pytest.mark.parametrize("objective", ["bpr", "ips", "naive"])
def test_objectives_without_a_likelihood_are_refused(objective):
    X, y, _ = make_log()
    with pytest.raises(ValueError, match="reward_interval needs an objective"):
        intervals(settings(objective=objective), X, y)


def test_something_else_than_an_estimator():
    with pytest.raises(TypeError, match="est must be an ImplicitRewardEstimator, got str"):
        reward_interval("stratified", [[0.0]], [0], [[0.0]])


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Over 8 logs of two signals, 90 % intervals hold the true reward in most rows."""
    X_new = np.random.default_rng(99).normal(size=(400, 4))
    truth = 1 / (1 + np.exp(-1.5 * X_new[:, 0]))
    held = []
    for seed in range(8):
        X = np.random.default_rng(seed).normal(size=(1000, 4))
        reward = 1 / (1 + np.exp(-1.5 * X[:, 0]))
        ready = np.full((1000, 2), 0.6)
        log = simulate_feedback(reward, X=X, n_signals=2, propensity=ready, random_state=seed)
        est = settings(random_state=seed, max_epochs=60)
        found = intervals(est, X, log.actions, X_new, n_bootstrap=30)
        held.append(np.mean((found.low <= truth) & (truth <= found.high)))
    assert 0.85 <= np.mean(held) <= 0.99
    assert np.min(held) >= 0.5
