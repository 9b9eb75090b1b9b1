"""The shift report measures known shifts, and warns where the reward extrapolates."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from implicitrm_sk import ImplicitRewardEstimator, ShiftWarning
from implicitrm_sk.inspection import _shift, shift_report


def shifted(n, d, location=0.0, scale=1.0, seed=1):
    X = scale * np.random.default_rng(seed).normal(size=(n, d))
    X[:, 0] += location
    return X


@pytest.fixture(scope="module")
def fitted_on_log():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    y = (X[:, :1] + rng.normal(size=(2000, 2)) > 0.5).astype(float)
    est = ImplicitRewardEstimator(
        max_epochs=5, early_stopping=False, n_estimators=2, random_state=0
    )
    return est.fit(X, y), X


@pytest.mark.parametrize("seed", range(3))
def test_shift_report_sees_no_shift_where_there_is_none(fitted_on_log, seed):
    est, X = fitted_on_log
    report = shift_report(est, shifted(1000, 20, seed=seed + 5), X)
    assert abs(report.auc - 0.5) < 3.5 * report.auc_error
    assert report.effective_sample_size > 1700
    assert report.share_outside < 0.03
    assert not report.extrapolates
    assert "no sign that the reward extrapolates" in str(report)
    assert report.outside.shape == report.log_density_ratio.shape == (1000,)


def test_one_member_has_no_spread(fitted_on_log):
    est, X = fitted_on_log
    one = clone(est).set_params(n_estimators=1).fit(X, (X[:, :2] > 0).astype(float))
    report = shift_report(one, shifted(100, 20), X[:200])
    assert np.isnan(report.reward[1]) and np.isfinite(report.reward[0])
    assert "(none of one member)" in str(report) and "nan" not in str(report)


def test_shift_report_measures_a_known_shift(fitted_on_log):
    """Normal densities a distance of 1 apart: log w is x - 1/2, the mean of w^2 is e."""
    est, X = fitted_on_log
    new = shifted(2000, 20, location=1.0)
    with pytest.warns(ShiftWarning):  # P(z > 2.33 - 1) = 0.09 lies beyond the edge
        report = shift_report(est, new, X)
    assert report.share_outside == pytest.approx(0.09, abs=0.04)
    best = roc_auc_score(np.repeat([0, 1], 2000), np.concatenate([X[:, 0], new[:, 0]]))
    assert report.auc == pytest.approx(best, abs=0.02)
    assert report.effective_sample_size == pytest.approx(2000 / np.e, rel=0.25)
    assert np.corrcoef(report.log_density_ratio, new[:, 0])[0, 1] > 0.95


@pytest.mark.parametrize("change", [{"location": 4.0}, {"scale": 2.0}, {"scale": 0.3}])
def test_shift_report_warns_where_the_reward_extrapolates(fitted_on_log, change):
    est, X = fitted_on_log
    with pytest.warns(ShiftWarning, match="the reward extrapolates for .* of the new responses"):
        report = shift_report(est, shifted(500, 20, **change), X)
    assert report.extrapolates
    assert report.auc > 0.95
    assert report.effective_sample_size < 100
    assert report.outside.mean() == report.share_outside > 0.5


def test_a_log_that_says_little_about_the_new_responses_is_called_that(fitted_on_log):
    est, X = fitted_on_log
    near = X[np.argsort(np.square(X[:, :3] - 1).sum(axis=1))[:200]]
    report = shift_report(est, near, X)
    assert not report.extrapolates
    assert report.verdict == "the new responses differ from the log on average, but lie within it."
    few = replace(
        report, effective_sample_size=0.09 * report.n_log, reward_outside=(np.nan, np.nan)
    )
    assert "nan" not in str(few)
    assert "few of the log are like the new ones" in few.verdict


def test_some_responses_outside_are_found(fitted_on_log):
    est, X = fitted_on_log
    new = shifted(500, 20)
    new[:100, 0] += 8
    with pytest.warns(ShiftWarning):
        report = shift_report(est, new, X)
    assert report.outside[:100].mean() > 0.9
    assert report.outside[100:].mean() < 0.1


def test_groups_keep_prompts_from_looking_like_a_shift(fitted_on_log):
    est, X = fitted_on_log
    prompt = np.repeat(np.arange(100), 10)
    rng = np.random.default_rng(3)
    new = rng.normal(size=(100, 20))[prompt] + 0.01 * rng.normal(size=(1000, 20))
    report = shift_report(est, new, X, groups_new=prompt)
    assert abs(report.auc - 0.5) < 0.1
    with pytest.raises(ValueError, match="holds 1 groups; expected at least 5"):
        shift_report(est, new, X, groups_new=np.zeros(1000))


def test_shift_report_reads_the_columns_of_the_reward_only(fitted_on_log):
    _, X = fitted_on_log
    y = (X[:, :1] + np.random.default_rng(0).normal(size=(2000, 2)) > 0.5).astype(float)
    est = ImplicitRewardEstimator(
        max_epochs=2, early_stopping=False, n_estimators=2, propensity_features=[0]
    ).fit(X, y)
    report = shift_report(est, shifted(500, 20, location=9.0), X)  # in a column of users
    assert not report.extrapolates
    with pytest.raises(ValueError, match="X_new has 5 rows; expected at least 20"):
        shift_report(est, X[:5], X)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rounding_errors_are_not_read(dtype):
    """As two machines make them: in a column that hardly varies, and in sums of columns."""
    X = np.random.default_rng(0).normal(size=(600, 6))
    X[300:, 0] += 1
    is_new = np.repeat([0, 1], 300)
    found = []
    for seed in (1, 2):
        noise = np.finfo(dtype).eps * np.random.default_rng(seed).normal(size=(600, 3))
        more = np.column_stack([np.full(600, 5.0), X[:, 0] + X[:, 1], X[:, 2] - X[:, 3]])
        both = np.column_stack([X, more * (1 + noise)]).astype(dtype)
        found.append(_shift._cross_fitted_log_ratio(both, is_new, None, np.random.RandomState(0)))
    assert_allclose(found[0], found[1], atol=1e-3)
    assert roc_auc_score(is_new, found[0]) > 0.7


def test_shift_report_is_reproducible_and_leaves_global_generators_alone(fitted_on_log):
    est, X = fitted_on_log
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (shift_report(est, shifted(300, 20), X) for _ in range(2))
    assert_array_equal(first.log_density_ratio, second.log_density_ratio)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
