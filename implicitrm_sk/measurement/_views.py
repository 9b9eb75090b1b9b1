"""Measurements of members with different assumptions about one log, for sensitivity analyses."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from ._action import Action
from ._model import Block, Measurement
from ._signal import full_precision


class TurnedMeasurement(Measurement):
    """A measurement whose actions show the other preference for some of the members.

    Parameters
    ----------
    signals, examined
        As for `Measurement`, of members whose actions are not turned.
    turned : Tensor of bool of shape (members, 1, K)
    """

    def __init__(self, signals, examined, turned):
        super().__init__(signals, examined)
        self.blocks = tuple(Block(signal, (k,), (k,)) for k, signal in enumerate(self.signals))
        self.turned = turned

    def _terms(self, block, u, actions, grad, side):
        part, derivative = super()._terms(block, u, actions, grad, side)
        turned = self.turned.to(part.device)[..., block.columns[0]]
        part = torch.where(turned, part.flip(0), part)
        if grad:
            zero = torch.zeros(1, dtype=part.dtype, device=part.device)
            of_class = [zero if one is None else one for one in derivative]
            turned = turned[..., None]
            derivative = tuple(
                torch.where(turned, other, one)
                for one, other in zip(of_class, of_class[::-1], strict=True)
            )
        return part, derivative


@dataclass(frozen=True, eq=False)
class View:
    """The measurement of one member, with one assumption changed.

    It has the heads of `base` and offers the likelihoods of a `Measurement`.

    Attributes
    ----------
    base : Measurement
    signals : tuple of Signal
        The kind of each column in this view.
    rates : Tensor of shape (K,), or (members, 1, K), or None
        False-action rates; None means those of the fit.
    looked : float, or Tensor of shape (members, 1, 1), or None
        The share of rows that somebody looked at, the same for all x.
    ratio : float or None
        For one positive and one negative action: the readiness for the negative one, as a multiple
        of that for the positive one.
    left_out : int, or Tensor of bool of shape (members, 1, K), or None
        The column that is ignored.
    turned : int, or Tensor of bool of shape (members, 1, K), or None
        The column whose action shows the other preference than in the base. A tensor turns columns
        of `signals`; with a number they are turned there already.
    """

    base: Measurement
    signals: tuple
    rates: torch.Tensor | None = None
    looked: float | None = None
    ratio: float | None = None
    left_out: int | torch.Tensor | None = None
    turned: int | torch.Tensor | None = None

    @property
    def measurement(self):
        """The measurement of the result of `_as_seen`."""
        examined = self.base.examined or self.looked is not None
        if isinstance(self.turned, torch.Tensor):
            return TurnedMeasurement(self.signals, examined, self.turned)
        return Measurement(self.signals, examined)

    def _as_seen(self, u, actions, rates):
        u = full_precision(u)
        if self.ratio is not None:
            u = self._in_ratio(u)
        if self.looked is not None:
            looked = torch.as_tensor(self.looked, dtype=u.dtype, device=u.device)
            u = torch.cat([u, torch.logit(looked).expand(*u.shape[:-1], 1)], -1)
        if isinstance(self.left_out, torch.Tensor):
            actions = actions.masked_fill(self.left_out.to(actions.device), torch.nan)
        elif self.left_out is not None:
            actions = actions.clone()
            actions[:, self.left_out] = torch.nan
        return u, actions, rates if self.rates is None else self.rates.to(u.device)

    def _in_ratio(self, u):
        """Return u with the logit of each action such that D = ratio * A, the larger being free."""
        positive = [signal.target == 1 for signal in self.signals].index(True)
        free = u[..., [positive]]
        small = min(self.ratio, 1 / self.ratio)
        log_p = math.log(small) + logsigmoid(free)
        less = free if small == 1 else log_p - torch.log1p(-log_p.exp())
        columns = [free, less] if (self.ratio <= 1) == (positive == 0) else [less, free]
        return torch.cat(columns, -1)

    def nll(self, reward_logit, propensity_logit, actions, false_action_rate=None, **log):
        """Return `Measurement.nll` of the log in this view, to train on.

        A turned action beside one that then shows the opposite is impossible without false
        actions, and its gradient is not a number. It is ignored here, but not in `log_likelihood`.
        """
        if self.turned is not None and self.rates is None and false_action_rate is None:
            actions = self._possible(actions)
        seen = self._as_seen(propensity_logit, actions, false_action_rate)
        return self.measurement.nll(reward_logit, *seen, **log)

    def _possible(self, actions):
        """Return actions without the turned ones that contradict others of their row."""
        acts = [isinstance(signal, Action) for signal in self.signals]
        targets = [
            signal.target if act else None for signal, act in zip(self.signals, acts, strict=True)
        ]
        if isinstance(self.turned, torch.Tensor):
            alike = torch.tensor([[one == other for one in targets] for other in targets])
            alike.fill_diagonal_(False)
            # These are opposite if one of them is turned.
            others = (actions > 0).to(torch.float32) @ alike.to(actions.device, torch.float32)
            impossible = (actions > 0) & (others > 0) & self.turned.to(actions.device)
            return actions.masked_fill(impossible, torch.nan)
        target = targets[self.turned]
        opposite = [k for k, act in enumerate(acts) if act and targets[k] != target]
        impossible = (actions[:, self.turned] > 0) & (actions[:, opposite] > 0).any(dim=1)
        actions = actions.clone()
        actions[impossible, self.turned] = torch.nan
        return actions

    def log_likelihood(
        self, reward_logit, propensity_logit, actions, false_action_rate=None, **log
    ):
        """Return `Measurement.log_likelihood` of the log in this view."""
        seen = self._as_seen(propensity_logit, actions, false_action_rate)
        return self.measurement.log_likelihood(reward_logit, *seen, **log)


class MemberViews:
    """A `View` for each member; likelihoods have the members in the dimension before the rows.

    Views that differ only in a rate, a share or the action that is left out or turned are computed
    together.

    Parameters
    ----------
    views : sequence of View
        Views of the same base.
    """

    def __init__(self, views):
        self.views = tuple(views)
        members, self._together = zip(*_alike(self.views), strict=True)
        self._sizes = [len(some) for some in members]
        self._order = torch.as_tensor(np.concatenate(members))
        self._back = torch.argsort(self._order)
        base = self.views[0].base
        self.signals, self.n_outputs, self.examined = base.signals, base.n_outputs, base.examined

    def shared_logits(self):
        """Return the positions of logits that all rows share, as in the base."""
        return self.views[0].base.shared_logits()

    def loads(self):
        """Return the loading of each logit, as in the base."""
        return self.views[0].base.loads()

    def of_members(self, positions):
        """Return the views of some of the members."""
        return MemberViews([self.views[position] for position in positions])

    def _each(self, name, reward_logit, propensity_logit, *args, **log):
        device = reward_logit.device
        order, back = self._order.to(device), self._back.to(device)
        # One gather and one split: an index for each view would add up gradients of all members.
        f = reward_logit.index_select(-2, order).split(self._sizes, -2)
        u = propensity_logit.index_select(-3, order).split(self._sizes, -3)
        parts = [
            getattr(view, name)(*logits, *args, **log)
            for view, *logits in zip(self._together, f, u, strict=True)
        ]
        return torch.cat(parts, -2).index_select(-2, back)

    def nll(self, *args, **log):
        """Return minus the log-likelihood of each member and response."""
        return self._each("nll", *args, **log)

    def log_likelihood(self, *args, **log):
        """Return the log-likelihood of each member and response."""
        return self._each("log_likelihood", *args, **log)


def _alike(views):
    """Return the positions of views that differ in numbers only, and one view of all of them."""
    found = {}
    for k, view in enumerate(views):
        only_acts = all(type(s) is Action and s.n_outputs == 1 for s in view.signals)
        kind = (
            view.base, view.base.signals if only_acts else view.signals, view.rates is None,
            view.looked is None, view.ratio, None if only_acts else (view.left_out, view.turned),
        )  # fmt: skip
        found.setdefault(kind, []).append(k)
    together = []
    for members in found.values():
        view = views[members[0]]
        if view.rates is not None:
            rates = torch.stack([views[k].rates for k in members])[:, None]
            view = replace(view, rates=rates)
        if view.looked is not None:
            looked = torch.tensor([views[k].looked for k in members], dtype=torch.float64)
            view = replace(view, looked=looked[:, None, None])
        for name in ("left_out", "turned"):
            chosen = [getattr(views[k], name) for k in members]
            if len(set(chosen)) > 1:
                columns = range(len(view.signals))
                is_chosen = torch.tensor([[k == one for k in columns] for one in chosen])
                view = replace(view, **{name: is_chosen[:, None]}, signals=view.base.signals)
        together.append((members, view))
    return together
