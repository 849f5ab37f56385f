"""`default_monitors`: what an ordinary training is watched by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.monitors.embedding.monitor import EmbeddingMonitor
from vis_callbacks.monitors.filters.monitor import FilterMonitor
from vis_callbacks.monitors.learning.monitor import LearningMonitor
from vis_callbacks.monitors.saliency.monitor import SaliencyMonitor
from vis_callbacks.on_alert import OTHERS, check_kinds, kinds_in
from vis_callbacks.options import MonitorOptions, check_names, described_options, list_options


def default_monitors(**options: Unpack[MonitorOptions]) -> list[Monitor]:
    """Returns fresh monitors of activations, filters, features, saliency and learning.

    These five cost little enough to be used in every training. The other three must be added by
    hand, since they need many passes (`OcclusionMonitor`, `ActivationMaximizationMonitor`) or
    slow down each validation batch (`TopPatchesMonitor`).

    In a YAML file of ``LightningCLI``, a class path is one callback, so the five are listed::

        trainer:
          callbacks:
            - class_path: vis_callbacks.ActivationMonitor
            - class_path: vis_callbacks.FilterMonitor
            - class_path: vis_callbacks.EmbeddingMonitor
            - class_path: vis_callbacks.SaliencyMonitor
            - class_path: vis_callbacks.LearningMonitor
              init_args: {on_alert: stop}  # options, here and for the others

    Args:
        **options: Passed to each of them, such as ``class_names``, ``mean`` and ``std``; see
            `Monitor`. Of ``enabled_alerts``, and of ``on_alert`` by kind, each gets only its own
            kinds.

    Raises:
        TypeError, ValueError: An option is wrong, or none of them has a kind of alert.

    Examples:
        >>> [type(monitor).__name__ for monitor in default_monitors()]
        ['ActivationMonitor', 'FilterMonitor', 'EmbeddingMonitor', 'SaliencyMonitor',
         'LearningMonitor']
    """
    kinds = (
        ActivationMonitor,
        FilterMonitor,
        EmbeddingMonitor,
        SaliencyMonitor,
        LearningMonitor,
    )
    enabled, on_alert = options.get("enabled_alerts"), options.get("on_alert")
    check_names("enabled_alerts", enabled)
    known, owner = [rule.kind for kind in kinds for rule in kind.rules], "none of them"
    check_kinds("enabled_alerts", enabled or (), known, owner)
    check_kinds("on_alert", kinds_in(on_alert), known, owner)
    monitors: list[Monitor] = []
    for kind in kinds:
        own = {rule.kind for rule in kind.rules}
        if enabled is not None:
            options["enabled_alerts"] = [name for name in enabled if name in own]
        if isinstance(on_alert, Mapping):
            options["on_alert"] = {k: v for k, v in on_alert.items() if k in {*own, *OTHERS}}
        monitors.append(kind(**options))
    return monitors


list_options(default_monitors, {})
default_monitors.__doc__ = described_options(default_monitors.__doc__, Monitor.__doc__)
