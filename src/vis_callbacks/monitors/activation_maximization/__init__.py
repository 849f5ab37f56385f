"""`ActivationMaximizationMonitor`, and what it is made of."""

from vis_callbacks.monitors.activation_maximization.monitor import ActivationMaximizationMonitor

__all__ = ["ActivationMaximizationMonitor"]
