"""Members in training: settings, optimiser, best weights, and which have stopped."""

import math
from dataclasses import dataclass, replace

import torch

from ..exceptions import ImplicitRMError


class MemberAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) with a step size and a weight decay for each member.

    The fused step of torch has one step size. It moves an auxiliary tensor that starts at 0; each
    member's weights then move by this amount times their own step.

    Parameters
    ----------
    parameters : list of Tensor of shape (..., members, ...)
        The members are a dimension in the middle.
    lr, weight_decay : Tensor of shape (members,)
    """

    def __init__(self, parameters, lr, weight_decay):
        self.moved = list(parameters)
        directions = [torch.zeros_like(p) for p in self.moved]
        super().__init__(directions, lr=1.0, weight_decay=0.0, fused=True)
        # With the shape of a row, which is read at once.
        self.rows = [
            tuple(
                value.to(p)[:, None].expand(p.shape[1:]).contiguous()
                for value in (lr, 1 - lr.double() * weight_decay.double())
            )
            for p in self.moved
        ]

    def zero_grad(self, set_to_none=True):
        """Set the gradients to None."""
        for parameter in self.moved:
            parameter.grad = None

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step."""
        directions = self.param_groups[0]["params"]
        for direction, parameter in zip(directions, self.moved, strict=True):
            direction.zero_()
            direction.grad = parameter.grad
        super().step()
        for direction, parameter, (lr, kept) in zip(directions, self.moved, self.rows, strict=True):
            parameter.mul_(kept).addcmul_(direction, lr)


def _of_members(value, index):
    """Return the entries of some members from a value that may be the same for all."""
    return value[index] if isinstance(value, torch.Tensor) else value


@dataclass
class MemberSettings:
    """Settings of members in training: numbers, or tensors with one value per member.

    Attributes
    ----------
    learning_rate_init, weight_decay : float or Tensor of shape (members,)
        Parameters of AdamW.
    patience : int or Tensor
        Epochs without an improvement by `tol` after which a member stops.
    tol : float or Tensor
    max_epochs : list of int or None
        Maximum number of epochs of each member; None means that of `RewardNet.fit_loop`.
    n_fits : int
        Number of fits side by side, with equal numbers of members, one fit after the other. If one
        fit diverges, its members stop; if it is the only fit, an error is raised.
    undersmoothing : float
        1: a member keeps the weights of its best epoch. Above 1: it trains this many times as long,
        and keeps its last weights.
    """

    learning_rate_init: float | torch.Tensor
    weight_decay: float | torch.Tensor
    patience: int | torch.Tensor | None = None
    tol: float | torch.Tensor = 0.0
    max_epochs: list | None = None
    n_fits: int = 1
    undersmoothing: float = 1.0

    def of_members(self, index):
        """Return the settings of some of the members."""
        names = ("learning_rate_init", "weight_decay", "patience", "tol")
        return replace(self, **{name: _of_members(getattr(self, name), index) for name in names})

    def optimizer(self, model):
        """Return an AdamW with the parameters of members as first group, shared ones as second.

        Parameters
        ----------
        model : RewardModel
        """
        lr, decay = self.learning_rate_init, self.weight_decay
        members, shared = model.member_parameters(), model.shared_parameters()
        if not isinstance(lr, torch.Tensor):
            groups = [{"params": part} for part in (members, shared) if part]
            return torch.optim.AdamW(groups, lr=lr, weight_decay=decay, fused=True)
        if shared:
            raise ImplicitRMError(
                f"members with step sizes of their own cannot share parameters: got {len(shared)} "
                "shared ones. Train such fits one after another."
            )
        return MemberAdamW(members, lr, decay)


class MembersInTraining:
    """The members of a net that still train, and the results of all members.

    The module of the net holds the members that still train; `whole` holds all.

    Parameters
    ----------
    net : RewardNet
    epochs : int
    train, valid : ResidentRows
        The rows to train on, and those to validate on. If the latter are None, members do not
        return to their best weights.
    """

    def __init__(self, net, epochs, train, valid):
        validates = valid is not None
        self.rows = [part for part in (train, valid) if part is not None]
        self.net = net
        self.whole = net.module_
        self.n_members = self.whole.config["n_members"]
        self.max_epochs = [
            min(epochs, most) for most in net.settings.max_epochs or self.n_members * [epochs]
        ]
        self.present = list(range(self.n_members))
        self.epoch = 0
        self.epochs = self.n_members * [0]
        self.losses = {}
        self.stopped = False
        self.diverged = self.n_members * [False]
        self.running = self.n_members * [True] if validates else None
        self.best = None
        self.settings = net.settings
        if validates:
            settings = net.settings
            self.best = BestMembers(
                self._kept(), settings.patience, settings.tol, settings.undersmoothing
            )

    def _kept(self):
        kept = self.net.module_.member_parameters()
        if self.net.criterion_.estimates:
            kept.append(self.net.criterion_.false_action_rate)
        return kept

    def take_in(self, record):
        """Return the losses of an epoch for all members; those that left keep their last ones."""
        self.epoch += 1
        for name, losses in record.items():
            known = self.losses.setdefault(name, self.n_members * [math.nan])
            for member, loss in zip(self.present, losses, strict=True):
                known[member] = loss
        if self.net.module_ is not self.whole:
            self._put_back(self.net.module_.member_parameters(), range(len(self.present)))
        return {name: list(losses) for name, losses in self.losses.items()}

    def check_finite(self, losses):
        """Remove the fits with a member that has diverged, or raise if it is the only fit."""
        per_fit = self.n_members // self.settings.n_fits
        # Losses of a member after it has stopped do not count.
        bad = {
            member // per_fit
            for member in self.present
            if (self.running is None or self.running[member]) and not math.isfinite(losses[member])
        }
        if bad and self.settings.n_fits == 1:
            raise FloatingPointError(
                f"training diverged in epoch {len(self.net.history)}: the loss is not finite. "
                "Lower learning_rate_init or scale the columns of X. If you wrote the objective, "
                "check that its loss is finite for large logits."
            )
        self.diverged = [
            was or member // per_fit in bad for member, was in enumerate(self.diverged)
        ]

    def note(self, running, stop):
        """Record which of the present members may still improve, and whether all have to stop.

        Parameters
        ----------
        running : list of bool or None
            None means all.
        stop : bool
        """
        self.stopped = bool(stop)
        for position, member in enumerate(self.present):
            if running is not None:
                self.running[member] = bool(running[position])
            self.epochs[member] = self.epoch

    def leave(self, keep=False):
        """Remove the members that have stopped or finished their epochs.

        Parameters
        ----------
        keep : bool
            Keep all of them as long as at least one trains.
        """
        stay = [
            position
            for position, member in enumerate(self.present)
            if (self.running is None or self.running[member])
            and self.epoch < self.max_epochs[member]
            and not self.diverged[member]
            and not self.stopped
        ]
        if len(stay) == len(self.present) or (stay and keep):
            return
        gone = sorted(set(range(len(self.present))) - set(stay))
        self._put_back(self._result(), gone)
        self.present = [self.present[position] for position in stay]
        if stay:
            self._go_on_with(stay)

    def finish(self):
        """Copy the weights of all members into the whole module, which the net then uses again."""
        if self.present:
            self._put_back(self._result(), range(len(self.present)))
        self.net.module_ = self.whole
        self.net.n_running_ = None if self.running is None else sum(self.running)

    def _result(self):
        return self.best.best_parameters if self.best is not None else self._kept()

    def _put_back(self, parameters, positions):
        """Copy the parameters of present members, by position, into the whole module."""
        positions = list(positions)
        device = next(self.whole.parameters()).device
        source = torch.tensor(positions, device=device)
        target = torch.tensor([self.present[position] for position in positions], device=device)
        into = self.whole.member_parameters()
        if self.net.criterion_.estimates:
            into.append(self.net.criterion_.false_action_rate)
        with torch.no_grad():
            for whole, part in zip(into, parameters, strict=True):
                whole.index_copy_(1, target, part.detach().index_select(1, source))

    def _go_on_with(self, positions):
        """Train only the present members at these positions from now on."""
        net = self.net
        index = torch.tensor(positions, device=next(self.whole.parameters()).device)
        net.module_ = net.module_.of_members(index)
        self.settings = self.settings.of_members(index)
        old = net.optimizer_
        net.optimizer_ = self.settings.optimizer(net.module_)
        for moments, key in zip(_moments(old), _keys(net.optimizer_), strict=True):
            net.optimizer_.state[key] = {
                name: value.index_select(1, index) if value.ndim else value.clone()
                for name, value in moments.items()
            }
        for moments, key in zip(_moments(old, 1), _keys(net.optimizer_, 1), strict=True):
            net.optimizer_.state[key] = moments
        if self.best is not None:
            self.best.keep(index, self._kept())
        if net.constraint is not None:
            net.constraint.keep(index)
        net.criterion_.measurement = net.criterion_.measurement.of_members(positions)
        for part in self.rows:
            part.keep(index)

    # ------------------------------------------------------------------ pausing

    def progress(self, generator):
        """Return the state of training of all members, as tensors, lists and numbers.

        For members that left, it holds the final weights, and zeros elsewhere.
        """
        moments = _moments(self.net.optimizer_)
        weights = self.net.module_.member_parameters()
        best = weights if self.best is None else self.best.best_parameters
        vectors = {}
        if self.best is not None:
            vectors = {
                "risk": self.best.best,
                "stale": self.best.stale,
                "improving": self.best.running,
            }
        if self.net.constraint is not None:
            vectors["mean"] = self.net.constraint.mean
            vectors["multiplier"] = self.net.constraint.multiplier
        present = [member in self.present for member in range(self.n_members)]
        return {
            "epoch": self.epoch,
            "stopped": self.stopped,
            "step": float(moments[0]["step"]),
            "generator": generator.get_state(),
            "members": {"present": present, "epochs": list(self.epochs)}
            | ({} if self.running is None else {"running": list(self.running)})
            | {f"losses {name}": list(losses) for name, losses in self.losses.items()},
            "vectors": {name: self._of_all(value, 0) for name, value in vectors.items()},
            "tensors": {
                name: [
                    self._of_all(value, 1, into) for value, into in zip(values, wholes, strict=True)
                ]
                for name, values, wholes in (
                    ("parameters", weights, self.whole.member_parameters()),
                    ("best", best, self.whole.member_parameters()),
                    *(
                        (name, [each[name] for each in moments], len(moments) * [None])
                        for name in ("exp_avg", "exp_avg_sq")
                    ),
                )
            }
            | self._shared(),
        }

    def _shared(self):
        """Return the parameters that all members use, and their moments, by name."""
        moments = _moments(self.net.optimizer_, 1)
        if not moments:
            return {}
        values = {"shared": self.whole.shared_parameters()} | {
            f"shared {name}": [each[name] for each in moments] for name in ("exp_avg", "exp_avg_sq")
        }
        return {name: [value.detach().cpu().clone() for value in v] for name, v in values.items()}

    def _of_all(self, value, dim, into=None):
        """Return a copy, on the CPU, of values of all members, filled in for the present ones."""
        if into is None:
            into = value.new_zeros([*value.shape[:dim], self.n_members, *value.shape[dim + 1 :]])
        index = torch.tensor(self.present, device=value.device)
        return into.detach().index_copy(dim, index, value.detach()).cpu()

    def resume(self, progress, generator):
        """Continue from the result of `progress`."""
        net, members = self.net, progress["members"]
        device = next(self.whole.parameters()).device
        tensors = {
            name: [value.to(device) for value in values]
            for name, values in progress["tensors"].items()
        }
        vectors = {name: value.to(device) for name, value in progress["vectors"].items()}
        generator.set_state(progress["generator"])
        self.epoch, self.stopped = progress["epoch"], progress["stopped"]
        self.epochs = list(members["epochs"])
        self.running = list(members["running"]) if "running" in members else None
        self.losses = {
            name.removeprefix("losses "): list(values)
            for name, values in members.items()
            if name.startswith("losses ")
        }
        step = torch.tensor(progress["step"], device=device)
        for group, prefix, parameters in (
            (0, "", self.whole.member_parameters()),
            (1, "shared ", self.whole.shared_parameters()),
        ):
            if not parameters:
                continue
            with torch.no_grad():
                values = tensors[prefix.strip() or "parameters"]
                for whole, value in zip(parameters, values, strict=True):
                    whole.copy_(value)
            for key, exp_avg, exp_avg_sq in zip(
                _keys(net.optimizer_, group),
                tensors[f"{prefix}exp_avg"],
                tensors[f"{prefix}exp_avg_sq"],
                strict=True,
            ):
                moments = {"step": step.clone(), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
                net.optimizer_.state[key] = moments
        if self.best is not None:
            self.best.resume(tensors["best"], *(vectors[n] for n in ("risk", "stale", "improving")))
        if net.constraint is not None:
            net.constraint.mean, net.constraint.multiplier = vectors["mean"], vectors["multiplier"]
        stay = [member for member, present in enumerate(members["present"]) if present]
        if len(stay) < self.n_members:
            self.present = stay
            self._go_on_with(stay)


def _keys(optimizer, group=0):
    """Return the keys of a group's state in the optimiser: group 0 of members, 1 of shared ones."""
    return optimizer.param_groups[group]["params"] if group < len(optimizer.param_groups) else []


def _moments(optimizer, group=0):
    """Return the state of an AdamW, one dict per parameter of a group, in their order."""
    return [optimizer.state[key] for key in _keys(optimizer, group)]


class BestMembers:
    """The best weights of each member so far, and whether it may still improve.

    With `undersmoothing` above 1, a member trains for that many times the epochs to its best one,
    and the last weights count. Its best epoch is the one at which it would have stopped.

    All values stay on the device: a member is updated by a masked copy, never by a branch.
    `parameters` are tensors of shape (.., members, ..), with the members in the middle.
    """

    def __init__(self, parameters, patience, tol, undersmoothing=1.0):
        self.parameters = parameters
        self.best_parameters = [p.detach().clone() for p in self.parameters]
        self.patience = patience
        self.tol = tol
        self.undersmoothing = undersmoothing
        self.best = None

    def update(self, risk):
        """Update with the held-out risk of each member after an epoch."""
        if self.best is None:
            self.best = torch.full_like(risk, math.inf)
            self.stale = torch.zeros_like(risk)
            self.running = torch.ones_like(risk, dtype=torch.bool)
            self.epoch, self.last_epoch = 0, torch.zeros_like(risk)
        searching = self.running
        if self.undersmoothing > 1:
            searching = searching & (self.stale < self.patience)
        self.stale = torch.where((risk < self.best - self.tol) & searching, 0, self.stale + 1)
        better = (risk < self.best) & searching
        self.best = torch.where(better, risk, self.best)
        if self.undersmoothing > 1:
            epoch = self.undersmoothing * (self.epoch + 1)
            self.last_epoch = torch.where(better, epoch, self.last_epoch)
            self.advance()
            return
        self.running = self.running & (self.stale < self.patience)
        self._keep_weights(better)

    @property
    def is_settled(self):
        """Whether the best epochs of all members are known, while they still train."""
        if self.undersmoothing == 1 or self.best is None:
            return False
        return bool((self.stale >= self.patience).all())

    def advance(self):
        """Continue after an epoch, with the best epochs known so far."""
        self.epoch += 1
        kept = self.running
        going = (self.stale < self.patience) | (self.epoch < self.last_epoch)
        self.running = self.running & going
        self._keep_weights(kept)

    def _keep_weights(self, members):
        mask = members[:, None]
        for best, parameter in zip(self.best_parameters, self.parameters, strict=True):
            torch.where(mask, parameter.detach(), best, out=best)

    def keep(self, index, parameters):
        """Continue with some of the members, whose weights are now `parameters`."""
        self.parameters = parameters
        self.best_parameters = [best.index_select(1, index) for best in self.best_parameters]
        self.patience, self.tol = _of_members(self.patience, index), _of_members(self.tol, index)
        self.best, self.stale, self.running = (
            values[index] for values in (self.best, self.stale, self.running)
        )
        if self.undersmoothing > 1:
            self.last_epoch = self.last_epoch[index]

    def resume(self, best_parameters, best, stale, running):
        """Continue from the attributes of these names in an earlier run."""
        self.best_parameters, self.best = best_parameters, best
        self.stale, self.running = stale, running

    def restore(self):
        """Put the best weights into the module."""
        with torch.no_grad():
            for best, parameter in zip(self.best_parameters, self.parameters, strict=True):
                parameter.copy_(best)
