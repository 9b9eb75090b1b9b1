"""The training engine against hand-written loops."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from positive import log_likelihood
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from implicitrm_sk._device import resolve_dtype
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.objectives import Naive, Objective, Stratified
from implicitrm_sk.training._constraint import RateConstraint
from implicitrm_sk.training._members import BestMembers, MembersInTraining
from implicitrm_sk.training._modules import RewardModel
from implicitrm_sk.training._net import MemberRisk, batched_logits, build_net
from implicitrm_sk.training._rows import Partners, ResidentRows

CPU = torch.device("cpu")
D = 4
OPTIONS = {"learning_rate_init": 0.02, "weight_decay": 0.1, "device": CPU}


def make_tensors(n=150, K=1, seed=0, unlogged=0.0):
    """Return X, actions with NaN, and weights of mean 1, in float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    preferred = rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))
    actions = (preferred[:, None] & (rng.random((n, K)) < 0.5)).astype(float)
    actions[:, 1:][rng.random((n, K - 1)) < unlogged] = math.nan
    weight = rng.uniform(0.5, 1.5, n)
    return [torch.as_tensor(part) for part in (X, actions, weight / weight.mean())]


def make_model(n_members=3, K=1, seed=0, hidden=(16,), dropout=0.0, with_propensity=True):
    model = RewardModel(n_members, D, K, hidden, (5,), dropout, with_propensity).double()
    model.initialize(torch.Generator().manual_seed(seed), 0.3, torch.zeros(K))
    return model


def member(model, m):
    """Return a model of one member with the weights of member m."""
    single = RewardModel(**(model.config | {"n_members": 1})).double()
    with torch.no_grad():
        for ours, theirs in zip(single.parameters(), model.parameters(), strict=True):
            ours.copy_(theirs[:, m : m + 1])
    return single


def rows_of(log, part, batch_size, **options):
    """Return `ResidentRows` of a log of X, actions and weights."""
    X, actions, weight = log
    return ResidentRows(X, {"actions": actions}, {}, weight, part, batch_size, **options)


def make_parts(log, n_train=100, batch_size=32, seed=7):
    """Return training rows, in an order that the seed fixes, and validation rows or None."""
    n = len(log[0])
    rows = torch.arange(n)
    generator = torch.Generator().manual_seed(seed) if seed else None
    train = rows_of(log, rows[:n_train], batch_size, generator=generator)
    return train, rows_of(log, rows[n_train:], 33) if n_train < n else None


def train(model, log, epochs, objective=None, n_train=100, batch_size=32, seed=7, **options):
    net = build_net(model, objective or Stratified(), **(OPTIONS | options))
    net.fit_loop(make_parts(log, n_train, batch_size, seed), epochs=epochs)
    return net


def assert_same_member(model, m, other, k, **tolerance):
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours[:, m], theirs[:, k], **tolerance)


# Members


@pytest.mark.parametrize("objective", [Stratified(), Naive()], ids=["stratified", "naive"])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_members_train_as_if_alone(objective, early_stopping):
    """Same initial weights and batch order: M fits of one member give the same members."""
    log = make_tensors()
    options = {"patience": 3, "tol": 1e-3} if early_stopping else {"n_train": 150}
    epochs = 60 if early_stopping else 6
    model = make_model(with_propensity=objective.models_propensity)
    singles = [member(model, m) for m in range(3)]
    together = train(model, log, epochs, objective, **options)
    lengths = set()
    for m, single in enumerate(singles):
        alone = train(single, log, epochs, objective, **options)
        assert_same_member(model, m, single, 0, rtol=0, atol=1e-9)
        lengths.add(len(alone.history))
        for name in ("train_loss", "valid_loss") if early_stopping else ("train_loss",):
            # Recorded in float32.
            np.testing.assert_allclose(
                [epoch[name][m] for epoch in together.history[: len(alone.history)]],
                [epoch[name][0] for epoch in alone.history],
                rtol=1e-6,
            )
    assert len(together.history) == max(lengths)
    if early_stopping:
        assert len(lengths) > 1
        assert together.n_running_ == 0


class PlainMember(nn.Module):
    """One member of two ordinary networks, trained on the likelihood written out."""

    def __init__(self, model, m):
        super().__init__()
        self.heads = nn.ModuleList()
        for head in (model.reward, model.propensity):
            layers = []
            for weight, bias in zip(head.weights, head.biases, strict=True):
                linear = nn.Linear(weight.shape[0], weight.shape[2], dtype=torch.float64)
                linear.weight.data = weight.data[:, m].T.clone()
                linear.bias.data = bias.data[0, m].clone()
                layers += [linear, nn.ReLU()]
            self.heads.append(nn.Sequential(*layers[:-1]))

    def loss(self, X, y, weight):
        action = torch.sigmoid(self.heads[0](X)) * torch.sigmoid(self.heads[1](X))
        return (
            nn.functional.binary_cross_entropy(action, y, reduction="none")[:, 0] * weight
        ).mean()


def hand_written_fit(network, log, n_train, batch_size, seed, epochs, patience, tol):
    """Return the weights of the best epoch, and the validation loss of each epoch."""
    X, y, weight = log
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=OPTIONS["learning_rate_init"],
        weight_decay=OPTIONS["weight_decay"],
    )
    generator = torch.Generator().manual_seed(seed)
    losses, best, stale, state = [], math.inf, 0, None
    for _ in range(epochs):
        order = torch.randperm(n_train, generator=generator)
        for start in range(0, n_train, batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad()
            network.loss(X[rows], y[rows], weight[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(network.loss(X[n_train:], y[n_train:], weight[n_train:]).item())
        stale = 0 if losses[-1] < best - tol else stale + 1
        if losses[-1] < best:
            best, state = losses[-1], copy.deepcopy(network.state_dict())
        if stale == patience:
            break
    network.load_state_dict(state)
    return losses


def test_fit_is_the_hand_written_loop_with_early_stopping():
    log, model = make_tensors(), make_model()
    plain = [PlainMember(model, m) for m in range(3)]
    net = train(model, log, 60, patience=3, tol=1e-3)
    stopped, best = [], []
    for m, network in enumerate(plain):
        losses = hand_written_fit(network, log, 100, 32, 7, 60, 3, 1e-3)
        stopped.append(len(losses))
        best.append(np.argmin(losses) + 1)
        np.testing.assert_allclose(
            [epoch["valid_loss"][m] for epoch in net.history[: len(losses)]], losses, rtol=1e-5
        )
        for head, sequential in zip((model.reward, model.propensity), network.heads, strict=True):
            linears = [layer for layer in sequential if isinstance(layer, nn.Linear)]
            for linear, weight, bias in zip(linears, head.weights, head.biases, strict=True):
                torch.testing.assert_close(weight[:, m].T, linear.weight, rtol=0, atol=1e-8)
                torch.testing.assert_close(bias[0, m], linear.bias, rtol=0, atol=1e-8)
    assert len(net.history) == max(stopped)
    assert len(set(stopped)) > 1
    assert (np.array(best) < stopped).any()


def test_the_model_holds_the_weights_of_each_members_best_epoch():
    log, model = make_tensors(), make_model()
    snapshots = []
    train(
        model,
        log,
        60,
        patience=100,
        learning_rate_init=0.05,
        epoch_end=lambda record: snapshots.append((record, copy.deepcopy(model))),
    )
    losses = np.array([record["valid_loss"] for record, _ in snapshots])
    best = losses.argmin(axis=0)
    assert (best < 59).all()
    for m, epoch in enumerate(best):
        assert_same_member(model, m, snapshots[epoch][1], m, rtol=0, atol=0)


class Scripted:
    """Parameters of three members that state the epoch they were set in."""

    def __init__(self):
        self.module = nn.ParameterList(
            [nn.Parameter(torch.zeros(2, 3, 4)), nn.Parameter(torch.zeros(1, 3, 4))]
        )

    def run(self, risks, patience, tol=0.0, undersmoothing=1.0):
        best = BestMembers(list(self.module), patience, tol, undersmoothing)
        running = []
        for epoch, risk in enumerate(risks, start=1):
            for parameter in self.module:
                parameter.data.fill_(epoch)
            best.update(torch.tensor(risk))
            running.append(best.running.tolist())
        best.restore()
        values = [parameter.data.amax((0, 2)).tolist() for parameter in self.module]
        assert values[0] == values[1]
        assert [parameter.data.amin((0, 2)).tolist() for parameter in self.module] == values
        return values[0], running


def test_undersmoothed_members_train_on_and_keep_their_last_weights():
    # Best in epochs 1, 3 and 2; twice as long, and at least as long as the patience of 2 asks for.
    risks = [
        [1.0, 3.0, 3.0],
        [2.0, 2.0, 1.0],
        [2.0, 1.0, 2.0],
        [2.0, 2.0, 2.0],
        [2.0, 2.0, 2.0],
        [2.0, 2.0, 2.0],
        [2.0, 2.0, 2.0],
    ]
    kept, running = Scripted().run(risks, patience=2, undersmoothing=2.0)
    assert kept == [3, 6, 4]
    assert [sum(member) for member in zip(*running, strict=True)] == [2, 5, 3]


def test_undersmoothed_members_have_the_best_epoch_at_which_they_would_have_stopped():
    """Risks after it do not count, so that they need not be known."""
    risks = [[1.0] * 3, [0.5, 2.0, 2.0], [2.0] * 3, [2.0] * 3, [0.1] * 3, [0.1] * 3, [0.1] * 3]
    kept, running = Scripted().run(risks, patience=2, undersmoothing=3.0)
    assert kept == [6, 3, 3]
    assert [sum(member) for member in zip(*running, strict=True)] == [5, 2, 2]
    best = BestMembers([torch.zeros(1, 3, 2)], 2, 0.0, 3.0)
    settled = []
    for risk in risks[:4]:
        best.update(torch.tensor(risk))
        settled.append(best.is_settled)
    assert settled == [False, False, False, True]
    before = best.running.tolist()
    best.advance()
    assert before == [True, False, False] and best.running.tolist() == before
    best.advance()
    assert not best.running.any()


def test_a_stopped_member_never_changes_again():
    """Member 0 would become best after it stopped, member 1 stops late, member 2 never."""
    kept, running = Scripted().run(
        [[1.0, 1.0, 9.0], [1.1, 0.9, 8.0], [1.2, 1.0, 7.0], [0.1, 1.0, 6.0], [0.1, 0.1, 5.0]],
        patience=2,
    )
    assert kept == [1, 2, 5]
    assert running == [
        [True, True, True],
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, True],
    ]


def test_gains_below_tol_are_kept_but_do_not_prolong():
    kept, running = Scripted().run(
        [[1.0, 1.0, 1.0], [0.99, 0.8, 1.0], [0.98, 0.75, 1.0], [0.5, 0.6, 1.0]],
        patience=2,
        tol=0.1,
    )
    assert kept == [3, 4, 1]
    assert running[2] == [False, True, False]
    assert running[3] == [False, True, False]


def test_a_risk_that_is_no_number_is_never_best():
    nan = math.nan
    kept, running = Scripted().run([[nan, 1.0, nan], [0.5, nan, nan], [nan, 0.9, nan]], patience=2)
    assert kept == [2, 3, 0]
    assert running[1] == [True, True, False]


def test_still_running_members_are_counted():
    log = make_tensors()
    assert train(make_model(), log, 2, patience=5).n_running_ == 3
    assert train(make_model(), log, 2, n_train=150).n_running_ is None


# Weights and the criterion


def gradient(model, objective, log, rate=None):
    """Return the risks and the gradient that one full-batch step of the engine takes."""
    net = build_net(copy.deepcopy(model), objective, false_action_rate=rate, **OPTIONS)
    net._set_training(True)
    risks = net.train_step(((log[0], None), {"actions": log[1]}, log[2]))["loss"]
    return risks, [p.grad for p in net.module_.parameters()]


@pytest.mark.parametrize("rate", [None, [0.1, 0.0]])
def test_integer_weights_are_repeated_rows(rate):
    """One full-batch gradient; weights have mean 1 over the rows, as `ResidentRows` asks for."""
    X, actions, _ = make_tensors(K=2, unlogged=0.4)
    times = torch.as_tensor(np.random.default_rng(1).integers(0, 4, len(X)))
    rate = None if rate is None else torch.tensor(rate, dtype=torch.float64)
    weight = times.double() / times.double().mean()
    repeated = [X.repeat_interleave(times, 0), actions.repeat_interleave(times, 0)]
    repeated.append(torch.ones(len(repeated[0]), dtype=torch.float64))

    model = make_model(K=2)
    risks, weighted = gradient(model, Stratified(), (X, actions, weight), rate)
    expected_risks, expected = gradient(model, Stratified(), repeated, rate)
    torch.testing.assert_close(risks, expected_risks, rtol=0, atol=1e-12)
    assert max(g.abs().max() for g in expected) > 1e-3
    for ours, theirs in zip(weighted, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_gradient_of_the_engine_is_that_of_the_likelihood():
    log = make_tensors()
    model = make_model()
    _, ours = gradient(model, Stratified(), log)
    f, u = model(log[0])
    probability = torch.sigmoid(f) * torch.sigmoid(u[..., 0])
    y = log[1][:, 0].expand_as(f)
    loss = nn.functional.binary_cross_entropy(probability, y, reduction="none") * log[2]
    expected = torch.autograd.grad(loss.mean(1).sum(), list(model.parameters()))
    for grad, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(grad, reference, rtol=0, atol=1e-12)


class TwoLosses(Objective):
    def loss(self, reward_logit, propensity_logit, batch):
        return reward_logit * 0 + 1

    def validation_loss(self, reward_logit, propensity_logit, batch):
        return reward_logit * 0 + 2 * batch.actions[:, 0]


def test_criterion_is_a_weighted_mean_per_member():
    actions = torch.tensor([[1.0], [0.0], [1.0], [1.0]])
    weight = torch.tensor([0.5, 1.5, 2.0, 0.0])
    logits = torch.zeros(2, 4), torch.zeros(2, 4, 1)
    risk = MemberRisk(TwoLosses(), Measurement.of_actions(1), None)
    fields = {"actions": actions}
    assert risk.train()(logits, fields, weight).tolist() == [1, 1]
    assert risk.eval()(logits, fields, weight).tolist() == [1.25, 1.25]
    own = torch.stack([weight, torch.tensor([4.0, 0.0, 0.0, 0.0])])
    assert risk.train()(logits, fields, own).tolist() == [1, 1]
    assert risk.eval()(logits, fields, own).tolist() == [1.25, 2]


def test_history_means_weigh_batches_by_their_rows():
    """The last batch of 100 rows by 32 has 4: an unweighted mean over batches would be off."""
    log = make_tensors()
    net = train(make_model(), log, 1, TwoLosses(), patience=5)
    assert net.history[0]["train_loss"] == pytest.approx([(log[2][:100]).mean().item()] * 3)
    expected = (2 * log[1][100:, 0] * log[2][100:]).mean().item()
    assert net.history[0]["valid_loss"] == pytest.approx([expected] * 3)


def test_false_action_rate_reaches_the_objective():
    class Recorder(Stratified):
        seen = []

        def loss(self, reward_logit, propensity_logit, batch):
            self.seen.append(batch.false_action_rate)
            return super().loss(reward_logit, propensity_logit, batch)

    rate = torch.tensor([0.1], dtype=torch.float64)
    train(make_model(), make_tensors(), 1, Recorder(), n_train=150, false_action_rate=rate)
    assert all(torch.equal(e, rate) for e in Recorder.seen)


class Flat(Objective):
    """No gradient: what moves is weight decay alone."""

    def loss(self, reward_logit, propensity_logit, batch):
        return 0 * reward_logit + 0 * propensity_logit.sum(-1)


def test_weight_decay_is_decoupled_from_the_gradient():
    model = make_model()
    before = copy.deepcopy(model)
    train(model, make_tensors(), 1, Flat(), n_train=150, batch_size=50)
    factor = (1 - OPTIONS["learning_rate_init"] * OPTIONS["weight_decay"]) ** 3
    for ours, theirs in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs * factor, rtol=1e-14, atol=0)


def test_training_is_reproducible_and_leaves_global_generators_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    models = []
    for _ in range(2):
        model = make_model(dropout=0.3)
        model.set_generator(torch.Generator().manual_seed(1))
        train(model, make_tensors(), 4, patience=5)
        models.append(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_dropout_is_off_on_validation_rows():
    """With nothing learned, validation losses are those of the plain forward pass."""
    log = make_tensors()
    model = make_model(dropout=0.5)
    model.set_generator(torch.Generator().manual_seed(1))
    X, y, weight = [part[100:] for part in log]
    with torch.no_grad():
        f, u = model.eval()(X)
        action = torch.sigmoid(f) * torch.sigmoid(u[..., 0])
        loss = nn.functional.binary_cross_entropy(action, y[:, 0].expand_as(f), reduction="none")
        expected = (loss * weight).mean(1).tolist()
    net = train(model, log, 1, patience=5, learning_rate_init=1e-12)
    assert net.history[0]["valid_loss"] == pytest.approx(expected, rel=1e-6)


# Trouble


def test_a_bad_member_harms_no_other():
    """Huge weights in one member: the others train to what they would be without it."""
    log, model = make_tensors(), make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[:, 1] *= 1e8
    singles = {m: member(model, m) for m in (0, 2)}
    train(model, log, 5, n_train=150)
    for m, single in singles.items():
        train(single, log, 5, n_train=150)
        assert_same_member(model, m, single, 0, rtol=0, atol=1e-9)


def test_a_member_without_finite_loss_gives_the_others_their_gradient():
    log, model = make_tensors(), make_model()
    _, expected = gradient(model, Stratified(), log)
    with torch.no_grad():
        model.reward.weights[0][:, 1] = math.nan
    risks, ours = gradient(model, Stratified(), log)
    assert torch.isnan(risks).tolist() == [False, True, False]
    for grad, reference in zip(ours, expected, strict=True):
        torch.testing.assert_close(grad[:, [0, 2]], reference[:, [0, 2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_train", [100, 150])
def test_divergence_is_reported_with_its_epoch_and_cure(n_train):
    log = make_tensors()
    model = make_model()
    seen = []
    with pytest.raises(FloatingPointError, match=r"epoch 2: .*not finite.*learning_rate_init"):
        train(
            model,
            log,
            9,
            n_train=n_train,
            batch_size=n_train,
            learning_rate_init=1e200,
            patience=9,
            epoch_end=lambda record: seen.append(record),
        )
    assert len(seen) == 2


@pytest.fixture
def stay(monkeypatch):
    """Members stay until all have stopped, as with rates or users of their own."""
    leave = MembersInTraining.leave
    return lambda: monkeypatch.setattr(
        MembersInTraining, "leave", lambda self, keep=False: leave(self, keep=True)
    )


def test_divergence_of_a_stopped_member_ends_no_fit(stay):
    """Its best weights are kept already; the others go on."""
    stay()

    class BreaksLate(Stratified):
        steps = 0

        def loss(self, reward_logit, propensity_logit, batch):
            self.steps += 1
            loss = super().loss(reward_logit, propensity_logit, batch)
            broken = torch.tensor([[math.nan if self.steps > 44 else 0.0], [0.0], [0.0]])
            return loss + broken  # from epoch 12 on, member 0

    log = make_tensors()
    models = [make_model(), make_model()]
    options = {"patience": 3, "tol": 1e-3}
    nets = [
        train(model, log, 60, objective, **options)
        for model, objective in zip(models, (Stratified(), BreaksLate()), strict=True)
    ]
    assert math.isnan(nets[1].history[-1]["train_loss"][0])
    assert len(nets[0].history) == len(nets[1].history) > 12
    for m in range(3):
        assert_same_member(models[1], m, models[0], m, rtol=0, atol=0)


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stopped_members_leave_and_change_nothing(dropout, own_weights, stay):
    """It is the same training as with members that stay, without the cost."""

    class Watched(Stratified):
        def loss(self, reward_logit, propensity_logit, batch):
            self.seen = {*getattr(self, "seen", ()), len(reward_logit)}
            return super().loss(reward_logit, propensity_logit, batch)

    X, actions, weight = make_tensors()
    if own_weights:
        factors = np.random.default_rng(0).exponential(size=(3, len(X)))
        weight = weight * torch.as_tensor(factors)
    models = [make_model(hidden=(5, 4), dropout=dropout) for _ in range(2)]
    nets = []
    for model in models:
        model.set_generator(torch.Generator().manual_seed(0))
        nets.append(train(model, (X, actions, weight), 80, Watched(), patience=5, tol=0.01))
        stay()
    leaving, staying = nets
    assert [len(net.criterion_.objective.seen) > 1 for net in nets] == [True, False]
    assert len(leaving.history) == len(staying.history)
    for m in range(3):
        assert_same_member(models[0], m, models[1], m, rtol=0, atol=1e-9)
        losses = [[epoch["valid_loss"][m] for epoch in net.history] for net in nets]
        stopped = losses[0].index(losses[0][-1])
        np.testing.assert_allclose(losses[0][: stopped + 1], losses[1][: stopped + 1], atol=1e-9)
        assert losses[0][stopped:] == [losses[0][-1]] * (len(losses[0]) - stopped)


# Epochs and callbacks


class Trunk(RewardModel):
    """Heads on a linear layer that all members share."""

    def __init__(self, *args, trunk=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.trunk = nn.Linear(D, D) if trunk is None else trunk

    def shared_parameters(self):
        return list(self.trunk.parameters())

    def like(self, n_members):
        return Trunk(**self.config | {"n_members": n_members}, trunk=self.trunk).double()

    def outputs(self, x, first=None):
        return super().outputs(self.trunk(x), first)


def make_trunk(n_members=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = Trunk(n_members, D, 1, (16,), (5,)).double()
    model.initialize(generator, 0.3, torch.zeros(1))
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-1, 1, generator=generator))
    return model


def test_shared_parameters_are_no_members():
    heads = make_model()
    assert heads.shared_parameters() == []
    assert [id(p) for p in heads.member_parameters()] == [id(p) for p in heads.parameters()]
    model = make_trunk()
    assert len(model.member_parameters()) == len(heads.member_parameters())
    assert len(list(model.parameters())) == len(model.member_parameters()) + 2
    some = model.of_members(torch.tensor([0, 2]))
    assert some.trunk is model.trunk
    with pytest.raises(ValueError, match="step sizes of their own cannot share parameters"):
        build_net(model, Stratified(), **OPTIONS | {"learning_rate_init": torch.ones(3)})


def test_a_shared_trunk_learns_from_all_members():
    """The first step of the trunk is that of the sum of the members' losses."""
    log = make_tensors()
    model, options = make_trunk(), {"n_train": 150, "batch_size": 150, "seed": None}
    by_hand = copy.deepcopy(model)
    X, actions, weight = log
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.02, weight_decay=0.1, fused=True)
    by_hand.set_generator(torch.Generator())
    by_hand.train()
    f, u, _ = by_hand.outputs(X)
    (-log_likelihood(f, u, actions) @ weight / len(X)).sum().backward()
    optimizer.step()
    train(model, log, 1, **options)
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_shared_trunk_goes_on_when_members_leave_or_a_fit_pauses():
    log, options = make_tensors(), {"patience": 3, "tol": 1e-3}
    whole = make_trunk()
    net = train(whole, log, 60, **options)
    left = [epoch["valid_loss"] for epoch in net.history]
    stopped = [
        sum(1 for epoch in left if epoch[m] != left[-1][m]) for m in range(3)
    ]  # members that have left keep their last loss
    assert len(set(stopped)) > 1
    model = make_trunk()
    paused = build_net(model, Stratified(), **(OPTIONS | options))
    paused.fit_loop(make_parts(log), epochs=60, pause=min(stopped) + 1)
    assert 0 < sum(paused.progress_["members"]["present"]) < 3
    resumed = build_net(make_trunk(seed=1), Stratified(), **(OPTIONS | options))
    resumed.fit_loop(make_parts(log), epochs=60, progress=paused.progress_)
    for ours, theirs in zip(resumed.module_.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_epoch_hooks_and_stop():
    calls = []

    def epoch_end(record):
        calls.append(("end", sorted(record)))
        return len(calls) == 6

    net = train(
        make_model(),
        make_tensors(),
        50,
        patience=50,
        epoch_begin=lambda: calls.append(("begin", None)),
        epoch_end=epoch_end,
    )
    assert calls == [("begin", None), ("end", ["train_loss", "valid_loss"])] * 3
    assert len(net.history) == 3
    assert net.n_running_ == 3


def test_history_without_validation():
    net = train(make_model(), make_tensors(), 2, n_train=150)
    assert [set(epoch) & {"train_loss", "valid_loss"} for epoch in net.history] == [
        {"train_loss"}
    ] * 2
    assert all(len(epoch["train_loss"]) == 3 for epoch in net.history)


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device, called from Python or from within torch."""

    METHODS = (
        *("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"),
        *("__array__", "nonzero", "equal", "is_nonzero"),
    )
    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")

    def __init__(self, monkeypatch):
        super().__init__()
        self.calls = []
        for name in self.METHODS:
            monkeypatch.setattr(
                torch.Tensor, name, self.counting(name, getattr(torch.Tensor, name))
            )

    def counting(self, name, method):
        def counted(tensor, *args, **kwargs):
            self.calls.append(name)
            return method(tensor, *args, **kwargs)

        return counted

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.name().removeprefix("aten::").split(".")[0]
        if name in self.OPERATORS:
            self.calls.append(name)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("objective", [Stratified(), Naive()], ids=["stratified", "naive"])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_the_host_waits_once_per_epoch(monkeypatch, objective, early_stopping):
    log = make_tensors()
    n_train = 100 if early_stopping else 150
    model = make_model(dropout=0.2, with_propensity=objective.models_propensity)
    model.set_generator(torch.Generator().manual_seed(0))
    net = build_net(model, objective, patience=99, **OPTIONS)
    waits = {}
    for batch_size, epochs in itertools.product((50, 5), (1, 4)):
        parts = make_parts(log, n_train, batch_size)
        with monkeypatch.context() as patch, Waits(patch) as counter:
            net.fit_loop(parts, epochs=epochs)
        waits[batch_size, epochs] = counter.calls
    for (_, epochs), calls in waits.items():
        assert calls == ["tolist"] * epochs


def test_waits_are_seen(monkeypatch):
    """The counter above is no blind eye."""
    x = torch.ones(3)
    with monkeypatch.context() as patch, Waits(patch) as counter:
        float(x.sum())
        if x[0] > 0:
            x[x > 0]
        x.cpu()
    for name in ("__float__", "__bool__", "_local_scalar_dense", "cpu"):
        assert name in counter.calls


# Rows


def test_each_pass_serves_every_row_once():
    log = make_tensors(n=100)

    def fresh():
        generator = torch.Generator().manual_seed(0)
        return rows_of(log, torch.arange(10, 83), 20, generator=generator)

    part, orders = fresh(), []
    for _ in range(3):
        batches = list(part)
        assert [len(X) for (X, _), _, _ in batches] == [20, 20, 20, 13]
        assert all(first is None for (_, first), _, _ in batches)
        X = torch.cat([X for (X, _), _, _ in batches])
        rows = [int((log[0] == row).all(1).nonzero().item()) for row in X]
        assert sorted(rows) == list(range(10, 83))
        orders.append(rows)
        # What belongs together stays together.
        assert torch.equal(torch.cat([fields["actions"] for _, fields, _ in batches]), log[1][rows])
        assert torch.equal(torch.cat([weight for _, _, weight in batches]), log[2][rows])
    assert orders[0] != orders[1] != orders[2]
    assert len(part) == 73

    again = fresh()
    for order in orders:
        assert torch.equal(torch.cat([X for (X, _), _, _ in again]), log[0][order])


def test_rows_keep_their_order_without_generator():
    log = make_tensors(n=20)
    index = torch.tensor([5, 3, 9, 1])
    part = rows_of(log, index, 3)
    for _ in range(2):
        assert torch.equal(torch.cat([X for (X, _), _, _ in part]), log[0][index])


SIZES = torch.as_tensor(np.random.default_rng(3).integers(1, 6, 40))


def repeated(batch_size, part=None, seed=0):
    """Return rows that name their response, and where its rows lie among its fellows."""
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), SIZES.cumsum(0)])
    response = torch.repeat_interleave(SIZES)
    place = torch.arange(len(response)) - offsets[response]
    X = torch.stack([response, place], dim=1).double()
    return ResidentRows(
        X,
        {"actions": X[:, :1]},
        {"labels": torch.arange(40).double()},
        torch.arange(40).double() + 100,
        torch.arange(40) if part is None else part,
        batch_size,
        offsets=offsets,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_rows_of_a_response_stay_together(batch_size):
    part = torch.arange(5, 38)
    served = []
    for (X, first), fields, weight in repeated(batch_size, part):
        ids = X[first, 0].long()
        served += ids.tolist()
        assert torch.equal(X[:, 0].long(), ids[fields["response"]])
        assert torch.equal(fields["actions"], X[:, :1])
        assert torch.equal(fields["labels"], ids.double())
        assert torch.equal(weight, ids + 100.0)
        # All rows of each response, in their order.
        expected = torch.cat([torch.arange(SIZES[i]) for i in ids])
        assert torch.equal(X[:, 1].long(), expected)
    assert sorted(served) == part.tolist()


def test_batches_of_repeated_rows_have_about_the_size_asked_for():
    sizes = [len(X) for (X, _), _, _ in repeated(20)]
    assert sum(sizes) == SIZES.sum()
    assert max(sizes) < 20 + SIZES.max() and min(sizes[:-1]) > 20 - SIZES.max()


def test_repeated_rows_are_shuffled_anew():
    part = repeated(20)
    orders = [torch.cat([X[first, 0] for (X, first), _, _ in part]).tolist() for _ in range(2)]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


# Members with rows of their own, and false-action rates


def test_members_with_weights_of_their_own_train_as_if_alone():
    log = make_tensors(K=3)
    X, actions, _ = log
    own = torch.zeros(3, len(X), dtype=torch.float64)
    for m in range(3):
        own[m, m::3] = 3.0
    everything = torch.arange(len(X))
    model = make_model(K=3)
    singles = [member(model, m) for m in range(3)]

    def fit(model, weight):
        net = build_net(model, Stratified(), patience=50, **OPTIONS)
        generator = torch.Generator().manual_seed(1)
        train = ResidentRows(
            X, {"actions": actions}, {}, weight, everything, 40, generator=generator
        )
        valid = ResidentRows(X, {"actions": actions}, {}, 3 - weight, everything, 1000)
        net.fit_loop((train, valid), epochs=5)

    fit(model, own)
    for m, single in enumerate(singles):
        fit(single, own[m : m + 1])
        assert_same_member(model, m, single, 0, rtol=0, atol=1e-9)


class Recorded(Stratified):
    """The likelihood; keeps all that the heads gave."""

    def validation_loss(self, reward_logit, propensity_logit, batch):
        self.seen = [reward_logit, propensity_logit, batch.auxiliary_logit, batch.representation]
        return super().validation_loss(reward_logit, propensity_logit, batch)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"hidden_layer_sizes": (), "propensity_hidden_layer_sizes": ()},
        {"auxiliary_head": True, "representation": True},
        {"propensity_form": "trunk", "auxiliary_head": True},
        {"propensity_form": "constant"},
        {"propensity_form": "shared"},
        {"propensity_form": "reward", "n_signals": 1},
        {"reward_columns": (0, 2), "propensity_columns": (1, 3), "dropout": 0.5},
    ],
    ids=str,
)
def test_members_evaluate_only_the_rows_that_they_validate_on(form):
    n, sizes = 30, {"hidden_layer_sizes": (8,), "propensity_hidden_layer_sizes": (5, 4)}
    form = sizes | {"n_signals": 2} | form
    model = RewardModel(3, D, **form).double()
    model.initialize(torch.Generator().manual_seed(0), 0.3)
    X, actions, _ = make_tensors(n, K=form["n_signals"])
    weight = torch.zeros(3, n, dtype=torch.float64)
    weight[0, ::3], weight[1, 5:9] = 2.0, 3.0  # and the third member has none of these rows
    net = build_net(model, Recorded(), **OPTIONS)
    net._set_training(False)
    heads, shapes = net.module_.outputs, []
    net.module_.outputs = lambda x, first: shapes.append(x.shape) or heads(x, first)
    own = net.validation_step(((X, None), {"actions": actions}, weight))["loss"]
    found = net.criterion_.objective.seen
    assert shapes == [(3, 10, D)]
    full = net.criterion_(heads(X), {"actions": actions}, weight)
    torch.testing.assert_close(own, full)
    for ours, theirs in zip(found, net.criterion_.objective.seen, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours[weight > 0], theirs[weight > 0])
    nothing = net.validation_step(((X, None), {"actions": actions}, 0 * weight))["loss"]
    assert (nothing == 0).all()


def latent_class(n, e, seed=0):
    """Return X and three signals with false actions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, D))
    preferred = rng.random(n) < 1 / (1 + np.exp(-3 * X[:, 0]))
    a = 1 / (1 + np.exp(-X[:, 1:4] - 0.3))
    actions = np.where(preferred[:, None], rng.random((n, 3)) < a, rng.random((n, 3)) < e)
    return torch.as_tensor(X), torch.as_tensor(actions.astype(float))


def estimated_rates(X, actions, held_out, start=0.02, epochs=60):
    n_members = len(held_out)
    model = make_model(n_members=n_members, K=3, hidden=(8,))
    net = build_net(
        model,
        Stratified(),
        false_action_rate=torch.full((3,), start, dtype=torch.float64),
        estimate_false_action_rate=True,
        patience=15,
        **OPTIONS,
    )
    rows = {"actions": actions}
    everything = torch.arange(len(X))
    weights = [part / part.mean(1, keepdim=True) for part in (1 - held_out, held_out)]
    net.fit_loop(
        (
            ResidentRows(X, rows, {}, weights[0], everything, 200),
            ResidentRows(X, rows, {}, weights[1], everything, 700),
        ),
        epochs=epochs,
    )
    return net.criterion_.false_action_rate[0]


def test_false_action_rates_are_found_on_held_out_rows():
    X, actions = latent_class(3000, np.array([0.05, 0.1, 0.2]))
    held_out = torch.zeros(2, 3000, dtype=torch.float64)
    held_out[0, ::2] = held_out[1, 1::2] = 1
    rates = estimated_rates(X, actions, held_out)
    assert rates.shape == (2, 3)
    # Some 750 responses that are not preferred each: a standard error of 0.011 or less, plus what
    # is lost by not knowing which.
    np.testing.assert_allclose(rates.mean(0), [0.05, 0.1, 0.2], atol=0.035)
    assert not torch.equal(rates[0], rates[1])


def test_members_estimate_their_rates_as_if_alone():
    X, actions = latent_class(300, 0.1)
    held_out = torch.zeros(3, 300, dtype=torch.float64)
    for m in range(3):
        held_out[m, m::3] = 1
    together = estimated_rates(X, actions, held_out, epochs=4)
    model = make_model(n_members=3, K=3, hidden=(8,))
    for m in range(3):
        net = build_net(
            member(model, m),
            Stratified(),
            false_action_rate=torch.full((3,), 0.02, dtype=torch.float64),
            estimate_false_action_rate=True,
            patience=15,
            **OPTIONS,
        )
        weights = [part / part.mean(1, keepdim=True) for part in (1 - held_out[[m]], held_out[[m]])]
        net.fit_loop(
            [
                ResidentRows(X, {"actions": actions}, {}, weight, torch.arange(300), size)
                for weight, size in zip(weights, (200, 700), strict=True)
            ],
            epochs=4,
        )
        torch.testing.assert_close(net.criterion_.false_action_rate[0, 0], together[m])


# Threads


def threads_within_a_fit(_):
    seen = []
    log = make_tensors(n=60)
    train(make_model(), log, 1, epoch_end=lambda _: seen.append(torch.get_num_threads()))
    return seen[0], torch.get_num_threads()


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_threads_of_joblib_workers(backend, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        jobs = Parallel(n_jobs=2, backend=backend)
        found = jobs(delayed(threads_within_a_fit)(i) for i in range(2))
        assert found == 2 * [(1 if backend == "threading" else 3, 3)]
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # somebody has decided
        assert jobs(delayed(threads_within_a_fit)(i) for i in range(1)) == [(3, 3)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# The preference rate


def constrained(interval, batch_size=8, weight=None, epochs=30):
    """Return the weighted mean reward of each member after training, before the shift."""
    n = 200
    X, actions, _ = make_tensors(n=n)
    weight = torch.ones(n, dtype=torch.float64) if weight is None else weight / weight.mean()
    model = make_model()
    constraint = RateConstraint(*interval, 3, n / batch_size, CPU)
    options = OPTIONS | {"learning_rate_init": 0.002}
    net = build_net(model, Stratified(), constraint=constraint, **options)
    generator = torch.Generator().manual_seed(0)
    net.fit_loop(
        (rows_of((X, actions, weight), torch.arange(n), batch_size, generator=generator), None),
        epochs=epochs,
    )
    with torch.no_grad():
        return (torch.sigmoid(model.reward_logit(X)) @ weight / weight.sum()), constraint


@pytest.mark.parametrize("batch_size", [8, 100])
@pytest.mark.parametrize("rate", [0.4, 0.7])
def test_the_preference_rate_holds_whatever_the_batch(rate, batch_size):
    mean, _ = constrained((rate, rate), batch_size, epochs=30 if batch_size == 8 else 150)
    np.testing.assert_allclose(mean, rate, atol=0.03)


def test_the_preference_rate_is_that_of_the_weighted_population():
    X = make_tensors(n=200)[0]
    weight = torch.where(X[:, 0] > 0, 1.9, 0.1).double()
    mean, _ = constrained((0.6, 0.6), weight=weight)
    np.testing.assert_allclose(mean, 0.6, atol=0.03)


def test_weights_do_not_cancel_in_batches_of_one_row():
    X = torch.linspace(-3, 3, 50).double()
    weight = torch.where(X > 0, 1.9, 0.1).double()
    constraint = RateConstraint(0.5, 0.5, 1, len(X), "cpu")
    total = torch.zeros(1)
    for f, w in zip(X[:, None, None], weight[:, None], strict=True):
        f.requires_grad_()
        constraint.multiplier[:] = 1.0
        constraint.mean = torch.full((1,), 0.5).double()
        constraint(f, w).backward()
        r = torch.sigmoid(f)
        total = total + (f.grad / (r * (1 - r))).detach().squeeze()
    # The gradient of the multiplier's term is the weight of the row.
    assert total.item() == pytest.approx(weight.sum().item(), rel=0.1)


def test_an_interval_that_does_not_bind_does_nothing():
    free, _ = constrained((0.0, 1.0), epochs=5)
    wide, constraint = constrained((0.01, 0.99), epochs=5)
    torch.testing.assert_close(wide, free)
    assert not constraint.multiplier.any()


def test_an_interval_that_binds_is_reached_at_its_nearer_end():
    free, _ = constrained((0.0, 1.0))
    assert (free < 0.65).all()
    mean, _ = constrained((0.7, 0.9))
    np.testing.assert_allclose(mean, 0.7, atol=0.03)


def test_the_shift_is_exact():
    rng = np.random.default_rng(0)
    f = torch.as_tensor(rng.normal(scale=3, size=(4, 500)))
    weight = torch.as_tensor(rng.random(500))
    for low, high in ((0.2, 0.2), (0.9, 0.95), (0.05, 0.95)):
        constraint = RateConstraint(low, high, 4, 10, CPU)
        shift = constraint.shift(f, weight)
        mean = torch.sigmoid(f + shift[:, None]) @ weight / weight.sum()
        before = torch.sigmoid(f) @ weight / weight.sum()
        torch.testing.assert_close(mean, before.clamp(low, high), rtol=0, atol=1e-9)
    assert not shift.any()  # the last interval holds all


def test_a_member_without_rows_in_a_batch_is_left_alone():
    constraint = RateConstraint(0.3, 0.3, 2, 10, CPU)
    logit = torch.zeros(2, 5, requires_grad=True)
    weight = torch.tensor([[1.0] * 5, [0.0] * 5])
    constraint(logit, weight).sum().backward()
    assert torch.isfinite(logit.grad).all()
    assert (logit.grad[0] != 0).all() and not logit.grad[1].any()


# Inference


@pytest.mark.parametrize("sizes", [[60], [20, 40], [1, 59]])
def test_batched_logits_do_not_depend_on_the_chunks(sizes):
    model = make_model(K=2, dropout=0.5).float()
    X = make_tensors(n=60)[0].float()
    f, u = batched_logits(
        model.train(), X.split(sizes), ("reward_logit", "propensity_logit"), device=CPU
    )
    assert f.shape == (3, 60)
    assert u.shape == (3, 60, 2)
    assert f.dtype == u.dtype == torch.float64
    assert not f.requires_grad
    expected = model.eval()(X)
    torch.testing.assert_close(f.float(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(u.float(), expected[1], rtol=1e-5, atol=1e-6)
    (only,) = batched_logits(model, X.split(sizes), ("reward_logit",), device=CPU)
    assert torch.equal(only, f)


# Mixed precision


def test_bfloat16_means_autocast_forward_and_float32_everything_else():
    log = [part.float() for part in make_tensors()]
    model = make_model().float()
    seen = set()

    class Recorder(Stratified):
        def loss(self, reward_logit, propensity_logit, batch):
            loss = super().loss(reward_logit, propensity_logit, batch)
            seen.add((reward_logit.dtype, propensity_logit.dtype, loss.dtype))
            return loss

    dtype, autocast_dtype = resolve_dtype("bfloat16", CPU)
    assert (dtype, autocast_dtype) == (torch.float32, torch.bfloat16)
    full = copy.deepcopy(model)
    train(model, log, 3, Recorder(), patience=9, autocast_dtype=autocast_dtype)
    assert seen == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    train(full, log, 3, patience=9)
    heads = ("reward_logit", "propensity_logit")
    mixed = batched_logits(model, [log[0]], heads, device=CPU, autocast_dtype=autocast_dtype)
    for ours, theirs in zip(mixed, batched_logits(full, [log[0]], heads, device=CPU), strict=True):
        assert ours.dtype == torch.float64
        assert 0 < (ours - theirs).abs().max() < 0.1


# Partners of pairwise objectives


def candidates(row, part, groups, kinds, across):
    """Every row that may be drawn, by brute force."""
    other = [j for j in part if kinds[j] != kinds[row]]
    near = [j for j in other if groups[j] == groups[row]]
    return set(near or (other if across else []) or [row])


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("any_other", [False, True])
def test_partners_are_drawn_uniformly_from_all_candidates(any_other, across):
    rng = np.random.default_rng(0)
    n = 40
    groups, kinds = rng.integers(8, size=n), rng.integers(3, size=n)
    groups[:2] = 100, 101  # alone in their groups
    if any_other:
        kinds = np.arange(n)
    part = np.sort(rng.permutation(n)[:30])
    partners = Partners(
        *map(torch.as_tensor, (part,)),
        n,
        torch.as_tensor(groups),
        torch.as_tensor(kinds),
        torch.Generator().manual_seed(0),
        across,
    )
    counts = np.zeros((n, n))
    for _ in range(3000):
        partners.draw()
        counts[np.arange(n), partners.partner.numpy()] += 1
    outside = np.setdiff1d(np.arange(n), part)
    assert (counts[outside, outside] == 3000).all()
    for row in part:
        expected = sorted(candidates(row, part, groups, kinds, across))
        assert set(np.flatnonzero(counts[row])) == set(expected)
        share = counts[row, expected] / 3000
        np.testing.assert_allclose(share, 1 / len(expected), atol=4 * 0.5 / np.sqrt(3000))


def test_partners_of_rows_of_one_kind_are_the_rows_themselves():
    zeros = torch.zeros(5, dtype=torch.int64)
    partners = Partners(torch.arange(5), 5, zeros, zeros, torch.Generator().manual_seed(0))
    assert partners.partner.tolist() == [0, 1, 2, 3, 4]


def test_batches_of_pairs_append_the_partners():
    log = make_tensors(30)
    part, groups = torch.arange(20), torch.arange(30) // 5
    partners = Partners(part, 30, groups, torch.arange(30), torch.Generator().manual_seed(0))
    fields = {"actions": log[1]}
    rows = ResidentRows(
        log[0],
        fields,
        {"target": log[1].T},
        log[2],
        part,
        8,
        partners=partners,
        generator=torch.Generator().manual_seed(1),
    )
    before = partners.partner.clone()
    n = 0
    for (X, _), batch, weight in rows:
        half = len(X) // 2
        assert batch["actions"].shape == (2 * half, 1)
        assert batch["target"].shape == (1, 2 * half)
        for i in range(half):
            row = int((log[0] == X[i]).all(dim=1).nonzero())
            partner = int((log[0] == X[half + i]).all(dim=1).nonzero())
            assert partner == partners.partner[row] != row
            assert partner // 5 == row // 5
            assert weight[i] == log[2][row] * log[2][partner]
        n += half
    assert n == 20
    assert not torch.equal(before, partners.partner)  # drawn anew
