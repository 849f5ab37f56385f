"""`FilterMonitor`, and what it is made of."""

from vis_callbacks.callbacks.filters.monitor import FilterMonitor

__all__ = ["FilterMonitor"]
