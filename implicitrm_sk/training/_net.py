"""The training engine: a private skorch net over tensors that stay on the device.

The default loop of skorch fetches rows one by one through a DataLoader, and waits for the device at
every step. Here batches are rows of resident tensors picked by index, and losses are summed on the
device. The host waits once per epoch.
"""

from contextlib import closing

import torch
from skorch import NeuralNet
from skorch.history import History
from torch import nn
from torch.nn.functional import logsigmoid

from .._device import autocast, threads_of_worker
from ..exceptions import ImplicitRMError
from ..measurement._model import Measurement
from ..measurement._signal import full_precision, per_response
from ..objectives import Batch
from ._members import MemberSettings, MembersInTraining


class MemberRisk(nn.Module):
    """The criterion: weighted mean of the objective's loss over a batch, per member.

    In evaluation mode, it is the held-out criterion of the objective.

    Parameters
    ----------
    objective : Objective
    measurement : Measurement
    false_action_rate : Tensor of shape (K,) or None
    n_members : int or None
        Number of members, if each estimates its own false-action rates from the rows given. It
        starts from `false_action_rate`.
    users : UserWeights or None
        The users, if they differ in activity.
    """

    #: EM steps per pass over the held-out rows.
    EM_STEPS = 5

    def __init__(self, objective, measurement, false_action_rate, n_members=None, users=None):
        super().__init__()
        self.objective = objective
        self.measurement = measurement
        self.users = users
        self.estimates = n_members is not None
        if self.estimates:
            # (1, members, K), the order of the biases.
            false_action_rate = false_action_rate.expand(1, n_members, -1).clone()
            self.evaluated = []
        self.register_buffer("false_action_rate", false_action_rate)

    def maximise(self):
        """Update the rates by EM on the rows evaluated since the last call, with R and A as fitted.

        It takes several steps, because the rates converge more slowly than the heads.
        """
        for _ in range(self.EM_STEPS):
            # Half a false action is added, because a rate of exactly 0 could never grow again.
            false_actions, opportunities = sum(
                self._weighted_counts(self.false_action_rate.transpose(0, 1), *rows)
                for rows in self.evaluated
            )
            rate = (false_actions + 0.5) / (opportunities + 1.0)
            estimated = self.measurement.estimated_rates.to(rate.device)
            self.false_action_rate.copy_(torch.where(estimated, rate, self.false_action_rate))
        self.evaluated.clear()

    def forward(self, logits, fields, sample_weight):
        """Return the risk of each member, shape (members,)."""
        reward_logit, propensity_logit, *more = logits
        rate = self.false_action_rate
        if self.estimates:
            rate = rate.transpose(0, 1)
        loss = self.objective.loss if self.training else self.objective.validation_loss
        further = dict(*more)
        given = {"false_action_rate": rate, "measurement": self.measurement}
        if self.users is not None:
            rows = self._loss_of_users(
                loss, reward_logit, propensity_logit, fields, sample_weight, given, further
            )
        else:
            batch = Batch(sample_weight=sample_weight, **fields, **given, **further)
            rows = loss(reward_logit, propensity_logit, batch)
        expected = (len(reward_logit), sample_weight.shape[-1])
        if getattr(rows, "shape", None) != expected:
            raise ImplicitRMError(
                f"{type(self.objective).__name__}.{loss.__name__} must return a tensor of shape "
                f"(members, {'pairs' if self.objective.pairs else 'rows'}) = {expected}, got "
                f"{tuple(rows.shape) if hasattr(rows, 'shape') else type(rows).__name__}. Return "
                "one loss per member and row."
            )
        if self.estimates and not self.training:
            known = self.measurement.propensities(
                propensity_logit, rate, fields.get("propensity"), len(fields["actions"])
            )
            log = fields | {"propensity": known}
            self.evaluated.append((reward_logit, propensity_logit, log, sample_weight))
        if sample_weight.ndim > 1:
            return (rows * sample_weight).mean(-1)
        return rows @ sample_weight / len(sample_weight)

    def _loss_of_users(self, loss, f, u, fields, sample_weight, given, further):
        """Return the loss of each member and response, and add to the messages of the users."""
        fields = dict(fields)
        user, response = fields.pop("user"), fields.pop("response", None)
        loading = further.pop("loading")
        of_nodes = self.users.spread(f, u, loading)
        if response is None:
            batch = Batch(sample_weight=sample_weight, **fields, **given, **further)
            nll = loss(*of_nodes, batch)
            self.users.collect(nll, user, sample_weight)
            return self.users.risk(nll, user)
        f, u = full_precision(f), of_nodes[1]
        labels, names = fields.pop("labels", None), ("actions", "exposures", "age", "delay")
        with torch.no_grad():
            log_rows = self.measurement.log_rows(
                u,
                false_action_rate=given["false_action_rate"],
                **{name: fields[name] for name in names if name in fields},
            )
            seen = self.users.audience(log_rows, f, user, response, labels, trains=self.training)
            weight = sample_weight.index_select(-1, response)
            self.users.collect(-seen.shares(response), user, weight)
        if not self.training:
            return -seen.log_likelihood
        # The gradient of -log P(y | x): each row at each node, with the other rows as its prior.
        batch = Batch(
            sample_weight=weight,
            labels=None if labels is None else labels[response],
            **fields,
            **given,
            **further,
        )
        nll = loss(seen.others_logit.expand(len(u), -1, -1), u, batch)
        rows = (torch.softmax(seen.log_weight + seen.message, 0) * nll).sum(0)
        of_class = torch.stack([logsigmoid(-f), logsigmoid(f)])
        risk = per_response(rows, response, f.shape[-1]) - (seen.posterior * of_class).sum(0)
        return risk + (-seen.log_likelihood - risk).detach()

    def _weighted_counts(self, rate, reward_logit, propensity_logit, fields, sample_weight):
        """Return false actions and opportunities of each member, shape (2, members, K)."""
        log = {name: value for name, value in fields.items() if name != "propensity_target"}
        counts = self.measurement.false_action_counts(
            reward_logit, propensity_logit, false_action_rate=rate, **log
        )
        response = fields.get("response")
        weight = sample_weight if response is None else sample_weight.index_select(-1, response)
        return torch.stack([(kind * weight[..., None]).sum(-2) for kind in counts])


class RewardNet(NeuralNet):
    """A skorch net that iterates over `ResidentRows` and keeps each member's best weights.

    Members that have stopped are removed from the computation.

    Parameters
    ----------
    settings : MemberSettings
    autocast_dtype : torch.dtype or None
    constraint : RateConstraint or None
    epoch_begin : callable()
    epoch_end : callable(record) -> bool
        Called around each epoch, `record` being its history entry. Training ends if it is True.

    Attributes
    ----------
    members_ : MembersInTraining
    n_running_ : int or None
        Number of members that were still improving at the end.
    progress_ : dict or None
        The state from which `fit_loop` can continue, if it was paused.
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
        """Return the logits of a batch that is on the device."""
        X, first = x
        with autocast(X.device, self.autocast_dtype):
            return self.module_.outputs(X, first)

    def train_step(self, batch, **_):
        """Take one step, without the closure that skorch uses and AdamW does not need."""
        X, fields, sample_weight = batch
        self.optimizer_.zero_grad()
        logits = self.infer(X)
        risks = self.criterion_(logits, fields, sample_weight)
        total = risks
        if self.constraint is not None:
            total = risks + self.constraint(logits[0], sample_weight)
        # Ones, not a mean: each member then gets the gradient that it would get alone.
        total.backward(torch.ones_like(total))
        self.optimizer_.step()
        return {"loss": risks.detach()}

    def validation_step(self, batch, **_):
        """Return the held-out criterion of a batch."""
        X, fields, sample_weight = batch
        own = sample_weight.ndim > 1 and X[1] is None
        logits = self._infer_own(X[0], sample_weight != 0) if own else self.infer(X)
        return {"loss": self.criterion_(logits, fields, sample_weight)}

    def _infer_own(self, X, counts):
        """Return the logits of the rows that count for each member, and 0 for its other rows.

        Members that validate on different rows need only a small part of all logits.
        """
        rows = counts.sort(dim=1, descending=True, stable=True)[1][:, : int(counts.sum(1).max())]
        X = X.index_select(0, rows.flatten()).unflatten(0, rows.shape)

        def in_place(values):
            at = rows.view(*rows.shape, *[1] * (values.ndim - 2)).expand_as(values)
            return values.new_zeros(*counts.shape, *values.shape[2:]).scatter_(1, at, values)

        reward_logit, propensity_logit, further = self.infer((X, None))
        further = {
            name: value if name == "loading" else in_place(value) for name, value in further.items()
        }
        return in_place(reward_logit), in_place(propensity_logit), further

    def run_single_epoch(self, iterator, training, prefix, step_fn, **_):
        """Return the mean risk of each member over one pass, which stays on the device."""
        self._set_training(training)
        risks, sizes = None, []
        # Closed also if a step raises, so that no thread continues to read.
        with closing(iter(iterator)) as batches:
            for batch in batches:
                risk = step_fn(batch)["loss"]
                n = len(sizes)
                if risks is None or n == len(risks):
                    # One tensor: small tensors between the large ones of the batches would keep
                    # the memory of the large ones from being reused.
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
            `progress_` of an earlier call, from which to continue.
        pause : int, default=None
            Epoch after which to return, with the best weights so far in the module.
        checkpoint : TrainingState, default=None
            File to continue from and to write after each epoch.
        """
        train, valid = X
        members = self.members_ = MembersInTraining(self, epochs, train, valid)
        # Rates and users for each of them would not be worth the cost.
        users = self.criterion_.users
        keep = self.criterion_.estimates or users is not None
        if checkpoint is not None:
            progress = checkpoint.restore(self, X, epochs)
        if progress is not None:
            members.resume(progress, train.generator)
            members.leave(keep)
        while members.present and (pause is None or members.epoch < pause):
            self.epoch_begin()
            risks = {"train_loss": self.run_single_epoch(train, True, "train", self.train_step)}
            if users is not None:
                self.module_.scale_loading(users.refresh())
            if valid is not None and (keep or not members.best.is_settled):
                with torch.inference_mode():
                    risks["valid_loss"] = self.run_single_epoch(
                        valid, False, "valid", self.validation_step
                    )
                    if users is not None:
                        risks["valid_loss"] = users.held_out_risk(len(valid))
                    if self.criterion_.estimates:
                        self.criterion_.maximise()
                members.best.update(risks["valid_loss"])
            elif valid is not None:
                members.best.advance()
            if valid is not None:
                risks["running"] = members.best.running
            # The host waits for the device only here, once per epoch.
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


def build_net(
    model,
    objective,
    measurement=None,
    *,
    false_action_rate=None,
    estimate_false_action_rate=False,
    device,
    autocast_dtype=None,
    constraint=None,
    users=None,
    epoch_begin=lambda: None,
    epoch_end=lambda record: False,
    **settings,
):
    """Return an initialised `RewardNet` that trains `model` with `settings`, `MemberSettings`.

    If `measurement` is None, the signals are positive actions.
    """
    if measurement is None:
        measurement = Measurement.of_actions(model.config["n_signals"])
    settings = MemberSettings(**settings)
    net = RewardNet(
        module=model,
        criterion=MemberRisk(
            objective,
            measurement,
            false_action_rate,
            model.config["n_members"] if estimate_false_action_rate else None,
            users,
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
    net.optimizer_ = settings.optimizer(net.module_)
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
