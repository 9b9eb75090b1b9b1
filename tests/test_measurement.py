"""Groups, posteriors, likelihood and risk against enumeration, simulation and exact arithmetic."""

import itertools
import math

import mpmath  # comes with torch
import numpy as np
import pytest
import torch
from first_edition import preference_risk, stratified_risk
from positive import (
    GROUP_NAMES,
    false_action_counts,
    group_log_joint,
    log1mexp,
    log_joint,
    log_likelihood,
    posterior,
    propensity_log_probs,
    propensity_risk,
)

NAN = math.nan
MEMBERS = 2
#: Which e_k is how large: all functions must treat each signal by its own rate.
RATES = {
    "none": lambda K: None,
    "zero": lambda K: np.zeros(K),
    "positive": lambda K: np.linspace(0.05, 0.3, K),
    "mixed": lambda K: np.where(np.arange(K) % 2 == 0, 0.0, 0.2),
}
CASES = [(K, rate) for K in (1, 2, 3, 4) for rate in RATES if (K, rate) != (1, "mixed")]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def as_rate(rate):
    return None if rate is None else torch.as_tensor(rate)


def every_pattern(K, values=(0.0, 1.0, NAN)):
    return np.array(list(itertools.product(values, repeat=K)))


def example(K, rate, seed=0, repeats=3, scale=2.0):
    """Return float64 logits of two members, every pattern of actions, and the rates."""
    rng = np.random.default_rng(seed)
    actions = np.repeat(every_pattern(K), repeats, axis=0)
    reward_logit = rng.normal(size=(MEMBERS, len(actions))) * scale
    propensity_logit = rng.normal(size=(MEMBERS, len(actions), K)) * scale
    return reward_logit, propensity_logit, actions, RATES[rate](K)


def tensors(reward_logit, propensity_logit, actions, rate):
    return (
        torch.as_tensor(reward_logit),
        torch.as_tensor(propensity_logit),
        torch.as_tensor(actions),
        as_rate(rate),
    )


def enumerate_row(reward, propensity, actions, rate):
    """Sum over r* and a_1..a_K; return P(group, y), P(r*, y) and P(a_k=1, y) of one row.

    The words of the model, one factor each: r* ~ Bern(R); a_k ~ Bern(A_k) independent of r*;
    a logged y_k is a_k if r*=1 and Bern(e_k), whatever a_k, if r*=0.
    """
    K = len(actions)
    groups, preference, fires = np.zeros(4), np.zeros(2), np.zeros(K)
    for preferred in (1, 0):
        for active in itertools.product((1, 0), repeat=K):
            p = reward if preferred else 1 - reward
            for k in range(K):
                p *= propensity[k] if active[k] else 1 - propensity[k]
                if np.isnan(actions[k]):
                    continue
                if preferred:
                    p *= 1.0 if actions[k] == active[k] else 0.0
                else:
                    p *= rate[k] if actions[k] == 1 else 1 - rate[k]
            name = ("P" if preferred else "N") + ("A" if any(active) else "P")
            groups[GROUP_NAMES.index(name)] += p
            preference[preferred] += p
            fires += p * np.array(active)
    return groups, preference, fires


def enumerate_all(reward_logit, propensity_logit, actions, rate):
    K = actions.shape[1]
    e = np.zeros(K) if rate is None else rate
    rewards = sigmoid(reward_logit)
    propensities = e + (1 - e) * sigmoid(propensity_logit)
    rows = [
        [
            enumerate_row(rewards[m, i], propensities[m, i], actions[i], e)
            for i in range(len(actions))
        ]
        for m in range(MEMBERS)
    ]
    return [np.array([[row[part] for row in member] for member in rows]) for part in range(3)]


def prior_in_closed_form(reward_logit, propensity_logit, rate):
    """R and 1 - R times P(at least one a_k = 1) and its complement."""
    e = 0.0 if rate is None else rate
    R = sigmoid(reward_logit)
    passive = np.prod((1 - e) * (1 - sigmoid(propensity_logit)), axis=-1)
    return np.stack(
        [R * (1 - passive), (1 - R) * (1 - passive), R * passive, (1 - R) * passive], axis=-1
    )


# The model against enumeration


def test_group_order():
    assert GROUP_NAMES == ("PA", "NA", "PP", "NP")


@pytest.mark.parametrize(("K", "rate"), CASES)
def test_joint_posterior_and_likelihood_match_enumeration(K, rate):
    args = example(K, rate)
    assert len(np.unique(args[2].astype(str), axis=0)) == 3**K
    groups, preference, _ = enumerate_all(*args)
    total = groups.sum(-1)
    inputs = tensors(*args)

    np.testing.assert_allclose(group_log_joint(*inputs).exp(), groups, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(
        posterior(*inputs), groups / total[..., None], rtol=1e-12, atol=1e-15
    )
    np.testing.assert_allclose(log_likelihood(*inputs), np.log(total), rtol=1e-12, atol=1e-15)
    preferred, not_preferred = log_joint(*inputs)
    np.testing.assert_allclose(preferred.exp(), preference[..., 1], rtol=1e-12)
    np.testing.assert_allclose(not_preferred.exp(), preference[..., 0], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(("K", "rate"), CASES)
def test_risk_matches_enumeration(K, rate):
    """E_pref with P(r*=1 | y), and E_prop with P(a_k=1 | y) of each logged signal."""
    f, u, actions, e = args = example(K, rate, seed=1)
    groups, preference, fires = enumerate_all(*args)
    total = groups.sum(-1)
    q, active = preference[..., 1] / total, fires / total[..., None]
    R = sigmoid(f)
    A = (0 if e is None else e) + (1 - (0 if e is None else e)) * sigmoid(u)

    expected = -(q * np.log(R) + (1 - q) * np.log(1 - R))
    np.testing.assert_allclose(
        preference_risk(torch.as_tensor(f), torch.as_tensor(q)), expected, rtol=1e-11
    )
    entropy = -(active * np.log(A) + (1 - active) * np.log(1 - A))
    expected = expected + np.where(np.isnan(actions), 0, entropy).sum(-1)
    np.testing.assert_allclose(stratified_risk(*tensors(*args)), expected, rtol=1e-11)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_zero_rates_mean_no_false_actions(K):
    f, u, actions, zero = tensors(*example(K, "zero"))
    for function in (group_log_joint, posterior, log_likelihood, stratified_risk):
        torch.testing.assert_close(
            function(f, u, actions, zero), function(f, u, actions, None), rtol=1e-14, atol=0
        )


@pytest.mark.parametrize("rate", ["none", "positive", "mixed"])
def test_propensity_exceeds_the_false_action_rate(rate):
    _, u, _, e = example(3, rate)
    log_a, log_not_a = propensity_log_probs(torch.as_tensor(u), as_rate(e))
    expected = (0 if e is None else e) + (1 - (0 if e is None else e)) * sigmoid(u)
    np.testing.assert_allclose(log_a.exp(), expected, rtol=1e-13)
    np.testing.assert_allclose(log_not_a.exp(), 1 - expected, rtol=1e-12)
    assert (log_a.exp() > (0 if e is None else torch.as_tensor(e))).all()


def test_members_broadcast():
    """Leading dimensions are members: none, one or several give the same numbers."""
    f, u, actions, e = tensors(*example(2, "mixed"))
    for function in (group_log_joint, posterior, log_likelihood, stratified_risk):
        together = function(f, u, actions, e)
        for m in range(MEMBERS):
            torch.testing.assert_close(function(f[m], u[m], actions, e), together[m])
        torch.testing.assert_close(function(f[None], u[None], actions, e)[0], together)


# Consistency rules


@pytest.mark.parametrize(("K", "rate"), CASES)
def test_posterior_without_log_is_the_prior(K, rate):
    f, u, _, e = example(K, rate, repeats=1)
    nothing = torch.full((f.shape[1], K), NAN, dtype=torch.float64)
    result = posterior(torch.as_tensor(f), torch.as_tensor(u), nothing, as_rate(e))
    np.testing.assert_allclose(result, prior_in_closed_form(f, u, e), rtol=1e-12)
    np.testing.assert_array_equal(
        log_likelihood(torch.as_tensor(f), torch.as_tensor(u), nothing, as_rate(e)).round(
            decimals=14
        ),
        0,
    )


@pytest.mark.parametrize(("K", "rate"), CASES)
def test_average_posterior_over_actions_is_the_prior(K, rate):
    """sum_y P(y) P(group | y) = P(group), whichever of the signals are logged."""
    rng = np.random.default_rng(2)
    f, u = rng.normal(size=(1, 1)) * 2, rng.normal(size=(1, 1, K)) * 2
    e = RATES[rate](K)
    for logged in itertools.product((True, False), repeat=K):
        values = [(0.0, 1.0) if is_logged else (NAN,) for is_logged in logged]
        actions = torch.tensor(list(itertools.product(*values)), dtype=torch.float64)
        n = len(actions)
        args = (
            torch.as_tensor(f).expand(1, n),
            torch.as_tensor(u).expand(1, n, K),
            actions,
            as_rate(e),
        )
        weights = log_likelihood(*args).exp()
        assert weights.sum().item() == pytest.approx(1, abs=1e-13)
        average = (weights[..., None] * posterior(*args)).sum(1)
        np.testing.assert_allclose(average, prior_in_closed_form(f, u, e)[:, 0], rtol=1e-12)


@pytest.mark.parametrize(("K", "rate"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posterior_is_a_distribution(K, rate, dtype):
    f, u, actions, e = tensors(*example(K, rate, scale=30))
    result = posterior(f.to(dtype), u.to(dtype), actions.to(dtype), e)
    assert result.dtype == dtype
    assert (result >= 0).all()
    torch.testing.assert_close(
        result.sum(-1), torch.ones_like(f, dtype=dtype), rtol=0, atol=4 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("K", [1, 2, 3])
def test_an_action_means_positive_active_without_false_actions(K):
    f, u, actions, _ = tensors(*example(K, "none", scale=20))
    acted = (actions == 1).any(-1)
    result = posterior(f, u, actions)[:, acted]
    assert torch.equal(result, torch.tensor([1.0, 0, 0, 0]).to(result).expand_as(result))
    assert (posterior(f, u, actions)[:, ~acted, 0] < 1).all()


@pytest.mark.parametrize("K", [1, 2, 3])
def test_an_action_shares_mass_with_false_actions(K):
    """NA and NP stay possible where e_k > 0; PP does not: it is active in the logged signal."""
    f, u, actions, e = tensors(*example(K, "positive"))
    acted = (actions == 1).any(-1)
    result = posterior(f, u, actions, e)[:, acted]
    assert (result[..., [0, 1, 3]] > 0).all()
    assert (result[..., 2] == 0).all()


def test_an_action_on_an_errorless_signal_is_certain_beside_a_noisy_one():
    actions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    e = torch.tensor([0.0, 0.2], dtype=torch.float64)
    result = posterior(torch.zeros(3).double(), torch.zeros(3, 2).double(), actions, e)
    assert result[[0, 2], 0].tolist() == [1, 1]
    assert 0 < result[1, 0] < 1


def test_one_signal_is_the_model_of_the_paper():
    """Table 1 and appendix of Wang et al. 2026: y=0 is NA, PP, NP by (1-R)A, R(1-A), (1-R)(1-A)."""
    rng = np.random.default_rng(3)
    f, u = rng.normal(size=50) * 2, rng.normal(size=50) * 2
    R, A = sigmoid(f), sigmoid(u)
    y = (np.arange(50) % 2).astype(float)
    mass = np.stack([0 * R, (1 - R) * A, R * (1 - A), (1 - R) * (1 - A)], axis=-1)
    expected = np.where(y[:, None] == 1, [1, 0, 0, 0], mass / (1 - R * A)[:, None])
    f, u, y = torch.as_tensor(f), torch.as_tensor(u)[:, None], torch.as_tensor(y)[:, None]
    np.testing.assert_allclose(posterior(f, u, y), expected, rtol=1e-12, atol=1e-15)

    likelihood = np.where(y[:, 0] == 1, R * A, 1 - R * A)
    np.testing.assert_allclose(log_likelihood(f, u, y).exp(), likelihood, rtol=1e-12)

    PA, NA, PP, NP = expected.T
    risk = -(PA + PP) * np.log(R) - (NA + NP) * np.log(1 - R)
    risk += -(PA + NA) * np.log(A) - (PP + NP) * np.log(1 - A)
    np.testing.assert_allclose(stratified_risk(f, u, y), risk, rtol=1e-12)


# The gradient of the objective is that of the likelihood


@pytest.mark.parametrize("rate", ["none", "zero", "positive", "mixed"])
@pytest.mark.parametrize("K", [1, 2, 3])
def test_risk_has_the_gradient_of_the_likelihood(K, rate):
    f, u, actions, e = tensors(*example(K, rate, seed=4))
    f.requires_grad_()
    u.requires_grad_()
    risk = torch.autograd.grad(stratified_risk(f, u, actions, e).sum(), (f, u))
    likelihood = torch.autograd.grad(-log_likelihood(f, u, actions, e).sum(), (f, u))
    for ours, expected in zip(risk, likelihood, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
    assert (risk[1][:, torch.isnan(actions)] == 0).all()


@pytest.mark.parametrize(("K", "rate"), CASES)
def test_risk_has_the_gradient_of_cross_entropies_with_posteriors_held_fixed(K, rate):
    """The objective as the paper states it: differentiated through R and A, not the posteriors."""
    args = example(K, rate, seed=1)
    groups, preference, fires = enumerate_all(*args)
    q = torch.as_tensor(preference[..., 1] / groups.sum(-1))
    active = torch.as_tensor(fires / groups.sum(-1)[..., None])
    f, u, actions, e = tensors(*args)
    f.requires_grad_()
    u.requires_grad_()
    R = torch.sigmoid(f)
    A = torch.sigmoid(u) if e is None else e + (1 - e) * torch.sigmoid(u)
    entropy = -(active * A.log() + (1 - active) * (1 - A).log())
    objective = -(q * R.log() + (1 - q) * (1 - R).log()) + entropy.where(
        ~torch.isnan(actions), 0
    ).sum(-1)
    risk = stratified_risk(f, u, actions, e)
    torch.testing.assert_close(risk, objective, rtol=1e-11, atol=0)
    weight = torch.linspace(0, 2, risk.numel(), dtype=torch.float64).view_as(risk)
    expected = torch.autograd.grad((objective * weight).sum(), (f, u))
    for ours, reference in zip(
        torch.autograd.grad((risk * weight).sum(), (f, u)), expected, strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-10)


# Unbiasedness


def simulate(K, reward_level, propensity_level, rate, n=200_000):
    """Draw a log from the model; return true logits, actions and r*, from one uniform covariate.

    n makes the standard errors about 0.1 % of a nat, while the wrong losses are off by 10 % and
    more: they fail by tens of standard errors. The seed is fixed; of other seeds, about one in
    370 would put an unbiased estimate beyond three standard errors.
    """
    rng = np.random.default_rng(5)
    x = rng.random(n) - 0.5
    f = reward_level + 2 * x
    u = propensity_level + np.linspace(2, -2, K) * x[:, None]
    e = np.zeros(K) if rate is None else rate
    preferred = rng.random(n) < sigmoid(f)
    p = np.where(preferred[:, None], e + (1 - e) * sigmoid(u), e)
    actions = (rng.random((n, K)) < p).astype(float)
    if K > 1:
        actions[rng.random((n, K)) < 0.3] = NAN
    prediction = 1.5 - x  # far from the truth, and nowhere 0, where any target costs the same
    return f, u, actions, preferred.astype(float), prediction


def cross_entropy(logit, target):
    return preference_risk(torch.as_tensor(logit), torch.as_tensor(target)).numpy()


def standard_errors(estimate, ideal):
    """Bias of a loss against the ideal loss on the same rows, in standard errors."""
    difference = estimate - ideal
    return difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference)))


@pytest.mark.parametrize(
    ("K", "reward_level", "propensity_level", "rate"),
    [
        (1, 1.8, -1.1, None),  # R about 0.85, A about 0.25
        (1, -1.8, 0.6, None),  # R about 0.15, A about 0.65
        (1, 1.8, -1.1, np.array([0.1])),
        (3, -1.2, 0.3, None),
        (3, 1.2, -1.5, np.array([0.02, 0.0, 0.1])),
    ],
)
def test_preference_risk_is_unbiased_given_true_posteriors(K, reward_level, propensity_level, rate):
    """Theorem 3.2 of Wang et al. 2026: the mean of E_pref is that of the loss on r* itself."""
    f, u, actions, preferred, prediction = simulate(K, reward_level, propensity_level, rate)
    ideal = cross_entropy(prediction, preferred)

    groups = posterior(
        torch.as_tensor(f), torch.as_tensor(u), torch.as_tensor(actions), as_rate(rate)
    )
    assert abs(standard_errors(cross_entropy(prediction, groups[:, 0] + groups[:, 2]), ideal)) < 3

    acted = (actions == 1).any(1).astype(float)
    assert abs(standard_errors(cross_entropy(prediction, acted), ideal)) > 10


@pytest.mark.parametrize("own_normaliser", [True, False])
@pytest.mark.parametrize(("reward_level", "propensity_level"), [(1.8, -1.1), (-1.8, 0.6)])
def test_printed_equation_6_is_biased(reward_level, propensity_level, own_normaliser):
    """Eq. 6 as printed gives NA the mass of PP, R(1-A), and PP that of PA, RA.

    Its three masses of y=0 do not add up to P(y=0), so both ways to normalise them are tried.
    """
    f, u, actions, preferred, prediction = simulate(1, reward_level, propensity_level, None)
    R, A = sigmoid(f), sigmoid(u[:, 0])
    printed_na, printed_pp, passive = R * (1 - A), R * A, (1 - R) * (1 - A)
    total = printed_na + printed_pp + passive if own_normaliser else 1 - R * A
    printed = np.where(actions[:, 0] == 1, 1, printed_pp / total)

    ideal = cross_entropy(prediction, preferred)
    assert abs(standard_errors(cross_entropy(prediction, printed), ideal)) > 10


# Numerical safety

LOGITS = [-1e3, -69.0, -30.0, -5.0, -0.1, 3.0, 16.0, 40.0, 1e3]
PRECISION = {torch.float64: (1e-12, 1e-14), torch.float32: (1e-5, 1e-6)}


def exact_row(f, u, actions, rate):
    """Return likelihood, its gradient, posterior and risk of one row, to 40 digits.

    A probability and its complement are computed side by side: nothing cancels.
    """
    mp = mpmath.mp

    def bernoulli(logit):
        return 1 / (1 + mp.exp(-mp.mpf(logit))), 1 / (1 + mp.exp(mp.mpf(logit)))

    R, not_R = bernoulli(f)
    signals = []
    for logit, y, e in zip(u, actions, rate, strict=True):
        s, not_s = bernoulli(logit)
        signals.append((mp.mpf(e) + (1 - mp.mpf(e)) * s, (1 - mp.mpf(e)) * not_s, s, y, e))
    preferred, not_preferred, passive, passive_if_preferred = R, not_R, mp.mpf(1), mp.mpf(1)
    for A, not_A, _, y, e in signals:
        passive *= not_A
        if math.isnan(y):
            passive_if_preferred *= not_A
        else:
            preferred *= A if y == 1 else not_A
            not_preferred *= mp.mpf(e) if y == 1 else 1 - mp.mpf(e)
            passive_if_preferred *= 0 if y == 1 else 1
    total = preferred + not_preferred
    if total == 0:
        return None
    q, not_q = preferred / total, not_preferred / total
    groups = [
        q * (1 - passive_if_preferred),
        not_q * (1 - passive),
        q * passive_if_preferred,
        not_q * passive,
    ]
    risk = -(q * mp.log(R) + not_q * mp.log(not_R)) if R * not_R else mp.nan
    gradient = [q * not_R - not_q * R]
    for A, not_A, s, y, _ in signals:
        if math.isnan(y):
            gradient.append(mp.mpf(0))
            continue
        # d log A / du = (1 - e) s (1 - s) / A,  d log(1 - A) / du = -s
        gradient.append(q * (not_A * s / A if y == 1 else -s) if A else mp.nan)
        active, not_active = (q + not_q * A, not_q * not_A) if y == 1 else (not_q * A, 0)
        if y == 0:
            not_active = q + not_q * not_A
        risk -= active * mp.log(A) + not_active * mp.log(not_A) if A * not_A else mp.nan
    return mp.log(total), gradient, groups, risk


def exact(f, u, actions, rate):
    """Stack `exact_row` as float64; rows that cannot happen are NaN."""
    K = actions.shape[1]
    with mpmath.workdps(40):
        rows = [
            exact_row(f[i], u[i], actions[i], np.zeros(K) if rate is None else rate)
            for i in range(len(f))
        ]
        as_float = [
            [NAN] * (K + 7)
            if row is None
            else [float(v) for v in (row[0], row[3], *row[1], *row[2])]
            for row in rows
        ]
    values = np.array(as_float)
    return values[:, 0], values[:, 1], values[:, 2 : K + 3], values[:, K + 3 :]


def tail_example(K, propensity_logits):
    if K == 1:
        grid = itertools.product(LOGITS, propensity_logits, (0.0, 1.0, NAN))
        f, u, y = np.array(list(grid)).T
        return f, u[:, None], y[:, None]
    rng = np.random.default_rng(6)
    actions = np.tile(every_pattern(K), (12, 1))
    return (
        rng.choice(LOGITS, size=len(actions)),
        rng.choice(propensity_logits, size=actions.shape),
        actions,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rate", ["none", "positive", "mixed"])
@pytest.mark.parametrize("K", [1, 3])
def test_tails_match_exact_arithmetic(K, rate, dtype):
    """Likelihood, risk, both gradients and posterior at logits from -1000 to 1000."""
    e = RATES[rate](K)
    f, u, actions = tail_example(K, LOGITS)
    # The rates and logits that the dtype can hold are the model to compare with.
    held = [None if v is None else torch.as_tensor(v).to(dtype).double().numpy() for v in (f, u, e)]
    likelihood, risk, gradient, groups = exact(held[0], held[1], actions, held[2])
    assert np.isfinite(likelihood).all()
    assert np.isfinite(risk).all()

    rtol, atol = PRECISION[dtype]
    f, u = torch.as_tensor(f).to(dtype), torch.as_tensor(u).to(dtype)
    args = (f.requires_grad_(), u.requires_grad_(), torch.as_tensor(actions).to(dtype), as_rate(e))
    ours = log_likelihood(*args)
    np.testing.assert_allclose(ours.detach(), likelihood, rtol=rtol, atol=atol)
    ours_risk = stratified_risk(*args)
    np.testing.assert_allclose(ours_risk.detach(), risk, rtol=rtol, atol=atol)
    # A log of 1000 is known to 1000 eps, and with it a posterior.
    near = 3000 * torch.finfo(dtype).eps
    np.testing.assert_allclose(posterior(*args).detach(), groups, rtol=0, atol=near)
    for value, sign in ((ours, 1), (ours_risk, -1)):
        df, du = torch.autograd.grad(value.sum(), (f, u))
        np.testing.assert_allclose(sign * df, gradient[:, 0], rtol=0, atol=near)
        np.testing.assert_allclose(sign * du, gradient[:, 1:], rtol=0, atol=near)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rate", ["none", "zero", "positive"])
@pytest.mark.parametrize("K", [1, 2])
def test_infinite_propensity_logits(K, rate, dtype):
    """+inf is the propensity 1 of objectives without a propensity head, -inf that of e_k."""
    e = RATES[rate](K)
    f, u, actions = tail_example(K, [math.inf, -math.inf, 0.5])
    held = [None if v is None else torch.as_tensor(v).to(dtype).double().numpy() for v in (f, u, e)]
    likelihood, _, gradient, groups = exact(held[0], held[1], actions, held[2])
    possible = np.isfinite(likelihood)
    assert possible.any()
    assert possible.all() == (rate == "positive")

    rtol, atol = PRECISION[dtype]
    f = torch.as_tensor(f).to(dtype).requires_grad_()
    args = (f, torch.as_tensor(u).to(dtype), torch.as_tensor(actions).to(dtype), as_rate(e))
    ours = log_likelihood(*args)
    np.testing.assert_allclose(ours.detach()[possible], likelihood[possible], rtol=rtol, atol=atol)
    assert (ours.detach()[~possible] == -math.inf).all()
    near = 3000 * torch.finfo(dtype).eps
    np.testing.assert_allclose(
        posterior(*args).detach()[possible], groups[possible], rtol=0, atol=near
    )
    (df,) = torch.autograd.grad(ours[possible].sum(), f)
    np.testing.assert_allclose(df[possible], gradient[possible, 0], rtol=0, atol=near)


@pytest.mark.parametrize("rate", [None, torch.tensor([0.1])])
def test_risk_at_propensity_one_is_the_preference_risk(rate):
    """A = 1 costs nothing and is not trained."""
    f = torch.tensor([-3.0, 0.5, 2.0, 2.0], requires_grad=True)
    u = torch.full((4, 1), math.inf, requires_grad=True)
    y = torch.tensor([[1.0], [0.0], [1.0], [NAN]])
    q = posterior(f, u, y, rate)[:, [0, 2]].sum(-1).detach()
    risk = stratified_risk(f, u, y, rate)
    torch.testing.assert_close(risk, preference_risk(f, q))
    df, du = torch.autograd.grad(risk.sum(), (f, u))
    torch.testing.assert_close(df, torch.sigmoid(f) - q)
    assert (du == 0).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", ["none", "positive"])
def test_half_precision_logits_are_computed_with_in_float32(half, rate):
    f, u, actions, e = tensors(*example(2, rate, scale=8))
    f, u, actions = f.to(half), u.to(half), actions.float()
    for function in (group_log_joint, posterior, log_likelihood, stratified_risk):
        result = function(f, u, actions, e)
        assert result.dtype == torch.float32
        assert torch.equal(result, function(f.float(), u.float(), actions, e))
    q = torch.full_like(f, 0.3, dtype=torch.float32)
    assert torch.equal(preference_risk(f, q), preference_risk(f.float(), q))

    f.requires_grad_()
    u.requires_grad_()
    df, du = torch.autograd.grad(stratified_risk(f, u, actions, e).sum(), (f, u))
    assert df.dtype == du.dtype == half
    assert torch.isfinite(df).all()
    assert torch.isfinite(du).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_log1mexp_is_accurate_everywhere(dtype):
    exponents = -np.logspace(-37, 2, 400)
    x = torch.as_tensor([*exponents, -math.log(2), -0.69, -0.7, -1e-45, -300.0]).to(dtype)
    x = x[x < 0]
    with mpmath.workdps(400):
        expected = [float(mpmath.log(1 - mpmath.exp(mpmath.mpf(v)))) for v in x.tolist()]
    # A result below the smallest normal number is exact to that number only.
    limits = torch.finfo(dtype)
    np.testing.assert_allclose(log1mexp(x), expected, rtol=4 * limits.eps, atol=limits.tiny)


def test_log1mexp_limits():
    result = log1mexp(torch.tensor([0.0, -0.0, -math.inf, -1e4]))
    assert result.tolist() == [-math.inf, -math.inf, 0, 0]


# Side information: exposures, shared responses, labels, known propensities

SIDES = [
    kinds
    for n in range(5)
    for kinds in itertools.combinations(("exposures", "response", "labels", "propensity"), n)
]


def side_example(kinds, rate="mixed", seed=0, n=24, K=3):
    """Return logits, actions, rates and side information that contradict nothing."""
    rng = np.random.default_rng(seed)
    response = np.sort(rng.integers(0, n // 2, n)) if "response" in kinds else np.arange(n)
    response = np.unique(response, return_inverse=True)[1]
    m = response.max() + 1
    exposures = rng.integers(1, 5, (n, K)) if "exposures" in kinds else np.ones((n, K), dtype=int)
    actions = rng.integers(0, exposures + 1).astype(float)
    actions[rng.random((n, K)) < 0.4] = 0
    actions[rng.random((n, K)) < 0.2] = NAN
    e = RATES[rate](K)
    proved = np.zeros(m, dtype=bool)
    zero = np.ones(K, dtype=bool) if e is None else e == 0
    np.logical_or.at(proved, response, (np.nan_to_num(actions)[:, zero] > 0).any(1))
    side = {}
    if "exposures" in kinds:
        side["exposures"] = np.where(np.isnan(actions), NAN, exposures)
    if "response" in kinds:
        side["response"] = response
    if "labels" in kinds:
        label = rng.choice([0.0, 1.0, 0.3, NAN], m)
        side["labels"] = np.where(proved & ~np.isnan(label), 1.0, label)
    if "propensity" in kinds:
        known = np.where(rng.random((n, K)) < 0.5, rng.uniform(0.4, 0.9, (n, K)), NAN)
        side["propensity"] = known
    f, u = rng.normal(size=(MEMBERS, m)), rng.normal(size=(MEMBERS, n, K))
    return f, u, actions, e, side


def side_tensors(f, u, actions, e, side):
    return (
        *tensors(f, u, actions, e),
        {name: torch.as_tensor(value) for name, value in side.items()},
    )


def enumerate_responses(f, u, actions, e, side):
    """Return log P(r*=0, y) and log P(r*=1, y) of each member and response, by plain loops."""
    n, K = actions.shape
    response = side.get("response", np.arange(n))
    e = np.zeros(K) if e is None else e
    joint = np.zeros((MEMBERS, f.shape[1], 2))
    for member in range(MEMBERS):
        for i in range(f.shape[1]):
            R = sigmoid(f[member, i])
            for preferred in (0, 1):
                p = R if preferred else 1 - R
                for row in np.flatnonzero(response == i):
                    for k in range(K):
                        y = actions[row, k]
                        if np.isnan(y):
                            continue
                        shown = side["exposures"][row, k] if "exposures" in side else 1
                        hit = e[k] + (1 - e[k]) * sigmoid(u[member, row, k])
                        if "propensity" in side and not np.isnan(side["propensity"][row, k]):
                            hit = side["propensity"][row, k]
                        hit = hit if preferred else e[k]
                        p *= hit**y * (1 - hit) ** (shown - y)
                joint[member, i, preferred] = p
    with np.errstate(divide="ignore"):
        return np.log(joint)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kinds", SIDES, ids="+".join)
def test_likelihood_with_side_information(kinds, rate):
    example = side_example(kinds, rate)
    joint = enumerate_responses(*example)
    f, u, y, e, side = side_tensors(*example)
    label = example[4].get("labels", np.full(f.shape[1], NAN))
    with np.errstate(invalid="ignore"):
        expected = np.logaddexp(joint[..., 0], joint[..., 1])
        labelled = np.where(label > 0, label * joint[..., 1], 0.0)
        labelled = labelled + np.where(label < 1, (1 - label) * joint[..., 0], 0.0)
    expected = np.where(np.isnan(label), expected, labelled)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(log_likelihood(f, u, y, e, **side), expected, atol=1e-10)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kinds", SIDES, ids="+".join)
def test_gradient_is_that_of_the_likelihood_with_side_information(kinds, rate):
    f, u, y, e, side = side_tensors(*side_example(kinds, rate))
    f.requires_grad_()
    u.requires_grad_()
    weight = torch.as_tensor(np.random.default_rng(1).random(f.shape))
    ours = torch.autograd.grad((stratified_risk(f, u, y, e, **side) * weight).sum(), (f, u))
    # A -inf that meets a weight of 0 has no gradient in autograd: a floor does not matter here.
    likelihood = log_likelihood(f, u, y, e, **side)
    theirs = torch.autograd.grad(-(likelihood * weight).sum(), (f, u))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.nan_to_num(b), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rate", RATES)
def test_counts_are_the_sequence_of_their_exposures(rate):
    """Each exposure as a row of its own, which shares r* and the logit."""
    f, u, actions, e, side = side_example(("exposures",), rate)
    shown = np.nan_to_num(side["exposures"]).max(1).astype(int).clip(1)
    response = np.repeat(np.arange(len(actions)), shown)
    place = np.arange(len(response)) - np.repeat(np.cumsum(shown) - shown, shown)
    long = np.where(
        place[:, None] < np.nan_to_num(side["exposures"])[response],
        (place[:, None] < actions[response]).astype(float),
        NAN,
    )
    counts = side_tensors(f, u, actions, e, side)
    rows = side_tensors(f, u[:, response], long, e, {"response": response})
    for function in (log_likelihood, stratified_risk):
        torch.testing.assert_close(
            function(*counts[:4], **counts[4]),
            function(*rows[:4], **rows[4]),
            rtol=0,
            atol=1e-9,
        )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kinds", [kinds for kinds in SIDES if "labels" not in kinds], ids="+".join)
def test_group_posterior_with_side_information(kinds, rate):
    example = side_example(kinds, rate)
    f, u, actions, e, side = example
    n, K = actions.shape
    joint = enumerate_responses(*example)
    e_ = np.zeros(K) if e is None else e
    A = e_ + (1 - e_) * sigmoid(u)
    if "propensity" in side:
        A = np.where(np.isnan(side["propensity"]), A, side["propensity"])
    shown = np.nan_to_num(side["exposures"], nan=1.0) if "exposures" in side else np.ones((n, K))
    response = side.get("response", np.arange(n))
    expected = np.zeros((MEMBERS, n, 4))
    for member, row in itertools.product(range(MEMBERS), range(n)):
        preferred = joint[member, response[row]] - np.logaddexp(*joint[member, response[row]])
        not_p, p = np.exp(preferred)
        unlogged = np.isnan(actions[row])
        quiet = np.prod(np.where(unlogged, 1 - A[member, row], np.nan_to_num(actions[row]) == 0))
        never = np.prod((1 - A[member, row]) ** shown[row])
        expected[member, row] = [p * (1 - quiet), not_p * (1 - never), p * quiet, not_p * never]
    tensors_ = side_tensors(*example)
    np.testing.assert_allclose(posterior(*tensors_[:4], **tensors_[4]), expected, atol=1e-10)


def test_rows_of_a_response_may_come_in_any_order():
    f, u, actions, e, side = side_example(("response",))
    order = np.random.default_rng(2).permutation(len(actions))
    shuffled = side_tensors(
        f, u[:, order], actions[order], e, {"response": side["response"][order]}
    )
    straight = side_tensors(f, u, actions, e, side)
    for function in (log_likelihood, stratified_risk):
        torch.testing.assert_close(
            function(*shuffled[:4], **shuffled[4]), function(*straight[:4], **straight[4])
        )


@pytest.mark.parametrize("kinds", SIDES, ids="+".join)
@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_extreme_logits_with_side_information(kinds, logit):
    f, u, y, e, side = side_tensors(*side_example(kinds, "positive"))
    f, u = torch.full_like(f, logit, requires_grad=True), torch.full_like(u, -logit)
    u.requires_grad_()
    risk = stratified_risk(f, u, y, e, **side)
    gradients = torch.autograd.grad(risk.sum(), (f, u))
    assert torch.isfinite(risk).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert torch.isfinite(log_likelihood(f, u, y, e, **side)).all()


# False-action rates


@pytest.mark.parametrize("kinds", SIDES, ids="+".join)
def test_expected_false_actions(kinds):
    example = side_example(kinds, "positive")
    joint = enumerate_responses(*example)
    f, u, actions, e, side = example
    not_q = np.exp(joint[..., 0] - np.logaddexp(joint[..., 0], joint[..., 1]))
    if "labels" in side:
        not_q = np.where(np.isnan(side["labels"]), not_q, 1 - side["labels"])
    rows = not_q[:, side.get("response", np.arange(len(actions)))][..., None]
    shown = side.get("exposures", np.where(np.isnan(actions), NAN, 1.0))
    tensors_ = side_tensors(*example)
    false_actions, opportunities = false_action_counts(*tensors_[:4], **tensors_[4])
    np.testing.assert_allclose(false_actions, rows * np.nan_to_num(actions), atol=1e-12)
    np.testing.assert_allclose(opportunities, rows * np.nan_to_num(shown), atol=1e-12)


@pytest.mark.parametrize("kinds", SIDES, ids="+".join)
def test_em_of_false_action_rates_never_lowers_the_likelihood(kinds):
    f, u, y, e, side = side_tensors(*side_example(kinds, "positive", n=200))
    log_propensity, _ = propensity_log_probs(u, e, side.get("propensity"))
    # R and A as they are, whatever e becomes.
    side = {name: value for name, value in side.items() if name != "propensity"}
    e = e.expand(MEMBERS, 1, -1)
    values = []
    for _ in range(30):
        likelihood = [
            log_likelihood(
                f[[member]],
                u[[member]],
                y,
                e[member, 0],
                **side,
                propensity=log_propensity[member].exp(),
            ).sum()
            for member in range(MEMBERS)
        ]
        values.append(torch.stack(likelihood))
        false_actions, opportunities = false_action_counts(
            f, u, y, e, **side, propensity=log_propensity.exp()
        )
        e = false_actions.sum(-2, keepdim=True) / opportunities.sum(-2, keepdim=True)
    values = torch.stack(values)
    assert (values.diff(dim=0) > -1e-9).all()
    assert (values[-1] > values[0] + 0.1).all()


def test_known_propensities_teach_the_head():
    """The gradient vanishes where the head says what is known."""
    rng = np.random.default_rng(0)
    target = torch.as_tensor(rng.uniform(0.4, 0.9, (50, 2)))
    target[::3, 0] = NAN
    e = torch.tensor([0.1, 0.0], dtype=torch.float64)
    u = torch.special.logit((torch.nan_to_num(target, 0.5) - e) / (1 - e))[None]
    u.requires_grad_()
    (gradient,) = torch.autograd.grad(propensity_risk(u, target, e).sum(), u)
    assert gradient.abs().max() < 1e-12
    off = (u.detach() + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(propensity_risk(off, target, e).sum(), off)
    known = ~torch.isnan(target)
    assert (gradient[0][known] > 0.01).all() and not gradient[0][~known].any()


def test_unknown_propensities_add_nothing_to_the_risk():
    u = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-0.7, 1.5]], dtype=torch.float64)
    target = torch.tensor([[0.2, NAN], [NAN, NAN], [0.9, 0.4]], dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        u, torch.nan_to_num(target), reduction="none"
    ).where(~torch.isnan(target), torch.zeros(()).double())
    torch.testing.assert_close(propensity_risk(u, target), expected.sum(-1))
