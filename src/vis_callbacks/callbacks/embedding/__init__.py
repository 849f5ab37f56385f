"""`EmbeddingMonitor`, and what it is made of."""

from vis_callbacks.callbacks.embedding.monitor import EmbeddingMonitor

__all__ = ["EmbeddingMonitor"]
