"""Embeddings of text by language models, computed once and kept on disk."""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._adapter import LowRankAdapter
    from ._embedder import LLMEmbedder
    from ._ray import embed_dataset
    from ._store import EmbeddingStore
    from ._text import response_text

__all__ = ["EmbeddingStore", "LLMEmbedder", "LowRankAdapter", "embed_dataset", "response_text"]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "_adapter": ("LowRankAdapter",),
        "_embedder": ("LLMEmbedder",),
        "_ray": ("embed_dataset",),
        "_store": ("EmbeddingStore",),
        "_text": ("response_text",),
    },
)
