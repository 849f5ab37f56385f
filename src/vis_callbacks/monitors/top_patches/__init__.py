"""`TopPatchesMonitor`, and what it is made of."""

from vis_callbacks.monitors.top_patches.monitor import TopPatchesMonitor

__all__ = ["TopPatchesMonitor"]
