"""Lightning callbacks that show what a network is learning, and raise an alert when it goes wrong.

Names are loaded when they are first used: the package can be imported without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vis_callbacks.alerts.alert import Alert as Alert
    from vis_callbacks.alerts.alert import Finding as Finding
    from vis_callbacks.alerts.alert import Rule as Rule
    from vis_callbacks.alerts.history import History as History
    from vis_callbacks.cards import Card as Card
    from vis_callbacks.defaults import default_monitors as default_monitors
    from vis_callbacks.engine.probe import Activation as Activation
    from vis_callbacks.engine.probe import Batch as Batch
    from vis_callbacks.engine.probe import Probe as Probe
    from vis_callbacks.engine.snapshot import Snapshot as Snapshot
    from vis_callbacks.layer_table import summary as summary
    from vis_callbacks.monitor import Monitor as Monitor
    from vis_callbacks.monitors.activation_maximization import (
        ActivationMaximizationMonitor as ActivationMaximizationMonitor,
    )
    from vis_callbacks.monitors.activations import ActivationMonitor as ActivationMonitor
    from vis_callbacks.monitors.embedding import EmbeddingMonitor as EmbeddingMonitor
    from vis_callbacks.monitors.filters import FilterMonitor as FilterMonitor
    from vis_callbacks.monitors.learning import LearningMonitor as LearningMonitor
    from vis_callbacks.monitors.occlusion import OcclusionMonitor as OcclusionMonitor
    from vis_callbacks.monitors.saliency import SaliencyMonitor as SaliencyMonitor
    from vis_callbacks.monitors.top_patches import TopPatchesMonitor as TopPatchesMonitor
    from vis_callbacks.reactions import AlertRaisedError as AlertRaisedError
    from vis_callbacks.report import Markdown as Markdown
    from vis_callbacks.report import Picture as Picture
    from vis_callbacks.report import Report as Report
    from vis_callbacks.report import RuleMetrics as RuleMetrics
    from vis_callbacks.report import Scalar as Scalar

__version__ = "0.1.0"

_NAMES = {
    "alerts.alert": ("Alert", "Finding", "Rule"),
    "alerts.history": ("History",),
    "cards": ("Card",),
    "defaults": ("default_monitors",),
    "engine.probe": ("Activation", "Batch", "Probe"),
    "engine.snapshot": ("Snapshot",),
    "layer_table": ("summary",),
    "monitor": ("Monitor",),
    "monitors.activation_maximization": ("ActivationMaximizationMonitor",),
    "monitors.activations": ("ActivationMonitor",),
    "monitors.embedding": ("EmbeddingMonitor",),
    "monitors.filters": ("FilterMonitor",),
    "monitors.learning": ("LearningMonitor",),
    "monitors.occlusion": ("OcclusionMonitor",),
    "monitors.saliency": ("SaliencyMonitor",),
    "monitors.top_patches": ("TopPatchesMonitor",),
    "reactions": ("AlertRaisedError",),
    "report": ("Markdown", "Picture", "Report", "RuleMetrics", "Scalar"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
