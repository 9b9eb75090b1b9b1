"""Comparison of groups: the one-step estimator as algebra, and what is said of a log."""

import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import FAST, make_log

from implicitrm_sk import IdentificationWarning, ImplicitRewardEstimator
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection import compare_groups, sensitivity_report
from implicitrm_sk.inspection._grouped import GroupedLog
from implicitrm_sk.inspection._groups import _one_way
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.measurement._one_step import (
    Activity,
    Patterns,
    bounds_of,
    information,
    one_step,
    reward_of,
    score,
)
from implicitrm_sk.signals import Action, Choice

pd = pytest.importorskip("pandas", reason='needs pip install "implicitrm-sk[data]"')

POSITIVE, NEGATIVE = Action(), Action(0)
THUMB = Choice({"up": 1, "down": 0}, silent="none")
#: Signals, whether looking is modelled, false-action rates.
DETERMINED = [
    ([POSITIVE, POSITIVE], False, None),
    ([POSITIVE, POSITIVE, NEGATIVE], False, None),
    ([POSITIVE, POSITIVE, NEGATIVE, NEGATIVE], True, None),
    ([POSITIVE, POSITIVE, POSITIVE], False, [0.1, 0.02, 0.0]),
    ([THUMB, POSITIVE], False, None),
]


def logits(measurement, n=6, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.normal(-1, 1, size=(n, measurement.n_outputs + measurement.examined))
    return torch.as_tensor(rng.normal(size=n)), torch.as_tensor(u)


def all_logged(measurement):
    return Patterns(np.ones((1, len(measurement.signals)), dtype=bool), np.ones(1))


def expectation(measurement, at, truth, patterns, ends=reward_of, rates=None):
    """Return the mean of the one-step estimates at some logits over outcomes of true ones."""
    total = 0.0
    for y, share in patterns.outcomes(measurement.signals):
        y = torch.as_tensor(y).expand(len(at[0]), -1)
        log_prob, _ = score(measurement, *truth, y, rates)
        found, singular = one_step(measurement, ends, *at, patterns, y, rates, None)
        assert not singular.any()
        total = total + share * log_prob.exp()[:, None].numpy() * found
    return total


@pytest.mark.parametrize(("signals", "examined", "rates"), DETERMINED)
def test_score_has_mean_zero_and_information_its_variance(signals, examined, rates):
    measurement = Measurement(signals, examined)
    rates = None if rates is None else torch.tensor(rates, dtype=torch.float64)
    at, patterns = logits(measurement), all_logged(measurement)
    mean, second, total = 0.0, 0.0, 0.0
    for y, _ in patterns.outcomes(measurement.signals):
        log_prob, s = score(measurement, *at, torch.as_tensor(y).expand(6, -1), rates)
        p = log_prob.exp()[:, None]
        mean, total = mean + p * s, total + p[:, 0]
        second = second + (p * s)[:, :, None] * s[:, None, :]
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(mean, 0, atol=1e-14)
    np.testing.assert_allclose(information(measurement, *at, patterns, rates), second)


@pytest.mark.parametrize(("signals", "examined", "rates"), DETERMINED)
def test_one_step_is_free_of_the_error_of_the_fit_to_first_order(signals, examined, rates):
    measurement = Measurement(signals, examined)
    rates = None if rates is None else torch.tensor(rates, dtype=torch.float64)
    truth, patterns = logits(measurement), all_logged(measurement)
    R = torch.sigmoid(truth[0]).numpy()
    step = logits(measurement, seed=1)
    errors = []
    for size in (0.0, 0.01, 0.02):
        at = [x + size * d for x, d in zip(truth, step, strict=True)]
        mean = expectation(measurement, at, truth, patterns, rates=rates)[:, 0]
        errors.append(np.abs(mean - R).max())
    assert errors[0] < 1e-12
    plain = np.abs(torch.sigmoid(truth[0] + 0.01 * step[0]).numpy() - R).max()
    assert errors[1] < 0.5 * plain
    assert errors[2] == pytest.approx(4 * errors[1], rel=0.15)  # of second order


def test_two_positive_actions_are_capture_and_recapture():
    """The influence function of Das, Kennedy & Jewell (2023) for R = q1 q2 / q12."""
    measurement = Measurement([POSITIVE, POSITIVE])
    f, u = logits(measurement)
    R, A = torch.sigmoid(f).numpy(), torch.sigmoid(u).numpy()
    q1, q2, q12 = R * A[:, 0], R * A[:, 1], R * A[:, 0] * A[:, 1]
    for y in ([1, 1], [1, 0], [0, 1], [0, 0]):
        expected = R * (1 + (y[0] - q1) / q1 + (y[1] - q2) / q2 - (y[0] * y[1] - q12) / q12)
        actions = torch.tensor([y], dtype=torch.float64).expand(6, -1)
        found, _ = one_step(
            measurement, reward_of, f, u, all_logged(measurement), actions, None, None
        )
        np.testing.assert_allclose(found[:, 0], expected, atol=1e-10)


def test_a_ridge_shortens_the_steps_of_rows_with_little_information():
    """In the first row users act on what they prefer hardly more often than by mistake."""
    measurement, rates = Measurement([POSITIVE, POSITIVE]), torch.tensor([0.05, 0.05]).double()
    f, u = torch.zeros(2).double(), torch.tensor([[-4.0, -4.0], [1.0, 1.0]]).double()
    patterns, both = all_logged(measurement), torch.ones(2, 2).double()
    without, short = (
        one_step(measurement, reward_of, f, u, patterns, both, rates, None, ridge=ridge)[0][:, 0]
        for ridge in (0.0, 0.03)
    )
    little, much = (short - 0.5) / (without - 0.5)
    assert abs(without[0] - 0.5) > 3 and little < 0.1
    assert much == pytest.approx(1, abs=0.05)


def test_what_is_not_logged_lowers_the_information():
    """Rows with both signals weigh more where there are few of them; the mean stays right."""
    measurement = Measurement([POSITIVE, POSITIVE])
    truth = logits(measurement)
    patterns = Patterns(np.array([[True, True], [True, False]]), np.array([0.3, 0.7]))
    mean = expectation(measurement, truth, truth, patterns)
    np.testing.assert_allclose(mean[:, 0], torch.sigmoid(truth[0]))


def test_bounds_by_one_step():
    """[c, c / (c + n)] of two positive and one negative action, the error of second order."""
    measurement = Measurement([POSITIVE, POSITIVE, NEGATIVE])
    truth, patterns = logits(measurement), all_logged(measurement)
    R, D = torch.sigmoid(truth[0]).numpy(), torch.sigmoid(truth[1][:, 2]).numpy()
    at = [x + 0.01 for x in truth]
    mean = expectation(measurement, at, truth, patterns, bounds_of((1,)))
    np.testing.assert_allclose(mean[:, 0], R, atol=1e-3)
    np.testing.assert_allclose(mean[:, 1], R / (R + (1 - R) * D), atol=1e-3)


@pytest.mark.parametrize(
    "signals", [[POSITIVE], [NEGATIVE], [POSITIVE, NEGATIVE], [THUMB]], ids=str
)
def test_information_is_singular_where_the_reward_is_not_determined(signals):
    measurement = Measurement(signals)
    f, u = logits(measurement)
    y = torch.zeros(6, len(signals), dtype=torch.float64)
    _, singular = one_step(measurement, reward_of, f, u, all_logged(measurement), y, None, None)
    assert singular.all()


def test_labels_make_it_regular():
    """A tenth of the rows is labelled: one positive action is then enough."""
    measurement = Measurement([POSITIVE])
    f, u = logits(measurement)
    patterns = Patterns(np.ones((1, 1), dtype=bool), np.ones(1), (0.1, 0.1))
    total = 0.0
    for outcome, _ in patterns.outcomes(measurement.signals):
        y = torch.as_tensor(outcome).expand(6, -1)
        for label, share in ((np.nan, 0.9), (0.0, 0.1), (1.0, 0.1)):
            labels = torch.full((6,), label, dtype=torch.float64)
            log_prob, _ = score(measurement, f, u, y, None, labels)
            found, singular = one_step(measurement, reward_of, f, u, patterns, y, None, labels)
            assert not singular.any()
            total = total + share * log_prob.exp().numpy() * found[:, 0]
    np.testing.assert_allclose(total, torch.sigmoid(f))


def test_rows_of_a_cluster_count_once():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 50))
    alone, n = _one_way(values, np.arange(50))
    twice, n_twice = _one_way(np.repeat(values, 2, axis=1) / 2, np.arange(50).repeat(2))
    np.testing.assert_allclose(alone, twice)
    assert n == n_twice == 50
    np.testing.assert_allclose(alone, values @ values.T * 50 / 49)


# ---------------------------------------------------------------------- logs


def estimator(**params):
    settings = {"learning_rate_init": 0.02, "n_estimators": 1, "hidden_layer_sizes": (8,)}
    return ImplicitRewardEstimator(**settings | {"random_state": 0} | params)


@pytest.fixture(scope="module")
def log():
    """Users like the second model better by 0.15, but act on the responses of the first."""
    rng = np.random.default_rng(0)
    n = 2400
    X, new = rng.normal(size=(n, 3)), np.arange(n) % 2
    R = np.clip(1 / (1 + np.exp(-2 * X[:, 0])) * 0.8 + 0.15 * new, 0, 1)
    signals = {"copied": "positive", "shared": "positive", "regenerated": "negative"}
    ready = np.where(new[:, None] == 1, [0.35, 0.3, 0.8], [0.7, 0.65, 0.35])
    found = simulate_feedback(R, signals=signals, propensity=ready, random_state=0)
    return {
        "X": X,
        "y": found.actions,
        "signals": signals,
        "by": pd.Series(np.where(new, "new", "old"), name="model"),
        "truth": R[new == 1].mean() - R[new == 0].mean(),
        "reward": R,
    }


def compared(log, columns, **params):
    fitted = {k: v for k, v in params.items() if k in ImplicitRewardEstimator().get_params()}
    est = estimator(signals={name: log["signals"][name] for name in columns}, **fitted)
    further = {"reference": "old", "n_folds": 3} | {
        k: v for k, v in params.items() if k not in fitted
    }
    return compare_groups(est, log["X"], log["y"][columns], log["by"], **further)


@pytest.fixture(scope="module")
def comparison(log):
    return compared(log, ["copied", "shared", "regenerated"], shared_examination=False)


def test_interval_holds_the_truth_where_rates_point_the_other_way(log, comparison):
    assert comparison.estimated and comparison.identification.level == "identified"
    low, high = comparison.difference_interval[0]
    assert 0 < low < log["truth"] < high < 0.4
    for g, model in enumerate(("new", "old")):
        mean = log["reward"][log["by"] == model].mean()
        assert comparison.reward_interval[g, 0] < mean < comparison.reward_interval[g, 1]
    text = str(comparison)
    assert "Users prefer the responses of new to those of old" in text
    assert "points the other way" in " ".join(text.split())
    assert "copied" in text.rpartition("raw rate of")[2]


def test_frame_of_a_comparison(comparison):
    frame = comparison.to_frame()
    assert list(frame) == [
        "n_rows", "rate_copied", "rate_shared", "rate_regenerated",
        "reward", "reward_low", "reward_high",
        "difference", "difference_low", "difference_high",
    ]  # fmt: skip
    assert frame.index.name == "model" and frame.index.tolist() == ["new", "old"]
    assert frame["n_rows"].tolist() == [1200, 1200]
    assert frame.loc["old", ["difference", "difference_low", "difference_high"]].tolist() == [0] * 3
    assert (frame["rate_copied"]["new"], frame["rate_copied"]["old"]) == tuple(
        comparison.rates["copied"]
    )


def test_plot_shows_rates_beside_rewards(comparison):
    left, right = comparison.plot()
    assert right.get_title() == "Mean reward"
    assert [text.get_text() for text in left.get_legend().get_texts()][
        2
    ] == "regenerated (negative)"
    np.testing.assert_allclose(left.lines[0].get_xdata(), comparison.rates["copied"])
    plt.close("all")


def test_one_of_each_is_bounded_by_the_shares(log):
    found = compared(log, ["copied", "regenerated"])
    assert not found.estimated and found.verdict == "bounded"
    y = log["y"].groupby(log["by"].to_numpy()).mean()
    z, n = 1.6449, 1200
    for g, model in enumerate(("new", "old")):
        p, q = y.loc[model, ["copied", "regenerated"]]
        low = p - z * np.sqrt(p * (1 - p) / n)
        high = 1 - q + z * np.sqrt(q * (1 - q) / n)
        np.testing.assert_allclose(found.reward_interval[g], [low, high], atol=1e-3)
    low, high = found.difference_interval[0]
    assert low < log["truth"] < high
    assert np.isnan(found.difference[0]) and found.difference[1] == 0
    assert "the log does not say which is better" in " ".join(str(found).split())
    assert "Next: " in str(found)
    assert found.plot()[1].get_title() == "Bounds of the mean reward"
    plt.close("all")


def test_one_action_is_not_identified(log):
    found = compared(log, ["copied"])
    assert found.identification.level == "not identified" and not found.estimated
    np.testing.assert_allclose(found.reward_interval[:, 1], 1)
    assert found.difference_interval[0, 0] < log["truth"] < found.difference_interval[0, 1]


@pytest.mark.slow
def test_unstated_attention_gives_bounds_that_use_independence(log):
    found = compared(log, ["copied", "shared", "regenerated"])
    stated = compared(log, ["copied", "shared", "regenerated"], shared_examination=False)
    assert found.identification.level == "bounded" and not found.estimated
    # The lower end is what the model with every row looked at estimates.
    np.testing.assert_allclose(found.reward_interval[:, 0], stated.reward_interval[:, 0], atol=1e-6)
    shares = compared(log, ["copied", "regenerated"])
    assert (np.ptp(found.reward_interval, axis=1) < np.ptp(shares.reward_interval, axis=1)).all()


@pytest.mark.slow
def test_false_action_rates_loosen_the_bounds(log):
    plain = compared(log, ["copied", "regenerated"])
    rated = compared(log, ["copied", "regenerated"], false_action_rate=[0.1, 0.05])
    assert (rated.reward_interval[:, 0] < plain.reward_interval[:, 0]).all()
    p = log["y"]["copied"][log["by"] == "old"].mean()
    expected = (p - 0.1) / 0.9
    assert rated.reward_interval[1, 0] == pytest.approx(expected, abs=0.04)


def test_signs_that_are_contradicted_say_nothing(log):
    est = estimator(signals=["positive", "positive"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = compare_groups(est, log["X"], log["y"][["copied", "regenerated"]], log["by"])
    assert found.identification.level == "not identified"
    np.testing.assert_allclose(found.reward_interval, [[0, 1], [0, 1]])
    other = found.groups != found.reference
    np.testing.assert_allclose(found.difference_interval[other], [[-1, 1]])


def test_labels_determine_what_one_action_leaves_open(log):
    rng = np.random.default_rng(1)
    preferred = rng.random(2400) < log["reward"]
    y = (preferred & (rng.random(2400) < 0.5)).astype(float)
    labels = np.where(rng.random(2400) < 0.3, preferred, np.nan)
    found = compare_groups(estimator(), log["X"], y, log["by"], labels=labels, reference="old")
    assert found.estimated
    assert found.difference_interval[0, 0] < log["truth"] < found.difference_interval[0, 1]


def test_same_prompts(log):
    """A prompt of only one group is left out, and each prompt counts once."""
    prompt = np.arange(2400) // 2
    prompt[:2] = [5000, 5001]
    found = compared(
        log, ["copied", "regenerated"], groups=prompt, same_prompts=True, max_epochs=2,
        early_stopping=False,
    )  # fmt: skip
    assert found.same_prompts and found.n_rows.tolist() == [1199, 1199]
    assert found.n_clusters == 1199
    with pytest.raises(ValueError, match="Pass it as groups="):
        compared(log, ["copied", "regenerated"], same_prompts=True)
    with pytest.raises(ValueError, match="0 prompts of groups have rows in every group"):
        compared(log, ["copied", "regenerated"], same_prompts=True, groups=np.arange(2400))


def test_users_and_prompts_are_clusters(log):
    user, quick = np.arange(2400) // 40, {"max_epochs": 2, "early_stopping": False}
    rows = compared(log, ["copied", "regenerated"], **quick)
    users = compared(log, ["copied", "regenerated"], user_id=user, **quick)
    both = compared(log, ["copied", "regenerated"], user_id=user, groups=np.arange(2400), **quick)
    assert (rows.n_clusters, users.n_clusters, both.n_clusters) == (2400, 60, 60)
    np.testing.assert_allclose(both.reward_interval, users.reward_interval)
    assert not np.allclose(rows.reward_interval, users.reward_interval)


def test_one_step_with_users_who_differ():
    """Given what is known of a user, the error of the fit is of second order too."""
    measurement = Measurement([POSITIVE, POSITIVE])
    truth, step = logits(measurement), logits(measurement, seed=1)
    R, nodes = torch.sigmoid(truth[0]).numpy(), torch.tensor([-1.5, 0.0, 1.5]).double()
    weight = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    activity = Activity(
        nodes[:, None, None] * torch.ones(3, 6, 2).double(),
        weight.log()[:, None].repeat(1, 6),
        weight[None],
    )
    patterns, errors = all_logged(measurement), []
    for size in (0.0, 0.01, 0.02):
        at = [x + size * d for x, d in zip(truth, step, strict=True)]
        mean = 0.0
        for y, _ in patterns.outcomes(measurement.signals):
            y = torch.as_tensor(y).expand(6, -1)
            log_prob, _ = score(measurement, *truth, y, activity=activity)
            found, singular = one_step(
                measurement, reward_of, *at, patterns, y, None, None, activity
            )
            assert not singular.any()
            mean = mean + log_prob.exp().numpy() * found[:, 0]
        errors.append(np.abs(mean - R).max())
    assert errors[0] < 1e-12
    assert errors[2] == pytest.approx(4 * errors[1], rel=0.15)


def test_users_who_differ_determine_what_one_action_does_not():
    """The information is a mean over users: of one user alone it is singular."""
    measurement, nodes = Measurement([POSITIVE]), torch.tensor([-2.0, 2.0]).double()
    f, u = logits(measurement)
    shift = nodes[:, None, None] * torch.ones(2, 6, 1).double()
    log_weight = torch.full((2, 6), np.log(0.5)).double()
    y = torch.ones(6, 1).double()
    for sample, regular in (([[1.0, 0.0]], False), ([[1.0, 0.0], [0.0, 1.0]], True)):
        activity = Activity(shift, log_weight, torch.tensor(sample).double())
        _, singular = one_step(
            measurement, reward_of, f, u, all_logged(measurement), y, None, None, activity
        )
        assert (singular != regular).all()


def test_users_who_differ_are_told_apart():
    """Signals depend on each other where users differ; given the rest of the user they do not."""
    rng = np.random.default_rng(0)
    X, user, by = rng.normal(size=(2400, 2)), np.arange(2400) % 200, rng.integers(2, size=2400)
    R = 1 / (1 + np.exp(-1.5 * X[:, 0] - 0.7 * by))
    found = simulate_feedback(
        R,
        signals=["positive", "positive", "negative"],
        user_id=user,
        user_activity=2.0,
        propensity="constant",
        random_state=0,
    )
    est = estimator(signals=["positive", "positive", "negative"], shared_examination=False)
    result = compare_groups(est, X, found.actions, by, user_id=user, n_folds=2)
    assert result.estimated and result.n_clusters == 200
    for g in (0, 1):
        low, high = result.reward_interval[g]
        assert low < R[by == g].mean() < high < low + 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": np.zeros(2400)}, "by has only one group, 0.0; expected at least two"),
        ({"by": np.arange(2400) < 19}, "group True of by has 19 rows"),
        ({"by": ["a"] * 2399 + [None]}, "by is missing in 1 rows; the first is row 2399"),
        ({"by": np.zeros((2400, 2))}, r"by has shape \(2400, 2\); expected one group per row"),
        (
            {"reference": "newest"},
            "reference='newest' is not a group of by \\('model'\\), which has 'new', 'old'",
        ),
        ({"sample_weight": np.zeros(2400)}, "sample_weight"),
        ({"confidence": 90}, r"confidence must lie in \(0, 1\), got 90"),
        ({"n_folds": 1}, "n_folds must be an integer of at least 2, got 1"),
        ({"groups": np.arange(2400) % 3}, "the rows belong to 3 prompts or users; .* at least 5"),
        (
            {"est": estimator(objective="naive")},
            "needs the likelihood of every signal, which Naive",
        ),
        ({"est": estimator(false_action_rate="estimate")}, "needs false-action rates as numbers"),
    ],
)
def test_bad_input(log, change, message):
    arguments = {
        "est": estimator(),
        "X": log["X"],
        "y": log["y"][["copied", "shared"]],
        "by": log["by"],
    }
    with pytest.raises(ValueError, match=message):
        compare_groups(**arguments | change)


def test_est_must_be_the_estimator(log):
    with pytest.raises(TypeError, match="est must be an ImplicitRewardEstimator, got str"):
        compare_groups("est", log["X"], log["y"], log["by"])


def a_widget_beside_an_action(**params):
    """Return a quick estimator and arguments of a log of thumbs and an action with a long name."""
    rng = np.random.default_rng(0)
    name, n = "copied to the clipboard of a colleague", 600
    X, by = rng.normal(size=(n, 2)), pd.Series(np.arange(n) % 2, name="model")
    by = by.map({0: "old", 1: "the model with a name that is as long as a sentence"})
    liked, pressed = rng.random(n) < 0.5, rng.random(n) < 0.4
    thumb = np.where(pressed, np.where(liked, "up", "down"), "none")
    copied = np.where(np.arange(n) < 100, liked & (rng.random(n) < 0.5), np.nan)
    y = pd.DataFrame({"thumb": thumb, name: copied})
    signals = {"thumb": Choice({"up": 1, "down": 0}, silent="none"), name: "positive"}
    quick = {"max_epochs": 2, "early_stopping": False, "shared_examination": False}
    return estimator(signals=signals, **quick | params), X, y, by


def test_the_text_has_all_names_in_full_and_explains_the_rates():
    est, X, y, by = a_widget_beside_an_action()
    found = compare_groups(est, X, y, by, n_folds=2)
    text = str(found)
    for name in (*found.rates, *found.groups):
        assert name in text
    assert max(map(len, text.splitlines())) <= 100
    said = " ".join(text.split())
    assert "Raw rates: the share of the rows with a logged signal" in said
    assert "thumb_positive and thumb_negative are the outcomes of thumb that show" in said
    assert found.widgets == ("thumb",)
    for name, rate in found.rates.items():
        assert all(f"{value:.1%}" in text for value in rate), name
    frame = found.to_frame()
    assert [c for c in frame if c.startswith("rate_")] == [f"rate_{name}" for name in found.rates]


def test_a_widget_counts_as_one_signal():
    """600 rows have thumbs, but only 100 of them another signal beside."""
    est, X, y, by = a_widget_beside_an_action()
    found = compare_groups(est, X, y, by, n_folds=2)
    assert "100 responses have several logged signals" in found.reason
    est.set_params(signals={"thumb": est.signals["thumb"]})
    alone = compare_groups(est, X, y[["thumb"]], by, n_folds=2)
    assert "600 responses were offered a widget that shows both preferences" in alone.reason
    assert "outcome" in alone.reason and "signals of both" not in alone.reason


def test_counts_in_the_reason_are_of_the_whole_log():
    """Not of the half to which each fit is made; counts of a test say that they are."""
    est, X, y, by = a_widget_beside_an_action()
    work = GroupedLog("compare_groups", est, X, y, by, user_id=np.arange(600) % 30, n_folds=2)
    of_parts = replace(work.est.identification_, reason="50 responses have several.")
    found = work.agreed([of_parts] * 2, np.array([1.0, 1.0, 1.0]))
    assert found.reason.startswith("100 responses have several logged signals; 30 users of 20 rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = np.random.default_rng(0).integers(2, size=600)  # exclusive: never both
        y = np.stack([first, 1 - first], axis=1)
        est.set_params(signals=None, max_epochs=10)
        against = compare_groups(est, X, y, by, n_folds=2)
    assert against.identification.level == "not identified"
    said = " But in a fit to 1 of 2 parts of the log: the signals contradict their signs: "
    assert said in against.reason
    assert "rows that were tested" in against.reason


def test_progress_is_printed_on_demand(capsys):
    rng = np.random.default_rng(0)
    X, by = rng.normal(size=(200, 2)), np.arange(200) % 2
    y = ((X[:, :1] > 0) & (rng.random((200, 2)) < 0.5)).astype(int)
    settings = {"max_epochs": 2, "early_stopping": False, "shared_examination": False}
    for verbose in (0, 1):
        compare_groups(estimator(verbose=verbose, **settings), X, y, by, n_folds=2)
        lines = capsys.readouterr().out.splitlines()
        assert [one for one in lines if "compare_groups" in one] == (
            ["[compare_groups] fit 1 of 2", "[compare_groups] fit 2 of 2"] if verbose else []
        )


def test_identification_is_not_warned_of_but_said(log):
    with warnings.catch_warnings():
        warnings.simplefilter("error", IdentificationWarning)
        found = compared(log, ["copied"], max_epochs=2, early_stopping=False)
    assert "not identified" in str(found)


@pytest.mark.parametrize("code", [[0, 1], ["yes", "no"], [5, 2]])
def test_groups_of_what_users_did_are_refused(code):
    X, y, _ = make_log(200, n_signals=2)
    by = np.array(code)[y[:, 1]]
    message = "by has the groups of column 1 of y in every row; expected groups of responses"
    for function in (compare_groups, sensitivity_report):
        with pytest.raises(ValueError, match=message):
            function(ImplicitRewardEstimator(**FAST), X, y, by)
    with pytest.raises(ValueError, match=r"by \('did'\) has the groups of column 'b' of y"):
        compare_groups(
            ImplicitRewardEstimator(**FAST),
            X,
            pd.DataFrame(y, columns=["a", "b"]),
            pd.Series(by, name="did"),
        )


def test_groups_are_few():
    X, y, _ = make_log(200, n_signals=2)
    with pytest.raises(ValueError, match=r"by has 200 different values in 200 rows; expected"):
        compare_groups(ImplicitRewardEstimator(**FAST), X, y, X[:, 0])
