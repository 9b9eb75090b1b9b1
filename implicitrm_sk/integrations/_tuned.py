"""Language model and heads as one module, trained by transformers' Trainer.

Imported where it is used: the Trainer needs the package accelerate.
"""

import contextlib
import os
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import gather_object
from scipy.optimize import minimize
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from .._activity import held_out
from ..measurement import _mixture
from ..training._net import MemberRisk
from ..training._users import UserWeights, posterior

#: Columns whose scale is below this share of the median one pass no gradient to the language model.
STILL = 1e-3
#: Share of the training over which weights are averaged.
AVERAGED = 0.4
#: Least and greatest factor of logits that the held-out rows may ask for.
SCALES = (0.1, 4.0)


class KnownUsers(UserWeights):
    """Weights of users that are refreshed when the likelihood is evaluated, not in batches."""

    def collect(self, nll, user, sample_weight):
        """Ignore the batch, whose rows were read with dropout and changing weights."""


class TunedReward(nn.Module):
    """Language model, standardisation and heads: tokens to logits or to the loss of each member.

    Parameters
    ----------
    trunk : Trunk
        Its network may be wrapped by peft.
    heads : RewardModel
    scaler : StandardScaler or None
    used : ndarray of int
        The columns of the vectors that the heads read.
    criterion : MemberRisk
    """

    #: Declares to the Trainer that the loss is divided by the responses of a whole step.
    accepts_loss_kwargs = True

    def __init__(self, trunk, heads, scaler, used, criterion: MemberRisk):
        super().__init__()
        self.trunk = trunk
        self.heads = heads
        self.criterion = criterion
        width = trunk.network.config.get_text_config().hidden_size
        is_all = len(used) == width
        scale = (None, None) if scaler is None else (scaler.mean_, scaler.scale_)
        # A column that hardly varies is noise, but its gradient would drown that of all others.
        # And a step of AdamW on a gradient of 1e-30 is far larger than a weight of 1e-30.
        still = np.zeros(width, dtype=bool)
        if scaler is not None:
            still[used] = scale[1] < STILL * np.median(scale[1])
        n_members = heads.config["n_members"]
        for name, value in (
            ("used", None if is_all else torch.as_tensor(used)),
            ("mean", None if scale[0] is None else torch.as_tensor(scale[0])),
            ("scale", None if scale[1] is None else torch.as_tensor(scale[1])),
            ("still", torch.as_tensor(still) if still.any() else None),
        ):
            self.register_buffer(name, value, persistent=False)
        # State of `RateConstraint`, from which a resumed run continues; NaN means not yet set.
        like = heads.reward.biases[-1].detach()
        self.register_buffer("rate_mean", like.new_full((n_members,), torch.nan))
        self.register_buffer("rate_multiplier", like.new_zeros(n_members))
        # The weights of users over their activity, from the last evaluation.
        users = criterion.users
        self.register_buffer("user_weight", None if users is None else users.messages.exp())
        # The average of the weights, in the checkpoints for runs that are resumed.
        for number, parameter in enumerate(self._trained()):
            wide = torch.promote_types(parameter.dtype, torch.float32)
            self.register_buffer(f"average_{number}", parameter.detach().to(wide, copy=True))

    def _trained(self):
        """Return the trained weights. FSDP leaves a part of them to each process."""
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a forward pass alone, some are whole copies of the weights
        return [p for p in self.parameters() if p.requires_grad]

    def _averages(self):
        return [getattr(self, f"average_{n}") for n in range(len(self._trained()))]

    def spread_averages(self):
        """Spread the average of the weights over the processes as FSDP has spread the weights."""
        for number, parameter in enumerate(self._trained()):
            mean = getattr(self, f"average_{number}")
            if isinstance(parameter, DTensor) and not isinstance(mean, DTensor):
                mean = distribute_tensor(mean, parameter.device_mesh, parameter.placements)
                setattr(self, f"average_{number}", mean)

    @torch.no_grad()
    def average(self, share):
        """Move the average of the weights towards the weights by a share of the distance."""
        for mean, parameter in zip(self._averages(), self._trained(), strict=True):
            mean.lerp_(parameter.detach().to(mean.dtype), share)

    @torch.no_grad()
    def take_average(self):
        """Let the weights be their average."""
        for mean, parameter in zip(self._averages(), self._trained(), strict=True):
            parameter.copy_(mean)

    @contextlib.contextmanager
    def averaged(self):
        """Let the weights be their average for a while."""
        kept = [p.detach().clone() for p in self._trained()]
        self.take_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for value, parameter in zip(kept, self._trained(), strict=True):
                    parameter.copy_(value)

    def scalable(self):
        """Return the heads whose logits may be scaled on their own: reward, then propensity."""
        config = self.heads.config
        plain = config["propensity_form"] in ("head", "constant") and not config["shared_logits"]
        if not plain or config["examination"] or self.criterion.users is not None:
            return []
        return [head for head in (self.heads.reward, self.heads.propensity) if head is not None]

    @torch.no_grad()
    def scale_logits(self, factors):
        """Multiply the logits of the scalable heads by one factor each."""
        for head, factor in zip(self.scalable(), factors, strict=True):
            for parameter in (head.weights[-1], head.biases[-1]):
                parameter.mul_(factor)

    @torch.no_grad()
    def start_at(self, factor):
        """Multiply the logits of the scalable heads by one factor before training."""
        self.scale_logits(len(self.scalable()) * [factor])
        for mean, parameter in zip(self._averages(), self._trained(), strict=True):
            mean.copy_(parameter)

    @property
    def config(self):
        """The configuration of the language model, from which engines read its sizes."""
        return self.trunk.network.config

    @property
    def _no_split_modules(self):
        """The names of the layers that FSDP gathers one at a time."""
        return getattr(self.trunk.network, "_no_split_modules", None)

    def trained_names(self):
        """Return the names of the weights in a checkpoint, which leaves frozen ones out."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        averages = {f"average_{n}" for n in range(len(trained))}
        return trained | averages | {"rate_mean", "rate_multiplier", "user_weight"}

    @property
    def _keys_to_ignore_on_save(self):
        return sorted(set(self.state_dict()) - self.trained_names())

    def tie_weights(self):
        """Do nothing: the weights that a checkpoint leaves out are already loaded."""

    def activation_checkpointing_enable(self, **kwargs):
        """Make the language model compute its activations again in the backward pass."""
        network = self.trunk.network
        network.enable_input_require_grads()
        enable = getattr(network, "activation_checkpointing_enable", None)
        if enable is None:  # transformers 4
            kwargs = {"gradient_checkpointing_kwargs": kwargs["activation_checkpointing_kwargs"]}
            enable = network.gradient_checkpointing_enable
        enable(**kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs=None):
        """Do the same, under the name that transformers 4 uses."""
        self.activation_checkpointing_enable(
            activation_checkpointing_kwargs=gradient_checkpointing_kwargs
        )

    def forward(
        self,
        input_ids,
        attention_mask=None,
        text=None,
        first=None,
        fields=None,
        sample_weight=None,
    ):
        """Return the logits of texts, or the loss of each member and the reward logits of a batch.

        Parameters
        ----------
        input_ids, attention_mask : Tensor of int of shape (texts, length)
        text : Tensor of int of shape (n,) or None
            The text of each row; None: return reward and propensity logits of the texts.
        first, fields, sample_weight
            As `ResidentRows` serves them.
        """
        vectors = self.trunk(input_ids, attention_mask, self.still)
        # As in the estimator, whatever number format the language model uses.
        with torch.autocast(vectors.device.type, enabled=False):
            x = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            if self.still is not None:
                x = torch.where(self.still, x.detach(), x)
            x = x if self.used is None else x.index_select(1, self.used)
            if self.mean is not None:
                x = (x - self.mean.to(x)) / self.scale.to(x)
            x = x.to(self.heads.reward.biases[-1].dtype)
            if text is None:
                return self.heads.reward_logit(x), self.heads.propensity_logit(x)
            if self.criterion.users is not None:
                self.criterion.users.weight = self.user_weight
            outputs = self.heads.outputs(x.index_select(0, text), first)
            return self.criterion(outputs, fields, sample_weight), outputs[0]


class Start(TrainerCallback):
    """Notes the likelihood of the start, once the weights are where they are trained.

    A resumed run reads it from a file, because its weights are those of a checkpoint.

    Parameters
    ----------
    trainer : RewardTrainer
    mixture : FittedMixture
        The mixture of the start, as `RewardTrainer.held_out` takes it.
    path : Path
        The file, of numpy's format.
    """

    def __init__(self, trainer, mixture, path):
        self.trainer = trainer
        self.mixture = mixture
        self.path = path
        self.held_out = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Evaluate the start, or read what it was."""
        self.trainer.take_over()
        if args.resume_from_checkpoint:
            self.held_out = np.load(self.path)
            return
        self.held_out = self.trainer.held_out(self.mixture)
        if self.trainer.is_world_process_zero():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.save(self.path, self.held_out)


class Averages(TrainerCallback):
    """Averages the weights after each step, recent steps counting most."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Take one more step into the average."""
        model.average(1 / max(1, min(state.global_step, AVERAGED * state.max_steps)))


def whole(weights, keep):
    """Return weights by name, whole and on the CPU.

    Parameters
    ----------
    weights : dict of Tensor by name
        FSDP may have left a part of them here; then every process must call this.
    keep : bool
        Whether they are wanted here: False returns an empty dict.
    """
    found = {}
    for name, value in weights.items():
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            found[name] = value.detach().cpu()
    return found


class Responses(Dataset):
    """Numbers of the responses to train on; a number past the last one is a filler of weight 0."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, number):
        return number


class LengthGrouped(Sampler):
    """Responses in random order, with similar lengths together, filled up to whole steps.

    The order depends only on seed and epoch, and on the responses per step over all processes and
    parts of a step. So two processes get the same order as one with twice the batch.

    Parameters
    ----------
    lengths : list of int
        Number of tokens of each response.
    per_step : int
    seed : int
    """

    def __init__(self, lengths, per_step, seed):
        self.lengths = lengths
        self.per_step = per_step
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch):
        """Set the epoch that determines the order."""
        self.epoch = epoch

    def __len__(self):
        return -(-len(self.lengths) // self.per_step) * self.per_step

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = get_length_grouped_indices(self.lengths, self.per_step, generator=generator)
        yield from order
        yield from (len(self) - len(order)) * [len(self.lengths)]


class Collator:
    """Puts responses into a batch; a text that several rows share is read once.

    Parameters
    ----------
    rows : ResidentRows
        Its X are the numbers of texts.
    tokens : TokenArrays
    pad : int
    """

    def __init__(self, rows, tokens, pad):
        self.rows = rows
        self.tokens = tokens
        self.pad = pad

    def __call__(self, numbers):
        numbers = torch.tensor(numbers)
        real = numbers < len(self.rows)
        responses = self.rows.part[numbers.clamp_max(len(self.rows) - 1)]
        (texts, first), fields, weight = self.rows.take(responses)
        texts, text = texts.unique(return_inverse=True)
        return padded(self.tokens, texts.numpy(), self.pad) | {
            "text": text,
            "first": first,
            "fields": fields,
            "sample_weight": weight * real,
            "n_responses": real.sum(),
        }


def padded(tokens, texts, pad):
    """Return token numbers and mask of some texts; the mask is None without padding."""
    ids, mask = tokens.padded(texts, pad)
    return {"input_ids": ids, "attention_mask": None if mask.all() else mask}


class RewardTrainer(Trainer):
    """A Trainer with the objective of the estimator as loss, evaluated by the likelihood.

    Parameters
    ----------
    model : TunedReward
    args : TrainingArguments
    rows : ResidentRows
        The rows to train on.
    log : FeedbackLog
        The log of the responses held out.
    texts : ndarray of int of shape (n,)
        The text of each row of `log`.
    weight : ndarray of shape (m,)
        Weights of the responses of `log`.
    clusters : ndarray of int of shape (m,)
        Responses with the same number may depend on each other.
    by_user : callable(reward_logit, propensity_logit) -> Rows, default=None
        If users differ in activity, it sums the log-likelihoods of their rows, given the logits of
        all texts.
    mixture : FittedMixture
        The mixture, with measurement and mirror images, that defines the likelihood.
    tokens : TokenArrays
    constraint : RateConstraint or None
    callbacks : list of TrainerCallback
    """

    def __init__(
        self,
        model,
        args,
        *,
        rows,
        log,
        texts,
        weight,
        clusters,
        mixture,
        tokens,
        by_user=None,
        constraint=None,
        callbacks=(),
    ):
        self.rows = rows
        self.log_held_out = log
        self.texts = texts
        self.weight = weight
        self.clusters = clusters
        self.by_user = by_user
        self.mixture = mixture
        self.tokens = tokens
        self.constraint = constraint
        self.factors = ()
        super().__init__(
            model=model,
            args=args,
            data_collator=Collator(rows, tokens, model.trunk.pad),
            train_dataset=Responses(len(rows)),
            eval_dataset=Responses(log.n_responses),
            callbacks=[Averages(), *callbacks],
        )
        self.loss_is_scaled_for_ga = True
        if self.is_fsdp_enabled:
            # The heads stay whole, in their own number format: they are small, and read between
            # steps. In half precision the log, the logits and the loss would lose digits.
            model.heads.to(self.args.device)
            plugin = self.accelerator.state.fsdp_plugin
            plugin.ignored_modules = [model.heads]
            if plugin.mixed_precision_policy is not None:
                plugin.mixed_precision_policy = replace(
                    plugin.mixed_precision_policy, cast_forward_inputs=False, output_dtype=None
                )

    # ------------------------------------------------------------------ weights in parts

    def create_optimizer(self, model=None):
        """Return the optimizer, in which heads that stay whole have groups of their own."""
        optimizer = super().create_optimizer(model)
        if self.is_fsdp_enabled:
            heads = {id(p) for p in self.model.heads.parameters()}
            for group in list(optimizer.param_groups):
                whole = [p for p in group["params"] if id(p) in heads]
                group["params"] = [p for p in group["params"] if id(p) not in heads]
                if whole:
                    optimizer.add_param_group({**group, "params": whole})
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.is_fsdp_enabled:
            self.model.spread_averages()
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def take_over(self):
        """Do for the heads and the average what FSDP does for the weights that it has spread."""
        if not self.is_fsdp_enabled:
            return
        self.model.spread_averages()
        for parameter in self.model.heads.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._average_gradient)

    def _average_gradient(self, parameter):
        parameter.grad.copy_(self.accelerator.reduce(parameter.grad, reduction="mean"))

    # ------------------------------------------------------------------ training

    def _get_train_sampler(self, train_dataset=None):
        return self.get_train_sampler()

    def get_train_sampler(self):
        """Return the responses in the order in which they are served."""
        args, rows = self.args, self.rows
        first = rows.part if rows.offsets is None else rows.offsets[rows.part]
        lengths = self.tokens.lengths[rows.X[first].numpy()].tolist()
        seed = args.seed if args.data_seed is None else args.data_seed
        per_step = self._train_batch_size * args.world_size * args.gradient_accumulation_steps
        return LengthGrouped(lengths, per_step, seed)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the batches of a step, and the number of its responses over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.stack([batch["n_responses"] for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the mean loss of the objective over members and the responses of the step."""
        inputs = dict(inputs)
        inputs.pop("n_responses")
        risks, reward_logit = model(**inputs)
        weight, world = inputs["sample_weight"], self.accelerator.num_processes
        # A mean over the batch of one process; the gradients of the processes are averaged.
        share = world * len(weight) / num_items_in_batch
        loss = risks.mean() * share
        if self.constraint is not None:
            loss = loss + self._rate_term(reward_logit, weight).mean() * share
        return (loss, reward_logit) if return_outputs else loss

    def _rate_term(self, reward_logit, weight):
        """Return the term of the constraint for each member, from the rewards of all processes."""
        constraint = self.constraint
        state = self.accelerator.unwrap_model(self.model_wrapped)
        if not state.rate_mean.isnan().any():
            constraint.mean = state.rate_mean.to(reward_logit).clone()
        constraint.multiplier = state.rate_multiplier.to(reward_logit).clone()
        world = self.accelerator.num_processes
        if world > 1:
            parts = self.accelerator.gather(reward_logit.detach().T.contiguous()).T
            parts = list(parts.split(len(weight), dim=1))
            parts[self.accelerator.process_index] = reward_logit
            reward_logit = torch.cat(parts, dim=1)
            weight = self.accelerator.gather(weight)
        term = constraint(reward_logit, weight)
        with torch.no_grad():
            state.rate_mean.copy_(constraint.mean)
            state.rate_multiplier.copy_(constraint.multiplier)
        # Gradients are averaged over the processes, and each has that of its own rewards.
        return world * term - (world - 1) * term.detach()

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the weights in training, which FSDP does itself, beside those of the optimizer."""
        if self.is_fsdp_enabled:
            os.makedirs(output_dir or self.args.output_dir, exist_ok=True)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is None:
            state_dict = self.model.state_dict()
        kept = self.accelerator.unwrap_model(self.model).trained_names()
        super()._save(output_dir, {name: v for name, v in state_dict.items() if name in kept})

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Return minus the mean log-likelihood of the held-out responses, in nats, as ``loss``.

        It is that of the average of the weights, see `held_out`.
        """
        with self.accelerator.unwrap_model(self.model).averaged():
            loss = -self.held_out(self.mixture).sum() / self.weight.sum()
        metrics = {f"{metric_key_prefix}_loss": float(loss)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def held_out(self, mixture):
        """Return the log-likelihood of each cluster of held-out responses, or of each user.

        For responses it is the likelihood at the factors of the logits that make it largest. They
        are kept in `factors`. Training makes heads over-confident before the ranking stops to
        improve (Guo et al. 2017).

        The rows of a user are taken together, given the training rows. The posterior of the users
        is then used for the steps that follow (the E-step of EM).
        """
        model = self.accelerator.unwrap_model(self.model)
        if self.by_user is None:
            logits = self.held_out_logits()
            self.factors = self._best_factors(mixture, logits, len(model.scalable()))
            values = self._likelihood(mixture, logits, self.factors) * self.weight
            return np.bincount(self.clusters, weights=values)
        rows = self.by_user(*self.logits(np.arange(len(self.tokens.lengths))))
        model.user_weight.copy_(posterior(rows.train, model.criterion.users.log_prior.cpu()).exp())
        values = held_out(rows)
        return (torch.logsumexp(values, -1) - np.log(values.shape[-1])).numpy()

    def log_likelihood(self, mixture):
        """Return log P(y | x) of each held-out response under a mixture, including labels."""
        return self._likelihood(mixture, self.held_out_logits())

    def held_out_logits(self):
        """Return reward and propensity logits of the held-out rows."""
        distinct, text = np.unique(self.texts, return_inverse=True)
        return [part[:, text] for part in self.logits(distinct)]

    def _best_factors(self, mixture, logits, n):
        """Return the factors of reward and propensity logits that the held-out rows ask for."""
        if not n or self.constraint is not None:
            return ()

        def loss(log_factors):
            values = self._likelihood(mixture, logits, np.exp(log_factors))
            return -(values @ self.weight) / self.weight.sum()

        bounds = [np.log(SCALES)] * n
        options = {"ftol": 1e-8}
        found = minimize(loss, np.zeros(n), method="Powell", bounds=bounds, options=options)
        return tuple(np.exp(found.x).tolist()) if found.fun < loss(np.zeros(n)) else (1.0,) * n

    def _likelihood(self, mixture, logits, factors=()):
        f, u = (
            part if factor == 1 else part * factor
            for part, factor in zip(logits, (*factors, 1.0, 1.0), strict=False)
        )
        if mixture.is_mirrored:
            f, u = _mixture.with_mirror_images(f, u, mixture.measurement.signals[0].target)
        log = self.log_held_out
        if log.first is not None:
            f = f[:, torch.as_tensor(log.first)]
        labels = None if log.labels is None else torch.as_tensor(log.labels)
        values = mixture.measurement.log_likelihood(
            f, u, false_action_rate=mixture.false_action_rate, labels=labels, **log.tensors()
        )
        return (torch.logsumexp(values, 0) - np.log(len(values))).numpy()

    @torch.no_grad()
    def logits(self, texts):
        """Return reward and propensity logits of the members for some texts, in float64.

        Every process must call this: it reads its share, and all get all.

        Parameters
        ----------
        texts : ndarray of int
            Numbers of the texts.

        Returns
        -------
        reward_logit, propensity_logit : Tensors of shape (members, texts) and (members, texts, K)
            On the CPU.
        """
        model, args = self.model, self.args
        order = np.argsort(-self.tokens.lengths[texts], kind="stable")
        size, world, rank = args.eval_batch_size, args.world_size, args.process_index
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        # Equal numbers for each process, because engines that spread weights wait for each other.
        batches += batches[:1] * (-len(batches) % world)
        was_training = model.training
        model.eval()
        found = []
        pad = self.accelerator.unwrap_model(model).trunk.pad
        for batch in batches[rank::world]:
            inputs = self._prepare_inputs(padded(self.tokens, texts[batch], pad))
            with self.compute_loss_context_manager():
                parts = model(**inputs)
            found.append((batch, *(part.to("cpu", torch.float64) for part in parts)))
        model.train(was_training)
        found = gather_object(found) if world > 1 else found
        position = torch.as_tensor(np.concatenate([batch for batch, *_ in found]))
        results = []
        for parts in list(zip(*found, strict=True))[1:]:
            values = torch.cat(parts, dim=1)
            result = values.new_empty((len(values), len(texts), *values.shape[2:]))
            result[:, position] = values
            results.append(result)
        return results
