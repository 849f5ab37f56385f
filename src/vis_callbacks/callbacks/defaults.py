"""`default_monitors`: what an ordinary training is watched by."""

from __future__ import annotations

from typing import Unpack

from vis_callbacks.callbacks.activations.monitor import ActivationMonitor
from vis_callbacks.callbacks.embedding.monitor import EmbeddingMonitor
from vis_callbacks.callbacks.filters.monitor import FilterMonitor
from vis_callbacks.callbacks.monitor import Monitor
from vis_callbacks.callbacks.options import MonitorOptions
from vis_callbacks.callbacks.saliency.monitor import SaliencyMonitor


def default_monitors(**options: Unpack[MonitorOptions]) -> list[Monitor]:
    """Returns fresh monitors of activations, filters, features and saliency.

    These four cost little enough to be left on. The other three are added by hand, for they
    take many passes (`OcclusionMonitor`, `ActivationMaximizationMonitor`) or must be told which
    layers to look at (`TopPatchesMonitor`).

    Args:
        **options: Given to each of them, such as ``class_names``, ``mean`` and ``std``; see
            `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    Example:
        >>> [type(monitor).__name__ for monitor in default_monitors()]
        ['ActivationMonitor', 'FilterMonitor', 'EmbeddingMonitor', 'SaliencyMonitor']
    """
    kinds = (ActivationMonitor, FilterMonitor, EmbeddingMonitor, SaliencyMonitor)
    return [kind(**options) for kind in kinds]
