"""Low-rank changes of the weights of a language model, as fine-tuning with LoRA makes them."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..exceptions import ImplicitRMError


@dataclass(frozen=True, eq=False)
class LowRankAdapter:
    """The changes that LoRA (Hu et al. 2022) makes to the weights of a language model.

    The weight W of a linear layer becomes W + B A. Two adapters are equal if their numbers are
    equal.

    Parameters
    ----------
    down : dict of str to ndarray of float32 of shape (rank, n_in)
        A of each layer, by the name of its module in ``AutoModel``.
    up : dict of str to ndarray of float32 of shape (n_out, rank)
        B of each layer, including the scaling of LoRA.

    Attributes
    ----------
    digest : str
        Hash of names and numbers.

    Raises
    ------
    ValueError
        If the two do not have the same layers and ranks.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from implicitrm_sk.embedding import LowRankAdapter
    >>> adapter = LowRankAdapter({"0": np.ones((1, 3), "f4")}, {"0": np.ones((2, 1), "f4")})
    >>> network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    >>> before = network[0].weight.detach().clone()
    >>> adapter.add_to(network)
    >>> (network[0].weight.detach() - before).round()
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """

    down: dict[str, Any]
    up: dict[str, Any]
    digest: str = field(init=False)

    def __post_init__(self):
        if not self.down or set(self.down) != set(self.up):
            raise ImplicitRMError(
                f"down and up must hold the same layers, at least one: got {len(self.down)} and "
                f"{len(self.up)}. Pass both matrices of each layer."
            )
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self.down):
            a, b = self.down[name], self.up[name]
            for array in (a, b):
                if not isinstance(array, np.ndarray) or array.dtype != np.float32:
                    raise ImplicitRMError(
                        f"layer {name!r:.80} has another type; expected arrays of float32. Convert "
                        "it with astype."
                    )
                if not np.isfinite(array).all():
                    raise ImplicitRMError(
                        f"layer {name!r:.80} holds NaN or infinity; expected finite numbers. Train "
                        "the adapter again."
                    )
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
                raise ImplicitRMError(
                    f"layer {name!r:.80}: down has shape {a.shape} and up {b.shape}; expected "
                    "(rank, n_in) and (n_out, rank). Transpose or correct them."
                )
            digest.update(f"{name}\0{a.shape}{b.shape}".encode())
            digest.update(np.ascontiguousarray(a).tobytes())
            digest.update(np.ascontiguousarray(b).tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())

    def __eq__(self, other):
        return isinstance(other, LowRankAdapter) and self.digest == other.digest

    def __hash__(self):
        return hash(self.digest)

    def __repr__(self):
        ranks = [len(a) for a in self.down.values()]
        rank = str(ranks[0]) if len(set(ranks)) == 1 else f"{min(ranks)} to {max(ranks)}"
        return f"LowRankAdapter({len(self.down)} layers, rank {rank}, {self.digest[:8]})"

    def add_to(self, network: torch.nn.Module) -> None:
        """Add the changes to the weights of a model, in place.

        Parameters
        ----------
        network : torch.nn.Module
            The base model, as ``AutoModel.from_pretrained`` returns it.

        Raises
        ------
        ValueError
            If the model lacks a layer, or its shape differs.

        Examples
        --------
        >>> import numpy as np
        >>> import torch
        >>> from implicitrm_sk.embedding import LowRankAdapter
        >>> adapter = LowRankAdapter({"1": np.ones((1, 3), "f4")}, {"1": np.ones((2, 1), "f4")})
        >>> adapter.add_to(torch.nn.Sequential(torch.nn.Linear(3, 2)))
        Traceback (most recent call last):
            ...
        implicitrm_sk.exceptions.ImplicitRMError: the model lacks the layer '1', which the adapter
        changes. Use its base model.
        """
        from transformers.pytorch_utils import Conv1D

        modules = dict(network.named_modules())
        for name, down in self.down.items():
            weight = getattr(modules.get(name), "weight", None)
            if weight is None:
                raise ImplicitRMError(
                    f"the model lacks the layer {name!r:.80}, which the adapter changes. Use its "
                    "base model."
                )
            change = torch.as_tensor(self.up[name]) @ torch.as_tensor(down)
            if isinstance(modules[name], Conv1D):  # its weight is transposed
                change = change.T
            if change.shape != weight.shape:
                raise ImplicitRMError(
                    f"layer {name!r:.80} has a weight of shape {tuple(weight.shape)}, but the "
                    f"adapter changes one of {tuple(change.shape)}. Use its base model."
                )
            with torch.no_grad():
                # Added at least in float32: otherwise a small change loses half of its digits.
                wide = torch.promote_types(weight.dtype, torch.float32)
                weight.copy_(weight.to(wide) + change.to(weight.device, wide))
