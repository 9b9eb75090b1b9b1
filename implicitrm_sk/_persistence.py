"""The file format: JSON for settings, safetensors for arrays, nothing that could run.

A saved model is a folder, or a zip archive, of

- ``implicitrm.json``, the manifest: format version, and size and SHA-256 of the other two;
- ``estimator.json``: constructor parameters and fitted attributes, arrays by name;
- ``arrays.safetensors``: the arrays;
- ``README.md``: the model card, for people. It is never read, so that it may be edited.

In ``estimator.json`` an object always has one key, the kind of value it stands for (`_decode`);
numbers, strings, lists, true, false and null stand for themselves.
"""

import contextlib
import dataclasses
import errno
import hashlib
import inspect
import io
import json
import math
import os
import platform
import shutil
import stat
import struct
import tempfile
import zipfile
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import check_is_fitted

from ._card import model_card
from ._features import HeadColumns
from ._identification import Evidence, Identification
from ._warnings import warn
from .embedding import LLMEmbedder
from .exceptions import ModelFileError
from .measurement._model import GROUP_NAMES
from .objectives import OBJECTIVES, Objective
from .training._modules import RewardModel

FORMAT = "implicitrm_sk estimator"
#: Raised whenever older code could not read what is written; `_upgrade` then learns the old form.
FORMAT_VERSION = 1
MANIFEST, SETTINGS, ARRAYS, CARD = (
    "implicitrm.json",
    "estimator.json",
    "arrays.safetensors",
    "README.md",
)
#: Largest size in bytes that is read or written.
MAX_SIZE = {MANIFEST: 2**20, SETTINGS: 2**26, ARRAYS: 2**32, CARD: 2**20}
#: Most columns of X; of those that no head reads there is no array to compare with.
MAX_FEATURES = 2**24
#: Of the instance, but no part of the model: how to watch a fit.
_NOT_SAVED = ("_skl_callbacks", "_sklearn_version", "_metadata_request")
#: What senseless values lead to, RecursionError among them.
_SENSELESS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_SCALER = ("mean_", "var_", "scale_", "n_samples_seen_", "n_features_in_")


# ---------------------------------------------------------------------- values


class _Encoder:
    """Turns values into JSON and collects the arrays."""

    def __init__(self):
        self.arrays = {}

    def __call__(self, value, name):
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.number | np.bool_) and value.dtype.kind in "biuf":
            return {"number": [value.dtype.name, self(value.item(), name)]}
        if isinstance(value, int | float):
            return {"float": repr(value)} if not math.isfinite(value) else value
        if isinstance(value, list):
            return [self(item, f"{name}.{i}") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": self(list(value), name)}
        if isinstance(value, slice):
            return {"slice": self([value.start, value.stop, value.step], name)}
        if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
            return {"dict": [[key, self(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if type(value) is StandardScaler:
            fitted = {key: vars(value)[key] for key in _SCALER}
            return {"standard_scaler": self(fitted, name)}
        if isinstance(value, np.random.RandomState):
            return {"random_state": self(value.get_state(legacy=False), name)}
        for kind, cls in (("evidence", Evidence), ("identification", Identification)):
            if type(value) is cls:
                return {kind: self(dataclasses.asdict(value), name)}
        if isinstance(value, os.PathLike):
            return {"path": self(os.fspath(value), name)}
        if type(value) is LLMEmbedder:
            return {"embedder": self(_embedder_state(value), name)}
        if isinstance(value, Objective):
            return {"objective": self(_objective_state(value, name), name)}
        raise _unsupported(value, name)

    def _array(self, value, name):
        if value.dtype.kind in "OUT" and value.ndim == 1 and all(isinstance(v, str) for v in value):
            return {"strings": [str(v) for v in value]}
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
            raise _unsupported(value, name)
        native = value.dtype.newbyteorder("=")
        self.arrays[name] = np.array(value, dtype=native, order="C")  # keeps 0-d arrays 0-d
        return {"array": name}


def _objective_state(objective, name):
    for known, cls in OBJECTIVES.items():
        if type(objective) is cls:
            return [known, dict(vars(objective))]
    raise ValueError(
        f"{name} is an objective of class {type(objective).__qualname__}, which is none of this "
        "package's: a file that is safe to open holds no code, so that it cannot be saved. Pickle "
        "the estimator, or add the class to implicitrm_sk.objectives. Names that can be saved: "
        f"{', '.join(OBJECTIVES)}."
    )


#: What an embedder has settled; the vectors depend on it, and it must come out the same elsewhere.
_SETTLED = ("chat_template_", "fingerprint_", "layer_", "max_length_", "pooling_")


#: Arguments of `from_pretrained` that a file may hold, with their values. Others could make it run
#: code: ``weights_only=False`` opens pickles, a kernel of the hub can stand for an attention.
_MODEL_KWARGS = {
    "attn_implementation": (
        "eager", "flash_attention_2", "flash_attention_3", "flex_attention", "sdpa",
    ),
    "use_safetensors": (True, False, None),
}  # fmt: skip


def _check_model_kwargs(model_kwargs):
    for name, value in (model_kwargs or {}).items():
        if name == "gguf_file" and isinstance(value, str):
            continue
        if name not in _MODEL_KWARGS or value not in _MODEL_KWARGS[name]:
            raise ValueError(
                f"model_kwargs of the embedder holds {name}={value!r:.60}, which a file that is "
                "safe to open may not. Save without it, and set it again after loading: "
                "est.embedder_.set_params(model_kwargs=...)."
            )


def _embedder_state(embedder):
    parameters = embedder.get_params(deep=False)
    _check_model_kwargs(parameters["model_kwargs"])
    if not hasattr(embedder, "fingerprint_"):
        return [parameters, getattr(embedder, "_pinned", None)]
    if embedder.commit_ is not None:
        parameters["revision"] = embedder.commit_
    return [parameters, {name: getattr(embedder, name) for name in _SETTLED}]


def _unsupported(value, name):
    kind = type(value).__qualname__
    if isinstance(value, np.ndarray):
        kind += f" of dtype {value.dtype}"
    if callable(value) and name.endswith("_features"):
        return ValueError(
            f"{name} is a callable ({kind}), and a file that is safe to open holds no code. Save "
            f"what it selected: est.set_params({name}=est.{name.replace('features', 'columns_')})."
        )
    return ValueError(
        f"{name} holds a {kind}, which cannot be saved: a file that is safe to open holds numbers, "
        "strings and arrays only. Set it to one of these, or pickle the estimator."
    )


class _Decoder:
    """Turns JSON back into values; every array must be asked for exactly once."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __call__(self, value):
        if isinstance(value, list):
            return [self(item) for item in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ModelFileError(f"{SETTINGS} holds an object with the keys {_listing(value)}.")
        ((kind, content),) = value.items()
        decode = getattr(self, f"_{kind}", None) if kind in _KINDS else None
        if decode is None:
            raise ModelFileError(f"{SETTINGS} holds a value of the unknown kind {kind[:60]!r}.")
        try:
            return decode(content)
        except ModelFileError:
            raise
        except _SENSELESS as error:
            raise ModelFileError(f"{SETTINGS} holds no valid {kind}: {_short(error)}") from error

    def _float(self, content):
        if content not in ("nan", "inf", "-inf"):
            raise ValueError(f"{content!r:.60} is none of nan, inf, -inf")
        return float(content)

    def _number(self, content):
        kind, value = content
        dtype = np.dtype(kind)
        _require(dtype.kind in "biuf" and dtype.name == kind, f"{kind!r:.40} is no kind of number")
        return dtype.type(self(value))

    def _tuple(self, content):
        _require(isinstance(content, list), "a tuple is a list of values")
        return tuple(self(content))

    def _slice(self, content):
        return slice(*self(content))

    def _dict(self, content):
        pairs = [(key, self(item)) for key, item in content]
        _require(all(isinstance(key, str | int) for key, _ in pairs), "keys are strings or numbers")
        _require(len(dict(pairs)) == len(pairs), "a key occurs twice")
        return dict(pairs)

    def _strings(self, content):
        _require(all(isinstance(item, str) for item in content), "an item is no string")
        return np.array(content, dtype=object)

    def _array(self, content):
        _require(content in self.arrays, f"{content!r:.80} is missing or used twice")
        return self.arrays.pop(content)

    def _standard_scaler(self, content):
        fitted = self(content)
        _require(set(fitted) == set(_SCALER), f"it has {_listing(fitted)}")
        scaler = StandardScaler()
        vars(scaler).update(fitted)
        return scaler

    def _random_state(self, content):
        state = self(content)
        _require(state["bit_generator"] == "MT19937", "the generator is not MT19937")
        generator = np.random.RandomState()
        generator.set_state(state)
        return generator

    def _evidence(self, content):
        counts = self(content)
        _require(all(_is_count(count) for count in counts.values()), "counts are whole numbers")
        return Evidence(**counts)

    def _identification(self, content):
        found = Identification(**self(content))
        _require(
            isinstance(found.level, str)
            and isinstance(found.reason, str)
            and isinstance(found.swap_symmetric, bool)
            and all(
                isinstance(texts, tuple) and all(isinstance(text, str) for text in texts)
                for texts in (found.assumptions, found.advice)
            ),
            "its fields are texts",
        )
        return found

    def _path(self, content):
        _require(isinstance(content, str), "a path is a string")
        return Path(content)

    def _embedder(self, content):
        parameters, pinned = self(content)
        refused = []
        # Whoever wrote the file is not to decide what runs, nor where something is written.
        if parameters.get("trust_remote_code"):
            parameters["trust_remote_code"] = False
            refused.append("trust_remote_code=True")
        if parameters.get("cache_dir") not in ("auto", None):
            refused.append(f"cache_dir={str(parameters['cache_dir'])[:80]!r}")
            parameters["cache_dir"] = "auto"
        embedder = LLMEmbedder(**parameters)
        embedder._validate_params()
        _check_model_kwargs(embedder.model_kwargs)
        if pinned is not None:
            _require(set(pinned) == set(_SETTLED), f"it has {_listing(pinned)}")
            embedder._pinned = pinned
            if refused:
                warn(
                    f"the embedder had {' and '.join(refused)}, which is not taken over from a "
                    "file. If you want it: est.embedder_.set_params(...)."
                )
        return embedder

    def _objective(self, content):
        name, state = self(content)
        _require(name in OBJECTIVES, f"{name!r:.60} is none of {', '.join(OBJECTIVES)}")
        objective = OBJECTIVES[name]()
        fitted = set(state) - set(vars(objective))
        _require(set(vars(objective)) <= set(state), f"{name} has {_listing(vars(objective))}")
        _require(
            all(
                key.endswith("_")
                and not key.startswith("_")
                and np.isfinite(np.asarray(state[key], dtype=float)).all()
                for key in fitted
            ),
            f"{name} learns numbers, named with a trailing underscore",
        )
        vars(objective).update(state)
        return objective


_KINDS = frozenset(
    name[1:] for name in vars(_Decoder) if name.startswith("_") and not name.startswith("__")
)


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _listing(names):
    names = [str(name)[:40] for name in names]
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "none"


def _short(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


# ---------------------------------------------------------------------- estimators


def save(est, path, metrics=None):
    """Write a fitted estimator; see `ImplicitRewardEstimator.save`."""
    path = Path(path).expanduser()
    files = to_files(est, metrics)
    (_write_zip if path.suffix.lower() == ".zip" else _write_folder)(path, files)


def load(cls, path):
    """Read an estimator; see `ImplicitRewardEstimator.load`."""
    return from_files(cls, read(path), str(path))


def to_files(est, metrics=None):
    """Return the content of each file of a saved model, as bytes."""
    check_is_fitted(est, "model_")
    card = model_card(est, metrics)
    state = est.__getstate__()
    parameters = est.get_params(deep=False)
    fitted = {
        name: value
        for name, value in state.items()
        if name not in parameters and name not in _NOT_SAVED
    }
    unknown = set(fitted) - set(_FITTED)
    if unknown:
        raise ValueError(
            f"the attribute {_listing(sorted(unknown))} of the estimator is none that the file "
            "format knows: it would be lost. Delete it, or pickle the estimator."
        )
    encode = _Encoder()
    settings = {
        "parameters": {name: encode(value, name) for name, value in parameters.items()},
        "fitted": {name: encode(value, name) for name, value in fitted.items()},
    }
    if "_metadata_request" in state:
        settings["metadata_requests"] = {
            method: dict(getattr(state["_metadata_request"], method).requests)
            for method in _methods_with_requests(state["_metadata_request"])
        }
    files = {SETTINGS: _dump(settings), ARRAYS: save_arrays(encode.arrays)}
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class": type(est).__name__,
        "written_by": {
            "python": platform.python_version(),
            **{
                name: installed_version(name)
                for name in ("implicitrm-sk", "numpy", "scikit-learn", "torch")
            },
        },
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }
    manifest["sha256"] = _digest(manifest)
    files = {MANIFEST: _dump(manifest), **files, CARD: card.encode()}
    for name, content in files.items():
        if len(content) > MAX_SIZE[name]:
            raise ValueError(
                f"{name} would have {len(content):,} bytes; files of more than {MAX_SIZE[name]:,} "
                "are not opened again. Save a smaller model."
            )
    return files


def from_files(cls, files, source):
    """Return the estimator that the content of files describes."""
    try:
        manifest = _check_manifest(files, cls)
        settings = _upgrade(_parse(files[SETTINGS], SETTINGS), manifest["format_version"])
        return _build(cls, settings, files[ARRAYS])
    except ModelFileError as error:
        raise ModelFileError(f"{source!r} cannot be loaded: {error}") from error.__cause__


def _check_manifest(files, cls):
    manifest = _parse(files[MANIFEST], MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelFileError(f"{MANIFEST} does not describe an {FORMAT}.")
    version = manifest.get("format_version")
    if not _is_count(version) or version < 1:
        raise ModelFileError(f"{MANIFEST} has the format_version {version!r:.40}, no number >= 1.")
    if version > FORMAT_VERSION:
        by = manifest.get("written_by")
        by = by.get("implicitrm-sk") if isinstance(by, dict) else None
        raise ModelFileError(
            f"it has format version {version}, written by implicitrm-sk {by!s:.20}; the installed "
            f"one reads versions up to {FORMAT_VERSION}. Install a newer implicitrm-sk."
        )
    if manifest.get("sha256") != _digest(manifest):
        raise ModelFileError(f"{MANIFEST} was changed after it was written (its SHA-256 differs).")
    if manifest.get("class") != cls.__name__:
        raise ModelFileError(
            f"it holds an estimator of class {manifest.get('class')!r:.60}, not {cls.__name__}."
        )
    listed = manifest.get("files")
    if not isinstance(listed, dict) or set(listed) != {SETTINGS, ARRAYS}:
        raise ModelFileError(f"{MANIFEST} must list the files {SETTINGS} and {ARRAYS}.")
    for name, entry in listed.items():
        content = files[name]
        found = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        if entry != found:
            raise ModelFileError(
                f"{name} is not what was written: it has {len(content):,} bytes and the SHA-256 "
                f"{found['sha256'][:12]}..., {MANIFEST} says otherwise. The file was damaged or "
                "altered; get it again."
            )
    return manifest


def _upgrade(settings, version):
    """Bring the settings of an older format version into the form of this one."""
    return settings


def _build(cls, settings, content):
    known = {"parameters", "fitted", "metadata_requests"}
    if not isinstance(settings, dict) or not {"parameters", "fitted"} <= set(settings) <= known:
        raise ModelFileError(f"{SETTINGS} must hold {_listing(sorted(known))}.")
    for part in settings.values():
        if not isinstance(part, dict):
            raise ModelFileError(f"the parts of {SETTINGS} must be objects.")
    try:
        arrays = load_arrays(content)
    except (SafetensorError, *_SENSELESS) as error:
        raise ModelFileError(f"{ARRAYS} is no valid safetensors file: {_short(error)}") from error
    decode = _Decoder(arrays)
    try:
        parameters, fitted = (
            {name: decode(value) for name, value in settings[part].items()}
            for part in ("parameters", "fitted")
        )
    except RecursionError as error:
        raise ModelFileError(f"{SETTINGS} is nested too deeply.") from error
    if arrays:
        raise ModelFileError(f"{ARRAYS} holds arrays that nothing uses: {_listing(arrays)}.")
    try:
        est = cls(**parameters)
    except TypeError as error:
        raise ModelFileError(f"{SETTINGS} holds no valid parameters: {_short(error)}") from error
    try:
        est._validate_params()
        _check_fitted(est, fitted)
        state = {**est.get_params(deep=False), **fitted}
        if "metadata_requests" in settings:
            state["_metadata_request"] = _metadata_request(cls, settings["metadata_requests"])
    except ModelFileError:
        raise
    except _SENSELESS as error:
        raise ModelFileError(
            f"{SETTINGS} does not describe a fitted estimator: {_short(error)}"
        ) from error
    est = cls.__new__(cls)
    est.__setstate__(state)
    return est


def _methods_with_requests(request):
    return [name for name, value in vars(request).items() if hasattr(value, "requests")]


def _metadata_request(cls, requests):
    request = MetadataRequest(owner=cls.__name__)
    for method, values in requests.items():
        _require(method in _methods_with_requests(request), f"requests of {method!r:.40}")
        for param, alias in values.items():
            getattr(request, method).add_request(param=param, alias=alias)
    return request


# ---------------------------------------------------------------------- checks of what is read


def _check_fitted(est, fitted):
    """Raise unless the fitted attributes have the types and shapes that `fit` gives them.

    A file may be well formed and still be made to confuse: nothing of it is used before it fits
    together, nothing large is made before its size is known to be that of the arrays.
    """
    unknown = set(fitted) - set(_FITTED)
    if unknown:
        raise ModelFileError(f"{SETTINGS} holds unknown attributes: {_listing(sorted(unknown))}.")
    missing = {name for name, needed in _FITTED.items() if needed} - set(fitted)
    if missing:
        raise ModelFileError(f"{SETTINGS} lacks attributes: {_listing(sorted(missing))}.")
    a = _Attributes(fitted)
    _require(_is_count(a.n_features_in_) and 0 < a.n_features_in_ <= MAX_FEATURES, "n_features_in_")
    _require(_is_count(a.n_signals_) and a.n_signals_ > 0, "n_signals_")
    _require(_is_count(a.n_iter_), "n_iter_")
    _require(isinstance(a.one_dimensional_, bool), "one_dimensional_")
    _require(not a.one_dimensional_ or a.n_signals_ == 1, "one_dimensional_ with several signals")
    _require(a.group_names_ == GROUP_NAMES, "group_names_")
    _require(isinstance(a.objective_, Objective), "objective_")
    _require(isinstance(a.evidence_, Evidence), "evidence_")
    _require(isinstance(a.identification_, Identification), "identification_")
    _require(
        not a.identification_.swap_symmetric or a.objective_.swap_symmetric(a.n_signals_),
        "identification_ swaps reward and propensity, which these signals tell apart",
    )
    _check_array("classes_", a.classes_, (2,), "i")
    _require(a.classes_.tolist() == [0, 1], "classes_")
    _check_array("false_action_rate_", a.false_action_rate_, (a.n_signals_,), "f")
    rate = a.false_action_rate_
    _require(((rate >= 0) & (rate < 1)).all(), "false_action_rate_ outside [0, 1)")
    if "embedder_" in fitted:
        _require(isinstance(a.embedder_, LLMEmbedder), "embedder_")
        _require(hasattr(a.embedder_, "_pinned"), "embedder_ does not say what it settled")
    for name, length in (
        ("feature_names_in_", a.n_features_in_),
        ("signal_names_in_", a.n_signals_),
    ):
        if name in fitted:
            _check_array(name, fitted[name], (length,), "O")
    for name in ("reward_columns_", "propensity_columns_"):
        columns = fitted[name]
        _check_array(name, columns, (np.size(columns),), "i")
        _require(
            columns.size > 0
            and columns[0] >= 0
            and columns[-1] < a.n_features_in_
            and (np.diff(columns) > 0).all(),
            f"{name} are no sorted positions of the {a.n_features_in_} columns",
        )
    n_in = len(np.union1d(a.reward_columns_, a.propensity_columns_))
    if a.scaler_ is not None:
        _require(isinstance(a.scaler_, StandardScaler), "scaler_")
        for name in ("mean_", "var_", "scale_"):
            _check_array(f"scaler_.{name}", getattr(a.scaler_, name), (n_in,), "f")
        _require((a.scaler_.scale_ > 0).all(), "scaler_.scale_ must be positive")
        _require(a.scaler_.n_features_in_ == n_in, "scaler_.n_features_in_")
        seen = a.scaler_.n_samples_seen_
        _require(np.shape(seen) in ((), (n_in,)) and np.all(np.asarray(seen) >= 0), "scaler_")
    shapes = _check_model(a, n_in)
    _require(
        isinstance(a.history_, list)
        and all(
            isinstance(record, dict)
            and all(
                isinstance(losses, list) and all(isinstance(loss, float | int) for loss in losses)
                for losses in record.values()
            )
            for record in a.history_
        ),
        "history_",
    )
    if "random_state_" in fitted:
        _require(isinstance(a.random_state_, np.random.RandomState), "random_state_")
    if "optimizer_state_" in fitted:
        _check_optimizer(a.optimizer_state_, shapes)


#: The fitted attributes that a file can hold, and whether it must.
_FITTED = {
    "classes_": True,
    "embedder_": False,
    "evidence_": True,
    "false_action_rate_": True,
    "feature_names_in_": False,
    "group_names_": True,
    "history_": True,
    "identification_": True,
    "model_": True,
    "n_features_in_": True,
    "n_iter_": True,
    "n_signals_": True,
    "objective_": True,
    "one_dimensional_": True,
    "optimizer_state_": False,  # of partial_fit, as the next
    "propensity_columns_": True,
    "random_state_": False,
    "reward_columns_": True,
    "scaler_": True,
    "signal_names_in_": False,
}


class _Attributes:
    def __init__(self, values):
        vars(self).update(values)


def _check_array(name, value, shape, kinds):
    _require(isinstance(value, np.ndarray) and value.dtype.kind in kinds, f"{name} is no array")
    _require(value.shape == shape, f"{name} has shape {value.shape}, expected is {shape}")
    if kinds == "f":
        _require(np.isfinite(value).all(), f"{name} holds NaN or infinity")


def _check_model(a, n_in):
    """Check the heads against their arrays; return the shape of each parameter."""
    _require(isinstance(a.model_, dict) and set(a.model_) == {"config", "parameters"}, "model_")
    config, parameters = a.model_["config"], a.model_["parameters"]
    _require(isinstance(config, dict) and isinstance(parameters, dict), "model_")
    expected = inspect.signature(RewardModel).parameters
    _require(set(config) <= set(expected), f"model_ has unknown settings: {_listing(config)}")
    _require(
        config.get("n_in") == n_in
        and config.get("n_signals") == (1 if a.objective_.single_signal else a.n_signals_)
        and config.get("with_propensity") == a.objective_.models_propensity
        and config.get("propensity_form", "head") == a.objective_.propensity_form
        and config.get("auxiliary_head", False) == a.objective_.auxiliary_head
        and config.get("representation", False) == a.objective_.representation,
        "the heads belong to other columns, signals or another objective",
    )
    columns = HeadColumns(a.reward_columns_, a.propensity_columns_, a.n_features_in_).positions
    _require(
        (config.get("reward_columns"), config.get("propensity_columns")) == columns,
        "the heads read other columns than reward_columns_ and propensity_columns_ say",
    )
    for name in ("hidden_layer_sizes", "propensity_hidden_layer_sizes"):
        sizes = config.get(name)
        _require(isinstance(sizes, tuple) and len(sizes) <= len(parameters), name)
        _require(all(_is_count(size) and size > 0 for size in sizes), name)
    _require(_is_count(config.get("n_members")) and config["n_members"] > 0, "n_members")
    dropout = config.get("dropout", 0.0)
    _require(isinstance(dropout, int | float) and 0 <= dropout < 1, "dropout")
    with torch.device("meta"):  # shapes without memory
        model = RewardModel(**config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _require(set(shapes) == set(parameters), "the arrays of model_ are not those of its heads")
    for name, shape in shapes.items():
        value = parameters[name]
        _require(isinstance(value, np.ndarray), f"model_ {name} is no array")
        _require(value.dtype in (np.float32, np.float64), f"model_ {name} holds {value.dtype}")
        _require(value.shape == shape, f"model_ {name} has shape {value.shape}, not {shape}")
    _require(len({value.dtype for value in parameters.values()}) == 1, "model_ mixes formats")
    return [tuple(value.shape) for value in model.parameters()]


def _check_optimizer(state, shapes):
    _require(
        isinstance(state, dict) and set(state) == {"state", "param_groups"}, "optimizer_state_"
    )
    _require(len(state["param_groups"]) == 1, "optimizer_state_ has several groups")
    _require(state["param_groups"][0]["params"] == list(range(len(shapes))), "optimizer_state_")
    _require(set(state["state"]) <= set(range(len(shapes))), "optimizer_state_")
    for index, values in state["state"].items():
        for name, value in values.items():
            _require(
                isinstance(value, np.ndarray) and value.shape in ((), shapes[index]),
                f"optimizer_state_ {name:.40} does not fit the heads",
            )


# ---------------------------------------------------------------------- JSON


def _dump(value):
    """Return JSON with one line per parameter or attribute, for people who compare files."""

    def lines(value, depth):
        if not isinstance(value, dict) or not value or depth == 2:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        indent = "\n" + " " * depth
        items = [f"{json.dumps(key)}: {lines(item, depth + 1)}" for key, item in value.items()]
        return "{" + ",".join(f"{indent} {item}" for item in items) + indent + "}"

    return (lines(value, 0) + "\n").encode("utf-8", "surrogatepass")


def _digest(manifest):
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(content, name):
    def no_constant(text):
        raise ValueError(f"{text} is no JSON")

    def no_repeated_key(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        return json.loads(
            content.decode("utf-8", "surrogatepass"),
            parse_constant=no_constant,
            object_pairs_hook=no_repeated_key,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} is no valid JSON: {_short(error)}") from error


# ---------------------------------------------------------------------- files


def read(path):
    """Return the content of the files of a saved model, by name; only these are ever opened."""
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            errno.ENOENT, "there is no saved model (a folder or a zip archive)", str(path)
        ) from error
    try:
        if stat.S_ISDIR(mode):
            return read_folder(path)
        if not stat.S_ISREG(mode):
            raise ModelFileError("it is neither a folder nor a file.")
        return _read_zip(path)
    except ModelFileError as error:
        raise ModelFileError(f"{str(path)!r} cannot be loaded: {error}") from error.__cause__


def read_folder(folder, follow_links=False):
    """Read the files of a folder; links, which could lead anywhere, only if asked to."""
    files = {}
    for name in (MANIFEST, SETTINGS, ARRAYS):
        path = Path(folder) / name
        flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
        try:
            handle = os.open(path, flags)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise ModelFileError(
                    f"{name} is a symbolic link, which could lead anywhere. Copy the file."
                ) from error
            if isinstance(error, FileNotFoundError):
                raise ModelFileError(
                    f"the folder has no file {name}. A saved model has {MANIFEST}, {SETTINGS} "
                    f"and {ARRAYS}."
                ) from error
            raise
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{name} is no regular file.")
            _check_size(name, status.st_size)
            with open(handle, "rb", closefd=False) as file:
                files[name] = file.read(MAX_SIZE[name] + 1)
            _check_size(name, len(files[name]))
        finally:
            os.close(handle)
    return files


def _check_size(name, size):
    if size > MAX_SIZE[name]:
        raise ModelFileError(
            f"{name} has {size:,} bytes, more than the {MAX_SIZE[name]:,} that are opened."
        )


def _read_zip(path):
    wanted = {MANIFEST, SETTINGS, ARRAYS, CARD}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(members) > len(wanted) or not set(names) <= wanted:
                strange = [name for name in names if name not in wanted]
                raise ModelFileError(
                    f"the archive holds other members than those of a saved model: "
                    f"{_listing(map(repr, strange))}."
                )
            if len(set(names)) < len(names):
                raise ModelFileError("a member of the archive occurs twice.")
            missing = wanted - {CARD} - set(names)
            if missing:
                raise ModelFileError(f"the archive lacks {_listing(sorted(missing))}.")
            for member in members:
                _check_member(member, path.stat().st_size)
            files = {}
            for name in (MANIFEST, SETTINGS, ARRAYS):
                with archive.open(name) as file:
                    files[name] = file.read(MAX_SIZE[name] + 1)
                _check_size(name, len(files[name]))
            return files
    except (ModelFileError, PermissionError):
        raise
    # zipfile does not catch everything that a damaged archive leads to.
    except (zipfile.BadZipFile, OSError, EOFError, struct.error, *_SENSELESS) as error:
        raise ModelFileError(f"it is no valid zip archive: {_short(error)}") from error


def _check_member(member, archive_size):
    name = member.filename
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ModelFileError(f"{name} in the archive is a symbolic link.")
    # Uncompressed, a member cannot be larger than the archive: no bomb.
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise ModelFileError(f"{name} in the archive is compressed; saved models are not.")
    if member.flag_bits & 1:
        raise ModelFileError(f"{name} in the archive is encrypted.")
    _check_size(name, member.file_size)
    if member.file_size > archive_size:
        raise ModelFileError(f"{name} in the archive is said to be larger than the archive.")


def _write_zip(path, files):
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder is in the way of the archive", str(path))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # A fixed date: the same model gives the same bytes.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, tempfile.mkstemp) as (handle, temporary):
        with open(handle, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)


def _write_folder(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() or path.is_symlink():
        if not path.is_dir() or path.is_symlink():
            raise FileExistsError(errno.EEXIST, "something else than a folder is there", str(path))
        others = sorted({entry.name for entry in path.iterdir()} - set(files))
        if others:
            raise FileExistsError(
                errno.EEXIST,
                f"the folder holds files that are not of a saved model ({_listing(others)}), "
                "choose another",
                str(path),
            )
    with _temporary(path, lambda **kwargs: (None, tempfile.mkdtemp(**kwargs))) as (_, temporary):
        for name, content in files.items():
            with open(Path(temporary) / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o777 & ~_umask())
        if path.exists():
            # A folder cannot be replaced in one step: the old one stands aside until the new one
            # is there.
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent)) / "old"
            os.rename(path, old)
            try:
                os.rename(temporary, path)
            except OSError:
                os.rename(old, path)
                os.rmdir(old.parent)
                raise
            shutil.rmtree(old.parent, ignore_errors=True)
        else:
            os.rename(temporary, path)


@contextlib.contextmanager
def _temporary(path, make):
    """Make a temporary file or folder beside the target; remove it if it is left over."""
    handle, temporary = make(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        yield handle, temporary
    finally:
        if os.path.isdir(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
        elif os.path.exists(temporary):
            os.unlink(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------------- hub


def push_to_hub(est, repo_id, *, metrics, commit_message, private, token):
    """Upload a saved model; see `ImplicitRewardEstimator.push_to_hub`."""
    from huggingface_hub import HfApi

    files = to_files(est, metrics)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        # One commit, so that nobody ever downloads half of two models.
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message
        ).commit_url


def from_pretrained(cls, repo_id, *, revision, token, cache_dir):
    """Download a saved model; see `ImplicitRewardEstimator.from_pretrained`."""
    if Path(repo_id).expanduser().exists():
        if revision is not None:
            raise ValueError(f"{str(repo_id)!r} is a local path, which has no revision.")
        return load(cls, repo_id)
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        str(repo_id),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        allow_patterns=[MANIFEST, SETTINGS, ARRAYS],
    )
    try:
        files = read_folder(folder, follow_links=True)  # the cache of the hub is made of links
    except ModelFileError as error:
        raise ModelFileError(f"{str(repo_id)!r} cannot be loaded: {error}") from error.__cause__
    return from_files(cls, files, str(repo_id))
