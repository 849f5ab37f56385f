"""`ActivationMonitor`, and what it is made of."""

from vis_callbacks.monitors.activations.monitor import ActivationMonitor

__all__ = ["ActivationMonitor"]
