"""The language model as a trainable module from tokens to vectors."""

import torch
from torch import nn

from ._compute import text_vectors


class Trunk(nn.Module):
    """A language model with pooling and rounding, from token numbers to the vectors of an embedder.

    Parameters
    ----------
    network : torch.nn.Module
        A model of transformers.
    pad : int
        Number of the padding token.
    pooling : {"mean", "last", "cls"}
    layer : int or None
        Index of the hidden state; None means the output of the last layer.
    normalize : bool
    output_dtype : str
        As in `LLMEmbedder`; gradients pass through the rounding.
    """

    def __init__(self, network, *, pad, pooling, layer, normalize, output_dtype):
        super().__init__()
        self.network = network
        self.pad = pad
        self.pooling = pooling
        self.layer = layer
        self.normalize = normalize
        self.output_dtype = getattr(torch, output_dtype)

    def forward(self, ids, mask=None, still=None):
        """Map token numbers and mask of shape (n, length) to vectors of shape (n, d).

        Columns in `still`, of bool of shape (d,), pass no gradient, also not through the norm.
        """
        vectors = text_vectors(self.network, ids, mask, self.pooling, self.layer)
        if still is not None:
            vectors = torch.where(still, vectors.detach(), vectors)
        vectors = vectors.to(self.output_dtype)
        if self.normalize:
            wide = vectors.to(torch.promote_types(self.output_dtype, torch.float32))
            norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            vectors = wide / norm.clamp_min(torch.finfo(wide.dtype).tiny)
            vectors = vectors.to(self.output_dtype)
        return vectors
