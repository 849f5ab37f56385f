"""`SaliencyMonitor`, and what it is made of."""

from vis_callbacks.callbacks.saliency.monitor import SaliencyMonitor

__all__ = ["SaliencyMonitor"]
