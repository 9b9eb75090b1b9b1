"""Heads with several members side by side."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from implicitrm_sk.training._modules import MemberDropout, MemberMLP, RewardModel

M, N, D = 3, 11, 5


def mlp(hidden=(7, 4), n_out=2, seed=0, dropout=0.0, members=M, bias=0.0):
    module = MemberMLP(members, D, hidden, n_out, dropout)
    module.initialize(torch.Generator().manual_seed(seed), bias)
    return module.double()


def features(n=N, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(module, m):
    """Member m as torch would have it: Linear layers with ReLU between, its weights copied."""
    layers = []
    for weight, bias in zip(module.weights, module.biases, strict=True):
        linear = nn.Linear(weight.shape[0], weight.shape[2], dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[:, m].T)
            linear.bias.copy_(bias[0, m])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def randomize_biases(module):
    with torch.no_grad():
        for i, bias in enumerate(module.biases):
            bias.copy_(torch.linspace(-1, 1, bias.numel()).view_as(bias) + 0.1 * i)
    return module


HIDDEN = [(), (1,), (7, 4), (7, 6, 5)]


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("n", [1, N])
def test_forward_is_that_of_separate_networks(hidden, n):
    module, x = randomize_biases(mlp(hidden)), features(n)
    result = module(x)
    assert result.shape == (M, n, 2)
    for m in range(M):
        torch.testing.assert_close(result[m], plain(module, m)(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_gradients_are_those_of_separate_networks(hidden):
    module, x = randomize_biases(mlp(hidden)), features()
    target = torch.arange(2 * M, dtype=torch.float64).view(M, 1, 2)
    (module(x) - target).square().sum().backward()
    for m in range(M):
        network = plain(module, m)
        (network(x) - target[m]).square().sum().backward()
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        for linear, weight, bias in zip(linears, module.weights, module.biases, strict=True):
            torch.testing.assert_close(
                weight.grad[:, m].T, linear.weight.grad, rtol=1e-11, atol=1e-12
            )
            torch.testing.assert_close(bias.grad[0, m], linear.bias.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("chosen", range(M))
def test_loss_of_one_member_touches_no_other(hidden, chosen):
    module = mlp(hidden, dropout=0.3).train()
    module.dropout.generator = torch.Generator().manual_seed(0)
    module(features())[chosen].square().sum().backward()
    for parameter in module.parameters():
        others = parameter.grad[:, [m for m in range(M) if m != chosen]]
        assert torch.equal(others, torch.zeros_like(others))
    assert module.biases[-1].grad[:, chosen].abs().max() > 0


def test_a_member_that_is_not_a_number_spoils_no_other():
    module, x = mlp(), features()
    clean = module(x).detach()
    clean_grads = torch.autograd.grad(module(x).square().sum(), list(module.parameters()))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter[:, 1] = math.nan
    result = module(x)
    assert torch.isnan(result[1]).all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])
    result.square().sum().backward()
    for parameter, expected in zip(module.parameters(), clean_grads, strict=True):
        assert torch.equal(parameter.grad[:, [0, 2]], expected[:, [0, 2]])


def test_no_hidden_layer_is_linear():
    module = randomize_biases(mlp(()))
    x, z = features(seed=1), features(seed=2)
    torch.testing.assert_close(module(x + z), module(x) + module(z) - module(0 * x))
    assert [tuple(p.shape) for p in module.parameters()] == [(D, M, 2), (1, M, 2)]


def test_more_members_do_not_mean_another_network():
    """Sizes are (in, members, out), whatever the depth."""
    module = MemberMLP(M, D, (7, 4), 2)
    assert [tuple(w.shape) for w in module.weights] == [(D, M, 7), (7, M, 4), (4, M, 2)]
    assert [tuple(b.shape) for b in module.biases] == [(1, M, 7), (1, M, 4), (1, M, 2)]


# Initial weights


def test_initial_weights_follow_the_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    a = mlp(seed=3)
    torch.manual_seed(1)
    b, c = mlp(seed=3), mlp(seed=4)
    for ours, same, other in zip(a.weights, b.weights, c.weights, strict=True):
        assert torch.equal(ours, same)
        assert not torch.equal(ours, other)
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    mlp(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_initial_weights_have_the_scale_of_torch():
    module = MemberMLP(2, 400, (300,), 50)
    module.initialize(torch.Generator().manual_seed(0))
    for weight, fan_in in zip(module.weights, (400, 300), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert weight.mean().item() == pytest.approx(0, abs=0.02 * bound)
        assert not torch.equal(weight[:, 0], weight[:, 1])


def test_output_bias_is_where_training_starts():
    module = mlp(n_out=2, bias=torch.tensor([0.5, -2.0], dtype=torch.float64))
    assert [bias.abs().max().item() for bias in module.biases[:-1]] == [0, 0]
    assert module.biases[-1][0].tolist() == [[0.5, -2.0]] * M
    module.initialize(torch.Generator().manual_seed(0), 0.25)  # anew, not added up
    assert module.biases[-1].unique().tolist() == [0.25]


# Dropout


@pytest.mark.parametrize("n_out", [1, 3, 6])
@pytest.mark.parametrize("p", [0.0, 0.3, torch.tensor([0.0, 0.2, 0.5])])
@pytest.mark.parametrize("own_rows", [False, True])
def test_gradients_through_dropped_units_are_those_of_plain_operations(n_out, p, own_rows):
    """Few outputs take a path of their own, and the hidden units may be read too."""
    module, x = randomize_biases(mlp((7,), n_out)).train(), features()
    x = (x.expand(M, N, D) if own_rows else x).clone().requires_grad_()
    module.dropout.p = p

    def draw():
        module.dropout.generator = torch.Generator().manual_seed(3)

    def gradients(out, hidden):
        loss = (out * torch.arange(out.numel()).view_as(out)).sum() + hidden.square().sum()
        return torch.autograd.grad(loss, [x, *module.parameters()])

    draw()
    found = module.with_hidden(x)
    first, last = module.weights
    if own_rows:
        h = torch.einsum("mnd,dmw->mnw", x, first) + module.biases[0].transpose(0, 1)
    else:
        h = torch.einsum("nd,dmw->nmw", x, first) + module.biases[0]
    h = torch.relu(h)
    draw()
    h = module.dropout(h, dim=0 if own_rows else 1)
    h = h if own_rows else h.transpose(0, 1)
    expected = torch.einsum("mnw,wmo->mno", h, last) + module.biases[1].transpose(0, 1), h
    torch.testing.assert_close(found, expected)
    for one, other in zip(gradients(*found), gradients(*expected), strict=True):
        torch.testing.assert_close(one, other)


def dropout(p, seed=0, training=True):
    module = MemberDropout(p).train(training)
    module.generator = torch.Generator().manual_seed(seed)
    return module


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p):
    n = 200_000
    result = dropout(p)(torch.ones(n))
    # p is rounded to 16 bits; the scale is that of the rounded share, so that the mean is kept.
    share = round(p * 2**16) / 2**16
    assert set(result.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share)).item()}
    # The mean of n kept shares, in standard errors.
    error = math.sqrt(p / (1 - p) / n)
    assert abs(result.mean().item() - 1) < 4 * error


def test_dropout_is_off_in_evaluation_and_at_zero():
    x = features()
    assert dropout(0.5, training=False)(x) is x
    assert dropout(0.0)(x) is x
    module = mlp(dropout=0.5).eval()
    assert torch.equal(module(x), mlp(dropout=0.0)(x))


def test_dropout_draws_from_its_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    x = torch.ones(1000)
    first, again, other = dropout(0.5, 1)(x), dropout(0.5, 1)(x), dropout(0.5, 2)(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    module = dropout(0.5, 1)
    module(x)
    assert not torch.equal(module(x), first)  # each step has its own mask
    assert torch.equal(torch.random.get_rng_state(), before)


def test_members_have_their_own_masks():
    x = torch.ones(2, 1000, 3)
    result = dropout(0.5)(x)
    assert not torch.equal(result[0], result[1])


def test_dropout_passes_the_gradient_of_kept_units():
    x = torch.ones(1000, requires_grad=True)
    result = dropout(0.2)(x)
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())


# The model


def model(**kwargs):
    config = {
        "n_members": M,
        "n_in": D,
        "n_signals": 2,
        "hidden_layer_sizes": (7,),
        "propensity_hidden_layer_sizes": (),
    }
    return RewardModel(**(config | kwargs))


def test_model_joins_two_independent_heads():
    network = model()
    network.initialize(torch.Generator().manual_seed(0), 0.5, torch.tensor([1.0, 2.0]))
    x = features().float()
    f, u = network(x)
    assert f.shape == (M, N)
    assert u.shape == (M, N, 2)
    assert torch.equal(f, network.reward_logit(x))
    assert torch.equal(u, network.propensity_logit(x))
    assert network.reward.biases[-1].unique().tolist() == [0.5]
    assert network.propensity.biases[-1][0, 0].tolist() == [1, 2]
    assert [len(head.weights) for head in (network.reward, network.propensity)] == [2, 1]
    f.sum().backward()
    assert all(p.grad is None for p in network.propensity.parameters())


def test_model_without_propensity_has_propensity_one():
    network = model(with_propensity=False)
    network.initialize(torch.Generator().manual_seed(0), 0.0, 3.0)
    u = network.propensity_logit(features().float())
    assert u.shape == (M, N, 2)
    assert (u == math.inf).all()
    assert network.propensity is None
    assert not any("propensity" in name for name in network.state_dict())


@pytest.mark.parametrize("with_propensity", [True, False])
def test_config_rebuilds_the_model(with_propensity):
    network = model(with_propensity=with_propensity, dropout=0.3, hidden_layer_sizes=[7, 4])
    network.initialize(torch.Generator().manual_seed(0))
    again = RewardModel(**network.config)
    again.load_state_dict(network.state_dict())
    x = features().float()
    for ours, theirs in zip(network.eval()(x), again.eval()(x), strict=True):
        assert torch.equal(ours, theirs)
    assert again.config == network.config
    assert again.reward.dropout.p == 0.3


def test_set_generator_reaches_every_dropout():
    network = model(dropout=0.5)
    generator = torch.Generator().manual_seed(0)
    network.set_generator(generator)
    assert network.reward.dropout.generator is generator
    assert network.propensity.dropout.generator is generator


# Columns of each head


def test_a_head_reads_its_own_columns_only():
    model = RewardModel(
        M, D, 2, (4,), (3,), reward_columns=(0, 3), propensity_columns=(1, 2, 3)
    ).double()
    model.initialize(torch.Generator().manual_seed(0))
    X = features()
    f, u = model(X)
    for column, (reads_f, reads_u) in enumerate(
        [(True, False), (False, True), (False, True), (True, True), (False, False)]
    ):
        changed = X.clone()
        changed[:, column] = math.nan
        new_f, new_u = model(changed)
        assert torch.isnan(new_f).all() if reads_f else torch.equal(new_f, f)
        assert torch.isnan(new_u).all() if reads_u else torch.equal(new_u, u)


def test_a_head_on_some_columns_is_a_head_on_these_alone():
    model = RewardModel(
        M, D, 2, (4,), (3,), reward_columns=(3, 0), propensity_columns=(2,)
    ).double()
    model.initialize(torch.Generator().manual_seed(0))
    X = features()
    assert torch.equal(model.reward_logit(X), model.reward(X[:, [3, 0]]).squeeze(-1))
    assert torch.equal(model.propensity_logit(X), model.propensity(X[:, [2]]))


def test_config_keeps_the_columns():
    model = RewardModel(M, D, 2, (4,), (3,), reward_columns=(0, 3), propensity_columns=(1, 2))
    model.initialize(torch.Generator().manual_seed(0))
    again = RewardModel(**model.config)
    again.load_state_dict(model.state_dict())
    X = features().float()
    for ours, theirs in zip(model(X), again(X), strict=True):
        assert torch.equal(ours, theirs)


def test_the_reward_is_that_of_the_first_row_of_each_response():
    model = RewardModel(M, D, 2, (4,), (3,)).double()
    model.initialize(torch.Generator().manual_seed(0))
    X, first = features(), torch.tensor([0, 4, 5])
    f, u = model(X, first)
    all_f, all_u = model(X)
    assert f.shape == (M, 3) and u.shape == (M, N, 2)
    torch.testing.assert_close(f, all_f[:, first])
    assert torch.equal(u, all_u)
