"""`ActivationMonitor`, and what it is made of."""

from vis_callbacks.callbacks.activations.monitor import ActivationMonitor

__all__ = ["ActivationMonitor"]
