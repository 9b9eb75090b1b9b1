"""Text in: embeddings by language models, computed once and kept on disk."""

from ._embedder import LLMEmbedder
from ._ray import embed_dataset
from ._store import EmbeddingStore

__all__ = ["EmbeddingStore", "LLMEmbedder", "embed_dataset"]
