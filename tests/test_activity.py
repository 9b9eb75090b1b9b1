"""Users who differ in activity: nodes and messages, fits, predictions, refusals, files."""

import copy
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
from sklearn.model_selection import GridSearchCV

from implicitrm_sk import (
    BatchedSearchCV,
    Checkpoint,
    IdentificationWarning,
    ImplicitRewardEstimator,
    identification_report,
)
from implicitrm_sk._activity import (
    held_out,
    is_better,
    member_log_weight,
    rows_by_user,
    slots,
)
from implicitrm_sk._fit import begin_fit, reread_log
from implicitrm_sk._held_out import HeldOut, check_verdict, independence_of
from implicitrm_sk._identification import ADVICE, Identification, with_activity
from implicitrm_sk._log import number_users
from implicitrm_sk._prediction import FittedMixture, OfUsers
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.signals import Action, Choice
from implicitrm_sk.training._users import N_NODES, UserWeights, quadrature

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
        (
            {"response_id": np.arange(40) // 2},
            {"false_action_rate": 0.0},
            "user_id is not available with response_id",
        ),
        ({"propensity": np.full(40, 0.5)}, {}, "user_id is not available with propensity"),
        ({"exposures": np.full(40, 3)}, {}, "user_id is not available with estimated"),
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
    assert_array_equal(same.propensity(X[:9], user_id=user[:9]), est.propensity(X[:9]))
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
    with pytest.warns(IdentificationWarning, match="users do not differ in activity"):
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


def test_without_differences_the_report_has_the_verdict_of_the_fit_too():
    X, log, _, user = simulated(1500, 100, activity=0.0, seed=1)
    est = ImplicitRewardEstimator(**SMALL)
    report = identification_report(est, X, log.actions, n_starts=2, user_id=user)
    assert report.level == "not identified" and not report.user_loading.any()
    assert "users do not differ in activity" in report.reason
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
    none = with_activity(found, np.zeros(1), users, True)
    assert none.swap_symmetric and "do not differ" in none.reason
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
    known = SimpleNamespace(mean=b, sd=np.where(np.arange(150) < 120, 0.1, 0.9))
    found = independence_of(log, f, u, None, (loading, known, user))
    assert found.n_rows <= 4800  # those of the 120 users that are known well
    assert found.rejected == (together > 0)
    unknown = np.full(6000, -1)
    assert independence_of(log, f, u, None, (loading, known, unknown)) is None
    if together == 0:  # without the user, the same signals depend on each other
        assert independence_of(log, f, u, None).rejected


def test_labels_are_compared_with_what_the_model_expects_over_all_users(active):
    est, X, log, *_ = active
    # Where most people who like a response act, the silence of an average one says the most.
    est, often = copy.copy(est), np.argsort(est.predict_action(X))[-200:]
    x, y = X[often], np.zeros(len(often))
    known = replace(reread_log(est, len(x), y, {}), labels=np.ones(len(x)))
    with pytest.warns(IdentificationWarning, match="the labels contradict the signals"):
        check_verdict(est, HeldOut(x, known, None, x, known))
    expected = est.predict_proba(x, y)[:, [0, 2]].sum(axis=1).mean()
    assert f"the mean of {len(x)} labels is 1.00, where the model expects {expected:.2f}" in (
        est.identification_.reason
    )


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
