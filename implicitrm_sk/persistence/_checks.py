"""The checks that a file describes a fitted estimator: one table, attribute by attribute."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from .._activity import UserActivity
from .._coincidences import Coincidences
from .._features import HeadColumns
from .._identification import Evidence, Identification
from ..embedding import LLMEmbedder
from ..exceptions import ImplicitRMError, ModelFileError
from ..measurement._model import GROUP_NAMES, Measurement
from ..measurement._signal import Signal
from ..objectives import Objective
from ..training._modules import RewardModel
from ..training._users import N_NODES
from ._files import SETTINGS, listing

#: Keys of the report of a run that tuned the language model.
TUNING = (
    "method",
    "base_model",
    "n_train",
    "n_held_out",
    "log_likelihood",
    "log_likelihood_frozen",
    "standard_error",
    "factors",
    "steps",
    "epochs",
    "learning_rate",
    "batch_size",
    "seed",
    "history",
)
#: Maximum number of columns of X; columns that no head reads have no array to compare with.
MAX_FEATURES = 2**24


def require(condition, message):
    """Raise ValueError with a message unless a condition holds."""
    if not condition:
        raise ImplicitRMError(message)


def is_count(value):
    """Return whether a value is a whole number from 0 on that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


# ---------------------------------------------------------------------- fitted attributes


class Fitted(SimpleNamespace):
    """Fitted attributes of a file, with the values that checks of several of them need."""

    @property
    def columns(self):
        """The columns that the two heads read."""
        return HeadColumns(self.reward_columns_, self.propensity_columns_, self.n_features_in_)

    def heads(self):
        """Return the heads as shapes, without memory."""
        with torch.device("meta"):
            return RewardModel(**self.model_["config"])


@dataclass(frozen=True)
class Field:
    """The requirements on a fitted attribute.

    Attributes
    ----------
    kind : type or union of types
    check : callable, default=None
        ``check(name, value, fitted)`` raises one of `SENSELESS` unless the value agrees with the
        attributes above it in the table.
    needed : bool, default=True
        Whether every file has it.
    """

    kind: Any
    check: Callable[[str, Any, Fitted], None] | None = None
    needed: bool = True


def _that(condition, message="holds a value that fit does not give it"):
    """Return the check that ``condition(value, fitted)`` holds."""
    return lambda name, value, fitted: require(condition(value, fitted), f"{name} {message}")


def _array(kinds, shape):
    """Return the check of an array's dtype, by its kinds, and of its ``shape(fitted)``."""
    return lambda name, value, fitted: _check_array(name, value, shape(fitted), kinds)


def _check_array(name, value, shape, kinds):
    require(isinstance(value, np.ndarray) and value.dtype.kind in kinds, f"{name} is not an array")
    require(value.shape == shape, f"{name} has shape {value.shape}, not {shape}")
    if kinds == "f":
        require(np.isfinite(value).all(), f"{name} holds NaN or infinity")


def _check_classes(name, value, fitted):
    _check_array(name, value, (2,), "i")
    require(value.tolist() == [0, 1], name)


def _check_rate(name, value, fitted):
    _check_array(name, value, (fitted.n_signals_,), "f")
    require(((value >= 0) & (value < 1)).all(), f"{name} outside [0, 1)")


def _swaps_rightly(found, fitted):
    return not found.swap_symmetric or fitted.objective_.swap_symmetric(fitted.n_signals_)


def _check_columns(name, value, fitted):
    _check_array(name, value, (value.size,), "i")
    require(
        value.size > 0
        and value[0] >= 0
        and value[-1] < fitted.n_features_in_
        and (np.diff(value) > 0).all(),
        f"{name} are not sorted positions of the {fitted.n_features_in_} columns",
    )


def _check_scaler(name, value, fitted):
    if value is None:
        return
    n_in = len(fitted.columns.used)
    for part in ("mean_", "var_", "scale_"):
        _check_array(f"{name}.{part}", getattr(value, part), (n_in,), "f")
    require((value.scale_ > 0).all(), f"{name}.scale_ must be positive")
    require(value.n_features_in_ == n_in, f"{name}.n_features_in_")
    seen = value.n_samples_seen_
    require(np.shape(seen) in ((), (n_in,)) and np.all(np.asarray(seen) >= 0), name)


def _examinations(fitted):
    """Return whether there can be a head for looking."""
    able = "shared_examination=True" in fitted.objective_.uses
    silent = all(signal.silence is not None for signal in fitted.signals_)
    return (False, True) if able and silent else (False,)


def _loads(fitted, config):
    """Return the loading of each logit, if users differ in activity."""
    if not hasattr(fitted, "user_loading_"):
        return None
    return Measurement(fitted.signals_, config.get("examination", False)).loads()


def _check_loading(name, value, fitted):
    n = fitted.n_signals_
    _check_array(name, value, (n + (value.size > n),), "f")
    require((value >= 0).all(), f"{name} must not be negative")


def _check_coincidences(name, value, fitted):
    n = len(value.column)
    for part, kinds in (("column", "i"), ("target", "i"), ("bounds", "b"), ("passive", "i")):
        _check_array(f"{name}.{part}", getattr(value, part), (n,), kinds)
    for part in ("logged", "acted", "both", "unequal"):
        _check_array(f"{name}.{part}", getattr(value, part), (n, n), "i")
    require(
        isinstance(value.counts_exposures, bool)
        and ((value.column >= 0) & (value.column < fitted.n_signals_)).all(),
        f"{name} does not fit the signals",
    )


def _check_activity(name, value, fitted):
    n = len(value.user_id)
    require(value.user_id.shape == (n,), f"{name}: the ids are not a vector")
    for part, kinds in (("mean", "f"), ("sd", "f"), ("n_rows", "i")):
        _check_array(f"{name}.{part}", getattr(value, part), (n,), kinds)
    shape = (n, 0, 0)
    if fitted.model_["config"].get("loads") is not None:
        shape = (n, fitted.model_["config"]["n_members"], N_NODES)
    _check_array(f"{name}.log_weight", value.log_weight, shape, "f")


def _check_model(name, value, fitted):
    """Check the heads against their arrays; nothing is allocated before its size is known."""
    require(set(value) == {"config", "parameters"}, name)
    config, parameters = value["config"], value["parameters"]
    require(isinstance(config, dict) and isinstance(parameters, dict), name)
    known = inspect.signature(RewardModel).parameters
    require(set(config) <= set(known), f"model_ has unknown settings: {listing(config)}")
    objective = fitted.objective_
    require(
        config.get("n_in") == len(fitted.columns.used)
        and config.get("n_signals")
        == (1 if objective.single_signal else Measurement(fitted.signals_).n_outputs)
        and config.get("examination", False) in _examinations(fitted)
        and config.get("loads") in (None, _loads(fitted, config))
        and config.get("shared_logits")
        == (None if objective.single_signal else Measurement(fitted.signals_).shared_logits())
        and config.get("with_propensity") == objective.models_propensity
        and config.get("propensity_form", "head") in (objective.propensity_form, "shared")
        and config.get("auxiliary_head", False) == objective.auxiliary_head
        and config.get("representation", False) == objective.representation,
        "the heads belong to other columns, signals or another objective",
    )
    require(
        (config.get("reward_columns"), config.get("propensity_columns"))
        == fitted.columns.positions,
        "the heads read other columns than reward_columns_ and propensity_columns_",
    )
    for part in ("hidden_layer_sizes", "propensity_hidden_layer_sizes"):
        sizes = config.get(part)
        require(isinstance(sizes, tuple) and len(sizes) <= len(parameters), part)
        require(all(is_count(size) and size > 0 for size in sizes), part)
    require(is_count(config.get("n_members")) and config["n_members"] > 0, "n_members")
    dropout = config.get("dropout", 0.0)
    require(isinstance(dropout, int | float) and 0 <= dropout < 1, "dropout")
    shapes = {part: tuple(array.shape) for part, array in fitted.heads().state_dict().items()}
    require(set(shapes) == set(parameters), "the arrays of model_ are not those of its heads")
    for part, shape in shapes.items():
        array = parameters[part]
        require(isinstance(array, np.ndarray), f"model_ {part} is not an array")
        require(array.dtype in (np.float32, np.float64), f"model_ {part} holds {array.dtype}")
        require(array.shape == shape, f"model_ {part} has shape {array.shape}, not {shape}")
    require(len({array.dtype for array in parameters.values()}) == 1, "model_ mixes formats")


def _is_signal(value):
    return isinstance(value, Signal)


def _are_losses(history, fitted):
    return all(
        isinstance(record, dict)
        and all(
            isinstance(losses, list) and all(isinstance(loss, float | int) for loss in losses)
            for losses in record.values()
        )
        for record in history
    )


def _are_columns(found, fitted):
    """Return whether a dict holds the names of columns, each with that of another or None."""
    return all(isinstance(k, str) and isinstance(v, str | None) for k, v in found.items())


def _is_tuning(found, fitted):
    texts = ("method", "base_model")
    numbers = set(TUNING) - {*texts, "factors", "history"}
    return (
        set(found) == set(TUNING)
        and all(isinstance(found[name], str) for name in texts)
        and all(isinstance(found[name], float | int) for name in numbers)
        and isinstance(found["factors"], list)
        and all(isinstance(factor, float) for factor in found["factors"])
        and isinstance(found["history"], list)
        and all(
            isinstance(entry, dict)
            and set(entry) == {"step", "log_likelihood"}
            and all(isinstance(value, float | int) for value in entry.values())
            for entry in found["history"]
        )
    )


def _check_optimizer(name, value, fitted):
    shapes = [tuple(parameter.shape) for parameter in fitted.heads().parameters()]
    require(set(value) == {"state", "param_groups"}, name)
    require(len(value["param_groups"]) == 1, f"{name} has several groups")
    require(value["param_groups"][0]["params"] == list(range(len(shapes))), name)
    require(set(value["state"]) <= set(range(len(shapes))), name)
    for index, arrays in value["state"].items():
        for part, array in arrays.items():
            require(
                isinstance(array, np.ndarray) and array.shape in ((), shapes[index]),
                f"{name} {part:.40} does not fit the heads",
            )


#: The fitted attributes that a file can hold, in the order in which they are checked.
FITTED = {
    "n_features_in_": Field(int, _that(lambda n, _: is_count(n) and 0 < n <= MAX_FEATURES)),
    "n_signals_": Field(int, _that(lambda n, _: is_count(n) and n > 0)),
    "signals_": Field(
        tuple,
        _that(lambda signals, a: len(signals) == a.n_signals_ and all(map(_is_signal, signals))),
    ),
    "n_iter_": Field(int, _that(lambda n, _: is_count(n))),
    "one_dimensional_": Field(
        bool, _that(lambda flat, a: not flat or a.n_signals_ == 1, "with several signals")
    ),
    "group_names_": Field(tuple, _that(lambda names, _: names == GROUP_NAMES)),
    "objective_": Field(Objective),
    "evidence_": Field(Evidence),
    "coincidences_": Field(Coincidences, _check_coincidences),
    "identification_": Field(
        Identification,
        _that(_swaps_rightly, "swaps reward and propensity, which these signals distinguish"),
    ),
    "classes_": Field(np.ndarray, _check_classes),
    "false_action_rate_": Field(np.ndarray, _check_rate),
    "user_loading_": Field(np.ndarray, _check_loading, needed=False),
    "embedder_": Field(
        LLMEmbedder,
        _that(lambda embedder, _: embedder.settled is not None, "lacks its settings"),
        needed=False,
    ),
    "feature_names_in_": Field(
        np.ndarray, _array("O", lambda a: (a.n_features_in_,)), needed=False
    ),
    "side_columns_": Field(
        tuple,
        _that(
            lambda names, a: (
                all(isinstance(name, str) for name in names) and len(names) < a.n_features_in_
            )
        ),
        needed=False,
    ),
    "signal_names_in_": Field(np.ndarray, _array("O", lambda a: (a.n_signals_,)), needed=False),
    # Set by the command `fit`, whose other commands read it: where an empty row is silent.
    "null_is_silent_": Field(dict, _that(_are_columns), needed=False),
    "reward_columns_": Field(np.ndarray, _check_columns),
    "propensity_columns_": Field(np.ndarray, _check_columns),
    "scaler_": Field(StandardScaler | None, _check_scaler),
    "model_": Field(dict, _check_model),
    "user_activity_": Field(UserActivity, _check_activity, needed=False),
    "history_": Field(list, _that(_are_losses)),
    "fine_tuning_": Field(dict, _that(_is_tuning), needed=False),
    # Set by partial_fit:
    "random_state_": Field(np.random.RandomState, needed=False),
    "optimizer_state_": Field(dict, _check_optimizer, needed=False),
}


def check_fitted(values):
    """Raise unless the fitted attributes have the types and shapes that `fit` gives them.

    A well-formed file may still be made to confuse. So no part is used before all parts agree, and
    nothing large is allocated before its size is known to be that of the arrays.
    """
    unknown = set(values) - set(FITTED)
    if unknown:
        raise ModelFileError(f"{SETTINGS} holds unknown attributes: {listing(sorted(unknown))}.")
    missing = {name for name, field in FITTED.items() if field.needed} - set(values)
    if missing:
        raise ModelFileError(f"{SETTINGS} lacks attributes: {listing(sorted(missing))}.")
    fitted = Fitted(**values)
    for name, field in FITTED.items():
        if name in values:
            value = values[name]
            kind = type(value).__name__
            require(isinstance(value, field.kind), f"{name} holds a value of type {kind}")
            if field.check is not None:
                field.check(name, value, fitted)
