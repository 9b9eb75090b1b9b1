"""The measurement of all signals: the first edition on positive actions, mirrors, silence."""

import itertools
import math

import first_edition
import pytest
import torch

from implicitrm_sk.measurement._model import Measurement
from implicitrm_sk.signals import Action

NAN = math.nan
MEMBERS = 2


def patterns(K):
    values = itertools.product([0.0, 1.0, NAN], repeat=K)
    return torch.tensor(list(values), dtype=torch.float64)


def logits(n, K, m=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (MEMBERS, n if m is None else m), (MEMBERS, n, K)
    return [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in shape
    ]


def rates(kind, K):
    if kind == "none":
        return None
    shape = (MEMBERS, 1, K) if kind == "per member" else (K,)
    return torch.linspace(0.05, 0.3, math.prod(shape), dtype=torch.float64).reshape(shape)


def side_information(names, y, seed=1):
    """Return actions, and what else is known of them."""
    generator = torch.Generator().manual_seed(seed)
    n, m, side = len(y), len(y), {}
    if "exposures" in names:
        side["exposures"] = torch.randint(1, 4, y.shape, generator=generator).double()
        most = torch.minimum(side["exposures"], torch.tensor(2.0, dtype=torch.float64))
        y = torch.where(y == 1, most, y)
    if "response" in names:
        side["response"] = torch.arange(n) // 2
        m = int(side["response"].max()) + 1
    if "propensity" in names:
        known = 0.3 + 0.7 * torch.rand(y.shape, generator=generator, dtype=torch.float64)
        side["propensity"] = known.masked_fill(torch.rand(y.shape, generator=generator) < 0.5, NAN)
    return y, m, side


def labels(y, m, response, allow_any, seed=2):
    """Return labels of some responses; where actions prove preference, none that contradict."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.rand(m, generator=generator, dtype=torch.float64)
    label = label.masked_fill(torch.rand(m, generator=generator) < 0.5, NAN)
    if allow_any:
        return label
    fired = (y > 0).any(-1).double()
    if response is not None:
        fired = torch.zeros(m, dtype=torch.float64).index_add(0, response, fired)
    return torch.where((fired > 0) & ~torch.isnan(label), 1.0, label)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("rate", ["none", "given", "per member"])
@pytest.mark.parametrize(
    "names",
    [(), ("exposures",), ("response",), ("propensity",), ("exposures", "response", "propensity")],
    ids=lambda names: "-".join(names) or "plain",
)
@pytest.mark.parametrize("labelled", [False, True])
def test_positive_actions_are_those_of_the_first_edition(K, rate, names, labelled):
    e = rates(rate, K)
    y, m, side = side_information(names, patterns(K))
    f, u = logits(len(y), K, m)
    label = {}
    if labelled:
        label["labels"] = labels(y, m, side.get("response"), e is not None)
    measurement = Measurement.of_actions(K)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(
        measurement.log_likelihood(f, u, y, e, **side, **label),
        first_edition.log_likelihood(f, u, y, e, **side, **label),
        **close,
    )
    weight = torch.rand(MEMBERS, m, dtype=torch.float64)
    for ours, theirs in zip(
        *(
            torch.autograd.grad((risk(f, u, y, e, **side, **label) * weight).sum(), (f, u))
            for risk in (measurement.nll, first_edition.stratified_risk)
        ),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, **close)
    torch.testing.assert_close(
        measurement.posterior(f, u, y, e, **side),
        first_edition.posterior(f, u, y, e, **side),
        **close,
    )
    if e is not None:
        for ours, theirs in zip(
            measurement.false_action_counts(f, u, y, e, **side, **label),
            first_edition.false_action_counts(f, u, y, e, **side, **label),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, **close)


SIGNS = [(1, 0), (0, 1, 1), (0, 0), (1, 0, 1, 0)]


def brute_force(signs, f, u, y, e):
    """Return log P(r*=0, y | x) and log P(r*=1, y | x), written out."""
    joint = []
    for preferred in (0, 1):
        R = torch.sigmoid(f)
        p = R if preferred else 1 - R
        for k, sign in enumerate(signs):
            e_k = 0.0 if e is None else e[..., k]
            A = e_k + (1 - e_k) * torch.sigmoid(u[..., k])
            rate = A if sign == preferred else torch.zeros_like(A) + e_k
            acted = torch.where(y[:, k] == 1, rate, 1 - rate)
            p = p * torch.where(torch.isnan(y[:, k]), 1.0, acted)
        joint.append(p)
    return torch.stack(joint)


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("rate", ["none", "given"])
def test_signals_of_both_polarities_are_what_their_formula_says(signs, rate):
    e = rates(rate, len(signs))
    y = patterns(len(signs))
    f, u = logits(len(y), len(signs))
    measurement = Measurement([Action(sign) for sign in signs])
    joint = brute_force(signs, f, u, y, e)
    possible = joint.sum(0) > 0
    found = measurement.log_joint(f, u, y, e).exp()
    torch.testing.assert_close(found, joint, rtol=1e-12, atol=1e-15)
    y, joint = y[possible[0]], joint[:, :, possible[0]]
    f, u = (x[:, possible[0]].detach().requires_grad_() for x in (f, u))
    ours = torch.autograd.grad(measurement.nll(f, u, y, e).sum(), (f, u))
    written_out = -torch.log(brute_force(signs, f, u, y, e).sum(0)).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(written_out, (f, u)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    groups = measurement.posterior(f, u, y, e)
    torch.testing.assert_close(groups.sum(-1), torch.ones_like(groups[..., 0]))
    q = measurement.log_joint(f, u, y, e).softmax(0)[1]
    torch.testing.assert_close(groups[..., 0] + groups[..., 2], q, rtol=0, atol=1e-12)


def test_probabilities_of_all_patterns_sum_to_one():
    for signs in SIGNS:
        y = torch.tensor(list(itertools.product([0.0, 1.0], repeat=len(signs)))).double()
        measurement = Measurement([Action(sign) for sign in signs])
        f, u = (x.detach()[:, :1].expand(-1, len(y), *x.shape[2:]) for x in logits(1, len(signs)))
        for e in (None, rates("given", len(signs))):
            total = measurement.log_likelihood(f, u, y, e).exp().sum(-1)
            torch.testing.assert_close(total, torch.ones_like(total))


def test_a_mirrored_log_gives_the_mirrored_posterior():
    """All signs turned round, and the reward: the same model."""
    y = patterns(3)
    f, u = logits(len(y), 3)
    e = rates("given", 3)
    for signs in ((1, 1, 1), (1, 0, 1)):
        here = Measurement([Action(s) for s in signs])
        there = Measurement([Action(1 - s) for s in signs])
        torch.testing.assert_close(
            here.log_likelihood(f, u, y, e), there.log_likelihood(-f, u, y, e)
        )


def test_silence_in_signals_of_both_polarities_is_passive():
    y = torch.tensor([[0.0, 0.0], [0.0, NAN], [1.0, 0.0], [0.0, 1.0], [NAN, NAN]]).double()
    f, u = logits(len(y), 2)
    groups = Measurement([Action(1), Action(0)]).posterior(f, u, y)
    assert (groups[:, 0, :2] == 0).all()  # silent in both: PP or NP, never PA or NA
    assert (groups[:, 1, 0] == 0).all() and (groups[:, 1, 1] > 0).all()
    torch.testing.assert_close(groups[:, 2, 0], torch.ones(MEMBERS, dtype=torch.float64))
    torch.testing.assert_close(groups[:, 3, 1], torch.ones(MEMBERS, dtype=torch.float64))
    assert (groups[:, 4] > 0).all()
    # Without a negative signal NA keeps its first meaning: it would act were it preferred.
    alone = Measurement([Action(1)]).posterior(f, u[..., :1], y[:, :1])
    assert (alone[:, 0, 1] > 0).all()


def test_known_propensities_of_a_negative_action():
    f, u = logits(1, 2)
    y = torch.tensor([[NAN, 0.0]]).double()
    known = torch.tensor([[NAN, 1.0]]).double()
    groups = Measurement([Action(1), Action(0)]).posterior(f, u, y, propensity=known)
    # A response that is not preferred is certain to draw it: this one is preferred.
    torch.testing.assert_close(groups[:, 0, 0] + groups[:, 0, 2], torch.ones(2).double())
