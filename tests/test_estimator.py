"""The estimator: shapes, mixture rules, composition with scikit-learn, persistence, errors."""

import inspect
import io
import pickle
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.compose import make_column_selector
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._fit import begin_fit
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.metrics import make_preference_scorer
from implicitrm_sk.objectives import Naive, Objective, Stratified
from implicitrm_sk.training._net import RewardNet

FAST = {
    "hidden_layer_sizes": (8,),
    "n_estimators": 2,
    "max_epochs": 8,
    "learning_rate_init": 0.01,
    "random_state": 0,
}
ignore_short = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)
pytestmark = ignore_short


def make_log(n=400, d=6, n_signals=None, seed=0):
    """Return X, actions and true preference; signal k fires by column k + 1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    preference = rng.uniform(size=n) < 1 / (1 + np.exp(-3 * X[:, 0]))
    activity = rng.uniform(size=(n, n_signals or 1)) < 1 / (
        1 + np.exp(0.4 - 1.5 * X[:, 1 : 1 + (n_signals or 1)])
    )
    actions = (preference[:, None] & activity).astype(int)
    return X, actions if n_signals else actions[:, 0], preference.astype(int)


@pytest.fixture(scope="module")
def one_signal():
    X, y, preference = make_log()
    return ImplicitRewardEstimator(**FAST).fit(X, y), X, y, preference


@pytest.fixture(scope="module")
def three_signals():
    X, y, preference = make_log(n_signals=3)
    estimator = ImplicitRewardEstimator(false_action_rate=[0.0, 0.02, 0.1], **FAST)
    return estimator.fit(X, y), X, y, preference


# ---------------------------------------------------------------- outputs


def test_shapes_are_one_dimensional_iff_the_actions_were():
    X, y, _ = make_log(n_signals=2)
    for actions, shape in [(y[:, 0], (400,)), (y[:, :1], (400, 1)), (y, (400, 2))]:
        estimator = ImplicitRewardEstimator(**FAST).fit(X, actions)
        assert estimator.predict_action(X).shape == shape
        assert estimator.propensity(X).shape == shape
        assert estimator.predict(X).shape == estimator.decision_function(X).shape == (400,)
        assert estimator.predict_proba(X).shape == (400, 4)
        assert estimator.predict_proba(X, actions).shape == (400, 4)
        assert [part.shape for part in estimator.predict(X, return_std=True)] == [(400,)] * 2
        assert isinstance(estimator.score(X, actions), float)
    assert_array_equal(estimator.classes_, [0, 1])
    assert estimator.group_names_ == ("PA", "NA", "PP", "NP")
    assert estimator.n_features_in_ == 6
    assert estimator.n_signals_ == 2


def test_one_column_gives_the_numbers_of_one_dimension():
    X, y, _ = make_log()
    flat = ImplicitRewardEstimator(**FAST).fit(X, y)
    column = ImplicitRewardEstimator(**FAST).fit(X, y[:, None])
    assert_array_equal(flat.predict(X), column.predict(X))
    assert_array_equal(flat.propensity(X), column.propensity(X)[:, 0])
    assert flat.score(X, y[:, None]) == column.score(X, y)


@pytest.mark.parametrize("n_signals", [None, 1, 3])
@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_mixture_rules(n_signals, rate):
    X, y, _ = make_log(n_signals=n_signals)
    y = y.astype(float)
    y[::7] = np.nan  # nothing logged
    if n_signals == 3:
        y[1::7, 1] = np.nan
    estimator = ImplicitRewardEstimator(false_action_rate=rate, dtype="float64", **FAST).fit(X, y)
    reward = estimator.predict(X)
    propensity, action = estimator.propensity(X), estimator.predict_action(X)
    column = reward if n_signals is None else reward[:, None]
    assert_allclose(action, column * propensity + (1 - column) * rate, atol=1e-12)
    assert_allclose(estimator.decision_function(X), np.log(reward / (1 - reward)), rtol=1e-9)
    assert (propensity > rate).all()

    prior = estimator.predict_proba(X)
    assert_allclose(prior.sum(axis=1), 1, atol=1e-12)
    assert_allclose(prior[:, 0] + prior[:, 2], reward, atol=1e-12)
    assert_allclose(estimator.predict_proba(X, np.full_like(y, np.nan)), prior, atol=1e-12)
    # Averaging the posterior over what may happen gives the prior.
    k = 1 if n_signals is None else n_signals
    total = 0
    for pattern in np.ndindex(*[2] * k):
        seen = np.tile(np.array(pattern, dtype=float), (len(X), 1))
        seen = seen[:, 0] if n_signals is None else seen
        likelihood = np.exp([estimator.score(X[i : i + 1], seen[i : i + 1]) for i in range(20)])
        total = total + estimator.predict_proba(X[:20], seen[:20]) * likelihood[:, None]
    assert_allclose(total, prior[:20], atol=1e-12)
    acted = (y == 1).reshape(len(y), -1).any(axis=1)
    certain = estimator.predict_proba(X, y)[acted, 0] == 1
    assert certain.all() if rate == 0 else not certain.any()


def test_score_is_the_log_of_the_mean_likelihood(three_signals):
    estimator, X, y, preference = three_signals
    seen = y[:50].astype(float)
    seen[:10] = np.nan
    seen[20:30, 2] = np.nan
    with torch.no_grad():
        Z = torch.from_numpy((X[:50] - estimator.scaler_.mean_) / estimator.scaler_.scale_)
        f, u = (part.double().numpy() for part in estimator.model_(Z.float()))
    e = np.array([0.0, 0.02, 0.1])
    R, A = 1 / (1 + np.exp(-f)), e + (1 - e) / (1 + np.exp(-u))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bernoulli = np.where(seen == 1, A, 1 - A)
        false = np.where(seen == 1, e, 1 - e)
    bernoulli, false = (np.where(np.isnan(seen), 1, part).prod(-1) for part in (bernoulli, false))
    rows = np.log((R * bernoulli + (1 - R) * false).mean(axis=0))
    weight = np.linspace(0, 2, 50)
    assert_allclose(
        estimator.score(X[:50], seen, sample_weight=weight),
        np.average(rows[10:], weights=weight[10:]),
        rtol=1e-5,
    )
    truth = preference[:50].astype(float)
    truth[::3] = np.nan
    known = ~np.isnan(truth)
    assert estimator.score(X[:50], seen, true_preference=truth) == pytest.approx(
        r2_score(truth[known], estimator.predict(X[:50])[known])
    )


@pytest.mark.parametrize("n_estimators", [1, 2, 5])
@pytest.mark.parametrize("sizes", [{}, {"propensity_hidden_layer_sizes": ()}])
def test_both_sides_of_the_swap_carry_equal_weight(n_estimators, sizes):
    X, y, _ = make_log()
    params = FAST | {"n_estimators": n_estimators} | sizes
    estimator = ImplicitRewardEstimator(**params).fit(X, y)
    with torch.no_grad():
        Z = torch.from_numpy((X - estimator.scaler_.mean_) / estimator.scaler_.scale_).float()
        f, u = estimator.model_(Z)
    sides = torch.sigmoid(torch.cat([f, u[..., 0]]).double()).numpy()
    reward, std = estimator.predict(X, return_std=True)
    assert_allclose(reward, sides.mean(axis=0), rtol=1e-5)
    assert_allclose(std, sides.std(axis=0), atol=1e-6)
    half_distance = np.abs(sides[:n_estimators].mean(0) - sides[n_estimators:].mean(0)) / 2
    assert (std >= half_distance - 1e-6).all()
    # The product is R A on either side.
    assert_allclose(
        estimator.predict_action(X),
        np.prod(np.split(sides, 2), axis=0).mean(axis=0),
        rtol=1e-5,
    )


@pytest.mark.parametrize("dtype", [int, bool, np.uint8, complex, object])
def test_rewards_are_written_into_floats_only(dtype):
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y)
    out = np.zeros(len(X), dtype=dtype)
    kind = re.escape(f"a floating dtype, got an array of {out.dtype} of shape (400,).")
    with pytest.raises(ValueError, match=kind):
        estimator.predict(X, out=out)
    assert not out.any()
    out = np.zeros(len(X), dtype=np.float32)
    assert_array_equal(estimator.predict(X, out=out), estimator.predict(X))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="got .* that is read-only"):
        estimator.predict(X, out=out)


def test_several_signals_have_no_mirror_image(three_signals):
    estimator, X, *_ = three_signals
    with torch.no_grad():
        Z = torch.from_numpy((X - estimator.scaler_.mean_) / estimator.scaler_.scale_).float()
        f = estimator.model_.reward_logit(Z)
    assert_allclose(estimator.predict(X), torch.sigmoid(f).mean(0).numpy(), rtol=1e-5)


# ---------------------------------------------------------------- the science


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


def test_naive_estimates_the_action():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator("naive", **FAST).fit(X, y)
    assert_array_equal(estimator.predict(X), estimator.predict_action(X))
    assert_array_equal(estimator.propensity(X), 1)
    proba = estimator.predict_proba(X)
    assert_array_equal(proba[:, 2:], 0)
    assert_array_equal(estimator.predict_proba(X, y)[:, 0], y)
    p = estimator.predict(X).astype(float)
    assert estimator.score(X, y) == pytest.approx(np.log(np.where(y, p, 1 - p)).mean(), rel=1e-5)


def test_naive_reduces_several_signals_and_says_so():
    X, y, _ = make_log(n_signals=2)
    with pytest.warns(UserWarning, match=r'Naive works on one signal.*"any logged action"'):
        estimator = ImplicitRewardEstimator("naive", **FAST).fit(X, y)
    one = ImplicitRewardEstimator("naive", **FAST).fit(X, y.max(axis=1))
    assert_array_equal(estimator.predict(X), one.predict(X))
    assert estimator.score(X, y) == one.score(X, y.max(axis=1))
    assert_array_equal(estimator.predict_proba(X, y), one.predict_proba(X, y.max(axis=1)))
    for method in ("propensity", "predict_action"):
        with pytest.raises(ValueError, match=f"{method} is not available.*objective='stratified'"):
            getattr(estimator, method)(X)


class Brier(Objective):
    """A third party's objective without a model of the actions."""

    single_signal = True
    models_propensity = False
    models_actions = False

    def __init__(self, power=2.0):
        self.power = power

    def loss(self, reward_logit, propensity_logit, batch):
        return (torch.sigmoid(reward_logit) - batch.actions[:, 0]).abs() ** self.power


def test_third_party_objective():
    X, y, preference = make_log()
    estimator = ImplicitRewardEstimator(Brier(), **FAST)
    assert estimator.get_params()["objective__power"] == 2.0
    estimator = clone(estimator).set_params(objective__power=1.5, max_epochs=40).fit(X, y)
    assert estimator.objective_.power == 1.5
    assert sklearn.metrics.roc_auc_score(preference, estimator.predict(X)) > 0.6
    assert estimator.score(X, y, true_preference=preference) < 1
    with pytest.raises(ValueError, match="Brier does not model P.*true_preference"):
        estimator.score(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict(X), estimator.predict(X))


@pytest.mark.parametrize("objective", [Stratified(), Naive()])
def test_objective_by_name_and_by_object_agree(objective):
    X, y, _ = make_log()
    name = type(objective).__name__.lower()
    by_name = ImplicitRewardEstimator(name, **FAST).fit(X, y)
    by_object = ImplicitRewardEstimator(objective, **FAST).fit(X, y)
    assert_array_equal(by_name.predict(X), by_object.predict(X))
    assert by_object.objective_ is not objective


# ---------------------------------------------------------------- training


def test_same_seed_same_bits_and_global_generators_untouched():
    X, y, _ = make_log()
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    first = ImplicitRewardEstimator(**FAST).fit(X, y)
    second = ImplicitRewardEstimator(**FAST).fit(X, y)
    for seed in (None, np.random.RandomState(4)):
        ImplicitRewardEstimator(**FAST | {"random_state": seed}).fit(X, y).partial_fit(X, y)
    assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert_array_equal(first.predict(X), second.predict(X))
    assert first.history_ == second.history_
    other = ImplicitRewardEstimator(**FAST | {"random_state": 1}).fit(X, y)
    assert not np.array_equal(first.predict(X), other.predict(X))


def test_thread_count_changes_next_to_nothing():
    X, y, _ = make_log(n=3000, d=64)
    params = {"random_state": 0, "max_epochs": 12, "learning_rate_init": 0.001}
    threads = torch.get_num_threads()
    rewards = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            rewards.append(ImplicitRewardEstimator(**params).fit(X, y).predict(X))
    finally:
        torch.set_num_threads(threads)
    assert_allclose(*rewards, atol=1e-5)


def test_early_stopping_keeps_the_best_epoch_of_each_member():
    X, y, _ = make_log(n=600)
    estimator = ImplicitRewardEstimator(
        **FAST | {"max_epochs": 200, "learning_rate_init": 0.05, "n_iter_no_change": 4}
    ).fit(X, y)
    assert estimator.n_iter_ == len(estimator.history_) < 200
    losses = np.array([record["valid_loss"] for record in estimator.history_])
    assert losses.shape == (estimator.n_iter_, 2)
    assert (losses.argmin(axis=0) < estimator.n_iter_ - 1).any()
    assert np.isfinite([record["train_loss"] for record in estimator.history_]).all()


def test_warnings_point_to_the_users_line():
    X, y, _ = make_log()
    constant = np.column_stack([y, np.zeros(400)])
    few = np.arange(400) < 9
    for params, actions in [({}, constant), ({}, few), ({"learning_rate_init": 1e-4}, y)]:
        with pytest.warns() as record:
            ImplicitRewardEstimator(**FAST | params).fit(X, actions)
        assert {warning.filename for warning in record} == {__file__}


def test_warns_when_the_epochs_run_out():
    X, y, _ = make_log()
    with pytest.warns(ConvergenceWarning, match="Increase max_epochs or learning_rate_init"):
        ImplicitRewardEstimator(**FAST | {"learning_rate_init": 1e-4}).fit(X, y)
    X, y, _ = make_log(n_signals=2)  # of which nothing else is to be said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImplicitRewardEstimator(early_stopping=False, **FAST).fit(X, y)


def test_too_few_actions_train_a_fixed_number_of_epochs():
    X, y, _ = make_log()
    y = np.zeros(400)
    y[:9] = 1
    with pytest.warns(UserWarning, match=r"early_stopping needs at least 5 acted.*50 epochs"):
        estimator = ImplicitRewardEstimator(**FAST | {"max_epochs": 100}).fit(X, y)
    assert estimator.n_iter_ == 50
    assert "valid_loss" not in estimator.history_[0]


def data_of(X, y, **arguments):
    """Return the `TrainingData` of a fit, split."""
    estimator = ImplicitRewardEstimator(**FAST)
    return begin_fit(estimator, X, y, **arguments).data


def test_split_respects_groups():
    X, y, _ = make_log()
    groups = np.arange(400) // 4
    data = data_of(X, y, groups=groups)
    assert_array_equal(np.sort(np.r_[data.train, data.valid]), np.arange(400))
    assert not set(groups[data.valid]) & set(groups[data.train])
    assert 0.15 < len(data.valid) / 400 < 0.25

    data = data_of(np.concatenate([X, X]), np.concatenate([y, y]))
    chosen = np.isin(np.arange(800), data.valid)
    assert_array_equal(chosen[:400], chosen[400:])
    assert abs(y[chosen[:400]].mean() - y.mean()) < 0.03


def test_rows_without_weight_or_logged_action_change_nothing():
    X, y, _ = make_log(n_signals=2)
    y = y.astype(float)
    extra_X = np.concatenate([X, X[:50] + 5, X[:50] - 5])
    extra_y = np.concatenate([y, np.full((50, 2), np.nan), 1 - y[:50]])
    weight = np.concatenate([np.ones(450), np.zeros(50)])
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    extra = ImplicitRewardEstimator(**FAST).fit(extra_X, extra_y, sample_weight=weight)
    assert_allclose(extra.predict(X), plain.predict(X), atol=1e-6)


def test_full_batch_weights_equal_repeated_rows():
    X, y, _ = make_log(n=120, n_signals=2)
    weight = np.random.default_rng(0).integers(0, 4, size=120)
    weight[:2] = 1
    params = {
        "hidden_layer_sizes": (8,),
        "early_stopping": False,
        "max_epochs": 1,
        "batch_size": 10_000,
        "dropout": 0.0,
        "dtype": "float64",
        "random_state": 0,
    }
    gradients = []
    for data in [
        {"X": X, "y": y, "sample_weight": weight.astype(float)},
        {"X": np.repeat(X, weight, axis=0), "y": np.repeat(y, weight, axis=0)},
    ]:
        estimator = ImplicitRewardEstimator(**params).fit(**data)
        gradients.append([parameter.grad for parameter in estimator.model_.parameters()])
    for weighted, repeated in zip(*gradients, strict=True):
        assert_allclose(weighted, repeated, atol=1e-12)


def test_sample_weight_enters_training_validation_and_score():
    X, y, preference = make_log(n=1000)
    weight = np.where(X[:, 2] > 0, 10.0, 0.1)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    weighted = ImplicitRewardEstimator(**FAST).fit(X, y, sample_weight=weight)
    assert plain.history_[0]["valid_loss"] != weighted.history_[0]["valid_loss"]
    assert np.abs(plain.predict(X) - weighted.predict(X)).max() > 1e-3
    assert plain.score(X, y) != plain.score(X, y, sample_weight=weight)
    assert plain.score(X, y, preference) != plain.score(X, y, preference, sample_weight=weight)


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


def test_partial_fit_learns_and_survives_a_pickle_in_between():
    X, y, preference = make_log(n=2000, n_signals=2)
    batches = np.array_split(np.arange(2000), 10)
    estimator = ImplicitRewardEstimator(**FAST)
    twin = ImplicitRewardEstimator(**FAST)
    for _ in range(8):
        for batch in batches:
            estimator.partial_fit(X[batch], y[batch])
            twin = pickle.loads(pickle.dumps(twin)).partial_fit(X[batch], y[batch])
    assert estimator.n_iter_ == 80
    assert_array_equal(estimator.predict(X), twin.predict(X))
    assert estimator.score(X, y, true_preference=preference) > 0.3
    assert_allclose(estimator.scaler_.mean_, X.mean(axis=0), atol=1e-12)
    assert_allclose(estimator.scaler_.scale_, X.std(axis=0), rtol=1e-12)

    ImplicitRewardEstimator(**FAST).partial_fit(X[:5], np.zeros((5, 2)))
    estimator.partial_fit(X[:5], np.zeros((5, 2)))  # a batch without any action
    with pytest.raises(ValueError, match="y has 1 signal"):
        estimator.partial_fit(X[:5], np.zeros(5))
    with pytest.raises(ValueError, match="X has 3 features"):
        estimator.partial_fit(X[:5, :3], np.zeros((5, 2)))
    with pytest.raises(ValueError, match="logs nothing"):
        estimator.partial_fit(X[:5], np.full((5, 2), np.nan))


def test_weights_weigh_one_batch_of_partial_fit_against_another():
    X, y, _ = make_log()
    losses = []
    for factor in (1.0, 3.0):
        estimator = ImplicitRewardEstimator(**FAST).partial_fit(X, y, np.full(400, factor))
        losses.append(estimator.history_[0]["train_loss"][0])
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-3)


def test_partial_fit_may_start_without_any_action():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).partial_fit(X[:20], np.zeros(20))
    assert np.isfinite(estimator.partial_fit(X, y).predict(X)).all()


def test_scale_of_the_columns_does_not_matter():
    X, y, _ = make_log()
    X[:, 5] = 7.0
    shifted = X * 1e-3 + 1e3
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    other = ImplicitRewardEstimator(**FAST).fit(shifted, y)
    assert_allclose(plain.predict(X), other.predict(shifted), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_dtype(dtype):
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(dtype=dtype, **FAST).fit(X, y)
    expected = np.float64 if dtype == "float64" else np.float32
    for output in (estimator.predict(X), estimator.predict_proba(X), estimator.propensity(X)):
        assert output.dtype == expected
    reference = ImplicitRewardEstimator(dtype="float64", **FAST).fit(X, y)
    assert np.abs(reference.predict(X) - estimator.predict(X)).max() < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fitted_on_cuda_loads_on_cpu():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(device="cuda", **FAST).fit(X, y)
    state = estimator.__getstate__()
    state["device"] = "cpu"
    loaded = ImplicitRewardEstimator.__new__(ImplicitRewardEstimator)
    loaded.__setstate__(state)
    assert_allclose(loaded.predict(X), estimator.predict(X), atol=0.02)


def test_missing_device_falls_back_to_the_cpu_on_loading():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y)
    # As a machine with CUDA would have pickled it.
    stored = pickle.dumps(estimator.set_params(device="xpu:7"))
    with pytest.warns(UserWarning, match="device='xpu:7' is not available here"):
        loaded = pickle.loads(stored)
    assert_array_equal(loaded.predict(X), estimator.predict(X))


# ---------------------------------------------------------------- inside scikit-learn


def test_pipeline_grid_search_and_scorers():
    X, y, preference = make_log(n=240)
    X = X.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), ImplicitRewardEstimator(**FAST))
    grid = {"implicitrewardestimator__weight_decay": [0.0, 0.1]}
    search = GridSearchCV(pipeline, grid, n_jobs=2, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    serial = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert_allclose(
        search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"], atol=1e-5
    )
    assert_allclose(search.predict(X), serial.predict(X), atol=1e-5)

    proba = cross_val_predict(pipeline, X, y, cv=StratifiedKFold(2), method="predict_proba")
    assert proba.shape == (240, 4)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    scores = cross_validate(
        pipeline,
        X,
        y,
        cv=2,
        error_score="raise",
        scoring=["r2", "neg_mean_absolute_error", "roc_auc", "average_precision"],
    )
    assert (scores["test_roc_auc"] > 0.6).all()
    default = cross_validate(pipeline, X, y, cv=2, error_score="raise")["test_score"]
    assert ((default > -1) & (default < 0)).all()
    # roc_auc scores the reward, not some column of predict_proba.
    fitted = clone(pipeline).fit(X, y)
    assert sklearn.metrics.get_scorer("roc_auc")(fitted, X, preference) == pytest.approx(
        sklearn.metrics.roc_auc_score(preference, fitted.predict(X))
    )
    with pytest.raises(ValueError):
        sklearn.metrics.get_scorer("accuracy")(fitted, X, y)


def test_cross_val_predict_names_the_cause_of_encoded_nan():
    X, y, _ = make_log(n=200)
    y = y.astype(float)
    y[::5] = np.nan
    with pytest.raises(ValueError, match="cross_val_predict encodes y .* turns NaN into 2"):
        cross_val_predict(ImplicitRewardEstimator(**FAST), X, y, cv=2, method="predict_proba")


class Spy(ImplicitRewardEstimator):
    """Records which metadata each call got."""

    calls = []

    def fit(self, X, y, sample_weight=None, groups=None):
        self.calls.append(("fit", len(X), sample_weight, groups))
        return super().fit(X, y, sample_weight, groups)

    def score(self, X, y, true_preference=None, sample_weight=None):
        self.calls.append(("score", len(X), true_preference, sample_weight))
        return super().score(X, y, true_preference, sample_weight)


@pytest.mark.parametrize("scoring", [None, make_preference_scorer("r2")])
def test_true_preference_reaches_score_and_no_fit(scoring):
    X, y, preference = make_log(n=240)
    Spy.calls = []
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Spy(**FAST)),
            {"spy__dropout": [0.0, 0.3]},
            cv=2,
            scoring=scoring,
            error_score="raise",
        ).fit(X, y, true_preference=preference)
        assert search.cv_results_["mean_test_score"].shape == (2,)
        assert search.score(X, y, true_preference=preference) == pytest.approx(
            r2_score(preference, search.predict(X)), abs=1e-6
        )
    fits = [call for call in Spy.calls if call[0] == "fit"]
    scores = [call for call in Spy.calls if call[0] == "score"]
    assert len(fits) == 5
    assert all(call[2] is None and call[3] is None for call in fits)
    if scoring is None:
        assert all(len(call[2]) == call[1] for call in scores)
    with pytest.raises(TypeError, match="true_preference"):
        Spy(**FAST).fit(X, y, true_preference=preference)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_routing_with_and_without_weights_and_groups(weighted, grouped):
    X, y, _ = make_log(n=240)
    Spy.calls = []
    params = {}
    if weighted:
        params["sample_weight"] = np.linspace(0.5, 2, 240)
    if grouped:
        params["groups"] = np.arange(240) // 3
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(PCA(3, random_state=0), Spy(**FAST))
        cv = GroupKFold(2) if grouped else 2
        result = cross_validate(pipeline, X, y, cv=cv, params=params, error_score="raise")
        assert np.isfinite(result["test_score"]).all()
        pipeline.fit(X, y, **params).score(
            X, y, **{k: v for k, v in params.items() if k == "sample_weight"}
        )
        reward, std = pipeline.predict(X, return_std=True)
        assert std.shape == (240,)
        assert pipeline.predict_proba(X, actions=y).shape == (240, 4)
    fits = [call for call in Spy.calls if call[0] == "fit"]
    assert all((call[2] is not None) == weighted for call in fits)
    assert all((call[3] is not None) == grouped for call in fits)
    if weighted:
        assert all(call[3] is not None for call in Spy.calls if call[0] == "score")


def test_data_frames_and_pandas_output():
    X, y, _ = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    reference = ImplicitRewardEstimator(**FAST).fit(X, y)
    with sklearn.config_context(transform_output="pandas"):
        pipeline = make_pipeline(StandardScaler(), ImplicitRewardEstimator(**FAST))
        pipeline.fit(frame, pd.Series(y))
        estimator = pipeline[-1]
        assert_array_equal(estimator.feature_names_in_, frame.columns)
        assert isinstance(pipeline.predict(frame), np.ndarray)
        assert_allclose(pipeline.predict(frame), reference.predict(X), atol=1e-4)
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame[frame.columns[::-1]])


def test_score_against_truth_takes_the_columns_by_name():
    X, y, preference = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    estimator = ImplicitRewardEstimator(**FAST).fit(frame, y)
    expected = r2_score(preference, estimator.predict(frame))  # no warning about names
    assert estimator.score(frame, None, true_preference=preference) == pytest.approx(expected)


def test_read_only_weights():
    X, y, _ = make_log()
    weight = np.ones(400)
    weight.flags.writeable = False
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    weighted = ImplicitRewardEstimator(**FAST).fit(X, y, sample_weight=weight)
    assert_array_equal(weighted.predict(X), plain.predict(X))


def test_nullable_and_named_actions():
    X, y, _ = make_log(n_signals=2)
    y = y.astype(float)
    y[::5, 1] = np.nan
    reference = ImplicitRewardEstimator(**FAST).fit(X, y).predict(X)
    frame = pd.DataFrame(y, columns=["copy", "share"])
    for actions in (
        frame,
        frame.astype("Int8"),
        frame.astype("boolean"),
        [[None if np.isnan(v) else int(v) for v in row] for row in y],
    ):
        assert_array_equal(ImplicitRewardEstimator(**FAST).fit(X, actions).predict(X), reference)


def test_progress_bar_nests_in_a_search(capsys):
    X, y, _ = make_log()
    search = GridSearchCV(
        ImplicitRewardEstimator(**FAST), {"dropout": [0.0, 0.1]}, cv=2, error_score="raise"
    )
    search.set_callbacks(ProgressBar()).fit(X, y)
    plain = clone(search).set_callbacks().fit(X, y)
    assert "ImplicitRewardEstimator - fit" in capsys.readouterr().out
    assert_array_equal(search.predict(X), plain.predict(X))


def test_scoring_monitor_scores_each_epoch():
    X, y, _ = make_log()
    monitor = ScoringMonitor(scoring="roc_auc")
    estimator = ImplicitRewardEstimator(**FAST).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs()
    epochs = [row["roc_auc"] for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == estimator.n_iter_ == 8
    assert epochs[-1] > epochs[0]


class StopAfter:
    """A callback that ends training after some epochs and keeps what it was given."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.rewards = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name == "epoch":
            self.rewards.append(fitted_estimator.predict(X))
        return len(self.rewards) >= self.epochs


def test_callback_sees_each_epoch_and_may_stop():
    X, y, _ = make_log()
    callback = StopAfter(3)
    estimator = ImplicitRewardEstimator(**FAST | {"early_stopping": False})
    estimator.set_callbacks(callback).fit(X, y)
    assert estimator.n_iter_ == 3
    assert len(callback.rewards) == 3
    assert not np.array_equal(callback.rewards[0], callback.rewards[1])
    assert_array_equal(callback.rewards[-1], estimator.predict(X))


def test_silent_by_default_and_verbose_on_request(capsys):
    X, y, _ = make_log()
    ImplicitRewardEstimator(**FAST).fit(X, y)
    output = capsys.readouterr()
    assert output.out == output.err == ""
    ImplicitRewardEstimator(verbose=True, **FAST).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert re.fullmatch(r"\[.*\] epoch 1: train_loss \d\.\d+, valid_loss \d\.\d+", lines[0])


# ---------------------------------------------------------------- side information

LEARN = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 2,
    "max_epochs": 25,
    "learning_rate_init": 0.01,
    "random_state": 0,
}
FULL_BATCH = {
    "hidden_layer_sizes": (8,),
    "n_estimators": 2,
    "max_epochs": 10,
    "learning_rate_init": 0.01,
    "batch_size": 10_000,
    "dropout": 0.0,
    "early_stopping": False,
    "standardize": False,
    "dtype": "float64",
    "random_state": 0,
}


def simulated(n=1000, seed=1, n_signals=None, **settings):
    """Return X and a simulated log in which likes and propensity depend on different directions."""
    X = np.random.default_rng(seed).normal(size=(n, 5))
    reward = 1 / (1 + np.exp(-3 * X[:, 0] - X[:, 2]))
    settings = {"X": X} | settings
    return X, simulate_feedback(reward, n_signals=n_signals, random_state=seed, **settings)


def r2(X, y, truth, params=None, **side_information):
    estimator = ImplicitRewardEstimator(**LEARN | (params or {})).fit(X, y, **side_information)
    return estimator.score(X, None, true_preference=truth)


def some_labels(truth, share, seed=0):
    known = np.random.default_rng(seed).uniform(size=len(truth)) < share
    return np.where(known, truth, np.nan)


def exposed(m=120, seed=0):
    """Return features, exposures, actions, and the same log long: row numbers, actions, ids."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, 4))
    exposures = rng.integers(1, 5, size=m)
    preferred = rng.uniform(size=m) < 1 / (1 + np.exp(-2 * X[:, 0]))
    rows = rng.permutation(np.repeat(np.arange(m), exposures))
    propensity = 1 / (1 + np.exp(-X[rows, 1]))
    acted = (preferred[rows] & (rng.uniform(size=len(rows)) < propensity)).astype(int)
    return X, exposures, np.bincount(rows, weights=acted), rows, acted


def test_long_form_equals_counts():
    X, exposures, counts, rows, acted = exposed()
    ids = np.array([f"response {row}" for row in rows])
    short = ImplicitRewardEstimator(**FULL_BATCH).fit(X, counts, exposures=exposures)
    long = ImplicitRewardEstimator(**FULL_BATCH).fit(X[rows], acted, response_id=ids)
    assert_allclose(long.predict(X), short.predict(X), atol=1e-9)
    assert_allclose(long.propensity(X), short.propensity(X), atol=1e-9)
    assert short.identification_.assumptions == long.identification_.assumptions

    expected = short.score(X, counts, exposures=exposures)
    assert short.score(X[rows], acted, response_id=ids) == pytest.approx(expected, rel=1e-9)
    # A response counts once, whatever the number of its rows.
    weight = np.linspace(0, 2, len(X))
    expected = short.score(X, counts, exposures=exposures, sample_weight=weight)
    found = short.score(X[rows], acted, response_id=ids, sample_weight=weight[rows])
    assert found == pytest.approx(expected, rel=1e-9)

    of_counts = short.predict_proba(X, counts, exposures=exposures)
    of_rows = short.predict_proba(X[rows], acted, response_id=ids)
    assert_allclose(of_rows.sum(axis=1), 1)
    assert_allclose(of_rows[:, [0, 2]].sum(axis=1), of_counts[rows][:, [0, 2]].sum(axis=1))
    assert_array_equal(of_counts[counts > 0], [[1, 0, 0, 0]] * (counts > 0).sum())


def test_what_knows_nothing_changes_nothing():
    X, y, _ = make_log()
    nothing = np.full(400, np.nan)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y, preference=nothing, propensity=nothing)
    assert_array_equal(estimator.predict(X), plain.predict(X))
    assert estimator.identification_ == plain.identification_


@pytest.mark.parametrize("form", ["counts", "long"])
def test_single_exposures_are_none(form):
    X, y, _ = make_log(n_signals=2)
    y = np.where(np.arange(400)[:, None] % 7 == [0, 3], np.nan, y)
    plain = ImplicitRewardEstimator(**FAST).fit(X, y)
    once = (
        {"exposures": np.ones(400)} if form == "counts" else {"response_id": np.arange(400)[::-1]}
    )
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y, **once)
    assert_allclose(estimator.predict(X), plain.predict(X), atol=1e-6)
    assert plain.score(X, y, **once) == pytest.approx(plain.score(X, y))
    assert_allclose(plain.predict_proba(X, y, **once), plain.predict_proba(X, y), atol=1e-6)


def test_posterior_of_a_response_shown_repeatedly():
    X, exposures, counts, rows, acted = exposed()
    reward = X[:, :2]
    context = np.random.default_rng(1).normal(size=(len(rows), 1))
    long = np.c_[reward[rows], context]
    estimator = ImplicitRewardEstimator(**FAST | {"n_estimators": 1, "propensity_features": [2]})
    estimator.fit(long, acted, response_id=rows)
    proba = estimator.predict_proba(long, acted, response_id=rows)
    # By Bayes: (1 - A) of each row of the response, whose rows differ in A.
    R, A = estimator.predict(reward).astype(float), estimator.propensity(long).astype(float)
    silent = np.exp(np.bincount(rows, weights=np.log1p(-A)))
    expected = np.where(counts > 0, 1, R * silent / (1 - R + R * silent))
    assert_allclose(proba[:, [0, 2]].sum(axis=1), expected[rows], rtol=1e-5)
    assert_allclose(proba[acted == 1], [[1, 0, 0, 0]] * acted.sum(), atol=1e-6)
    # The activity is that of the row.
    passive = (acted == 0) & (counts > 0)[rows]
    assert_allclose(proba[passive], [[0, 0, 1, 0]] * passive.sum(), atol=1e-6)
    likelihood = np.bincount(rows, weights=np.where(acted, np.log(A), np.log1p(-A)))
    likelihood = np.where(counts > 0, np.log(R) + likelihood, np.log(1 - R + R * silent))
    assert estimator.score(long, acted, response_id=rows) == pytest.approx(
        likelihood.mean(), rel=1e-5
    )
    nothing = np.full(len(rows), np.nan)
    assert_allclose(
        estimator.predict_proba(long, nothing, response_id=rows),
        estimator.predict_proba(long),
        atol=1e-6,
    )


def test_no_split_and_no_batch_cuts_an_id(monkeypatch):
    passes = []
    original = RewardNet.run_single_epoch

    def spy(self, iterator, training, *args):
        batches = [X[:, 0].tolist() for (X, _), *_ in iterator]
        passes.append((training, batches))
        return original(self, iterator, training, *args)

    monkeypatch.setattr(RewardNet, "run_single_epoch", spy)
    X, _, _, rows, acted = exposed()
    numbered = np.c_[rows, X[rows]]
    params = FAST | {"standardize": False, "batch_size": 16, "max_epochs": 2}
    for groups in (None, rows // 3):
        passes.clear()
        ImplicitRewardEstimator(**params).fit(numbered, acted, response_id=rows, groups=groups)
        assert [training for training, _ in passes] == [True, False] * 2
        parts = []
        for training, batches in passes:
            assert max(map(len, batches)) < 16 + 4 or not training
            ids = [set(batch) for batch in batches]
            assert sum(map(len, ids)) == len(set().union(*ids))
            parts.append(set().union(*ids))
        assert parts[:2] == parts[2:]
        assert not parts[0] & parts[1]
        assert sum(len(batch) for _, batches in passes[:2] for batch in batches) == len(rows)
        if groups is not None:
            assert not {i // 3 for i in parts[0]} & {i // 3 for i in parts[1]}


def test_rows_of_an_id_have_one_reward_weight_label_and_group():
    X, _, _, rows, acted = exposed()
    ids = np.array([f"r{row}" for row in rows])
    long = np.c_[X[rows], np.arange(len(rows))]
    first = next(i for i, row in enumerate(rows) if row in rows[:i])
    message = rf"X differs \(position 4 of the reward columns\).* is '{ids[first]}' \(row {first}\)"
    with pytest.raises(ValueError, match=rf"{message}.*name the columns .* propensity_features"):
        ImplicitRewardEstimator(**FAST).fit(long, acted, response_id=ids)
    estimator = ImplicitRewardEstimator(propensity_features=[4], **FAST)
    estimator.fit(long, acted, response_id=ids)
    moved = long.copy()
    moved[first, 0] += 1
    for method, kwargs in (
        (estimator.score, {"y": acted}),
        (estimator.predict_proba, {"actions": acted}),
        (estimator.partial_fit, {"y": acted}),
    ):
        with pytest.raises(ValueError, match=rf"X differs \(position 0 .* '{ids[first]}'"):
            method(moved, **kwargs, response_id=ids)
    for name in ("sample_weight", "groups", "preference"):
        value = np.ones(len(rows))
        value[first] = 0
        with pytest.raises(ValueError, match=rf"{name} differs .* '{ids[first]}'"):
            estimator.fit(long, acted, response_id=ids, **{name: value})


def test_exposures_and_ids_tell_nothing_without_actions(one_signal):
    estimator, X, *_ = one_signal
    for name in ("response_id", "exposures"):
        with pytest.raises(ValueError, match=f"{name} tells nothing without actions"):
            estimator.predict_proba(X, **{name: np.ones(400)})


def test_groups_and_ids_go_through_cross_validation():
    X, _, _, rows, acted = exposed()
    params = {"response_id": rows, "groups": rows // 2}
    with sklearn.config_context(enable_metadata_routing=True):
        result = cross_validate(
            make_pipeline(StandardScaler(), ImplicitRewardEstimator(**FAST)),
            X[rows],
            acted,
            cv=GroupKFold(3),
            params=params,
            error_score="raise",
        )
    assert np.isfinite(result["test_score"]).all()


def test_naive_reduces_the_exposures_of_a_response():
    X, exposures, counts, rows, acted = exposed()
    any_action = (counts > 0).astype(int)
    expected = ImplicitRewardEstimator("naive", **FULL_BATCH).fit(X, any_action)
    for data in (
        {"X": X, "y": counts, "exposures": exposures},
        {"X": X[rows], "y": acted, "response_id": rows},
    ):
        estimator = ImplicitRewardEstimator("naive", **FULL_BATCH).fit(**data)
        assert_allclose(estimator.predict(X), expected.predict(X), atol=1e-9)
        assert estimator.score(**data) == pytest.approx(expected.score(X, any_action))


def test_some_labels_help():
    X, log = simulated()
    truth = log.preference
    without = r2(X, log.actions, truth)
    with_labels = r2(X, log.actions, truth, preference=some_labels(truth, 0.1))
    assert with_labels > without + 0.15


def test_all_labels_leave_nothing_to_the_actions():
    """With every preference known the reward is the classifier trained on the labels."""
    X, log = simulated(n=300)
    params = FULL_BATCH | {"n_estimators": 1, "max_epochs": 60}
    labelled = ImplicitRewardEstimator(**params)
    labelled.fit(X, log.actions, preference=log.preference)
    labels = ImplicitRewardEstimator("naive", **params).fit(X, log.preference)
    # They start at different rates.
    assert np.corrcoef(labelled.predict(X), labels.predict(X))[0, 1] > 0.98


def test_graded_labels_on_acted_rows_are_raised_with_one_warning():
    X, y, preference = make_log()
    graded = np.where(np.arange(400) < 60, 0.8, np.nan)
    raised = np.where((graded == 0.8) & (y == 1), 1.0, graded)
    with pytest.warns(UserWarning) as record:
        estimator = ImplicitRewardEstimator(**FAST | {"max_epochs": 2, "early_stopping": False})
        estimator.fit(X, y, preference=graded)
    assert [str(warning.message).split(" were")[0] for warning in record] == [
        f"{(y[:60] == 1).sum()} graded labels",
    ]
    assert {warning.filename for warning in record} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        twin = clone(estimator).fit(X, y, preference=raised)
    assert_array_equal(estimator.predict(X), twin.predict(X))


def test_labels_of_acted_rows_with_misclicks():
    X, log = simulated(n=800, false_action_rate=0.2, intercept=0.5)
    truth, acted = log.preference, log.actions == 1
    labels = np.where(acted, some_labels(truth, 0.6), np.nan)
    params = {"false_action_rate": 0.2}
    with pytest.raises(ValueError, match="these labels are not missing at random"):
        r2(X, log.actions, truth, params, preference=labels)
    without = r2(X, log.actions, truth, params)
    params["label_mechanism"] = "acted"
    assert r2(X, log.actions, truth, params, preference=labels) > without + 0.2
    with pytest.raises(ValueError, match="labels of acted responses tell nothing while"):
        r2(
            X,
            log.actions,
            truth,
            {"label_mechanism": "acted"},
            preference=np.where(acted, 1, np.nan),
        )


def test_unlogged_rows_learn_from_their_labels():
    X, log = simulated(n=600)
    y = log.actions.astype(float)
    y[:400] = np.nan
    labels = np.where(np.isnan(y), log.preference, np.nan)
    params = LEARN | {"early_stopping": False}
    estimator = ImplicitRewardEstimator(**params).fit(X, y, preference=labels)
    assert estimator.score(X[400:], None, true_preference=log.preference[400:]) > 0.3
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
    truth = log.preference
    without = r2(both, log.actions, truth)
    assert r2(both, log.actions, truth, {"propensity_features": slice(5, 7)}) > without + 0.1


def test_known_propensities_help():
    X, log = simulated(n=1200)
    truth = log.preference
    known = some_labels(log.propensity, 0.4)
    assert r2(X, log.actions, truth, propensity=known) > r2(X, log.actions, truth) + 0.15


def test_known_propensities_enter_likelihood_and_posterior():
    X, log = simulated(n=300)
    y, known = log.actions, log.propensity.copy()
    known[::4] = np.nan
    estimator = ImplicitRewardEstimator(**FAST | {"n_estimators": 1}).fit(X, y, propensity=known)
    R, A = estimator.predict(X).astype(float), estimator.propensity(X).astype(float)
    A = np.where(np.isnan(known), A, known)
    expected = np.where(y == 1, np.log(R * A), np.log1p(-R * A))
    assert estimator.score(X, y, propensity=known) == pytest.approx(expected.mean(), rel=1e-5)
    assert estimator.score(X, y) != pytest.approx(expected.mean(), rel=1e-5)
    proba = estimator.predict_proba(X, y, propensity=known)
    preferred = np.where(y == 1, 1, R * (1 - A) / (1 - R * A))
    assert_allclose(proba[:, [0, 2]].sum(axis=1), preferred, rtol=1e-4)
    before = estimator.predict_proba(X, propensity=known)
    assert_allclose(before[:, 0], R * A, rtol=1e-4)


def test_propensity_head_learns_given_propensities_where_there_are_no_others():
    X, log = simulated()
    params = LEARN | {"max_epochs": 60, "early_stopping": False}
    estimator = ImplicitRewardEstimator(**params).fit(X, log.actions, propensity=log.propensity)
    assert np.corrcoef(estimator.propensity(X), log.propensity)[0, 1] > 0.95
    assert estimator.score(X, None, true_preference=log.preference) > 0.4


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


def test_preference_rate_settles_the_level_of_exclusion():
    X, _ = simulated(n=800)
    context = np.random.default_rng(5).normal(size=(800, 2))
    reward = 1 / (1 + np.exp(1 - 3 * X[:, 0] - X[:, 2]))
    # Nowhere is acting near certain, so that the level is open.
    propensity = 0.6 / (1 + np.exp(-2 * context[:, 0]))
    log = simulate_feedback(reward, propensity=propensity, random_state=1)
    both, truth = np.c_[X, context], log.preference
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


@pytest.mark.parametrize("partial", [False, True])
def test_objectives_say_what_they_make_no_use_of(partial):
    X, y, preference = make_log(n_signals=3)
    for name, value in (
        ("preference", np.where(np.arange(400) < 30, preference, np.nan)),
        ("propensity", np.full(400, 0.5)),
    ):
        estimator = ImplicitRewardEstimator("naive", **FAST)
        with pytest.raises(ValueError, match=f"Naive makes no use of {name}. Leave it out, or use"):
            (estimator.partial_fit if partial else estimator.fit)(X, y[:, 0], **{name: value})
    with pytest.raises(
        ValueError, match="Brier makes no use of preference_rate, false_action_rate="
    ):
        ImplicitRewardEstimator(
            Brier(), preference_rate=0.5, false_action_rate="estimate", **FAST
        ).fit(X, y)


def test_partial_fit_takes_side_information_but_no_whole_population():
    X, _, _, rows, acted = exposed()
    labels = np.where(acted == 1, 1.0, np.nan)
    labels[acted == 0] = np.where(rows[acted == 0] % 5 == 0, 0.3, np.nan)
    labels = np.where(np.isin(rows, rows[acted == 1]) & (acted == 0), np.nan, labels)
    estimator = ImplicitRewardEstimator(**FAST)
    for _ in range(2):
        estimator.partial_fit(
            X[rows], acted, response_id=rows, preference=labels, propensity=np.full(len(rows), 0.9)
        )
    assert estimator.identification_.level == "identified"
    assert np.isfinite(estimator.predict(X)).all()
    estimator.partial_fit(X, np.ones(120), exposures=np.full(120, 3))
    for params, message in (
        ({"preference_rate": 0.5}, "preference_rate=0.5 is about the whole population, of which"),
        ({"false_action_rate": "estimate"}, "false_action_rate='estimate' compares rows held out"),
    ):
        with pytest.raises(ValueError, match=message):
            ImplicitRewardEstimator(**FAST | params).partial_fit(X, np.ones((120, 3)))


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
    assert estimator.score(X, None, true_preference=log.preference) > r2(
        X, log.actions, log.preference
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


# ---------------------------------------------------------------- names, copies, routing


def test_signal_names():
    X, y, _ = make_log(n_signals=2)
    frame = pd.DataFrame(y, columns=["copy", "share"])
    estimator = ImplicitRewardEstimator(**FAST).fit(X, frame)
    assert_array_equal(estimator.signal_names_in_, ["copy", "share"])
    assert estimator.score(X, frame) == estimator.score(X, y)
    swapped = frame[["share", "copy"]]
    message = r"the signals are \['share', 'copy'\], but the estimator was fitted with \['copy', 's"
    for method in (estimator.score, estimator.predict_proba, estimator.partial_fit):
        with pytest.raises(ValueError, match=message):
            method(X, swapped)
    assert_array_equal(estimator.partial_fit(X, y).signal_names_in_, ["copy", "share"])
    for unnamed in (y, pd.DataFrame(y)):
        estimator.fit(X, unnamed)
        assert not hasattr(estimator, "signal_names_in_")
        estimator.score(X, swapped)
    assert not hasattr(estimator.fit(X, frame["copy"]), "signal_names_in_")
    assert_array_equal(estimator.fit(X, frame[["copy"]]).signal_names_in_, ["copy"])


SELECTIONS = {
    "names": ["e0", "e1"],
    "positions": [0, 1],
    "slice": slice(0, 2),
    "slice of names": slice("e0", "e1"),
    "mask": np.arange(6) < 2,
    "callable": make_column_selector("e[01]"),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selections_survive_clone_and_pickle(case):
    X, y, _ = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    estimator = ImplicitRewardEstimator(reward_features=SELECTIONS[case], **FAST)
    assert estimator.get_params()["reward_features"] is SELECTIONS[case]
    twin = clone(estimator).fit(frame, y)
    repr(twin)
    loaded = pickle.loads(pickle.dumps(twin))
    assert_array_equal(loaded.predict(frame[["e0", "e1"]]), twin.predict(frame))
    assert_array_equal(loaded.propensity(frame), twin.propensity(frame))
    loaded.partial_fit(frame, y)
    assert loaded.identification_.level == "ranking only"
    stored = skops.io.dumps(twin.set_params(reward_features=None))
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("implicitrm_sk.") for name in untrusted), untrusted
    restored = skops.io.loads(stored, trusted=untrusted)
    assert_array_equal(restored.predict(frame[["e0", "e1"]]), twin.predict(frame))


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


ROUTED = {
    "sample_weight",
    "groups",
    "response_id",
    "exposures",
    "preference",
    "propensity",
    "true_preference",
}


class Recorder(ImplicitRewardEstimator):
    """Records what reached fit and score, and of which rows."""

    calls = []

    def fit(
        self,
        X,
        y,
        sample_weight=None,
        groups=None,
        response_id=None,
        exposures=None,
        preference=None,
        propensity=None,
    ):
        given = {
            name: value for name, value in vars().items() if name in ROUTED and value is not None
        }
        self.calls.append(("fit", X[:, 0], y, given))
        return super().fit(X, y, **given)

    def score(
        self,
        X,
        y,
        true_preference=None,
        sample_weight=None,
        response_id=None,
        exposures=None,
        propensity=None,
    ):
        given = {
            name: value for name, value in vars().items() if name in ROUTED and value is not None
        }
        self.calls.append(("score", X[:, 0], y, given))
        return super().score(X, y, **given)


def routed_search(cv, **params):
    Recorder.calls = []
    return GridSearchCV(
        # The first column numbers the rows, and stays as it is.
        make_pipeline(FunctionTransformer(), Recorder(false_action_rate=0.05, **FAST)),
        {"recorder__dropout": [0.0, 0.3]},
        cv=cv,
        error_score="raise",
        **params,
    )


def test_preference_reaches_fit_and_true_preference_score():
    X, y, _ = make_log(n=240)
    X[:, 0] = np.arange(240)
    # Every row has values of its own.
    preference = np.where(np.arange(240) % 3 == 0, (np.arange(240) + 0.25) / 240, np.nan)
    truth = (np.arange(240) + 0.75) / 240
    cv = KFold(3, shuffle=True, random_state=0)
    with sklearn.config_context(enable_metadata_routing=True):
        search = routed_search(cv=cv).fit(X, y, preference=preference, true_preference=truth)
        found = search.score(X, y, true_preference=truth)
        assert found == pytest.approx(r2_score(truth, search.predict(X)), abs=1e-6)
    everything = np.arange(240)
    expected = [rows for _ in range(2) for fold in cv.split(X) for rows in fold]
    expected += [everything, everything]  # the refit, and the score above
    assert len(Recorder.calls) == len(expected)
    for i, (kind, numbers, actions, given) in enumerate(Recorder.calls):
        rows = expected[i]
        assert_array_equal(numbers, rows)
        assert_array_equal(actions, y[rows])
        if i % 2 == 0:
            assert kind == "fit" and set(given) == {"preference"}
            assert_array_equal(given["preference"], preference[rows])
        else:
            assert kind == "score" and set(given) == {"true_preference"}
            assert_array_equal(given["true_preference"], truth[rows])
    assert "true_preference" not in inspect.signature(ImplicitRewardEstimator.fit).parameters
    assert "preference" not in inspect.signature(ImplicitRewardEstimator.score).parameters


def test_side_information_of_fit_and_score_goes_to_both():
    X, y, _ = make_log(n=240)
    X[:, 0] = np.arange(240)
    side = {
        "sample_weight": (np.arange(240) + 1) / 240,
        "response_id": np.array([f"r{i}" for i in range(240)]),
        "exposures": 1 + np.arange(240) % 3,
        "propensity": np.where(np.arange(240) % 2, 0.5 + np.arange(240) / 1000, np.nan),
    }
    only_fit = {"preference": np.where(y == 0, np.arange(240) / 1000, np.nan)}
    with sklearn.config_context(enable_metadata_routing=True):
        routed_search(cv=2, refit=False).fit(X, y, **side, **only_fit)
    assert len(Recorder.calls) == 8
    for kind, rows, _, given in Recorder.calls:
        expected = side | (only_fit if kind == "fit" else {})
        assert set(given) == set(expected)
        for name, value in expected.items():
            assert_array_equal(given[name], value[rows.astype(int)])


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_std_is_at_least_half_the_distance_to_the_mirror_image(rate):
    X, y, _ = make_log()
    params = FAST | {"n_estimators": 3, "false_action_rate": rate}
    estimator = ImplicitRewardEstimator(**params).fit(X, y)
    new = np.random.default_rng(3).normal(size=(200, 6)) * 2
    with torch.no_grad():
        Z = torch.from_numpy((new - estimator.scaler_.mean_) / estimator.scaler_.scale_).float()
        f, u = estimator.model_(Z)
    R, A = torch.sigmoid(f), torch.sigmoid(u[..., 0])
    half = (R.mean(0) - A.mean(0)).abs() / 2
    _, std = estimator.predict(new, return_std=True)
    assert (std >= half.numpy() - 1e-6).all()
    assert half.max() > 0.02
    # With anything that breaks the tie only the members count.
    told = clone(estimator).fit(X, y, propensity=np.where(np.arange(400) < 3, 0.7, np.nan))
    with torch.no_grad():
        f, _ = told.model_(Z)
    assert_allclose(
        told.predict(new, return_std=True)[1], torch.sigmoid(f).std(0, correction=0), atol=1e-5
    )


# ---------------------------------------------------------------- persistence


@pytest.mark.parametrize("objective", ["stratified", "naive"])
def test_pickle_joblib_and_skops(objective, tmp_path):
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(objective, **FAST).fit(X, y)
    copies = [pickle.loads(pickle.dumps(estimator))]
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    copies.append(joblib.load(buffer))
    stored = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=stored)
    assert all(name.startswith("implicitrm_sk.") for name in untrusted), untrusted
    copies.append(skops.io.loads(stored, trusted=untrusted))
    for copy in copies:
        assert_array_equal(copy.predict(X), estimator.predict(X))
        assert copy.score(X, y) == estimator.score(X, y)
        assert copy.get_params().keys() == estimator.get_params().keys()
        assert copy.history_ == estimator.history_
        copy.partial_fit(X, y)


def test_pickle_holds_arrays_not_tensors():
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).partial_fit(X, y)
    assert b"torch" not in pickle.dumps(estimator)


# ---------------------------------------------------------------- odd but legal input


def test_odd_inputs_give_the_same_reward(tmp_path):
    X, y, _ = make_log()
    X = X.astype(np.float32)
    reference = ImplicitRewardEstimator(**FAST).fit(X, y).predict(X)
    padded = np.zeros((800, 12), dtype=np.float32)
    padded[::2, ::2] = X
    mapped = np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="w+", shape=X.shape)
    mapped[:] = X
    mapped.flush()
    read_only = X.copy()
    read_only.flags.writeable = False
    for data in (
        padded[::2, ::2],
        np.asfortranarray(X),
        np.memmap(tmp_path / "X.bin", dtype=np.float32, mode="r", shape=X.shape),
        read_only,
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
    ):
        estimator = ImplicitRewardEstimator(**FAST).fit(data, y)
        assert_allclose(estimator.predict(data), reference, atol=1e-5)
    for actions in (y.astype(np.int8), y.astype(bool), torch.from_numpy(y), list(y)):
        assert_array_equal(ImplicitRewardEstimator(**FAST).fit(X, actions).predict(X), reference)
    for data in (X.astype(np.float16), torch.from_numpy(X).bfloat16(), X.astype(np.float64)):
        estimator = ImplicitRewardEstimator(**FAST).fit(data, y)
        assert np.isfinite(estimator.predict(data)).all()


def test_unstandardized_read_only_input():
    X, y, _ = make_log()
    X = X.astype(np.float32)
    X.flags.writeable = False
    estimator = ImplicitRewardEstimator(standardize=False, **FAST).fit(X, y)
    assert estimator.scaler_ is None
    assert np.isfinite(estimator.predict(X)).all()
    with pytest.raises(ValueError, match="beyond the range of torch.float32.*dtype='float64'"):
        estimator.predict(np.full((1, 6), 1e200))


def test_one_feature_and_many_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100_000, 1)).astype(np.float32)
    y = (X[:, 0] > 0) & (rng.uniform(size=100_000) < 0.5)
    estimator = ImplicitRewardEstimator(
        **FAST | {"max_epochs": 2, "batch_size": 4096, "early_stopping": False}
    ).fit(X, y)
    reward = estimator.predict(X)
    assert reward.shape == (100_000,)
    assert reward[X[:, 0] > 1].mean() > reward[X[:, 0] < -1].mean()


# ---------------------------------------------------------------- errors

X_GOOD, Y_GOOD, _ = make_log(n=160)
BAD_FIT = {
    "a rating": (X_GOOD, Y_GOOD * 5, "y must be an action in {0,1}.*something else: 5"),
    "minus one": (X_GOOD, Y_GOOD * 2 - 1, "y must be an action in {0,1}.*: -1"),
    "all zero": (X_GOOD, Y_GOOD * 0, "y has one class only: all 160 logged actions are 0"),
    "all one": (X_GOOD, Y_GOOD * 0 + 1, "y has one class only: all 160 logged actions are 1"),
    "nothing logged": (X_GOOD, Y_GOOD * np.nan, "y logs nothing"),
    "too short": (X_GOOD, Y_GOOD[:-1], "y has 159 rows but X has 160"),
    "3-d": (X_GOOD, np.zeros((160, 2, 2)), "y has 3 dimensions"),
    "no signal": (X_GOOD, np.zeros((160, 0)), "y has no columns"),
    "strings": (X_GOOD, np.array(["copied", "no"] * 80), "y must be numbers.*Expected are actions"),
    "no y": (X_GOOD, None, "requires y to be passed"),
    "X with NaN": (np.where(X_GOOD > 2, np.nan, X_GOOD), Y_GOOD, "Input X contains NaN"),
    "X with inf": (np.where(X_GOOD > 1, np.inf, X_GOOD), Y_GOOD, "Input X contains infinity"),
    "empty X": (X_GOOD[:0], Y_GOOD[:0], "0 sample"),
    "1-d X": (X_GOOD[:, 0], Y_GOOD, "Expected 2D array, got 1D array"),
    "3-d X": (X_GOOD[None], Y_GOOD, "dim 3"),
    "text": ([("prompt", "response")] * 160, Y_GOOD, "X holds text"),
    "a frame of text": (pd.DataFrame({"response": ["text"] * 160}), Y_GOOD, "X holds text"),
    "arrays in cells": (pd.DataFrame({"e": list(X_GOOD)}), Y_GOOD, "X holds one array per cell"),
    "plain text": (["response"] * 160, Y_GOOD, "X holds text"),
}


@pytest.mark.parametrize("case", BAD_FIT)
def test_bad_data(case):
    X, y, message = BAD_FIT[case]
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\.\*", ".*")):
        ImplicitRewardEstimator(**FAST).fit(X, y)


def test_sparse_X():
    import scipy.sparse

    with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data"):
        ImplicitRewardEstimator(**FAST).fit(scipy.sparse.csr_array(X_GOOD), Y_GOOD)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sample_weight": -np.ones(160)}, "sample_weight has 160 negative"),
        ({"sample_weight": np.zeros(160)}, "sample_weight is zero for every row"),
        ({"sample_weight": np.ones(159)}, r"sample_weight has shape \(159,\)"),
        ({"sample_weight": np.full(160, np.nan)}, "sample_weight contains NaN"),
        ({"sample_weight": "balanced"}, "sample_weight must be one number per row.*'balanced'"),
        ({"groups": np.ones(3)}, r"groups has shape \(3,\)"),
        ({"groups": [None, *["a"] * 159]}, r"groups is missing \(NaN\) in 1 rows. Fill in a label"),
    ],
)
def test_bad_side_information(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**FAST).fit(X_GOOD, Y_GOOD, **kwargs)


BAD_SIDE_INFORMATION = {
    "a label above 1": (
        {},
        {"preference": np.where(np.arange(160) < 3, 5.0, np.nan)},
        r"preference must hold labels in \[0, 1\] .* 3 value\(s\) lie outside, e.g. 5. Rescale",
    ),
    "a label below 0": ({}, {"preference": np.full(160, -1.0)}, "preference must hold labels in"),
    "a selector that selects nothing": (
        {"propensity_features": []},
        {},
        "propensity_features selects no column of X. A head needs at least one",
    ),
    "a selector of a missing column": (
        {"reward_features": ["a", "user"]},
        {"X": pd.DataFrame(X_GOOD, columns=list("abcdef"))},
        "reward_features names the column 'user', which X lacks. Its columns are a, b, c, d, e, f",
    ),
    "a reversed interval": (
        {"preference_rate": (0.7, 0.3)},
        {},
        r"preference_rate=\(0.7, 0.3\) is reversed: the lower end comes first, \(0.3, 0.7\)",
    ),
    "an interval beyond 1": (
        {"preference_rate": (0.7, 1.3)},
        {},
        r"preference_rate must lie in \[0, 1\], got \(0.7, 1.3\)",
    ),
    "three ends": ({"preference_rate": (0.1, 0.2, 0.3)}, {}, "preference_rate must be a number or"),
    "no end": ({"preference_rate": (None, 0.5)}, {}, r"preference_rate must lie in \[0, 1\]"),
    "a rate above 1": ({"preference_rate": 1.5}, {}, "'preference_rate' parameter"),
    "a rate in words": ({"preference_rate": "half"}, {}, "'preference_rate' parameter"),
    "nobody likes anything": ({"preference_rate": 0}, {}, "no response is preferred, which leaves"),
    "everybody likes it all": ({"preference_rate": (1, 1)}, {}, "every response is preferred"),
    "a propensity of 0": (
        {},
        {"propensity": np.zeros(160)},
        r"propensity must lie in \(0, 1\], NaN where it is not known, but 160 value\(s\) do not",
    ),
    "a propensity above 1": ({}, {"propensity": np.full(160, 2.0)}, r"propensity must lie in \(0"),
    "a propensity below the false actions": (
        {"false_action_rate": 0.1},
        {"propensity": np.full(160, 0.1)},
        "propensity is not above false_action_rate in 160 value",
    ),
    "ids of the wrong length": (
        {},
        {"response_id": np.arange(159)},
        r"response_id has shape \(159,\), but one value per row of X is expected: \(160,\)",
    ),
    "missing ids": (
        {},
        {"response_id": np.where(np.arange(160) < 2, np.nan, 1.0)},
        r"response_id is missing \(NaN\) in 2 rows. Give each response an id of its own",
    ),
    "exposures smaller than actions": (
        {},
        {"y": np.full(160, 3), "exposures": np.full(160, 2)},
        "y counts more actions than exposures in 160 rows; in the first, row 0, 3 actions of 2 exp",
    ),
    "exposures of the wrong length": (
        {},
        {"exposures": np.ones(159)},
        "exposures has 159 rows but",
    ),
    "counts without exposures": ({}, {"y": Y_GOOD * 3}, "pass counts together with exposures="),
    "always acted on": (
        {},
        {"y": np.full(160, 2), "exposures": np.full(160, 2)},
        "y has one class only",
    ),
    "a label that an action contradicts": (
        {},
        {"preference": np.zeros(160)},
        f"preference is 0 on {Y_GOOD.sum()} responses that drew an action: with false_action_rate",
    ),
    "labels where users acted": (
        {},
        {"preference": np.where(Y_GOOD == 1, 1.0, np.nan)},
        "labels are not missing at random",
    ),
    "an unknown mechanism": ({"label_mechanism": "mnar"}, {}, "'label_mechanism' parameter"),
}


@pytest.mark.parametrize("case", BAD_SIDE_INFORMATION)
def test_bad_side_information_is_named(case):
    params, data, message = BAD_SIDE_INFORMATION[case]
    estimator = ImplicitRewardEstimator(**FAST | params)
    with pytest.raises(ValueError, match=message) as error:
        estimator.fit(**{"X": X_GOOD, "y": Y_GOOD} | data)
    assert "\n" not in str(error.value)
    with pytest.raises(NotFittedError):
        estimator.predict(X_GOOD)


@pytest.mark.parametrize(
    ("column", "message"),
    [(np.zeros(400), "'share' of y is 0 in every row"), (np.full(400, np.nan), "is never logged")],
)
def test_useless_signal_is_named(column, message):
    X, y, _ = make_log()
    with pytest.warns(UserWarning, match=message):
        ImplicitRewardEstimator(**FAST).fit(X, pd.DataFrame({"copy": y, "share": column}))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective": "nonsense"}, "'objective' parameter of ImplicitRewardEstimator must be"),
        ({"objective": Stratified}, "'objective' parameter"),
        ({"hidden_layer_sizes": 0}, "'hidden_layer_sizes' parameter"),
        ({"hidden_layer_sizes": (8, -1)}, r"hidden_layer_sizes must be .* got \(8, -1\)"),
        ({"propensity_hidden_layer_sizes": (2.5,)}, "propensity_hidden_layer_sizes must be"),
        ({"false_action_rate": 1.0}, "'false_action_rate' parameter"),
        ({"false_action_rate": [0.1, 0.1]}, r"false_action_rate has shape \(2,\).*\(1,\)"),
        ({"false_action_rate": [1.5]}, r"false_action_rate must lie in \[0, 1\)"),
        ({"false_action_rate": ["a"]}, "false_action_rate must be a number, one per .* 'estimate'"),
        ({"n_estimators": 0}, "'n_estimators' parameter"),
        ({"learning_rate_init": 0.0}, "'learning_rate_init' parameter"),
        ({"weight_decay": -1.0}, "'weight_decay' parameter"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"batch_size": 0}, "'batch_size' parameter"),
        ({"max_epochs": 0}, "'max_epochs' parameter"),
        ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
        ({"n_iter_no_change": 0}, "'n_iter_no_change' parameter"),
        ({"tol": -1.0}, "'tol' parameter"),
        ({"dtype": "int8"}, "'dtype' parameter"),
        ({"device": "abacus"}, "device='abacus' cannot be used"),
        ({"random_state": "x"}, "'random_state' parameter"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**FAST | params).fit(X_GOOD, Y_GOOD)


def test_false_action_rate_above_the_action_rate_is_named():
    with pytest.warns(UserWarning, match=r"false_action_rate of signal 0 is 0.6, but only 0\.\d+"):
        ImplicitRewardEstimator(**FAST | {"false_action_rate": 0.6}).fit(X_GOOD, Y_GOOD)


@pytest.mark.parametrize("loss", [0.5, torch.zeros(3)])
def test_loss_of_a_wrong_shape_is_named(loss):
    class Wrong(Objective):
        def loss(self, reward_logit, propensity_logit, batch):
            return loss

    with pytest.raises(ValueError, match=r"Wrong.loss must return a tensor of shape \(members"):
        ImplicitRewardEstimator(Wrong(), **FAST).fit(X_GOOD, Y_GOOD)


def test_bad_use_after_fit(one_signal):
    estimator, X, y, preference = one_signal
    with pytest.raises(ValueError, match="X has 5 features, but ImplicitRewardEstimator is exp"):
        estimator.predict(X[:, :5])
    two = np.column_stack([y, y])
    with pytest.raises(ValueError, match=r"actions has 2 signal\(s\).*fitted with 1"):
        estimator.predict_proba(X, two)
    with pytest.raises(ValueError, match=r"y has 2 signal\(s\).*fitted with 1"):
        estimator.score(X, two)
    with pytest.raises(ValueError, match="y logs nothing"):
        estimator.score(X, np.full(400, np.nan))
    with pytest.raises(ValueError, match="reward has 400 rows but true_preference has 399"):
        estimator.score(X, y, true_preference=preference[:-1])
    with pytest.raises(ValueError, match=r"true_preference must lie in .* from 0 to 5"):
        estimator.score(X, y, true_preference=5 * preference)
    with pytest.raises(ValueError, match="true_preference must be known"):
        estimator.score(X, y, true_preference=np.full(400, np.nan))


@pytest.mark.parametrize(
    "method", ["predict", "decision_function", "predict_proba", "predict_action", "propensity"]
)
def test_unfitted(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ImplicitRewardEstimator(), method)(X_GOOD)
    with pytest.raises(NotFittedError):
        ImplicitRewardEstimator().score(X_GOOD, Y_GOOD)


def test_failed_fit_in_a_callback_leaves_no_context():
    class Broken(StopAfter):
        def on_fit_task_end(self, estimator, context):
            raise RuntimeError("stop")

    estimator = ImplicitRewardEstimator(**FAST).set_callbacks(Broken(1))
    with pytest.raises(RuntimeError, match="stop"):
        estimator.fit(X_GOOD, Y_GOOD)
    assert not hasattr(estimator, "_callback_fit_ctx")


# ---------------------------------------------------------------- import


def test_import_is_light():
    code = (
        "import sys, implicitrm_sk; "
        "print([m for m in ('matplotlib', 'transformers.models', 'skops') "
        "if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr


def test_is_a_plain_estimator():
    tags = sklearn.utils.get_tags(ImplicitRewardEstimator())
    assert tags.estimator_type is None
    assert tags.target_tags.required
    assert isinstance(ImplicitRewardEstimator(), BaseEstimator)
