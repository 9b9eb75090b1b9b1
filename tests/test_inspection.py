"""The identification report says what a log can tell, and what speaks against it."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from implicitrm_sk import ImplicitRewardEstimator, identification_report
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import _independence
from implicitrm_sk.inspection._independence import (
    exposures_that_agree,
    independence_test,
    signals_that_agree,
)

EXAMINED = "independent signals, every row was looked at"
N = 3000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype(np.float32)
PROBABILITY = 1 / (1 + np.exp(-2.5 * (X[:, 0] + np.tanh(X[:, 1]))))
PREFERRED = (RNG.random(N) < PROBABILITY).astype(int)
CONTEXT = RNG.normal(size=(N, 2)).astype(np.float32)


def simulate(n_signals=1, on=X, **kwargs):
    actions = simulate_feedback(
        PREFERRED, X=on, n_signals=n_signals, random_state=0, **kwargs
    ).actions
    return actions[:, 0] if n_signals == 1 else actions


def estimator(**params):
    return ImplicitRewardEstimator(
        **{
            "hidden_layer_sizes": (16,),
            "learning_rate_init": 3e-3,
            "random_state": 0,
        }
        | params
    )


def labels(n=300):
    label = np.full(N, np.nan)
    label[:n] = PREFERRED[:n]
    return label


@pytest.fixture(scope="module")
def one_signal():
    return identification_report(estimator(), X, simulate(), n_starts=6)


@pytest.fixture(scope="module")
def three_signals():
    y = pd.DataFrame(simulate(3), columns=["copy", "click", "share"])
    return identification_report(estimator(shared_examination=False), X, y, n_starts=4)


def test_one_signal_is_not_identified(one_signal):
    assert one_signal.verdict == one_signal.level == "not identified"
    assert one_signal.assumptions == ()
    assert one_signal.swap["as_likely"]
    assert abs(one_signal.swap["difference"]) < 1e-6  # an exact symmetry of the model
    assert any("second kind of positive action" in advice for advice in one_signal.advice)


def test_equal_likelihood_with_different_rewards_is_seen(one_signal, three_signals):
    assert one_signal.refits["as_likely"].sum() >= 2
    assert one_signal.reward_spread > 3 * three_signals.reward_spread


def test_the_best_refit_is_the_measure(one_signal):
    refits = one_signal.refits
    best = refits["log_likelihood"].argmax()
    assert refits["difference"][best] == 0 and refits["as_likely"][best]
    assert (refits["difference"] <= 0).all()
    np.testing.assert_allclose(
        refits["difference"], refits["log_likelihood"] - refits["log_likelihood"][best], atol=1e-12
    )
    assert {len(values) for values in refits.values()} == {6}


def test_three_signals_are_identified(three_signals):
    assert three_signals.verdict == f"identified (assuming {EXAMINED})"
    assert not three_signals.swap["as_likely"]
    assert three_signals.independence.degrees_of_freedom == 3
    assert not three_signals.independence.rejected
    assert three_signals.agreeing_signals == []


@pytest.mark.parametrize(
    ("actions", "params", "fit_params", "verdict"),
    [
        (
            lambda: simulate(3),
            {"shared_examination": False},
            {},
            f"identified (assuming {EXAMINED})",
        ),
        (
            simulate,
            {},
            {"preference": labels(900)},
            "identified (assuming labels missing at random)",
        ),
        (
            simulate,
            {"preference_rate": PREFERRED.mean()},
            {},
            f"level only (assuming the preference rate is {PREFERRED.mean():g})",
        ),
        (
            lambda: simulate(3, false_action_rate=0.05),
            {"false_action_rate": 0.05, "shared_examination": False},
            {},
            f"identified (assuming {EXAMINED}, the false-action rate given)",
        ),
    ],
    ids=["three", "labels", "rate", "false actions"],
)
def test_verdicts(actions, params, fit_params, verdict):
    report = identification_report(estimator(**params), X, actions(), n_starts=2, **fit_params)
    assert report.verdict == verdict


def test_too_few_labels_to_rule_out_the_swap_are_called_that():
    report = identification_report(estimator(), X, simulate(), n_starts=2, preference=labels(40))
    # Never "identified" beside "too small to show it".
    assert report.level == "not identified" and report.swap["as_likely"]
    assert "too small to show it" in report.reason and "Collect more" in report.advice[0]
    enough = identification_report(estimator(), X, simulate(), n_starts=2, preference=labels(900))
    assert not enough.swap["as_likely"] and "too small" not in enough.reason


def test_exclusion_is_a_ranking():
    report = identification_report(
        estimator(propensity_features=slice(5, 7)),
        np.hstack([X, CONTEXT]),
        simulate(on=CONTEXT),
        n_starts=2,
    )
    assert report.level == "ranking only"
    assert not report.swap["applicable"]
    assert "different columns" in repr(report)


@pytest.mark.filterwarnings("ignore:signal .* a copy tells nothing")
def test_a_copied_signal_is_detected_among_three():
    y = simulate(3, copied_signal=(0, 2))
    report = identification_report(estimator(), X, y, n_starts=2)
    assert report.level == "not identified"
    assert report.independence.rejected
    assert [pair[:2] for pair in report.agreeing_signals] == [("0", "2")]


def test_half_a_copy_is_dependence_of_its_pair():
    y = simulate(3, copied_signal=(0, 2), copied_rate=0.5)
    report = identification_report(estimator(), X, y, n_starts=2)
    assert report.level == "not identified" and report.agreeing_signals == []
    ratio = report.independence.log_odds_ratio
    assert max(ratio, key=ratio.get) == (0, 2)


@pytest.mark.filterwarnings("ignore:signal .* a copy tells nothing")
def test_a_copied_signal_of_two_is_flagged():
    y = pd.DataFrame(simulate(2, copied_signal=(0, 1)), columns=["copy", "copied"])
    report = identification_report(estimator(), X, y, n_starts=2)
    assert report.level == "not identified"
    assert report.independence is None
    text = repr(report)
    assert "one signal or two?  copy, copied" in text and "cannot be tested" in text


def test_report_leaves_the_estimator_alone():
    est = estimator(max_epochs=3)
    before = clone(est).get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "4 of 4 members", category=UserWarning)
        identification_report(est, X, simulate(), n_starts=4)
    assert est.get_params() == before and not hasattr(est, "model_")


def test_reports_are_reproducible(one_signal):
    again = identification_report(estimator(), X, simulate(), n_starts=6)
    assert repr(again) == repr(one_signal)


def test_text_and_frame_tell_the_same(three_signals):
    text = str(three_signals)
    frame = three_signals.to_frame()
    assert list(frame.columns) == ["item", "finding", "detail"]
    for item, finding in zip(frame["item"], frame["finding"], strict=True):
        assert item in text
        assert " ".join(finding.split()) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


def test_plot(one_signal):
    axes = one_signal.plot()
    assert [axis.get_title() for axis in axes] == [
        "Refits from different starts",
        "Reward: not identified",
    ]
    assert one_signal.plot(axes) is not None
    plt.close("all")


def test_bounds_hold_the_reward_and_are_wide_for_rare_actions(one_signal):
    bounds = one_signal.bounds(X)
    assert bounds.shape == (N, 2) and (bounds[:, 1] == 1).all()
    reward = one_signal.estimator.predict(X)
    assert (bounds[:, 0] <= reward + 1e-6).all()
    np.testing.assert_allclose(
        bounds[:, 0], one_signal.estimator.predict_action(X), rtol=1e-5, atol=1e-6
    )


def test_bounds_with_false_actions():
    e = 0.1
    report = identification_report(
        estimator(false_action_rate=e), X, simulate(false_action_rate=e), n_starts=2
    )
    action = report.estimator.predict_action(X)
    np.testing.assert_allclose(
        report.bounds(X)[:, 0], np.clip((action - e) / (1 - e), 0, 1), rtol=1e-4, atol=1e-6
    )


def test_labelled_shares():
    y = simulate()
    label = labels()
    report = identification_report(estimator(), X, y, n_starts=2, preference=label)
    for name, rows in (("acted", y == 1), ("not acted", y == 0)):
        assert report.labelled_share[name] == pytest.approx(np.mean(~np.isnan(label[rows])))
    assert "missing at random" in repr(report)


def test_repeated_exposures_are_reported():
    y = simulate(2)
    ids = np.repeat(np.arange(N), 2)
    long = identification_report(
        estimator(),
        np.repeat(X, 2, axis=0),
        y.ravel(),
        n_starts=2,
        response_id=ids,
        groups=ids // 3,
    )
    assert long.level == "identified"
    assert "independent exposures" in long.verdict
    assert long.swap["applicable"] and not long.swap["as_likely"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_starts": 1}, ValueError, "n_starts must be an integer, at least 2"),
        ({"n_starts": 2.5}, ValueError, "n_starts must be an integer, at least 2 .* got 2.5"),
        ({"est": make_pipeline(estimator())}, TypeError, r"pipe\[:-1\]"),
        ({"est": estimator(objective="naive")}, ValueError, "objective='stratified'"),
        ({"preferences": labels()}, TypeError, "preferences"),
        ({"y": np.r_[np.ones(8), np.zeros(N - 8)]}, ValueError, "too few"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"est": estimator(), "X": X, "y": simulate(), "n_starts": 2} | change
    with pytest.raises(error, match=message):
        identification_report(**arguments)


# The test of independence on its own, with the true reward and propensity.

F = torch.as_tensor(np.log(PROBABILITY / (1 - PROBABILITY)), dtype=torch.float64)
U = torch.as_tensor(X[:, 2:5] * 0.7, dtype=torch.float64)


def pair(association, seed, n=N):
    """Signals 0 and 1 depend on each other given preference by a log odds ratio."""
    rng = np.random.default_rng(seed)
    a = torch.sigmoid(U[:n]).numpy()
    patterns = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    log_p = sum(
        np.where(patterns[None, :, k] == 1, np.log(a[:, None, k]), np.log1p(-a[:, None, k]))
        for k in (0, 1)
    )
    centred = patterns[None] - a[:, None, :2]
    p = np.exp(log_p + association * centred[..., 0] * centred[..., 1])
    cumulative = np.cumsum(p / p.sum(1, keepdims=True), axis=1)
    drawn = patterns[(rng.random(n)[:, None] > cumulative).sum(1)]
    third = rng.random(n) < a[:, 2]
    preferred = rng.random(n) < PROBABILITY[:n]
    return np.column_stack([drawn, third]) * preferred[:, None].astype(float)


def test_p_values_under_independence_are_uniform():
    p = np.array(
        [
            independence_test(F[:800], U[:800], pair(0.0, seed, 800), np.ones(800)).p_value
            for seed in range(24)
        ]
    )
    # Kolmogorov-Smirnov: the largest distance from the diagonal has its 99.9 % point at 0.38.
    distance = np.abs(np.sort(p) - (np.arange(24) + 0.5) / 24).max()
    assert distance < 0.38 and (p > 1e-3).all()


def test_the_dependent_pair_is_found_with_its_strength():
    result = independence_test(F, U, pair(2.0, 0), np.ones(N))
    assert result.rejected
    assert result.log_odds_ratio[0, 1] == pytest.approx(2.0, abs=0.7)
    assert abs(result.log_odds_ratio[0, 2]) < 0.7 and abs(result.log_odds_ratio[1, 2]) < 0.7


def test_rows_without_weight_and_signals_without_log_do_not_count():
    y = pair(2.0, 0)
    half = np.r_[np.ones(N // 2), np.zeros(N - N // 2)]
    missing = y.copy()
    missing[N // 2 :] = np.nan
    by_weight = independence_test(F, U, y, half)
    by_nan = independence_test(F, U, missing, np.ones(N))
    assert by_weight.statistic == pytest.approx(by_nan.statistic, rel=1e-6)


def test_pairs_that_agree():
    a = np.repeat([1, 1, 1, 0, 0, np.nan], 8)
    b = np.repeat([1, 1, 1, 0, 0, 1], 8)
    c = np.repeat([1, 0, 1, 0, 1, 1], 8)
    found = signals_that_agree(np.column_stack([a, b, c]), np.ones(48))
    assert found == [(0, 1, 1.0)]
    # Fewer than 20 rows on which either acted may agree by chance.
    few = np.r_[np.ones(24), np.zeros(24)]
    few[5:] = 0
    assert signals_that_agree(np.column_stack([a, b]), few) == []


def test_exposures_that_agree():
    response = np.repeat(np.arange(40), 2)
    a, b = (np.repeat(np.arange(40) % 2, 2).astype(float) for _ in range(2))
    b[::4] = 1 - b[::4]
    found = exposures_that_agree(np.column_stack([a, b]), None, response, np.ones(80))
    assert found == [(0, 1.0)]
    shown = np.full((40, 1), 3.0)
    all_or_none = 3.0 * (np.arange(40)[:, None] % 2)
    assert exposures_that_agree(all_or_none, shown, None, np.ones(40)) == [(0, 1.0)]
    one_each = 1.0 * (np.arange(40)[:, None] % 2)
    assert exposures_that_agree(one_each, shown, None, np.ones(40)) == []


def test_weights_do_not_pass_for_rows():
    """A tenth of the rows with a hundred times the weight: 12 % of the rows count (Kish)."""
    rejected = 0
    for seed in range(12):
        weight = np.where(np.random.default_rng(seed).random(N) < 0.1, 20.0, 0.2)
        rejected += independence_test(F, U, pair(0.0, 100 + seed), weight).p_value < 0.01
    assert rejected <= 1


def test_only_signals_logged_together_can_be_tested():
    y = pair(0.0, 0)
    apart = np.where(np.arange(N)[:, None] % 3 == range(3), np.nan, y)
    assert independence_test(F, U, apart, np.ones(N)) is None
    report = identification_report(estimator(), X, apart, n_starts=2)
    assert "independent signals  cannot be tested" in repr(report)


def test_many_signals_are_tested_in_part(monkeypatch):
    y = simulate(7)[:800]
    report = identification_report(estimator(), X[:800], y, n_starts=2)
    assert len(report.independence.signals) == 5
    assert "of the signals" in " ".join(repr(report).split())
    monkeypatch.setattr(_independence, "MAX_PATTERNS", 8000)
    assert independence_test(F, U, pair(0.0, 0), np.ones(N)).n_rows == 1000


@pytest.mark.filterwarnings("ignore:signal .* a copy tells nothing")
@pytest.mark.parametrize("n_signals", [2, 3])
@pytest.mark.parametrize(
    "extra", [{"response_id": np.arange(N).astype(str)}, {"exposures": np.ones(N)}]
)
def test_a_copy_is_seen_whatever_else_is_given(n_signals, extra):
    y = simulate(n_signals, copied_signal=(0, n_signals - 1))
    report = identification_report(estimator(), X, y, n_starts=2, **extra)
    assert report.level == "not identified"
    assert [pair[:2] for pair in report.agreeing_signals] == [("0", str(n_signals - 1))]


def test_rows_logged_twice_are_no_repeated_exposures():
    twice = {"X": np.repeat(X, 2, axis=0), "y": np.repeat(simulate(), 2)}
    for arguments in (
        twice | {"response_id": np.repeat(np.arange(N), 2)},
        {"X": X, "y": 2 * simulate(), "exposures": np.full(N, 2)},
    ):
        est = estimator(false_action_rate=0.0)
        report = identification_report(est, n_starts=2, **arguments)
        assert report.level == "not identified"
        assert "one exposure or two?  0" in repr(report)
        assert "repeated exposures  independence not tested" in repr(report)
        assert "how the log was joined" in report.advice[0]


def test_different_rewards_of_equal_likelihood_are_said_in_the_verdict():
    """Few counts of few responses: what is identified in principle is not by this log."""
    few = slice(300)
    rng = np.random.default_rng(0)
    y = rng.binomial(2, 0.25 * PREFERRED[few])
    report = identification_report(
        estimator(false_action_rate=0.01), X[few], y, exposures=np.full(300, 2), n_starts=6
    )
    means = report.refits["mean_reward"][report.refits["as_likely"]]
    assert np.ptp(means) > 0.1
    assert report.level == "not identified"
    assert f"refits differ by {np.ptp(means):.2f} in the mean reward" in report.reason


def test_one_weight_for_all_is_none(one_signal):
    report = identification_report(estimator(), X, simulate(), n_starts=6, sample_weight=2.0)
    np.testing.assert_array_equal(
        report.refits["log_likelihood"], one_signal.refits["log_likelihood"]
    )
