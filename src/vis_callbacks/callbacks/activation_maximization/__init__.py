"""`ActivationMaximizationMonitor`, and what it is made of."""

from vis_callbacks.callbacks.activation_maximization.monitor import ActivationMaximizationMonitor

__all__ = ["ActivationMaximizationMonitor"]
