"""What the rules ask about gradients and updates of single weights."""

from __future__ import annotations

import math
from statistics import median

from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import GRADIENT_NORM, PARAMETER_NORM, UPDATE_NORM


def update_ratios(history: History, entry: int) -> dict[str, float]:
    """Returns update / weight at one step of each weight of which both are known."""
    return {
        layer: update / norm
        for layer in history.layers(UPDATE_NORM, entry)
        if (norm := history.at(entry, PARAMETER_NORM, layer)) > 0
        and math.isfinite(update := history.at(entry, UPDATE_NORM, layer))
    }


def median_update(history: History, entry: int = -1) -> float:
    """Returns the median, over the weights, of update / weight at one step; NaN: not known."""
    ratios = update_ratios(history, entry).values()
    return median(ratios) if ratios else math.nan


def has_no_gradient(history: History, entry: int) -> bool:
    """Whether weights were read at an entry, and all of them had a gradient of exactly 0."""
    layers = history.layers(GRADIENT_NORM, entry)
    return bool(layers) and all(history.at(entry, GRADIENT_NORM, layer) == 0 for layer in layers)


def path_of(history: History) -> float:
    """Returns the length of the weights' path, in their norms: the sum of all median updates.

    Between two snapshots each step counts as the later one.
    """
    length, before = 0.0, history.steps[0]
    for entry, step in enumerate(history.steps):
        update = median_update(history, entry)
        if not math.isnan(update):
            length += update * (step - before)
        before = step
    return length
