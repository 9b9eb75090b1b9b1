"""The file of a fit in progress, and the fingerprint that shows which fit it belongs to."""

import functools
import hashlib
import json
import os
import re
from contextlib import closing
from itertools import pairwise
from reprlib import recursive_repr
from types import MethodType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.base import BaseEstimator

from .._sources import read_ahead
from ..exceptions import ImplicitRMError
from ..objectives import Objective

_FORMAT = "implicitrm_sk checkpoint 1"


#: Numbers that are hashed at once, so that no device needs to hold, or send, a second X.
_N_HASHED = 2**22


class TrainingState:
    """The file of a fit, and the fingerprint that shows which fit it belongs to.

    Parameters
    ----------
    path : Path
    settings : dict of str to str
    columns : tuple of ndarray of int
        The columns of X that the heads read.
    history : list of dict
        History of the estimator; filled with that of the file.
    """

    def __init__(self, path, settings, columns, history):
        self.path = path
        self.fingerprint = {
            "settings": settings,
            "columns in use": _digest(*map(torch.as_tensor, columns)),
        }
        self.history = history
        #: Whether the file belongs to this fit.
        self.is_own = False

    def restore(self, net, parts, epochs):
        """Return the progress that the file holds for a net, None if there is no file.

        Parameters
        ----------
        net : RewardNet
        parts : list of ResidentRows or None
            Rows; the first entry is for training.
        epochs : int
            Maximum number of epochs in total.
        """
        found = self._read()
        if found is not None:
            self._check(found[0]["fingerprint"])  # before all data are read
        self.fingerprint |= {
            "X": _digest(*_rows(parts[0])),
            "actions, weights, groups or other data": _digest(
                *(value for part in parts if part is not None for value in _log(part))
            ),
            "initial weights": _digest(*net.module_.state_dict().values()),
        }
        if found is None:
            return None
        state, tensors = found
        self._check(state["fingerprint"])
        trained = state["progress"]["epoch"]
        if trained > epochs:
            raise ImplicitRMError(
                f"the checkpoint {str(self.path)!r} has {trained} epochs, more than "
                f"max_epochs={epochs}. Set max_epochs to {trained} or more to continue, or remove "
                "the file to start again."
            )
        self.is_own = True
        progress = state["progress"] | {"vectors": {}, "tensors": {}}
        progress["generator"] = tensors.pop("generator")
        for key, value in tensors.items():
            kind, name, *index = key.split("/")
            if index:
                progress[kind].setdefault(name, {})[int(index[0])] = value
            else:
                progress[kind][name] = value
        progress["tensors"] = {
            name: [values[index] for index in sorted(values)]
            for name, values in progress["tensors"].items()
        }
        self.history[:] = state["history"]
        for record in state["history"]:
            net.history.new_epoch()
            for name, value in record.items():
                net.history.record(name, value)
        return progress

    def save(self, progress):
        """Write `MembersInTraining.progress` after an epoch, all or nothing."""
        rest = {
            name: value
            for name, value in progress.items()
            if name not in ("generator", "vectors", "tensors")
        }
        tensors = {"generator": progress["generator"]}
        tensors |= {f"vectors/{name}": value for name, value in progress["vectors"].items()}
        for name, values in progress["tensors"].items():
            tensors |= {f"tensors/{name}/{index}": value for index, value in enumerate(values)}
        state = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "history": self.history,
            "progress": rest,
        }
        content = save(tensors, {"state": json.dumps(state)})
        unfinished = self.path.with_name(self.path.name + ".unfinished")
        with open(unfinished, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self.path)
        self.is_own = True

    def remove(self):
        """Remove the file of a fit that is done, if the fit wrote it or continued from it."""
        if self.is_own:
            self.path.unlink(missing_ok=True)

    def _read(self):
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                state = json.loads((file.metadata() or {}).get("state", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ImplicitRMError(
                f"{str(self.path)!r} is not a readable checkpoint ({error}). Remove it to start "
                "again."
            ) from error
        if state.get("format") != _FORMAT:
            raise ImplicitRMError(
                f"{str(self.path)!r} is not a checkpoint of this version of implicitrm_sk. Remove "
                "it to start again."
            )
        return state, tensors

    def _check(self, found):
        differing = [name for name in self.fingerprint if found.get(name) != self.fingerprint[name]]
        if not differing:
            return
        if "settings" in differing:
            old, new = found["settings"], self.fingerprint["settings"]
            differing = [
                f"{name} ({_shown(old.get(name))} then, {_shown(new.get(name))} now)"
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
        raise ImplicitRMError(
            f"the checkpoint {str(self.path)!r} belongs to another fit, which differs in "
            f"{', '.join(differing)}. Fit with the same settings and data to continue, or remove "
            "the file to start again."
        )


@recursive_repr("...")
def settled(value):
    """Return a text that identifies a setting and is the same in every process."""
    if isinstance(value, np.ndarray):
        return f"array({value.tolist()})"  # NumPy leaves out the middle of long ones
    if isinstance(value, functools.partial):
        args = [*map(settled, value.args)]
        named = {name: settled(each) for name, each in sorted(value.keywords.items())}
        return f"partial({settled(value.func)}, {args}, {named})"
    if isinstance(value, MethodType):
        return f"{settled(value.__self__)}.{value.__name__}"
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    if isinstance(value, BaseEstimator) and not isinstance(value, Objective):
        state = value.get_params(deep=False)
    elif isinstance(value, Objective) or type(value).__repr__ is object.__repr__:
        state = getattr(value, "__dict__", {})
    else:
        return re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))
    state = {name: settled(each) for name, each in sorted(state.items())}
    return f"{type(value).__module__}.{type(value).__qualname__}({state})"


def _shown(text):
    return text if text is None or len(text) <= 200 else f"{text[:197]}..."


def _rows(part):
    """Return all parts of X of a part of the data."""
    if isinstance(part.X, torch.Tensor):
        return (part.X,)
    return part.X.source, part.columns, part.mean, part.scale


def _log(part):
    """Return all other data of a part, and the state from which its batches and pairs are drawn."""
    partners = part.partners and (
        getattr(part.partners, name) for name in ("order", "size", "start", "block", "block_size")
    )
    return (
        *part.rows.values(),
        *part.responses.values(),
        part.sample_weight,
        part.part,
        part.offsets,
        *(partners or ()),
    )


def _digest(*values):
    """Return a hash of tensors, sources and None, independent of device and blocks."""
    digest = hashlib.blake2b()
    for value in values:
        if value is None:
            digest.update(b"None")
            continue
        is_tensor = isinstance(value, torch.Tensor)
        kind = value.dtype if is_tensor else value.stored
        digest.update(repr((tuple(value.shape), kind)).encode())
        with closing(_pieces(value) if is_tensor else read_ahead(_blocks(value))) as pieces:
            for piece in pieces:
                digest.update(piece.cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _pieces(tensor):
    yield from tensor.detach().flatten().split(_N_HASHED)


def _blocks(source):
    for start, stop in pairwise(source.edges()):
        yield source.read(start, stop)
