"""The methods that save a fitted estimator and load it again."""

from collections.abc import Mapping
from os import PathLike
from typing import Self

import numpy as np
import torch

from .._device import resolve_device
from .._warnings import warn
from ..training._modules import RewardModel
from . import _model


class PersistenceMixin:
    """The methods of `ImplicitRewardEstimator` that save, load and pickle it."""

    def save(
        self,
        path: str | PathLike[str],
        metrics: Mapping[str, float] | None = None,
        users: bool = False,
    ) -> None:
        """Save the fitted estimator in files that do not contain code.

        Settings are written to JSON, arrays to safetensors, and the facts for a reader to a model
        card (``README.md``). A manifest contains the format version and the SHA-256 of the files.
        Later versions can load files of this one. Everything is saved except callbacks, including
        the state from which `partial_fit` continues. For a language model (`embedder`), the name
        and fingerprint are saved, not the weights.

        Parameters
        ----------
        path : str or path-like
            A folder, or a file that ends in ``.zip``. It is first written beside its place and then
            moved there. It replaces a model saved there before. A folder with other files is not
            changed.
        metrics : dict of str to float, default=None
            Measured values for the model card, by name.
        users : bool, default=False
            Whether to save `user_activity_` too: the ids of users, and how readily each acts. These
            are personal data. Without them, every user counts as an average one after `load`.

        Raises
        ------
        ValueError
            If something cannot be saved without code: a callable as column selection, or an
            objective from outside this package.
        FileExistsError
            If something other than a saved model is at this path.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     est.save(f"{folder}/reward.zip", metrics={"AUROC on 200 rated answers": 0.84})
        ...     same = ImplicitRewardEstimator.load(f"{folder}/reward.zip")
        >>> bool((same.predict(X) == est.predict(X)).all())
        True
        """
        _model.save(self, path, metrics, users)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Load an estimator that `save` wrote, on any machine.

        Parameters
        ----------
        path : str or path-like
            Folder or zip archive.

        Returns
        -------
        est : ImplicitRewardEstimator
            On `device` if the machine has it, otherwise on the CPU with a warning.

        Raises
        ------
        ModelFileError
            If the files are incomplete, damaged, altered or of a newer format. Nothing in a file is
            ever executed, and nothing is written. The SHA-256 finds accidents only: a person who
            can change all the files can change it too. Load models only from people you trust to
            have trained them well.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     est.save(f"{folder}/reward")
        ...     same = ImplicitRewardEstimator.load(f"{folder}/reward")
        >>> same.n_signals_
        2
        """
        return _model.load(cls, path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the fitted estimator to the Hugging Face hub, in the files of `save`.

        Parameters
        ----------
        repo_id : str
            ``"user/name"``; the repository is created if it does not exist.
        metrics : dict of str to float, default=None
            As in `save`.
        commit_message : str, default=None
            Message in the history of the hub.
        private : bool, default=None
            Whether a new repository is private. None means the default of the organisation.
        token : str, default=None
            Access token; None means that of ``hf auth login``.

        Returns
        -------
        url : str
            URL of the commit.

        Raises
        ------
        ValueError
            As in `save`.

        Examples
        --------
        >>> from implicitrm_sk import ImplicitRewardEstimator  # doctest: +SKIP
        >>> est = ImplicitRewardEstimator.load("reward")  # doctest: +SKIP
        >>> est.push_to_hub("user/reward", private=True)  # doctest: +SKIP
        """
        return _model.push_to_hub(
            self,
            repo_id,
            metrics=metrics,
            commit_message=commit_message,
            private=private,
            token=token,
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
    ) -> Self:
        """Load an estimator from the Hugging Face hub, or from a local path.

        Parameters
        ----------
        repo_id : str
            ``"user/name"`` on the hub, or a path as in `load`.
        revision : str, default=None
            Branch, tag or commit. Only a commit always means the same files.
        token : str, default=None
            Access token; None means that of ``hf auth login``.
        cache_dir : str or path-like, default=None
            Folder of the downloads; None means the cache of huggingface_hub.

        Returns
        -------
        est : ImplicitRewardEstimator

        Raises
        ------
        ModelFileError
            As in `load`.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:  # "user/reward" for one of the hub
        ...     est.save(f"{folder}/reward")
        ...     same = ImplicitRewardEstimator.from_pretrained(f"{folder}/reward")
        >>> same.n_features_in_
        2
        """
        return _model.from_pretrained(
            cls, repo_id, revision=revision, token=token, cache_dir=cache_dir
        )

    def __getstate__(self):
        # Plain arrays, which pickle, joblib and skops read on machines without the device.
        state = super().__getstate__().copy()
        if "model_" in state:
            state["model_"] = {
                "config": self.model_.config,
                "parameters": {
                    name: value.cpu().numpy() for name, value in self.model_.state_dict().items()
                },
            }
        if "optimizer_state_" in state:
            state["optimizer_state_"] = _map_tensors(
                state["optimizer_state_"], torch.Tensor, lambda tensor: tensor.cpu().numpy()
            )
        return state

    def __setstate__(self, state):
        state = dict(state)
        if "model_" in state:
            model = RewardModel(**state["model_"]["config"])
            parameters = _map_tensors(
                state["model_"]["parameters"], np.ndarray, lambda array: torch.tensor(array)
            )
            model.to(next(iter(parameters.values())).dtype)
            model.load_state_dict(parameters)
            try:
                device = resolve_device(state["device"])
            except ValueError:
                warn(
                    f"device={state['device']!r} is not available here, so the estimator was "
                    "loaded on the CPU. Set device before fitting again."
                )
                device = torch.device("cpu")
            state["model_"] = model.to(device)
        if "optimizer_state_" in state:
            state["optimizer_state_"] = _map_tensors(
                state["optimizer_state_"], np.ndarray, lambda array: torch.tensor(array)
            )
        super().__setstate__(state)


def _map_tensors(tree, kind, convert):
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map_tensors(value, kind, convert) for value in tree]
    return tree
