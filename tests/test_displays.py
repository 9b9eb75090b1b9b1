"""Displays draw what is computed by hand, say what it is, and refuse what has no picture."""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from implicitrm_sk import ImplicitRewardEstimator, identification_report
from implicitrm_sk.inspection import (
    ActivityDisplay,
    IdentificationDisplay,
    MethodComparisonDisplay,
    PropensityDisplay,
    ReliabilityDisplay,
    StratificationDisplay,
    TrainingCurveDisplay,
)
from implicitrm_sk.inspection._plot._base import COLOURS, categories
from implicitrm_sk.inspection._plot._stratification import _LOOKS
from implicitrm_sk.metrics import calibration_error
from implicitrm_sk.signals import Action, Choice

RNG = np.random.default_rng(0)
N = 400
X = RNG.normal(size=(N, 3))
TRUTH = (X[:, 0] + 0.5 * RNG.normal(size=N) > 0).astype(float)
ACTIONS = pd.DataFrame(
    TRUTH[:, None] * (RNG.random((N, 2)) < [0.4, 0.7]), columns=["copy", "share"]
)
PROBA = RNG.dirichlet(np.ones(4), size=N)
WEIGHT = RNG.random(N)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    est = ImplicitRewardEstimator(
        n_estimators=3, learning_rate_init=0.02, n_iter_no_change=3, random_state=0
    )
    return est.fit(X, ACTIONS)


USERS = {"mean": np.array([-1.0, 0.0, 1.0]), "sd": np.full(3, 0.5), "n_rows": np.arange(3) + 8}


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ticks(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


# -------------------------------------------------------------------- all of them


def draw_all(fitted, ax=None):
    yield StratificationDisplay.from_estimator(fitted, X, ACTIONS, ax=ax)
    yield PropensityDisplay.from_estimator(fitted, X, ax=ax)
    yield ReliabilityDisplay.from_estimator(fitted, X, TRUTH, ax=ax)
    yield IdentificationDisplay.from_predictions([TRUTH, 1 - TRUTH], ax=ax)
    yield TrainingCurveDisplay.from_estimator(fitted, ax=ax)
    yield MethodComparisonDisplay.from_scores({"a": [1, 2], "b": [2, 3]}, ax=ax)
    yield ActivityDisplay(**USERS, loading={"copy": 2.0}).plot(ax)


def test_displays_draw_on_the_axes_given_or_make_some(fitted):
    for display in draw_all(fitted):
        assert display.figure_ is display.ax_.figure
        made = display.ax_
        _, ax = plt.subplots()
        assert display.plot(ax) is display
        assert display.ax_ is ax is not made
        assert ax.get_xlabel()
        display.figure_.canvas.draw()  # warnings of the layout are errors
    figure, ax = plt.subplots()
    assert all(display.figure_ is figure for display in draw_all(fitted, ax))


def test_settings_are_stored_under_their_names(fitted):
    for display in draw_all(fitted):
        names = display.__init__.__code__.co_varnames[1 : display.__init__.__code__.co_argcount]
        assert all(hasattr(display, name) for name in names)


def test_pipelines_and_predictions_draw_the_same(fitted):
    pipe = make_pipeline(FunctionTransformer(), fitted)
    same = PropensityDisplay.from_estimator(pipe, X, signal="share")
    direct = PropensityDisplay.from_predictions(fitted.predict(X), fitted.propensity(X)[:, 1])
    assert_allclose(same.propensity, direct.propensity)
    assert_array_equal(
        StratificationDisplay.from_estimator(pipe, X, ACTIONS).shares,
        StratificationDisplay.from_predictions(fitted.predict_proba(X, ACTIONS)).shares,
    )
    assert_array_equal(
        TrainingCurveDisplay.from_estimator(pipe).losses,
        TrainingCurveDisplay.from_estimator(fitted).losses,
    )


def test_displays_of_x_in_a_file(fitted, tmp_path):
    np.save(tmp_path / "X.npy", X)
    path = str(tmp_path / "X.npy")
    by = np.where(X[:, 0] > 0, "code", "chat")
    proba = StratificationDisplay.from_estimator(fitted, path, ACTIONS, by=by)
    assert proba.labels == ["all", "chat", "code"]
    points = PropensityDisplay.from_estimator(fitted, path, by=by)
    assert_allclose(points.reward, fitted.predict(X), rtol=1e-6)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"StratificationDisplay.plot needs.*implicitrm-sk\[plot"):
        StratificationDisplay.from_predictions(PROBA)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def deuteranopia(colour):
    """Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ) @ np.array(linear)


def test_groups_differ_for_the_colour_blind_and_in_grey():
    colours = [colour for colour, *_ in _LOOKS.values()]
    for i, first in enumerate(colours):
        assert luminance(first) > 0.05 or i == 0
        for second in colours[i + 1 :]:
            assert np.linalg.norm(deuteranopia(first) - deuteranopia(second)) > 0.2
    # Neighbouring bars also differ in hatching, and numbers stand out from their bar (WCAG 3:1).
    hatches = [hatch for _, hatch, *_ in _LOOKS.values()]
    assert all(a != b for a, b in zip(hatches, hatches[1:], strict=False))
    for colour, _, ink, _ in _LOOKS.values():
        light, dark = sorted([luminance(colour), luminance(ink)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3
    for i, first in enumerate(COLOURS):
        for second in COLOURS[i + 1 :]:
            assert np.linalg.norm(deuteranopia(first) - deuteranopia(second)) > 0.06


# ----------------------------------------------------------------- stratification


def test_stratification_shares_are_weighted_means():
    by = np.where(X[:, 0] > 0, "code", "chat")
    display = StratificationDisplay.from_predictions(
        PROBA, by=pd.Series(by, name="kind"), sample_weight=WEIGHT
    )
    assert display.labels == ["all", "chat", "code"]
    for row, rows in enumerate([np.ones(N, bool), by == "chat", by == "code"]):
        expected = (WEIGHT[rows, None] * PROBA[rows]).sum(0) / WEIGHT[rows].sum()
        assert_allclose(display.shares[row], expected)
        assert display.counts[row] == rows.sum()
        left = 0.0
        for group, column in (("PA", 0), ("PP", 2), ("NP", 3), ("NA", 1)):
            bar = display.bars_[group][row]
            assert bar.get_x() == pytest.approx(left)
            assert bar.get_width() == pytest.approx(expected[column])
            left += expected[column]
            assert display.texts_[row, column].get_text() == f"{expected[column]:.0%}"
        assert left == pytest.approx(1)
    assert display.ax_.get_ylabel() == "kind"
    assert display.ax_.get_xlim() == (0, 1)
    assert ticks(display.ax_)[1] == f"chat\n(n = {(by == 'chat').sum()})"
    assert [text[:2] for text in legend(display.ax_)] == ["PA", "PP", "NP", "NA"]


def test_stratification_of_what_was_logged(fitted):
    acted = ACTIONS.to_numpy().any(axis=1)
    before = StratificationDisplay.from_estimator(fitted, X)
    after = StratificationDisplay.from_estimator(fitted, X, ACTIONS, by=acted)
    assert_allclose(before.shares[0], fitted.predict_proba(X).mean(0), rtol=1e-5)
    assert after.labels == ["all", "False", "True"]
    assert_allclose(after.shares[2], [1, 0, 0, 0], atol=1e-6)  # an action proves preference
    assert after.texts_[2, 1] is None
    counted = StratificationDisplay.from_estimator(
        fitted, X, ACTIONS, predict_params={"exposures": np.full(N, 2)}
    )
    assert counted.shares[0, 1] > after.shares[0, 1]  # active in one of two exposures


def test_every_row_is_in_one_category():
    parts = categories(np.array([3.0, np.nan, 1.0, 3.0]))
    assert {k: v.tolist() for k, v in parts.items()} == {"1": [2], "3": [0, 3], "missing": [1]}
    parts = categories(np.array(["a", None, "b"], dtype=object))
    assert list(parts) == ["a", "b", "missing"]
    parts = categories(np.repeat(np.arange(20), 5))
    assert list(parts) == ["0 to 4", "5 to 9", "10 to 14", "15 to 19"]
    weeks = categories(np.arange("2026-01-01", "2026-02-10", dtype="datetime64[D]"))
    assert list(weeks)[0] == "2026-01-01 to 2026-01-10" and len(weeks) == 4
    users = np.repeat([f"user{i:02}" for i in range(12)], np.arange(12, 0, -1))
    parts = categories(users)
    assert list(parts) == [f"user{i:02}" for i in range(7)] + ["5 others"]
    for values in (users, RNG.integers(100, size=N), RNG.normal(size=N)):
        rows = np.concatenate(list(categories(values).values()))
        assert_array_equal(np.sort(rows), np.arange(len(values)))
    skewed = categories(np.r_[np.zeros(90), np.arange(1, 11)])
    assert skewed["0 to 0"].tolist() == list(range(90))


def test_categories_with_equal_labels_stay_apart():
    """Four digits do not distinguish them, or a value reads like the label of something else."""
    assert list(categories(np.array([0.12341, 0.12342, 1.0]))) == ["0.12341", "0.12342", "1.0"]
    hours = np.array(["2026-01-01T01", "2026-01-01T02"], dtype="datetime64[h]")
    assert list(categories(hours)) == ["2026-01-01T01", "2026-01-01T02"]
    close = categories(1 + np.arange(16) / 1e6)
    assert len(close) == 4 and list(close)[0] == "1.0 to 1.000003"
    named = categories(np.array(["missing", None, "b"], dtype=object))
    assert {k: v.tolist() for k, v in named.items()} == {"b": [2], "'missing'": [0], "missing": [1]}
    values = np.array(["2 others", *"abcdefgh", "2 others"], dtype=object)
    found = categories(values)
    assert found["'2 others'"].tolist() == [0, 9] and found["2 others"].tolist() == [7, 8]


def test_a_column_named_all_does_not_hide_the_whole():
    display = StratificationDisplay.from_predictions(PROBA[:2], by=["all", "b"])
    assert display.labels == ["all", "'all'", "b"]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"proba": PROBA[:, :3]}, r"proba has shape \(400, 3\)"),
        ({"proba": PROBA + 0.1}, "probabilities that sum to 1"),
        ({"proba": PROBA, "by": ["a"]}, r"by has shape \(1,\)"),
        ({"proba": PROBA, "by": "kind"}, "by='kind' is not a column of X"),
        ({"proba": PROBA[:2], "by": np.array([1, "a"], dtype=object)}, "cannot be sorted"),
        ({"proba": PROBA[:2], "by": [1, 2], "sample_weight": [0, 1]}, "zero for all rows of 1"),
    ],
)
def test_stratification_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StratificationDisplay.from_predictions(**kwargs)


# --------------------------------------------------------------------- propensity


def test_propensity_points_means_and_lines(fitted):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    est = ImplicitRewardEstimator(
        false_action_rate=0.1, max_epochs=2, early_stopping=False, random_state=0
    ).fit(frame, ACTIONS)
    display = PropensityDisplay.from_estimator(
        est, frame, signal="share", by="a", sample_weight=WEIGHT, subsample=100
    )
    assert len(display.reward) == 100
    assert sum(len(points.get_offsets()) for points in display.points_) == 100
    offsets = np.concatenate([points.get_offsets() for points in display.points_])
    assert set(map(tuple, offsets)) == set(zip(display.reward, display.propensity, strict=True))
    reward, propensity = est.predict(frame), est.propensity(frame)[:, 1]
    lowest = np.argsort(reward)[: N // 10]
    assert display.mean_propensity[0] == pytest.approx(
        np.average(propensity[lowest], weights=WEIGHT[lowest]), rel=1e-5
    )
    assert_array_equal(display.line_.get_ydata(), display.mean_propensity)
    for level, path in zip(display.contours_.levels, display.contours_.get_paths(), strict=True):
        R, A = path.vertices.T
        assert_allclose(R * A + (1 - R) * 0.1, level, atol=1e-3)
    assert "'share'" in display.ax_.get_ylabel()
    assert display.ax_.get_legend().get_title().get_text() == "a"
    assert len({points.get_paths()[0].vertices.tobytes() for points in display.points_}) == 4


def test_propensity_of_all_points_and_of_a_numbered_signal(fitted):
    display = PropensityDisplay.from_estimator(fitted, X, signal=1, subsample=None)
    assert_allclose(display.propensity, fitted.propensity(X)[:, 1], rtol=1e-6)
    assert "'share'" in display.ax_.get_ylabel()


@pytest.fixture(scope="module")
def both():
    """An estimator of a positive action, a thumb and a negative action, and its log."""
    rng = np.random.default_rng(1)
    acted = rng.random((N, 3)) < [0.5, 0.3, 0.6]
    frame = pd.DataFrame(
        {
            "copy": acted[:, 0] & (TRUTH == 1),
            "thumb": np.where(acted[:, 1], np.where(TRUTH == 1, "up", "down"), "none"),
            "regenerate": acted[:, 2] & (TRUTH == 0),
        }
    )
    kinds = {
        "copy": "positive",
        "thumb": Choice({"up": 1, "down": 0}, silent="none"),
        "regenerate": Action(0, false_rate=0.1),
    }
    est = ImplicitRewardEstimator(
        signals=kinds, max_epochs=20, early_stopping=False, learning_rate_init=0.02, random_state=0
    )
    return est.fit(X, frame), frame


def test_propensity_of_a_negative_action(both):
    est, _ = both
    display = PropensityDisplay.from_estimator(est, X, signal="regenerate", subsample=None)
    assert_allclose(display.propensity, est.propensity(X)[:, 3], rtol=1e-6)
    assert display.target == 0 and display.false_action_rate == 0.1
    assert display.ax_.get_ylabel() == "propensity of 'regenerate' P(y = 1 | r* = 0, x)"
    for level, path in zip(display.contours_.levels, display.contours_.get_paths(), strict=True):
        R, A = path.vertices.T
        assert_allclose((1 - R) * A + R * 0.1, level, atol=1e-3)
    action = (1 - display.reward) * display.propensity + display.reward * 0.1
    assert_allclose(action, est.predict_action(X)[:, 3], atol=0.02)  # but for several members
    positive = PropensityDisplay.from_estimator(est, X)
    assert positive.target == 1 and "P(y = 1 | r* = 1, x)" in positive.ax_.get_ylabel()
    with pytest.raises(ValueError, match="'thumb' has 2 outcomes that show a preference; expected"):
        PropensityDisplay.from_estimator(est, X, signal="thumb")
    down = PropensityDisplay.from_predictions(
        est.predict(X), est.propensity(X)[:, 2], target=0, name="down"
    )
    assert down.ax_.get_ylabel() == "propensity of 'down' P(y = 1 | r* = 0, x)"


def test_stratification_of_both_polarities(both):
    est, frame = both
    # Where false_rate is 0, what is seen is certain.
    acted = np.where(frame["copy"], "copy", np.where(frame["thumb"] == "down", "down", "other"))
    display = StratificationDisplay.from_estimator(est, X, frame, by=acted)
    shares = dict(zip(display.labels, display.shares, strict=True))
    assert_allclose(shares["copy"], [1, 0, 0, 0], atol=1e-6)
    assert_allclose(shares["down"], [0, 1, 0, 0], atol=1e-6)


def test_propensity_errors(fitted):
    with pytest.raises(ValueError, match="target must be 1 or 0, got -1"):
        PropensityDisplay.from_predictions([0.1], [0.5], target=-1)
    with pytest.raises(ValueError, match="signal='click' does not exist; the estimator has"):
        PropensityDisplay.from_estimator(fitted, X, signal="click")
    with pytest.raises(ValueError, match="propensity must lie in"):
        PropensityDisplay.from_predictions([0.1], [1.5])
    with pytest.raises(ValueError, match="propensity has shape"):
        PropensityDisplay.from_predictions([0.1, 0.2], [0.5])
    with pytest.raises(ValueError, match="subsample"):
        PropensityDisplay.from_predictions([0.1], [0.5], subsample=0)
    naive = ImplicitRewardEstimator("bpr", max_epochs=1, early_stopping=False)
    with pytest.raises(AttributeError):
        PropensityDisplay.from_estimator(naive.fit(X, ACTIONS["copy"]), X)


# -------------------------------------------------------------------- reliability


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_reliability_bins_intervals_and_error(strategy):
    reward = RNG.random(N)
    truth = np.where(RNG.random(N) < 0.3, np.nan, RNG.random(N) < reward)
    display = ReliabilityDisplay.from_predictions(
        truth, reward, n_bins=4, strategy=strategy, sample_weight=WEIGHT, name="mine"
    )
    known = ~np.isnan(truth)
    assert display.counts.sum() == known.sum()
    if strategy == "uniform":
        rows = known & (reward > 0.25) & (reward <= 0.5)
        w = WEIGHT[rows]
        assert display.counts[1] == rows.sum()
        assert display.mean_reward[1] == pytest.approx(np.average(reward[rows], weights=w))
        p = np.average(truth[rows], weights=w)
        assert display.mean_preference[1] == pytest.approx(p)
        # Wilson's interval holds the p0 with (p - p0)^2 <= z^2 p0 (1 - p0) / n.
        n = w.sum() ** 2 / (w**2).sum()
        for edge in display.interval[1]:
            assert (p - edge) ** 2 == pytest.approx(1.959964**2 * edge * (1 - edge) / n, rel=1e-5)
    expected = calibration_error(truth, reward, sample_weight=WEIGHT, n_bins=4, strategy=strategy)
    assert display.error == pytest.approx(expected)
    share = np.array([WEIGHT[known & (reward <= 0.05)].sum()]) / WEIGHT[known].sum()
    assert display.heights[0] == pytest.approx(share[0]) and len(display.heights) == 20
    assert display.heights.sum() == pytest.approx(1)
    assert_array_equal(display.line_.get_xdata(), display.mean_reward)
    assert_array_equal(display.line_.get_ydata(), display.mean_preference)
    segments = display.errorbar_.lines[2][0].get_segments()
    assert_allclose([segment[:, 1] for segment in segments], display.interval)
    assert f"mine (calibration error {expected:.2f})" in legend(display.ax_)


def test_reliability_curves_share_axes_and_one_diagonal():
    first = ReliabilityDisplay.from_predictions([0, 1, 1], [0.1, 0.9, 0.8], name="a")
    second = ReliabilityDisplay.from_predictions(
        [0, 1, 1], [0.3, 0.9, 0.8], name="b", ax=first.ax_, markersize=9
    )
    assert first.ref_line_ is not None and second.ref_line_ is None
    assert len(legend(first.ax_)) == 3
    looks = [(d.line_.get_color(), d.line_.get_marker()) for d in (first, second)]
    assert looks[0][0] != looks[1][0] and looks[0][1] != looks[1][1]
    assert second.line_.get_markersize() == 9
    low, high = first.ax_.get_ylim()
    assert low < 0 and high > 1


def test_reliability_of_one_bin_and_of_graded_preference():
    display = ReliabilityDisplay.from_predictions([0.2, 0.6], [0.5, 0.5])
    assert_allclose(display.mean_preference, [0.4])
    assert display.interval[0, 0] < 0.4 < display.interval[0, 1]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([np.nan, np.nan], [0.1, 0.2]), {}, "known"),
        (([0, 1], [0.1, 1.2]), {}, "not a logit"),
        (([0, 1], [0.1]), {}, "1 rows"),
        (([0, 1], [0.1, 0.2]), {"n_bins": 0}, "n_bins"),
        (([0, 1], [0.1, 0.2]), {"strategy": "even"}, "strategy"),
        (([0, 1], [0.1, 0.2]), {"confidence_level": 95}, "confidence_level"),
    ],
)
def test_reliability_errors(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_predictions(*args, **kwargs)


# ----------------------------------------------------------------- identification


@pytest.fixture(scope="module")
def report():
    est = ImplicitRewardEstimator(
        hidden_layer_sizes=(8,), learning_rate_init=0.02, n_iter_no_change=3, random_state=0
    )
    return identification_report(est, X, ACTIONS["copy"], n_starts=3)


def test_identification_of_predictions():
    rewards = RNG.random((3, N))
    bound = rewards.min(0) / 2
    display = IdentificationDisplay.from_predictions(rewards, lower_bound=bound, level="a level")
    order = np.argsort(rewards.mean(0))
    lowest, highest = order[: N // 40], order[-N // 40 :]
    assert len(display.mean) == 40
    assert display.low[0] == pytest.approx(rewards.min(0)[lowest].mean())
    assert display.high[-1] == pytest.approx(rewards.max(0)[highest].mean())
    assert display.lower_bound[0] == pytest.approx(bound[lowest].mean())
    assert_array_equal(display.line_.get_ydata(), display.mean)
    assert (np.diff(display.mean) > 0).all()
    band = display.band_.get_paths()[0].vertices
    assert set(np.round(np.r_[display.low, display.high], 12)) <= set(np.round(band[:, 1], 12))
    assert display.bounds_.get_paths()[0].vertices[:, 1].max() == 1
    assert display.ax_.get_title() == "Reward: a level"
    assert display.ax_.get_ylim() == (0, 1)
    bare = IdentificationDisplay.from_predictions(rewards)
    assert bare.bounds_ is None and bare.ax_.get_title() == ""


def test_identification_of_a_report(report):
    display = IdentificationDisplay.from_report(report)
    rows = report._held_out
    first = np.argsort(rows["mean"])[: -(-len(rows["mean"]) // 40)]
    assert display.mean[0] == pytest.approx(rows["mean"][first].mean())
    assert display.lower_bound[0] == pytest.approx(rows["lower_bound"][first].mean())
    assert (display.low <= display.mean).all() and (display.mean <= display.high).all()
    assert display.level == report.level == "not identified"
    left, right = report.plot()
    assert right.get_title() == display.ax_.get_title()
    assert_array_equal(right.lines[0].get_ydata(), display.mean)
    # Legends cover nothing that is drawn.
    left.figure.canvas.draw()
    for ax in (left, right):
        assert ax.get_legend().get_window_extent().y1 <= ax.get_window_extent().y0


def test_identification_of_an_estimator_is_that_of_its_report(report):
    settings = report.estimator.get_params() | {"n_estimators": 4}
    again = identification_report(
        ImplicitRewardEstimator(**settings), X, ACTIONS["copy"], n_starts=3
    )
    display = IdentificationDisplay.from_report(again)
    assert_allclose(display.mean, IdentificationDisplay.from_report(report).mean, atol=1e-5)


def test_identification_of_two_bounds():
    rewards = RNG.random((2, N))
    bounds = {"lower_bound": rewards.min(0) / 2, "upper_bound": (1 + rewards.max(0)) / 2}
    order = np.argsort(rewards.mean(0))
    display = IdentificationDisplay.from_predictions(rewards, **bounds)
    for name, bound in bounds.items():
        assert getattr(display, name)[-1] == pytest.approx(bound[order[-N // 40 :]].mean())
    drawn = display.bounds_.get_paths()[0].vertices[:, 1]
    assert drawn.max() == pytest.approx(display.upper_bound.max())
    assert drawn.min() == pytest.approx(display.lower_bound.min())
    upper = IdentificationDisplay.from_predictions(rewards, upper_bound=bounds["upper_bound"])
    assert upper.bounds_.get_paths()[0].vertices[:, 1].min() == 0


def test_identification_of_a_report_on_both_polarities():
    actions = np.c_[ACTIONS["copy"], (1 - TRUTH) * (RNG.random(N) < 0.5)]
    est = ImplicitRewardEstimator(
        signals=["positive", "negative"], max_epochs=5, early_stopping=False, random_state=0
    )
    report = identification_report(est, X, actions, n_starts=2)
    display = IdentificationDisplay.from_report(report)
    first = np.argsort(report._held_out["mean"])[: len(report._held_out["mean"]) // 40]
    assert display.upper_bound[0] == pytest.approx(
        report._held_out["upper_bound"][first].mean(), abs=0.05
    )
    assert (display.upper_bound < 1).all()
    drawn = display.bounds_.get_paths()[0].vertices[:, 1]
    assert drawn.max() == pytest.approx(display.upper_bound.max())


def test_identification_errors():
    with pytest.raises(ValueError, match="at least two fits"):
        IdentificationDisplay.from_predictions([[0.1, 0.2]])
    with pytest.raises(ValueError, match="without NaN"):
        IdentificationDisplay.from_predictions([[0.1, np.nan], [0.1, 0.2]])
    with pytest.raises(ValueError, match="upper_bound has shape"):
        IdentificationDisplay.from_predictions([[0.1, 0.2], [0.3, 0.4]], upper_bound=[0.1])
    with pytest.raises(ValueError, match="lower_bound has shape"):
        IdentificationDisplay.from_predictions([[0.1, 0.2], [0.3, 0.4]], lower_bound=[0.1])


# ----------------------------------------------------------------- learning curve


def test_training_curve_keeps_the_epochs_that_the_engine_keeps(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted)
    losses = np.array([record["valid_loss"] for record in fitted.history_])
    assert_array_equal(display.losses, losses)
    for member, line in enumerate(display.lines_):
        last, best = display.n_epochs[member], display.best_epoch[member]
        assert_array_equal(line.get_xdata(), np.arange(1, last + 1))
        assert_array_equal(line.get_ydata(), losses[:last, member])
        assert best == losses[:last, member].argmin() + 1
        assert last - best >= 3 or last == len(losses)
    assert display.n_epochs.max() == fitted.n_iter_
    assert_allclose(
        display.best_.get_offsets(),
        [(best, losses[best - 1, member]) for member, best in enumerate(display.best_epoch)],
    )
    assert legend(display.ax_)[:3] == ["member 1", "member 2", "member 3"]
    assert "held-out" in display.ax_.get_ylabel()


def test_both_training_curves_are_in_nats_per_row(fitted):
    """Of all rows the training loss is the negative log-likelihood, as `score` is."""
    est = ImplicitRewardEstimator(
        n_estimators=1, max_epochs=40, early_stopping=False, random_state=0
    )
    est.fit(X, ACTIONS)
    display = TrainingCurveDisplay.from_estimator(est, criterion="train_loss")
    assert display.losses[-1, 0] == pytest.approx(-est.score(X, ACTIONS), abs=0.01)


def test_training_curve_stops_as_told():
    est = ImplicitRewardEstimator(n_iter_no_change=2, tol=0.1)
    est.history_ = [
        {"train_loss": [0, 0], "valid_loss": values}
        # An improvement below tol is kept, but does not count; after a stop nothing is kept.
        for values in ([1.0, 1.0], [0.95, 0.8], [0.92, 0.6], [0.1, 0.7])
    ]
    est.model_ = pytest.importorskip("torch").nn.Linear(1, 1)
    display = TrainingCurveDisplay.from_estimator(est)
    assert_array_equal(display.best_epoch, [3, 3])
    assert_array_equal(display.n_epochs, [3, 4])


def test_training_curve_without_held_out_rows():
    est = ImplicitRewardEstimator(max_epochs=3, early_stopping=False, n_estimators=10)
    est.fit(X, ACTIONS)
    with pytest.raises(ValueError, match="criterion='train_loss'"):
        TrainingCurveDisplay.from_estimator(est)
    display = TrainingCurveDisplay.from_estimator(est, criterion="train_loss")
    assert display.best_ is None and display.ax_.get_legend() is None
    assert [len(line.get_xdata()) for line in display.lines_] == [3] * 10
    with pytest.raises(ValueError, match="criterion must be"):
        TrainingCurveDisplay.from_estimator(est, criterion="loss")
    with pytest.raises(TypeError, match="best_estimator_"):
        TrainingCurveDisplay.from_estimator(TRUTH)


# --------------------------------------------------------------- method comparison


FRAME = pd.DataFrame(
    [
        (method, data, seed, value + 0.01 * seed**2 + (method == "b") * 0.02 * seed)
        for value, method in ((0.1, "a"), (0.5, "b"), (0.3, "c"))
        for data in ("x", "y")
        for seed in range(3)
    ],
    columns=["method", "data", "seed", "r2"],
)


def test_comparison_means_and_standard_errors():
    frame = FRAME.copy()
    frame.loc[0, "r2"] = np.nan
    display = MethodComparisonDisplay.from_frame(frame, score="r2", by="data")
    assert display.methods == ["a", "b", "c"] and display.series == ["x", "y"]
    grouped = frame.groupby(["method", "data"]).r2
    assert_allclose(display.mean_, grouped.mean().unstack())
    assert_allclose(display.standard_error_, grouped.sem().unstack())
    assert ticks(display.ax_) == ["a\n(2 of 3 runs)", "b", "c"]
    assert legend(display.ax_) == ["x", "y"]
    for series, container in enumerate(display.errorbars_):
        assert_array_equal(container.lines[0].get_xdata(), display.mean_[:, series])
        assert_array_equal(np.round(container.lines[0].get_ydata()), np.arange(3))
        bars = container.lines[2][0].get_segments()
        assert_allclose([np.ptp(bar[:, 0]) / 2 for bar in bars], display.standard_error_[:, series])
    assert np.isfinite(display.runs_[1].get_xdata()).sum() == 9
    assert display.ax_.get_ylim() == (2.5, -0.5)  # the first on top


def test_comparison_with_a_baseline_is_paired():
    shuffled = FRAME.sample(frac=1, random_state=0).sort_values("method", kind="stable")
    display = MethodComparisonDisplay.from_frame(shuffled, score="r2", by="data", baseline="a")
    assert display.methods == ["b", "c"]
    assert_allclose(display.mean_, [[0.42, 0.42], [0.2, 0.2]])
    # What the seeds share cancels.
    assert_allclose(display.standard_error_, [[0.02 / 3**0.5] * 2, [0, 0]], atol=1e-12)
    assert display.ref_line_ is not None
    assert "difference from 'a'" in display.ax_.get_xlabel()


def test_comparison_of_scores_and_of_a_wide_frame():
    wide = FRAME[FRAME.data == "x"].pivot(index="seed", columns="method", values="r2")
    display = MethodComparisonDisplay.from_scores(wide, score_name="R2")
    assert_allclose(display.mean_[:, 0], wide.mean())
    assert display.ax_.get_xlabel().startswith("R2")
    assert display.ax_.get_legend() is None
    single = MethodComparisonDisplay.from_scores({"a": [0.3]})
    assert np.isnan(single.standard_error_[0, 0]) and single.mean_[0, 0] == 0.3


def test_comparison_errors():
    with pytest.raises(ValueError, match="lacks the column 'score'.*Name its columns"):
        MethodComparisonDisplay.from_frame(FRAME)
    with pytest.raises(ValueError, match="occur twice in the table"):
        MethodComparisonDisplay.from_frame(FRAME, score="r2")
    with pytest.raises(ValueError, match=r"\['data'\] have missing values"):
        MethodComparisonDisplay.from_frame(
            FRAME.assign(data=FRAME.data.where(FRAME.seed > 0)), score="r2", by="data"
        )
    with pytest.raises(ValueError, match="not one of the methods"):
        MethodComparisonDisplay.from_scores({"a": [1]}, baseline="b")
    with pytest.raises(ValueError, match="seed by seed"):
        MethodComparisonDisplay.from_scores({"a": [1], "b": [1, 2]}, baseline="a")
    with pytest.raises(ValueError, match="no scores"):
        MethodComparisonDisplay.from_scores({"a": [np.nan]})
    with pytest.raises(ValueError, match="mapping"):
        MethodComparisonDisplay.from_scores([1, 2])


# -------------------------------------------------------------------- activity of users


def test_activity_is_drawn_beside_the_density_that_is_assumed(fitted):
    display = ActivityDisplay(**USERS, loading={"copy": 2.0, "share": 1.0}).plot()
    grid, density = display.line_.get_data()
    mean, sd = USERS["mean"][:, None], USERS["sd"][:, None]
    each = np.exp(-0.5 * ((grid - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density, each.mean(0))
    assert np.trapezoid(display.population_.get_ydata(), grid) == pytest.approx(1, abs=1e-3)
    heights = np.array([bar.get_height() for bar in display.bars_])
    assert (heights > 0).sum() == 3 and heights.sum() * 0.25 == pytest.approx(1)
    title = "3 users of 9 rows (median); one unit is 2.0 logits of copy, 1.0 logits of share"
    assert display.ax_.get_title() == title
    far = ActivityDisplay(**USERS | {"mean": np.array([-5.3, 0.0, 0.6])}, loading={"copy": 2.0})
    far.plot()
    (first, *_), (last, *_) = far.bars_[0].get_xy(), far.bars_[-1].get_xy()
    assert (first, last) == (-6.0, 5.75) and far.ax_.get_xlim() == (-6, 6)
    heights = np.array([bar.get_height() for bar in far.bars_])
    assert heights[0] == 0 and heights[2] > 0  # where the user is, and not at the edge
    none = ActivityDisplay(**USERS, loading={"copy": 0.0}).plot()
    assert none.ax_.get_title().endswith("they do not differ")
    with pytest.raises(ValueError, match="the estimator knows no users. Fit it with user_id"):
        ActivityDisplay.from_estimator(fitted)


def test_activity_of_an_estimator():
    user = np.arange(len(X)) % 20
    est = ImplicitRewardEstimator(
        shared_examination=True, n_estimators=2, max_epochs=3, early_stopping=False, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(X, ACTIONS, user_id=user)
    display = ActivityDisplay.from_estimator(make_pipeline(FunctionTransformer().fit(X), est))
    np.testing.assert_array_equal(display.mean, est.user_activity_.mean)
    assert list(display.loading)[-1] == "looking"
    np.testing.assert_allclose(list(display.loading.values()), est.user_loading_)
