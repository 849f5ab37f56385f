"""Histories written by hand: what a rule would see."""

from __future__ import annotations

from collections.abc import Mapping

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.history import History

Entry = Mapping[str, Mapping[str, float]]


def layer_entry(layer: str = "fc", **numbers: float) -> dict[str, dict[str, float]]:
    """Returns a healthy layer of 64 units, read since step 0, with some numbers changed."""
    healthy = {
        metric_names.NUM_UNITS: 64.0,
        metric_names.NEWLY_DEAD: 0.0,
        metric_names.NEWLY_DEAD_LATE: 0.0,
        metric_names.NEVER_FIRED: 0.0,
        metric_names.NORM_AT_DEATH: float("nan"),
        metric_names.FIRST_DEATH_STEP: float("nan"),
        metric_names.WINDOW_SAMPLES: 160.0,
        metric_names.REFERENCE_STEP: 0.0,
    }
    return {metric: {layer: value} for metric, value in (healthy | numbers).items()}


def run_entry(**numbers: float) -> dict[str, dict[str, float]]:
    """Returns numbers of the whole run."""
    return {metric: {"": value} for metric, value in numbers.items()}


def history_of(*entries: Entry, every: int = 5) -> History:
    """Returns a history of these entries, ``every`` steps apart from step 0."""
    history = History()
    for number, entry in enumerate(entries):
        history.append(number * every, entry)
    return history


def joined_entries(*entries: Entry) -> dict[str, dict[str, float]]:
    """Returns one entry with the layers of all."""
    together: dict[str, dict[str, float]] = {}
    for entry in entries:
        for metric, by_layer in entry.items():
            together.setdefault(metric, {}).update(by_layer)
    return together
