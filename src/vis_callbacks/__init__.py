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
    from vis_callbacks.callbacks.activation_maximization import (
        ActivationMaximizationMonitor as ActivationMaximizationMonitor,
    )
    from vis_callbacks.callbacks.defaults import default_monitors as default_monitors
    from vis_callbacks.callbacks.embedding import EmbeddingMonitor as EmbeddingMonitor
    from vis_callbacks.callbacks.monitor import Monitor as Monitor
    from vis_callbacks.callbacks.occlusion import OcclusionMonitor as OcclusionMonitor
    from vis_callbacks.callbacks.reactions import AlertRaisedError as AlertRaisedError
    from vis_callbacks.engine.probe import Activation as Activation
    from vis_callbacks.engine.probe import Batch as Batch
    from vis_callbacks.engine.probe import Probe as Probe
    from vis_callbacks.engine.snapshot import Snapshot as Snapshot
    from vis_callbacks.layer_table import summary as summary
    from vis_callbacks.monitors.activations import ActivationMonitor as ActivationMonitor
    from vis_callbacks.monitors.filters import FilterMonitor as FilterMonitor
    from vis_callbacks.monitors.saliency import SaliencyMonitor as SaliencyMonitor
    from vis_callbacks.monitors.top_patches import TopPatchesMonitor as TopPatchesMonitor
    from vis_callbacks.report import Image as Image
    from vis_callbacks.report import Readings as Readings
    from vis_callbacks.report import Report as Report
    from vis_callbacks.report import Scalar as Scalar
    from vis_callbacks.report import Text as Text

__version__ = "0.1.0"

_HOME = {
    "ActivationMaximizationMonitor": "callbacks.activation_maximization",
    "ActivationMonitor": "monitors.activations",
    "Activation": "engine.probe",
    "Alert": "alerts.alert",
    "AlertRaisedError": "callbacks.reactions",
    "Batch": "engine.probe",
    "EmbeddingMonitor": "callbacks.embedding",
    "FilterMonitor": "monitors.filters",
    "Finding": "alerts.alert",
    "History": "alerts.history",
    "Image": "report",
    "Monitor": "callbacks.monitor",
    "OcclusionMonitor": "callbacks.occlusion",
    "Probe": "engine.probe",
    "Readings": "report",
    "Report": "report",
    "Rule": "alerts.alert",
    "SaliencyMonitor": "monitors.saliency",
    "Scalar": "report",
    "Snapshot": "engine.snapshot",
    "Text": "report",
    "TopPatchesMonitor": "monitors.top_patches",
    "default_monitors": "callbacks.defaults",
    "summary": "layer_table",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
