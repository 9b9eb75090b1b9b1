"""Beta-binomial counts: exposures of one response that are correlated."""

import re

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln
from scipy.stats import betabinom
from sklearn import config_context
from sklearn.base import clone

from implicitrm_sk import (
    BatchedSearchCV,
    IdentificationWarning,
    ImplicitRewardEstimator,
    identification_report,
)
from implicitrm_sk.datasets import simulate_feedback
from implicitrm_sk.measurement._dispersed import effective, log_counts
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.signals import Action, Graded

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

MEMBERS = 2
VOTES = Action(counts="beta-binomial")
RATE = torch.tensor([0.05, 0.1], dtype=torch.float64)
KINDS = [Action(1, counts="beta-binomial"), Action(0, counts="beta-binomial")]


def logits(n, scale=2.0, columns=4, seed=0):
    drawn = torch.randn(
        (MEMBERS, n, 1 + columns), generator=torch.Generator().manual_seed(seed)
    ).double()
    drawn *= scale
    return drawn[..., 0].clone().requires_grad_(), drawn[..., 1:].clone().requires_grad_()


def some_counts(n, most=40, seed=0):
    rng = np.random.default_rng(seed)
    shown = rng.integers(1, most, size=(n, 2)).astype(float)
    y = np.floor(rng.random((n, 2)) * (shown + 1))
    y[::7, 0] = np.nan
    return torch.as_tensor(y), torch.as_tensor(shown)


def log_of_counts(n=2500, seed=0, rho=0.2, targets=(1, 0), false_rate=0.1, preference=True):
    """Return X, counts over 4 to 8 exposures, the exposures, and the preferences."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    r = rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))
    shown = rng.integers(4, 9, n)
    columns = []
    for j, target in enumerate(targets):
        u = np.column_stack([0.8 * X[:, 1 + j] - 0.3, np.full(n, np.log(rho / (1 - rho)))])
        kind = Action(target, false_rate, counts="beta-binomial")
        shows = r if preference else np.full(n, target)
        columns.append(kind.sample(u, shows, rng, exposures=shown[:, None])[:, 0])
    return X, np.column_stack(columns), np.column_stack([shown] * len(targets)), r


SMALL = {
    "hidden_layer_sizes": (16,),
    "n_estimators": 2,
    "learning_rate_init": 0.01,
    "max_epochs": 60,
    "random_state": 0,
}
QUICK = SMALL | {"max_epochs": 2, "early_stopping": False, "false_action_rate": 0.1}


# ---------------------------------------------------------------------- the likelihood


@pytest.mark.parametrize("rho", [1e-9, 1e-4, 0.05, 0.5, 0.99])
@pytest.mark.parametrize(("p", "n"), [(0.001, 3), (0.2, 8), (0.5, 200), (0.95, 3000)])
def test_it_is_the_beta_binomial_distribution(rho, p, n):
    y = np.unique([0, 1, n // 3, n - 1, n])
    spread = torch.full((len(y),), np.log(rho / (1 - rho)), dtype=torch.float64)
    count = torch.as_tensor(y, dtype=torch.float64)
    log_p, log_q = (torch.full_like(spread, np.log(q)) for q in (p, 1 - p))
    found = log_counts(log_p, log_q, spread, count, n - count).numpy()
    t = rho / (1 - rho)
    for k, value in zip(y, found, strict=True):
        steps = np.arange(n) * t
        expected = np.log(p + steps[:k]).sum() + np.log(1 - p + steps[: n - k]).sum()
        assert value == pytest.approx(expected - np.log1p(steps).sum(), rel=1e-9, abs=1e-9)
        of_first = effective(log_p, spread, torch.full_like(spread, float(k)))[0]
        assert of_first == pytest.approx((p / (p + steps[:k])).sum(), rel=1e-9)
    if rho > 1e-3:
        ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
        assert_allclose(found + ways, betabinom.logpmf(y, n, p / t, (1 - p) / t), rtol=1e-7)


def test_probabilities_over_all_counts_sum_to_one():
    y = np.array([(a, b) for a in range(6) for b in range(4)], dtype=float)
    shown = torch.tensor([[5.0, 3.0]], dtype=torch.float64).expand(len(y), 2)
    f, u = logits(1)
    log_p = Measurement(KINDS).log_likelihood(
        f.expand(-1, len(y)),
        u.expand(-1, len(y), -1),
        torch.as_tensor(y),
        RATE,
        exposures=shown,
    )
    n = shown.numpy()
    ways = (gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)).sum(axis=1)
    total = (log_p + torch.as_tensor(ways)).exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [RATE, None], ids=["rates", "no rates"])
@pytest.mark.parametrize("scale", [2.0, 30.0])
def test_the_gradient_is_that_of_autograd(scale, rate):
    y, shown = some_counts(200)
    if rate is None:
        y[:, 1][y[:, 0] > 0] = 0.0
    f, u = logits(200, scale)
    measurement = Measurement(KINDS)
    likelihood = measurement.log_likelihood(f, u, y, rate, exposures=shown)
    assert torch.isfinite(likelihood).all()
    ours = torch.autograd.grad(measurement.nll(f, u, y, rate, exposures=shown).sum(), (f, u))
    for mine, theirs in zip(ours, torch.autograd.grad(-likelihood.sum(), (f, u)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    single = measurement.nll(
        f.float(),
        u.float(),
        y.float(),
        None if rate is None else rate.float(),
        exposures=shown.float(),
    )
    for part in torch.autograd.grad(single.sum(), (f, u)):
        assert torch.isfinite(part).all()


def test_without_correlation_it_is_the_binomial_kind():
    y, shown = some_counts(100)
    f, u = logits(100, columns=2)
    spread = torch.full_like(u, -40.0)
    wide = torch.stack([u.detach(), spread], -1).flatten(-2).requires_grad_()
    found, gradients = [], []
    for kinds, v in ((KINDS, wide), ([Action(1), Action(0)], u)):
        nll = Measurement(kinds).nll(f, v, y, RATE, exposures=shown)
        found.append(nll)
        gradients.append(torch.autograd.grad(nll.sum(), (f, v)))
        groups = Measurement(kinds).posterior(f, v, y, RATE, exposures=shown)
        found.append(groups)
    torch.testing.assert_close(found[0], found[2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[1], found[3], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradients[0][1][..., ::2], gradients[1][1], rtol=1e-9, atol=1e-10)
    assert gradients[0][1][..., 1::2].abs().max() < 1e-9


def test_passive_and_active_are_all_there_is():
    y, shown = some_counts(100)
    f, u = logits(100)
    measurement = Measurement(KINDS)
    q = measurement.log_joint(f, u, y, RATE, exposures=shown).softmax(0)
    groups = measurement.posterior(f, u, y, RATE, exposures=shown)
    torch.testing.assert_close(groups[..., 0] + groups[..., 2], q[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(groups[..., 1] + groups[..., 3], q[0], rtol=0, atol=1e-12)
    acted = y[:, 0] > 0
    assert (groups[:, acted, 2] == 0).all()  # whoever acted was active


def test_the_step_of_the_rates_raises_the_likelihood():
    """Many steps from far away end where the likelihood is largest (Minka 2000)."""
    _, y, shown, _ = log_of_counts(400, targets=(1,))
    y, shown = torch.as_tensor(y), torch.as_tensor(shown).double()
    u = torch.tensor([0.0, -1.4], dtype=torch.float64).expand(1, 400, 2)
    f = torch.full((1, 400), -30.0, dtype=torch.float64)  # nobody likes anything: the rate is all
    measurement = Measurement([VOTES])
    rate = torch.tensor([0.6], dtype=torch.float64)
    values = []
    for _ in range(60):
        values.append(measurement.log_likelihood(f, u, y, rate, exposures=shown).sum().item())
        false, possible = measurement.false_action_counts(f, u, y, rate, exposures=shown)
        rate = (false.sum((0, 1)) / possible.sum((0, 1))).double()
    assert (np.diff(values) > -1e-9).all()
    for other in (0.98, 1.02):
        near = measurement.log_likelihood(f, u, y, rate * other, exposures=shown).sum().item()
        assert near < values[-1]


# ---------------------------------------------------------------------- fits


@pytest.fixture(scope="module")
def fitted():
    """Return the log, and the fits with binomial and with beta-binomial counts."""
    X, y, shown, r = log = log_of_counts()
    fits = {}
    for counts in ("binomial", "beta-binomial"):
        signals = [Action(target, counts=counts) for target in (1, 0)]
        est = ImplicitRewardEstimator(signals=signals, **SMALL)
        if counts == "binomial":
            with pytest.warns(IdentificationWarning, match="vary more than exposures"):
                est.fit(X, y, exposures=shown)
        else:
            est.fit(X, y, exposures=shown)
        fits[counts] = est
    return log, fits


@pytest.mark.slow
def test_sample_then_fit_recovers_the_truth(fitted):
    (X, y, shown, r), fits = fitted
    est = fits["beta-binomial"]
    assert est.exposure_correlation_ == pytest.approx([0.2, 0.2], abs=0.05)
    assert est.false_action_rate_ == pytest.approx([0.1, 0.1], abs=0.035)
    truth = 1 / (1 + np.exp(-2 * X[:, 0]))
    assert np.corrcoef(est.predict(X), truth)[0, 1] > 0.97
    assert est.predict(X).mean() == pytest.approx(r.mean(), abs=0.05)
    assert str(est.identification_) == (
        "ranking only (assuming equally correlated exposures of one preference)"
    )


@pytest.mark.slow
def test_binomial_counts_are_rejected_and_the_kind_is_named(fitted):
    (X, y, shown, r), fits = fitted
    plain = fits["binomial"]
    assert plain.identification_.level == "not identified"
    assert "Action(counts='beta-binomial')" in plain.identification_.advice[0]
    assert np.isnan(plain.exposure_correlation_).all()
    errors = []
    for est in fits.values():
        groups = est.predict_proba(X, y, exposures=shown).astype(float)
        errors.append(np.mean((groups[:, 0] + groups[:, 2] - r) ** 2))
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.slow
def test_counts_of_one_kind_of_response_identify_nothing():
    X, y, shown, _ = log_of_counts(1000, targets=(1,), preference=False)
    est = ImplicitRewardEstimator(signals=[VOTES], **SMALL)
    with pytest.warns(IdentificationWarning, match="nearly as well without any preference"):
        est.fit(X, y[:, 0], exposures=shown[:, 0])
    assert est.identification_.level == "not identified"


@pytest.mark.slow
def test_the_report_on_beta_binomial_counts(fitted):
    (X, y, shown, _), fits = fitted
    with np.errstate(all="ignore"):
        report = identification_report(
            clone(fits["beta-binomial"]), X, y, n_starts=2, exposures=shown
        )
    assert report.split.shown and report.dispersion is None
    found = report.to_frame().set_index("item").finding
    assert found["two preferences behind the counts"].startswith("shown")


@pytest.mark.slow
def test_files_cards_and_all_that_predicts(fitted, tmp_path):
    (X, y, shown, _), fits = fitted
    est = fits["beta-binomial"]
    est.save(tmp_path / "model")
    again = ImplicitRewardEstimator.load(tmp_path / "model")
    assert again.signals_ == tuple(KINDS)
    assert_array_equal(again.exposure_correlation_, est.exposure_correlation_)
    assert_array_equal(again.predict(X), est.predict(X))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "correlation of two exposures of a response, by kind of feedback: 0." in card
    assert est.propensity(X).shape == est.predict_action(X).shape == y.shape
    assert (est.propensity(X) > est.false_action_rate_).all()
    assert np.isfinite(est.score(X, y, exposures=shown))
    few, many = (est.predict_proba(X[:1], [[0, 0]], exposures=[[n, n]])[0] for n in (1, 100))
    assert_allclose([few.sum(), many.sum()], 1, rtol=1e-5)
    binomial = fits["binomial"].predict_proba(X[:1], [[9, 0]], exposures=[[100, 100]])[0]
    votes = est.predict_proba(X[:1], [[9, 0]], exposures=[[100, 100]])[0]
    # Both take the response for preferred. Correlated votes show it less.
    assert binomial[1] + binomial[3] < votes[1] + votes[3] < 0.1


@pytest.mark.slow
def test_batches_users_labels_and_searches():
    X, y, shown, r = log_of_counts(400, targets=(1,))
    y, shown = y[:, 0], shown[:, 0]
    est = ImplicitRewardEstimator(signals=[VOTES], **QUICK)
    labels = np.where(np.arange(400) < 50, r, np.nan)
    labelled = clone(est).fit(X, y, exposures=shown, labels=labels)
    start = labelled.exposure_correlation_[0]
    for _ in range(3):
        labelled.partial_fit(X, y, exposures=shown)
    assert labelled.exposure_correlation_[0] != start
    users = np.arange(400) % 40
    of_users = clone(est).fit(X, y, exposures=shown, user_id=users)
    assert 0 < of_users.exposure_correlation_[0] < 1
    grid = {"learning_rate_init": [0.01, 0.001]}
    with config_context(enable_metadata_routing=True):
        search = BatchedSearchCV(est, grid, cv=2).fit(X, y, exposures=shown)
    assert 0 < search.best_estimator_.exposure_correlation_[0] < 1


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("signal", "change", "message"),
    [
        (Action(counts="beta"), {}, "counts='beta' of an Action; expected 'binomial' or"),
        (
            Action(counts="beta-binomial", delay="exponential"),
            {},
            "counts='beta-binomial' is not available for an Action with a delay",
        ),
        (VOTES, {"exposures": None}, "but 0 of its responses have 4 exposures; expected at least"),
        (VOTES, {"exposures": np.full(60, 3)}, "signal 0 has beta-binomial counts, but"),
        (VOTES, {"response_id": np.arange(60) // 2}, "response_id is not available for the signal"),
    ],
)
def test_what_it_cannot_be_combined_with(signal, change, message):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = np.arange(60) % 2
    side = {"exposures": np.full(60, 5)} | change
    est = ImplicitRewardEstimator(signals=[signal], false_action_rate=0.1)
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(X, y, **side)


def test_a_common_propensity_function_is_refused():
    X, y, shown, _ = log_of_counts(60)
    est = ImplicitRewardEstimator(signals=KINDS, shared_propensity=True, false_action_rate=0.1)
    message = (
        "of y: one of its logits is not the logit of a propensity. Leave shared_propensity out, or "
        "leave counts out."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        est.fit(X, y, exposures=shown)


# ---------------------------------------------------------------------- the simulator


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_simulated_counts_have_the_mean_and_the_variance_they_should(rho):
    m, n, rate, e = 40_000, 12, 0.4, 0.1
    z = np.arange(m) % 2
    log = simulate_feedback(
        z,
        signals={"yes": VOTES, "no": "negative"},
        propensity="constant",
        rate=rate,
        false_action_rate=e,
        exposures=np.full(m, n),
        exposure_correlation=[rho, 0.0],
        random_state=0,
    )
    assert list(log.actions) == ["yes", "no"] and log.exposures.shape == (m, 2)
    assert set(log.fit_params()) == {"exposures"} and np.isnan(log.activity).all()
    for name, correlation, liked in (("yes", rho, 1), ("no", 0.0, 0)):
        for c in (0, 1):
            p = rate if c == liked else e
            counts = log.actions[name][z == c]
            variance = n * p * (1 - p) * (1 + (n - 1) * correlation)
            assert counts.mean() == pytest.approx(n * p, abs=5 * np.sqrt(variance / len(counts)))
            assert counts.var() == pytest.approx(variance, rel=0.06)


def test_counts_of_the_simulator_fit_its_other_settings():
    z, users = np.arange(300) % 2, np.arange(300) % 30
    log = simulate_feedback(
        z,
        X=np.random.default_rng(0).normal(size=(300, 3)),
        exposures=np.arange(300) % 7 + 1,
        user_id=users,
        user_activity=1.0,
        logged_rate=0.8,
        random_state=0,
    )
    assert log.actions.shape == log.exposures.shape == (300,)
    logged = ~np.isnan(log.actions)
    assert 0.6 < logged.mean() < 0.95
    assert (log.actions[logged] <= log.exposures[logged]).all() and log.actions[logged].max() > 1
    assert (log.actions[logged & (z == 0)] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signals": [VOTES]}, "needs exposures, got None: a response that is shown once has no"),
        ({"exposure_correlation": 0.2}, "exposure_correlation=0.2 needs exposures, got None"),
        ({"exposures": [2, 0, 2]}, "exposures holds 0; expected whole numbers of at least 1"),
        ({"exposures": [2, 1.5, 2]}, "exposures holds 1.5; expected whole numbers"),
        ({"exposures": [2, 2]}, "exposures has shape (2,); expected (3,) or (3, 1)"),
        ({"exposures": [2, 2, 2], "exposure_correlation": 1.0}, "must lie in [0, 1), got 1.0"),
        (
            {"exposures": [2, 2, 2], "examination": 0.5},
            "examination below 1 is not available with exposures, whose actions are counted. Leave",
        ),
        (
            {"exposures": [2, 2, 2], "signals": [Action(delay="exponential")]},
            "exposures is not available for the signal Action(target=1, false_rate=None, delay=",
        ),
        (
            {"exposures": [2, 2, 2], "signals": [Graded(bins=3)]},
            "expected actions that do not come late. Leave exposures out",
        ),
        ({"signals": [Action(counts="beta")]}, "counts='beta' of an Action; expected 'binomial'"),
    ],
)
def test_what_the_simulator_refuses_says_what_to_do(change, message):
    given = {"propensity": "constant", "random_state": 0} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate_feedback([0, 1, 1], **given)
