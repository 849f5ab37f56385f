"""The states of units over a run, kept for a picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.analysis.unit_life import NOT_MEASURED

_VERSION = 2


class LifeRaster:
    """The states of units over time, for a picture of units by steps.

    Where it is full only every second of its columns stays, and from then on only every second
    snapshot is kept: columns are evenly spread over the run. The latest snapshot is always the
    last column. Of units that join later, nothing is known before (-1).

    Args:
        max_columns: 128 columns of 512 units are 64 kB; a picture shows no more.
    """

    def __init__(self, max_columns: int = 128) -> None:
        if max_columns < 2:
            raise ValueError(f"max_columns={max_columns} shows no course of time; give 2 or more")
        self.max_columns = max_columns
        self._steps: list[int] = []
        self._columns: list[Tensor] = []
        self._numbers: list[int] = []  # which snapshot a column is, counted from 0
        self._every = 1
        self._widths: dict[str, int] = {}

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each column."""
        return tuple(self._steps)

    def append(self, step: int, states: Tensor, widths: Mapping[str, int] | None = None) -> None:
        """Adds the states at one snapshot.

        Args:
            step: Of the snapshot.
            states: (units,)
            widths: Layers and how many of these units each has. A layer that has lost units
                begins anew.
        """
        widths = {"": len(states)} if widths is None else dict(widths)
        if widths != self._widths:
            self._lay_out(widths)
        number = self._numbers[-1] + 1 if self._numbers else 0
        self._thin()  # the latest so far need not stay
        self._steps.append(step)
        self._columns.append(states.detach().to(torch.int8))
        self._numbers.append(number)
        if len(self._columns) > self.max_columns:
            self._every *= 2
            self._thin(but=number)

    def table(self) -> Tensor:
        """Returns (units, columns) int8, on the device. Raises RuntimeError while empty."""
        if not self._columns:
            raise RuntimeError("no snapshot was appended yet; call `append` first")
        device = self._columns[-1].device
        return torch.stack([column.to(device) for column in self._columns], dim=1)

    def state(self) -> dict[str, Any]:
        """Returns plain values and a tensor for a checkpoint (``weights_only=True``)."""
        return {
            "version": _VERSION,
            "steps": list(self._steps),
            "numbers": list(self._numbers),
            "every": self._every,
            "widths": dict(self._widths),
            "table": self.table().cpu() if self._columns else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state back. Raises ValueError on one that is not ours."""
        try:
            steps = [int(step) for step in state["steps"]]
            numbers = [int(number) for number in state["numbers"]]
            columns = list(state["table"].unbind(1)) if steps else []
            every = int(state["every"])
            widths = {str(layer): int(width) for layer, width in state["widths"].items()}
            if state["version"] != _VERSION or every < 1:
                raise ValueError(f"version {state['version']!r}, every {every}")
            if not len(columns) == len(steps) == len(numbers):
                raise ValueError(f"{len(columns)} columns for {len(steps)} steps")
            if any(len(column) != sum(widths.values()) for column in columns):
                raise ValueError(f"columns that do not fit {widths}")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(
                f"not the state of a LifeRaster of version {_VERSION}: {error!r}; start afresh"
            ) from error
        self._steps, self._columns, self._numbers, self._every = steps, columns, numbers, every
        self._widths = widths

    def _lay_out(self, widths: dict[str, int]) -> None:
        """Brings the columns so far into the layout of other layers."""
        first = dict(zip(self._widths, accumulate((0, *self._widths.values())), strict=False))
        unknown = sum(self._widths.values())  # the place of a -1 behind each column
        places: list[int] = []
        for layer, width in widths.items():
            known = self._widths.get(layer, 0)
            known = known if known <= width else 0
            places += [first[layer] + unit for unit in range(known)]
            places += [unknown] * (width - known)
        for number, column in enumerate(self._columns):
            longer = torch.cat([column, column.new_full((1,), NOT_MEASURED)])
            self._columns[number] = longer[torch.tensor(places, device=column.device)]
        self._widths = widths

    def _thin(self, but: int = -1) -> None:
        """Keeps the columns that are evenly spread, and the snapshot numbered ``but``."""
        kept = [
            place
            for place, number in enumerate(self._numbers)
            if number % self._every == 0 or number == but
        ]
        if len(kept) < len(self._numbers):
            self._steps = [self._steps[place] for place in kept]
            self._columns = [self._columns[place] for place in kept]
            self._numbers = [self._numbers[place] for place in kept]
