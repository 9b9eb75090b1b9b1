"""Actions that come late: the kernel, what fit learns of them, and what it refuses."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, identification_report
from implicitrm_sk._assumptions import Assumptions
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk.measurement._delay import late_initial_logits, truncated_rate
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.objectives import Stratified
from implicitrm_sk.signals import Action, Choice

# The fits are short: most members could have trained for longer.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*still improving:sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::implicitrm_sk.exceptions.IdentificationWarning"),
]
LATE, LATE_NEGATIVE = Action(delay="exponential"), Action(0, delay="exponential")
THUMB = Choice({"up": 1, "down": 0}, "none")
KINDS = {
    "one": [LATE],
    "two": [LATE, LATE],
    "beside actions": [Action(), LATE, Action(0)],
    "both polarities": [LATE, LATE_NEGATIVE, THUMB],
}


def rows_of(signals, n=60, members=2, seed=0, known=True):
    """Return logits, feedback, ages and delays of random rows, all in float64."""
    rng = np.random.default_rng(seed)
    measurement = Measurement(signals)
    f = torch.as_tensor(rng.normal(size=(members, n)))
    u = torch.as_tensor(rng.normal(size=(members, n, measurement.n_outputs)))
    shape = n, len(signals)
    preferred = rng.random(n) < 0.5
    y = np.zeros(shape)
    for k, signal in enumerate(signals):
        code = [2 - one for one in preferred] if signal is THUMB else preferred == signal.target
        y[:, k] = np.where(rng.random(n) < 0.5, code, 0)
    y[rng.random(shape) < 0.15] = np.nan
    age = rng.exponential(1.5, shape) + 0.01
    age[::7] = np.inf
    late = np.array(["age" in signal.takes for signal in signals])
    delay = np.where((y > 0) & late & (rng.random(shape) < 0.5), age * rng.random(shape), np.nan)
    delay[~np.isfinite(delay)] = np.nan
    tensors = {"actions": y, "age": age} | ({"delay": delay} if known else {})
    return f, u, {name: torch.as_tensor(value) for name, value in tensors.items()}


# ---------------------------------------------------------------------- kernel


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("examined", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_autograd(kind, examined, known):
    f, u, log = rows_of(KINDS[kind], known=known)
    measurement = Measurement(KINDS[kind], examined)
    if examined:
        u = torch.cat([u, torch.ones_like(u[..., :1])], -1)
    f, u = f.requires_grad_(), u.requires_grad_()
    measurement.nll(f, u, **log).sum().backward()
    closed = f.grad.clone(), u.grad.clone()
    f.grad = u.grad = None
    (-measurement.log_likelihood(f, u, **log)).sum().backward()
    for ours, theirs in zip(closed, (f.grad, u.grad), strict=True):
        assert torch.isfinite(ours).all()
        assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("target", [1, 0])
def test_probabilities_sum_to_one_at_every_age(target):
    late = Action(target, delay="exponential")
    _, u, log = rows_of([late], n=50)
    age = log["age"]
    by_y = [late.terms(u, torch.full_like(age, y), age=age)[0].exp() for y in (0.0, 1.0)]
    assert_allclose(by_y[0] + by_y[1], 1, rtol=1e-12)
    assert_array_equal(by_y[1][1 - target], 0)


def test_the_density_of_the_delay_sums_to_the_cumulative():
    u, age = torch.tensor([[0.4, -0.7]], dtype=torch.float64), torch.tensor([[2.5]])
    y = torch.ones(1, 1, dtype=torch.float64)

    def density(d):
        delay = torch.tensor([[d]], dtype=torch.float64)
        return float(LATE.terms(u, y, age=age, delay=delay)[0][1].exp())

    assert quad(density, 0, 2.5)[0] == pytest.approx(
        float(LATE.terms(u, y, age=age)[0][1].exp()), rel=1e-9
    )


def test_by_the_formula():
    u, age = torch.tensor([[0.4, -0.7]], dtype=torch.float64), torch.tensor([[2.5]])
    a, come = 1 / (1 + np.exp(-0.4)), 1 - np.exp(-2.5 * np.exp(-0.7))
    for y, expected in ((0.0, 1 - a * come), (1.0, a * come)):
        found = LATE.terms(u, torch.tensor([[y]]), age=age)[0].exp()
        assert float(found[1]) == pytest.approx(expected, rel=1e-7)
    never = LATE.log_passive(u, torch.zeros(1, 1), age=age).exp()
    assert_allclose(never[1], [(1 - a) / (1 - a * come)], rtol=1e-7)


def test_old_rows_are_those_of_actions_that_come_at_once():
    _, u, log = rows_of([LATE, LATE])
    y, plain = log["actions"], u[..., ::2]
    for age in (None, torch.full_like(y, torch.inf), torch.full_like(y, 1e30)):
        ours, (_, derivative) = LATE.terms(u, y, True, age=age)
        theirs, (_, expected) = Action().terms(plain, y, True)
        assert_allclose(ours, theirs, atol=1e-12)
        assert_allclose(derivative[..., ::2], expected, atol=1e-12)
        assert_allclose(derivative[..., 1::2], 0, atol=1e-12)
        assert_allclose(LATE.log_passive(u, y, age=age), Action().log_passive(plain, y), atol=1e-12)
    assert_allclose(LATE.log_shown(u)[0], Action().log_shown(plain)[0])


def test_the_four_groups_sum_to_one_and_young_silence_says_less():
    f, u, log = rows_of([LATE, Action(0)])
    measurement = Measurement([LATE, Action(0)])
    groups = measurement.posterior(f, u, **{k: log[k] for k in ("actions", "age")})
    assert_allclose(groups.sum(-1), 1, rtol=1e-9)
    silent = {"actions": torch.zeros(1, 1)}
    f, u = torch.zeros(1), torch.zeros(1, 2)
    rewards = []
    for age in (1e-6, 0.5, 2.0, torch.inf):
        groups = Measurement([LATE]).posterior(f, u, age=torch.tensor([[age]]), **silent)
        rewards.append(float(groups[0, [0, 2]].sum()))
    assert rewards[0] == pytest.approx(0.5, abs=1e-5)
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[-1] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize("longest", [0.5, 2.0, 20.0])
def test_the_rate_of_delays_that_were_cut_at_an_age(longest):
    rng = np.random.default_rng(0)
    age, delay = rng.uniform(0, longest, 40_000), rng.exponential(2.0, 40_000)
    seen = delay < age
    found = truncated_rate(delay[seen], age[seen], np.ones(seen.sum()), 9.0)
    # The shorter the ages, the less delays tell.
    assert 1 / found == pytest.approx(2.0, rel=0.5 if longest < 1 else 0.06)
    assert truncated_rate(delay[:0], age[:0], age[:0], 9.0) == 9.0


def test_start_values_follow_ages_and_delays():
    rng = np.random.default_rng(0)
    acts, age = rng.random(5000) < 0.3, rng.uniform(0.1, 4, 5000)
    delay = rng.exponential(1.0, 5000)
    y = (acts & (delay < age)).astype(float)
    known = np.where(y > 0, delay, np.nan)
    prior, weight = np.array([0.5]), np.ones(5000)
    for times in (known, None):
        logit, log_rate = late_initial_logits(y, weight, prior, y.mean(), age, times)
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.6, abs=0.25)
        assert np.exp(log_rate) == pytest.approx(1.0, rel=0.1 if times is known else 1.0)


# ---------------------------------------------------------------------- fits


def nightly_log(n=4000, mean_delay=1.0, days=4.0, seed=0):
    """Return a log as it is read tonight: features, actions, ages, delays, all that will come."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    preferred = rng.random(n) < 1 / (1 + np.exp(-3 * X[:, 0]))
    will = preferred[:, None] & (rng.random((n, 2)) < [0.5, 0.6])
    age = rng.uniform(0.02, days, n)
    delay = rng.exponential(mean_delay, n)
    arrived = will[:, 1] & (delay < age)
    y = np.column_stack([will[:, 0], arrived]).astype(float)
    return X, y, age, np.where(arrived, delay, np.nan), will, preferred


@pytest.fixture(scope="module")
def log():
    return nightly_log()


SETTINGS = {
    "signals": ["positive", LATE],
    "shared_examination": False,
    "hidden_layer_sizes": (16,),
    "learning_rate_init": 0.01,
    "n_estimators": 2,
    "max_epochs": 25,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def fitted(log):
    X, y, age, delay, *_ = log
    return {
        "known": ImplicitRewardEstimator(**SETTINGS).fit(X, y, age=age, delay=delay),
        "only that": ImplicitRewardEstimator(**SETTINGS).fit(X, y, age=age),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("times", "error"), [("known", 0.1), ("only that", 0.35)])
def test_a_fit_finds_what_will_come_and_when(times, error, log, fitted):
    X, y, age, _, will, preferred = log
    est = fitted[times]
    assert np.isnan(est.mean_delay_[0])
    assert est.mean_delay_[1] == pytest.approx(1.0, rel=error)
    assert est.predict_action(X)[:, 1].mean() == pytest.approx(will[:, 1].mean(), abs=0.03)
    # Today they are fewer, by far.
    assert y[:, 1].mean() < will[:, 1].mean() - 0.06
    assert est.score(X, None, true_preference=preferred) > 0.5
    assert est.identification_.level == "identified"


def test_taken_for_passive_the_young_rows_mislead(log, fitted):
    X, y, age, _, will, _ = log
    plain = ImplicitRewardEstimator(**SETTINGS | {"signals": None}).fit(X, y)
    error = [
        abs(est.predict_action(X)[:, 1].mean() - will[:, 1].mean())
        for est in (fitted["known"], plain)
    ]
    assert error[0] < error[1] / 2


@pytest.mark.slow
def test_the_delay_of_a_negative_action_and_of_one_signal_alone():
    X, y, age, delay, will, preferred = nightly_log(4000)
    settings = SETTINGS | {"signals": [LATE], "max_epochs": 15}
    one = ImplicitRewardEstimator(**settings).fit(X, y[:, 1], age=age, delay=delay)
    assert one.mean_delay_[0] == pytest.approx(1.0, rel=0.15)
    assert one.predict_action(X).mean() == pytest.approx(will[:, 1].mean(), abs=0.04)
    assert one.identification_.swap_symmetric
    proba = one.predict_proba(X, y[:, 1], age=age)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    negative = ImplicitRewardEstimator(**settings | {"signals": [LATE_NEGATIVE]})
    negative.fit(X, y[:, 1], age=age, delay=delay)
    assert np.corrcoef(negative.predict(X), one.predict(X))[0, 1] < -0.98
    assert negative.predict(X).mean() == pytest.approx(1 - one.predict(X).mean(), abs=0.03)


def test_the_unit_of_time_does_not_matter(log):
    X, y, age, delay, *_ = log
    settings = SETTINGS | {"max_epochs": 5, "early_stopping": False}
    days = ImplicitRewardEstimator(**settings).fit(X, y, age=age, delay=delay)
    seconds = clone(days).fit(X, y, age=86400 * age, delay=86400 * delay)
    assert_allclose(seconds.mean_delay_ / 86400, days.mean_delay_, rtol=0.02)
    assert_allclose(seconds.predict(X), days.predict(X), atol=0.02)
    times = clone(days).fit(
        X, y, age=pd.Series(pd.to_timedelta(age, "D")), delay=pd.to_timedelta(delay, "D")
    )
    assert_allclose(times.predict(X), days.predict(X), atol=1e-4)


def test_scores_groups_and_files(log, fitted, tmp_path):
    X, y, age, delay, *_ = log
    est = fitted["known"]
    assert est.score(X, y, age=age) < 0
    assert est.score(X, y, age=age, delay=delay) != est.score(X, y, age=age)
    silent = np.zeros((2, 2))
    young, old = (
        est.predict_proba(X[:2], silent, age=[0.01, 0.01]),
        est.predict_proba(X[:2], silent, age=[np.inf, np.inf]),
    )
    assert (young[:, [0, 2]].sum(1) > old[:, [0, 2]].sum(1)).all()
    assert np.isfinite(est.predict_proba(X[:5])).all()
    assert est.propensity(X).shape == y.shape
    est.save(tmp_path / "model")
    for same in (
        ImplicitRewardEstimator.load(tmp_path / "model"),
        pickle.loads(pickle.dumps(est)),
    ):
        assert_array_equal(same.mean_delay_, est.mean_delay_)
        assert_array_equal(same.predict_action(X), est.predict_action(X))
        assert same.signals_ == (Action(), LATE)


def test_ages_travel_through_searches(log):
    X, y, age, delay, *_ = (part[:600] for part in log)
    est = ImplicitRewardEstimator(**SETTINGS | {"max_epochs": 2, "early_stopping": False})
    grid = {"learning_rate_init": [0.003, 0.01]}
    with config_context(enable_metadata_routing=True):
        for search in (GridSearchCV, BatchedSearchCV):
            found = search(est, grid, cv=2, error_score="raise").fit(X, y, age=age, delay=delay)
            assert np.isfinite(found.cv_results_["mean_test_score"]).all()
            assert np.isfinite(found.best_estimator_.mean_delay_[1])


def test_each_signal_may_have_an_age_of_its_own(log):
    X, y, age, *_ = (part[:600] for part in log)
    settings = FAST | {"early_stopping": False, "max_epochs": 3}
    y, age = y.copy(), age.copy()
    est = ImplicitRewardEstimator(signals=[LATE, LATE], **settings)
    both = clone(est).fit(X, y, age=np.column_stack([np.full(600, np.inf), age]))
    once = clone(est).fit(X, y, age=age)
    assert (both.mean_delay_ > 0).all()
    assert not np.allclose(both.predict(X), once.predict(X))
    # Entries that are not logged need no age.
    y[:50, 1], age[:50] = np.nan, np.nan
    ImplicitRewardEstimator(signals=["positive", LATE], **settings).fit(X, y, age=age)


@pytest.mark.slow
def test_late_actions_beside_rows_that_nobody_looked_at():
    rng = np.random.default_rng(0)
    n = 3000
    X = rng.normal(size=(n, 3)).astype(np.float32)
    preferred, looked = X[:, 0] > 0, rng.random(n) < 0.6
    acts = rng.random((n, 4)) < 0.5
    y = acts & looked[:, None] & np.column_stack([preferred, preferred, ~preferred, ~preferred])
    age = rng.uniform(0.1, 3, n)
    delay = rng.exponential(1.0, n)
    y[:, 0] &= delay < age
    est = ImplicitRewardEstimator(
        signals=[LATE, "positive", "negative", "negative"],
        shared_examination=True,
        **FAST | {"max_epochs": 20},
    ).fit(X, y.astype(float), age=age, delay=np.where(y[:, 0], delay, np.nan))
    assert est.predict_examination(X).mean() == pytest.approx(0.6, abs=0.1)
    assert est.mean_delay_[0] == pytest.approx(1.0, rel=0.4)


# ---------------------------------------------------------------------- verdicts


def test_a_verdict_looks_at_rows_that_are_old_enough(log):
    X, y, age, *_ = log
    known = FeedbackLog.from_arguments(
        y, len(y), Assumptions(signals=["positive", LATE]), Stratified(), age=age
    )[0]
    kept = known.matured(np.array([np.nan, 0.5])).actions
    assert_array_equal(kept[:, 0], y[:, 0])
    assert_array_equal(np.isnan(kept[:, 1]), age < 2.0)


@pytest.mark.slow
def test_the_verdict_on_two_late_signals():
    X, y, age, _, _, preferred = nightly_log(days=8.0)
    settings = SETTINGS | {"signals": [LATE, LATE], "max_epochs": 15}
    late = np.column_stack([y[:, 1], y[:, 1]])
    rng = np.random.default_rng(1)
    other = preferred & (rng.random(4000) < 0.6) & (rng.exponential(1.0, 4000) < age)
    late[:, 1] = other
    est = ImplicitRewardEstimator(**settings).fit(X, late, age=age)
    assert est.identification_.level == "identified"
    assert est.mean_delay_ == pytest.approx([1.0, 1.0], rel=0.4)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("age"), "age is missing, .* signal Action.*delay='exponential'"),
        (lambda d: d.update(age=np.r_[0.0, d["age"][1:]]), "age is 0 in row 0, the first of 1"),
        (lambda d: d.update(age=-d["age"]), "expected a time above 0"),
        (lambda d: d.update(age=np.r_[np.nan, d["age"][1:]]), "age is nan in row 0"),
        (lambda d: d.update(age=d["age"][:5]), r"age has shape \(5, ?\)"),
        (lambda d: d.update(age=["old"] * 300), "age must be numbers"),
        (
            lambda d: d.update(age=pd.date_range("2026-01-01", periods=300)),
            "age holds points in time.*Subtract the time",
        ),
        (lambda d: d.update(delay=np.full(300, 0.1)), "delay is given without an action"),
        (lambda d: d.update(delay=-d["delay"]), "delay is negative"),
        (lambda d: d.update(delay=d["delay"] + 99), "delay is longer than the age"),
        (
            lambda d: d.update(exposures=np.full(300, 2)),
            "a delay of its own. Leave exposures out, or leave delay out",
        ),
        (lambda d: d.update(response_id=np.arange(300) // 2), "response_id is not available"),
        (lambda d: d.update(user_id=np.arange(300) // 5), "user_id is not available"),
        (lambda d: d.update(propensity=np.full((300, 2), 0.5)), "propensity is given for signal"),
    ],
)  # fmt: skip
def test_what_fit_refuses(change, message, log):
    X, y, age, delay, *_ = (part[:300] for part in log)
    data = {"age": age, "delay": delay}
    change(data)
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**SETTINGS).fit(X, y, **data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_action_rate": 0.1}, "false_action_rate is not available for the signal"),
        ({"signals": ["positive", Action(1, 0.1, "exponential")]}, "false_rate=0.1 is not avail"),
        ({"signals": ["positive", Action(delay="weibull")]}, "delay='weibull' of an Action"),
        ({"signals": None}, "age was given, but the signals"),
        ({"shared_propensity": True}, "shared_propensity is not available"),
        ({"objective": "naive"}, "Naive makes no use of age"),
    ],
)
def test_what_settings_refuse(settings, message, log):
    X, y, age, *_ = (part[:300] for part in log)
    with pytest.raises(ValueError, match=message):
        ImplicitRewardEstimator(**SETTINGS | settings).fit(X, y, age=age)


def test_a_rate_of_the_other_signals_alone_is_fine(log):
    X, y, age, *_ = (part[:600] for part in log)
    est = ImplicitRewardEstimator(**SETTINGS | {"false_action_rate": [0.02, 0.0], "max_epochs": 2})
    assert_array_equal(est.fit(X, y, age=age).false_action_rate_, [0.02, 0.0])


def test_what_other_methods_refuse(log, fitted):
    X, y, age, *_ = (part[:300] for part in log)
    est = fitted["known"]
    with pytest.raises(ValueError, match="age is missing"):
        est.score(X, y)
    with pytest.raises(ValueError, match="age is missing"):
        est.predict_proba(X, y)
    with pytest.raises(ValueError, match="age is given without actions"):
        est.predict_proba(X, age=age)
    with pytest.raises(ValueError, match="partial_fit is not available for an Action with a delay"):
        ImplicitRewardEstimator(**SETTINGS).partial_fit(X, y)
    with pytest.raises(ValueError, match="age is missing"):
        identification_report(est, X, y)


def test_equality_and_clones():
    assert Action() != LATE
    assert clone(ImplicitRewardEstimator(signals=[LATE])).signals == [LATE]
    assert repr(LATE) == "Action(target=1, false_rate=None, delay='exponential')"
    assert repr(Action()) == "Action(target=1, false_rate=None)"
