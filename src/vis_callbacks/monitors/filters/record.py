"""What is remembered of a layer's filters: where they began, and how they looked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.engine.snapshot import Group
from vis_callbacks.monitors.filters.noise import energy_of, roughness
from vis_callbacks.monitors.filters.science import decay_rate, input_roughness
from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread

_FEW, _FEWER, _FEWEST = 36, 25, 12  # filters of a frame: six a side, five if they are large
_LARGE_KERNEL = 12
_MAX_FRAME_VALUES = 2**16


class FilterRecord:
    """The past of one layer.

    Args:
        initial: (filters, channels, *kernel), what changes are seen from.
        step: Of the snapshot that it begins with.
        is_before_update: Whether these are the filters before the update of that step.
    """

    def __init__(self, initial: Tensor, step: int, *, is_before_update: bool) -> None:
        self.first_step = step
        self.strip = FilmStrip()
        self._decay, self._decay_rate = 0.0, math.nan  # the exponent so far
        self._decay_step = step - 1 if is_before_update else step
        self._num_first = len(initial)  # the strip chooses among these
        self._input_roughness: Tensor | None = None
        self._places: Tensor | None = None
        self._begin(initial.clone())
        self.append(step, initial)

    def _begin(self, initial: Tensor) -> None:
        self.initial = initial
        self.initial_energy, self.initial_roughness = (
            energy_of(initial),
            roughness(initial).nanmean(),
        )

    def append(self, step: int, filters: Tensor) -> None:
        """Adds how the filters look after a step, as a frame of the strip."""
        if not self.strip.steps or step > self.strip.steps[-1]:
            # Not in half precision: changes of a thousandth would look rough by its rounding.
            self.strip.add(step, filters=self.of_strip(filters).float())

    def of_strip(self, values: Tensor) -> Tensor:
        """Returns the rows of values (filters, ...) whose filters the strip shows."""
        return values.index_select(0, self._index(values))

    def _index(self, filters: Tensor) -> Tensor:
        """Returns `strip_places` on the device: a list would be sent there at each snapshot."""
        if self._places is None or self._places.device != filters.device:
            self._places = torch.tensor(self.strip_places, device=filters.device)
        return self._places

    def grow(self, filters: Tensor) -> bool:
        """Takes in filters that joined behind the known ones; their changes count from now on.

        Returns:
            Whether these can be the known filters and more; if not, nothing changes.
        """
        num_known = len(self.initial)
        if len(filters) <= num_known or filters.shape[1:] != self.initial.shape[1:]:
            return False
        self._begin(torch.cat([self.initial, filters[num_known:].to(self.initial)]))
        return True

    @property
    def strip_places(self) -> list[int]:
        """Which filters the strip shows: evenly spread, the same ones at every step."""
        num_values = self.initial[0].numel()
        few = _FEWER if max(self.initial.shape[2:]) > _LARGE_KERNEL else _FEW
        few = few if self.initial.shape[1] in (1, 3) else _FEWEST  # a map for each channel
        return evenly_spread(self._num_first, max(1, min(few, _MAX_FRAME_VALUES // num_values)))

    def input_roughness(self, inputs: Tensor | None) -> Tensor:
        """Returns the roughness of the reference samples, read once; NaN where there are none.

        Args:
            inputs: (samples, channels, *positions), as the layer's filters meet them.
        """
        if inputs is None:
            return self.initial.new_full((), math.nan)
        if self._input_roughness is None:
            of_inputs = input_roughness(inputs, self.initial.shape[2:])
            self._input_roughness = of_inputs.to(self.initial)
        return self._input_roughness

    def decay_left(self, step: int, group: Group | None) -> float:
        """Returns the factor that weight decay alone has left since the first step.

        The learning rate between two snapshots is taken to change evenly. The result is NaN
        where weight decay acts through Adam's normalisation, or the optimizer is not known.
        """
        if group is None:
            return math.nan
        rate = decay_rate(group.kind, group.lr, group.weight_decay, group.momentum)
        before = rate if math.isnan(self._decay_rate) else self._decay_rate
        self._decay += (step - self._decay_step) * (before + rate) / 2
        self._decay_rate, self._decay_step = rate, step
        return math.exp(-self._decay)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "initial": self.initial.detach().cpu(),
            "first_step": self.first_step,
            "strip": self.strip.state_dict(),
            "num_first": self._num_first,
            "decay": [self._decay, self._decay_rate, self._decay_step],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> FilterRecord:
        """Returns the record that `state_dict` told of."""
        record = cls(state["initial"], int(state["first_step"]), is_before_update=False)
        record.strip.load_state_dict(state["strip"])
        record._num_first, record._places = int(state["num_first"]), None
        record._decay, record._decay_rate, record._decay_step = state["decay"]
        return record

    def to(self, device: torch.device) -> FilterRecord:
        """Returns itself, moved to where the weights are."""
        if self.initial.device != device:
            self._begin(self.initial.to(device))
            self._input_roughness = None
        return self
