"""Graded signals: bins, the ordered logit, what they add and what they do not."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.signals import Graded

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore::implicitrm_sk.exceptions.IdentificationWarning",
)
SMALL = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 1,
    "learning_rate_init": 0.01,
    "max_epochs": 40,
    "random_state": 0,
}
BRIEF = SMALL | {"max_epochs": 3, "early_stopping": False}
SIGNALS = {"dwell": Graded(), "copied": "positive", "retried": "negative"}


@pytest.fixture(scope="module")
def log():
    """Dwell times that depend on the response, and even more on the response's length."""
    X = np.random.default_rng(0).normal(size=(4000, 4))
    reward = 1 / (1 + np.exp(-2 * X[:, 0]))
    simulated = simulate_feedback(reward, X=X, signals=SIGNALS, random_state=0)
    # Seconds: a grade is a bin of them.
    simulated.actions["dwell"] = 2.0 ** simulated.actions["dwell"]
    return simulated


def fit(log, names=("dwell", "copied", "retried"), rows=slice(3000), **settings):
    est = ImplicitRewardEstimator(
        signals={name: SIGNALS[name] for name in names}, **SMALL | settings
    )
    return est.fit(log.X[rows], log.actions[list(names)][rows])


@pytest.fixture(scope="module")
def fitted(log):
    return fit(log)


# ---------------------------------------------------------------- bins


@pytest.mark.parametrize(
    ("column", "bins", "shares"),
    [
        (np.arange(100), 4, [25, 25, 25, 25]),
        ([0] * 90 + list(range(1, 11)), 5, [90, 2, 3, 3, 2]),  # never opened
        ([*np.linspace(0, 0.9, 10), *[1.0] * 90], 3, [5, 5, 90]),  # text kept as it is
        ([5] * 80 + [4] * 10 + [3] * 8 + [1] * 2, 5, [2, 8, 10, 80]),  # each value a grade
    ],
    ids=["no ties", "many at the bottom", "many at the top", "few values"],
)
def test_quantile_bins(column, bins, shares):
    kind = Graded(bins=bins).settled(column, "y")
    found = np.bincount(kind.encode(column, "y").astype(int))
    if bins == 5 and len(shares) == 5:
        assert found[0] == 90 and found.sum() == 100 and len(found) == 5 and found.min() >= 1
    else:
        assert_array_equal(found, shares)
    assert kind.settled(column, "y") == kind
    # Values that fit has not seen lie in the bins at the ends.
    assert_array_equal(kind.encode([-1e9, 1e9], "y"), [0, len(found) - 1])


@pytest.mark.parametrize(
    "y",
    [
        [0.0, 2.0, None, 2.1, 10.0],
        np.array([0, 2, np.nan, 2.1, 10]),
        np.array([0, 2, None, 2.1, 10], dtype=object),
        pd.Series([0, 2, pd.NA, 2.1, 10], dtype="Float64"),
    ],
    ids=["list", "array", "objects", "nullable"],
)
def test_given_bins_close_on_the_right_and_missing_is_not_logged(y):
    kind = Graded(bins=[0, 2, 5, 10])
    assert_array_equal(kind.settled(y, "y").encode(y, "y"), [0, 0, np.nan, 1, 2])


def test_categories():
    kind = Graded(0, ("good", "fair", "poor"))
    y = pd.Series(["fair", None, "poor", "good"])
    assert_array_equal(kind.settled(y, "y").encode(y, "y"), [1, np.nan, 2, 0])


@pytest.mark.parametrize(
    ("arguments", "column", "message"),
    [
        ((2,), [1, 2, 3], "target of Graded is 2; expected 1 or 0"),
        ((1, 2), [1, 2, 3], "bins of Graded is 2; expected a number of quantile bins"),
        ((1, [0, 1, 2]), [1, 2], "bins of Graded is [0, 1, 2]; expected a number of quantile"),
        ((1, [0, 2, 1, 3]), [1, 2], "bins of Graded is [0, 2, 1, 3]; expected a number of"),
        ((1, ["a", "b", "a"]), ["a"], "bins of Graded is ['a', 'b', 'a']; expected a number of"),
        ((1, "abc"), ["a"], "bins of Graded is 'abc'; expected a number of quantile bins"),
        ((1, None), [1.0], "bins of Graded is None; expected a number of quantile bins"),
        ((1, [0, 1, 2, 3]), [1, 3.5], "dwell is 3.5 in row 1; expected a value from 0 to 3"),
        ((1, [0, 1, 2, 3]), [-1, 2], "dwell is -1 in row 0; expected a value from 0 to 3"),
        ((1, ["a", "b", "c"]), ["a", "d"], "dwell is 'd' in row 1; expected one of 'a', 'b', 'c'"),
        ((), [4, 4, None], "dwell has 1 distinct values (4); expected at least 3 for Graded("),
        ((), [0, 1, 1], "dwell has 2 distinct values (0, 1); expected at least 3 for Graded("),
        ((), [None, None], "dwell has 0 distinct values (none); expected at least 3"),
        ((1, [0, 10, 20, 30]), [1, 2], "dwell has the same grade in every row where it is logged"),
        ((), ["a", "b"], "dwell must be numbers"),
    ],
)
def test_what_is_wrong_is_named(arguments, column, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind = Graded(*arguments)
        kind.settled(column, "dwell").encode(column, "dwell")


def test_errors_name_the_column_and_come_from_fit(log):
    y = log.actions[:50].assign(dwell=7.0)
    with pytest.raises(ValueError, match="column 'dwell' of y has 1 distinct values"):
        ImplicitRewardEstimator(signals=SIGNALS).fit(log.X[:50], y)
    bins = SIGNALS | {"dwell": Graded(bins=[1, 2, 4, 8])}
    with pytest.raises(
        ValueError, match="column 'dwell' of y is 16 in row .*expected a value from 1 to 8"
    ):
        ImplicitRewardEstimator(signals=bins).fit(log.X, log.actions)


# ---------------------------------------------------------------- the likelihood


def test_the_ordered_logit_is_that_of_the_docstring():
    """Against 1 / (1 + exp(-(m +- s / 2 - c_j))), with cut points of mean 0 at the ends."""
    kind = Graded(bins=4)
    m, s, gaps = 0.3, 1.5, np.array([0.7, 2.0])
    cuts = np.array([0.0, *gaps.cumsum()]) - gaps.sum() / 2
    raw = np.log(np.expm1([s, *(gaps - 1e-3)]))
    u = torch.tensor([[m, *raw]])[:, None].expand(4, 1, 4)
    for preferred, sign in ((1, 1), (0, -1)):
        above = 1 / (1 + np.exp(-(m + sign * s / 2 - cuts)))
        expected = -np.diff(np.array([1, *above, 0]))
        y = torch.arange(4.0)[:, None].double()
        assert_allclose(kind.log_prob(u, y, preferred).exp()[:, 0], expected, atol=1e-12)
        mirrored = Graded(0, bins=4).log_prob(u, y, 1 - preferred)
        torch.testing.assert_close(mirrored, kind.log_prob(u, y, preferred))


def test_training_starts_at_the_shares_of_the_grades():
    y = np.repeat([0.0, 1, 2, 3, np.nan], [400, 100, 300, 200, 50])
    kind = Graded(bins=4)
    u = kind.initial_logits(y, np.ones(len(y)), 0.5, 0.1).copy()
    u[1] = -50  # no shift
    shares = kind.log_prob(torch.tensor(u).expand(4, 1, 4), torch.arange(4.0)[:, None], 1).exp()
    assert_allclose(shares[:, 0], [0.4, 0.1, 0.3, 0.2], atol=0.005)
    assert kind.initial_logits(y, np.ones(len(y)), np.ones((3, 1)), 0.1).shape == (3, 4)


# ---------------------------------------------------------------- in fits


def test_bins_shift_and_cut_points_are_found(log, fitted):
    assert fitted.signals_[0] == Graded(1, (-np.inf, 1.0, 2.0, 4.0, 8.0, np.inf))
    shared = torch.nn.functional.softplus(fitted.model_.shared()[:, 0]).detach()
    assert_allclose(shared, 2.0, atol=0.35)  # the shift, and the distances of the cut points
    grades = fitted.predict_action(log.X)[:, :5]
    assert_allclose(grades.sum(axis=1), 1, atol=1e-5)
    found = np.log2(log.actions["dwell"]).astype(int)
    assert_allclose(grades.mean(axis=0), np.bincount(found) / len(found), atol=0.02)
    # Whoever prefers a response dwells longer than others do.
    preferred = fitted.propensity(log.X)[:, :5]
    assert_allclose(preferred.sum(axis=1), 1, atol=1e-5)
    assert (preferred @ np.arange(5) > grades @ np.arange(5)).all()


def test_a_grade_adds_a_view(log, fitted):
    test = slice(3000, None)
    without = fit(log, ("copied", "retried"))
    error, plain = (
        np.abs(est.predict(log.X[test]) - log.reward[test]).mean() for est in (fitted, without)
    )
    assert error < 0.75 * plain
    row = log.X[:1]
    y = pd.DataFrame({"dwell": [1.0, 16.0, np.nan], "copied": 0.0, "retried": 0.0})
    short, long, unlogged = fitted.predict_proba(np.repeat(row, 3, axis=0), y)[:, [0, 2]].sum(1)
    assert short < unlogged < long
    assert np.isfinite(fitted.score(log.X[test], log.actions[test]))


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (("dwell",), {}, "not identified"),
        (("dwell", "copied"), {}, "not identified"),
        (("dwell", "copied", "retried"), {}, "bounded"),
        (("dwell", "copied"), {"preference_rate": 0.5}, "level only"),
        (("dwell",), {"propensity_features": [1, 2, 3], "reward_features": [0]}, "ranking only"),
    ],
    ids=["alone", "one action", "one of each", "rate", "columns"],
)
def test_a_grade_changes_no_verdict(log, names, settings, expected):
    est = fit(log, names, rows=slice(1000), **BRIEF | settings | {"max_epochs": 1})
    found = est.identification_
    assert found.level == expected and not found.swap_symmetric
    if names == ("dwell",) and not settings:
        assert found.reason.startswith("grades alone determine neither the reward nor its bounds")
    if len(names) == 2 and not settings:
        assert "a grade beside it narrows no bound" in found.reason
    assumed = Graded.assumption in found.assumptions
    assert assumed == (expected == "ranking only")


@pytest.mark.parametrize(
    ("examined", "expected"),
    [
        (
            None,
            "bounded (assuming independent signals of rows that were looked at, grades follow an "
            "ordered logit with a constant shift, rows that nobody looked at have the grades of "
            "responses not preferred)",
        ),
        (
            False,
            "identified (assuming independent signals, every row was looked at, grades follow an "
            "ordered logit with a constant shift)",
        ),
    ],
)
def test_what_has_to_hold_of_grades_is_named(examined, expected):
    X = np.random.default_rng(0).normal(size=(1000, 3))
    signals = {"dwell": Graded(), "copied": "positive", "shared": "positive"}
    log = simulate_feedback(np.full(1000, 0.5), X=X, signals=signals, random_state=0)
    est = ImplicitRewardEstimator(signals=signals, shared_examination=examined, **BRIEF)
    assert str(est.fit(X, log.actions).identification_) == expected


def test_what_a_grade_cannot_be_combined_with(log):
    for settings, message in (
        ({"shared_examination": True}, "shared_examination=True is not available for the signal"),
        ({"shared_propensity": True}, "shared_propensity is not available for the signal Graded"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(log, rows=slice(100), **settings)


def test_report_searches_and_partial_fit(log):
    X, y = log.X[:1500], log.actions[:1500]
    est = ImplicitRewardEstimator(signals=SIGNALS, **BRIEF)
    report = identification_report(est, X, y, n_starts=2)
    assert report.level == "bounded" and report.assumptions == ()
    low, high = report.bounds(X).T
    assert (low < high).all() and low.min() > 0 and high.max() < 1
    grid = {"learning_rate_init": [0.01, 1e-5]}
    for search in (GridSearchCV(est, grid, cv=2), BatchedSearchCV(est, grid, cv=2)):
        assert search.fit(X, y).best_params_ == {"learning_rate_init": 0.01}
    est.fit(X, y)
    kinds = est.signals_
    # A batch with other values is graded by the bins of the first.
    est.partial_fit(X, y.assign(dwell=y["dwell"] + 100))
    assert est.signals_ == kinds and np.isfinite(est.score(X, y))


def test_save_keeps_bins_and_cut_points(log, fitted, tmp_path):
    fitted.save(tmp_path / "model")
    loaded = ImplicitRewardEstimator.load(tmp_path / "model")
    assert loaded.signals_ == fitted.signals_ and loaded.signals == fitted.signals
    X, y = log.X[:50], log.actions[:50]
    assert_array_equal(loaded.predict_action(X), fitted.predict_action(X))
    assert_array_equal(loaded.predict_proba(X, y), fitted.predict_proba(X, y))


def test_activity_of_users_shifts_the_location_only(log):
    users = np.arange(len(log.X)) // 20
    signals = {"dwell": Graded(), "copied": "positive", "retried": "negative"}
    active = simulate_feedback(
        log.reward, X=log.X, signals=signals, user_id=users, user_activity=2.0, random_state=0
    )
    est = ImplicitRewardEstimator(signals=signals, **SMALL | {"max_epochs": 12})
    est.fit(active.X, active.actions, user_id=users)
    assert est.user_loading_[0] == pytest.approx(2.0, abs=0.6)
    assert (est.model_.loading()[:, 0, 1:5] == 0).all()
    mean = est.user_activity_.mean[np.argsort(est.user_activity_.user_id)]
    grade = active.actions["dwell"].groupby(users).mean()
    assert np.corrcoef(mean, grade)[0, 1] > 0.8


def test_a_grade_of_the_wrong_sign_is_found(log):
    """High grades that show dislike co-occur with what shows liking less than chance gives."""
    signals = SIGNALS | {"dwell": Graded(0)}
    est = ImplicitRewardEstimator(signals=signals, **SMALL | {"max_epochs": 20})
    report = identification_report(est, log.X, log.actions, n_starts=2)
    assert report.level == "not identified"
    assert any("dwell" in pair.signals and pair.contradicts for pair in report.associations)


# ---------------------------------------------------------------- simulated


def test_simulated_grades_and_what_is_wrong_with_them(log):
    assert log.propensity.shape == (4000, 7)  # five of the grades, and the two actions
    assert_allclose(log.propensity[:, 1:5], 1 - np.exp(-2))
    assert np.isnan(log.activity[:, 0]).all() and np.isfinite(log.activity[:, 1]).all()
    grades = np.log2(log.actions["dwell"])
    assert grades[log.true_preference == 1].mean() > grades[log.true_preference == 0].mean() + 0.5
    with pytest.raises(ValueError, match="examination below 1 is not available with the signal Gr"):
        simulate_feedback(log.reward, X=log.X, signals=SIGNALS, examination=0.5, random_state=0)
    # Users who are active dwell longer; cut points are theirs too.
    again = simulate_feedback(
        log.reward,
        X=log.X,
        signals=SIGNALS,
        user_id=np.arange(4000),
        user_activity=3.0,
        random_state=0,
    )
    assert_array_equal(again.propensity[:, 1:5], log.propensity[:, 1:5])
    assert np.corrcoef(again.user_effect, again.actions["dwell"])[0, 1] > 0.5
