"""The estimator as a reward model of transformers: language model and heads in one folder."""

import json
import math
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from .._features import HeadColumns
from .._paths import local_path
from .._pipeline import TextBlock, split_pipeline
from ..embedding import LLMEmbedder
from ..embedding._embedder import ensure_fitted, token_numbers
from ..exceptions import ImplicitRMError
from ..persistence._card import model_card

#: With a larger shift of the logits, bfloat16 has too few digits left for the logits.
MAX_SHIFT = 16.0
#: The texts on which an export is checked before it is written.
_SAMPLES = (
    ("What is 2 + 2?", "4."),
    ("Name a colour of the sky, and say why it has that colour.", "Blue: light is scattered."),
    ("Hi", ""),
    ("Write a poem.", "Roses are red, violets are blue, sugar is sweet. " * 3),
)


@dataclass(frozen=True)
class TransformersExport:
    """The result of `to_transformers`. Prints as text.

    Attributes
    ----------
    path : str
    model_class : str
    custom_code : bool
        Whether the folder contains its own class, which needs ``trust_remote_code=True``.
    logit_shift : float
        The reward is ``sigmoid(logits + logit_shift)``; 0 with custom code.
    reasons : tuple of str
        The reasons why a stock class is not exact.

    Examples
    --------
    >>> from implicitrm_sk.integrations import TransformersExport
    >>> export = TransformersExport("rm", "LlamaForSequenceClassification", False, 0.25, ())
    >>> print(export)  # doctest: +NORMALIZE_WHITESPACE
    rm: LlamaForSequenceClassification, a stock class without bias:
    reward = sigmoid(logits + 0.25).
    """

    path: str
    model_class: str
    custom_code: bool
    logit_shift: float
    reasons: tuple

    def __str__(self):
        if self.custom_code:
            return (
                f"{self.path}: {self.model_class}, loads with trust_remote_code=True; reward = "
                f"sigmoid(logits). No stock class is exact, because {'; '.join(self.reasons)}."
            )
        return (
            f"{self.path}: {self.model_class}, a stock class without bias: reward = "
            f"sigmoid(logits + {self.logit_shift:.6g})."
        )


def to_transformers(
    est: Any,
    base_model: Any = None,
    path: str | PathLike[str] | None = None,
    *,
    custom_code: bool | None = None,
) -> TransformersExport:
    """Write a folder that ``AutoModelForSequenceClassification.from_pretrained`` loads.

    It combines language model, pooling, standardisation, heads, members, chat template and padding
    in one model. Before writing, it compares the model with the estimator on some texts.

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        A fitted estimator. A pipeline consists of an `LLMEmbedder`, alone or in a
        `ColumnTransformer`, and the estimator. Columns that the propensity alone reads are left
        out.
    base_model : str, path-like or LLMEmbedder, default=None
        None means the model of the estimator's embedder. A path or name says where this model is
        now. For an estimator fitted on vectors, it is the model that made them. The name of a model
        then means an `LLMEmbedder` with default settings.
    path : str or path-like
        The folder to write, which must be new or empty.
    custom_code : bool, default=None
        None uses a stock class if it is exact, else a class of its own, in a file in the folder.
        False raises if no stock class is exact. True always uses the class of its own.

    Returns
    -------
    export : TransformersExport
        The class of the model, and the meaning of its logits.

    Raises
    ------
    ValueError
        If `custom_code` is False and no stock class gives the reward, with the reasons. If the
        model cannot be exported.

    Notes
    -----
    A stock class is exact under several conditions. The model is a decoder, with last-token pooling
    of the last layer and no normalisation. The reward head is linear (``hidden_layer_sizes=()``)
    and has one member (``n_estimators=1``). The log distinguishes reward and propensity. The
    padding token is not used otherwise, so the last token is found. Standardisation is folded into
    the weights. The head has no bias, so the logits are shifted by a constant, which is stored as
    ``config.implicitrm["logit_shift"]``. It does not affect GRPO, RLOO and best-of-n.

    Texts longer than `max_length` of the embedder must be cut from the left, as the saved tokenizer
    does (``truncation=True``). The tokenizer also cuts a BOS token that the template writes, which
    the embedder keeps. For models with such a token, the rewards of these texts differ slightly.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from transformers import AutoConfig
    >>> from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
    >>> from implicitrm_sk.integrations import to_transformers
    >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
    >>> texts = [("How?", answer) for answer in ["Like this.", "I cannot help."] * 20]
    >>> y = np.tile([[1, 0], [0, 0], [0, 1], [0, 0]], (10, 1))
    >>> est = ImplicitRewardEstimator(
    ...     embedder=embedder, max_epochs=5, early_stopping=False, random_state=0
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export = to_transformers(est.fit(texts, y), None, f"{folder}/reward-model")
    ...     print(AutoConfig.from_pretrained(export.path, trust_remote_code=True).num_labels)
    1
    >>> export.custom_code, export.logit_shift
    (True, 0.0)
    """
    if path is None:
        raise TypeError("path is missing. Call to_transformers(est, base_model, path).")
    fitted, embedder, where = _embedder_of(est, base_model)
    config = fitted.model_.config
    mirrored = fitted.identification_.swap_symmetric and config["propensity_form"] != "reward"
    _check_is_of_text(fitted, mirrored, where)
    import transformers

    source = embedder._source
    if source.trust_remote_code:
        raise ImplicitRMError(
            f"base_model={embedder.model!r} runs code of its own (trust_remote_code=True), which "
            "cannot be packed into another model's folder. Use a model without such code."
        )
    base = source.load(transformers.AutoModel, dtype="auto", **(embedder.model_kwargs or {}))
    if base.config.is_encoder_decoder:
        raise ImplicitRMError(
            f"base_model={embedder.model!r} is an encoder-decoder model, which cannot be exported: "
            "the embedder uses its encoder only. Use another model."
        )
    if embedder.adapter is not None:
        embedder.adapter.add_to(base)
    base.eval()
    if source.gguf_file is not None:
        # Its tensors were unpacked on loading, and are saved unpacked.
        base.hf_quantizer = None
        base.config.__dict__.pop("quantization_config", None)
    # Passed as arguments, because later settings are not saved with a tokenizer.
    sides = {"truncation_side": "left", "padding_side": "right"}
    tokenizer = source.load(
        transformers.AutoTokenizer, model_max_length=embedder.max_length_, **sides
    )
    tokenizer, pad_reason = _make_tokenizer(embedder, tokenizer)
    stock = _stock_class(base.config)
    weight, shift = _fold(fitted, where) if _is_linear(config) else (None, math.inf)
    reasons = tuple(
        reason
        for applies, reason in (
            (stock is None, "the base model has no stock class that pools the last token"),
            (embedder.pooling_ != "last", f"vectors are pooled by {embedder.pooling_}"),
            (embedder.layer_ != embedder.n_layers_, f"vectors are of layer {embedder.layer_}"),
            (embedder.normalize, "vectors are normalised"),
            (embedder.output_dtype == "float16", "vectors are rounded to float16"),
            (not _is_linear(config), "the reward head has hidden layers"),
            (config["n_members"] > 1, f"{config['n_members']} members are averaged"),
            (mirrored, "each member has a mirror image, with reward and propensity exchanged"),
            (pad_reason is not None, pad_reason),
            (
                MAX_SHIFT < abs(shift) < math.inf,
                f"the logits would be shifted by {shift:.3g}, too far for bfloat16",
            ),
        )
        if applies
    )
    if custom_code is False and reasons:
        raise ImplicitRMError(
            "custom_code=False, but no stock class gives this reward, because "
            f"{'; '.join(reasons)}. Use custom_code=None."
        )
    custom = bool(reasons) or bool(custom_code)
    settings = {
        "reward": "sigmoid(logits)" if custom else "sigmoid(logits + logit_shift)",
        "logit_shift": 0.0 if custom else shift,
        "max_length": embedder.max_length_,
        "identification": str(fitted.identification_),
    }
    base.config.pad_token_id = base.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    base.config.num_labels = 1
    base.config.id2label, base.config.label2id = {0: "reward"}, {"reward": 0}
    if custom:
        model = _custom_model(fitted, embedder, base, settings, mirrored, where)
    else:
        # The sigmoid that the pipeline would apply needs the shifted logits.
        base.config.problem_type = "regression"
        base.config.implicitrm = settings
        model = _stock_model(stock, base, weight)
    _verify(model, tokenizer, embedder, fitted, where, settings["logit_shift"])
    export = TransformersExport(
        str(path), type(model).__name__, custom, settings["logit_shift"], reasons
    )
    _write(local_path(path), model, tokenizer, _card(fitted, export), custom)
    return export


# ---------------------------------------------------------------------- the embedder


def _embedder_of(est, base_model):
    """Return the fitted estimator, the fitted embedder, and the columns that are the vector."""
    fitted, _ = split_pipeline(est)
    embedder = getattr(fitted, "embedder_", None)
    where = slice(0, fitted.n_features_in_ - len(getattr(fitted, "side_columns_", ())))
    if isinstance(est, Pipeline):
        steps = [step for _, step in est.steps[:-1] if step not in (None, "passthrough")]
        block = TextBlock.of(est)
        if block is not None:
            steps[0], where = block.embedder, block.where
        if len(steps) != 1 or not isinstance(steps[0], LLMEmbedder):
            names = ", ".join(type(step).__name__ for step in steps) or "nothing"
            raise ImplicitRMError(
                f"the pipeline has {names} before the estimator, but only an LLMEmbedder can be "
                "exported. Remove them; the estimator standardises by itself."
            )
        embedder = steps[0]
    if embedder is None:
        if base_model is None:
            raise ImplicitRMError(
                "est was fitted on vectors, but base_model is None. Pass base_model, the "
                "LLMEmbedder that made them."
            )
        embedder = (
            base_model
            if isinstance(base_model, LLMEmbedder)
            else LLMEmbedder(os.fspath(base_model))
        )
    elif isinstance(base_model, LLMEmbedder):
        raise TypeError(
            "est has its own embedder; expected a name, a path or None as base_model. Pass one of "
            "these."
        )
    elif base_model is not None:
        ensure_fitted(embedder)
        moved = clone(embedder).set_params(model=base_model)
        if not Path(base_model).exists():
            moved.set_params(revision=embedder.commit_ or embedder.revision)
        embedder = moved.pin(embedder.settled)
    ensure_fitted(embedder)
    n_features = len(embedder.get_feature_names_out())
    if n_features != where.stop - where.start:
        raise ImplicitRMError(
            f"base_model={embedder.model!r} gives vectors of {n_features} columns, but est was "
            f"fitted on {where.stop - where.start}. Pass the model that made the vectors."
        )
    return fitted, embedder, where


def _check_is_of_text(fitted, mirrored, where):
    """Raise unless the reward is a function of the vector of the text, in a known form."""
    config = fitted.model_.config
    if mirrored and config["propensity_form"] != "head":
        raise ImplicitRMError(
            f"the mirror images of {type(fitted.objective_).__name__} cannot be exported, because "
            f"its propensity has the form {config['propensity_form']!r}. Use another objective."
        )
    if mirrored and config["shared_logits"] is not None:
        raise ImplicitRMError(
            "the mirror image of a late action cannot be exported, because its propensity has a "
            "further output. Fit with a second signal, which distinguishes reward and propensity."
        )
    read = fitted.reward_columns_
    if mirrored:
        read = np.union1d(read, fitted.propensity_columns_)
    beside = read[(read < where.start) | (read >= where.stop)]
    if len(beside):
        raise ImplicitRMError(
            f"the reward reads the columns {HeadColumns.of(fitted).labels(beside)} beside the "
            "text, but a model of transformers gets only text. Name them in propensity_features, "
            "or leave them out."
        )


def _make_tokenizer(embedder, tokenizer):
    """Return the tokenizer that reads text like the embedder, and any problem with padding."""
    whole, inner = (token_numbers(tokenizer, ["a"], special)[0] for special in (True, False))
    n_before = next(
        (i for i in range(len(whole)) if whole[i : i + len(inner)] == inner), len(whole)
    )
    before, after = whole[:n_before], whole[n_before + len(inner) :]
    template = embedder.chat_template_
    if template is None:
        # A template that does what the embedder does without one.
        tokenizer.chat_template = (
            _literal(tokenizer, before)
            + "{% for message in messages %}{{ message['content'] }}"
            + "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
            + _literal(tokenizer, after)
        )
    else:
        tokenizer.chat_template = template
        sample = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        ids = _template_numbers(tokenizer, sample)
        if before and ids[: len(before)] != before:
            tokenizer.chat_template = _literal(tokenizer, before) + template
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None:
        # Padding is masked, so the end-of-text token may be used.
        token = tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise ImplicitRMError(
                f"the tokenizer of {embedder.model!r} has no padding token. Set its pad_token."
            )
        tokenizer.pad_token = token
        return tokenizer, "the tokenizer has no padding token of its own, and a stock class finds "\
            "padding by its token"  # fmt: skip
    if pad == eos:
        return tokenizer, (
            "padding and end of text are one token, so a stock class would take the token before "
            "the end for the last one"
        )
    return tokenizer, None


def _literal(tokenizer, ids):
    return "{{ " + json.dumps("".join(tokenizer.convert_ids_to_tokens(ids))) + " }}" if ids else ""


def _template_numbers(tokenizer, messages):
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return token_numbers(tokenizer, [text], False)[0]


# ---------------------------------------------------------------------- the model


def _is_linear(config):
    return not len(config["hidden_layer_sizes"])


def _stock_class(config):
    """Return the stock class that pools the last token and has a linear head without bias."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    from transformers.modeling_layers import GenericForSequenceClassification

    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None or not issubclass(found, GenericForSequenceClassification):
        return None
    return found


def _used_columns(fitted):
    return np.union1d(fitted.reward_columns_, fitted.propensity_columns_)


def _standardisation(fitted, where):
    """Return mean and scale of all columns of the vectors, 0 and 1 without standardisation."""
    mean, scale = np.zeros(fitted.n_features_in_), np.ones(fitted.n_features_in_)
    if fitted.scaler_ is not None:
        used = _used_columns(fitted)
        mean[used], scale[used] = fitted.scaler_.mean_, fitted.scaler_.scale_
    return mean[where], scale[where]


def _fold(fitted, where):
    """Return the weight of one linear member on raw vectors, and the constant to add."""
    mean, scale = _standardisation(fitted, where)
    weight = np.zeros(len(mean))
    first = fitted.model_.reward.weights[0].detach().cpu().double().numpy()[:, 0, 0]
    columns = fitted.reward_columns_ - where.start
    weight[columns] = first / scale[columns]
    bias = float(fitted.model_.reward.biases[0].detach().cpu().double()[0, 0, 0])
    return torch.as_tensor(weight), bias - float(weight @ mean)


def _stock_model(stock, base, weight):
    with torch.device("meta"):  # the weights are those of base
        model = stock(base.config)
    setattr(model, model.base_model_prefix, base)
    model.score = torch.nn.Linear(len(weight), 1, bias=False, dtype=base.dtype)
    with torch.no_grad():
        model.score.weight.copy_(weight[None])
    return model.eval()


def _custom_model(fitted, embedder, base, settings, mirrored, where):
    from .modeling_implicitrm import ImplicitRewardModel

    parts = [fitted.model_.reward] + ([fitted.model_.propensity] if mirrored else [])
    columns = [fitted.reward_columns_] + ([fitted.propensity_columns_] if mirrored else [])
    everything = where.stop - where.start
    sizes = [
        [part.weights[0].shape[0], *(weight.shape[2] for weight in part.weights)] for part in parts
    ]
    base.config.implicitrm = settings | {
        "pooling": embedder.pooling_,
        "layer": None if embedder.layer_ == embedder.n_layers_ else embedder.layer_,
        "normalize": bool(embedder.normalize),
        "output_dtype": embedder.output_dtype,
        "head": {
            "n_in": everything,
            "n_members": fitted.model_.config["n_members"],
            "sizes": sizes,
            "columns": [
                None if len(selected) == everything else (selected - where.start).tolist()
                for selected in columns
            ],
            "mirrored": mirrored,
        },
    }
    base.config.auto_map = {
        "AutoModelForSequenceClassification": "modeling_implicitrm.ImplicitRewardModel"
    }
    with torch.device("meta"):
        model = ImplicitRewardModel(base.config)
    model.model = base
    head = model.reward_head.to_empty(device="cpu").float()
    mean, scale = _standardisation(fitted, where)
    with torch.no_grad():
        head.mean.copy_(torch.as_tensor(mean))
        head.scale.copy_(torch.as_tensor(scale))
        for ours, theirs in zip(head.heads, parts, strict=True):
            for name in ("weights", "biases"):
                for to, value in zip(getattr(ours, name), getattr(theirs, name), strict=True):
                    to.copy_(value.detach().cpu().transpose(0, 1))
    return model.eval()


def _verify(model, tokenizer, embedder, fitted, where, shift):
    """Compare the export with the estimator on texts, in the number format that is saved."""
    messages = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in _SAMPLES
    ]
    tokens = embedder.tokenize(messages)
    ours = [_template_numbers(tokenizer, row) for row in messages]
    if any(row != ids for row, ids in zip(ours, tokens, strict=True) if len(row) == len(ids)):
        raise RuntimeError(
            f"the chat template of {embedder.model!r} cannot be exported: the saved tokenizer "
            "would read texts as other tokens than the embedder. Set chat_template of the "
            "embedder."
        )
    length = max(map(len, tokens))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in tokens])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, 0].double().numpy() + shift
    plain = clone(embedder).set_params(cache_dir=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a short max_length cuts the samples
        rows = np.full((len(messages), fitted.n_features_in_), np.nan)
        rows[:, where] = plain.transform(messages)
        reward = fitted.predict(rows).astype(float)
    found = 1 / (1 + np.exp(-logits))
    half = model.dtype in (torch.bfloat16, torch.float16) or embedder.dtype_ != "float32"
    half = half or fitted.dtype == "bfloat16" or embedder.output_dtype == "float16"
    error = np.abs(found - reward).max()
    if not error < (0.05 if half else 1e-4):
        raise RuntimeError(
            "the exported model gives other rewards than the estimator (they differ by "
            f"{error:.2g} on {len(tokens)} texts), so nothing was written. Please report this, "
            f"with the model {embedder.model!r}."
        )


# ---------------------------------------------------------------------- the folder


def _write(path, model, tokenizer, card, custom):
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{str(path)!r} exists. Choose a new or empty folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if custom:
            shutil.copyfile(
                Path(__file__).with_name("modeling_implicitrm.py"),
                temporary / "modeling_implicitrm.py",
            )
        (temporary / "README.md").write_text(card, encoding="utf-8")
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _card(fitted, export):
    arguments = ", trust_remote_code=True" if export.custom_code else ""
    shift = "" if export.custom_code else f" + {export.logit_shift!r}"
    note = (
        "This model has its own class (`modeling_implicitrm.py`)."
        if export.custom_code
        else "The class is one of transformers, whose head has no bias: **the logits are "
        "shifted**; add the constant before taking the sigmoid."
    )
    usage = (
        "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        f'model = AutoModelForSequenceClassification.from_pretrained("PATH"{arguments})\n'
        'tokenizer = AutoTokenizer.from_pretrained("PATH")\n'
        'messages = [{"role": "user", "content": "2 + 2?"},\n'
        '            {"role": "assistant", "content": "4"}]\n'
        'inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)\n'
        f"reward = (model(**inputs).logits{shift}).sigmoid()\n```\n\n{note}"
    )
    return model_card(fitted, usage=usage)
