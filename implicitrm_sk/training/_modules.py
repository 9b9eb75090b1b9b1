"""Torch heads with several members side by side.

A member is one network with its own initialisation. Members are one extra dimension of each
parameter. So one matrix product serves all of them, and their gradients never mix.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from ..measurement._signal import full_precision, log1mexp

#: Outputs per member up to which hidden units are multiplied column by column on a CPU.
NARROW = 4


class MemberDropout(nn.Module):
    """Dropout that draws from its own generator and leaves torch's global one unchanged.

    Parameters
    ----------
    p : float or Tensor of shape (members,)
        Share of inputs set to 0, in [0, 1), rounded to a multiple of 2**-16: one number, or one per
        member.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.generator = None
        self.drawn = None

    def draw_as(self, n_drawn, member):
        """Draw for `n_drawn` members, and let the present members use the draws of `member`.

        Then some of the members, or several fits side by side, get the masks that they would get
        among all members, or alone.

        Parameters
        ----------
        n_drawn : int
        member : Tensor of int of shape (members,)
        """
        self.drawn = n_drawn, member

    def forward(self, x, dim=0):
        """Drop entries of x, whose members are in dimension `dim`."""
        keep = self.factors(x, dim)[0]
        return x if keep is None else x * keep.to(x.dtype)

    def factors(self, x, dim=0):
        """Return the factor of each entry of x, and that of all that are kept.

        The latter is a number, or a tensor of shape (members, 1, 1). Without dropout the factors
        are None and 1.
        """
        several = isinstance(self.p, torch.Tensor)
        if not self.training or (not several and self.p == 0):
            return None, 1.0
        shape = list(x.shape)
        if self.drawn is not None:
            shape[dim] = self.drawn[0]
        size = math.prod(shape)
        # Four 16-bit uniform numbers from each 64-bit draw, because drawing costs the most time.
        draws = torch.empty(-(-size // 4), dtype=torch.int64, device=x.device)
        uniform = draws.random_(-(2**63), None, generator=self.generator).view(torch.int16)
        # Compared as floats, which on a CPU is several times faster than comparing integers.
        exact = torch.promote_types(x.dtype, torch.float32)
        keep = uniform[:size].view(shape).to(exact)
        if self.drawn is not None:
            keep = keep.index_select(dim, self.drawn[1])
        p = self.p
        if not several:
            threshold = min(round(p * 2**16), 2**16 - 1)
            scale = 1 / (1 - threshold / 2**16)
            return keep.ge_(threshold - 2**15).mul_(scale), scale
        threshold = (p * 2**16).round_().clamp_max_(2**16 - 1)
        below, scale = (threshold - 2**15).to(exact), (1 / (1 - threshold / 2**16)).to(exact)
        shape = [-1, *[1] * (x.ndim - dim - 1)]
        for apply, value in ((keep.ge_, below), (keep.mul_, scale)):
            # With the shape of a row, which is read at once.
            apply(value.view(shape).expand(x.shape[dim:]).contiguous())
        return keep, scale.view(-1, 1, 1)


class _NarrowOutput(torch.autograd.Function):
    """ReLU, dropout and a product with few columns, by as few passes over the units as possible.

    With many members these passes take as long as the products of the first layer.
    """

    @staticmethod
    def forward(ctx, h, keep, scale, weight, bias):
        """Map h of shape (members, n, width) to outputs, and the hidden units they were made of."""
        hidden = h.clamp_min(0) if keep is None else keep.mul_(h).clamp_min_(0)
        ctx.save_for_backward(hidden, weight)
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        # The other way round, a product with few columns takes several times longer on a CPU.
        out = torch.bmm(weight.permute(1, 2, 0), hidden.transpose(1, 2)).transpose(1, 2)
        return out + bias.transpose(0, 1), hidden

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_hidden):
        hidden, weight = ctx.saved_tensors
        columns = weight.permute(2, 1, 0).contiguous()[:, :, None] * ctx.scale
        units = torch.empty_like(hidden)
        torch.mul(grad[..., [0]], columns[0], out=units)
        for k, column in enumerate(columns[1:], 1):
            units.addcmul_(grad[..., [k]], column)
        if grad_hidden is not None:
            units.add_(grad_hidden * ctx.scale)
        # A unit is 0 if ReLU or dropout made it 0.
        grad_h = torch.ops.aten.threshold_backward(units, hidden, 0)
        grad_weight = torch.bmm(grad.transpose(1, 2), hidden).permute(2, 0, 1)
        return grad_h, None, None, grad_weight, grad.sum(1)[None]


class MemberMLP(nn.Module):
    """`n_members` multilayer perceptrons with ReLU on the same input.

    Parameters
    ----------
    n_members, n_in, n_out : int
    hidden_layer_sizes : tuple of int
        Sizes of the hidden layers; empty for a linear model.
    dropout : float
        Share of hidden units dropped in training.
    """

    def __init__(self, n_members, n_in, hidden_layer_sizes, n_out, dropout=0.0):
        super().__init__()
        sizes = [n_in, *hidden_layer_sizes, n_out]
        # (in, members, out): the first product of all members is one plain matrix product.
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(i, n_members, o))
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(1, n_members, o)) for o in sizes[1:]
        )
        self.dropout = MemberDropout(dropout)

    def initialize(self, generator, output_bias=0.0):
        """Draw weights uniformly in +-1/sqrt(fan in) (torch's default); set the output bias.

        `output_bias` is one number, one per output or one per member and output.
        """
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                bound = 1 / math.sqrt(max(weight.shape[0], 1))
                # Drawn on the CPU, so that a seed gives the same weights on every device.
                weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
                bias.zero_()
            self.biases[-1].add_(torch.as_tensor(output_bias).to(self.biases[-1]))

    def forward(self, x):
        """Map x of shape (n, n_in) to logits of shape (members, n, n_out).

        If x has the shape (members, n, n_in), each member has rows of its own.
        """
        return self.with_hidden(x)[0]

    def with_hidden(self, x):
        """Return the logits and the last hidden layer, (members, n, width), or x without one."""
        (weight, bias), *rest = zip(self.weights, self.biases, strict=True)
        in_rows = x.ndim == 2  # h is then (n, members * width), not yet (members, n, width)
        if in_rows:
            inputs = x.expand(weight.shape[1], *x.shape)
            h = torch.addmm(bias.flatten(), x, weight.flatten(1))
        else:
            inputs = x
            h = torch.baddbmm(bias.transpose(0, 1), x, weight.transpose(0, 1))
        for next_weight, next_bias in rest:
            if in_rows:
                h = h.view(len(x), *weight.shape[1:])
            _, n_members, width = next_weight.shape
            narrow = h.device.type == "cpu" and n_members > 1 and width <= NARROW
            if narrow and h.dtype in (torch.float32, torch.float64):
                keep, scale = self.dropout.factors(h, dim=1 if in_rows else 0)
                if in_rows:
                    h, keep = h.transpose(0, 1), None if keep is None else keep.transpose(0, 1)
                h, inputs = _NarrowOutput.apply(h, keep, scale, next_weight, next_bias)
            else:
                h = self.dropout(torch.relu_(h), dim=1 if in_rows else 0)
                inputs = h.transpose(0, 1) if in_rows else h
                h = torch.baddbmm(next_bias.transpose(0, 1), inputs, next_weight.transpose(0, 1))
            in_rows = False
        return h.view(len(x), *weight.shape[1:]).transpose(0, 1) if in_rows else h, inputs

    def of_members(self, h):
        """Map h of shape (members, n, n_in), a separate input for each member; no hidden layers."""
        return torch.baddbmm(self.biases[0].transpose(0, 1), h, self.weights[0].transpose(0, 1))


class RewardModel(nn.Module):
    """A reward head and, if the objective models it, a propensity head.

    Parameters
    ----------
    n_members, n_in, n_signals : int
    hidden_layer_sizes, propensity_hidden_layer_sizes : tuple of int
    dropout : float
    with_propensity : bool
        Without it the propensity is 1: every preferred response has an action.
    reward_columns, propensity_columns : tuple of int or None
        The inputs that each head reads. None means all.
    propensity_form : {"head", "constant", "reward", "trunk", "shared"}
        See `Objective.propensity_form`. "shared" means a network with one output, which is
        multiplied by a share for each signal.
    auxiliary_head : bool
        Whether there is a third head, on the reward columns or the trunk.
    representation : bool
        Whether `forward` returns the last hidden layer of the reward head.
    examination : bool
        Whether there is a head for the probability that a row was looked at, of the same form as
        the propensity head. Its logit is the last of the propensity logits.
    loads : tuple of int or None
        If users differ in activity, the loading of each propensity logit. None: they do not.
    shared_logits : tuple of int or None
        The propensity logits that are parameters of a member, the same for all rows. The activity
        of users does not shift them.
    """

    #: The logarithm of a loading is this many times its parameter, and so is a shared logit. There
    #: are few of them, and all rows depend on them, so they may take larger steps than weights.
    LOADING_STEP = 10.0

    def __init__(
        self,
        n_members,
        n_in,
        n_signals,
        hidden_layer_sizes,
        propensity_hidden_layer_sizes,
        dropout=0.0,
        with_propensity=True,
        reward_columns=None,
        propensity_columns=None,
        propensity_form="head",
        auxiliary_head=False,
        representation=False,
        examination=False,
        loads=None,
        shared_logits=None,
    ):
        super().__init__()
        self.config = {
            "n_members": n_members,
            "n_in": n_in,
            "n_signals": n_signals,
            "hidden_layer_sizes": tuple(hidden_layer_sizes),
            "propensity_hidden_layer_sizes": tuple(propensity_hidden_layer_sizes),
            "dropout": dropout,
            "with_propensity": with_propensity,
            "reward_columns": reward_columns,
            "propensity_columns": propensity_columns,
            "propensity_form": propensity_form,
            "auxiliary_head": auxiliary_head,
            "representation": representation,
            "examination": examination,
            "loads": loads,
            "shared_logits": shared_logits,
        }
        n_reward, n_propensity = (
            n_in if columns is None else len(columns)
            for columns in (reward_columns, propensity_columns)
        )
        self.reward = MemberMLP(n_members, n_reward, hidden_layer_sizes, 1, dropout)
        sizes = {"head": (n_propensity, propensity_hidden_layer_sizes), "constant": (0, ())}
        trunk = (hidden_layer_sizes[-1] if len(hidden_layer_sizes) else n_reward, ())
        sizes["trunk"] = trunk
        sizes["shared"] = sizes["head"]
        is_shared = propensity_form == "shared"
        shared = list(shared_logits or ())
        varying = [logit for logit in range(n_signals) if logit not in shared]
        self.propensity = (
            MemberMLP(n_members, *sizes[propensity_form], 1 if is_shared else len(varying), dropout)
            if with_propensity and propensity_form != "reward"
            else None
        )
        # These are log kappa, up to the largest, which is 0.
        self.log_share = nn.Parameter(torch.zeros(1, n_members, n_signals)) if is_shared else None
        self.shared_logit = nn.Parameter(torch.zeros(1, n_members, len(shared))) if shared else None
        on_trunk = propensity_form == "trunk"
        self.auxiliary = (
            MemberMLP(
                n_members, *(trunk if on_trunk else (n_reward, hidden_layer_sizes)), 1, dropout
            )
            if auxiliary_head
            else None
        )
        self.examination = MemberMLP(n_members, *sizes["head"], 1, dropout) if examination else None
        self.log_loading = None
        if loads is not None:
            self.log_loading = nn.Parameter(torch.zeros(1, n_members, max(loads) + 1))
        for name, columns in (
            ("_reward_index", reward_columns),
            ("_propensity_index", propensity_columns),
            ("_loading_index", loads),
            # First the logits of the network, then those that rows share: the position of each.
            ("_logit_index", np.argsort(varying + shared) if shared else None),
            ("_shared_index", shared_logits),
        ):
            index = None if columns is None else torch.as_tensor(columns)
            self.register_buffer(name, index, persistent=False)

    def initialize(self, generator, reward_bias=0.0, propensity_bias=0.0, examination_bias=0.0):
        """Draw all weights from `generator`; the biases set the start of training."""
        self.reward.initialize(generator, reward_bias)
        if self.log_share is not None:
            bias = torch.as_tensor(propensity_bias).expand(self.log_share.shape)
            with torch.no_grad():
                self.log_share.copy_(logsigmoid(bias) - logsigmoid(bias).amax(-1, keepdim=True))
            propensity_bias = bias.amax(-1, keepdim=True)
        if self.shared_logit is not None:
            order = torch.argsort(self._logit_index).cpu()
            bias = torch.as_tensor(propensity_bias).expand(*self.shared_logit.shape[:2], len(order))
            n_shared = self.shared_logit.shape[-1]
            propensity_bias, shared = bias[..., order].tensor_split([len(order) - n_shared], -1)
            with torch.no_grad():
                self.shared_logit.copy_(shared / self.LOADING_STEP)
        if self.propensity is not None:
            self.propensity.initialize(generator, propensity_bias)
        if self.auxiliary is not None:
            self.auxiliary.initialize(generator)
        if self.examination is not None:
            self.examination.initialize(generator, examination_bias)

    def varying_logits(self):
        """Return the positions of the propensity logits that differ between rows, (V,)."""
        shared = self.config["shared_logits"] or ()
        n_logits = self.config["n_signals"] + self.config["examination"]
        return torch.tensor([logit for logit in range(n_logits) if logit not in shared])

    @torch.no_grad()
    def shift(self, members, reward, propensity):
        """Add constants to logits of some members.

        Parameters
        ----------
        members : Tensor of int
        reward : float
        propensity : ndarray of shape (V,)
            For the `varying_logits` of a model whose propensity has a head of its own.
        """
        heads = [(self.reward, [reward])]
        if self.examination is not None:
            propensity, looking = np.split(propensity, [-1])
            heads.append((self.examination, looking))
        for head, by in (*heads, (self.propensity, propensity)):
            bias = head.biases[-1]
            bias[:, members.to(bias.device)] += torch.as_tensor(by).to(bias)

    def loadings(self):
        """Return the loadings of the signals, and of looking, shape (members, K)."""
        return (self.LOADING_STEP * self.log_loading[0]).exp()

    def shared(self):
        """Return the propensity logits that all rows share, (members, 1, S)."""
        return self.LOADING_STEP * self.shared_logit.transpose(0, 1)

    def loading(self):
        """Return how far the activity of a user shifts each logit, (members, 1, P)."""
        loading = self.loadings().index_select(-1, self._loading_index)
        if self.shared_logit is not None:
            loading = loading.index_fill(-1, self._shared_index, 0.0)
        return loading[:, None]

    def scale_loading(self, factor):
        """Multiply the loadings of each member by a number, (members,)."""
        with torch.no_grad():
            self.log_loading.add_((factor.log() / self.LOADING_STEP)[None, :, None])

    def set_loading(self, value):
        """Set all loadings of the members to a number, or to one per member."""
        value = torch.as_tensor(value, dtype=torch.float64).log() / self.LOADING_STEP
        with torch.no_grad():
            self.log_loading.copy_(value.expand(self.config["n_members"])[None, :, None])

    def dropouts(self):
        """Return the dropout layers."""
        return [module for module in self.modules() if isinstance(module, MemberDropout)]

    def set_generator(self, generator):
        """Let every dropout layer draw from `generator`."""
        for module in self.dropouts():
            module.generator = generator

    def shared_parameters(self):
        """Return the parameters that all members share: none for heads, some for a trunk.

        A model that has such parameters returns them here, and shares them in `like`.
        """
        return []

    def member_parameters(self):
        """Return the parameters that each member has separately, in dimension 1."""
        shared = set(map(id, self.shared_parameters()))
        return [parameter for parameter in self.parameters() if id(parameter) not in shared]

    @property
    def n_different(self):
        """How many members differ. If users do, a fit may keep copies of a few."""
        members = [values.transpose(0, 1).flatten(1) for values in self.member_parameters()]
        return len(torch.unique(torch.cat(members, 1), dim=0))

    def like(self, n_members):
        """Return a model with the same heads for some number of members, with arbitrary weights."""
        model = RewardModel(**self.config | {"n_members": n_members})
        parameter = self.member_parameters()[0]
        return model.to(parameter.device, parameter.dtype)

    def copy_members(self, source, index):
        """Copy the weights of members `index` of a model with the same heads."""
        with torch.no_grad():
            for parameter, other in zip(
                self.member_parameters(), source.member_parameters(), strict=True
            ):
                parameter.copy_(other.index_select(1, index))

    def of_members(self, index):
        """Return a model of some of the members, with the same dropout masks as here.

        Parameters
        ----------
        index : Tensor of int
        """
        model = self.like(len(index))
        model.copy_members(self, index)
        for mine, other in zip(model.dropouts(), self.dropouts(), strict=True):
            n_drawn, member = other.drawn or (self.config["n_members"], None)
            mine.draw_as(n_drawn, index if member is None else member[index])
            mine.p = other.p[index] if isinstance(other.p, torch.Tensor) else other.p
            mine.generator = other.generator
        return model

    def reward_logit(self, x):
        """Map x of shape (n, n_in) to reward logits of shape (members, n)."""
        return self.reward(_columns(x, self._reward_index)).squeeze(-1)

    def propensity_logit(self, x):
        """Map x of shape (n, n_in) to propensity logits of shape (members, n, signals).

        With `examination`, the logit of having looked at the row comes last.
        """
        form = self.config["propensity_form"]
        if form == "reward":
            return self.reward_logit(x)[..., None]
        if form == "trunk":
            return self.propensity.of_members(self._reward_and_hidden(x)[1])
        return self._own_propensity(x)

    def _own_propensity(self, x):
        logit = self._of_signals(x)
        if self.examination is None:
            return logit
        examined = self.examination(_columns(x, self._propensity_index))
        return torch.cat([logit, examined.to(logit.dtype)], -1)

    def _of_signals(self, x):
        config = self.config
        if self.propensity is None:
            return x.new_full((config["n_members"], x.shape[-2], config["n_signals"]), math.inf)
        if config["propensity_form"] == "constant":
            return self._with_shared(self.propensity(x[..., :0]))
        logit = self._with_shared(self.propensity(_columns(x, self._propensity_index)))
        if self.log_share is None:
            return logit
        share = self.log_share - self.log_share.amax(-1, keepdim=True)
        log_propensity = logsigmoid(full_precision(logit)) + share.transpose(0, 1)
        # The largest share is 1, so its logit is that of the network.
        log_propensity = log_propensity.clamp_max(-torch.finfo(log_propensity.dtype).tiny)
        return log_propensity - log1mexp(log_propensity)

    def _with_shared(self, logit):
        if self.shared_logit is None:
            return logit
        logit = full_precision(logit)
        shared = self.shared().to(logit.dtype)
        logits = torch.cat([logit, shared.expand(*logit.shape[:-1], -1)], -1)
        return logits.index_select(-1, self._logit_index)

    def _reward_and_hidden(self, x):
        logit, hidden = self.reward.with_hidden(_columns(x, self._reward_index))
        return logit.squeeze(-1), hidden

    def forward(self, x, first=None):
        """Map x of shape (n, n_in) to reward logits and propensity logits.

        If x has the shape (members, n, n_in), each member has rows of its own. `first` are the rows
        from which the reward is computed, one per response; None means all.
        """
        return self.outputs(x, first)[:2]

    def outputs(self, x, first=None):
        """Return the result of `forward`, and a dict of the further fields of `Batch` requested."""
        responses = x if first is None else x.index_select(0, first)
        reward, hidden = self._reward_and_hidden(responses)
        form, more = self.config["propensity_form"], {}
        if self.auxiliary is not None:
            auxiliary = (
                self.auxiliary.of_members(hidden)
                if form == "trunk"
                else self.auxiliary(_columns(responses, self._reward_index))
            )
            more["auxiliary_logit"] = auxiliary.squeeze(-1)
        if self.log_loading is not None:
            more["loading"] = self.loading()
        if self.config["representation"]:
            more["representation"] = hidden
        if form == "reward":
            return reward, reward[..., None], more
        if form == "trunk":
            return reward, self.propensity.of_members(hidden), more
        return reward, self._own_propensity(x), more


def _columns(x, index):
    return x if index is None else x.index_select(-1, index)
