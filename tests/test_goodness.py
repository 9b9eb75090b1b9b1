"""A log that does not look as its fit says: users, counts, known propensities, parts of a log."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom

from implicitrm_sk import (
    ImplicitRewardEstimator,
    _false_actions,
    _independence,
    identification_report,
)
from implicitrm_sk._false_actions import rates_against
from implicitrm_sk._goodness import _distribution, _moved, counts_against
from implicitrm_sk._independence import dependence_against
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk._score_test import Rows, score_tests
from implicitrm_sk.inspection import compare_groups
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.signals import Action

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::implicitrm_sk.IdentificationWarning"),
    pytest.mark.filterwarnings("ignore:.*If the signal was not offered"),
    pytest.mark.filterwarnings("ignore:all .* labels of responses without an action are"),
]
SMALL = {
    "hidden_layer_sizes": (8,),
    "n_estimators": 2,
    "learning_rate_init": 0.01,
    "random_state": 0,
}


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def draw(n, seed=0):
    """Return a generator, X and preferences of a third of the rows or so."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return rng, X, rng.random(n) < sigmoid(2 * X[:, 0] - 0.6)


def acts(rng, preferred, logit):
    return (preferred & (rng.random(len(preferred)) < sigmoid(logit))).astype(float)


def of_users(bots, seed=0, n=3000, n_users=150):
    """Return a log of two actions in which some of the users act on everything."""
    rng, X, preferred = draw(n, seed)
    user = rng.integers(n_users, size=n)
    activity = 1.6 * rng.normal(size=n_users)[user]
    y = np.column_stack([acts(rng, preferred, shift + activity) for shift in (-0.5, -1.0)])
    y[user < bots] = 1.0
    return X, y, {"user_id": user}


def of_exposures(kind, seed=0, n=1200):
    """Return a log of three rows of a response; `kind` says how these were joined, or None."""
    rng, X, preferred = draw(n, seed)
    logit = 0.3 + X[:, 1] - 0.6
    y = np.stack([acts(rng, preferred, logit) for _ in range(3)])
    if kind == "one action at most":
        y[1] *= y[0] == 0
        y[2] *= (y[0] == 0) & (y[1] == 0)
    if kind == "doubled":
        y = np.concatenate([y[:2], y[:2]])
    if kind == "copies":
        y = y[[0, 0]]
    ids = np.tile(np.arange(n), len(y))
    return X[ids], y.ravel(), {"response_id": ids}


def fitted(X, y, side, **params):
    return ImplicitRewardEstimator(**SMALL | params).fit(X, y, **side)


@pytest.mark.parametrize(("bots", "level"), [(0, "identified"), (9, "not identified")])
def test_users_who_act_on_everything_are_noticed(bots, level):
    X, y, side = of_users(bots)
    est = fitted(X, y, side, shared_examination=False)
    found = est.identification_
    assert found.level == level
    assert (f"{bots} users act on all of their rows" in found.against) == bool(bots)
    assert ("most active users" in found.advice[0]) == bool(bots)
    if bots:
        report = identification_report(est, X, y, n_starts=2, **side)
        assert report.level == level
        assert found.against in report.reason


def test_bounds_do_not_hold_either_with_users_who_act_on_everything():
    for bots, level in ((0, "bounded"), (9, "not identified")):
        X, y, side = of_users(bots)
        found = fitted(X, y, side).identification_
        assert found.level == level
        assert ("act on all of their rows" in found.against) == bool(bots)


def test_users_who_mostly_act_on_everything_are_noticed():
    rng, X, preferred = draw(5000)
    user = rng.integers(200, size=5000)
    activity = 0.7 * rng.normal(size=200)[user]
    y = np.column_stack([acts(rng, preferred, shift + activity) for shift in (-0.5, -1.0)])
    y = np.where((user < 14)[:, None], rng.random((5000, 2)) < 0.8, y).astype(float)
    found = fitted(X, y, {"user_id": user}, shared_examination=False).identification_
    assert found.level == "not identified"
    assert "activity of users does not follow" in found.against


@pytest.mark.parametrize("seed", range(6))
def test_activity_of_other_spreads_is_not_contradicted(seed):
    rng, X, preferred = draw(2000, seed)
    user = rng.integers(100, size=2000)
    activity = (0.8 + 0.5 * seed) * rng.normal(size=100)[user]
    y = np.column_stack([acts(rng, preferred, activity) for _ in range(2)])
    found = fitted(X, y, {"user_id": user}, shared_examination=False).identification_
    assert "users" not in found.against


@pytest.mark.parametrize("kind", [None, "one action at most", "doubled", "copies"])
def test_counts_that_are_not_of_independent_exposures_are_noticed(kind):
    X, y, side = of_exposures(kind)
    found = fitted(X, y, side, false_action_rate=0.0).identification_
    assert found.level == ("identified" if kind is None else "not identified")
    if kind is not None:
        assert found.advice[0].startswith("Check how exposures were counted")
        assert ("agree in 100.0%" if kind == "copies" else "the fit expects") in found.against


def test_a_report_of_settings_that_were_not_fitted_says_no_more_than_fit():
    X, y, side = of_exposures("doubled")
    settings = ImplicitRewardEstimator(**SMALL, false_action_rate=0.0)
    report = identification_report(settings, X, y, n_starts=2, **side)
    assert report.level == "not identified" and "the fit expects" in report.reason
    assert report.advice[0].startswith("Check how exposures were counted")
    assert not hasattr(settings, "identification_")


@pytest.mark.parametrize("kind", [None, "one action at most"])
def test_counted_exposures_are_judged_like_rows(kind):
    X, y, side = of_exposures(kind)
    ids = side["response_id"]
    counts = np.bincount(ids, y)
    found = fitted(
        X[: len(counts)], counts, {"exposures": np.full(len(counts), 3)}, false_action_rate=0.0
    ).identification_
    assert found.level == ("identified" if kind is None else "not identified")


def test_sums_of_exposures_have_the_distribution_of_their_number():
    of = np.repeat(np.arange(3), [2, 4, 1])
    mass = _distribution(of, np.array([0.2, 0.9, *[0.3] * 4, 0.5]), 3)
    np.testing.assert_allclose(mass[0], [0.08, 0.74, 0.18, 0, 0])
    np.testing.assert_allclose(mass[1], binom.pmf(np.arange(5), 4, 0.3))
    np.testing.assert_allclose(mass[2], [0.5, 0.5, 0, 0, 0])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_counts_are_those_of_what_was_logged_and_counts(weight):
    n, times = 900, 3
    rng = np.random.default_rng(0)
    response, first = np.repeat(np.arange(n), times), np.arange(0, n * times, times)
    f = rng.normal(size=n)
    y = acts(rng, (rng.random(n) < sigmoid(f))[response], 0.0)[:, None]
    y[response < 300] = y[first[:300]].repeat(times, axis=0)  # one exposure, logged three times
    y[1800::2] = np.nan
    sample_weight = np.ones(n)
    sample_weight[:300] = weight
    log = FeedbackLog(y, sample_weight, response=response, first=first, signals=(Action(),))
    found = counts_against(log, f, np.zeros((n * times, 1)), np.zeros(1))
    assert (found is None) == (weight == 0)


def test_counts_of_few_responses_are_not_contradicted_by_chance():
    n, times = 200, 8
    response, first = np.repeat(np.arange(n), times), np.arange(0, n * times, times)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        f = rng.normal(size=n)
        y = acts(rng, (rng.random(n) < sigmoid(f))[response], 0.0)[:, None]
        log = FeedbackLog(y, np.ones(n), response=response, first=first, signals=(Action(),))
        assert counts_against(log, f, np.zeros((n * times, 1)), np.zeros(1)) is None


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_fit_moves_to_the_counts_with_false_actions(rate):
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(3000), 3)
    f, u = rng.normal(size=3000), rng.normal(size=9000)
    preferred = (rng.random(3000) < sigmoid(f))[of]
    true = rate + (1 - rate) * sigmoid(u)
    acted = (rng.random(9000) < np.where(preferred, true, rate)).astype(float)
    # A fit with another level, slope and rate, as early stopping may leave it.
    given = (0.5 * f + 1, u - 0.5, rate / 2, acted, np.ones(9000), of, np.ones(3000))
    R, p, e = _moved(*given)
    assert e == pytest.approx(rate, abs=0.02) and (rate > 0 or e == 0)
    assert np.abs(R - sigmoid(f)).max() < 0.05
    assert np.abs(p - true).max() < 0.06


@pytest.mark.parametrize(("true", "level"), [(0.25, "identified"), (0.6, "not identified")])
def test_known_propensities_that_the_actions_contradict(true, level):
    rng, X, preferred = draw(3000)
    known = rng.random(3000) < 0.25
    ready = np.where(known, true, sigmoid(X[:, 1] - 0.5))
    y = (preferred & (rng.random(3000) < ready)).astype(float)
    side = {"propensity": np.where(known, 0.25, np.nan)}
    found = fitted(X, y, side).identification_
    assert found.level == level
    assert ("known propensities contradict" in found.against) == (true != 0.25)


@pytest.mark.parametrize("columns", [2, 3])
def test_a_signal_that_was_not_offered_everywhere_is_noticed(columns):
    rng, X, preferred = draw(2000)
    X[:, 3] = rng.integers(3, size=2000)
    names = ["copy", "share", "save"][:columns]
    y = pd.DataFrame({name: acts(rng, preferred, 0 * X[:, 1]) for name in names})
    model = pd.Series(np.where(rng.random(2000) < 0.5, "A", "B"), name="model")
    side = {"shared_examination": False}
    assert fitted(X, y, {}, **side).identification_.level == "identified"
    y.loc[X[:, 3] == 1, "share"] = 0.0
    with pytest.warns(UserWarning, match=r"'share' occurs in 0 of the \d+ rows in which column 3"):
        est = fitted(X, y, {}, **side)
    # Two other signals determine the reward there.
    level = "identified" if columns == 3 else "not identified"
    assert est.identification_.level == level
    comparison = compare_groups(est, X, y, model, n_folds=2)
    assert comparison.identification.level == level
    y.loc[X[:, 3] == 1, "share"] = np.nan
    est = fitted(X, y, {}, **side)
    assert est.identification_.level == "identified"


@pytest.mark.parametrize(("labels", "counted"), [("both", True), (0.0, False), (1.0, False)])
def test_labels_of_one_class_are_not_counted(labels, counted):
    rng, X, preferred = draw(1500)
    y = acts(rng, preferred, X[:, 1])
    asked = rng.random(1500) < 0.15
    if labels != "both":
        asked &= preferred == labels
    found = fitted(X, y, {"labels": np.where(asked, preferred, np.nan)}).identification_
    assert (found.level == "identified") == counted
    assert ("labels of one class say nothing of the other" in found.reason) != counted


def test_copies_of_rows_do_not_make_a_log_larger():
    rng, X, preferred = draw(400)
    y = np.column_stack([acts(rng, preferred, np.full(400, -1.8)) for _ in range(2)])
    for copies in (1, 10):
        est = fitted(np.tile(X, (copies, 1)), np.tile(y, (copies, 1)), {}, shared_examination=False)
        assert est.identification_.level == "not identified"
        assert "too small" in est.identification_.against


def test_rows_of_a_group_are_not_independent():
    rng, X, preferred = draw(2000)
    y = np.column_stack([acts(rng, preferred, np.full(2000, -0.5)) for _ in range(2)])
    order = np.argsort(X[:, 0])  # the groups are unlike each other
    for groups, level in ((None, "identified"), (np.repeat(np.arange(8), 250), "not identified")):
        est = fitted(X[order], y[order], {"groups": groups}, shared_examination=False)
        assert est.identification_.level == level
        assert ("too small" in est.identification_.against) == (groups is not None)


def of_three_signals(kind, seed=0, n=4000, target=(1, 1, 1)):
    """Return a log of three actions; `kind` says what the third does, or what is behind all."""
    rng, X, preferred = draw(n, seed)
    more = 2.0 * rng.normal(size=n) if kind == "enthusiasm" else np.zeros(n)
    shown = [preferred if c else ~preferred for c in target]
    y = np.column_stack([acts(rng, c, 0.4 * X[:, j] - 0.3 + more) for j, c in enumerate(shown)])
    if kind == "by itself":
        y[:, 2] = np.maximum(y[:, 2], rng.random(n) < 0.2)
    if kind == "misclicks":
        y = np.maximum(y, rng.random((n, 3)) < 0.03)
    return X, y


@pytest.mark.parametrize(
    ("kind", "target", "stated", "words"),
    [
        ("nothing", (1, 1, 1), 0.0, None),
        ("misclicks", (1, 1, 1), 0.03, None),
        ("misclicks", (1, 1, 0), 0.03, None),
        ("by itself", (1, 1, 1), 0.0, "of signal '2' contradicts the log: a larger one"),
        ("by itself", (1, 1, 0), 0.02, "of signal '2' contradicts the log: a larger one"),
        ("nothing", (1, 1, 1), 0.08, "contradicts the log: a smaller one"),
        ("enthusiasm", (1, 1, 1), 0.0, "do not fire independently given preference"),
    ],
)
def test_three_signals_show_a_wrong_false_action_rate_and_a_cause_behind_them(
    kind, target, stated, words
):
    X, y = of_three_signals(kind, target=target)
    params = {
        "signals": ["positive" if c else "negative" for c in target],
        "shared_examination": False,
        "false_action_rate": stated,
    }
    found = fitted(X, y, {}, **params).identification_
    assert found.level == ("identified" if words is None else "not identified")
    assert found.against == "" if words is None else words in found.against
    if words and "larger" in words:
        assert "false_action_rate='estimate'" in found.advice[0]


def test_rows_that_nobody_looked_at_do_not_make_a_rate_too_large():
    X, y = of_three_signals("nothing")
    y[np.random.default_rng(1).random(len(y)) < 0.5] = 0
    found = fitted(X, y, {}, false_action_rate=0.08).identification_
    assert "a smaller one explains" not in found.against


def test_scores_of_rates_and_of_dependence_do_not_reject_by_chance():
    """The logits are wrong by 0.1, of which the scores are free to first order."""
    signals = [Action(1, 0.05), Action(1, 0.05), Action(1, 0.05)]
    measurement, rates = Measurement(signals), torch.full((3,), 0.05, dtype=torch.float64)
    z = []

    def recorded(rows, log, distributions):
        tests = score_tests(rows, log, distributions)
        z.append([test.z for test in tests])
        return tests

    with pytest.MonkeyPatch.context() as patch:
        for module in (_false_actions, _independence):
            patch.setattr(module, "score_tests", recorded)
        for seed in range(40):
            rng = np.random.default_rng(seed)
            f, u = rng.normal(size=2000), 0.5 * rng.normal(size=(2000, 3))
            preferred = rng.random(2000) < sigmoid(f)
            A = 0.05 + 0.95 * sigmoid(u)
            y = (rng.random((2000, 3)) < np.where(preferred[:, None], A, 0.05)).astype(float)
            log = FeedbackLog(y, np.ones(2000), signals=signals)
            f, u = torch.as_tensor(f) + 0.1, torch.as_tensor(u) - 0.1
            rows = Rows(measurement, f, u, rates, None)
            assert rates_against(rows, log, True) is None
            assert dependence_against(rows, log) is None
    for found in (np.array(z[::2]), np.array(z[1::2])):
        assert (np.abs(found.mean(axis=0)) < 0.6).all()
        assert ((found.std(axis=0) > 0.6) & (found.std(axis=0) < 1.4)).all()


def test_the_verdict_of_a_file_is_that_of_an_array(tmp_path):
    X, y = of_three_signals("by itself")
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    params = {"shared_examination": False, "false_action_rate": 0.02}
    from_file = fitted(tmp_path / "X.npy", y, {}, **params).identification_
    assert from_file.level == "not identified"
    assert from_file == fitted(X.astype(np.float32), y, {}, **params).identification_


class Unlisted(Action):
    """An action whose outcomes are not listed, as those of a signal with any number are not."""

    values = None


def test_signals_without_listed_outcomes_are_fitted_without_tests_of_outcomes():
    X, y = of_three_signals("nothing", n=1000)
    params = {"max_epochs": 3, "shared_examination": False}
    signals = ["positive", "positive", Unlisted()]
    found = fitted(X, y, {}, signals=signals, **params).identification_
    assert found.level == "identified"


def test_three_signals_of_users_who_differ_are_tested_too():
    X, y, side = of_users(0)
    rng = np.random.default_rng(3)
    third = np.maximum(y[:, 0] * (rng.random(len(y)) < 0.6), rng.random(len(y)) < 0.2)
    stated = {"shared_examination": False, "false_action_rate": [0.0, 0.0, 0.0]}
    est = fitted(X, np.column_stack([y, third]), side, **stated)
    assert est.user_loading_.any()
    assert est.identification_.level == "not identified"
