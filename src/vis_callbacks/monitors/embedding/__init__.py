"""`EmbeddingMonitor`, and what it is made of."""

from vis_callbacks.monitors.embedding.monitor import EmbeddingMonitor

__all__ = ["EmbeddingMonitor"]
