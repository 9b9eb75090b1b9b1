"""Users who differ in taste."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import user_taste
from implicitrm_sk.inspection._taste import _taste
from tests.conftest import make_log

N_USERS = 100
QUICK = {"max_epochs": 3, "early_stopping": False, "n_estimators": 2}


def users_log(seed=0, n=3000, **users):
    rng = np.random.default_rng(seed)
    X, user = rng.normal(size=(n, 4)).astype(np.float32), rng.integers(N_USERS, size=n)
    reward = expit(1.5 * X[:, 0])
    return (
        X,
        user,
        simulate_feedback(reward, X=X, n_signals=2, user_id=user, random_state=0, **users),
    )


def settings(**params):
    return ImplicitRewardEstimator(
        shared_examination=False, learning_rate_init=0.01, random_state=0, **params
    )


@pytest.fixture(scope="module")
def tastes():
    X, user, log = users_log(user_taste=1.5)
    est = settings().fit(X, log.actions)
    return est, X, user, log, user_taste(est, X, log.actions, user)


def posterior(est, X, y, **side):
    groups = est.predict_proba(X, y, **side).astype(float)
    return groups[:, 0] + groups[:, 2]


def test_tastes_are_found_and_sharpen_the_posterior(tastes):
    est, X, user, log, found = tastes
    assert found.sd == pytest.approx(1.5, rel=0.2)
    assert found.gain > 2 * found.gain_error
    z = log.true_preference
    before, after = posterior(est, X, log.actions), found.posterior
    assert roc_auc_score(z, after) > roc_auc_score(z, before) + 0.01
    assert np.mean((z - after) ** 2) < np.mean((z - before) ** 2) - 0.005
    frame = found.to_frame()
    assert list(frame) == ["user_id", "mean", "spread", "n_rows"]
    assert frame["n_rows"].sum() == len(X)
    share = np.bincount(user, z) / np.bincount(user)
    assert np.corrcoef(frame["mean"], share[frame["user_id"]])[0, 1] > 0.8


def test_a_proved_preference_stays_proved(tastes):
    *_, log, found = tastes
    acted = log.actions.any(axis=1)
    np.testing.assert_allclose(found.posterior[acted], 1.0)
    assert found.posterior[~acted].max() < 1.0


@pytest.mark.slow
def test_without_tastes_the_posterior_is_that_of_the_estimator():
    X, user, log = users_log(user_activity=1.5)
    est = settings().fit(X, log.actions, user_id=user)
    found = user_taste(est, X, log.actions, user)
    assert found.sd == 0.0 and found.knows_users
    known = posterior(est, X, log.actions, user_id=user)
    np.testing.assert_allclose(found.posterior, known, atol=1e-5)
    assert "share one taste" in repr(found)


def test_activity_that_the_fit_does_not_know_is_named(tastes):
    found = tastes[-1]
    assert not found.knows_users
    assert "Fit with user_id" in repr(found)


def test_likelihood_and_posterior_by_enumeration():
    rng = np.random.default_rng(0)
    reward, evidence = rng.uniform(0.1, 0.9, 300), rng.normal(size=(2, 300))
    # Two outcomes that the rows of a user share make tastes likely.
    user = np.repeat(np.arange(20), 15)
    evidence[1] += 3.0 * rng.normal(size=20)[user]
    found = _taste(reward, evidence, user, np.arange(20), False)
    assert found.sd > 0.5
    c = np.linspace(-8, 8, 4001)
    prior = np.exp(-0.5 * c**2)
    prior /= prior.sum()
    # The logit of an average user, by bisection.
    low, high = np.full(300, -30.0), np.full(300, 30.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = expit(middle[:, None] + found.sd * c) @ prior < reward
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    p = expit(middle[:, None] + found.sd * c)
    ones, zeros = p * np.exp(evidence[1])[:, None], (1 - p) * np.exp(evidence[0])[:, None]
    plain = np.log(reward * np.exp(evidence[1]) + (1 - reward) * np.exp(evidence[0]))
    total = 0.0
    for one in range(20):
        mine = user == one
        weight = (ones + zeros)[mine].prod(0) * prior
        total += np.log(weight.sum()) - plain[mine].sum()
        weight /= weight.sum()
        expected = (ones / (ones + zeros))[mine] @ weight
        np.testing.assert_allclose(found.posterior[mine], expected, atol=1e-4)
        assert found.mean[one] == pytest.approx(weight @ c, abs=1e-3)
    assert found.gain == pytest.approx(total / 300, abs=1e-4)


def test_new_users_missing_ids_and_exposures():
    X, y, _ = make_log(n=400, n_signals=2)
    ids = np.array([f"u{i % 20}" for i in range(400)], dtype=object)
    ids[:3] = None
    est = settings(**QUICK, false_action_rate=0.0).fit(X, y, exposures=np.full(400, 2))
    found = user_taste(est, X, y, ids, exposures=np.full(400, 2))
    assert len(found.user_id) == 20 and found.n_rows.sum() == 397
    assert found.posterior.shape == (400,)


@pytest.mark.slow
def test_known_users_count_with_their_activity():
    X, user, log = users_log(user_activity=2.0, user_taste=1.0)
    est = settings().fit(X, log.actions, user_id=user)
    found = user_taste(est, X, log.actions, user)
    plain = user_taste(clone(est).fit(X, log.actions), X, log.actions, user)
    z = log.true_preference
    assert roc_auc_score(z, found.posterior) > roc_auc_score(z, plain.posterior) + 0.01


def test_bad_input():
    X, y, _ = make_log(n=200, n_signals=2)
    est = settings(**QUICK).fit(X, y)
    with pytest.raises(ValueError, match="none with two rows"):
        user_taste(est, X, y, np.arange(200))
    with pytest.raises(ValueError, match="user_id has shape"):
        user_taste(est, X, y, np.zeros(10))
    with pytest.raises(TypeError, match="pass its last step"):
        user_taste(make_pipeline(StandardScaler(), est), X, y, np.zeros(200))
    naive = settings(objective="naive", **QUICK).fit(X, y[:, 0])
    with pytest.raises(ValueError, match="likelihood of each row, got Naive"):
        user_taste(naive, X, y[:, 0], np.zeros(200))
