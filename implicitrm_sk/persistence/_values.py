"""Values of a saved model as JSON, with arrays by name, from one table of kinds."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from .._activity import UserActivity
from .._coincidences import Coincidences
from .._identification import Evidence, Identification
from .._sklearn import validate_params
from .._warnings import warn
from ..embedding import LLMEmbedder, LowRankAdapter
from ..exceptions import ImplicitRMError, ModelFileError
from ..objectives import OBJECTIVES, Objective
from ..signals import Action, Choice, Graded
from ._checks import is_count, require
from ._files import SENSELESS, SETTINGS, listing, short


class Codec:
    """Converts values to JSON and back, and keeps the arrays, which JSON names.

    Parameters
    ----------
    arrays : dict of str to ndarray, default=None
        The arrays of a file. Each must be requested exactly once; an array left over has no use.
    """

    def __init__(self, arrays=None):
        self.arrays = {} if arrays is None else arrays
        #: Adapters met already, by digest: the parameter and the fitted embedder share one.
        self.adapters = {}

    def encode(self, value, name):
        """Return JSON for a value; `name` names it in messages, and names its arrays."""
        if value is None or isinstance(value, bool | str):
            return value
        for kind, functions in KINDS.items():
            if functions.holds(value):
                return {kind: functions.encode(value, name, self)}
        if isinstance(value, int | float):
            return value
        if isinstance(value, list):
            return [self.encode(item, f"{name}.{i}") for i, item in enumerate(value)]
        raise _unsupported(value, name)

    def decode(self, content):
        """Return the value that JSON describes."""
        if isinstance(content, list):
            return [self.decode(item) for item in content]
        if not isinstance(content, dict):
            return content
        if len(content) != 1:
            raise ModelFileError(f"{SETTINGS} holds an object with the keys {listing(content)}.")
        ((kind, inner),) = content.items()
        if kind not in KINDS:
            raise ModelFileError(f"{SETTINGS} holds a value of the unknown kind {kind[:60]!r}.")
        try:
            return KINDS[kind].decode(inner, self)
        except ModelFileError:
            raise
        except SENSELESS as error:
            raise ModelFileError(f"{SETTINGS} holds an invalid {kind}: {short(error)}") from error


@dataclass(frozen=True)
class Kind:
    """How values of one kind are recognised, written and read.

    Attributes
    ----------
    holds : callable
        ``holds(value)`` returns whether a value is of this kind.
    encode : callable
        ``encode(value, name, codec)`` returns JSON.
    decode : callable
        ``decode(content, codec)`` returns the value, or raises one of `SENSELESS`.
    """

    holds: Callable[[Any], bool]
    encode: Callable[[Any, str, Codec], Any]
    decode: Callable[[Any, Codec], Any]


def _made_of(holds, take_apart, put_together):
    """Return a kind of values that consist of simpler ones, which the codec knows."""
    return Kind(
        holds,
        lambda value, name, codec: codec.encode(take_apart(value), name),
        lambda content, codec: put_together(codec.decode(content)),
    )


def _any(cls):
    return lambda value: isinstance(value, cls)


def _just(cls):
    """Return whether a value is exactly of a class; a derived class may hold more."""
    return lambda value: type(value) is cls


def _unsupported(value, name):
    if isinstance(value, Objective):
        return ImplicitRMError(
            f"{name} is an objective of class {type(value).__qualname__}, which is not part of "
            "this package. A file that is safe to open does not contain code, so this objective "
            "cannot be saved. Pickle the estimator, or add the class to implicitrm_sk.objectives. "
            f"Names that can be saved: {', '.join(OBJECTIVES)}."
        )
    kind = type(value).__qualname__
    if isinstance(value, np.ndarray):
        kind += f" of dtype {value.dtype}"
    if callable(value) and name.endswith("_features"):
        return ImplicitRMError(
            f"{name} is a callable ({kind}), and a file that is safe to open does not contain "
            "code. Save its selection instead: "
            f"est.set_params({name}=est.{name.replace('features', 'columns_')})."
        )
    return ImplicitRMError(
        f"{name} holds a {kind}, which cannot be saved: a file that is safe to open holds only "
        "numbers, strings and arrays. Set it to one of these, or pickle the estimator."
    )


# ---------------------------------------------------------------------- of Python


def _is_not_finite(value):
    return isinstance(value, float) and not math.isfinite(value)


def _float(text):
    if text not in ("nan", "inf", "-inf"):
        raise ImplicitRMError(f"{text!r:.60} is not nan, inf or -inf")
    return float(text)


def _tuple(items):
    require(isinstance(items, list), "a tuple is a list of values")
    return tuple(items)


def _is_dict(value):
    return isinstance(value, dict) and all(isinstance(key, str | int) for key in value)


def _encode_dict(value, name, codec):
    return [[key, codec.encode(item, f"{name}.{key}")] for key, item in value.items()]


def _decode_dict(content, codec):
    pairs = [(key, codec.decode(item)) for key, item in content]
    require(all(isinstance(key, str | int) for key, _ in pairs), "keys are strings or numbers")
    require(len(dict(pairs)) == len(pairs), "a key occurs twice")
    return dict(pairs)


def _parts_of_slice(value):
    return [value.start, value.stop, value.step]


def _slice(parts):
    return slice(*parts)


def _path(text):
    require(isinstance(text, str), "a path is a string")
    return Path(text)


# ---------------------------------------------------------------------- of NumPy


def _is_number(value):
    return isinstance(value, np.number | np.bool_) and value.dtype.kind in "biuf"


def _parts_of_number(value):
    return [value.dtype.name, value.item()]


def _number(parts):
    kind, value = parts
    dtype = np.dtype(kind)
    require(dtype.kind in "biuf" and dtype.name == kind, f"{kind!r:.40} is not a kind of number")
    return dtype.type(value)


def _are_strings(value):
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "OUT"
        and value.ndim == 1
        and all(isinstance(item, str) for item in value)
    )


def _encode_strings(value, name, codec):
    return [str(item) for item in value]


def _decode_strings(content, codec):
    require(all(isinstance(item, str) for item in content), "an item is not a string")
    return np.array(content, dtype=object)


def _is_array(value):
    return (
        isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8
    )


def _encode_array(value, name, codec):
    native = value.dtype.newbyteorder("=")
    codec.arrays[name] = np.array(value, dtype=native, order="C")  # keeps 0-d arrays 0-d
    return name


def _decode_array(content, codec):
    require(content in codec.arrays, f"{content!r:.80} is missing or used twice")
    return codec.arrays.pop(content)


def _state_of_generator(generator):
    return generator.get_state(legacy=False)


def _generator(state):
    require(state["bit_generator"] == "MT19937", "the generator is not MT19937")
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


# ---------------------------------------------------------------------- of scikit-learn and ours

#: Kinds of signals by their names in a file.
SIGNALS = {"action": Action, "choice": Choice, "graded": Graded}
_SCALER = ("mean_", "var_", "scale_", "n_samples_seen_", "n_features_in_")


def _parts_of_scaler(scaler):
    return {name: vars(scaler)[name] for name in _SCALER}


def _scaler(fitted):
    require(set(fitted) == set(_SCALER), f"it has {listing(fitted)}")
    scaler = StandardScaler()
    vars(scaler).update(fitted)
    return scaler


def _evidence(counts):
    require(all(is_count(count) for count in counts.values()), "counts are whole numbers")
    return Evidence(**counts)


def _coincidences(parts):
    require(set(parts) == {f.name for f in fields(Coincidences)}, f"it has {listing(parts)}")
    require(np.ndim(parts["column"]) == 1, "the acts are not a vector")
    return Coincidences(**parts)


def _user_activity(parts):
    require(all(isinstance(part, np.ndarray) for part in parts.values()), "it lacks arrays")
    return UserActivity(**parts)


def _identification(fields):
    found = Identification(**fields)
    require(
        isinstance(found.level, str)
        and isinstance(found.reason, str)
        and isinstance(found.against, str)
        and isinstance(found.swap_symmetric, bool)
        and all(
            isinstance(texts, tuple) and all(isinstance(text, str) for text in texts)
            for texts in (found.assumptions, found.advice)
        ),
        "its fields are texts",
    )
    return found


#: Arguments of `from_pretrained`, with their values, that a file may hold. Others could run code:
#: ``weights_only=False`` opens pickles, and a kernel of the hub can be named as an attention.
_MODEL_KWARGS = {
    "attn_implementation": (
        "eager", "flash_attention_2", "flash_attention_3", "flex_attention", "sdpa",
    ),
    "use_safetensors": (True, False, None),
}  # fmt: skip


def check_model_kwargs(model_kwargs):
    """Raise ValueError if arguments of an embedder's model could make it run code."""
    for name, value in (model_kwargs or {}).items():
        if name == "gguf_file" and isinstance(value, str):
            continue
        if name not in _MODEL_KWARGS or value not in _MODEL_KWARGS[name]:
            raise ImplicitRMError(
                f"model_kwargs of the embedder holds {name}={value!r:.60}, which a file that is "
                "safe to open may not contain. Save without it, and set it again after loading: "
                "est.embedder_.set_params(model_kwargs=...)."
            )


def _parts_of_embedder(embedder):
    parameters = embedder.get_params(deep=False)
    check_model_kwargs(parameters["model_kwargs"])
    if getattr(embedder, "commit_", None) is not None:
        parameters["revision"] = embedder.commit_
    return [parameters, embedder.settled]


def _encode_adapter(adapter, name, codec):
    content = {"digest": adapter.digest}
    if adapter.digest not in codec.adapters:
        codec.adapters[adapter.digest] = adapter
        content |= {
            part: _encode_dict(getattr(adapter, part), f"{name}.{part}", codec)
            for part in ("down", "up")
        }
    return content


def _decode_adapter(content, codec):
    digest = content["digest"]
    if set(content) == {"digest", "down", "up"}:
        adapter = LowRankAdapter(*(_decode_dict(content[part], codec) for part in ("down", "up")))
        require(adapter.digest == digest, "its numbers are not those of its digest")
        codec.adapters[digest] = adapter
    require(digest in codec.adapters, f"{digest!r:.60} is not in the file")
    return codec.adapters[digest]


def _embedder(parts):
    parameters, settled = parts
    refused = []
    # The author of the file must not decide what runs, or where something is written.
    if parameters.get("trust_remote_code"):
        parameters["trust_remote_code"] = False
        refused.append("trust_remote_code=True")
    if parameters.get("cache_dir") not in ("auto", None):
        refused.append(f"cache_dir={str(parameters['cache_dir'])[:80]!r}")
        parameters["cache_dir"] = "auto"
    embedder = LLMEmbedder(**parameters)
    validate_params(embedder)
    check_model_kwargs(embedder.model_kwargs)
    if settled is not None:
        embedder.pin(settled)
        if refused:
            warn(
                f"the embedder had {' and '.join(refused)}, which is not taken from a file. To use "
                "it, call est.embedder_.set_params(...)."
            )
    return embedder


def _parts_of_signal(signal):
    (kind,) = (name for name, cls in SIGNALS.items() if type(signal) is cls)
    return [kind, signal.get_params()]


def _signal(parts):
    kind, params = parts
    require(kind in SIGNALS, f"{kind!r:.60} is not one of {', '.join(SIGNALS)}")
    return SIGNALS[kind](**params)


def _is_objective(value):
    return type(value) in OBJECTIVES.values()


def _parts_of_objective(objective):
    (name,) = (name for name, cls in OBJECTIVES.items() if type(objective) is cls)
    return [name, dict(vars(objective))]


def _objective(parts):
    name, state = parts
    require(name in OBJECTIVES, f"{name!r:.60} is not one of {', '.join(OBJECTIVES)}")
    objective = OBJECTIVES[name]()
    fitted = set(state) - set(vars(objective))
    require(set(vars(objective)) <= set(state), f"{name} has {listing(vars(objective))}")
    require(
        all(
            key.endswith("_")
            and not key.startswith("_")
            and np.isfinite(np.asarray(state[key], dtype=float)).all()
            for key in fitted
        ),
        f"{name} may only learn numbers, with names that end in an underscore",
    )
    vars(objective).update(state)
    return objective


# ---------------------------------------------------------------------- the table

#: The kinds of values that a file can hold, beside those of JSON itself. The first kind that holds
#: a value writes it.
KINDS = {
    "number": _made_of(_is_number, _parts_of_number, _number),
    "float": _made_of(_is_not_finite, repr, _float),
    "tuple": _made_of(_any(tuple), list, _tuple),
    "slice": _made_of(_any(slice), _parts_of_slice, _slice),
    "dict": Kind(_is_dict, _encode_dict, _decode_dict),
    "strings": Kind(_are_strings, _encode_strings, _decode_strings),
    "array": Kind(_is_array, _encode_array, _decode_array),
    "standard_scaler": _made_of(_just(StandardScaler), _parts_of_scaler, _scaler),
    "random_state": _made_of(_any(np.random.RandomState), _state_of_generator, _generator),
    "evidence": _made_of(_just(Evidence), asdict, _evidence),
    "coincidences": _made_of(_just(Coincidences), vars, _coincidences),
    "identification": _made_of(_just(Identification), asdict, _identification),
    "user_activity": _made_of(_just(UserActivity), vars, _user_activity),
    "path": _made_of(_any(os.PathLike), os.fspath, _path),
    "adapter": Kind(_just(LowRankAdapter), _encode_adapter, _decode_adapter),
    "embedder": _made_of(_just(LLMEmbedder), _parts_of_embedder, _embedder),
    "signal": _made_of(lambda value: type(value) in SIGNALS.values(), _parts_of_signal, _signal),
    "objective": _made_of(_is_objective, _parts_of_objective, _objective),
}
