"""Numbers per layer over the snapshots: all that a rule may look at."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vis_callbacks.alerts.metric_names import FIRST_OCCURRENCES


@dataclass(frozen=True)
class FirstOccurrence:
    """The first snapshot at which a metric was above 0, and the layers where it was."""

    step: int
    layers: tuple[str, ...]


class History:
    """Keeps the first entry, and the latest ``max_entries``, of named numbers per layer.

    An entry is one snapshot: ``step`` and, for each metric, a number per layer. A number of
    the whole run has the one layer ``""``. NaN means "not known": a metric or a layer that a
    snapshot does not mention is NaN there.

    Args:
        max_entries: The latest snapshots to keep, beside the first. The longest look back of
            the rules here is 10 snapshots; the rest is for drawing.
        first_occurrences: Metrics whose first value above 0 is remembered for the whole run.
    """

    def __init__(
        self, max_entries: int = 256, *, first_occurrences: Sequence[str] = FIRST_OCCURRENCES
    ) -> None:
        self.max_entries = max_entries
        self.first_occurrences = tuple(first_occurrences)
        self._steps: list[int] = []
        self._columns: dict[str, dict[str, array[float]]] = {}
        self._first_occurrences: dict[str, FirstOccurrence] = {}

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the entries, the first and then the latest."""
        return tuple(self._steps)

    def append(self, step: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        """Adds one snapshot: by metric, a number for each layer. NaN means "not known".

        Raises:
            ValueError: The step lies before the latest one.
        """
        if self._steps and step < self._steps[-1]:
            raise ValueError(
                f"step {step} lies before the latest, {self._steps[-1]}; start a new History for"
                " a new run"
            )
        num_before = len(self._steps)
        self._steps.append(int(step))
        for metric, by_layer in metrics.items():
            columns = self._columns.setdefault(metric, {})
            for layer, value in by_layer.items():
                if layer not in columns:
                    columns[layer] = array("d", [math.nan]) * num_before
                columns[layer].append(float(value))
        self._fill_and_trim()
        for metric in self.first_occurrences:
            above = tuple(layer for layer, value in metrics.get(metric, {}).items() if value > 0)
            if above and metric not in self._first_occurrences:
                self._first_occurrences[metric] = FirstOccurrence(int(step), above)

    def layers(self, metric: str, entry: int = -1) -> tuple[str, ...]:
        """Returns the layers that have a known number in an entry, the latest one if not said."""
        columns = self._columns.get(metric, {})
        return tuple(layer for layer, column in columns.items() if not math.isnan(column[entry]))

    def at(self, entry: int, metric: str, layer: str = "") -> float:
        """Returns the number in an entry (0 the first, -1 the latest), NaN if it is not known."""
        column = self._columns.get(metric, {}).get(layer)
        return column[entry] if column else math.nan

    def latest(self, metric: str, layer: str = "") -> float:
        """Returns the number in the latest entry, NaN if it is not known."""
        return self.at(-1, metric, layer)

    def first(self, metric: str, layer: str = "") -> float:
        """Returns the number in the first entry of all, NaN if it is not known."""
        return self.at(0, metric, layer)

    def series(self, metric: str, layer: str = "") -> tuple[float, ...]:
        """Returns the number in each entry, one for each of `steps`."""
        column = self._columns.get(metric, {}).get(layer)
        return (math.nan,) * len(self) if column is None else tuple(column)

    def known(self, metric: str, layer: str = "") -> list[float]:
        """Returns the number in those entries that have it, in their order."""
        return [value for value in self.series(metric, layer) if not math.isnan(value)]

    def smoothed(self, metric: str, layer: str = "", *, keep: float = 0.7) -> float:
        """Returns the exponential average over the entries: ``keep`` old + the rest new.

        0.7 is what the thresholds on the loss were measured with: noise of single batches is
        gone after some four snapshots.
        """
        average = math.nan
        for value in self.series(metric, layer):
            if math.isnan(average):
                average = value
            elif not math.isnan(value):
                average = keep * average + (1 - keep) * value
        return average

    def first_occurrence(self, metric: str) -> FirstOccurrence | None:
        """Returns when this one of ``first_occurrences`` was first above 0, or None."""
        return self._first_occurrences.get(metric)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint (loads with ``weights_only=True``)."""
        return {
            "steps": list(self._steps),
            "columns": [
                [metric, layer, list(column)]
                for metric, columns in self._columns.items()
                for layer, column in columns.items()
            ],
            "first_occurrences": {
                metric: [mark.step, list(mark.layers)]
                for metric, mark in self._first_occurrences.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state back; what a larger ``max_entries`` had kept is trimmed.

        Raises:
            KeyError, TypeError, ValueError: The state is not ours.
        """
        self._steps = list(array("q", state["steps"]))
        if sorted(self._steps) != self._steps:
            raise ValueError(f"the steps of a history go back: {self._steps}")
        self._columns = {}
        for metric, layer, values in state["columns"]:
            if len(values) != len(self._steps):
                raise ValueError(f"{metric}/{layer} has {len(values)} of {len(self)} numbers")
            self._columns.setdefault(str(metric), {})[str(layer)] = array("d", values)
        self._first_occurrences = {
            str(metric): FirstOccurrence(int(step), tuple(map(str, layers)))
            for metric, (step, layers) in dict(state["first_occurrences"]).items()
        }
        self._fill_and_trim()

    def _fill_and_trim(self) -> None:
        """Gives every column one number for each step, and drops the second-oldest entries."""
        num_entries = len(self._steps)
        surplus = max(0, num_entries - 1 - self.max_entries)
        for columns in self._columns.values():
            for column in columns.values():
                if len(column) < num_entries:
                    column.append(math.nan)
                del column[1 : 1 + surplus]
        del self._steps[1 : 1 + surplus]
