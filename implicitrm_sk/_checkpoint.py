"""Fits that go on where they were interrupted."""

import hashlib
import json
import os
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .objectives import Objective

_FORMAT = "implicitrm_sk checkpoint 1"
#: They change nothing of an epoch.
_FREE = ("max_epochs", "verbose")
#: How many rows of X stand for all of them.
_N_SAMPLED = 1024


class Checkpoint:
    """Callback that keeps an unfinished `fit` in a file, from which the next `fit` goes on.

    After each epoch everything that training depends on is written: weights, state of the
    optimiser, best weights of each member, generators, history. A `fit` with the same settings and
    data that finds the file goes on after its last epoch, and ends with the weights that an
    uninterrupted one would have: bit for bit on a CPU with the same number of threads. When a fit
    is done the file is removed.

    Parameters
    ----------
    path : str or path-like
        The file; written beside its place first and then moved there. One per fit: not for an
        estimator within a search.

    Raises
    ------
    ValueError
        By `fit`, if the file is of other settings or data, or is no such file; if `random_state`
        is not an integer, without which a fit cannot be repeated.

    Examples
    --------
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from implicitrm_sk import Checkpoint, ImplicitRewardEstimator
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = np.column_stack([X[:, 0] > 0, X[:, 0] > 0.5]).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     est = est.set_callbacks(Checkpoint(f"{folder}/reward.checkpoint"))
    ...     est = est.fit(X, y)  # started anew after an interruption, it goes on from the file
    ...     print(os.listdir(folder))  # it is done
    []
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path

    # ------------------------------------------------------------------ callback protocol

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the fit can be repeated."""
        if not isinstance(estimator.random_state, Integral):
            raise ValueError(
                f"random_state={estimator.random_state!r}, but a fit that goes on from a "
                "Checkpoint has to repeat what was drawn: set random_state to an integer."
            )

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing."""

    def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None:
        """Do nothing."""

    def on_fit_task_end(self, estimator: Any, context: Any, **_: Any) -> None:
        """Remove the file of a fit that is done."""
        if context.task_name == "fit":
            Path(self.path).expanduser().unlink(missing_ok=True)

    # ------------------------------------------------------------------ for the engine

    @classmethod
    def of(cls, estimator: Any) -> "TrainingState | None":
        """Return the state of an estimator's fit, None where it has no such callback.

        Parameters
        ----------
        estimator : ImplicitRewardEstimator
            With a `history_`.

        Returns
        -------
        state : TrainingState or None
            For the training engine.

        Examples
        --------
        >>> from implicitrm_sk import Checkpoint, ImplicitRewardEstimator
        >>> Checkpoint.of(ImplicitRewardEstimator()) is None
        True
        """
        for callback in getattr(estimator, "_skl_callbacks", ()):
            if isinstance(callback, cls):
                return TrainingState(
                    Path(callback.path).expanduser(),
                    {
                        name: _settled(value)
                        for name, value in estimator.get_params(deep=False).items()
                        if name not in _FREE
                    },
                    estimator.history_,
                )
        return None


class TrainingState:
    """The file of a fit, and how to tell that it is of this one.

    Parameters
    ----------
    path : Path
    settings : dict of str to str
    history : list of dict
        Of the estimator; filled with what the file holds.
    """

    def __init__(self, path, settings, history):
        self.path = path
        self.settings = settings
        self.history = history

    def restore(self, net, parts):
        """Return the progress that the file holds for a net, None if there is no file.

        Parameters
        ----------
        net : RewardNet
        parts : list of ResidentRows or None
        """
        self.fingerprint = {
            "settings": self.settings,
            "X": _digest(_sampled(part.X) for part in parts if part is not None),
            "actions, weights, groups or other data": _digest(
                value
                for part in parts
                if part is not None
                for value in (
                    *part.rows.values(), *part.responses.values(), part.sample_weight, part.part
                )
            ),
            "initial weights": _digest(net.module_.state_dict().values()),
        }  # fmt: skip
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                state = json.loads((file.metadata() or {}).get("state", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{str(self.path)!r} is no checkpoint that can be read ({error}). Remove it to "
                "start anew."
            ) from error
        if state.get("format") != _FORMAT:
            raise ValueError(
                f"{str(self.path)!r} is no checkpoint of this version of implicitrm_sk. Remove it "
                "to start anew."
            )
        self._check(state["fingerprint"])
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

    def _check(self, found):
        differing = [name for name in self.fingerprint if found.get(name) != self.fingerprint[name]]
        if not differing:
            return
        if "settings" in differing:
            old, new = found["settings"], self.settings
            differing = [
                f"{name} ({old.get(name)} then, {new.get(name)} now)"
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
        raise ValueError(
            f"the checkpoint {str(self.path)!r} is of another fit: it differs in "
            f"{', '.join(differing)}. Fit with the same settings and data to go on, or remove the "
            "file to start anew."
        )


def _settled(value):
    if isinstance(value, Objective):
        return f"{type(value).__qualname__}({dict(sorted(vars(value).items()))})"
    return repr(value)


def _sampled(X):
    """Return some rows of X, evenly spaced, as a tensor."""
    if isinstance(X, torch.Tensor):
        rows = np.linspace(0, len(X) - 1, min(_N_SAMPLED, len(X))).astype(int)
        return X[torch.from_numpy(rows).to(X.device)]
    # From where blocks begin: reading a row of parquet elsewhere decodes those before it.
    edges = np.array(X.source.edges())
    starts = edges[np.unique(np.linspace(0, len(edges) - 2, _N_SAMPLED // 16).astype(int))]
    return torch.cat([X.source.read(i, min(i + 16, len(X))) for i in starts.tolist()])


def _digest(tensors):
    digest = hashlib.sha256()
    for value in tensors:
        digest.update(repr((tuple(value.shape), value.dtype)).encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
