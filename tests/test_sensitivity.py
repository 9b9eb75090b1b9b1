"""Sensitivity analyses: the models of violations, the stacked refits, what is said of them."""

import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import compare_groups, sensitivity_report
from implicitrm_sk.inspection._violations import _crossing
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.measurement._views import MemberViews, View
from implicitrm_sk.signals import Action
from implicitrm_sk.training._plan import FitPlan

pd = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')

SIGNALS = (Action(), Action(0))
BASE = Measurement(SIGNALS)


def probabilities(view, f, u):
    """Return P(y | x) of the four outcomes of a positive and a negative action, (4, n)."""
    outcomes = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)
    return torch.stack([-view.nll(f, u, y.expand(len(f), 2)).detach() for y in outcomes]).exp()


def test_views_are_the_models_they_say():
    rng = np.random.default_rng(0)
    f, u = torch.as_tensor(rng.normal(size=5)), torch.as_tensor(rng.normal(size=(5, 2)))
    R, A = torch.sigmoid(f), torch.sigmoid(u)
    plain = probabilities(View(BASE, SIGNALS), f, u)
    torch.testing.assert_close(plain[2], R * A[:, 0])
    torch.testing.assert_close(plain[1], (1 - R) * A[:, 1])
    seen = probabilities(View(BASE, SIGNALS, looked=0.7), f, u)
    torch.testing.assert_close(seen[1:], 0.7 * plain[1:])
    for ratio in (0.5, 1.0, 2.0):
        found = probabilities(View(BASE, SIGNALS, ratio=ratio), f, u)
        free = A[:, 0]
        ready, unready = (free, ratio * free) if ratio <= 1 else (free / ratio, free)
        torch.testing.assert_close(found[2], R * ready)
        torch.testing.assert_close(found[1], (1 - R) * unready)
    mirrored = Measurement(SIGNALS[::-1])
    found = View(mirrored, SIGNALS[::-1], ratio=0.5)
    y = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(found.log_likelihood(f, u, y).exp(), R * A[:, 1])
    rated = probabilities(View(BASE, SIGNALS, rates=torch.tensor([0.1, 0.0])), f, u)
    torch.testing.assert_close(rated[2], R * (0.1 + 0.9 * A[:, 0]) + (1 - R) * 0.1 * (1 - A[:, 1]))
    without = probabilities(View(BASE, SIGNALS, left_out=0), f, u)
    torch.testing.assert_close(without[1], (1 - R) * A[:, 1])
    torch.testing.assert_close(without[0], without[2])


def test_likelihoods_of_members_are_those_of_their_views():
    rng = np.random.default_rng(0)
    rates = [torch.tensor(e).double() for e in ([0.1, 0.0], [0.0, 0.2])]
    views = [
        View(BASE, SIGNALS),
        View(BASE, SIGNALS, looked=0.5),
        View(BASE, SIGNALS, rates=rates[0]),
        View(BASE, SIGNALS, ratio=2.0),
        View(BASE, SIGNALS, looked=0.7),
        View(BASE, SIGNALS, rates=rates[1]),
        View(BASE, SIGNALS, left_out=0),
        View(BASE, SIGNALS, left_out=1),
    ]
    f = torch.as_tensor(rng.normal(size=(8, 4))).requires_grad_()
    u = torch.as_tensor(rng.normal(size=(8, 4, 2))).requires_grad_()
    y = torch.tensor([[0, 0], [1, 0], [0, 1], [0, torch.nan]], dtype=torch.float64)
    together = MemberViews(views)
    for name, sign in (("nll", -1), ("log_likelihood", 1)):
        found = getattr(together, name)(f, u, y)
        each = torch.stack([v.log_likelihood(f[k], u[k], y) for k, v in enumerate(views)])
        torch.testing.assert_close(sign * found, each)
    grads = torch.autograd.grad(together.nll(f, u, y).sum(), (f, u))
    expected = torch.autograd.grad(-together.log_likelihood(f, u, y).sum(), (f, u))
    for one, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(one, other)
    # What differs in a number or a column left out is computed in one go, which saves time.
    assert together._sizes == [3, 2, 2, 1]
    assert together._order.tolist() == [0, 6, 7, 1, 4, 2, 5, 3]
    some = together.of_members([4, 0, 1])
    assert some.views == (views[4], views[0], views[1])
    torch.testing.assert_close(
        some.nll(f[[4, 0, 1]], u[[4, 0, 1]], y), together.nll(f, u, y)[[4, 0, 1]]
    )


@pytest.mark.parametrize("rates", [None, [0.1, 0.05, 0.2]])
def test_turned_signs_are_computed_together(rates):
    """Also where a turned action contradicts others of its row."""
    rng = np.random.default_rng(0)
    signals = (Action(), Action(), Action(0))
    base = Measurement(signals)
    views = [View(base, signals), View(base, signals, left_out=1)]
    for k, signal in enumerate(signals):
        turned = (*signals[:k], Action(1 - signal.target), *signals[k + 1 :])
        views.append(View(base, turned, turned=k))
    f = torch.as_tensor(rng.normal(size=(5, 40))).requires_grad_()
    u = torch.as_tensor(rng.normal(size=(5, 40, 3))).requires_grad_()
    y = torch.as_tensor(rng.choice([0.0, 1.0, np.nan], size=(40, 3)))
    y = y[~((y[:, :2] > 0).any(dim=1) & (y[:, 2] > 0))] if rates is None else y
    f, u = f[:, : len(y)], u[:, : len(y)]
    rates = None if rates is None else torch.tensor(rates).double()
    together = MemberViews(views)
    assert together._sizes == [5]
    for name in ("nll", "log_likelihood"):
        found = getattr(together, name)(f, u, y, rates)
        each = torch.stack([getattr(v, name)(f[k], u[k], y, rates) for k, v in enumerate(views)])
        torch.testing.assert_close(found, each)
        if name == "nll":
            grads = [torch.autograd.grad(one.sum(), (f, u)) for one in (found, each)]
            for one, other in zip(*grads, strict=True):
                torch.testing.assert_close(one, other)
    assert torch.isinf(found).any() == (rates is None)


@pytest.mark.parametrize(
    ("points", "is_ratio", "expected"),
    [
        ([(0.1, 0.1), (0.2, -0.1)], False, 0.15),
        ([(0.1, 0.1), (0.2, 0.05)], False, np.inf),
        ([(0.1, np.nan), (0.2, -0.2)], False, 0.1),
        ([(2.0, 0.1), (0.5, 0.0), (0.25, -0.2)], True, 0.5),
        ([(4.0, -0.2), (0.5, 0.1)], True, 2.0),
    ],
)
def test_robustness_value_lies_where_the_sign_changes(points, is_ratio, expected):
    start = 1.0 if is_ratio else 0.0
    assert _crossing(start, 0.2, points, is_ratio) == pytest.approx(expected)


def estimator(**params):
    settings = {"learning_rate_init": 0.02, "n_estimators": 1, "hidden_layer_sizes": (8,)}
    return ImplicitRewardEstimator(**settings | {"random_state": 0} | params)


@pytest.fixture(scope="module")
def log():
    """One positive and one negative action, the negative one half as ready; 0.1 between groups."""
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(3000, 3)), np.arange(3000) % 2
    R = 0.15 + 0.6 / (1 + np.exp(-2 * X[:, 0])) + 0.1 * new
    ready = np.tile([0.6, 0.3], (3000, 1))
    found = simulate_feedback(R, signals=["positive", "negative"], propensity=ready, random_state=0)
    return {"X": X, "y": found.actions, "by": np.where(new, "new", "old"), "reward": R}


@pytest.fixture(scope="module")
def report(log):
    est = estimator(signals=["positive", "negative"], max_epochs=60)
    violations = {
        "ratio": [0.25, 0.5, 2.0],
        "not_looked_at": 0.2,
        "left_out": [1],
        "sign": [0],
        "preference_rate": [0.3],
    }
    return sensitivity_report(
        est, log["X"], log["y"], log["by"], reference="old", violations=violations
    )


@pytest.mark.parametrize("early_stopping", [False, True])
def test_actions_that_a_turned_sign_makes_impossible(early_stopping):
    """A row with both actions has probability 0 if one of them is turned."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    R = 1 / (1 + np.exp(-3 * X[:, 0]))
    ready = np.full((600, 2), 0.6)
    y = simulate_feedback(R, signals=["positive"] * 2, propensity=ready, random_state=0).actions
    est = estimator(shared_examination=False, max_epochs=30, early_stopping=early_stopping)
    row = sensitivity_report(est, X, y, violations={"sign": [0]}).to_frame().iloc[-1]
    assert row["log_likelihood"] == -np.inf and row["rejected"]
    # What is left of the log trains: the second action alone, and the first against it.
    assert np.isfinite(row["mean_reward"]) and row["rank_correlation"] < 0.9


def test_estimates_that_no_reward_can_have_are_not_shown():
    """Nearly all of the few actions would be false: a step from such a fit leads anywhere."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(600, 2))
    y = rng.random((600, 2)) < 0.06
    y[:, 1] = np.where(rng.random(600) < 0.3, y[:, 0], y[:, 1])
    est = estimator(shared_examination=False, max_epochs=30)
    report = sensitivity_report(
        est, X, y.astype(int), np.arange(600) % 2, violations={"false_positive": [0.055, 0.1]}
    )
    frame = report.to_frame()
    assert frame["determined"].tolist() == [True, False, False]
    assert frame[["mean_reward", "difference_1"]].isna().all(axis=1).tolist() == [False, True, True]
    assert repr(report).count("  no estimate") == 2
    assert np.isnan(report.robustness["false_positive"][1])
    assert "no estimate from false positive actions at a rate of 0.055 on" in repr(report)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_few_rows_do_not_decide_about_a_change(seed):
    """Where users hardly act more often than by mistake, a row says next to nothing."""
    rng = np.random.default_rng(seed)
    X, group = rng.normal(size=(1500, 6)), np.arange(1500) % 2
    log = simulate_feedback(
        1 / (1 + np.exp(-1.5 * X[:, 0])),
        signals=["positive"] * 2,
        propensity=1 / (1 + np.exp(-1 - 0.8 * X[:, 1:3])),
        false_action_rate=[0.05, 0.05],
        random_state=seed,
    )
    base, broken = sensitivity_report(
        estimator(shared_examination=False),
        X,
        log.actions,
        group,
        reference=0,
        violations={"false_positive": [0.05]},
    ).rows
    assert broken["determined"]
    assert broken["mean_reward"] < base["mean_reward"] - 0.1
    if seed == 2:  # the groups are equally ready, so that both change alike
        assert abs(broken["difference_1"] - base["difference_1"]) < 0.1


def test_errors_of_differences():
    """Without anything to estimate, the error is that of a difference of two shares."""
    rng = np.random.default_rng(0)
    X, group = rng.normal(size=(2000, 2)), np.arange(2000) % 2
    log = simulate_feedback(
        1 / (1 + np.exp(-X[:, 0])),
        signals=["positive"] * 2,
        propensity=np.full((2000, 2), 0.95),
        random_state=0,
    )
    est = estimator(shared_examination=False)
    report = sensitivity_report(
        est, X, log.actions, group, reference=0, violations={"left_out": [0]}
    )
    shares = [log.true_preference[group == g] for g in (0, 1)]
    error = np.sqrt(sum(share.var() / len(share) for share in shares))
    assert report.errors == {1: pytest.approx(error, rel=0.1)}
    assert f"the standard error of {report.rows[0]['difference_1']:+.2f}" in repr(report)


@pytest.mark.slow
def test_curve_goes_through_the_truth(log, report):
    frame = report.to_frame().set_index(["violation", "amount"])
    row = frame.loc[("ratio", 0.5)]
    assert row["determined"] and not row["rejected"]
    assert row["mean_reward"] == pytest.approx(log["reward"].mean(), abs=0.03)
    assert row["difference_new"] == pytest.approx(0.1, abs=0.03)
    # Readier to complain than they are: fewer dislike it than complain less.
    assert frame.loc[("ratio", 2.0), "mean_reward"] > row["mean_reward"] + 0.1
    assert frame.loc[("ratio", 0.25), "mean_reward"] < row["mean_reward"] - 0.05


def test_frame_and_text_of_a_report(report):
    frame = report.to_frame()
    assert list(frame) == [
        "violation", "amount", "mean_reward", "rank_correlation", "log_likelihood",
        "standard_error", "rejected", "determined", "difference_new",
    ]  # fmt: skip
    assert frame["violation"].tolist() == [
        "none", *["ratio"] * 4, "not_looked_at", "left_out", "sign", "preference_rate",
    ]  # fmt: skip
    base = frame.iloc[0]
    assert base["rank_correlation"] == pytest.approx(1) and base["log_likelihood"] == 0
    assert not base["determined"]
    left_out = frame[frame["violation"] == "left_out"].iloc[0]
    assert np.isnan(left_out["log_likelihood"]) and not left_out["rejected"]
    assert frame[frame["violation"] == "sign"]["rejected"].all()
    imposed = frame[frame["violation"] == "preference_rate"].iloc[0]
    assert imposed["mean_reward"] == pytest.approx(0.3, abs=0.02)
    text = " ".join(str(report).split())
    assert "The reward is bounded" in text and "the convention of the fit" in text
    assert set(report.robustness) == {"ratio", "not_looked_at", "preference_rate"}
    assert report.robustness["not_looked_at"]["new"] == np.inf
    assert "not turned round by rows that nobody looked at" in text


def test_plot_has_one_panel_per_violation_by_a_number(report):
    axes = report.plot()
    assert [ax.get_xlabel() for ax in axes] == ["ratio", "not looked at", "preference rate"]
    assert axes[0].get_xscale() == "log" and axes[0].get_ylabel() == "difference to old"
    plt.close("all")


def test_defaults_are_what_the_log_can_have(log):
    est = estimator(n_estimators=2, max_epochs=2, early_stopping=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = sensitivity_report(est, log["X"], log["y"][:, 0]).to_frame()
    kinds = set(found["violation"])
    assert kinds == {"none", "false_positive", "not_looked_at", "sign"}
    rate = log["y"][:, 0].mean()
    assert found.loc[found["violation"] == "false_positive", "amount"].max() < rate
    assert "difference" not in " ".join(found)


@pytest.mark.parametrize(
    ("violations", "message"),
    [
        ({}, "violations must be a dict of amounts by kind"),
        ({"typo": 0.1}, "violations has the kind 'typo'; expected false_positive"),
        ({"false_positive": [1.5]}, "holds 1.5; expected numbers strictly between 0 and 1"),
        ({"false_positive": ["0.1"]}, "holds '0.1'"),
        ({"ratio": [0.0]}, "holds 0.0; expected numbers strictly between 0 and inf"),
        ({"left_out": ["copied"]}, "names 'copied'; expected one of the signals 0, 1"),
        ({"preference_rate": [1.2]}, "preference_rate"),
    ],
)
def test_bad_violations(violations, message, log):
    est = estimator(signals=["positive", "negative"])
    with pytest.raises(ValueError, match=message):
        sensitivity_report(est, log["X"], log["y"], violations=violations)


def test_a_reference_needs_groups(log):
    with pytest.raises(ValueError, match="reference='old' is a group, but by is None"):
        sensitivity_report(estimator(), log["X"], log["y"][:, 0], reference="old")


def test_a_violation_that_the_log_cannot_have(log):
    with pytest.raises(ValueError, match="'ratio', which is not possible"):
        sensitivity_report(estimator(), log["X"], log["y"][:, 0], violations={"ratio": 2.0})


@pytest.mark.parametrize(
    ("slope", "turns"), [(-1.0, True), (-0.4, False)], ids=["crosses", "stays"]
)
def test_robustness_is_finite_exactly_where_the_sign_turns(report, slope, turns):
    """Of curves of known slope, over the amounts that were tried."""
    amounts = [0.05, 0.1, 0.2, 0.3]
    base = report.rows[0] | {"difference_new": 0.15}
    rows = [
        base | {"violation": "not_looked_at", "amount": a, "difference_new": 0.15 + slope * a}
        for a in amounts
    ]
    found = replace(report, rows=[base, *rows]).robustness["not_looked_at"]["new"]
    assert np.isfinite(found) == turns
    if turns:
        assert found == pytest.approx(0.15)


def test_rates_that_are_estimated_are_those_of_a_fit():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    R = 1 / (1 + np.exp(-2 * X[:, 0]))
    log = simulate_feedback(R, X=X, n_signals=3, false_action_rate=0.05, random_state=0)
    est = estimator(false_action_rate="estimate", shared_examination=False, max_epochs=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sensitivity_report(est, X, log.actions, violations={"false_positive": [0.1]})
        rates = est.fit(X, log.actions).false_action_rate_
    assert found.identification == est.identification_
    frame = found.to_frame()
    assert frame["determined"][0]
    assert frame["mean_reward"][1] < frame["mean_reward"][0]  # more of the actions are false
    assert rates.max() < 0.1


@pytest.fixture(scope="module")
def anchored():
    """Two positive actions: the comparison, and the report of the same arguments."""
    rng = np.random.default_rng(0)
    X, by = rng.normal(size=(1600, 3)), np.where(rng.random(1600) < 0.4, "new", "old")
    R = 1 / (1 + np.exp(-1.5 * X[:, 0] - 0.5 * (by == "new")))
    found = simulate_feedback(R, signals=["positive"] * 2, propensity="constant", random_state=0)
    y = pd.DataFrame(found.actions, columns=["copied to the clipboard of a colleague", "shared"])
    est = estimator(shared_examination=False, n_estimators=2, max_epochs=40)
    arguments = {
        "est": est, "X": X, "y": y, "by": by, "reference": "old", "groups": np.arange(1600) // 2,
    }  # fmt: skip
    violations = {"false_positive": [0.001, 0.05], "left_out": list(y), "preference_rate": 0.4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compare_groups(**arguments), sensitivity_report(**arguments, violations=violations)


def test_the_base_is_the_estimate_of_compare_groups(anchored):
    comparison, report = anchored
    base = report.rows[0]
    assert comparison.estimated and base["determined"]
    frame = comparison.to_frame()
    assert base["difference_new"] == pytest.approx(frame["difference"]["new"], abs=1e-12)
    mean = np.average(frame["reward"], weights=frame["n_rows"])
    assert base["mean_reward"] == pytest.approx(mean, abs=1e-12)
    low, high = comparison.difference_interval[comparison.groups.tolist().index("new")]
    assert report.errors["new"] == pytest.approx((high - low) / 2 / 1.6449, rel=1e-4)
    assert report.identification == comparison.identification
    text = " ".join(str(report).split())
    assert '"nothing broken" is the estimate of compare_groups' in text


def test_curves_start_at_the_base(anchored):
    """A violation of hardly any size changes hardly anything, though its refits are far off."""
    _, report = anchored
    base, little, more, *_, imposed = report.rows
    assert abs(little["difference_new"] - base["difference_new"]) < 0.01
    assert abs(little["mean_reward"] - base["mean_reward"]) < 0.01
    assert more["mean_reward"] < base["mean_reward"] - 0.02
    assert imposed["mean_reward"] == pytest.approx(0.4, abs=0.02)


def test_names_of_signals_are_not_cut(anchored):
    _, report = anchored
    lines = str(report).splitlines()
    heading = lines.index("without the signal")
    assert lines[heading + 1].startswith("  copied to the clipboard of a colleague  ")


def test_text_fits_a_terminal(anchored, report):
    for one in (report, anchored[1]):
        lines = str(one).splitlines()
        assert max(map(len, lines)) <= 79
        assert "false positive actions at a rate of" in lines or one is report


@pytest.mark.slow
def test_with_users_the_base_is_the_comparison_with_users():
    rng = np.random.default_rng(0)
    X, user, by = rng.normal(size=(1200, 2)), np.arange(1200) % 60, rng.integers(2, size=1200)
    R = 1 / (1 + np.exp(-1.5 * X[:, 0] - 0.7 * by))
    found = simulate_feedback(
        R, n_signals=2, user_id=user, user_activity=2.5, propensity="constant", random_state=0
    )
    est = estimator(shared_examination=False, max_epochs=40)
    log = {"est": est, "X": X, "y": found.actions, "by": by, "reference": 0, "n_folds": 2}
    users = compare_groups(**log, user_id=user)
    violations = {"false_positive": [0.05]}
    report = sensitivity_report(**log, user_id=user, violations=violations)
    base, broken = report.rows
    assert users.estimated and base["determined"] and broken["determined"]
    assert base["difference_1"] == pytest.approx(users.difference[1], abs=1e-5)
    mean = np.average(users.reward, weights=users.n_rows)
    assert base["mean_reward"] == pytest.approx(mean, abs=1e-5)
    assert report.identification == users.identification
    assert "users share one taste" in str(report.identification)
    assert broken["mean_reward"] < base["mean_reward"]
    without = sensitivity_report(**log, violations=violations).rows[0]
    assert abs(without["mean_reward"] - mean) > 0.1


def test_a_verdict_that_fits_contradict_is_not_given():
    """The level is that of the fits, not that of the settings alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 2))
    first = rng.integers(2, size=1200)  # exclusive: never both
    y = np.stack([first, 1 - first], axis=1) * (rng.random((1200, 1)) < 0.8)
    est = estimator(shared_examination=False, max_epochs=10)
    found = sensitivity_report(est, X, y, violations={"left_out": [1]})
    assert found.identification.level == "not identified"
    assert "co-occur" in found.identification.reason


@pytest.mark.parametrize(("activity", "with_users"), [(0.0, False), (2.5, True)])
def test_users_are_modelled_only_if_their_actions_vary_together(monkeypatch, activity, with_users):
    rng = np.random.default_rng(0)
    X, user, by = rng.normal(size=(1200, 2)), np.arange(1200) % 60, rng.integers(2, size=1200)
    found = simulate_feedback(
        1 / (1 + np.exp(-1.5 * X[:, 0])),
        n_signals=2,
        user_id=user,
        user_activity=activity,
        propensity="constant",
        random_state=0,
    )
    trained, run = [], FitPlan.run

    def noted(plan, *args, **kwargs):
        trained.append(plan.n_users)
        return run(plan, *args, **kwargs)

    monkeypatch.setattr(FitPlan, "run", noted)
    est = estimator(shared_examination=False, max_epochs=5)
    violations = {"false_positive": [0.05]}
    sensitivity_report(
        est, X, found.actions, by, reference=0, user_id=user, violations=violations, n_folds=2
    )
    assert None in trained
    assert any(n is not None for n in trained) == with_users


def test_rates_that_are_tried_are_above_the_one_that_is_assumed():
    """The rate of the base would change nothing, and its robustness would seem infinite."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    preferred = rng.random(300) < 1 / (1 + np.exp(-X[:, 0]))
    acts = preferred[:, None] & (rng.random((300, 2)) < 0.08)
    y = (acts | (rng.random((300, 2)) < 0.01)).astype(int)
    est = ImplicitRewardEstimator(
        shared_examination=False, false_action_rate=0.01, max_epochs=2, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = sensitivity_report(est, X, y)
    frame = report.to_frame()
    tried = frame.loc[frame["violation"] == "false_positive", "amount"].to_numpy(dtype=float)
    assert len(tried) and (tried > 0.01).all() and (tried < y.mean(axis=0).min()).all()
