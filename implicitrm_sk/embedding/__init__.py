"""Text in: embeddings by language models, computed once and kept on disk."""

from ._embedder import LLMEmbedder
from ._store import EmbeddingStore

__all__ = ["EmbeddingStore", "LLMEmbedder"]
