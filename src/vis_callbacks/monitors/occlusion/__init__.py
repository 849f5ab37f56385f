"""`OcclusionMonitor`, and what it is made of."""

from vis_callbacks.monitors.occlusion.monitor import OcclusionMonitor

__all__ = ["OcclusionMonitor"]
