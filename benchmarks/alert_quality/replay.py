"""Today's rules on what the monitors have remembered of a training, as if it were run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vis_callbacks import ActivationMonitor, FilterMonitor, LearningMonitor
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.tracker import AlertTracker

MONITORS = (ActivationMonitor, FilterMonitor, LearningMonitor)


def replayed(histories: Mapping[str, Mapping[str, Any]]) -> list[Alert]:
    """Returns the alerts, in their order, by what each monitor's history holds.

    Monitors that look at the same step explain each other's findings, as in a run.
    """
    entries = {kind: _entries(histories[kind.stem]) for kind in MONITORS}
    trackers = {kind: AlertTracker(kind.stem) for kind in MONITORS}
    known = {kind: History(max_entries=10**6) for kind in MONITORS}
    for step in sorted({step for of_kind in entries.values() for step in of_kind}):
        judged = {}
        for kind in MONITORS:
            if step in entries[kind]:
                history = known[kind]
                history.append(step, entries[kind][step])
                judged[kind] = [(rule, rule.check(history)) for rule in kind.rules]
        causes = [alert for tracker in trackers.values() for alert in tracker.active]
        for kind, found in judged.items():
            causes += trackers[kind].certain(found, step)
        for kind, found in judged.items():
            trackers[kind].update(found, step=step, stage="fit", causes=causes)
    alerts = [alert for tracker in trackers.values() for alert in tracker.alerts]
    return sorted(alerts, key=lambda alert: alert.step)


def _entries(state: Mapping[str, Any]) -> dict[int, dict[str, dict[str, float]]]:
    """Returns what was appended to a history at each step; all it keeps are there."""
    entries: dict[int, dict[str, dict[str, float]]] = {step: {} for step in state["steps"]}
    for metric, layer, values in state["columns"]:
        for step, value in zip(state["steps"], values, strict=True):
            entries[step].setdefault(metric, {})[layer] = value
    return entries
