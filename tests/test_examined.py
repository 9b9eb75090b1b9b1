"""Rows that nobody looked at: the likelihood, fits, what the log can tell of them, refusals."""

import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator, identification_report
from implicitrm_sk._examination import ExaminationTest, examination_test
from implicitrm_sk._identification import Evidence, assess
from implicitrm_sk._log import FeedbackLog
from implicitrm_sk._score_test import Rows, _efficient
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.inspection._attention import compare
from implicitrm_sk.measurement import _mixture
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.measurement._one_step import score
from implicitrm_sk.objectives import Stratified
from implicitrm_sk.signals import Action, Choice

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::implicitrm_sk.IdentificationWarning"
)

NAN = math.nan
MEMBERS = 2
THUMB = Choice({"up": 1, "down": 0, "dismiss": None}, "none", 0.05)
KINDS = {
    "one positive": [Action()],
    "one of each": [Action(), Action(0)],
    "two of each": [Action(), Action(), Action(0), Action(0)],
    "misclicks": [Action(1, 0.1), Action(0, 0.05), Action()],
    "thumb": [THUMB],
    "thumb beside actions": [THUMB, Action(), Action(0, 0.1)],
}
SMALL = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 2,
    "learning_rate_init": 0.01,
    "random_state": 0,
}
TWO_OF_EACH = ["positive", "positive", "negative", "negative"]
many = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)


def rate_of(kinds):
    own = [kind.false_rate or 0.0 if "rate" in kind.takes else 0.0 for kind in kinds]
    return torch.tensor(own, dtype=torch.float64) if any(own) else None


def everything(kinds, missing=True):
    values = [(*kind.values, *([NAN] if missing else [])) for kind in kinds]
    return torch.tensor(list(itertools.product(*values))).double()


def logits(measurement, n_rows, *, same=False, scale=2.0, m=None):
    generator = torch.Generator().manual_seed(0)
    width = 1 + measurement.n_outputs + measurement.examined
    drawn = torch.randn(
        (MEMBERS, 1 if same else n_rows, width), generator=generator, dtype=torch.float64
    )
    drawn = scale * drawn.expand(-1, n_rows, -1)
    f = drawn[:, :m, 0] if m else drawn[..., 0]
    return f.clone().requires_grad_(), drawn[..., 1:].clone().requires_grad_()


def is_silent(y):
    return ((y == 0) | torch.isnan(y)).all(-1).double()


# ---------------------------------------------------------------- the likelihood


@many
def test_probabilities_sum_to_one(kinds):
    measurement, y = Measurement(kinds, examined=True), everything(kinds, missing=False)
    f, u = logits(measurement, len(y), same=True)
    total = measurement.log_likelihood(f, u, y, rate_of(kinds)).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@many
def test_the_likelihood_is_the_mixture_of_its_formula(kinds):
    measurement, y, e = Measurement(kinds, examined=True), everything(kinds), rate_of(kinds)
    f, u = logits(measurement, len(y))
    v = torch.sigmoid(u[..., -1])
    prior = torch.stack([torch.sigmoid(-f), torch.sigmoid(f)])
    looked = Measurement(kinds).log_joint(torch.zeros_like(f), u[..., :-1], y, e).exp() * 2
    expected = prior * ((1 - v) * is_silent(y) + v * looked)
    found = measurement.log_joint(f, u, y, e).exp()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    # Rows of one response are looked at or not one by one.
    response = torch.arange(len(y)) // 2
    f, u = logits(measurement, len(y), m=int(response.max()) + 1)
    v = torch.sigmoid(u[..., -1])
    rows = Measurement(kinds).log_joint(torch.zeros_like(u[..., 0]), u[..., :-1], y, e).exp() * 2
    rows = ((1 - v) * is_silent(y) + v * rows).detach()
    for i in range(len(f[0]) - 1):
        ours = measurement.log_joint(f, u, y, e, response=response)[..., i].exp()
        prior = torch.stack([torch.sigmoid(-f[:, i]), torch.sigmoid(f[:, i])])
        product = prior * rows[..., 2 * i] * rows[..., 2 * i + 1]
        torch.testing.assert_close(ours, product, rtol=1e-12, atol=1e-15)


@many
@pytest.mark.parametrize("scale", [2.0, 30.0])
def test_the_gradient_is_that_of_autograd(kinds, scale):
    measurement, y, e = Measurement(kinds, examined=True), everything(kinds), rate_of(kinds)
    f, u = logits(measurement, len(y), scale=scale)
    likelihood = measurement.log_likelihood(f, u, y, e)
    possible = torch.isfinite(likelihood).all(0)
    y, f, u = y[possible], *(x[:, possible].detach().requires_grad_() for x in (f, u))
    label = torch.where(torch.arange(len(y)) % 3 == 0, 0.5, NAN).double()
    # No action of a labelled row may contradict its label.
    label = torch.where(is_silent(y) > 0, label, NAN)
    ours = torch.autograd.grad(measurement.nll(f, u, y, e, labels=label).sum(), (f, u))
    likelihood = measurement.log_likelihood(f, u, y, e, labels=label)
    autograd = torch.autograd.grad(-likelihood.sum(), (f, u))
    for mine, theirs in zip(ours, autograd, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    single = measurement.nll(f.float(), u.float(), y.float(), None if e is None else e.float())
    for part in torch.autograd.grad(single.sum(), (f, u)):
        assert torch.isfinite(part).all()


@many
def test_where_all_is_looked_at_it_is_the_plain_model(kinds):
    measurement, y, e = Measurement(kinds, examined=True), everything(kinds), rate_of(kinds)
    f, u = logits(measurement, len(y))
    u = u.detach()
    u[..., -1] = 60.0
    plain = Measurement(kinds)
    for method in ("log_joint", "posterior"):
        ours = getattr(measurement, method)(f, u, y, e)
        theirs = getattr(plain, method)(f, u[..., :-1], y, e)
        possible = torch.isfinite(theirs)
        torch.testing.assert_close(ours[possible], theirs[possible], rtol=0, atol=1e-12)
    assert_array_equal(measurement.log_shown(u, e)[1], plain.log_shown(u[..., :-1], e)[1])


@many
def test_a_row_that_nobody_looked_at_is_passive(kinds):
    """P(active, looked at | y) is what is left of the plain model's."""
    measurement, y, e = Measurement(kinds, examined=True), everything(kinds), rate_of(kinds)
    f, u = logits(measurement, len(y))
    joint = measurement.log_joint(f, u, y, e)
    possible = torch.isfinite(joint.logsumexp(0)).all(0)
    groups = measurement.posterior(f, u, y, e)[:, possible]
    q = joint.softmax(0)[:, :, possible]
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(groups[..., 0] + groups[..., 2], q[1], **close)
    torch.testing.assert_close(groups[..., 1] + groups[..., 3], q[0], **close)
    plain = Measurement(kinds).group_log_joint(f, u[..., :-1], y, e)[:, possible].exp()
    evidence = joint.logsumexp(0).exp()[:, possible, None]
    active = torch.sigmoid(u[:, possible, -1:]) * plain[..., :2] / evidence
    torch.testing.assert_close(groups[..., :2], active, **close)
    u = u.detach()
    u[..., -1] = -60.0
    silent = is_silent(y) > 0
    passive = measurement.posterior(f, u, y, e)[:, silent]
    assert (passive[..., :2] < 1e-12).all()


def test_false_actions_need_a_look():
    """Their expected number, and the opportunities, by enumeration."""
    kinds = [Action(1, 0.2), Action(0, 0.1)]
    measurement, y, e = Measurement(kinds, examined=True), everything(kinds, False), rate_of(kinds)
    f, u = logits(measurement, len(y))
    found = measurement.false_action_counts(f, u, y, e)
    v = torch.sigmoid(u[..., -1])
    prior = torch.stack([torch.sigmoid(-f), torch.sigmoid(f)])
    looked = Measurement(kinds).log_joint(torch.zeros_like(f), u[..., :-1], y, e).exp() * 2
    joint = prior * v * looked
    total = measurement.log_likelihood(f, u, y, e).exp()
    other = torch.stack([joint[0] / total, joint[1] / total], -1)  # of a positive, of a negative
    torch.testing.assert_close(found[1], other)
    torch.testing.assert_close(found[0], other * y)


@pytest.mark.parametrize("n_opposite", [0, 1])
@pytest.mark.parametrize("preferred", [0, 1])
def test_bounds_of_the_examined_model(preferred, n_opposite):
    """The same as those of the plain model that fits the same data, v R in place of R."""
    rng = np.random.default_rng(0)
    R, v, A, B, opposite = rng.uniform(0.05, 0.95, size=(5, 200))
    liked, other = v * R, v * (1 - R) * opposite

    def logit(*columns):
        return torch.as_tensor(np.stack([np.log(p / (1 - p)) for p in columns], -1))[None]

    signs = [preferred, preferred, 1 - preferred][: 2 + n_opposite]
    kinds, sign = [Action(c) for c in signs], 1 if preferred else -1
    plain = _mixture.bounds(
        Measurement(kinds),
        sign * logit(liked)[..., 0],
        logit(*[A, B, other / (1 - liked)][: 2 + n_opposite]),
        shown_twice=(preferred,),
    )
    examined = _mixture.bounds(
        Measurement(kinds, examined=True),
        sign * logit(R)[..., 0],
        logit(*[A, B, opposite][: 2 + n_opposite], v),
        shown_twice=(preferred,),
    )
    for mine, theirs in zip(examined, plain, strict=True):
        torch.testing.assert_close(mine, theirs)


# ---------------------------------------------------------------- fits


def simulated(n=6000, signals=TWO_OF_EACH, looked=True, seed=0, **kwargs):
    """Return X, the log, R and v; both depend on x in directions of their own."""
    X = np.random.default_rng(seed).normal(size=(n, 3))
    R, v = 1 / (1 + np.exp(-2 * X[:, 0])), 1 / (1 + np.exp(-1.5 * X[:, 1]))
    v = v if looked else np.ones(n)
    kwargs = {"propensity": "constant", "examination": v, "random_state": seed} | kwargs
    return X, simulate_feedback(R, X=X, signals=signals, **kwargs), R, v


@pytest.fixture(scope="module")
def half_seen():
    X, log, R, v = simulated()
    est = ImplicitRewardEstimator(signals=TWO_OF_EACH, shared_examination=True, **SMALL)
    return est.fit(X[:5000], log.actions[:5000]), X[5000:], log.actions[5000:], R[5000:], v[5000:]


def test_a_fit_recovers_reward_and_examination(half_seen):
    est, X, y, R, v = half_seen
    assert np.corrcoef(est.predict(X), R)[0, 1] > 0.97
    assert np.corrcoef(est.predict_examination(X), v)[0, 1] > 0.95
    assert est.predict(X).mean() == pytest.approx(R.mean(), abs=0.04)
    assert est.predict_examination(X).mean() == pytest.approx(v.mean(), abs=0.04)
    # Of all rows, looked at or not.
    assert_allclose(est.predict_action(X).mean(axis=0), y.mean(axis=0), atol=0.03)
    assert est.propensity(X).mean() == pytest.approx(0.25, abs=0.04)
    groups = est.predict_proba(X, y)
    assert_allclose(groups.sum(axis=1), 1, rtol=1e-5)
    silent = y.sum(axis=1) == 0
    assert (groups[silent][:, :2] < 1e-6).all()  # all were logged: passive, or nobody looked
    assert np.isfinite(est.score(X, y))


def test_it_is_better_than_the_plain_model(half_seen):
    est, X, y, R, _ = half_seen
    plain = clone(est).set_params(shared_examination=None)
    X_train, log, *_ = simulated()
    plain.fit(X_train[:5000], log.actions[:5000])
    assert np.mean((est.predict(X) - R) ** 2) < 0.7 * np.mean((plain.predict(X) - R) ** 2)
    assert est.score(X, y) > plain.score(X, y)


def test_saved_and_loaded(half_seen, tmp_path):
    est, X, y, *_ = half_seen
    est.save(tmp_path / "reward")
    same = ImplicitRewardEstimator.load(tmp_path / "reward")
    assert_array_equal(same.predict_examination(X), est.predict_examination(X))
    assert_array_equal(same.predict_proba(X, y), est.predict_proba(X, y))
    assert "looked at has a head of its own" in (tmp_path / "reward" / "README.md").read_text()


def test_other_ways_to_fit():
    X, log, *_ = simulated(800)
    y = pd.DataFrame({"thumb": np.where(log.actions[:, 0], "up", "none"), "no": log.actions[:, 2]})
    signals = {"thumb": Choice({"up": 1, "down": 0}, "none"), "no": Action(0, 0.05)}
    small = SMALL | {"max_epochs": 2, "early_stopping": False, "shared_examination": True}
    est = ImplicitRewardEstimator(signals=signals, shared_propensity=True, **small)
    with pytest.warns(UserWarning, match="none of its rows does"):
        est.fit(X, y)
    assert est.predict_examination(X).shape == (800,)
    est.partial_fit(X, y)
    # Rows of one response: each is looked at or not.
    rng, ids = np.random.default_rng(0), np.arange(800) // 2
    shows = np.where(ids[:, None] % 2, [True, True, False, False], [False, False, True, True])
    actions = (shows & (rng.random((800, 1)) < 0.6) & (rng.random((800, 4)) < 0.5)).astype(int)
    rows = ImplicitRewardEstimator(
        signals=TWO_OF_EACH, reward_features=[0], propensity_features=[1, 2], **small
    )
    X[:, 0] = X[ids * 2, 0]
    rows.fit(X, actions, response_id=ids)
    assert rows.predict_proba(X, actions, response_id=ids).shape == (800, 4)
    grid = {"learning_rate_init": [0.01, 0.001]}
    plain = ImplicitRewardEstimator(signals=TWO_OF_EACH, **small)
    search = BatchedSearchCV(plain, grid, cv=2).fit(X, log.actions)
    assert search.best_estimator_.predict_examination(X).shape == (800,)


@pytest.mark.slow
def test_estimated_rates():
    signals = TWO_OF_EACH
    X, log, R, _ = simulated(4000, signals, false_action_rate=0.05)
    est = ImplicitRewardEstimator(
        signals=signals,
        shared_examination=True,
        false_action_rate="estimate",
        **SMALL | {"max_epochs": 12},
    ).fit(X, log.actions)
    assert_allclose(est.false_action_rate_, 0.05, atol=0.03)
    assert np.corrcoef(est.predict(X), R)[0, 1] > 0.9


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("params", "fit_params", "message"),
    [
        (
            {},
            {"exposures": [2] * 40},
            "not available with exposures above 1",
        ),
        (
            {},
            {"propensity": [0.5] * 40},
            "shared_examination=True is not available with propensity",
        ),
        ({"objective": "naive"}, {}, "Naive makes no use of shared_examination=True. Leave it out"),
        (
            {"signals": [Choice({"up": 1, "down": 0}, given_reaction=True)]},
            {"y": ["up", "down"] * 20},
            "given_reaction=True) of y: none of its values",
        ),
    ],
)
def test_refusals(params, fit_params, message):
    est = ImplicitRewardEstimator(shared_examination=True).set_params(**params)
    X = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(X, **({"y": np.arange(40) % 2} | fit_params))


def test_exposures_of_one_are_none():
    X, log, *_ = simulated(200)
    est = ImplicitRewardEstimator(signals=TWO_OF_EACH, shared_examination=True, **SMALL)
    est.set_params(max_epochs=1, early_stopping=False).fit(X, log.actions, exposures=np.ones(200))
    assert est.predict_examination(X).shape == (200,)


def test_only_an_examined_model_predicts_examination():
    X, log, *_ = simulated(200)
    est = ImplicitRewardEstimator(signals=TWO_OF_EACH, **SMALL)
    est.set_params(max_epochs=1, early_stopping=False).fit(X, log.actions)
    with pytest.raises(ValueError, match="fitted with shared_examination=None, .* Fit with"):
        est.predict_examination(X)


# ---------------------------------------------------------------- what the log can tell


def evidence(n_positive, n_negative):
    n = n_positive + n_negative
    return Evidence(
        n_responses=500,
        n_acted=200,
        n_several_signals=500 * (n >= 2),
        n_three_signals=500 * (n >= 3),
        n_both=500 * (n_positive > 0 and n_negative > 0),
        n_two_positive=500 * (n_positive >= 2),
        n_two_negative=500 * (n_negative >= 2),
    )


@pytest.mark.parametrize(
    ("counts", "levels"),
    [
        # every row looked at, not known, modelled
        ((2, 2), ("identified", "bounded", "identified")),
        ((2, 1), ("identified", "bounded", "bounded")),
        ((1, 2), ("identified", "bounded", "bounded")),
        ((2, 0), ("identified", "bounded", "bounded")),
        ((0, 2), ("identified", "bounded", "bounded")),
        ((1, 1), ("bounded", "bounded", "bounded")),
        ((1, 0), ("not identified", "not identified", "not identified")),
    ],
)
def test_two_of_each_determine_who_looked(counts, levels):
    found = [
        assess(evidence(*counts), objective=Stratified(), n_signals=sum(counts), examined=examined)
        for examined in (True, None, False)
    ]
    assert tuple(each.level for each in found) == levels
    modelled = found[2]
    assert not modelled.swap_symmetric
    advice = " ".join(modelled.advice)
    assert ("Leave shared_examination=True out here" in advice) == (counts != (2, 2))
    if counts == (2, 2):
        assert modelled.assumptions == (
            "independent signals of rows that were looked at",
            "looking depends on x, not on the preference",
        )
        assert any("set shared_examination=True" in each for each in found[1].advice)
    elif 2 in counts:
        kind = "negative" if counts[0] == 2 else "positive"
        more = "two kinds" if 0 in counts else "a second kind"
        assert any(f"Log {more} of {kind} action" in each for each in found[1].advice)


def test_the_winner_is_better_by_two_standard_errors():
    rng = np.random.default_rng(0)
    plain, weight = rng.normal(size=400), np.ones(400)
    gain = rng.normal(scale=0.1, size=400)
    for shift, winner in ((0.05, "examined"), (0.0, "plain"), (-0.05, "plain")):
        gain += shift - gain.mean()
        found = compare((plain, weight), (plain + gain, weight))
        assert found["winner"] == winner
        assert found["difference"] == pytest.approx(shift)
        assert found["standard_error"] == pytest.approx(gain.std() / 20, rel=0.01)
    heavy = np.where(gain > 0, 1.0, 0.0)
    assert compare((plain, heavy), (plain + gain, heavy))["difference"] > 0


@pytest.mark.slow
def test_the_report_names_the_model_that_fits_better():
    settings = SMALL | {"max_epochs": 25}
    for looked, winner in ((True, "examined"), (False, "plain")):
        X, log, *_ = simulated(4000, looked=looked)
        for option in (True, False) if looked else (True, None):
            est = ImplicitRewardEstimator(
                signals=TWO_OF_EACH, shared_examination=option, **settings
            )
            report = identification_report(est, X, log.actions, n_starts=2)
            assert report.examination["winner"] == winner
            text = str(report)
            assert ("the model that has them is more likely" in text) == looked
            if option:
                assert report.level == "identified"
            elif looked:
                # Stated: every row was looked at. The log says otherwise.
                assert report.level == "not identified"
                assert "rows that nobody looked at is more likely" in report.reason
                assert "set shared_examination=True" in report.advice[0]
            else:
                assert report.level == "bounded"


def test_no_winner_is_named_with_fewer():
    X, log, *_ = simulated(1500)
    small = SMALL | {"max_epochs": 5, "early_stopping": False}
    for option in (None, True):
        est = ImplicitRewardEstimator(signals=TWO_OF_EACH[1:], shared_examination=option, **small)
        report = identification_report(est, X, log.actions[:, 1:], n_starts=2)
        assert report.examination is None and report.level == "bounded"
        assert ("rows not looked at  cannot be tested" in str(report)) == (option is True)
        assert (report.bounds(X)[:, 0] <= report.bounds(X)[:, 1]).all()


# ---------------------------------------------------------------- the simulator


def test_the_simulator_silences_rows():
    X, log, _, v = simulated(4000)
    seen = simulate_feedback(
        log.reward, X=X, signals=TWO_OF_EACH, propensity="constant", random_state=0
    )
    assert_array_equal(log.true_preference, seen.true_preference)
    assert_array_equal(log.actions, seen.actions * log.examined[:, None])
    assert log.examined.mean() == pytest.approx(v.mean(), abs=0.02)
    assert seen.examined.all() and (seen.examination == 1).all()
    signals = {"thumb": Choice({"up": 1, "down": 0}, "none"), "copied": "positive"}
    table = simulate_feedback([1, 0] * 50, signals=signals, propensity="constant", examination=0)
    assert set(table.actions["thumb"]) == {"none"} and not table.actions["copied"].any()
    with pytest.raises(ValueError, match="no value for silent users"):
        simulate_feedback(
            [1, 0],
            signals=[Choice({"up": 1, "down": 0}, given_reaction=True)],
            propensity="constant",
            examination=0.5,
        )
    with pytest.raises(ValueError, match="examination must lie in"):
        simulate_feedback([1, 0], propensity="constant", examination=1.5)
    with pytest.raises(ValueError, match="examination has 3 rows"):
        simulate_feedback([1, 0], propensity="constant", examination=[1, 1, 0])


# ---------------------------------------------------------------- the score test of looking


def test_the_efficient_score_is_free_of_errors_of_the_fit():
    kinds = [Action(1, 0.05), Action(), Action(0), THUMB]
    measurement = Measurement(kinds)
    y, e = everything(kinds, missing=False), rate_of(kinds)
    f, u = (part[0].detach() for part in logits(measurement, len(y), same=True, scale=0.7))
    log_prob, own = score(measurement, f, u, y, e)
    found, variance = (
        torch.as_tensor(part[0])
        for part in _efficient(
            Rows(measurement, f, u, e, None), y, [lambda _, y: is_silent(y).double()]
        )
    )
    p = log_prob.exp()
    torch.testing.assert_close(p.sum(), torch.ones_like(p.sum()))
    assert abs(p @ found) < 1e-12
    # Without the ridge it is orthogonal to the score of every logit.
    assert (p * found @ own).abs().max() < 5e-3 * variance[0].sqrt()
    assert variance[0] > 0.01
    assert_allclose(p @ found**2, variance[0], rtol=5e-3)
    # Its mean, if a share of 0.01 was not looked at, is that share times the variance.
    unseen = 0.99 * p + 0.01 * is_silent(y)
    assert_allclose(unseen @ found, 0.01 * variance[0], rtol=5e-3)


def log_of(seen, users=None, n=3000):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    R = 1 / (1 + np.exp(-1.5 * X[:, 0]))
    activity, user = np.zeros(n), None
    if users:
        user = rng.integers(users, size=n)
        activity = rng.normal(size=users)[user]
    ready = 1 / (1 + np.exp(-np.array([0.4, 0.0, 0.4, 0.0]) - activity[:, None]))
    log = simulate_feedback(
        R, signals=TWO_OF_EACH, propensity=ready, examination=np.full(n, seen), random_state=0
    )
    return X, log.actions, {} if user is None else {"user_id": user}


@pytest.mark.parametrize("users", [None, 60])
def test_a_false_statement_that_all_was_looked_at_is_contradicted(users):
    common = SMALL | {"signals": TWO_OF_EACH, "hidden_layer_sizes": (8,)}
    X, y, side = log_of(0.75, users)
    est = ImplicitRewardEstimator(shared_examination=False, **common).fit(X, y, **side)
    assert est.identification_.level == "not identified"
    assert "silent together more often" in est.identification_.reason
    advice = est.identification_.advice
    assert ("pass user_id= first" in advice[0]) == (users is None)
    assert "set shared_examination=True, which fits" in advice[users is None]
    unstated = ImplicitRewardEstimator(**common).fit(X, y, **side).identification_
    assert unstated.level == "bounded"
    assert unstated.advice[0] == est.identification_.advice[0]
    assert not [one for one in unstated.advice if "shared_examination=False" in one]
    X, y, side = log_of(1.0, users)
    est = ImplicitRewardEstimator(shared_examination=False, **common).fit(X, y, **side)
    assert est.identification_.level == "identified"
    assert (est.user_loading_ > 0.5).all() if users else not hasattr(est, "user_loading_")


@pytest.mark.parametrize(
    ("share", "z", "rejected"),
    [(0.2, 3.4, True), (0.2, 3.2, False), (0.04, 5.0, False), (0.06, 3.4, True)],
)
def test_a_log_contradicts_that_all_was_looked_at_if_it_is_clear_and_matters(share, z, rejected):
    assert ExaminationTest(share, z, 1000).rejected == rejected


def test_the_score_test_does_not_reject_by_chance():
    found = []
    measurement = Measurement([Action(), Action(), Action(0), Action(0)])
    for seed in range(40):
        rng = np.random.default_rng(seed)
        f = torch.as_tensor(rng.normal(size=2000))
        u = torch.as_tensor(rng.normal(size=(2000, 4)) * 0.5)
        log = simulate_feedback(
            torch.sigmoid(f).numpy(),
            signals=TWO_OF_EACH,
            propensity=torch.sigmoid(u).numpy(),
            random_state=seed,
        )
        read = FeedbackLog(
            np.asarray(log.actions, dtype=float), np.ones(2000), signals=measurement.signals
        )
        found.append(examination_test(Rows(measurement, f + 0.1, u - 0.1, None, None), read).z)
    assert abs(np.mean(found)) < 0.5  # though the logits are wrong by 0.1
    assert 0.7 < np.std(found) < 1.3
