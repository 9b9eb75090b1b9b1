"""The identification report says what a log can tell, and what speaks against it."""

import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from benchmarks.newcomer import newcomer_log
from implicitrm_sk import ImplicitRewardEstimator, _independence, identification_report
from implicitrm_sk._association import Association, association_test, explain
from implicitrm_sk._identification import Identification
from implicitrm_sk._independence import (
    exposures_that_agree,
    independence_test,
    signals_that_agree,
)
from implicitrm_sk._prediction import component_logits
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection._refits import _verdict

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
            {"labels": labels(900)},
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


@pytest.mark.slow
def test_too_few_labels_to_rule_out_the_swap_are_called_that():
    report = identification_report(estimator(), X, simulate(), n_starts=2, labels=labels(40))
    # Never "identified" beside "too small to show it".
    assert report.level == "not identified" and report.swap["as_likely"]
    assert "too small to show it" in report.reason and "Collect more" in report.advice[0]
    enough = identification_report(estimator(), X, simulate(), n_starts=2, labels=labels(900))
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


@pytest.mark.filterwarnings("ignore:signal .* a copy carries")
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


@pytest.mark.filterwarnings("ignore:signal .* a copy carries")
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
        bounds[:, 0],
        action_by_refit(one_signal)[one_signal.refits["as_likely"]].min(axis=0),
        rtol=1e-5,
        atol=1e-6,
    )


def action_by_refit(report, e=0.0):
    """Return P(action | x) of every refit; mirror images, which come last, have the same."""
    logits = component_logits(report.estimator, X, "reward_logit", "propensity_logit")
    f, u = (torch.sigmoid(part).numpy() for part in logits)
    # A preferred response draws an action by mistake too: A >= e.
    return (e + (1 - e) * f * u[..., 0])[: len(report.refits["start"])]


def test_bounds_are_those_of_refits_as_likely_as_the_best(one_signal):
    as_likely = np.arange(len(one_signal.refits["start"])) == 2
    report = replace(one_signal, refits=one_signal.refits | {"as_likely": as_likely})
    np.testing.assert_allclose(
        report.bounds(X)[:, 0], action_by_refit(report)[2], rtol=1e-5, atol=1e-6
    )
    assert abs(report.bounds(X) - one_signal.bounds(X)).max() > 1e-3


def test_bounds_with_false_actions():
    e = 0.1
    report = identification_report(
        estimator(false_action_rate=e), X, simulate(false_action_rate=e), n_starts=2
    )
    action = action_by_refit(report, e)[report.refits["as_likely"]].min(axis=0)
    np.testing.assert_allclose(
        report.bounds(X)[:, 0], np.clip((action - e) / (1 - e), 0, 1), rtol=1e-4, atol=1e-6
    )


def test_labelled_shares():
    y = simulate()
    label = labels()
    report = identification_report(estimator(), X, y, n_starts=2, labels=label)
    for name, rows in (("acted", y == 1), ("not acted", y == 0)):
        assert report.labelled_share[name] == pytest.approx(np.mean(~np.isnan(label[rows])))
    assert "no sign that users chose which responses have a label" in repr(report)


@pytest.mark.slow
def test_repeated_exposures_are_reported():
    y = simulate(2)
    ids = np.repeat(np.arange(N), 2)
    long = identification_report(
        estimator(false_action_rate=0.0),
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


@pytest.mark.slow
def test_p_values_under_independence_are_not_too_small():
    p = np.array(
        [
            independence_test(F[:800], U[:800], pair(0.0, seed, 800), np.ones(800)).p_value
            for seed in range(24)
        ]
    )
    # Kolmogorov-Smirnov: the largest distance from the diagonal has its 99.9 % point at 0.38. They
    # may lie above it, since several tests that know of each other are corrected for their number.
    distance = ((np.arange(24) + 0.5) / 24 - np.sort(p)).max()
    assert distance < 0.38 and (p > 1e-3).all()


def test_the_dependent_pair_is_found_with_its_strength():
    result = independence_test(F, U, pair(2.0, 0), np.ones(N))
    assert result.rejected
    assert result.log_odds_ratio[0, 1] == pytest.approx(2.0, abs=0.7)
    assert abs(result.log_odds_ratio[0, 2]) < 0.7 and abs(result.log_odds_ratio[1, 2]) < 0.7


def test_one_cause_of_all_signals_is_found_by_fewer_rows(monkeypatch):
    """How keen a user is to act differs from row to row: all pairs depend a little."""
    found, of_causes, combined = [], [], _independence.combined

    def spy(p_value, others):
        of_causes.append(others[0])
        return combined(p_value, others)

    monkeypatch.setattr(_independence, "combined", spy)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        chance = torch.sigmoid(U + 0.8 * torch.as_tensor(rng.normal(size=(N, 1)))).numpy()
        preferred = rng.random((N, 1)) < PROBABILITY[:, None]
        y = ((rng.random((N, 3)) < chance) & preferred).astype(float)
        result = independence_test(F, U, y, np.ones(N))
        assert min(result.log_odds_ratio.values()) > 0
        found.append((result.p_value, chi2.sf(result.statistic, result.degrees_of_freedom)))
    p, of_pairs = np.median(found, axis=0)
    assert np.median(of_causes) < of_pairs / 10
    assert p < of_pairs / 2  # half of the weight is that of the likelihood ratio


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:signal .* a copy carries")
@pytest.mark.parametrize("n_signals", [2, 3])
@pytest.mark.parametrize(
    "extra", [{"response_id": np.arange(N).astype(str)}, {"exposures": np.ones(N)}]
)
def test_a_copy_is_seen_whatever_else_is_given(n_signals, extra):
    y = simulate(n_signals, copied_signal=(0, n_signals - 1))
    report = identification_report(estimator(), X, y, n_starts=2, **extra)
    assert report.level == "not identified"
    assert [pair[:2] for pair in report.agreeing_signals] == [("0", str(n_signals - 1))]


@pytest.mark.slow
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
        # The counts are those of a propensity near 1, too; that exposures agree is not.
        assert "repeated exposures  not rejected (p = " in repr(report)
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


@pytest.mark.slow
def test_the_verdict_does_not_fall_with_more_starts():
    """The range of refits grows with their number; what the verdict rests on does not."""
    rng = np.random.default_rng(1)
    few = rng.normal(size=(1000, 5)).astype(np.float32)
    liked = rng.random(1000) < 1 / (1 + np.exp(-2.5 * (few[:, 0] + np.tanh(few[:, 1]))))
    y = simulate_feedback(liked.astype(int), X=few, n_signals=2, random_state=1).actions
    for n_starts in (8, 16):
        est = estimator(shared_examination=False)
        report = identification_report(est, few, y, n_starts=n_starts)
        means = report.refits["mean_reward"][report.refits["as_likely"]]
        assert report.level == "identified", report.reason
    assert np.ptp(means) > 0.1  # of 16; with 8 the same log has less
    assert f"standard deviation {means.std(ddof=1):.2f}" in " ".join(str(report).split())


@pytest.mark.parametrize(("sd", "small"), [(0.03, False), (0.2, True)])
def test_the_share_of_verdicts_on_a_spread_does_not_grow(one_signal, sd, small):
    """Draws of mean rewards of a known standard deviation, 4 to 64 of them."""
    found = Identification("identified", ("independent signals",), "Reason.")
    rng = np.random.default_rng(0)
    nothing = {"independence": None, "signals": [], "exposures": [], "swap": {"applicable": False}}
    nothing |= {"dispersion": None, "advice_if_dispersed": "", "split": None}
    nothing |= {"against_labels": None, "examination": None, "differs": False}
    nothing["found_by_fit"] = None
    for n_starts in (4, 8, 16, 64):
        levels = [
            _verdict(found, mean_rewards=0.5 + sd * rng.normal(size=n_starts), **nothing)[0]
            for _ in range(200)
        ]
        share = np.mean([level == "not identified" for level in levels])
        assert share > 0.85 if small else share < 0.05, n_starts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"false_action_rate": [0.0, 0.4]}, "false_action_rate=0.4 of signal 'share' contradicts"),
        ({"preference_rate": 0.1}, "preference_rate=0.1 contradicts the log"),
    ],
)
def test_a_rate_that_the_log_contradicts_is_in_every_verdict(params, words):
    y = pd.DataFrame(simulate(2), columns=["copy", "share"])
    assert y["share"].mean() < 0.4
    est = estimator(shared_examination=False, n_estimators=2, max_epochs=3, **params)
    report = identification_report(est, X, y, n_starts=2)
    for user in (None, np.arange(N) % 300):
        est.fit(X, y, user_id=user)
        for found in (est.identification_, report):
            assert found.level == "not identified" and found.assumptions == ()
            assert words in found.reason
            assert found.advice[0].startswith("Correct the rate")


def test_many_pairs_that_signs_allow_are_one_line(three_signals):
    pairs = [
        Association((first, second), True, 9.0, 9.0, 0.0, p, 500)
        for (first, second), p in zip(["ab", "ac", "bc", "ad"], [0.4, 0.02, 0.9, 0.7], strict=True)
    ]
    wrong = Association(("b", "d"), True, 0.0, 9.0, -4.0, 1e-5, 500)
    text = " ".join(str(replace(three_signals, associations=[*pairs, wrong])).split())
    assert text.count("sign of association") == 2
    assert "as the signals allow in 4 pairs" in text and "0.02, is that of a, c" in text
    assert "contradicts the signals" in text
    few = str(replace(three_signals, associations=pairs[:3]))
    assert few.count("as the signals allow") == 3


def test_one_refit_left_has_no_spread(one_signal):
    report = replace(one_signal, reward_spread=np.nan)
    text = " ".join(str(report).split())
    assert "reward spread cannot be measured only one refit is as likely as the best" in text


def test_one_weight_for_all_is_none(one_signal):
    report = identification_report(estimator(), X, simulate(), n_starts=6, sample_weight=2.0)
    np.testing.assert_array_equal(
        report.refits["log_likelihood"], one_signal.refits["log_likelihood"]
    )


# ---------------------------------------------------------------- signs of signals


WRONGLY_POSITIVE = ["copied", "regenerated"], ["copied", "shared", "regenerated"]


@pytest.fixture(scope="module")
def newcomer():
    """Return X, actions and texts of a log in which "regenerated" shows dislike."""
    features, actions, text, _, _ = newcomer_log(0)
    return features, actions, text


@pytest.mark.slow
@pytest.mark.parametrize(
    "columns", [["copied", "regenerated"], ["copied", "shared", "regenerated"]]
)
def test_a_negative_signal_passed_as_positive_is_reported(newcomer, columns):
    features, actions, text = newcomer
    est = ImplicitRewardEstimator(shared_examination=False, random_state=0)
    with pytest.warns(UserWarning, match="with others of its sign 0 times") as record:
        report = identification_report(est, features, actions[columns], n_starts=2, groups=text)
    assert "signal 'regenerated' of y coincides" in str([each.message for each in record])
    assert report.verdict == report.settings.level == "not identified"
    pairs = {pair.signals: pair for pair in report.associations}
    assert len(pairs) == len(columns) * (len(columns) - 1) // 2
    wrong = pairs["copied", "regenerated"]
    assert wrong.contradicts and wrong.same_sign and wrong.seen == 0 and wrong.expected > 5
    counts = f"co-occur on 0 of {wrong.n_rows} rows"
    assert f"'copied' and 'regenerated' (of the same sign) {counts}" in report.reason
    for cause in ("sign", "exclude each other", "not offered"):
        assert cause in report.reason
    singled_out = "'regenerated' disagrees with each of the others" in report.reason
    assert singled_out == (len(columns) == 3)
    assert "Check the signals named in the reason" in report.advice[0]
    text = " ".join(repr(report).split())
    assert "contradicts the signals" in text and counts in text and "fit any table" not in text


@pytest.mark.slow
def test_signals_of_the_right_signs_are_not_contradicted(newcomer):
    features, actions, text = newcomer
    columns = ["copied", "shared", "regenerated"]
    signals = dict(zip(columns, ["positive", "positive", "negative"], strict=True))
    est = ImplicitRewardEstimator(signals=signals, shared_examination=False, random_state=0)
    report = identification_report(est, features, actions[columns], n_starts=2, groups=text)
    assert not any(pair.contradicts for pair in report.associations)
    assert [pair.same_sign for pair in report.associations] == [True, False, False]
    assert "contradict" not in report.reason


def test_a_signal_of_nearly_all_rows_is_questioned_by_name(newcomer):
    features, actions, text = newcomer
    table = actions[["copied"]].assign(kept=1 - actions["regenerated"])
    est = estimator(max_epochs=5, early_stopping=False)
    with (
        pytest.warns(UserWarning, match="'copied' of y hardly ever happens without 'kept'"),
        pytest.warns(UserWarning, match="signal 'kept' of y is 1 on 8.% of the rows"),
    ):
        report = identification_report(est, features, table, n_starts=2, groups=text)
    ((name, share),) = report.frequent_signals
    assert name == "kept" and share == pytest.approx(table["kept"].mean())
    assert "inverted?  kept" in repr(report)
    assert any("Check 'kept'" in advice for advice in report.advice)


def signs(n=4000, seed=0, target=(1, 1), rate=0.3, both=None):
    """Return arguments of `association_test`: two signals, with P(both) where it is given."""
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n, 2))
    y = (rng.random((n, 2)) < rate).astype(float)
    if both is not None:
        kind = rng.choice(4, size=n, p=[both, rate - both, rate - both, 1 - 2 * rate + both])
        y = np.column_stack([kind <= 1, (kind == 0) | (kind == 2)]).astype(float)
    return {
        "counts": y,
        "covariates": covariates,
        "weight": np.ones(n),
        "clusters": None,
        "target": np.array(target),
        "column": np.arange(2),
        "names": ["a", "b"],
    }


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("both", [0.02, 0.09, 0.2])
def test_only_the_wrong_sign_counts(same, both):
    (pair,) = association_test(**signs(both=both, target=(1, 1 if same else 0)))
    assert pair.contradicts == ((both < 0.09) if same else (both > 0.09))
    assert pair.expected == pytest.approx(0.09 * 4000, rel=0.1)
    assert pair.seen == pytest.approx(both * 4000, rel=0.2)


def test_copies_of_a_group_are_no_further_evidence():
    log = signs(n=150)
    # 9 rows with both, where 13.5 are expected: chance brings that about, but not twelve times.
    log["counts"] = np.zeros((150, 2))
    log["counts"][:45, 0] = log["counts"][36:81, 1] = 1
    (once,) = association_test(**log)
    rows = np.repeat(np.arange(150), 12)
    copied = log | {name: log[name][rows] for name in ("counts", "covariates", "weight")}
    (copies,) = association_test(**copied)
    assert not once.contradicts and copies.contradicts
    (grouped,) = association_test(**copied | {"clusters": rows})
    assert not grouped.contradicts
    assert grouped.z == pytest.approx(once.z, rel=0.2)
    # Rows of weight 12 are copies too.
    (weighted,) = association_test(**log | {"weight": np.full(150, 12.0)})
    assert weighted.p_value == pytest.approx(once.p_value)


def test_a_misfit_that_marginals_share_is_no_association():
    rng = np.random.default_rng(0)
    log = signs(target=(1, 0))
    p = 1 / (1 + np.exp(1.5 - 1.5 * log["covariates"][:, :1]))
    log["counts"] = (rng.random((4000, 2)) < p).astype(float)
    assert not association_test(**log)[0].contradicts
    log["covariates"] = log["covariates"][:, 1:]
    assert association_test(**log)[0].contradicts


@pytest.mark.parametrize(("both", "found"), [(1, False), (3, False), (12, True)])
def test_a_few_co_occurrences_of_rare_signals_are_chance(both, found):
    log = signs(n=2000, rate=0.0, target=(1, 0))
    log["counts"][:30, 0] = 1
    log["counts"][30 - both : 60 - both, 1] = 1
    (pair,) = association_test(**log)
    assert pair.seen == both and pair.expected < 1
    assert pair.contradicts == found


def test_pairs_that_cannot_be_tested_are_left_out():
    log = signs()
    assert association_test(**log | {"column": np.zeros(2, dtype=int)}) == []
    assert association_test(**log | {"weight": (np.arange(4000) < 50) * 1.0}) == []
    apart = log["counts"].copy()
    apart[:2000, 0] = apart[2000:, 1] = np.nan
    assert association_test(**log | {"counts": apart}) == []


@pytest.mark.parametrize(
    ("wrong", "suspect"),
    [
        (["ab"], None),
        (["ab", "ac"], None),  # a and d agree
        (["ab", "ac", "ad"], "a"),
        (["ab", "cd"], None),
    ],
)
def test_one_signal_is_suspected_only_if_all_others_disagree(wrong, suspect):
    tested = [
        Association(tuple(pair), True, 0.0, 9.0, -4.0, 1e-4 if pair in wrong else 1.0, 500)
        for pair in ("ab", "ac", "ad", "bc", "bd", "cd")
    ]
    text = explain(tested)
    assert ("disagrees with each of the others" in text) == (suspect is not None)
    assert suspect is None or f"'{suspect}' disagrees" in text
    assert "disagrees" not in explain(tested[:1])


def null_log(seed):
    """Return X, actions, groups, signals and false-action rate that agree with each other."""
    rng = np.random.default_rng([seed, 16])
    n = int(np.exp(rng.uniform(np.log(2000), np.log(20_000))))
    d, K = (int(rng.choice(sizes)) for sizes in ([8, 16, 32, 64], [2, 3, 4]))
    n_groups = n // int(rng.choice([1, 4, 12]))
    group = rng.integers(n_groups, size=n)
    # Half of the columns are of the prompt.
    of_prompt = np.arange(d) < d // 2
    X = np.where(of_prompt, rng.normal(size=(n_groups, d))[group], rng.normal(size=(n, d)))

    def direction(scale):
        value = np.tanh(1.5 * X @ rng.normal(size=(d, 8)) / np.sqrt(d)) @ rng.normal(size=8)
        return scale * (value - value.mean()) / value.std()

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    R = sigmoid(direction(2.0) + 0.7 * rng.normal())
    preferred, shared = rng.random(n) < R, direction(1.0)
    target = rng.integers(2, size=K)
    alike = len(set(target)) == 1
    exact = (alike and rng.random() < 0.5) or rng.random() < 0.3
    e = 0.0 if exact else float(rng.choice([0.02, 0.05]))
    actions = np.empty((n, K))
    for k, c in enumerate(target):
        rate, own = np.exp(rng.uniform(np.log(0.03), np.log(0.4))), rng.uniform()
        u = own * direction(1.0) + (1 - own) * shared * 1.5
        matching = R if c else 1 - R
        low, high = -12.0, 12.0
        for _ in range(50):
            middle = (low + high) / 2
            found = (e + matching * (1 - e) * sigmoid(u + middle)).mean()
            low, high = (middle, high) if found < rate else (low, middle)
        shown = np.where(preferred == c, e + (1 - e) * sigmoid(u + middle), e)
        actions[:, k] = rng.random(n) < shown
    signals = ["positive" if c else "negative" for c in target]
    return X.astype(np.float32), actions, group, signals, e


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_false_alarms_are_rare():
    alarms = []
    for seed in range(1000, 1060):  # the rule of the test was settled on others
        features, actions, group, signals, e = null_log(seed)
        est = ImplicitRewardEstimator(
            signals=signals,
            shared_examination=False,
            false_action_rate=e,
            n_estimators=1,
            random_state=seed,
        ).fit(features, actions, groups=group)
        alarms.append("contradict" in est.identification_.reason)
    assert sum(alarms) <= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "columns", [["copied", "regenerated"], ["copied", "shared", "regenerated"]]
)
def test_the_wrong_sign_is_caught_in_every_log(columns):
    for seed in range(1000, 1020):
        features, actions, text, _, _ = newcomer_log(seed)
        est = ImplicitRewardEstimator(shared_examination=False, n_estimators=1, random_state=seed)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            est.fit(features, actions[columns], groups=text)
        assert est.identification_.level == "not identified"
        assert any("'regenerated'" in str(each.message) for each in warned)
