"""`FilterMonitor`, and what it is made of."""

from vis_callbacks.monitors.filters.monitor import FilterMonitor

__all__ = ["FilterMonitor"]
