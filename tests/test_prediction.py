"""Predictions: shapes, the rules of the mixture, posterior and score, what they refuse."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST, exposed, make_log, simulated
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk._device import INFERENCE_ROWS
from implicitrm_sk._prediction import FittedMixture, log_likelihood
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.objectives import Stratified

# The fits are short: most members could have trained for longer.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"
)


@pytest.fixture(scope="module")
def one_signal():
    X, y, preference = make_log()
    return ImplicitRewardEstimator(**FAST).fit(X, y), X, y, preference


@pytest.fixture(scope="module")
def three_signals():
    X, y, preference = make_log(n_signals=3)
    estimator = ImplicitRewardEstimator(false_action_rate=[0.0, 0.02, 0.1], **FAST)
    return estimator.fit(X, y), X, y, preference


# ---------------------------------------------------------------- the mixture


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_dtype(dtype):
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(dtype=dtype, **FAST).fit(X, y)
    expected = np.float64 if dtype == "float64" else np.float32
    for output in (estimator.predict(X), estimator.predict_proba(X), estimator.propensity(X)):
        assert output.dtype == expected
    reference = ImplicitRewardEstimator(dtype="float64", **FAST).fit(X, y)
    assert np.abs(reference.predict(X) - estimator.predict(X)).max() < 0.05


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


def test_one_member_has_no_spread():
    """NaN rather than 0, which would say that nothing is in doubt; also where copies are left."""
    X, y, _ = make_log(n_signals=2)
    one = ImplicitRewardEstimator(**FAST | {"n_estimators": 1}).fit(X, y)
    two = ImplicitRewardEstimator(**FAST | {"n_estimators": 2}).fit(X, y)
    assert np.isfinite(one.predict(X, return_std=True)[0]).all()
    assert np.isnan(one.predict(X, return_std=True)[1]).all()
    assert (two.predict(X, return_std=True)[1] > 0).any()
    # A fit with users keeps copies of the one member that counts.
    two.model_.copy_members(two.model_, torch.tensor([1, 1]))
    assert np.isnan(two.predict(X, return_std=True)[1]).all()


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


def test_several_signals_have_no_mirror_image(three_signals):
    estimator, X, *_ = three_signals
    with torch.no_grad():
        Z = torch.from_numpy((X - estimator.scaler_.mean_) / estimator.scaler_.scale_).float()
        f = estimator.model_.reward_logit(Z)
    assert_allclose(estimator.predict(X), torch.sigmoid(f).mean(0).numpy(), rtol=1e-5)


@pytest.mark.parametrize("fitted", ["one_signal", "three_signals"])
def test_the_mixture_is_what_predict_asks(fitted, request):
    estimator, X, y, _ = request.getfixturevalue(fitted)
    mixture = FittedMixture.of(estimator)
    k = y.shape[1] if y.ndim > 1 else 1
    f, u = mixture.members(X, "reward_logit", "propensity_logit")
    assert f.shape == (2, 400) and u.shape == (2, 400, k) and f.dtype == torch.float64
    components = mixture.components(X, "reward_logit", "propensity_logit")
    mirrored = fitted == "one_signal"
    assert mixture.is_mirrored == mirrored == estimator.identification_.swap_symmetric
    assert_array_equal(components[0][:2], f)
    if mirrored:  # the other side of the swap
        assert_array_equal(components[0][2:], u[..., 0])
        assert_array_equal(components[1][2:, :, 0], f)
        assert mixture.false_action_rate is None
    else:
        assert len(components[0]) == 2
        assert_array_equal(mixture.false_action_rate, [0.0, 0.02, 0.1])
    assert_array_equal(mixture.components(X, "reward_logit")[0], components[0])
    rewards = torch.sigmoid(components[0])
    assert_allclose(estimator.predict(X), rewards.mean(0), rtol=1e-6)
    assert_allclose(
        estimator.predict(X, return_std=True)[1], rewards.std(0, correction=0), atol=1e-6
    )


def test_a_mixture_of_its_parts():
    """Nothing of the estimator but the fields is asked for."""
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST).fit(X, y)
    mixture = FittedMixture(
        estimator.model_,
        estimator.scaler_,
        Stratified(),
        Measurement.of_actions(1),
        None,
        is_mirrored=False,
        dtype="float32",
    )
    (found,) = mixture.reduce(
        X, ("reward_logit",), lambda _, f: (mixture.output(torch.sigmoid(f).mean(0)),)
    )
    assert found.dtype == np.float32 and found.shape == (400,)
    assert_allclose(found, torch.sigmoid(mixture.members(X, "reward_logit")[0]).mean(0), rtol=1e-6)
    both = replace(mixture, is_mirrored=True)
    (mean,) = both.reduce(X, ("reward_logit",), lambda _, f: (torch.sigmoid(f).mean(0),))
    assert_allclose(estimator.predict(X), mean, rtol=1e-6)
    with pytest.raises(NotFittedError):
        FittedMixture.of(ImplicitRewardEstimator())


def test_rows_are_reduced_in_chunks_in_their_order():
    """More rows than are computed at a time; each chunk is told which rows it holds."""
    X, y, _ = make_log()
    estimator = ImplicitRewardEstimator(**FAST | {"max_epochs": 1, "early_stopping": False})
    estimator.fit(X, y)
    many = np.random.default_rng(0).normal(size=(INFERENCE_ROWS + 3, 6))
    seen = []

    def function(rows, reward_logit):
        seen.append(rows)
        return torch.arange(rows.start, rows.stop), reward_logit.T

    mixture = FittedMixture.of(estimator)
    number, logits = mixture.reduce(many, ("reward_logit",), function)
    assert len(seen) == 3
    assert_array_equal(number, np.arange(len(many)))
    assert logits.shape == (len(many), 4)
    (direct,) = mixture.components(many, "reward_logit")
    assert_allclose(logits, direct.T, rtol=1e-5, atol=1e-6)


def test_likelihood_of_a_log_is_what_score_averages(three_signals):
    estimator, X, y, _ = three_signals
    seen = y.astype(float)
    seen[:5] = np.nan
    weight = np.linspace(0, 2, 400)
    values, found = log_likelihood(estimator, X, seen, sample_weight=weight)
    assert_array_equal(found, np.where(np.arange(400) < 5, 0, weight))
    assert_array_equal(values[:5], 0)
    expected = np.average(values[5:], weights=weight[5:])
    assert estimator.score(X, seen, sample_weight=weight) == pytest.approx(expected)


# ---------------------------------------------------------------- objectives of one signal


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


# ---------------------------------------------------------------- likelihood and posterior


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


def test_score_against_truth_takes_the_columns_by_name():
    X, y, preference = make_log()
    frame = pd.DataFrame(X, columns=[f"e{i}" for i in range(6)])
    estimator = ImplicitRewardEstimator(**FAST).fit(frame, y)
    expected = r2_score(preference, estimator.predict(frame))  # no warning about names
    assert estimator.score(frame, None, true_preference=preference) == pytest.approx(expected)


def test_posterior_of_a_response_shown_repeatedly():
    X, exposures, counts, rows, acted = exposed()
    reward = X[:, :2]
    context = np.random.default_rng(1).normal(size=(len(rows), 1))
    long = np.c_[reward[rows], context]
    settings = {"n_estimators": 1, "propensity_features": [2], "false_action_rate": 0.0}
    estimator = ImplicitRewardEstimator(**FAST | settings)
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


# ---------------------------------------------------------------- errors


def test_exposures_and_ids_tell_nothing_without_actions(one_signal):
    estimator, X, *_ = one_signal
    for name in ("response_id", "exposures"):
        with pytest.raises(ValueError, match=f"{name} is given without actions"):
            estimator.predict_proba(X, **{name: np.ones(400)})


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
    with pytest.raises(ValueError, match="true_preference is known"):
        estimator.score(X, y, true_preference=np.full(400, np.nan))


@pytest.mark.parametrize(
    "method", ["predict", "decision_function", "predict_proba", "predict_action", "propensity"]
)
def test_unfitted(method):
    X, y, _ = make_log(n=160)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(ImplicitRewardEstimator(), method)(X)
    with pytest.raises(NotFittedError):
        ImplicitRewardEstimator().score(X, y)
