"""`SaliencyMonitor`: which parts of the input a class or a unit answers to."""

from vis_callbacks.monitors.saliency.monitor import SaliencyMonitor

__all__ = ["SaliencyMonitor"]
