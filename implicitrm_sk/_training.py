"""The training engine: a private skorch net over tensors that stay on the device.

skorch's default loop fetches rows one by one through a DataLoader and waits for the device at
every step. Here batches are rows of resident tensors picked by index, losses are summed on the
device, and the host waits once per epoch.
"""

import itertools
import math
from contextlib import nullcontext

import torch
from skorch import NeuralNet
from skorch.history import History
from torch import nn

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


class ResidentRows:
    """Rows of tensors on the device, served as index batches.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    actions : Tensor of shape (n, K)
    sample_weight : Tensor of shape (n,)
        Factors of the losses.
    rows : Tensor of int
        The rows that belong to this part of the data.
    batch_size : int
    generator : torch.Generator or None
        Shuffles the rows anew for each pass; None keeps their order.
    """

    def __init__(self, X, actions, sample_weight, rows, batch_size, generator=None):
        self.X = X
        self.actions = actions
        self.sample_weight = sample_weight
        self.rows = rows
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        rows = self.rows
        if self.generator is not None:
            order = torch.randperm(len(rows), generator=self.generator, device=rows.device)
            rows = rows[order]
        for index in rows.split(self.batch_size):
            # index_select copies whole rows; X[index] would be five times slower on a CPU.
            yield (
                self.X.index_select(0, index),
                (self.actions.index_select(0, index), self.sample_weight.index_select(0, index)),
            )


class MemberRisk(nn.Module):
    """The criterion: weighted mean over a batch of the objective's loss, per member.

    In evaluation mode it is the objective's held-out criterion instead.
    """

    def __init__(self, objective, false_action_rate):
        super().__init__()
        self.objective = objective
        self.register_buffer("false_action_rate", false_action_rate)

    def forward(self, logits, target):
        """Return the risk of each member, shape (members,)."""
        actions, sample_weight = target
        loss = self.objective.loss if self.training else self.objective.validation_loss
        rows = loss(*logits, Batch(actions, self.false_action_rate))
        if getattr(rows, "shape", None) != logits[0].shape:
            raise ValueError(
                f"{type(self.objective).__name__}.{loss.__name__} must return a tensor of shape "
                f"(members, rows) = {tuple(logits[0].shape)}, got "
                f"{tuple(rows.shape) if hasattr(rows, 'shape') else type(rows).__name__}."
            )
        return rows @ sample_weight / len(sample_weight)


class RewardNet(NeuralNet):
    """A skorch net whose loop runs over `ResidentRows` and keeps each member's best weights.

    Parameters
    ----------
    autocast_dtype : torch.dtype or None
    patience : int
        Epochs without an improvement by `tol` after which a member stops.
    tol : float
    epoch_begin : callable()
    epoch_end : callable(record) -> bool
        Called around each epoch, `record` being its history entry; training ends on True.
    """

    def __init__(
        self,
        *args,
        autocast_dtype=None,
        patience=None,
        tol=0.0,
        epoch_begin=None,
        epoch_end=None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.autocast_dtype = autocast_dtype
        self.patience = patience
        self.tol = tol
        self.epoch_begin = epoch_begin
        self.epoch_end = epoch_end

    def infer(self, x, **_):
        """Return the logits of a batch that is on the device already."""
        with autocast(x.device, self.autocast_dtype):
            return self.module_(x)

    def train_step(self, batch, **_):
        """Take one step; skorch's own wraps it in a closure, which AdamW has no use for."""
        X, target = batch
        self.optimizer_.zero_grad()
        risks = self.criterion_(self.infer(X), target)
        # Ones, not a mean: the gradient of each member is what it would be alone.
        risks.backward(torch.ones_like(risks))
        self.optimizer_.step()
        return {"loss": risks.detach()}

    def validation_step(self, batch, **_):
        """Return the held-out criterion of a batch."""
        X, target = batch
        return {"loss": self.criterion_(self.infer(X), target)}

    def run_single_epoch(self, iterator, training, prefix, step_fn, **_):
        """Return the mean risk of each member over one pass, left on the device."""
        self._set_training(training)
        risks, sizes = [], []
        for batch in iterator:
            risks.append(step_fn(batch)["loss"])
            sizes.append(len(batch[0]))
        risks = torch.stack(risks)
        share = torch.tensor(sizes, dtype=risks.dtype, device=risks.device) / sum(sizes)
        return share @ risks

    def fit_loop(self, X, y=None, epochs=None, **_):
        """Train on X = (training rows, validation rows or None) for at most `epochs` epochs."""
        train, valid = X
        best = None if valid is None else BestMembers(self.module_, self.patience, self.tol)
        alive = itertools.repeat(True)
        for _ in range(epochs):
            self.epoch_begin()
            risks = {"train_loss": self.run_single_epoch(train, True, "train", self.train_step)}
            if valid is not None:
                with torch.inference_mode():
                    risks["valid_loss"] = self.run_single_epoch(
                        valid, False, "valid", self.validation_step
                    )
                best.update(risks["valid_loss"])
                risks["running"] = best.running
            # The one time per epoch that the host waits for the device.
            kind = risks["train_loss"].dtype
            values = torch.stack([risk.to(kind) for risk in risks.values()]).tolist()
            record = dict(zip(risks, values, strict=True))
            running = record.pop("running", None)
            self.history.new_epoch()
            for name, value in record.items():
                self.history.record(name, value)
            stop = self.epoch_end(record)
            # What a member does after it has stopped is thrown away.
            if not all(map(math.isfinite, itertools.compress(record["train_loss"], alive))):
                raise FloatingPointError(
                    f"training diverged in epoch {len(self.history)}: the loss is not finite. "
                    "Lower learning_rate_init or scale the columns of X; if the objective is your "
                    "own, check that its loss is finite for large logits."
                )
            if stop or (running is not None and not any(running)):
                break
            alive = running or alive
        self.n_running_ = None if running is None else int(sum(running))
        if best is not None:
            best.restore()
        return self


class BestMembers:
    """Each member's best weights so far, and whether it may still improve.

    Everything stays on the device: a member is updated by a masked copy, never by a branch.
    """

    def __init__(self, module, patience, tol):
        self.parameters = list(module.parameters())
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
    learning_rate_init,
    weight_decay,
    device,
    autocast_dtype=None,
    patience=None,
    tol=0.0,
    epoch_begin=lambda: None,
    epoch_end=lambda record: False,
):
    """Return an initialised `RewardNet` that trains `model` by AdamW (Loshchilov & Hutter 2019)."""
    net = RewardNet(
        module=model,
        criterion=MemberRisk(objective, false_action_rate),
        optimizer=torch.optim.AdamW,
        optimizer__lr=learning_rate_init,
        optimizer__weight_decay=weight_decay,
        optimizer__fused=True,
        iterator_train=None,
        iterator_valid=None,
        train_split=None,
        callbacks="disable",
        device=str(device),
        verbose=0,
        autocast_dtype=autocast_dtype,
        patience=patience,
        tol=tol,
        epoch_begin=epoch_begin,
        epoch_end=epoch_end,
    )
    net.initialize()
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
