"""Users who differ in activity: nodes and messages, fits, predictions, refusals, files."""

import copy
import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from torch.nn.functional import logsigmoid

from implicitrm_sk import (
    BatchedSearchCV,
    Checkpoint,
    IdentificationWarning,
    ImplicitRewardEstimator,
    identification_report,
)
from implicitrm_sk._activity import (
    DIFFERENT,
    covariation,
    held_out,
    is_better,
    member_log_weight,
    rows_by_user,
    slots,
)
from implicitrm_sk._fit import begin_fit, reread_log
from implicitrm_sk._held_out import HeldOut, check_verdict, independence_of
from implicitrm_sk._identification import ADVICE, Identification, contradicted, with_activity
from implicitrm_sk._log import number_users
from implicitrm_sk._prediction import FittedMixture, OfUsers
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import reward_interval
from implicitrm_sk.measurement import _audience
from implicitrm_sk.measurement._audience import Audience
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.objectives import Stratified
from implicitrm_sk.signals import Action, Choice
from implicitrm_sk.training import _users
from implicitrm_sk.training._net import MemberRisk
from implicitrm_sk.training._users import N_NODES, UserWeights, moments, quadrature

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::implicitrm_sk.IdentificationWarning"
)

SMALL = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 2,
    "learning_rate_init": 0.01,
    "random_state": 0,
}
SHORT = SMALL | {"max_epochs": 3, "early_stopping": False}


def simulated(n=6000, n_users=200, activity=2.5, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    R = 1 / (1 + np.exp(-2 * X[:, 0]))
    user = rng.integers(n_users, size=n)
    kwargs = {"intercept": -0.5, "slope": 1.0, "random_state": seed} | kwargs
    log = simulate_feedback(R, X=X, user_id=user, user_activity=activity, **kwargs)
    return X, log, R, user


# ---------------------------------------------------------------- nodes and messages


def test_quadrature_is_exact_for_polynomials():
    nodes, log_weight = quadrature()
    for power, moment in ((0, 1), (1, 0), (2, 1), (4, 3), (6, 15), (3, 0)):
        assert (log_weight.exp() @ nodes**power).item() == pytest.approx(moment, abs=1e-9)


def random_rows(n=40, n_users=6, members=2, K=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    f = torch.randn(members, n, generator=g, dtype=torch.float64)
    u = torch.randn(members, n, K, generator=g, dtype=torch.float64)
    loading = torch.rand(members, 1, K, generator=g, dtype=torch.float64) + 0.5
    y = (torch.rand(n, K, generator=g) < 0.3).double()
    user = torch.randint(n_users, (n,), generator=g)
    return f, u, loading, y, user


def log_likelihood_of_users(f, u, loading, y, user, n_users=6):
    """Return log sum_q P(q) prod_rows P(y | x, q) of each member and user, written out."""
    nodes, log_prior = quadrature()
    measurement = Measurement.of_actions(y.shape[1])
    values = torch.stack([measurement.log_likelihood(f, u + z * loading, y) for z in nodes])
    total = torch.zeros(len(nodes), len(f), n_users, dtype=torch.float64)
    total = total.index_add(2, user, values)
    return torch.logsumexp(log_prior[:, None, None] + total, 0)


def test_the_gradient_is_that_of_the_likelihood_of_users():
    """With weights of the E-step at the same parameters (Fisher's identity)."""
    f, u, loading, y, user = random_rows()
    leaves = [x.clone().requires_grad_() for x in (f, u, loading)]
    expected = torch.autograd.grad(-log_likelihood_of_users(*leaves, y, user).sum(), leaves)
    users = UserWeights(6, 2, torch.device("cpu"))
    users.nodes, users.log_prior = quadrature()
    users.messages = users.messages.double()
    measurement = Measurement.of_actions(2)
    first = measurement.nll(*users.spread(*leaves), y)
    users.collect(first, user, torch.ones(len(y), dtype=torch.float64))
    users.refresh()
    risk = users.risk(measurement.nll(*users.spread(*leaves), y), user)
    found = torch.autograd.grad(risk.sum(), leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_before_the_first_messages_rows_stand_alone():
    f, u, loading, y, user = random_rows()
    users = UserWeights(6, 2, torch.device("cpu"))
    users.nodes, users.log_prior = quadrature()
    nll = Measurement.of_actions(2).nll(*users.spread(f, u, loading), y)
    alone = torch.arange(len(y))
    expected = -log_likelihood_of_users(f, u, loading, y, alone, len(y))
    torch.testing.assert_close(users.risk(nll, user), expected)


def test_held_out_rows_of_a_user_are_taken_together():
    f, u, loading, y, user = random_rows()
    users = UserWeights(6, 2, torch.device("cpu"))
    users.nodes, users.log_prior = quadrature()
    users.messages = users.messages.double()
    measurement, train = Measurement.of_actions(2), torch.arange(len(y)) < 25
    for part in (train, ~train):
        nll = measurement.nll(*users.spread(f[:, part], u[:, part], loading), y[part])
        users.collect(nll, user[part], torch.ones(int(part.sum()), dtype=torch.float64))
        if part is train:
            users.refresh()
    # log P(all) - log P(those that train)
    both = log_likelihood_of_users(f, u, loading, y, user)
    first = log_likelihood_of_users(f[:, train], u[:, train], loading, y[train], user[train])
    expected = -(both - first).sum(-1) / 15
    torch.testing.assert_close(users.held_out_risk(15), expected, rtol=1e-6, atol=1e-8)


def test_nodes_are_a_leading_dimension_of_every_kind():
    kinds = [Action(), Action(0), Choice({"up": 1, "down": 0}, "none")]
    measurement = Measurement(kinds, examined=True)
    assert measurement.loads() == (0, 1, 2, 2, 3)
    y = torch.tensor([[1, 0, 1], [0, 1, 2], [0, 0, 0]]).double()
    f, u = torch.randn(2, 3).double(), torch.randn(2, 3, 5).double()
    loading = torch.rand(2, 1, 5).double()
    users = UserWeights(1, 2, torch.device("cpu"))
    spread = users.spread(f, u, loading)
    found = measurement.nll(*spread, y)
    assert found.shape == (N_NODES, 2, 3)
    for node, one in zip(users.nodes, found, strict=True):
        torch.testing.assert_close(one, measurement.nll(f, u + node * loading, y))


# ---------------------------------------------------------------- responses that several users saw


def brute_force(f, u, loading, y, response, user, label, rate, nodes, log_prior):
    """Return log P(y, labels | x) of each member: the sum over all preferences and activities."""
    measurement = Measurement.of_actions(y.shape[1])
    at_nodes = torch.stack([measurement.log_rows(u + z * loading, y, rate) for z in nodes], 1)
    n_users, m = int(user.max()) + 1, f.shape[1]
    terms = []
    for r in itertools.product((0, 1), repeat=m):
        if any(one in (0, 1) and one != r[j] for j, one in enumerate(label.tolist())):
            continue
        prior = sum(logsigmoid(f[:, j] * (2 * r[j] - 1)) for j in range(m))
        for b in itertools.product(range(len(nodes)), repeat=n_users):
            rows = (at_nodes[r[response[i]], b[user[i]], :, i] for i in range(len(y)))
            terms.append(prior + sum(log_prior[k] for k in b) + sum(rows))
    return torch.logsumexp(torch.stack(terms), 0)


#: Three responses and four users, without circles: here belief propagation is exact.
RESPONSE, USER = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 3])


def few_nodes(n):
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return torch.as_tensor(x), torch.as_tensor(np.log(w / w.sum()))


def shared_rows(seed):
    g = torch.Generator().manual_seed(seed)
    f, u = (torch.randn(*size, generator=g, dtype=torch.float64) for size in ((2, 3), (2, 6, 2)))
    loading = torch.rand(2, 1, 2, generator=g, dtype=torch.float64) + 1
    return f, u, loading, (torch.rand(6, 2, generator=g) < 0.4).double()


@pytest.fixture
def three_nodes(monkeypatch):
    monkeypatch.setattr(_users, "N_NODES", 3)
    monkeypatch.setattr(_audience, "ROUNDS", 40)
    return few_nodes(3)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("rate", [None, [0.1, 0.05]])
@pytest.mark.parametrize("seed", [0, 1])
def test_likelihood_and_gradient_of_responses_that_several_users_saw(
    three_nodes, seed, rate, labelled
):
    f, u, loading, y = shared_rows(seed)
    rate = None if rate is None else torch.tensor(rate).double()
    label = torch.tensor([torch.nan, 1.0 if labelled else torch.nan, torch.nan]).double()
    log = {"actions": y, "user": USER, "response": RESPONSE, "labels": label}
    leaves = [x.clone().requires_grad_() for x in (f, u, loading)]
    expected = brute_force(*leaves, y, RESPONSE, USER, label, rate, *three_nodes)
    gradient = torch.autograd.grad(-expected.sum(), leaves)
    users = UserWeights(4, 2, torch.device("cpu"))
    users.nodes, users.log_prior = three_nodes
    users.messages = users.messages.double()
    criterion = MemberRisk(Stratified(), Measurement.of_actions(2), rate, users=users)
    for _ in range(12):
        mine = [x.clone().requires_grad_() for x in (f, u, loading)]
        risk = criterion((*mine[:2], {"loading": mine[2]}), log, torch.ones(3).double())
        messages = users.messages.clone()
        users.refresh()
    found = torch.logsumexp(messages + three_nodes[1], -1).sum(0)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)
    for one, other in zip(torch.autograd.grad(3 * risk.sum(), mine), gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_a_message_to_a_user_has_the_evidence_of_the_other_rows():
    """Rows 0 and 1 show one response to users 0 and 1, with weights of their own."""
    f, u, loading, y = (x[:, :2] if i == 1 else x for i, x in enumerate(shared_rows(3)))
    f, y, nodes = f[:, :1], y[:2], few_nodes(4)[0]
    y = y.clone()
    y[0] = 0.0
    weight = torch.softmax(torch.randn(4, 2, 2, dtype=torch.float64), 0)
    response, measurement = torch.zeros(2, dtype=torch.long), Measurement.of_actions(2)
    u_at = u + nodes[:, None, None, None] * loading
    log_rows = measurement.log_rows(u_at, y, torch.tensor([0.1, 0.1]))
    seen = Audience.of(log_rows, f, weight.log(), response)
    rows, R = log_rows.exp(), torch.sigmoid(f[:, 0])
    prior = torch.stack([1 - R, R])
    of_other = (rows[..., 1] * weight[..., 1]).sum(1)  # P(row 1 | r*), over its user
    message = (prior[:, None] * of_other[:, None] * rows[..., 0]).sum(0)
    mean = (message * weight[..., 0]).sum(0)
    torch.testing.assert_close(seen.message[..., 0].exp(), message / mean)
    torch.testing.assert_close(seen.log_likelihood[:, 0].exp(), mean)
    given = prior * of_other
    torch.testing.assert_close(torch.sigmoid(seen.others_logit[:, 0]), given[1] / given.sum(0))
    posterior = given * (rows[..., 0] * weight[..., 0]).sum(1)
    torch.testing.assert_close(seen.posterior[..., 0], posterior / posterior.sum(0))
    # Its rows share the likelihood of the response equally.
    shares = (seen.shares(response).exp() * weight).sum(0)
    torch.testing.assert_close(shares.prod(-1), mean)


def test_an_action_that_proves_the_preference_is_evidence_for_the_other_rows():
    f, u = torch.zeros(1, 1).double(), torch.zeros(1, 3, 1).double()
    y, response = torch.tensor([[1.0], [0.0], [0.0]]).double(), torch.zeros(3, dtype=torch.long)
    log_rows = Measurement.of_actions(1).log_rows(u[None], y)
    seen = Audience.of(log_rows, f, torch.zeros(1, 1, 1).double(), response)
    assert_allclose(seen.others_logit, [[-np.log(4.0), np.inf, np.inf]])
    assert seen.posterior[1].item() == 1
    assert seen.log_likelihood.exp().item() == pytest.approx(0.5**4)


@pytest.mark.parametrize("seed", [0, 1])
def test_responses_of_one_row_have_the_loss_of_rows(seed):
    f, u, loading, y, user = random_rows(seed=seed)
    fields = {"actions": y, "user": user}
    found = []
    for more in ({}, {"response": torch.arange(len(y))}):
        users = UserWeights(6, 2, torch.device("cpu"))
        users.nodes, users.log_prior = quadrature()
        users.messages = users.messages.double()
        criterion = MemberRisk(Stratified(), Measurement.of_actions(2), None, users=users)
        for _ in range(2):
            leaves = [x.clone().requires_grad_() for x in (f, u, loading)]
            risk = criterion(
                (*leaves[:2], {"loading": leaves[2]}), fields | more, torch.ones(len(y)).double()
            )
            users.refresh()
        gradient = torch.autograd.grad(risk.sum(), leaves)
        criterion.eval()
        criterion((f, u, {"loading": loading}), fields | more, torch.ones(len(y)).double())
        found.append([*gradient, users.weight, users.held_out_risk(len(y))])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)


def shown_to_several(n_responses=600, n_users=100, seed=0):
    """Return a log of four rows per response, users of sd 3, and the reward of the responses."""
    rng = np.random.default_rng(seed)
    of_response = rng.normal(size=(n_responses, 3))
    response = rng.permutation(np.repeat(np.arange(n_responses), 4))
    user = rng.integers(n_users, size=len(response))
    reward = 1 / (1 + np.exp(-2 * of_response[:, 0]))
    preferred = (rng.random(n_responses) < reward)[response]
    b = rng.normal(size=n_users)
    ready = 1 / (1 + np.exp(-(of_response[response, 1] - 1.0 + 3 * b[user])))
    y = (preferred & (rng.random(len(response)) < ready)).astype(float)
    return of_response[response], y, user, response, of_response, reward, b


@pytest.fixture(scope="module")
def several():
    X, y, user, response, of_response, reward, b = shown_to_several()
    settings = SMALL | {"shared_examination": False, "false_action_rate": 0.0}
    est = ImplicitRewardEstimator(**settings)
    est.fit(X, y, user_id=user, response_id=response, groups=response)
    return est, X, y, user, response, of_response, reward, b


def test_a_fit_with_users_and_responses_recovers_what_ignoring_users_does_not(several):
    est, X, y, _, response, of_response, reward, b = several
    plain = clone(est).fit(X, y, response_id=response)

    def error(one):
        return np.mean((one.predict(of_response) - reward) ** 2)

    assert error(est) < 0.8 * error(plain)
    assert est.user_loading_[0] == pytest.approx(3, rel=0.25)
    known = est.user_activity_
    assert np.corrcoef(known.mean, b[known.user_id])[0, 1] > 0.85


def test_predictions_of_responses_that_several_users_saw(several, tmp_path):
    est, X, y, user, response, *_ = several
    rows = np.flatnonzero(response < 40)
    X, y, user, response = X[rows], y[rows], user[rows], response[rows]
    mixture = FittedMixture.of(est)
    log = reread_log(est, len(X), y, {"response_id": response})
    f, u = mixture.members(X, "reward_logit", "propensity_logit")
    nodes, loading = quadrature()[0], est.model_.loading().detach().double()
    actions = torch.as_tensor(y[:, None])
    at_nodes = mixture.measurement.log_rows(u + nodes[:, None, None, None] * loading, actions)
    for ids in (user, np.full(len(X), -7)):
        weight = mixture.log_weight(mixture.codes(ids, len(X))).unflatten(0, (-1, 2)) + np.log(2)
        of_rows = torch.logsumexp(at_nodes + weight, 1).exp()  # (2, members, rows)
        proba = est.predict_proba(X, y, user_id=ids, response_id=response)
        assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
        for one in range(3):
            mine = np.flatnonzero(response == one)
            R = torch.sigmoid(f[:, mine[0]])
            joint = torch.stack([1 - R, R]) * of_rows[:, :, mine].prod(-1)
            expected = joint[1].mean() / joint.sum(0).mean()
            assert_allclose(proba[mine][:, [0, 2]].sum(axis=1), expected.item(), rtol=1e-4)
    # Without ids each row has a user of its own, of the population.
    total = []
    for one in range(log.n_responses):
        mine = np.flatnonzero(log.response == one)
        R = torch.sigmoid(f[:, mine[0]])
        joint = torch.stack([1 - R, R]) * of_rows[:, :, mine].prod(-1)
        total.append(joint.sum(0).mean().log().item())
    assert est.score(X, y, response_id=response) == pytest.approx(np.mean(total))
    assert_allclose(est.predict_proba(X, y, response_id=response), proba, atol=1e-6)
    known = est.score(X, y, response_id=response, user_id=user)
    assert known > np.mean(total) + 0.1
    several_rows = rows_of_users(est, X, y, user, response)
    assert several_rows == pytest.approx(known)
    est.save(tmp_path / "model", users=True)
    same = ImplicitRewardEstimator.load(tmp_path / "model")
    assert same.score(X, y, response_id=response, user_id=user) == pytest.approx(known)


def rows_of_users(est, X, y, user, response):
    """Return the score as the report computes it, from the likelihoods of users."""
    mixture = FittedMixture.of(est)
    log = reread_log(est, len(X), y, {"response_id": response})
    of_users = OfUsers.among(mixture, log, user)
    logits = mixture.members(X, "reward_logit", "propensity_logit")
    total = of_users.log_likelihood([(slice(None), *logits)])
    assert of_users.weight.sum() == pytest.approx(log.n_responses)
    return (torch.logsumexp(total, 0) - np.log(len(total))).sum().item() / log.n_responses


def test_the_order_of_rows_does_not_matter_where_users_share_responses():
    X, y, user, response, *_ = shown_to_several(60, 12)
    est = ImplicitRewardEstimator(**SHORT | {"false_action_rate": 0.0, "max_epochs": 1})
    est.fit(X, y, user_id=user, response_id=response)
    order = np.random.default_rng(1).permutation(len(y))
    side = {"user_id": user, "response_id": response}
    mixed = {name: value[order] for name, value in side.items()}
    assert est.score(X[order], y[order], **mixed) == pytest.approx(est.score(X, y, **side))
    groups = est.predict_proba(X, y, **side)
    assert_allclose(est.predict_proba(X[order], y[order], **mixed), groups[order], atol=1e-6)


def test_what_goes_with_users_and_responses():
    X, y, user, response, *_ = shown_to_several(120, 12)
    signals = ["positive", "negative"]
    both = np.column_stack([y, (1 - y) * (np.arange(len(y)) % 5 == 0) * (X[:, 0] < 0)])
    both[np.isin(response, response[y > 0]), 1] = 0
    both[::7, 1] = np.nan
    label = np.where(response % 10 == 0, (X[:, 0] > 0).astype(float), np.nan)
    label[np.isin(response, response[y > 0])] = np.nan
    ids = np.where(np.arange(len(y)) % 30 == 0, None, [f"user {one}" for one in user])
    side = {"user_id": ids, "response_id": response}
    settings = SHORT | {"false_action_rate": 0.0, "signals": signals}
    for more in ({}, {"shared_examination": True}):
        est = ImplicitRewardEstimator(**settings | more | {"early_stopping": True})
        est.fit(X, both, labels=label, sample_weight=1.0 + response % 3, **side)
        assert est.user_loading_.shape == (3 if more else 2,)
        assert np.isfinite(est.score(X, both, **side))
        assert np.isfinite(est.predict_proba(X, both, **side)).all()
    counts = both[:, 0] + (np.arange(len(y)) % 2) * both[:, 0]
    est = ImplicitRewardEstimator(**SHORT | {"false_action_rate": 0.0})
    est.fit(X, counts, exposures=np.full(len(y), 2), **side)
    assert np.isfinite(est.score(X, counts, exposures=np.full(len(y), 2), **side))
    search = BatchedSearchCV(est, {"learning_rate_init": [0.01, 0.02]}, cv=GroupKFold(2))
    search.fit(X, y, groups=response, **side)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    with pytest.raises(ValueError, match="reward_interval does not take response_id beside"):
        reward_interval(est, X, y, X[:2], n_bootstrap=2, **side)
    again = len(response) - len(np.unique(response))
    with pytest.raises(
        ValueError, match=f"^{again} rows have the response_id of .* that are estimated"
    ):
        ImplicitRewardEstimator(**SHORT).fit(X, y, **side)


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("ids", "expected", "known"),
    [
        ([3, 1, 3, 2], [2, 0, 2, 1], [1, 2, 3]),
        (["b", "a", "b"], [1, 0, 1], ["a", "b"]),
        ([1.0, np.nan, 1.0, np.nan], [0, 1, 0, 2], [1.0]),
        (["b", None, ("x", 1), "b"], [0, 2, 1, 0], ["b", ("x", 1)]),
        ([("x", 1), ("y", 2), ("x", 1)], [0, 1, 0], [("x", 1), ("y", 2)]),
        (pd.Series(["b", None, "b"], dtype="string"), [0, 1, 0], ["b"]),
        (pd.Categorical(["b", "a", "b"]), [1, 0, 1], ["a", "b"]),
    ],
)
def test_users_are_numbered(ids, expected, known):
    user, found = number_users(ids, len(ids))
    assert list(found) == known
    same = np.equal.outer(user, user)
    assert_array_equal(same, np.equal.outer(expected, expected))
    assert user.max() == len(set(expected)) - 1


@pytest.mark.parametrize(
    ("fit_params", "params", "message"),
    [
        ({"user_id": np.zeros(39)}, {}, "user_id has shape (39,); expected"),
        ({"user_id": [[1]] * 40}, {}, "user_id has shape (40, 1)"),
        ({"user_id": np.array([{}] * 40)}, {}, "a value that cannot be an id (unhashable type"),
        ({"propensity": np.full(40, 0.5)}, {}, "user_id is not available with propensity"),
        ({"exposures": np.full(40, 3)}, {}, "user_id is not available with false-action"),
        ({}, {"objective": "naive"}, "Naive makes no use of user_id. Leave it out"),
    ],
)
def test_refusals(fit_params, params, message):
    X = np.tile(np.random.default_rng(0).normal(size=(20, 2)), (2, 1))
    X = np.repeat(X[:20], 2, axis=0)
    y = np.arange(40) % 2
    est = ImplicitRewardEstimator(**SHORT).set_params(**params)
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(X, y, **{"user_id": np.arange(40) % 5} | fit_params)


def test_where_users_are_not_taken(tmp_path):
    X, log, _, user = simulated(400, 20)
    est = ImplicitRewardEstimator(**SHORT)
    # Candidates with users train one by one, and cannot be paused.
    settings = {"param_grid": {"learning_rate_init": [0.1, 0.01]}, "cv": 2}
    search, plain = (
        each(est, **settings).fit(X, log.actions, user_id=user)
        for each in (BatchedSearchCV, GridSearchCV)
    )
    assert_allclose(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    with pytest.raises(ValueError, match="factor=2 pauses candidates, but .* may not use user_id"):
        BatchedSearchCV(est, **settings, factor=2).fit(X, log.actions, user_id=user)
    kept = clone(est).set_callbacks(Checkpoint(tmp_path / "file"))
    with pytest.raises(ValueError, match="a Checkpoint is not available with user_id"):
        kept.fit(X, log.actions, user_id=user)
    est.fit(X, log.actions, user_id=user)
    with pytest.raises(ValueError, match="partial_fit is not available after a fit with user_id"):
        est.partial_fit(X, log.actions)
    with pytest.raises(ValueError, match="warm_start=True is not available with user_id"):
        est.set_params(warm_start=True).fit(X, log.actions)
    plain = ImplicitRewardEstimator(**SHORT).fit(X, log.actions)
    with pytest.raises(ValueError, match="user_id was given, but the estimator was fitted without"):
        plain.propensity(X, user_id=user)
    with pytest.raises(ValueError, match="user_id was given, but"):
        plain.score(X, log.actions, user_id=user)


def test_a_column_that_numbers_the_rows_is_no_user():
    X, log, *_ = simulated(400)
    est = ImplicitRewardEstimator(**SHORT)
    with pytest.warns(UserWarning, match="400 different users in 400 rows and is ignored"):
        est.fit(X, log.actions, user_id=np.arange(400))
    plain = ImplicitRewardEstimator(**SHORT).fit(X, log.actions)
    assert_array_equal(est.predict(X), plain.predict(X))


@pytest.mark.spec
@pytest.mark.parametrize(
    "loading, n_rows", [(0.5, 100), (1.5, 15), (1.5, 100), (3.0, 1), (3.0, 15)]
)
def test_moments_of_users_are_those_of_a_fine_grid(loading, n_rows):
    """Nodes alone are off by up to 0.6 standard deviations here."""
    rng = np.random.default_rng(n_rows)
    b = rng.normal(size=(40, 2, 1))
    reward, logit = rng.uniform(0.05, 0.95, size=(40, 2, n_rows)), rng.normal(size=(40, 2, n_rows))
    acted = rng.random(reward.shape) < reward / (1 + np.exp(-logit - loading * b))

    def log_likelihood(b):
        probability = reward[..., None] / (1 + np.exp(-logit[..., None] - loading * b))
        return np.log(np.where(acted[..., None], probability, 1 - probability)).sum(2)

    mean, sd = moments(torch.as_tensor(log_likelihood(quadrature()[0].numpy())))
    grid = np.linspace(-6, 6, 601)
    weight = np.exp(log_likelihood(grid) - grid**2 / 2)
    weight = (weight / weight.sum(-1, keepdims=True)).mean(1)  # an equal mixture of two members
    expected = weight @ grid
    spread = np.sqrt(weight @ grid**2 - expected**2)
    assert np.abs((mean - expected) / spread).max() < 0.1
    assert_allclose(sd, spread, rtol=0.1)


def test_moments_of_many_users_and_of_none(monkeypatch):
    messages = torch.as_tensor(np.random.default_rng(0).normal(0, 3, size=(25, 2, N_NODES)))
    together = moments(messages)
    monkeypatch.setattr(_users, "USERS_AT_ONCE", 4)
    assert_array_equal(moments(messages), together)
    assert [len(part) for part in moments(messages[:0])] == [0, 0]
    assert_allclose(moments(torch.zeros(3, 2, N_NODES)), [[0] * 3, [1] * 3], atol=1e-6)


# ---------------------------------------------------------------- fits


@pytest.fixture(scope="module")
def active():
    X, log, R, user = simulated()
    settings = SMALL | {"learning_rate_init": 0.003, "shared_examination": False}
    est = ImplicitRewardEstimator(**settings)
    est.fit(X[:5000], log.actions[:5000], user_id=user[:5000])
    return est, X, log, R, user


def test_a_fit_recovers_reward_activity_and_loading(active):
    est, X, log, R, user = active
    test = slice(5000, None)
    assert np.corrcoef(est.predict(X[test]), R[test])[0, 1] > 0.96
    assert est.predict(X[test]).mean() == pytest.approx(R[test].mean(), abs=0.06)
    assert est.user_loading_[0] == pytest.approx(2.5, rel=0.25)
    known = est.user_activity_
    truth = dict(zip(user, log.user_effect, strict=True))
    b = np.array([truth[one] for one in known.user_id])
    assert np.corrcoef(known.mean, b)[0, 1] > 0.85
    assert np.mean(((known.mean - b) / known.sd) ** 2) == pytest.approx(1, abs=0.4)
    assert_array_equal(known.n_rows, np.bincount(user[:5000], minlength=200)[known.user_id])
    found = est.identification_
    assert found.level == "identified" and not found.swap_symmetric
    assert "users share one taste" in found.assumptions


def covariation_of(sd, shared):
    """Return `covariation` of a fit without users to 3,000 rows of 200 users, and their fit."""
    rng = np.random.default_rng(0)
    response = np.arange(3000) // 3 if shared else np.arange(3000)
    X = rng.normal(size=(3000, 6))[response]
    preferred = (rng.random(3000) < 1 / (1 + np.exp(-3 * X[:, 0])))[response]
    user = rng.integers(200, size=3000)
    log = simulate_feedback(
        preferred, X=X, user_id=user, user_activity=sd, n_signals=2, random_state=0
    )
    est = ImplicitRewardEstimator(
        **SHORT | {"shared_examination": False, "false_action_rate": 0.0, "max_epochs": 15}
    )
    given = {"user_id": user} | ({"response_id": response} if shared else {})
    begun = begin_fit(clone(est), X, log.actions, **given)
    plan, data = begun.plan, begun.data
    plain = plan.run(
        copy.copy(data), plan.initial_model(data, begun.random_state), 15, begun.random_state
    )
    return covariation(plain.model, plan, data), est.fit(X, log.actions, **given)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["rows", "shared responses"])
def test_users_who_differ_are_noticed_and_no_others(shared):
    z, est = covariation_of(1.0, shared)
    assert (z > 4).all()
    assert (est.user_loading_ > 0.5).all()
    z, est = covariation_of(0.0, shared)
    assert (np.abs(z) < DIFFERENT).all()
    assert (est.user_loading_ == 0).all()
    assert_array_equal(est.user_activity_.sd, 1)


def test_users_ignored_are_worse(active):
    est, X, log, R, user = active
    plain = ImplicitRewardEstimator(**SMALL).fit(X[:5000], log.actions[:5000])
    test = slice(5000, None)

    def error(one):
        return np.mean((one.predict(X[test]) - R[test]) ** 2)

    assert error(est) < 0.5 * error(plain)
    with_ids = est.score(X[test], log.actions[test], user_id=user[test])
    assert with_ids > est.score(X[test], log.actions[test]) + 0.02
    assert est.score(X[test], log.actions[test]) == pytest.approx(
        plain.score(X[test], log.actions[test]), abs=0.02
    )


def test_known_and_unknown_users(active):
    est, X, log, _, user = active
    x, known = X[:50], est.user_activity_
    most, least = known.user_id[known.mean.argmax()], known.user_id[known.mean.argmin()]
    for method in (est.propensity, est.predict_action):
        average = method(x)
        high, low = (method(x, user_id=np.full(50, one)) for one in (most, least))
        assert (low < average).all() and (average < high).all()
        assert_allclose(method(x, user_id=np.full(50, -7)), average)
    mixed = est.propensity(x, user_id=np.where(np.arange(50) % 2, most, -7))
    assert_array_equal(mixed[1::2], est.propensity(x, user_id=np.full(50, most))[1::2])
    assert_array_equal(mixed[::2], est.propensity(x)[::2])
    silent = np.zeros(50)
    groups = [est.predict_proba(x, silent, user_id=np.full(50, one)) for one in (most, least, -7)]
    for each in groups:
        assert_allclose(each.sum(axis=1), 1, rtol=1e-5)
    # The silence of who acts on whatever they like shows dislike.
    assert (groups[0][:, [0, 2]].sum(axis=1) < groups[1][:, [0, 2]].sum(axis=1)).all()
    assert_allclose(groups[2], est.predict_proba(x, silent), atol=1e-6)
    # Of all users that the log has, the propensity is the true one.
    found = est.propensity(X, user_id=user)
    assert np.corrcoef(found, log.propensity)[0, 1] > 0.85


def test_a_score_takes_the_rows_of_a_user_together(active):
    est, X, log, _, user = active
    rows = np.flatnonzero(user[5000:] < 20) + 5000
    X, y, user = X[rows], log.actions[rows], user[rows]
    mixture, total = FittedMixture.of(est), 0.0
    f, u = mixture.components(X, "reward_logit", "propensity_logit")
    values = mixture.measurement.log_likelihood(f, u, torch.as_tensor(y[:, None]).double())
    for one in np.unique(user):
        mine = user == one
        weight = mixture.log_weight(mixture.codes(user[mine][:1], 1))[:, 0]
        total += torch.logsumexp(weight + values[:, mine].sum(1), 0).item()
    assert est.score(X, y, user_id=user) == pytest.approx(total / len(y))
    alone = est.score(X, y, user_id=[f"new {i}" for i in range(len(y))])
    assert alone == pytest.approx(est.score(X, y))
    twice = est.score(X, y, user_id=user, sample_weight=np.full(len(y), 2.0))
    assert np.isfinite(twice)


def test_ids_stay_here_unless_asked_for(active, tmp_path):
    est, X, log, _, user = active
    est.save(tmp_path / "without")
    same = ImplicitRewardEstimator.load(tmp_path / "without")
    assert_array_equal(same.predict(X[:9]), est.predict(X[:9]))
    assert_array_equal(same.propensity(X[:9]), est.propensity(X[:9]))
    with pytest.warns(UserWarning, match="saved without its users"):
        average = same.propensity(X[:9], user_id=user[:9])
    assert_array_equal(average, est.propensity(X[:9]))
    assert not hasattr(same, "user_activity_")
    assert "are not in these files" in (tmp_path / "without" / "README.md").read_text()
    est.save(tmp_path / "with", users=True)
    same = ImplicitRewardEstimator.load(tmp_path / "with")
    expected = est.propensity(X[:9], user_id=user[:9])
    assert_array_equal(same.propensity(X[:9], user_id=user[:9]), expected)
    assert "personal data" in (tmp_path / "with" / "README.md").read_text()


def test_where_users_do_not_differ_it_is_the_fit_without():
    X, log, _, user = simulated(2000, 100, activity=0.0, seed=1)
    est = ImplicitRewardEstimator(**SMALL)
    plain = clone(est).fit(X, log.actions)
    with pytest.warns(IdentificationWarning, match="do not show that users differ"):
        est.fit(X, log.actions, user_id=user)
    assert_array_equal(est.predict(X), plain.predict(X))
    assert est.history_ == plain.history_
    assert_array_equal(est.user_loading_, [0])
    assert (est.user_activity_.sd == 1).all()
    assert_array_equal(est.propensity(X[:5], user_id=user[:5]), plain.propensity(X[:5]))
    assert est.score(X, log.actions, user_id=user) == plain.score(X, log.actions)
    assert est.identification_.level == "not identified" and est.identification_.swap_symmetric


def test_all_that_goes_with_users(tmp_path):
    signals = {"copied": "positive", "thumb": Choice({"up": 1, "down": 0}, "none")}
    X, log, _, user = simulated(600, 30, signals=signals, examination=0.8)
    label = np.where(np.arange(600) % 20 == 0, log.true_preference, np.nan)
    ids = np.where(np.arange(600) % 50 == 0, None, [f"user {one}" for one in user])
    est = ImplicitRewardEstimator(
        signals=signals, shared_examination=True, shared_propensity=True, **SHORT
    )
    est.fit(
        X,
        log.actions,
        user_id=ids,
        labels=label,
        sample_weight=np.linspace(0, 2, 600),
        groups=user,
    )
    assert est.user_loading_.shape == (3,)  # and of looking
    assert est.propensity(X, user_id=ids).shape == (600, 3)
    assert est.predict_examination(X).shape == (600,)
    assert np.isfinite(est.score(X, log.actions, user_id=ids))
    assert len(est.user_activity_.user_id) == 30
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    from_file = clone(est).fit(tmp_path / "X.npy", log.actions, user_id=ids)
    assert np.isfinite(from_file.predict(X)).all()
    counts = ImplicitRewardEstimator(false_action_rate=0.0, **SHORT)
    y = (X[:, :1] > 0) * np.random.default_rng(0).integers(0, 3, size=(600, 1))
    counts.fit(X, y, exposures=np.full(600, 3), user_id=user)
    assert np.isfinite(counts.score(X, y, exposures=np.full(600, 3), user_id=user))


def test_the_report_has_the_verdict_of_the_fit():
    signals = {"copied": "positive", "regenerated": "negative"}
    X, log, _, user = simulated(3200, 200, activity=3.0, signals=signals)
    settings = SMALL | {"max_epochs": 12, "shared_examination": False}
    est = ImplicitRewardEstimator(signals=signals, **settings)
    report = identification_report(est, X, log.actions, n_starts=2, user_id=user)
    est.fit(X, log.actions, user_id=user)
    assert report.settings.level == est.identification_.level == "identified"
    assert report.settings.assumptions == est.identification_.assumptions
    assert "200 users of 16 rows (median) differ" in report.reason
    assert report.level == "identified" or "this log is too small to show it" in report.reason
    assert report.user_loading.shape == (2,) and (report.user_loading > 1.4).all()
    assert report.swap["why"] == "users who differ in activity distinguish the two"
    text = str(report)
    assert "activity of users  differs by a standard deviation of up to" in text
    assert "whether they share one taste" in " ".join(text.split())
    assert report.plot()[1].get_title() == f"Reward: {report.verdict.partition(' (')[0]}"
    # Bounds are means over the population, of each refit.
    f, u = FittedMixture.of(report.estimator).members(X[:9], "reward_logit", "propensity_logit")
    nodes, log_weight = quadrature()
    loading = report.estimator.model_.loading().detach().double()
    p = sum(
        w * torch.sigmoid(f)[..., None] * torch.sigmoid(u + node * loading)
        for node, w in zip(nodes, log_weight.exp(), strict=True)
    )
    kept = report.refits["as_likely"]
    assert_allclose(report.bounds(X[:9])[:, 0], p[kept][..., 0].amin(0), atol=1e-5)


def test_the_report_tests_independence_though_users_are_kept_apart():
    """With users as groups, no user of the rows kept aside is known to the refits."""
    rng = np.random.default_rng(0)
    user = np.arange(6000) % 250
    X = rng.normal(size=(6000, 3)).astype(np.float32)
    liked = rng.random(6000) < 1 / (1 + np.exp(-2 * X[:, 0]))
    ready = 1 / (1 + np.exp(-(2.5 * rng.normal(size=250)[user, None] + [1.0, 0.5, 0.0])))
    y = (liked[:, None] & (rng.random((6000, 3)) < ready)).astype(int)
    est = ImplicitRewardEstimator(
        shared_examination=False, learning_rate_init=0.01, n_estimators=2, random_state=0
    )
    ids = {"user_id": user, "groups": user}
    sound = identification_report(est, X, y, n_starts=2, **ids)
    assert sound.level == "identified", sound.reason
    assert sound.independence.n_rows > 300
    copied = rng.random(6000) < 0.7
    y[copied, 1] = y[copied, 0]
    report = identification_report(est, X, y, n_starts=2, **ids)
    assert report.level == "not identified"
    assert "do not fire independently given preference and user" in report.reason


def test_the_report_is_not_above_a_fit_of_the_same_log():
    X, log, _, user = simulated(1500, 100, n_signals=2)
    est = ImplicitRewardEstimator(**SHORT, shared_examination=False)
    est.fit(X, log.actions)
    sound = identification_report(est, X, log.actions, n_starts=2)
    assert sound.level == "identified", sound.reason
    est.identification_ = contradicted(est.identification_, "counts differ", "dispersion")
    report = identification_report(est, X, log.actions, n_starts=2)
    assert report.level == "not identified" and report.assumptions == ()
    assert report.reason.endswith("But counts differ.")
    assert report.advice[0] == est.identification_.advice[0]
    # The fit says nothing of another log.
    other = identification_report(est, X[:-1], log.actions[:-1], n_starts=2)
    assert other.level == "identified", other.reason


def test_without_differences_the_report_has_the_verdict_of_the_fit_too():
    X, log, _, user = simulated(1500, 100, activity=0.0, seed=1)
    est = ImplicitRewardEstimator(**SMALL)
    report = identification_report(est, X, log.actions, n_starts=2, user_id=user)
    assert report.level == "not identified" and not report.user_loading.any()
    assert "do not show that users differ in activity" in report.reason
    assert "not shown: users who do not differ are as likely" in str(report)
    assert report.swap["applicable"]


def test_likelihoods_of_the_report_are_those_of_the_score(active):
    est, X, log, _, user = active
    X, y, user = X[5000:], log.actions[5000:], user[5000:]
    mixture = FittedMixture.of(est)
    of_users = OfUsers.among(mixture, reread_log(est, len(X), y, {}), user)
    logits = mixture.members(X, "reward_logit", "propensity_logit")
    total = of_users.log_likelihood([(slice(None), *logits)])
    members = torch.logsumexp(total, 0) - np.log(len(total))
    assert members.sum().item() / len(X) == pytest.approx(est.score(X, y, user_id=user))
    assert_array_equal(of_users.weight, np.unique(user, return_counts=True)[1])


def test_ids_are_routed_in_a_search():
    X, log, _, user = simulated(600, 30)
    search = GridSearchCV(
        ImplicitRewardEstimator(**SHORT), {"learning_rate_init": [0.01, 0.02]}, cv=2
    )
    with sklearn.config_context(enable_metadata_routing=True):
        search.fit(X, log.actions, user_id=user)
    assert search.best_estimator_.user_loading_.shape == (1,)


def test_messages_after_training_are_those_of_its_rows():
    X, log, _, user = simulated(500, 10)
    est = ImplicitRewardEstimator(**SMALL)
    begun = begin_fit(est, X, log.actions, user_id=user)
    plan = replace(begun.plan, n_users=10)
    model = plan.initial_model(begun.data, begun.random_state)
    rows = rows_by_user(model, plan, begun.data)
    assert rows.train.shape == rows.valid.shape == (10, 2, N_NODES)
    plain = begun.plan.initial_model(begun.data, begun.random_state)
    without = rows_by_user(plain, begun.plan, begun.data)
    assert_allclose(held_out(without), without.valid[..., 0])
    assert (held_out(rows) < 0).all()


# ---------------------------------------------------------------- choices


def test_members_have_places_by_weight():
    assert slots(np.array([1.0, 0, 0, 0])).tolist() == [0, 0, 0, 0]
    assert slots(np.array([0.6, 0.4, 0, 0])).tolist() == [0, 0, 1, 1]
    assert slots(np.array([0.05, 0.9, 0.05, 0])).tolist() == [1, 1, 1, 1]
    assert slots(np.full(4, 0.25)).tolist() == [0, 1, 2, 3]


def test_activity_has_to_be_better_by_a_standard_error():
    gain = torch.tensor([1.0, -1.0] * 50)
    plain = torch.zeros(100)
    assert not is_better(gain + 0.09, plain)
    assert is_better(gain + 0.11, plain)
    assert not is_better(plain, plain)


def test_what_activity_identifies():
    found = Identification("not identified", reason="one signal.", swap_symmetric=True)
    users = np.full(200, 16)
    strong = with_activity(found, np.array([1.5]), users, True)
    assert strong.level == "identified" and "users share one taste" in str(strong)
    assert "every row was looked at" in strong.assumptions
    unseen = with_activity(found, np.array([1.5]), users, False)
    assert unseen.level == "not identified" and not unseen.swap_symmetric
    assert "nobody looked at leave them silent too" in unseen.reason
    assert unseen.advice[0] == ADVICE["examined"]
    for loading, rows, missing in (
        (1.0, users, "at least 1.4 logits between users, not 1"),
        (1.5, users // 2, "at least 15 rows of a user, not 8"),
        (1.5, users[:150], "at least 200 users, not 150"),
    ):
        weak = with_activity(found, np.array([loading]), rows, True)
        assert weak.level == "not identified" and not weak.swap_symmetric
        assert f"too little to determine the reward: it takes {missing}." in weak.reason
    nobody = with_activity(found, np.array([1.5]), users[:0], True)
    assert "at least 200 users, not 0, at least 15 rows of a user, not 0." in nobody.reason
    stated = Identification("bounded", ("every row was looked at",), "one of each.")
    assumed = with_activity(stated, np.array([1.5]), users, True).assumptions
    assert assumed.count("every row was looked at") == 1
    none = with_activity(found, np.zeros(1), users, True)
    assert none.swap_symmetric and "do not show that users differ" in none.reason
    labelled = Identification("identified", ("labels",), "labels.")
    known = with_activity(labelled, np.ones(1), users, False)
    assert known.assumptions == ("labels",)
    found = Identification("identified", ("independent signals",), "two.", (ADVICE["users"],))
    several = with_activity(found, np.ones(1), users, True)
    assert "users share one taste" in str(several) and not several.advice


def test_members_are_weighted_equally_unless_they_are_worse_by_more_than_noise():
    rng = np.random.default_rng(0)
    best = rng.normal(size=(400, 1))
    noise = rng.normal(size=(400, 1))
    noise -= noise.mean()
    for loss, share in ((10.0, 1.0), (20.0, 1.0), (21.0, np.exp(-1.0)), (40.0, np.exp(-20.0))):
        # The standard error of the total is 20.
        worse = best + 20 * noise / np.sqrt((noise**2).sum()) - loss / 400
        weight = member_log_weight(torch.as_tensor(np.hstack([best, worse]))).exp()
        assert_allclose(weight, np.array([1, share]) / (1 + share), rtol=1e-6)


@pytest.mark.parametrize("together", [0.0, 2.0], ids=["independent", "readiness of the row"])
def test_independence_is_tested_given_the_user(together):
    rng = np.random.default_rng(0)
    user, b = np.repeat(np.arange(150), 40), rng.normal(size=150)
    loading = np.array([1.5, 1.0, 1.2])
    liked = rng.random(6000) < 0.5
    ready = 1 / (1 + np.exp(-(b[user, None] * loading + together * rng.normal(size=(6000, 1)))))
    y = (liked[:, None] & (rng.random((6000, 3)) < ready)).astype(float)
    log = SimpleNamespace(actions=y, sample_weight=np.ones(6000))
    f, u = torch.zeros(1, 6000).double(), torch.zeros(1, 6000, 3).double()
    sd = np.where(np.arange(150) < 120, 0.1, 0.9)
    found = independence_of(log, f, u, None, (loading, b[user], sd[user]))
    assert found.n_rows <= 4800  # those of the 120 users that are known well
    assert found.rejected == (together > 0)
    unknown = np.full(6000, np.inf)
    assert independence_of(log, f, u, None, (loading, b[user], unknown)) is None
    if together == 0:  # without the user, the same signals depend on each other
        assert independence_of(log, f, u, None).rejected


def test_labels_are_compared_with_what_the_model_expects_over_all_users(active):
    est, X, log, *_ = active
    # Where most people who like a response act, the silence of an average one says the most.
    est, often = copy.copy(est), np.argsort(est.predict_action(X))[-200:]
    x, y = X[often], np.zeros(len(often))
    known = replace(reread_log(est, len(x), y, {}), labels=np.ones(len(x)))
    at = np.arange(len(x))
    with pytest.warns(IdentificationWarning, match="the labels contradict the signals"):
        check_verdict(est, HeldOut(x, at, known, at, None, known, at))
    expected = est.predict_proba(x, y)[:, [0, 2]].sum(axis=1).mean()
    assert (
        f"the mean of the {len(x)} labels that were tested is 1.00, where the model expects "
        f"{expected:.2f} given what users did"
    ) in est.identification_.reason


# ---------------------------------------------------------------- the simulator


def test_the_simulator_has_active_users():
    X, log, _, user = simulated(4000, 50, n_signals=2)
    assert_allclose(log.user_effect, log.user_effect[np.unique(user, return_index=True)[1]][user])
    plain = simulate_feedback(
        log.reward, X=X, n_signals=2, intercept=-0.5, slope=1.0, random_state=0
    )
    assert plain.user_effect is None

    def logit(p):
        return np.log(p) - np.log1p(-p)

    shift = logit(log.propensity) - logit(plain.propensity)
    assert_allclose(shift, np.repeat(2.5 * log.user_effect[:, None], 2, axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="user_activity=1 needs user_id, got None"):
        simulate_feedback([1, 0], propensity="constant", user_activity=1)
    with pytest.raises(ValueError, match="user_activity must lie in"):
        simulate_feedback([1, 0], propensity="constant", user_activity=-1)


def test_the_simulator_has_users_of_different_taste():
    rng = np.random.default_rng(0)
    X, user, reward = rng.normal(size=(20000, 2)), rng.integers(50, size=20000), np.full(20000, 0.8)
    settings = {"X": X, "user_id": user, "random_state": 0}
    log = simulate_feedback(reward, user_taste=2.0, **settings)
    shares = np.bincount(user, log.true_preference) / np.bincount(user)
    logit = np.log(shares.clip(0.01, 0.99) / (1 - shares).clip(0.01))
    assert logit.std() == pytest.approx(2.0, rel=0.3)
    draws = 1 / (1 + np.exp(-np.log(4) - 2 * rng.normal(size=10**6)))
    assert_allclose(log.reward, draws.mean(), atol=2e-3)
    same = simulate_feedback(reward, user_taste=0.0, **settings)
    assert_array_equal(same.reward, reward)
    assert_array_equal(same.propensity, log.propensity)
    with pytest.raises(ValueError, match="user_taste=1 needs user_id, got None"):
        simulate_feedback(reward, X=X, user_taste=1)
    with pytest.raises(ValueError, match="user_taste=1.0 has no effect, because every"):
        simulate_feedback([1, 0], propensity="constant", user_id=[1, 2], user_taste=1.0)
