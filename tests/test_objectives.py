"""Objectives: those of the package, and what a third party can build on the base class."""

import inspect
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import positive
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from implicitrm_sk import ImplicitRewardEstimator, objectives
from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.metrics import make_preference_scorer
from implicitrm_sk.objectives import (
    OBJECTIVES,
    Batch,
    Naive,
    Objective,
    Stratified,
    TrainingLog,
    any_action,
)
from implicitrm_sk.objectives._counterfactual import wasserstein
from implicitrm_sk.signals import Action

NAN = np.nan
M, N = 3, 12
#: All that a log of one positive action is enough for.
ONE_SIGNAL = sorted(name for name, cls in OBJECTIVES.items() if not cls.needs_both_polarities)
SINGLE_SIGNAL = sorted(name for name, cls in OBJECTIVES.items() if cls.single_signal)


def batch(K, seed=0, rate=None):
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, size=(N, K)).astype(float)
    if K > 1:
        actions[rng.random((N, K)) < 0.2] = NAN
    f, u = rng.normal(size=(M, N)), rng.normal(size=(M, N, K))
    return (*map(torch.as_tensor, (f, u)), Batch(torch.as_tensor(actions), rate))


# Any logged action


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0], 0),
        ([1], 1),
        ([NAN], NAN),
        ([0, 0], 0),
        ([0, 1], 1),
        ([1, 1], 1),
        ([0, NAN], 0),
        ([NAN, 1], 1),
        ([NAN, NAN], NAN),
        ([0, NAN, 1], 1),
        ([NAN, 0, NAN], 0),
        ([NAN, NAN, NAN], NAN),
    ],
)
def test_any_action(row, expected):
    actions = np.array([row, row], dtype=float)
    before = actions.copy()
    np.testing.assert_array_equal(any_action(actions), [[expected]] * 2)
    np.testing.assert_array_equal(actions, before)


def test_any_action_of_many_rows():
    rng = np.random.default_rng(0)
    actions = rng.choice([0.0, 1.0, NAN], size=(200, 4), p=[0.4, 0.1, 0.5])
    expected = [[max(row[~np.isnan(row)], default=NAN)] for row in actions]
    np.testing.assert_array_equal(any_action(actions), expected)


# The base class


def test_base_class_has_no_loss():
    with pytest.raises(NotImplementedError):
        Objective().loss(*batch(1))
    with pytest.raises(NotImplementedError):
        Objective().validation_loss(*batch(1))


def test_defaults_of_the_base_class():
    objective = Objective()
    assert (objective.single_signal, objective.models_propensity) == (False, True)
    assert objective.models_actions
    assert not objective.swap_symmetric(1)
    reward, propensity = objective.initial_rates(np.array([0.1, 0.2]), 0.25)
    assert reward == 0.5
    assert propensity.tolist() == [0.5, 0.5]


def test_validation_loss_is_the_loss_unless_overridden():
    class Constant(Objective):
        def loss(self, reward_logit, propensity_logit, batch):
            return reward_logit * 2

    f, u, rows = batch(1)
    assert torch.equal(Constant().validation_loss(f, u, rows), f * 2)


def test_batch_is_immutable():
    rows = Batch(torch.zeros(2, 1))
    assert rows.false_action_rate is None
    with pytest.raises(AttributeError):
        rows.actions = torch.ones(2, 1)


# Those of the package


def test_names():
    assert {"stratified": Stratified, "naive": Naive}.items() <= OBJECTIVES.items()
    assert all(issubclass(objective, Objective) for objective in OBJECTIVES.values())
    assert all(objective.__doc__ for objective in OBJECTIVES.values())


def prepared(objective, seed=0, known=False, preference_rate=0.4):
    """Return a prepared objective, logits, a batch and the fields of the batch in numpy."""
    objective = OBJECTIVES[objective]() if isinstance(objective, str) else objective
    rng = np.random.default_rng(seed)
    y = np.isin(np.arange(N), (0, 3, 7, 10))
    g = rng.uniform(0.05, 0.9, size=(M, N))
    weight = rng.uniform(0.5, 1.5, N)
    propensity = rng.uniform(0.2, 1, N) if known else None
    log = TrainingLog(
        X=rng.normal(size=(N, 3)) + y[:, None],
        actions=y.astype(float),
        sample_weight=weight,
        is_training=np.arange(N) < N - 4,
        propensity=propensity,
        preference_rate=preference_rate,
        action_probability=lambda: g,
        random_state=np.random.RandomState(0),
    )
    fields = objective.prepare(log)
    arrays = fields | {
        "f": rng.normal(size=(M, N)),
        "u": rng.normal(size=(M, N, 1)),
        "v": rng.normal(size=(M, N)),
        "h": rng.normal(size=(M, N, 4)),
        "y": y.astype(float),
        "g": g,
        "w": weight / weight.mean(),
    }
    if known:
        arrays["propensity"] = propensity
    tensors = {name: torch.as_tensor(value) for name, value in fields.items()}
    if objective.auxiliary_head:
        tensors["auxiliary_logit"] = torch.as_tensor(arrays["v"])
    if objective.representation:
        tensors["representation"] = torch.as_tensor(arrays["h"])
    rows = Batch(
        torch.as_tensor(arrays["y"])[:, None],
        propensity=torch.as_tensor(propensity)[:, None] if known else None,
        sample_weight=None if objective.pairs else torch.as_tensor(arrays["w"]),
        **tensors,
    )
    f, u = torch.as_tensor(arrays["f"]), torch.as_tensor(arrays["u"])
    if objective.propensity_form == "reward":
        u = f[..., None]
    elif not objective.models_propensity:
        u = torch.full_like(u, torch.inf)
    return objective, f, u, rows, SimpleNamespace(**arrays)


@pytest.mark.parametrize("name", ONE_SIGNAL)
def test_every_objective_gives_a_finite_loss_per_member_and_row(name):
    objective, f, u, rows, _ = prepared(name)
    if not objective.single_signal:
        f, u, rows = batch(2)
    f.requires_grad_()
    for method in (objective.loss, objective.validation_loss):
        loss = method(f, u, rows)
        assert loss.shape == (M, N // 2 if objective.pairs else N)
        assert torch.isfinite(loss).all()
        (gradient,) = torch.autograd.grad(loss.sum(), f)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0
        # Members do not touch each other.
        f2 = f.detach().clone()
        f2[0] += 1.0
        torch.testing.assert_close(method(f2, u, rows)[1:], loss[1:])
    single = {
        field: value.float() if torch.is_tensor(value) else value
        for field, value in vars(rows).items()
    }
    half = objective.loss(f.bfloat16(), u.bfloat16(), Batch(**single))
    assert half.dtype == torch.float32


@pytest.mark.parametrize("name", [*OBJECTIVES])
def test_every_objective_is_cloned_and_pickled(name):
    objective = OBJECTIVES[name]()
    for copied in (clone(objective), pickle.loads(pickle.dumps(objective))):
        assert type(copied) is type(objective)
        assert copied.get_params() == objective.get_params()


# A classifier of positive against negative actions


def test_up_down_is_the_cross_entropy_of_the_reactions():
    f = torch.linspace(-2, 2, 5, dtype=torch.float64)[None]
    y = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1], [NAN, 1, NAN]]).double()
    rows = Batch(y, measurement=Measurement([Action(1), Action(1), Action(0)]))
    loss = OBJECTIVES["up-down"]().loss(f, None, rows)
    R = 1 / (1 + np.exp(-f[0].numpy()))
    half = -0.5 * (np.log(R) + np.log(1 - R))
    expected = [-np.log(R[0]), -np.log(1 - R[1]), 0.0, half[3], -np.log(R[4])]
    np.testing.assert_allclose(loss[0], expected, rtol=1e-12)


def test_up_down_learns_from_reactions_only():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    preferred = rng.random(1500) < 1 / (1 + np.exp(-3 * X[:, 0]))
    reacts = rng.random(1500) < 0.3
    y = np.column_stack([preferred & reacts, ~preferred & reacts]).astype(float)
    settings = {"signals": ["positive", "negative"], "learning_rate_init": 0.01, "random_state": 0}
    est = ImplicitRewardEstimator("up-down", **settings).fit(X, y)
    assert est.score(X, None, true_preference=preferred) > 0.4
    assert str(est.identification_) == (
        "ranking only (assuming readiness to show either preference in a constant ratio)"
    )
    with pytest.raises(ValueError, match="UpDown compares positive with negative actions"):
        ImplicitRewardEstimator("up-down").fit(X, y[:, :1])
    with pytest.raises(ValueError, match="makes no use of propensity"):
        est.fit(X, y, propensity=np.full(1500, 0.5))


def test_other_objectives_use_the_positive_signals_and_say_so():
    X, y, _ = quick_log()
    both = np.column_stack([y, (1 - y) * (np.arange(len(y)) % 2)])
    signals = {"signals": ["positive", "negative"]}
    with pytest.warns(UserWarning, match="uses positive actions only: 1 of y is ignored"):
        est = quick("balanced", **signals).fit(X, both)
    np.testing.assert_array_equal(est.predict(X), quick("balanced").fit(X, y).predict(X))
    with pytest.raises(ValueError, match="all signals of y are negative"):
        quick("balanced", signals=["negative"]).fit(X, y)


# The literature, each against its formula in plain numpy


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ce(logit, target):
    """Cross-entropy, also for targets outside [0, 1], in which it is linear."""
    return target * np.log1p(np.exp(-logit)) + (1 - target) * np.log1p(np.exp(logit))


def popularity(g, part, power=0.5):
    return (g / g[:, part].max(axis=1, keepdims=True)) ** power


def propensity(a, clip, known):
    p = a.propensity[None] if known else popularity(a.g, np.arange(N) < N - 4)
    return np.maximum(p, clip)


def jointly(a, clip, known):
    """Propensity of the multi-task objectives: relative to the batch."""
    g = sigmoid(a.u[..., 0])
    p = a.propensity[None] if known else np.sqrt(g / g.max(axis=1, keepdims=True))
    return np.maximum(p, clip)


def enumerated(a, A):
    """P(r*=1 | y), P(a=1 | y) and -log P(y) by summing over r* and a."""
    R = sigmoid(a.f)
    mass = dict.fromkeys(itertools.product((0, 1), (0, 1)), 0.0)
    for r, act in mass:
        p = (R if r else 1 - R) * (A if act else 1 - A)
        mass[r, act] = np.where(a.y == r * act, p, 0.0)
    total = sum(mass.values())
    return (mass[1, 0] + mass[1, 1]) / total, (mass[0, 1] + mass[1, 1]) / total, -np.log(total)


def balanced(a, known):
    part = np.arange(N) < N - 4
    s = np.average(a.y[part], weights=a.w[part])
    return np.where(a.y == 1, 1 / s, 1 / (1 - s)) / 2 * ce(a.f, a.y)


def root_naive(a, known):
    P = sigmoid(a.f) ** 2
    return -np.where(a.y == 1, np.log(P), np.log(1 - P))


def ips(a, known):
    p = propensity(a, 0.1, known)
    return a.y / p * ce(a.f, 1) + (1 - a.y / p) * ce(a.f, 0)


def dr(a, known):
    p, imputed = propensity(a, 0.1, known), ce(a.f, a.g)
    return imputed + a.y / p * (ce(a.f, 1) - imputed)


def mtips(a, known):
    p = jointly(a, 0.1, known)
    return ce(a.u[..., 0], a.y) + a.y / p * ce(a.f, 1) + (1 - a.y / p) * ce(a.f, 0)


def mtdr(a, known):
    p, imputed = jointly(a, 0.1, known), ce(a.f, sigmoid(a.v))
    corrected = imputed + a.y / p * (ce(a.f, 1) - imputed)
    return ce(a.u[..., 0], a.y) + ce(a.v, a.y) + corrected


def sdr(a, known):
    p, d = jointly(a, 0.1, known), ce(a.f, sigmoid(a.u[..., 0]))
    centred = d - (a.w * d).mean(axis=1, keepdims=True)
    C = (a.w * (a.y / p - sigmoid(a.f)) * centred).mean(axis=1, keepdims=True)
    return mtips(a, known) + C**2


def rmf(a, known, clip=0.0):
    R, p = sigmoid(a.f), propensity(a, clip, known)
    return a.y / p * (1 - R) ** 2 + (1 - a.y / p) * R**2


def ncrmf(a, known):
    return np.maximum(rmf(a, known, clip=0.1), 0)


def pu_factor(a):
    part = np.arange(N) < N - 4
    return 0.4 / np.average(a.y[part], weights=a.w[part]) * a.y


def upu(a, known):
    return pu_factor(a) * (ce(a.f, 1) - ce(a.f, 0)) + ce(a.f, 0)


def nnpu(a, known):
    positive = pu_factor(a) * ce(a.f, 1)
    negative = ce(a.f, 0) - pu_factor(a) * ce(a.f, 0)
    return positive + negative  # the mean of the negative part is positive here


def elkan_noto(a, known):
    held_out = (a.y == 1) & (np.arange(N) >= N - 4)
    c = np.average(a.g[:, held_out], axis=1, weights=a.w[held_out])[:, None]
    w = np.minimum((1 - c) / c * a.g / (1 - a.g), 1)
    return np.where(a.y == 1, ce(a.f, 1), w * ce(a.f, 1) + (1 - w) * ce(a.f, 0))


def sar_em(a, known):
    q, _, _ = enumerated(a, sigmoid(a.u[..., 0]))
    return ce(a.f, q) + q * ce(a.u[..., 0], a.y)


def recrec_i(a, known):
    q, p, nll = enumerated(a, sigmoid(a.u[..., 0]))
    return ce(a.f, q) + nll + ce(a.u[..., 0], p)


def recrec_f(a, known):
    anchor = popularity(a.g, np.arange(N) < N - 4)
    return recrec_i(a, known) + 0.1 * (sigmoid(a.u[..., 0]) - anchor) ** 2


def pairs(loss):
    """Sum loss(i, j) over both orders of each pair."""
    return np.stack([loss(i, i + N // 2) + loss(i + N // 2, i) for i in range(N // 2)], axis=-1)


def ranking_loss(a, i, j):
    return -np.log(sigmoid(a.f[:, i] - a.f[:, j]))


def bpr(a, known):
    return pairs(lambda i, j: (a.y[i] == 1 and a.y[j] == 0) * ranking_loss(a, i, j))


def ubpr(a, known, clip=0.0):
    t = np.broadcast_to(a.y / propensity(a, clip, known), (M, N))
    return pairs(lambda i, j: np.maximum(t[:, i] * (1 - t[:, j]) * ranking_loss(a, i, j), 0) / 2)


def cubpr(a, known):
    return ubpr(a, known, clip=0.3)


def uprl(a, known):
    p = np.broadcast_to(propensity(a, 0.1, known), (M, N))
    q = sigmoid(a.v)
    point = ce(a.v, a.y / p)

    def loss(i, j):
        weight = a.y[i] / p[:, i] * (1 - a.y[j]) / p[:, j]
        weight = weight * p[:, j] * (1 - q[:, j]) / (1 - q[:, j] * p[:, j])
        return (np.minimum(weight, 100) * ranking_loss(a, i, j) + point[:, i]) / 2

    return pairs(loss)


def counterif(a, known):
    share = np.bincount(a.stratum[: N - 4].astype(int), a.w[: N - 4], 4) / a.w[: N - 4].sum()
    better = {(0, 1), (3, 1), (2, 3)}

    def loss(i, j):
        s, t = a.stratum[i], a.stratum[j]
        point = ce(a.f[:, i], 1) / share[0] if s == 0 else 0.0
        if s == 1:
            point = ce(a.f[:, i], 0) / share[1]
        return point / 2 + ((s, t) in better) * ranking_loss(a, i, j)

    half = np.arange(N // 2)
    distance = 0.0
    for first, second in (((0, 1), (2,)), ((0,), (1,))):
        masks = [torch.as_tensor(np.isin(a.stratum[half], c) * 1.0) for c in (first, second)]
        distance = distance + wasserstein(torch.as_tensor(a.h[:, half]), *masks).numpy()
    return pairs(loss) + 0.1 * distance[:, None]


FORMULAS = {
    "balanced": balanced,
    "root-naive": root_naive,
    "ips": ips,
    "dr": dr,
    "mtips": mtips,
    "mtdr": mtdr,
    "sdr": sdr,
    "rmf": rmf,
    "ncrmf": ncrmf,
    "upu": upu,
    "nnpu": nnpu,
    "elkan-noto": elkan_noto,
    "sar-em": sar_em,
    "recrec-i": recrec_i,
    "recrec-f": recrec_f,
    "bpr": bpr,
    "ubpr": ubpr,
    "cubpr": cubpr,
    "uprl": uprl,
    "counterif": counterif,
}


def test_every_objective_has_a_formula():
    assert set(FORMULAS) | {"naive", "stratified", "up-down"} == set(OBJECTIVES)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_loss_is_the_formula(name):
    objective, f, u, rows, arrays = prepared(name)
    np.testing.assert_allclose(
        objective.loss(f, u, rows), FORMULAS[name](arrays, False), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in OBJECTIVES.items() if "propensity" in cls.uses)
)
def test_known_propensities_take_the_place_of_estimates(name):
    if name == "stratified":
        return  # tested with the likelihood
    objective, f, u, rows, arrays = prepared(name, known=True)
    np.testing.assert_allclose(
        objective.loss(f, u, rows), FORMULAS[name](arrays, True), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("name", ["sar-em", "recrec-i", "recrec-f", "root-naive"])
def test_likelihoods_validate_on_the_likelihood(name):
    objective, f, u, rows, a = prepared(name)
    *_, nll = enumerated(a, sigmoid(a.f if name == "root-naive" else a.u[..., 0]))
    np.testing.assert_allclose(objective.validation_loss(f, u, rows), nll, rtol=1e-9)


def test_sar_em_has_the_gradient_of_the_likelihood():
    """Generalised EM: the expected loss at the current posterior has the gradient of the whole."""
    objective, f, u, rows, _ = prepared("sar-em")
    f.requires_grad_(), u.requires_grad_()
    ours = torch.autograd.grad(objective.loss(f, u, rows).sum(), (f, u))
    theirs = torch.autograd.grad(objective.validation_loss(f, u, rows).sum(), (f, u))
    torch.testing.assert_close(ours, theirs)


def test_nnpu_steps_back_where_the_negative_risk_is_below_zero():
    """Algorithm 1: the gradient is -gamma times that of the negative part there."""
    objective, f, u, rows, a = prepared(objectives.NNPU(gamma=0.5))
    f = f + torch.tensor([[-2.0], [0.0], [4.0]]) * (2 * rows.acted - 1)
    f.requires_grad_()
    factor, x = pu_factor(a), f.detach().numpy()
    negative = (a.w * (1 - factor) * ce(x, 0)).mean(axis=1)
    assert negative.min() < 0 < negative.max()
    (gradient,) = torch.autograd.grad((objective.loss(f, u, rows) * torch.as_tensor(a.w)).sum(), f)
    down = a.w * (1 - factor) * sigmoid(x)
    full = down + a.w * factor * (sigmoid(x) - 1)
    expected = np.where(negative[:, None] < 0, -0.5 * down, full)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    risk = (objective.validation_loss(f, u, rows).detach().numpy() * a.w).mean(axis=1)
    positive = (a.w * factor * ce(x, 1)).mean(axis=1)
    np.testing.assert_allclose(risk, positive + np.maximum(negative, 0))


def test_stable_dr_heads_learn_from_their_own_terms():
    objective, f, u, rows, a = prepared("sdr")
    f.requires_grad_(), u.requires_grad_()
    grad_f, grad_u = torch.autograd.grad(objective.loss(f, u, rows).sum(), (f, u))
    p = jointly(a, 0.1, False)
    np.testing.assert_allclose(grad_f, sigmoid(a.f) - a.y / p, atol=1e-12)
    plain = objectives.SDR(balance=0.0)
    (bare,) = torch.autograd.grad(plain.loss(f, u, rows).sum(), u)
    np.testing.assert_allclose(bare[..., 0], sigmoid(a.u[..., 0]) - a.y, atol=1e-12)
    assert (grad_u - bare).abs().max() > 1e-3


def test_wasserstein_is_the_optimal_assignment():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, 10, 3))
    first = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0.0])
    second = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1.0])
    ours = wasserstein(*map(torch.as_tensor, (points, first, second)), strength=60.0, steps=2000)
    for cost, x in zip(ours, points, strict=True):
        distances = ((x[:4, None] - x[None, 6:]) ** 2).sum(-1)
        rows, columns = linear_sum_assignment(distances)
        exact = distances[rows, columns].mean()
        assert exact - 1e-9 <= float(cost) <= 1.05 * exact  # the entropy costs a little
    empty = wasserstein(*map(torch.as_tensor, (points, first, 0 * second)))
    assert empty.tolist() == [0, 0]


# The literature: behaviour


@pytest.mark.parametrize("name", ["ips", "rmf", "mtips", "sdr"])
def test_true_propensities_make_the_loss_unbiased(name):
    """The mean over the actions is the loss against r*, by Monte Carlo."""
    rng = np.random.default_rng(0)
    n, repeats = 6, 200_000
    f, p = rng.normal(size=n), rng.uniform(0.3, 1, n)
    preferred = np.array([1, 0, 1, 0, 1, 1.0])
    y = (preferred * (rng.random((repeats, n)) < p)).ravel()
    objective = OBJECTIVES[name](clip=0.0)
    rows = Batch(
        torch.as_tensor(y)[:, None],
        propensity=torch.as_tensor(np.tile(p, repeats))[:, None],
    )
    logit = torch.as_tensor(np.tile(f, repeats))[None]
    u = torch.zeros(1, n * repeats, 1, dtype=torch.float64)
    loss = objective.loss(logit, u, rows).numpy().reshape(repeats, n).mean(axis=0)
    R = sigmoid(f)
    ideal = np.where(preferred == 1, (1 - R) ** 2, R**2) if name == "rmf" else ce(f, preferred)
    if name != "rmf":
        # The action head has the logit 0: its task costs log 2.
        ideal = ideal + {"ips": 0, "mtips": 1, "sdr": 1}[name] * np.log(2)
        slack = 0.01 if name == "sdr" else 0.0  # the squared constraint, of the order 1 / n
    np.testing.assert_allclose(loss, ideal, atol=0.012 + (slack if name == "sdr" else 0))


def test_doubly_robust_with_the_right_imputation_is_unbiased_and_varies_less():
    rng = np.random.default_rng(0)
    repeats = 100_000
    f, p, preferred = np.array([1.0, -0.5]), np.array([0.4, 0.4]), np.array([1.0, 0.0])
    y = preferred * (rng.random((repeats, 2)) < p)
    rows = {
        "actions": torch.as_tensor(y.ravel())[:, None],
        "propensity": torch.as_tensor(np.tile(p, repeats))[:, None],
    }
    logit = torch.as_tensor(np.tile(f, repeats))[None]
    imputed = torch.as_tensor(np.tile([0.9, 0.0], repeats))[None]
    dr = objectives.DR(clip=0.0).loss(logit, None, Batch(**rows, action_rate=imputed)).numpy()
    ips = objectives.IPS(clip=0.0).loss(logit, None, Batch(**rows)).numpy()
    dr, ips = dr.reshape(repeats, 2), ips.reshape(repeats, 2)
    # Unbiased where r* = 0; where r* = 1 the imputed 0.9 adds its own error on top.
    expected = ce(f, preferred) + np.array([ce(1.0, 0.9) - ce(1.0, 0.9), 0])
    np.testing.assert_allclose(dr.mean(axis=0), expected, atol=0.01)
    assert dr[:, 0].std() < 0.2 * ips[:, 0].std()


def test_pairwise_loss_with_true_propensities_is_unbiased():
    """UBPR without its variance control estimates the loss of pairs with r*_i = 1, r*_j = 0."""
    rng = np.random.default_rng(0)
    repeats = 200_000
    f, p = np.array([0.5, -0.3]), np.array([0.5, 0.7])
    objective = objectives.UBPR(beta=np.inf)
    for preferred in itertools.product((0.0, 1.0), repeat=2):
        y = np.array(preferred) * (rng.random((repeats, 2)) < p)
        rows = Batch(
            torch.as_tensor(y.T.ravel())[:, None],
            propensity=torch.as_tensor(np.repeat(p, repeats))[:, None],
        )
        loss = objective.loss(torch.as_tensor(np.repeat(f, repeats))[None], None, rows).mean()
        i, j = preferred
        ideal = i * (1 - j) * ce(f[0] - f[1], 1) + j * (1 - i) * ce(f[1] - f[0], 1)
        assert float(loss) == pytest.approx(ideal / 2, abs=0.01)


def scar_log(n=3000, c=0.4, seed=0):
    """Preferences that the features determine; each preferred response is acted on with rate c."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    preferred = X[:, 0] > 0
    X[:, 0] += np.where(preferred, 0.5, -0.5)
    return X, (preferred & (rng.random(n) < c)).astype(float), preferred


def fit(name, X, y, **kwargs):
    options = {"n_estimators": 2, "hidden_layer_sizes": (16,), "learning_rate_init": 3e-3}
    options |= {"random_state": 0, "dropout": 0.0}
    fit_params = {key: kwargs.pop(key) for key in ("groups", "propensity") if key in kwargs}
    if OBJECTIVES[name].needs_preference_rate:
        options["preference_rate"] = 0.5
    options = {"objective": name} | options | kwargs
    return ImplicitRewardEstimator(**options).fit(X, y, **fit_params)


@pytest.mark.parametrize("name", ["elkan-noto", "recrec-i"])
def test_scar_methods_recover_a_constant_propensity(name):
    X, y, preferred = scar_log()
    est = fit(name, X, y, n_iter_no_change=20, learning_rate_init=0.01)
    found = est.objective_.propensity_ if name == "elkan-noto" else est.propensity(X)
    np.testing.assert_allclose(found, 0.4, atol=0.05)
    assert est.predict(X).mean() == pytest.approx(preferred.mean(), abs=0.05)


@pytest.mark.parametrize("name", ["upu", "nnpu"])
def test_class_prior_sets_the_level(name):
    X, y, preferred = scar_log()
    est = fit(name, X, y)
    assert est.predict(X).mean() == pytest.approx(preferred.mean(), abs=0.04)
    assert roc_auc_score(preferred, est.predict(X)) > 0.95


def test_nnpu_risk_stays_bounded_where_upu_risk_does_not():
    """Few rows, many columns, no early stopping: uPU pays itself for certainty."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 100))
    y = (rng.random(200) < 0.25).astype(float)
    options = {"early_stopping": False, "max_epochs": 150, "weight_decay": 0.0}
    risks = {
        name: np.min([epoch["train_loss"] for epoch in fit(name, X, y, **options).history_])
        for name in ("upu", "nnpu")
    }
    assert risks["upu"] < -2
    est = fit("nnpu", X, y, **options)
    # Where it steps back the reported loss is that step; the risk itself is never negative.
    logit = torch.as_tensor(est.decision_function(X))[None]
    risk = est.objective_.validation_loss(logit, None, Batch(torch.as_tensor(y)[:, None])).mean()
    assert 0 <= float(risk) < 1
    assert risks["nnpu"] > -0.5


def confounded_log(n_prompts=300, size=8, seed=0):
    """Users of some prompts act more, and the prompt shows in the features."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_prompts), size)
    activity = rng.normal(size=n_prompts)[groups]
    X = np.column_stack([rng.normal(size=len(groups)), activity])
    preferred = rng.random(len(groups)) < sigmoid(2 * X[:, 0])
    y = preferred & (rng.random(len(groups)) < sigmoid(1.5 * activity))
    return X, y.astype(float), groups


@pytest.mark.parametrize(
    "name",
    ["bpr", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ubpr", "cubpr", "uprl"))],
)
def test_pairwise_objectives_rank(name):
    X, y, preferred = scar_log(2000)
    groups = np.repeat(np.arange(500), 4)
    assert roc_auc_score(preferred, fit(name, X, y, groups=groups).predict(X)) > 0.93
    assert roc_auc_score(preferred, fit(name, X, y).predict(X)) > 0.93


def test_pairs_of_one_prompt_cancel_what_is_common_to_it():
    X, y, groups = confounded_log()
    within = objectives.BPR(across_prompts=False)
    of_prompt = [
        np.corrcoef(fit("bpr", X, y, **given).decision_function(X), X[:, 1])[0, 1]
        for given in ({"groups": groups, "objective": within}, {"groups": groups}, {})
    ]
    assert abs(of_prompt[0]) < 0.25
    assert min(of_prompt[1:]) > 0.5


def test_counterfactual_strata():
    rng = np.random.default_rng(0)
    n = 600
    near = np.arange(n) < 300
    X = np.where(near[:, None], 0, 4) + rng.normal(size=(n, 2))
    y = near & (rng.random(n) < 0.5)
    objective = objectives.CounterIF()
    log = TrainingLog(
        X, y.astype(float), np.ones(n), np.ones(n, bool), None, None, None, np.random.RandomState(0)
    )
    stratum = objective.prepare(log)["stratum"]
    assert (stratum[y] == 0).all()
    assert (stratum[near & ~y] == 1).mean() > 0.8  # like the acted ones: seen, and not liked
    assert (stratum[~near] == 2).mean() == pytest.approx(0.1 * (~y).sum() / 300, abs=0.03)
    assert (stratum[~near] == 1).mean() < 0.02
    assert objective.stratum_shares_.sum() == pytest.approx(1)


def test_counterfactual_ranks_where_unexposed_responses_look_different():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 2))
    exposed = X[:, 1] < 0
    X[:, 1] += np.where(exposed, -2, 2)
    preferred = rng.random(1000) < sigmoid(2 * X[:, 0])
    y = (preferred & exposed).astype(float)
    est = fit("counterif", X, y, learning_rate_init=0.01)
    assert roc_auc_score(preferred[exposed], est.predict(X[exposed])) > 0.7


def test_weighting_by_known_propensities_finds_the_reward_where_naive_does_not():
    """Acting depends on a column that the preference does not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 4)).astype(np.float32)
    preferred = rng.random(3000) < sigmoid(3 * X[:, 0])
    p = np.clip(sigmoid(2 * X[:, 1]), 0.15, 1)
    y = (preferred & (rng.random(3000) < p)).astype(float)
    auroc = {
        name: roc_auc_score(
            preferred, fit(name, X, y, **({"propensity": p} if name != "naive" else {})).predict(X)
        )
        for name in ("naive", "ips", "rmf", "dr")
    }
    assert auroc["ips"] > auroc["naive"] + 0.05
    assert auroc["rmf"] > auroc["naive"] + 0.05
    assert auroc["dr"] > auroc["naive"]


# The literature on the estimator

QUICK = {"n_estimators": 2, "max_epochs": 3, "hidden_layer_sizes": (8,), "random_state": 0}
needs_rate = {"upu", "nnpu"}


def quick(name, **kwargs):
    rate = {"preference_rate": 0.7} if name in needs_rate else {}
    return ImplicitRewardEstimator(name, **(QUICK | rate | kwargs))


pytestmark = pytest.mark.filterwarnings("ignore:.*were still improving:UserWarning")


def quick_log(n=160, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = (rng.random(n) < 0.6 * sigmoid(2 * X[:, 0])).astype(float)
    return X, y, np.repeat(np.arange(n // 4), 4)


@pytest.mark.parametrize("name", ONE_SIGNAL)
def test_rows_of_no_weight_do_not_matter(name):
    X, y, groups = quick_log()
    weight = np.random.default_rng(1).uniform(0.5, 2, len(X))
    weight[::5] = 0
    est = quick(name).fit(X, y, sample_weight=weight, groups=groups)
    X2, y2 = X.copy(), y.copy()
    X2[::5], y2[::5] = -X2[::5], 1 - y2[::5]
    again = quick(name).fit(X2, y2, sample_weight=weight, groups=groups)
    np.testing.assert_array_equal(est.predict(X), again.predict(X))
    heavier = quick(name).fit(X, y, sample_weight=np.where(y > 0, 3 * weight, weight))
    assert abs(heavier.predict(X) - est.predict(X)).max() > 1e-4


@pytest.mark.parametrize("name", ONE_SIGNAL)
def test_fitted_objectives_are_reproducible_pickled_and_have_members(name):
    X, y, groups = quick_log()
    before = torch.get_rng_state()
    est = quick(name).fit(X, y, groups=groups)
    assert torch.equal(torch.get_rng_state(), before)
    reward, std = pickle.loads(pickle.dumps(est)).predict(X, return_std=True)
    np.testing.assert_array_equal(reward, quick(name).fit(X, y, groups=groups).predict(X))
    assert ((reward >= 0) & (reward <= 1)).all()
    assert (std > 0).any()
    assert est.identification_.level in ("identified", "ranking only", "not identified")


@pytest.mark.parametrize("name", ONE_SIGNAL)
def test_what_models_no_actions_says_so(name):
    X, y, _ = quick_log()
    est = quick(name).fit(X, y)
    if est.objective_.models_actions:
        assert est.score(X, y) < 0
        assert est.predict_proba(X, y).shape == (len(X), 4)
        assert (est.predict_action(X) <= est.predict(X) + 1e-6).all()
    else:
        with pytest.raises(ValueError, match=r"does not model P\(y \| x\)"):
            est.score(X, y)
        for method in ("predict_proba", "predict_action", "propensity"):
            with pytest.raises(AttributeError, match=method) as error:
                getattr(est, method)
            assert "does not model P(y | x)" in str(error.value.__cause__)
    assert est.score(X, y, true_preference=y) < 1


@pytest.mark.parametrize("name", SINGLE_SIGNAL)
def test_side_information_that_is_not_used_is_refused(name):
    X, y, _ = quick_log()
    with pytest.raises(ValueError, match="makes no use of labels"):
        quick(name).fit(X, y, labels=np.where(y > 0, y, NAN))
    with pytest.raises(ValueError, match="makes no use of false_action_rate"):
        quick(name, false_action_rate=0.05).fit(X, y)
    if "preference_rate" not in OBJECTIVES[name].uses:
        with pytest.raises(ValueError, match="makes no use of preference_rate"):
            quick(name, preference_rate=0.5).fit(X, y)
    if "propensity" not in OBJECTIVES[name].uses:
        with pytest.raises(ValueError, match="makes no use of propensity"):
            quick(name).fit(X, y, propensity=np.full(len(y), 0.5))


@pytest.mark.parametrize("rate", [None, (0.3, 0.6)])
@pytest.mark.parametrize("name", sorted(needs_rate))
def test_class_prior_must_be_a_number(name, rate):
    X, y, _ = quick_log()
    with pytest.raises(ValueError, match="needs the share of preferred responses as a number"):
        quick(name, preference_rate=rate).fit(X, y)


def test_objectives_that_need_the_class_prior():
    assert {name for name, cls in OBJECTIVES.items() if cls.needs_preference_rate} == needs_rate


@pytest.mark.parametrize("name", ONE_SIGNAL)
def test_partial_fit_is_there_if_a_batch_suffices(name):
    X, y, _ = quick_log()
    est = quick(name)
    assert hasattr(est, "partial_fit") == OBJECTIVES[name].incremental
    if OBJECTIVES[name].incremental:
        for start in range(0, len(X), 40):
            est.partial_fit(X[start : start + 40], y[start : start + 40])
        assert est.n_iter_ == 4
    else:
        with pytest.raises(AttributeError, match="partial_fit"):
            est.partial_fit(X, y)


def test_propensities_of_several_signals_are_those_of_any_action():
    X, y, _ = quick_log()
    rng = np.random.default_rng(0)
    actions = np.column_stack([y, rng.random(len(y)) < 0.3]).astype(float)
    p = rng.uniform(0.2, 0.9, size=actions.shape)
    with pytest.warns(UserWarning, match="works on one signal"):
        both = quick("ips").fit(X, actions, propensity=p)
    any_p = 1 - (1 - p).prod(axis=1)
    one = quick("ips").fit(X, actions.max(axis=1), propensity=any_p)
    np.testing.assert_allclose(both.predict(X), one.predict(X), atol=1e-5)


@pytest.mark.parametrize(("known", "level"), [(True, "identified"), (False, "not identified")])
def test_identification_by_given_propensities(known, level):
    X, y, _ = quick_log()
    p = np.full(len(y), 0.5) if known else None
    est = quick("ips").fit(X, y, propensity=p)
    assert est.identification_.level == level
    assert ("relative popularity" in est.identification_.reason) == (not known)


def test_warm_start_and_shared_trunk():
    X, y, _ = quick_log()
    est = quick("mtdr", warm_start=True).fit(X, y)
    before = est.predict(X)
    assert abs(est.fit(X, y).predict(X) - before).max() > 0
    linear = quick("mtips", hidden_layer_sizes=()).fit(X, y)
    assert np.isfinite(linear.predict(X)).all()


def test_every_class_names_its_source_or_says_what_it_is():
    for name, cls in OBJECTIVES.items():
        if name in ("naive", "balanced", "root-naive", "up-down"):
            continue
        assert "References" in cls.__doc__, name
        lines = inspect.getsource(cls).splitlines()
        assert len(lines) - len(cls.__doc__.splitlines()) <= 65, name


def preference_search(objectives_, **kwargs):
    grid = {"objective": objectives_}
    est = ImplicitRewardEstimator(**(QUICK | {"max_epochs": 2, "early_stopping": False}))
    return GridSearchCV(est, grid, cv=2, **kwargs)


def test_search_over_all_objectives_by_truth():
    X, y, _ = quick_log()
    names = sorted(set(ONE_SIGNAL) - needs_rate)
    with config_context(enable_metadata_routing=True):
        search = preference_search(names, scoring=make_preference_scorer("auroc"))
        search.fit(X, y, true_preference=y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        own = preference_search(names[:2]).fit(X, y, true_preference=y)
        assert np.isfinite(own.cv_results_["mean_test_score"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("names", [["bpr", "nnpu"], ["naive", "stratified"], ["stratified"]])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_search_over_objectives_by_likelihood_is_refused(names, n_jobs):
    if n_jobs == 2 and "bpr" not in names:
        return  # one start of worker processes is enough
    X, y, _ = quick_log()
    with pytest.raises(ValueError, match="likelihood of actions cannot rank objectives"):
        preference_search(names, n_jobs=n_jobs).fit(X, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_naive_is_cross_entropy_against_the_action(dtype):
    f, _, rows = batch(1)
    u = torch.full((M, N, 1), torch.inf)
    f = f.to(dtype)
    loss = Naive().loss(f, u, rows)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    R, y = 1 / (1 + np.exp(-f.double().numpy())), rows.actions[:, 0].numpy()
    expected = -(y * np.log(R) + (1 - y) * np.log(1 - R))
    np.testing.assert_allclose(loss, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5)
    assert torch.equal(loss, Naive().validation_loss(f, u, rows))


def test_naive_is_the_likelihood_with_propensity_one():
    f, _, rows = batch(1)
    u = torch.full((M, N, 1), torch.inf, dtype=torch.float64)
    torch.testing.assert_close(
        Naive().loss(f, u, rows), -positive.log_likelihood(f, u, rows.actions)
    )


@pytest.mark.parametrize("rate", [None, torch.tensor([0.1, 0.0], dtype=torch.float64)])
def test_stratified_trains_on_the_risk_and_validates_on_the_likelihood(rate):
    f, u, rows = batch(2, rate=rate)
    args = (f, u, rows.actions, rate)
    assert torch.equal(Stratified().loss(f, u, rows), positive.nll(*args))
    assert torch.equal(Stratified().validation_loss(f, u, rows), -positive.log_likelihood(*args))


def test_what_the_objectives_declare():
    assert Naive.single_signal
    assert not Naive.models_propensity
    assert Naive.models_actions
    assert not Stratified.single_signal
    assert Stratified.models_propensity
    assert Stratified.models_actions
    assert [Stratified().swap_symmetric(K) for K in (1, 2, 3)] == [True, False, False]
    assert not Naive().swap_symmetric(1)


def test_training_starts_at_the_rate_of_the_log():
    rates = np.array([0.09])
    reward, propensity = Stratified().initial_rates(rates, 0.09)
    assert reward == pytest.approx(0.3)  # neither side of the swap is preferred
    assert propensity == pytest.approx([0.3])
    reward, propensity = Stratified().initial_rates(np.array([0.04, 0.08]), 0.16)
    assert reward * propensity == pytest.approx([0.04, 0.08])
    assert Naive().initial_rates(rates, 0.09)[0] == 0.09


# A third party's objective


class Focal(Objective):
    """Weighted focal loss (Lin et al. 2017) of R against the action."""

    single_signal = True
    models_propensity = False

    def __init__(self, alpha=0.5, gamma=0.0):
        self.alpha = alpha
        self.gamma = gamma

    def loss(self, reward_logit, propensity_logit, batch):
        f, y = reward_logit.float(), batch.actions[:, 0].float()
        hit = torch.where(y == 1, f, -f)
        weight = torch.where(y == 1, self.alpha, 1 - self.alpha)
        focus = torch.sigmoid(-hit) ** self.gamma
        return -2 * weight * focus * torch.nn.functional.logsigmoid(hit)


def log(n=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(float)
    return X, y


def estimator(objective, **kwargs):
    options = {"n_estimators": 2, "max_epochs": 8, "early_stopping": False, "random_state": 0}
    options |= {"learning_rate_init": 0.01, "hidden_layer_sizes": (8,)}
    return ImplicitRewardEstimator(objective, **(options | kwargs))


def test_third_party_objective_fits_and_predicts():
    X, y = log()
    neutral = estimator(Focal()).fit(X, y)
    assert neutral.objective_.get_params() == {"alpha": 0.5, "gamma": 0.0}
    # alpha = 1/2, gamma = 0 is the naive objective, but for where training starts.
    naive = estimator("naive").fit(X, y)
    assert np.corrcoef(neutral.predict(X), naive.predict(X))[0, 1] > 0.99
    assert abs(neutral.predict(X) - naive.predict(X)).max() < 0.1
    # It takes other values than the default, and they matter.
    eager = estimator(Focal(alpha=0.9)).fit(X, y)
    assert eager.predict(X).mean() > neutral.predict(X).mean() + 0.1
    np.testing.assert_allclose(eager.propensity(X), 1)
    assert np.isfinite(eager.score(X, y))


def test_third_party_objective_stops_early_on_its_own_criterion():
    class WithCriterion(Focal):
        def validation_loss(self, reward_logit, propensity_logit, batch):
            return super().loss(reward_logit, propensity_logit, batch) * 0 + 7

    X, y = log()
    est = estimator(WithCriterion(), early_stopping=True, n_iter_no_change=2, max_epochs=50)
    est.fit(X, y)
    assert est.n_iter_ == 3
    assert [epoch["valid_loss"] for epoch in est.history_] == [[7, 7]] * 3


def test_parameters_of_an_objective_are_nested():
    est = estimator(Focal(alpha=0.7))
    assert est.get_params()["objective__alpha"] == 0.7
    assert "objective__alpha" not in est.get_params(deep=False)
    est.set_params(objective__alpha=0.2, objective__gamma=1.0)
    assert est.objective.get_params() == {"alpha": 0.2, "gamma": 1.0}
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        est.set_params(objective__beta=1)


def test_clone_copies_the_objective():
    est = estimator(Focal(alpha=0.7)).fit(*log())
    copied = clone(est)
    assert copied.objective is not est.objective
    assert copied.objective.get_params() == est.objective.get_params()
    copied.set_params(objective__alpha=0.1)
    assert est.objective.alpha == 0.7
    assert not hasattr(copied, "objective_")


def test_fitted_objective_is_not_the_parameter():
    """What is changed after fit takes effect in the next fit, not in the fitted model."""
    est = estimator(Focal(alpha=0.7)).fit(*log())
    est.objective.alpha = 0.1
    assert est.objective_.alpha == 0.7


def test_fit_does_not_change_the_objective():
    objective = Focal(alpha=0.7)
    before = dict(vars(objective))
    estimator(objective).fit(*log())
    assert vars(objective) == before


def test_search_over_the_parameters_of_an_objective():
    X, y = log()
    search = GridSearchCV(estimator(Focal()), {"objective__alpha": [0.05, 0.5, 0.95]}, cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"objective__alpha": 0.5}  # the likelihood is in favour of it
    assert search.best_estimator_.objective_.alpha == 0.5
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_search_over_third_party_objectives_needs_truth():
    X, y = log()
    grid = {"objective": [Focal(alpha=0.05), Focal(), "naive"]}
    with pytest.raises(ValueError, match="cannot rank objectives"):
        GridSearchCV(estimator("naive"), grid, cv=2).fit(X, y)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            estimator("naive"), grid, cv=2, scoring=make_preference_scorer("nll")
        ).fit(X, y, true_preference=y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] < min(scores[1:])


def test_third_party_objective_with_two_heads():
    """A subclass of Stratified that also pulls the mean reward to a level."""

    class Anchored(Stratified):
        def __init__(self, level=0.5, strength=0.0):
            self.level = level
            self.strength = strength

        def loss(self, reward_logit, propensity_logit, batch):
            R = torch.sigmoid(reward_logit)
            penalty = (R.mean(-1, keepdim=True) - self.level).square()
            return super().loss(reward_logit, propensity_logit, batch) + self.strength * penalty

    X, y = log()
    y = np.column_stack([y, np.roll(y, 1)])
    plain, free = estimator("stratified").fit(X, y), estimator(Anchored()).fit(X, y)
    # Fit leaves the level to a loss of one's own.
    assert plain.history_ == free.history_
    assert plain.predict(X).mean() != free.predict(X).mean()
    held = estimator(Anchored(level=0.95, strength=100.0)).fit(X, y)
    assert abs(held.predict(X).mean() - 0.95) < abs(free.predict(X).mean() - 0.95) / 2
