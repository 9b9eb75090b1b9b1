"""Which rows to ask labels of."""

import warnings

import numpy as np
import pytest
import torch

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import reread_log
from implicitrm_sk._prediction import HEADS, FittedMixture
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import label_queue
from implicitrm_sk.inspection._queue import _rewards, most_telling
from implicitrm_sk.training._users import quadrature
from tests.conftest import FAST, LEARN, exposed, make_log


def settings(**params):
    return ImplicitRewardEstimator(**FAST | params)


def queue(est, X, y, n, **fit_params):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return label_queue(est, X, y, n, **fit_params)


def test_rows_have_no_known_preference():
    X, y, preferred = make_log()
    labels = np.where(np.arange(400) < 100, preferred, np.nan)
    weight = np.where(np.arange(400) < 150, 1.0, 2.0) * (np.arange(400) < 350)
    rows = queue(settings(), X, y, 30, labels=labels, sample_weight=weight)
    assert rows.shape == (30,) and len(set(rows.tolist())) == 30
    assert not y[rows].any()
    assert rows.min() >= 100 and rows.max() < 350


def test_rows_with_an_action_are_asked_where_actions_prove_nothing():
    X, y, _ = make_log(n_signals=2)
    rows = queue(settings(false_action_rate=0.1), X, y, 300)
    assert y[rows].any()
    left = (~y.any(axis=1)).sum()
    with pytest.raises(ValueError, match=f"n=300 is more than the {left} distinct responses left"):
        queue(settings(), X, y, 300)


def test_a_negative_action_proves_too():
    X, y, _ = make_log(n_signals=1)
    y = np.hstack([y, (X[:, [0]] < -1).astype(int) * (1 - y)])
    rows = queue(settings(signals=["positive", "negative"]), X, y, 50)
    assert not y[rows].any()


def test_queue_is_reproducible_and_leaves_the_estimator_alone():
    X, y, _ = make_log()
    est = settings()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (queue(est, X, y, 20) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:5], queue(est, X, y, 5))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert not hasattr(est, "model_")


def test_the_next_row_is_the_one_that_lowers_the_variance_most():
    """By brute force: the posterior variance of the reward with each further row."""
    rng = np.random.default_rng(0)
    rewards, outcomes = rng.uniform(size=(2, 6, 15))
    weight = rng.dirichlet(np.ones(15))
    asked = np.arange(15) != 3
    chosen = most_telling(rewards, outcomes, asked, 4, weight, np.arange(15))
    R, q = ((v - v.mean(0)) / np.sqrt(6) for v in (rewards, outcomes))
    noise = (outcomes * (1 - outcomes)).mean(0)

    def variance(rows):
        precision = np.eye(6) + (q[:, rows] / noise[rows]) @ q[:, rows].T
        return ((R * np.linalg.solve(precision, R)).sum(0) * weight).sum()

    for k in range(4):
        before = chosen[:k].tolist()
        left = [row for row in range(15) if asked[row] and row not in before]
        assert chosen[k] == min(left, key=lambda row: variance([*before, row]))


def test_a_row_that_says_the_same_waits():
    """Of two pairs of equal rows the queue asks one of each before it asks another."""
    first, second = np.array([[0.99, 0.99, 0.01, 0.01], [0.98, 0.02, 0.98, 0.02]])
    rewards = np.stack([first, first, second, second], axis=1)
    asked, weight = np.ones(4, dtype=bool), np.full(4, 0.25)
    rows = most_telling(rewards, rewards, asked, 2, weight, np.arange(4))
    assert sorted(rows // 2) == [0, 1]


def test_equal_responses_are_asked_once():
    """Three rows of each response: users of their own, one question."""
    X, _, _ = make_log(40)
    response = np.tile(np.arange(40), 3)
    y = (np.random.default_rng(0).random(120) < 0.15).astype(int)
    open_responses = set(response[y == 0].tolist())
    rows = queue(settings(), X[response], y, len(open_responses))
    assert set(response[rows].tolist()) == open_responses and not y[rows].any()
    message = rf"n=41 is more than the {len(open_responses)} distinct responses left to ask, in"
    with pytest.raises(ValueError, match=message):
        queue(settings(), X[response], y, 41)
    # The label of one row is that of all of its response.
    first = int(rows[0])
    labels = np.full(120, np.nan)
    labels[first] = 1.0
    rows = queue(settings(), X[response], y, len(open_responses) - 1, labels=labels)
    assert response[first] not in response[rows]


def test_responses_are_equal_where_the_reward_reads_them():
    """A column that only the propensity reads, such as the user, makes no other question."""
    X, _, _ = make_log(40)
    response = np.tile(np.arange(40), 3)
    of_user = np.random.default_rng(0).normal(size=(120, 1))
    y = (np.random.default_rng(1).random(120) < 0.15).astype(int)
    est = settings(reward_features=list(range(6)))
    rows = queue(est, np.hstack([X[response], of_user]), y, 30)
    assert len(set(response[rows].tolist())) == 30


def test_rows_of_an_id_are_one_response():
    X, _, _, rows, acted = exposed()
    est = settings(false_action_rate=0.0)
    found = queue(est, X[rows], acted, 20, response_id=rows)
    asked = rows[found]
    assert len(set(asked.tolist())) == 20
    assert not np.isin(asked, rows[acted == 1]).any()


def test_ids_of_single_rows_say_nothing_beside_users():
    X, y, _ = make_log(200)
    users = {"user_id": np.arange(200) % 20}
    found = queue(settings(), X, y, 5, response_id=np.arange(200), **users)
    np.testing.assert_array_equal(found, queue(settings(), X, y, 5, **users))
    with pytest.raises(ValueError, match="does not take response_id beside user_id"):
        queue(settings(), X, y, 5, response_id=np.arange(200) // 2, **users)


def test_nothing_left_to_ask():
    X, y, preferred = make_log()
    with pytest.raises(ValueError, match="n=1, but no response is left to ask: labels or actions"):
        queue(settings(), X, y, 1, labels=np.where(y == 1, 1.0, preferred))


def test_labels_of_the_queue_count_and_settle_the_swap():
    X, y, preferred = make_log(1500)
    est = settings(**LEARN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = label_queue(est, X, y, 60)
        labels = np.full(1500, np.nan)
        labels[rows] = preferred[rows]
        fitted = est.fit(X, y, labels=labels)
    assert str(fitted.identification_) == "identified (assuming labels missing at random)"
    silent = y == 0
    reward = fitted.predict(X[silent])
    assert reward[preferred[silent] == 1].mean() > reward[preferred[silent] == 0].mean() + 0.1


@pytest.mark.parametrize("n", [0, 2.5, True, "all"])
def test_bad_number_of_rows(n):
    X, y, _ = make_log(50)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got"):
        label_queue(settings(), X, y, n)


def test_what_is_refused():
    X, y, _ = make_log(50)
    with pytest.raises(TypeError, match="est must be an ImplicitRewardEstimator, got str"):
        label_queue("stratified", X, y, 1)
    for objective in ("bpr", "naive"):
        with pytest.raises(ValueError, match="label_queue needs an objective"):
            label_queue(settings(objective=objective), X, y, 1)


def test_what_a_label_would_say_of_a_row_of_a_known_user():
    """By brute force: the mean of P(r* = 1 | x, y, activity) over the activity of the user."""
    rng = np.random.default_rng(0)
    X, user = rng.normal(size=(1200, 2)), np.arange(1200) % 40
    R = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    log = simulate_feedback(
        R, user_id=user, user_activity=3.0, propensity="constant", random_state=0
    )
    y = log.actions.ravel()
    est = settings(**LEARN | {"n_estimators": 2, "random_state": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, y, user_id=user)
        mixture = FittedMixture.of(est)
        rewards, outcomes = _rewards(mixture, X, reread_log(est, 1200, y, {}), user)
        assert mixture.differs
        f, u = mixture.members(X, *HEADS)
        nodes, loading = quadrature()[0], mixture.model.loading().detach().double()
        weight = np.exp(est.user_activity_.log_weight[est.user_activity_.codes(user)])
        for member in (0, 1):
            reward = torch.sigmoid(f[member]).numpy()
            ready = torch.sigmoid(u[member] + nodes * loading[member]).numpy()
            silent = reward[:, None] * (1 - ready)
            silent = silent / (silent + 1 - reward[:, None])
            expected = np.where(y == 1, 1.0, (weight[:, member] * silent).sum(1))
            np.testing.assert_allclose(outcomes[member], expected, atol=1e-5)
            np.testing.assert_allclose(rewards[member], reward)
        rows = label_queue(est, X, y, 100, user_id=user)
        assert set(rows) != set(label_queue(est, X, y, 100))
    assert not y[rows].any()
