"""`LearningMonitor`: whether a network is learning at all."""

from vis_callbacks.monitors.learning.monitor import LearningMonitor

__all__ = ["LearningMonitor"]
