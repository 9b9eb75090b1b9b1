"""The training engine: a private skorch net over tensors that stay on the device.

skorch's default loop fetches rows one by one through a DataLoader and waits for the device at
every step. Here batches are rows of resident tensors picked by index, losses are summed on the
device, and the host waits once per epoch.
"""

import math
import os
import threading
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from joblib.parallel import get_active_backend
from skorch import NeuralNet
from skorch.history import History
from torch import nn

from ._stratification import false_action_counts, full_precision, propensity_log_probs
from .objectives import Batch

#: Rows per forward pass outside training: large enough to be fast, small enough for the caches.
INFERENCE_ROWS = 8192


def resolve_device(device):
    """Return the torch device for "auto" (cuda, then mps, then cpu) or for a torch device name."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    try:
        probe = torch.zeros(1, device=device)
        probe.tolist()  # a "meta" device holds no numbers
        return probe.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(". ")[0].splitlines()[0].rstrip(".")
        raise ValueError(
            f"device={device!r} cannot be used: {reason}. Expected 'auto', 'cpu' or the name of a "
            "device that torch sees on this machine (torch.cuda.is_available() tells)."
        ) from error


def resolve_dtype(dtype, device):
    """Return the dtype of weights and data, and the autocast dtype or None.

    "auto" is bfloat16 autocast on a CUDA device that supports it and float32 elsewhere.
    """
    if dtype == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    if dtype == "bfloat16":
        return torch.float32, torch.bfloat16
    return getattr(torch, dtype), None


def autocast(device, dtype):
    """Return the autocast context of a device, doing nothing where dtype is None."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


_worker_lock = threading.Lock()
#: Of each worker that computes now, the number of threads before the first of them.
_workers = []


@contextmanager
def threads_of_worker():
    """Compute with one thread in a worker of joblib that is told no number.

    Processes that loky or Ray start are told one (OMP_NUM_THREADS); threads and forks are not, and
    each would take all cores.
    """
    backend, _ = get_active_backend()
    if not backend.nesting_level or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    with _worker_lock:
        # A thread that starts now would see the number that another has set.
        _workers.append(_workers[0] if _workers else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _worker_lock:
            torch.set_num_threads(_workers.pop())


class ResidentRows:
    """Responses and their rows as tensors on the device, served as index batches.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    rows : dict of str to Tensor of shape (n, K)
        Fields of `Batch` that belong to rows.
    responses : dict of str to Tensor of shape (m,) or (members, m)
        Fields of `Batch` that belong to responses.
    sample_weight : Tensor of shape (m,) or (members, m)
        Factors of the losses; where each member has its own, those with 0 are not its part.
    part : Tensor of int
        The responses that belong to this part of the data.
    batch_size : int
        Rows per batch, as nearly as whole responses allow.
    offsets : Tensor of int of shape (m + 1,) or None
        Response i has the rows offsets[i] to offsets[i + 1] - 1. None: every row is a response.
    generator : torch.Generator or None
        Shuffles the responses anew for each pass; None keeps their order.
    partners : Partners or None
        Appends to the rows of each batch one partner of each.
    """

    def __init__(
        self,
        X,
        rows,
        responses,
        sample_weight,
        part,
        batch_size,
        *,
        offsets=None,
        generator=None,
        partners=None,
    ):
        self.X = X
        self.rows = rows
        self.responses = responses
        self.sample_weight = sample_weight
        self.part = part
        self.batch_size = batch_size
        self.offsets = offsets
        self.generator = generator
        self.partners = partners

    def __len__(self):
        return len(self.part)

    @property
    def per_member(self):
        """Whether members have weights or fields of their own."""
        values = self.sample_weight, *self.responses.values()
        return any(value.ndim > 1 for value in values)

    def __iter__(self):
        """Yield (X, first row of each response or None), fields of `Batch`, weights."""
        part = self.part
        if self.generator is not None:
            order = torch.randperm(len(part), generator=self.generator, device=part.device)
            part = part[order]
            if self.partners is not None:
                self.partners.draw()
        batches = self._single_rows(part) if self.offsets is None else self._repeated_rows(part)
        for responses, rows, first, response in batches:
            sample_weight = self.sample_weight.index_select(-1, responses)
            if self.partners is not None:
                partners = self.partners.partner.index_select(0, rows)
                sample_weight = sample_weight * self.sample_weight.index_select(-1, partners)
                responses = rows = torch.cat([rows, partners])
            # index_select copies whole rows; X[index] would be five times slower on a CPU.
            fields = {name: value.index_select(0, rows) for name, value in self.rows.items()}
            for name, value in self.responses.items():
                fields[name] = value.index_select(-1, responses)
            if response is not None:
                fields["response"] = response
            yield (
                (self.X.index_select(0, rows), first),
                fields,
                sample_weight,
            )

    def _single_rows(self, part):
        for rows in part.split(self.batch_size):
            yield rows, rows, None, None

    def _repeated_rows(self, part):
        sizes = self.offsets[part + 1] - self.offsets[part]
        ends = sizes.cumsum(0)
        batch_of = (ends - 1) // self.batch_size
        # Two waits for the device per pass, none per batch.
        n_rows, rows_per_batch, responses_per_batch = (
            int(ends[-1]),
            torch.bincount(batch_of, weights=sizes).long().tolist(),
            torch.bincount(batch_of).tolist(),
        )
        response = torch.repeat_interleave(sizes, output_size=n_rows)
        first = ends - sizes
        rows = torch.arange(n_rows, device=part.device) + (self.offsets[part] - first)[response]
        r0 = p0 = 0
        for n_batch_rows, m in zip(rows_per_batch, responses_per_batch, strict=True):
            if m:
                r1, p1 = r0 + n_batch_rows, p0 + m
                yield part[p0:p1], rows[r0:r1], first[p0:p1] - r0, response[r0:r1] - p0
                r0, p0 = r1, p1


class Partners:
    """Draws one partner of each row of a part: of its group and of another kind.

    Where the group has none of another kind, the partner comes from the whole part, if allowed;
    where that has none, it is the row itself.

    Parameters
    ----------
    part : Tensor of int of shape (p,)
        Rows, numbered 0 to n - 1 in the whole data.
    n_rows : int
    groups, kinds : Tensor of int of shape (n,)
        Groups that partners come from first; rows of one kind are not partners.
    generator : torch.Generator
    across : bool
        Whether partners of another group are allowed.
    """

    def __init__(self, part, n_rows, groups, kinds, generator, across=True):
        self.part = part
        self.generator = generator
        self.partner = torch.arange(n_rows, device=part.device)
        groups, kinds = (
            torch.unique(codes[part], return_inverse=True)[1] for codes in (groups, kinds)
        )
        near = _Pool(groups, kinds)
        far = _Pool(torch.zeros_like(groups), kinds)
        use_far = (near.size == 0) & across
        # Positions in the two orders, one after the other.
        self.order = torch.cat([near.order, far.order])
        self.size, self.start, self.block, self.block_size = (
            torch.where(use_far, getattr(far, name) + shift, getattr(near, name))
            for name, shift in (
                ("size", 0),
                ("start", len(part)),
                ("block", len(part)),
                ("block_size", 0),
            )
        )
        self.draw()

    def draw(self):
        """Draw anew, into `partner`, of shape (n,): the row number of each row's partner."""
        size = self.size
        uniform = torch.rand(len(size), generator=self.generator, device=size.device)
        position = self.start + (uniform * size).long().minimum((size - 1).clamp_min(0))
        # Rows of the own kind lie side by side and are jumped over.
        position = position + self.block_size * (position >= self.block)
        last = len(self.order) - 1
        drawn = self.part[self.order[position.clamp_max(last)]]
        self.partner[self.part] = torch.where(size > 0, drawn, self.part)


class _Pool:
    """Rows in the order of group and kind, and where in it each row's candidates lie."""

    def __init__(self, groups, kinds):
        cell = groups * (kinds.max() + 1) + kinds
        self.order = torch.argsort(cell, stable=True)
        group_sizes = torch.bincount(groups)
        _, cell, cell_sizes = torch.unique(cell, return_inverse=True, return_counts=True)
        self.start = (group_sizes.cumsum(0) - group_sizes)[groups]
        self.block = (cell_sizes.cumsum(0) - cell_sizes)[cell]
        self.block_size = cell_sizes[cell]
        self.size = group_sizes[groups] - self.block_size


class MemberRisk(nn.Module):
    """The criterion: weighted mean over a batch of the objective's loss, per member.

    In evaluation mode it is the objective's held-out criterion instead.

    Parameters
    ----------
    objective : Objective
    false_action_rate : Tensor of shape (K,) or None
    n_members : int or None
        To estimate the false-action rates, of each member on its own from the rows given: the
        number of members. The rates given are then where it starts.
    """

    #: Per pass over the held-out rows.
    EM_STEPS = 5

    def __init__(self, objective, false_action_rate, n_members=None):
        super().__init__()
        self.objective = objective
        self.estimates = n_members is not None
        if self.estimates:
            # (1, members, K), the order of the biases.
            false_action_rate = false_action_rate.expand(1, n_members, -1).clone()
            self.evaluated = []
        self.register_buffer("false_action_rate", false_action_rate)

    def maximise(self):
        """Take EM steps of the rates on the rows evaluated since the last call, R and A as fitted.

        Several, since the rates converge more slowly than the heads.
        """
        for _ in range(self.EM_STEPS):
            # Half a false action is added: a rate of exactly 0 could never grow again.
            false_actions, opportunities = sum(
                _weighted_counts(self.false_action_rate.transpose(0, 1), *rows)
                for rows in self.evaluated
            )
            self.false_action_rate.copy_((false_actions + 0.5) / (opportunities + 1.0))
        self.evaluated.clear()

    def forward(self, logits, fields, sample_weight):
        """Return the risk of each member, shape (members,)."""
        reward_logit, propensity_logit, *more = logits
        rate = self.false_action_rate
        if self.estimates:
            rate = rate.transpose(0, 1)
        loss = self.objective.loss if self.training else self.objective.validation_loss
        batch = Batch(false_action_rate=rate, sample_weight=sample_weight, **fields, **dict(*more))
        rows = loss(reward_logit, propensity_logit, batch)
        expected = (len(reward_logit), sample_weight.shape[-1])
        if getattr(rows, "shape", None) != expected:
            raise ValueError(
                f"{type(self.objective).__name__}.{loss.__name__} must return a tensor of shape "
                f"(members, {'pairs' if self.objective.pairs else 'rows'}) = {expected}, got "
                f"{tuple(rows.shape) if hasattr(rows, 'shape') else type(rows).__name__}."
            )
        if self.estimates and not self.training:
            log_propensity, _ = propensity_log_probs(
                propensity_logit, rate, fields.get("propensity")
            )
            log = fields | {"propensity": log_propensity.exp()}
            self.evaluated.append((reward_logit, propensity_logit, log, sample_weight))
        if sample_weight.ndim > 1:
            return (rows * sample_weight).mean(-1)
        return rows @ sample_weight / len(sample_weight)


def _weighted_counts(rate, reward_logit, propensity_logit, fields, sample_weight):
    """Return false actions and opportunities of each member, shape (2, members, K)."""
    log = {name: value for name, value in fields.items() if name != "propensity_target"}
    counts = false_action_counts(reward_logit, propensity_logit, false_action_rate=rate, **log)
    response = fields.get("response")
    weight = sample_weight if response is None else sample_weight.index_select(-1, response)
    return torch.stack([(kind * weight[..., None]).sum(-2) for kind in counts])


class RateConstraint:
    """Keeps the mean reward of the population in an interval, by an augmented Lagrangian.

    A penalty on the mean of a batch would punish its noise, the more the smaller the batch. Here
    the multiplier and the penalty act on a running mean over many batches, and what is added to the
    loss is linear in the reward of the batch, so that its gradient is unbiased for any batch size
    (Nocedal & Wright 2006, sections 17.3 and 17.4).

    Parameters
    ----------
    lower, upper : float
    n_members : int
    n_batches : float
        Batches per pass over the data: how many the running mean looks back at, at least 10.
    device : torch.device
    """

    #: Penalty and step of the multiplier (per look-back), in nats per row and squared unit of the
    #: rate. A larger step makes multiplier and rate swing against each other: the heads follow
    #: slowly, some thousandths of a logit per batch.
    PENALTY = 3.0
    MULTIPLIER_STEP = 1.0

    def __init__(self, lower, upper, n_members, n_batches, device):
        self.lower = lower
        self.upper = upper
        self.memory = 1 / max(n_batches, 10)
        self.mean = None
        self.multiplier = torch.zeros(n_members, device=device)

    def __call__(self, reward_logit, sample_weight):
        """Return the term of each member for a batch, shape (members,)."""
        reward = torch.sigmoid(full_precision(reward_logit))
        # Weights have mean 1 over the population, not over the batch: dividing by their sum in the
        # batch would let them cancel the smaller the batch is.
        mean = (reward * sample_weight).mean(-1)
        if self.mean is None:
            self.mean = reward.detach().mean(-1)
        self.mean = torch.lerp(self.mean, mean.detach(), self.memory)
        excess = self.mean - self.mean.clamp(self.lower, self.upper)
        if self.lower < self.upper:
            # Inside the interval a multiplier has nothing to do.
            inside = (excess == 0) * 1.0
            self.multiplier = self.multiplier * (1 - inside * self.memory)
        self.multiplier = self.multiplier + self.MULTIPLIER_STEP * self.memory * excess
        return (self.multiplier + self.PENALTY * excess) * mean

    def keep(self, index):
        """Go on with some of the members."""
        self.multiplier = self.multiplier[index]
        self.mean = None if self.mean is None else self.mean[index]

    def shift(self, reward_logit, sample_weight):
        """Return what to add to each member's logits so that the constraint holds exactly.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, m)
            Of the whole population.
        sample_weight : Tensor of shape (m,)

        Returns
        -------
        shift : Tensor of shape (members,)
        """
        f, weight = reward_logit.double(), sample_weight.double() / sample_weight.sum()

        def mean_at(shift):
            # Member by member: of a large population one is enough at a time.
            return torch.stack(
                [torch.sigmoid(one + by) @ weight for one, by in zip(f, shift, strict=True)]
            )

        mean = mean_at(torch.zeros_like(f[:, 0]))
        target = mean.clamp(self.lower, self.upper)
        low, high = torch.full_like(mean, -50.0), torch.full_like(mean, 50.0)
        for _ in range(60):
            middle = (low + high) / 2
            above = mean_at(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return torch.where(mean == target, 0.0, (low + high) / 2)


class MemberAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) with a step size and a weight decay of each member.

    torch's fused step, which has one step size, moves an auxiliary tensor that starts at 0; the
    weights then go that way by their own step.

    Parameters
    ----------
    parameters : list of Tensor of shape (..., members, ...)
        Members in the middle.
    lr, weight_decay : Tensor of shape (members,)
    """

    def __init__(self, parameters, lr, weight_decay):
        self.moved = list(parameters)
        directions = [torch.zeros_like(p) for p in self.moved]
        super().__init__(directions, lr=1.0, weight_decay=0.0, fused=True)
        # Of the shape of a row, which is read in one go.
        self.rows = [
            tuple(
                value.to(p)[:, None].expand(p.shape[1:]).contiguous()
                for value in (lr, 1 - lr.double() * weight_decay.double())
            )
            for p in self.moved
        ]

    def zero_grad(self, set_to_none=True):
        """Forget the gradients."""
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
    """Return the entries of some members of a value that may be the same for all."""
    return value[index] if isinstance(value, torch.Tensor) else value


class RewardNet(NeuralNet):
    """A skorch net whose loop runs over `ResidentRows` and keeps each member's best weights.

    Members that have stopped leave the computation.

    Parameters
    ----------
    settings : MemberSettings
    autocast_dtype : torch.dtype or None
    constraint : RateConstraint or None
    epoch_begin : callable()
    epoch_end : callable(record) -> bool
        Called around each epoch, `record` being its history entry; training ends on True.

    Attributes
    ----------
    members_ : MembersInTraining
    n_running_ : int or None
        Members that were still improving at the end.
    progress_ : dict or None
        What `fit_loop` can go on from, if it was paused.
    """

    def __init__(
        self,
        *args,
        settings=None,
        autocast_dtype=None,
        constraint=None,
        epoch_begin=None,
        epoch_end=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.constraint = constraint
        self.autocast_dtype = autocast_dtype
        self.epoch_begin = epoch_begin
        self.epoch_end = epoch_end

    def infer(self, x, **_):
        """Return the logits of a batch that is on the device already."""
        X, first = x
        with autocast(X.device, self.autocast_dtype):
            return self.module_.outputs(X, first)

    def train_step(self, batch, **_):
        """Take one step; skorch's own wraps it in a closure, which AdamW has no use for."""
        X, fields, sample_weight = batch
        self.optimizer_.zero_grad()
        logits = self.infer(X)
        risks = self.criterion_(logits, fields, sample_weight)
        total = risks
        if self.constraint is not None:
            total = risks + self.constraint(logits[0], sample_weight)
        # Ones, not a mean: the gradient of each member is what it would be alone.
        total.backward(torch.ones_like(total))
        self.optimizer_.step()
        return {"loss": risks.detach()}

    def validation_step(self, batch, **_):
        """Return the held-out criterion of a batch."""
        X, fields, sample_weight = batch
        return {"loss": self.criterion_(self.infer(X), fields, sample_weight)}

    def run_single_epoch(self, iterator, training, prefix, step_fn, **_):
        """Return the mean risk of each member over one pass, left on the device."""
        self._set_training(training)
        risks, sizes = None, []
        # Closed also when a step raises, so that no thread goes on reading.
        with closing(iter(iterator)) as batches:
            for batch in batches:
                risk = step_fn(batch)["loss"]
                n = len(sizes)
                if risks is None or n == len(risks):
                    # One tensor: a small one of each batch would lie between the large ones of the
                    # batches and keep the memory of these from being used again.
                    more = risk.new_empty((max(64, n), *risk.shape))
                    risks = more if risks is None else torch.cat([risks, more])
                risks[n] = risk
                sizes.append(batch[2].shape[-1])
        share = torch.tensor(sizes, dtype=risks.dtype, device=risks.device) / sum(sizes)
        return share @ risks[: len(sizes)]

    @threads_of_worker()
    def fit_loop(self, X, y=None, epochs=None, progress=None, pause=None, checkpoint=None, **_):
        """Train on X = (training rows, validation rows or None) for at most `epochs` epochs.

        Parameters
        ----------
        progress : dict, default=None
            `progress_` of an earlier call, to go on from there.
        pause : int, default=None
            Epoch after which to return, with the best weights so far in the module.
        checkpoint : TrainingState, default=None
            File to go on from and to write after each epoch.
        """
        train, valid = X
        members = self.members_ = MembersInTraining(self, epochs, valid is not None)
        # To pick rows and rates of their own is not worth the trouble.
        keep = train.per_member or self.criterion_.estimates
        if checkpoint is not None:
            progress = checkpoint.restore(self, X, epochs)
        if progress is not None:
            members.resume(progress, train.generator)
            members.leave(keep)
        while members.present and (pause is None or members.epoch < pause):
            self.epoch_begin()
            risks = {"train_loss": self.run_single_epoch(train, True, "train", self.train_step)}
            if valid is not None:
                with torch.inference_mode():
                    risks["valid_loss"] = self.run_single_epoch(
                        valid, False, "valid", self.validation_step
                    )
                    if self.criterion_.estimates:
                        self.criterion_.maximise()
                members.best.update(risks["valid_loss"])
                risks["running"] = members.best.running
            # The one time per epoch that the host waits for the device.
            kind = risks["train_loss"].dtype
            values = torch.stack([risk.to(kind) for risk in risks.values()]).tolist()
            record = dict(zip(risks, values, strict=True))
            running = record.pop("running", None)
            record = members.take_in(record)
            self.history.new_epoch()
            for name, value in record.items():
                self.history.record(name, value)
            stop = self.epoch_end(record)
            members.check_finite(record["train_loss"])
            members.note(running, stop)
            if checkpoint is not None:
                checkpoint.save(members.progress(train.generator))
            members.leave(keep)
        paused = pause is not None and members.present
        self.progress_ = members.progress(train.generator) if paused else None
        members.finish()
        return self


@dataclass
class MemberSettings:
    """How members are trained: numbers, or tensors with one value per member.

    Attributes
    ----------
    learning_rate_init, weight_decay : float or Tensor of shape (members,)
        Of AdamW.
    patience : int or Tensor
        Epochs without an improvement by `tol` after which a member stops.
    tol : float or Tensor
    max_epochs : list of int or None
        Of each member; None is what `RewardNet.fit_loop` is told.
    n_fits : int
        Fits side by side, each of the same number of members, one after the other. If one
        diverges, its members stop; if the only one does, an error is raised.
    """

    learning_rate_init: float | torch.Tensor
    weight_decay: float | torch.Tensor
    patience: int | torch.Tensor | None = None
    tol: float | torch.Tensor = 0.0
    max_epochs: list | None = None
    n_fits: int = 1

    def of_members(self, index):
        """Return the settings of some of the members."""
        names = ("learning_rate_init", "weight_decay", "patience", "tol")
        return replace(self, **{name: _of_members(getattr(self, name), index) for name in names})

    def optimizer(self, parameters):
        """Return an AdamW for parameters of shape (.., members, ..)."""
        lr, decay = self.learning_rate_init, self.weight_decay
        if not isinstance(lr, torch.Tensor):
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)
        return MemberAdamW(parameters, lr, decay)


class MembersInTraining:
    """Which members of a net train still, and what has become of all of them.

    The net's module holds those that do, `whole` all.

    Parameters
    ----------
    net : RewardNet
    epochs : int
    validates : bool
        Whether members have best weights that they return to.
    """

    def __init__(self, net, epochs, validates):
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
            self.best = BestMembers(self._kept(), net.settings.patience, net.settings.tol)

    def _kept(self):
        kept = list(self.net.module_.parameters())
        if self.net.criterion_.estimates:
            kept.append(self.net.criterion_.false_action_rate)
        return kept

    def take_in(self, record):
        """Return the losses of an epoch for all members: those that left keep their last ones."""
        self.epoch += 1
        for name, losses in record.items():
            known = self.losses.setdefault(name, self.n_members * [math.nan])
            for member, loss in zip(self.present, losses, strict=True):
                known[member] = loss
        if self.net.module_ is not self.whole:
            self._put_back(self.net.module_.parameters(), range(len(self.present)))
        return {name: list(losses) for name, losses in self.losses.items()}

    def check_finite(self, losses):
        """Take out the fits of which a member has diverged, or raise if it is the only one."""
        per_fit = self.n_members // self.settings.n_fits
        # What a member does after it has stopped is thrown away.
        bad = {
            member // per_fit
            for member in self.present
            if (self.running is None or self.running[member]) and not math.isfinite(losses[member])
        }
        if bad and self.settings.n_fits == 1:
            raise FloatingPointError(
                f"training diverged in epoch {len(self.net.history)}: the loss is not finite. "
                "Lower learning_rate_init or scale the columns of X; if the objective is your "
                "own, check that its loss is finite for large logits."
            )
        self.diverged = [
            was or member // per_fit in bad for member, was in enumerate(self.diverged)
        ]

    def note(self, running, stop):
        """Take in which of the members present may still improve, and whether all have to stop.

        Parameters
        ----------
        running : list of bool or None
            None is all.
        stop : bool
        """
        self.stopped = bool(stop)
        for position, member in enumerate(self.present):
            if running is not None:
                self.running[member] = bool(running[position])
            self.epochs[member] = self.epoch

    def leave(self, keep=False):
        """Let members go that have stopped or had their epochs.

        Parameters
        ----------
        keep : bool
            Go on with all of them as long as there is one to train.
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
        """Put the weights of all members into the whole module, which the net then has again."""
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
        into = list(self.whole.parameters())
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
        net.optimizer_ = self.settings.optimizer(list(net.module_.parameters()))
        for moments, key in zip(
            _moments(old), net.optimizer_.param_groups[0]["params"], strict=True
        ):
            net.optimizer_.state[key] = {
                name: value.index_select(1, index) if value.ndim else value.clone()
                for name, value in moments.items()
            }
        if self.best is not None:
            self.best.keep(index, self._kept())
        if net.constraint is not None:
            net.constraint.keep(index)

    # ------------------------------------------------------------------ pausing

    def progress(self, generator):
        """Return all that training goes on from, of all members, as tensors, lists and numbers.

        Of those that left there are the final weights, and zeros for the rest.
        """
        moments = _moments(self.net.optimizer_)
        weights = list(self.net.module_.parameters())
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
                    ("parameters", weights, self.whole.parameters()),
                    ("best", best, self.whole.parameters()),
                    *(
                        (name, [each[name] for each in moments], len(moments) * [None])
                        for name in ("exp_avg", "exp_avg_sq")
                    ),
                )
            },
        }

    def _of_all(self, value, dim, into=None):
        """Return a copy, on the CPU, of values of the present members among those of all."""
        if into is None:
            into = value.new_zeros([*value.shape[:dim], self.n_members, *value.shape[dim + 1 :]])
        index = torch.tensor(self.present, device=value.device)
        return into.detach().index_copy(dim, index, value.detach()).cpu()

    def resume(self, progress, generator):
        """Go on from what `progress` returned."""
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
        with torch.no_grad():
            for whole, value in zip(self.whole.parameters(), tensors["parameters"], strict=True):
                whole.copy_(value)
        step = torch.tensor(progress["step"], device=device)
        for key, exp_avg, exp_avg_sq in zip(
            net.optimizer_.param_groups[0]["params"],
            tensors["exp_avg"],
            tensors["exp_avg_sq"],
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


def _moments(optimizer):
    """Return the state of an AdamW, one dict per parameter, in their order."""
    return [optimizer.state[key] for key in optimizer.param_groups[0]["params"]]


class BestMembers:
    """Each member's best weights so far, and whether it may still improve.

    Everything stays on the device: a member is updated by a masked copy, never by a branch.
    `parameters` are tensors of shape (.., members, ..), members in the middle.
    """

    def __init__(self, parameters, patience, tol):
        self.parameters = parameters
        self.best_parameters = [p.detach().clone() for p in self.parameters]
        self.patience = patience
        self.tol = tol
        self.best = None

    def update(self, risk):
        """Take in the held-out risk of each member after an epoch."""
        if self.best is None:
            self.best = torch.full_like(risk, math.inf)
            self.stale = torch.zeros_like(risk)
            self.running = torch.ones_like(risk, dtype=torch.bool)
        self.stale = torch.where(risk < self.best - self.tol, 0, self.stale + 1)
        better = (risk < self.best) & self.running
        self.best = torch.where(better, risk, self.best)
        self.running = self.running & (self.stale < self.patience)
        mask = better[:, None]
        for best, parameter in zip(self.best_parameters, self.parameters, strict=True):
            torch.where(mask, parameter.detach(), best, out=best)

    def keep(self, index, parameters):
        """Go on with some of the members, whose weights are now `parameters`."""
        self.parameters = parameters
        self.best_parameters = [best.index_select(1, index) for best in self.best_parameters]
        self.patience, self.tol = _of_members(self.patience, index), _of_members(self.tol, index)
        self.best, self.stale, self.running = (
            values[index] for values in (self.best, self.stale, self.running)
        )

    def resume(self, best_parameters, best, stale, running):
        """Go on from what an earlier run had in the attributes of these names."""
        self.best_parameters, self.best = best_parameters, best
        self.stale, self.running = stale, running

    def restore(self):
        """Put the best weights into the module."""
        with torch.no_grad():
            for best, parameter in zip(self.best_parameters, self.parameters, strict=True):
                parameter.copy_(best)


def build_net(
    model,
    objective,
    *,
    false_action_rate=None,
    estimate_false_action_rate=False,
    device,
    autocast_dtype=None,
    constraint=None,
    epoch_begin=lambda: None,
    epoch_end=lambda record: False,
    **settings,
):
    """Return an initialised `RewardNet` that trains `model`; `settings` are `MemberSettings`."""
    settings = MemberSettings(**settings)
    net = RewardNet(
        module=model,
        criterion=MemberRisk(
            objective,
            false_action_rate,
            model.config["n_members"] if estimate_false_action_rate else None,
        ),
        iterator_train=None,
        iterator_valid=None,
        train_split=None,
        callbacks="disable",
        device=str(device),
        verbose=0,
        settings=settings,
        autocast_dtype=autocast_dtype,
        constraint=constraint,
        epoch_begin=epoch_begin,
        epoch_end=epoch_end,
    )
    net.initialize()
    net.optimizer_ = settings.optimizer(list(net.module_.parameters()))
    net.history = History()
    return net


@torch.inference_mode()
def batched_logits(model, X_chunks, heads, *, device, autocast_dtype=None):
    """Run heads over chunks of rows and return their logits on the CPU in float64.

    Parameters
    ----------
    model : RewardModel
    X_chunks : iterable of Tensor of shape (chunk, d)
    heads : sequence of {"reward_logit", "propensity_logit"}

    Returns
    -------
    logits : list of Tensor, one per head, of shape (members, n) or (members, n, K)
    """
    model.eval()
    parts = [[] for _ in heads]
    for chunk in X_chunks:
        chunk = chunk.to(device)
        with autocast(device, autocast_dtype):
            for part, head in zip(parts, heads, strict=True):
                part.append(getattr(model, head)(chunk))
    return [torch.cat(part, dim=1).to("cpu", torch.float64) for part in parts]
