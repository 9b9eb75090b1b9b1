"""The equal-weight mixture of the members."""

import itertools
import math

import mpmath  # comes with torch
import numpy as np
import positive
import pytest
import torch

from implicitrm_sk.measurement import _mixture
from implicitrm_sk.measurement._action import Action
from implicitrm_sk.measurement._model import Measurement

NAN = math.nan
RATES = {
    "none": lambda K: None,
    "positive": lambda K: torch.linspace(0.05, 0.3, K, dtype=torch.float64),
    "mixed": lambda K: torch.tensor([0.0, 0.2, 0.0, 0.1][:K], dtype=torch.float64),
}


def components(K, n=30, C=5, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(C, n, generator=generator, dtype=torch.float64) * scale
    u = torch.randn(C, n, K, generator=generator, dtype=torch.float64) * scale
    return f, u


def patterns(K, values=(0.0, 1.0, NAN)):
    return torch.tensor(list(itertools.product(values, repeat=K)), dtype=torch.float64)


def propensities(u, e):
    e = 0.0 if e is None else e.numpy()
    return e + (1 - e) / (1 + np.exp(-u.numpy()))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 3])
def test_reward_and_propensity_are_averages(K, rate):
    f, u = components(K)
    e = RATES[rate](K)
    R, A = 1 / (1 + np.exp(-f.numpy())), propensities(u, e)
    mean, std = _mixture.reward(f)
    np.testing.assert_allclose(mean, np.mean(R, axis=0), rtol=1e-13)
    np.testing.assert_allclose(std, np.std(R, axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        positive.propensity(f, u, e), (R[..., None] * A).mean(0) / R.mean(0)[:, None], rtol=1e-12
    )


@pytest.mark.parametrize("scale", [2.0, 30.0])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 3])
def test_action_is_reward_times_propensity_plus_false_actions(K, rate, scale):
    """predict_action = R A + (1 - R) e with the reward and propensity of the mixture itself."""
    f, u = components(K, scale=scale)
    e = RATES[rate](K)
    reward, _ = _mixture.reward(f)
    propensity = positive.propensity(f, u, e)
    expected = reward[:, None] * propensity + (1 - reward[:, None]) * (0 if e is None else e)
    torch.testing.assert_close(positive.action(f, u, e), expected, rtol=1e-12, atol=1e-300)
    assert (propensity >= (0 if e is None else e)).all()
    assert (propensity <= 1).all()


@pytest.mark.parametrize("rate", RATES)
def test_action_is_the_likelihood_of_that_action_alone(rate):
    K = 3
    f, u = components(K)
    e = RATES[rate](K)
    for k in range(K):
        only_k = torch.full((f.shape[1], K), NAN, dtype=torch.float64)
        only_k[:, k] = 1
        torch.testing.assert_close(
            positive.mixture_likelihood(f, u, only_k, e).exp(),
            positive.action(f, u, e)[:, k],
            rtol=1e-12,
            atol=0,
        )


def test_infinite_propensity_logit_is_propensity_one():
    f, _ = components(1)
    u = torch.full((*f.shape, 1), math.inf, dtype=torch.float64)
    reward, _ = _mixture.reward(f)
    assert torch.equal(positive.propensity(f, u), torch.ones(f.shape[1], 1, dtype=torch.float64))
    torch.testing.assert_close(positive.action(f, u)[:, 0], reward, rtol=1e-14, atol=0)
    y = torch.zeros(f.shape[1], 1, dtype=torch.float64)
    y[::2] = 1
    expected = torch.where(y[:, 0] == 1, reward, 1 - reward).log()
    torch.testing.assert_close(positive.mixture_likelihood(f, u, y), expected, rtol=1e-12, atol=0)
    groups = positive.group_posterior(f, u, y)
    assert torch.equal(groups[:, 0], y[:, 0])
    assert torch.equal(groups[:, 1], 1 - y[:, 0])


# Logit of the mean


def test_mean_logit_is_the_logit_of_the_mean():
    f, _ = components(1, scale=1.5)
    mean, _ = _mixture.reward(f)
    torch.testing.assert_close(_mixture.mean_logit(f), torch.logit(mean), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(_mixture.mean_logit(f[:1]), f[0], rtol=1e-13, atol=1e-15)


def test_mean_logit_in_the_tails():
    levels = [-1e3, -700.0, -69.0, -3.0, 0.0, 16.0, 40.0, 69.0, 1e3]
    f = np.array(list(itertools.combinations_with_replacement(levels, 3))).T
    with mpmath.workdps(40):
        expected = []
        for row in f.T:
            win = mpmath.fsum(1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in row)
            lose = mpmath.fsum(1 / (1 + mpmath.exp(mpmath.mpf(v))) for v in row)
            expected.append(float(mpmath.log(win / lose)))
    result = _mixture.mean_logit(torch.as_tensor(f))
    assert torch.isfinite(result).all()
    np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-13)


def test_propensity_where_the_reward_underflows():
    """R of 1e-434 is no float64; the weights of the members are still in their ratio."""
    f = torch.tensor([[-1000.0], [-1000.0 + math.log(3)]], dtype=torch.float64)
    u = torch.tensor([[[0.0]], [[math.log(3)]]], dtype=torch.float64)
    expected = (1 * 0.5 + 3 * 0.75) / 4
    assert positive.propensity(f, u).item() == pytest.approx(expected, rel=1e-12)
    e = torch.tensor([0.2], dtype=torch.float64)
    assert positive.propensity(f, u, e).item() == pytest.approx(0.2 + 0.8 * expected, rel=1e-12)


# Mirror images


@pytest.mark.parametrize("rate", ["none", "positive"])
def test_a_member_and_its_mirror_image_fit_every_log_equally(rate):
    C, n = 4, 90
    f, u = components(1, n=n, C=C, scale=5)
    e = RATES[rate](1)
    both_f, both_u = _mixture.with_mirror_images(f, u)
    assert both_f.shape == (2 * C, n)
    assert both_u.shape == (2 * C, n, 1)
    assert torch.equal(both_f[:C], f)
    assert torch.equal(both_u[:C], u)
    assert not torch.equal(both_f[C:], f)
    for y in (0.0, 1.0, NAN):
        actions = torch.full((n, 1), y, dtype=torch.float64)
        likelihood = positive.log_likelihood(both_f, both_u, actions, e)
        torch.testing.assert_close(likelihood[:C], likelihood[C:], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rate", ["none", "positive"])
def test_mixture_of_mirror_images_is_symmetric(rate):
    """Neither head is privileged: exchanging the two heads of every member changes nothing."""
    f, u = components(1)
    e = RATES[rate](1)
    both = _mixture.with_mirror_images(f, u)
    swapped = _mixture.with_mirror_images(u.squeeze(-1), f[..., None])
    actions = patterns(1).repeat(10, 1)
    for ours, theirs in [
        *zip(_mixture.reward(both[0]), _mixture.reward(swapped[0]), strict=True),
        (_mixture.mean_logit(both[0]), _mixture.mean_logit(swapped[0])),
        (positive.propensity(*both, e), positive.propensity(*swapped, e)),
        (positive.action(*both, e), positive.action(*swapped, e)),
        (
            positive.group_posterior(*both, actions, e),
            positive.group_posterior(*swapped, actions, e),
        ),
    ]:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    reward, std = _mixture.reward(both[0])
    sides = torch.sigmoid(torch.cat([f, u[..., 0]]))
    torch.testing.assert_close(reward, sides.mean(0), rtol=1e-13, atol=0)
    assert (std >= (sides[:5].mean(0) - sides[5:].mean(0)).abs() / 2 - 1e-12).all()


@pytest.mark.parametrize("rate", ["none", "positive"])
def test_mirror_images_keep_the_predicted_action(rate):
    f, u = components(1)
    e = RATES[rate](1)
    both = _mixture.with_mirror_images(f, u)
    torch.testing.assert_close(
        positive.action(*both, e), positive.action(f, u, e), rtol=1e-12, atol=0
    )


# Posterior and likelihood


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 2, 3])
def test_joint_is_averaged_before_it_is_normalised(K, rate):
    actions = patterns(K)
    n = len(actions)
    f, u = components(K, n=n)
    e = RATES[rate](K)
    # Each member's P(group, y) from its posterior and likelihood, averaged outside of logs.
    likelihood = positive.log_likelihood(f, u, actions, e).exp().numpy()
    joint = positive.posterior(f, u, actions, e).numpy() * likelihood[..., None]
    expected = joint.mean(0) / likelihood.mean(0)[:, None]
    result = positive.group_posterior(f, u, actions.numpy(), e)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-14)
    if K == 1:  # not the average of the members' posteriors
        unlike = np.abs(positive.posterior(f, u, actions, e).numpy().mean(0) - expected)
        assert unlike.max() > 1e-3
    np.testing.assert_allclose(
        positive.mixture_likelihood(f, u, actions.numpy(), e),
        np.log(likelihood.mean(0)),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 2, 3])
def test_unlogged_posterior_is_the_mean_prior(K, rate):
    f, u = components(K)
    e = RATES[rate](K)
    R = 1 / (1 + np.exp(-f.numpy()))
    passive = np.prod(1 - propensities(u, e), axis=-1)
    prior = np.stack(
        [R * (1 - passive), (1 - R) * (1 - passive), R * passive, (1 - R) * passive], axis=-1
    ).mean(0)
    nothing = np.full((f.shape[1], K), NAN)
    result = positive.group_posterior(f, u, nothing, e)
    np.testing.assert_allclose(result, prior, rtol=1e-12)
    reward, _ = _mixture.reward(f)
    np.testing.assert_allclose(result[:, 0] + result[:, 2], reward, rtol=1e-12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 2, 3])
def test_average_posterior_over_actions_is_the_prior(K, rate):
    actions = patterns(K, values=(0.0, 1.0))
    n = len(actions)
    f, u = components(K, n=1)
    f, u = f.expand(-1, n), u.expand(-1, n, -1)
    e = RATES[rate](K)
    weights = positive.mixture_likelihood(f, u, actions, e).exp()
    assert weights.sum().item() == pytest.approx(1, abs=1e-13)
    average = (weights[:, None] * positive.group_posterior(f, u, actions, e)).sum(0)
    prior = positive.group_posterior(f, u, torch.full_like(actions, NAN), e)[0]
    torch.testing.assert_close(average, prior, rtol=1e-12, atol=0)


def test_posterior_and_likelihood_in_the_tails():
    """Members that give an action probability 1e-434 still share the posterior by their ratio."""
    f = torch.tensor([[-1000.0], [-1000.0 - math.log(4)]], dtype=torch.float64)
    u = torch.zeros(2, 1, 1, dtype=torch.float64)
    acted, e = np.ones((1, 1)), torch.tensor([1e-3], dtype=torch.float64)
    assert positive.mixture_likelihood(f, u, acted).item() == pytest.approx(
        -1000 + math.log((1 + 1 / 4) / 2 / 2), rel=1e-14
    )
    assert positive.group_posterior(f, u, acted).tolist() == [[1, 0, 0, 0]]
    with_false_actions = positive.group_posterior(f, u, acted, e)[0]
    assert with_false_actions[[0, 2]].tolist() == [0, 0]
    assert with_false_actions[1].item() == pytest.approx(0.5005)  # P(a=1) = e + (1 - e) / 2


# What the actions alone rule out


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 3])
def test_lower_bound_is_what_its_formula_says(K, rate):
    f, u = components(K)
    e = RATES[rate](K)
    R, A = 1 / (1 + np.exp(-f.numpy())), propensities(u, e)
    if e is None:
        expected = R * (1 - np.prod(1 - A, axis=-1))
    else:
        action = R[..., None] * A + (1 - R[..., None]) * e.numpy()
        expected = ((action - e.numpy()) / (1 - e.numpy())).max(-1).clip(0, 1)
    np.testing.assert_allclose(positive.lower_bound(f, u, e), expected, atol=1e-12)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("K", [1, 3])
def test_the_reward_is_never_below_its_bound(K, rate):
    f, u = components(K, scale=4.0)
    e = RATES[rate](K)
    assert (torch.sigmoid(f) >= positive.lower_bound(f, u, e) - 1e-12).all()


@pytest.mark.parametrize("preferred", [0, 1])
@pytest.mark.parametrize("n_opposite", [0, 1])
def test_bounds_hold_the_reward_of_rows_that_not_all_were_looked_at(n_opposite, preferred):
    """A plain model of rows that were looked at with probability v fits vR in place of R."""
    rng = np.random.default_rng(0)
    R, v, A, B, opposite = rng.uniform(0.05, 0.95, size=(5, 200))
    liked, other = v * R, v * (1 - R) * opposite
    plain = np.stack([A, B, other / (1 - liked)][: 2 + n_opposite], -1)
    f, u = (torch.as_tensor(np.log(p / (1 - p)))[None] for p in (liked, plain))
    kinds = (Action(1), Action(1), Action(0))[: 2 + n_opposite]
    if not preferred:
        f, kinds, R = -f, tuple(Action(1 - kind.target) for kind in kinds), 1 - R
    measurement = Measurement(kinds)
    found = np.stack(_mixture.bounds(measurement, f, u, shown_twice=(preferred,)))[:, 0]
    ends = [liked, liked / (liked + other) if n_opposite else np.ones(200)]
    np.testing.assert_allclose(found, ends if preferred else 1 - np.stack(ends[::-1]), rtol=1e-12)
    assert ((found[0] <= R) & (R <= found[1])).all()
    single = np.stack(_mixture.bounds(measurement, f, u))[:, 0]
    assert (single[0] <= found[0]).all() and (found[1] <= single[1]).all()
    both = np.stack(_mixture.bounds(measurement, f, u, shown_twice=(0, 1)))[:, 0]
    np.testing.assert_array_equal(both, single)
