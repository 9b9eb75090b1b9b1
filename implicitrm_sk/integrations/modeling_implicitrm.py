"""Reward model of implicitrm-sk for transformers: a language model with a reward head.

This file is copied into every exported model folder and needs only torch and transformers.
"""

import math

import torch
from torch import nn
from torch.nn.functional import logsigmoid, normalize
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast


class Head(nn.Module):
    """Multilayer perceptrons with ReLU side by side: (n, d) to logits of shape (members, n)."""

    def __init__(self, n_members, sizes, columns):
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.zeros(n_members, i, o))
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(n_members, 1, o)) for o in sizes[1:]
        )
        self.columns = columns

    def forward(self, x):
        """Return the logits of each member."""
        # A list keeps the positions right on every device, and out of the weights.
        h = x if self.columns is None else x[:, self.columns]
        h = h.expand(len(self.weights[0]), *h.shape)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.relu(h) if i else h
            h = torch.baddbmm(bias.float(), h, weight.float())
        return h.squeeze(-1)


class RewardHead(nn.Module):
    """Maps a vector to the log-odds of the mean reward of all members, always in float32."""

    def __init__(self, n_in, n_members, sizes, columns=None, mirrored=False):
        super().__init__()
        self.register_parameter("mean", nn.Parameter(torch.zeros(n_in), requires_grad=False))
        self.register_parameter("scale", nn.Parameter(torch.ones(n_in), requires_grad=False))
        columns = columns or [None, None]
        self.heads = nn.ModuleList(
            Head(n_members, sizes[i], columns[i]) for i in range(2 if mirrored else 1)
        )

    def forward(self, x):
        """Map x of shape (n, n_in) to logits of shape (n,)."""
        with torch.autocast(x.device.type, enabled=False):
            x = (x.float() - self.mean.float()) / self.scale.float()
            logits = torch.cat([head(x) for head in self.heads])
            n = math.log(len(logits))
            return (
                torch.logsumexp(logsigmoid(logits), 0) - torch.logsumexp(logsigmoid(-logits), 0)
                if n
                else logits[0]
            )


class ImplicitRewardModel(PreTrainedModel):
    """A language model, pooling of its hidden states, and the reward heads.

    ``logits`` of shape (n, 1) are the log-odds of the reward: ``logits.sigmoid()`` is P(preferred).
    """

    base_model_prefix = "model"
    _keep_in_fp32_modules_strict = {"reward_head"}

    def __init__(self, config):
        base = AutoModel._model_mapping[type(config)]
        for kind in ("sdpa", "flash_attn", "flex_attn", "attention_backend"):
            # The attention is that of the language model; set before `nn.Module` is set up.
            name = f"_supports_{kind}"
            object.__setattr__(self, name, getattr(base, name, False))
        super().__init__(config)
        self.num_labels = 1
        settings = config.implicitrm
        self.model = AutoModel.from_config(config)
        self.reward_head = RewardHead(**settings["head"])
        self.post_init()

    def _init_weights(self, module):
        pass  # every weight is in the files

    def get_input_embeddings(self):
        """Return the embedding of the tokens."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        """Set the embedding of the tokens."""
        self.model.set_input_embeddings(value)

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        """Return the logits of a batch of texts."""
        if kwargs.pop("labels", None) is not None:
            raise ValueError(
                "labels were given, but this reward model was learned from a log and cannot be "
                "trained further. Leave labels out."
            )
        for name in ("return_dict", "use_cache", "output_hidden_states", "output_attentions"):
            kwargs.pop(name, None)
        settings = self.config.implicitrm
        if attention_mask is None:
            attention_mask = self._mask(input_ids, inputs_embeds)
        is_last_layer = settings["layer"] is None
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=not is_last_layer,
            **kwargs,
        )
        hidden = (
            output.last_hidden_state if is_last_layer else output.hidden_states[settings["layer"]]
        )
        vectors = self._pool(hidden, attention_mask.to(hidden.device))
        logits = self.reward_head(vectors.to(self.reward_head.mean.device))
        return SequenceClassifierOutputWithPast(logits=logits[:, None])

    def _mask(self, input_ids, inputs_embeds):
        tokens = inputs_embeds[..., 0] if input_ids is None else input_ids
        config = self.config.get_text_config()
        pad, eos = config.pad_token_id, config.eos_token_id
        eos = eos if isinstance(eos, list | tuple) else [eos]
        if len(tokens) > 1 and (input_ids is None or pad is None or pad in eos):
            raise ValueError(
                "attention_mask is missing, and padding cannot be distinguished from the tokens. "
                "Pass attention_mask."
            )
        if input_ids is None or pad is None or pad in eos:
            return torch.ones(tokens.shape, dtype=torch.long, device=tokens.device)
        return (input_ids != pad).long()

    def _pool(self, hidden, mask):
        settings = self.config.implicitrm
        mask = mask.bool()
        positions = torch.arange(mask.shape[1], device=mask.device)
        if settings["pooling"] == "mean":
            kept = hidden.float().masked_fill(~mask[:, :, None], 0)
            vectors = kept.sum(1) / mask.sum(1, keepdim=True)
        else:
            # The first or last real token, whichever side was padded.
            last = settings["pooling"] == "last"
            index = (positions * mask).argmax(1) if last else mask.int().argmax(1)
            vectors = hidden[torch.arange(len(hidden), device=hidden.device), index].float()
        stored = getattr(torch, settings["output_dtype"])
        vectors = vectors.to(stored)
        if settings["normalize"]:
            vectors = normalize(vectors.float(), dim=1).to(stored)
        return vectors
