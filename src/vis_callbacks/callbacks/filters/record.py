"""What is remembered of a layer's filters: where they began, and how they looked on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.analysis.filter_noise import energy_of, roughness
from vis_callbacks.analysis.filters import decay_rate, input_roughness
from vis_callbacks.analysis.selection import evenly_spread
from vis_callbacks.engine.snapshot import Group
from vis_callbacks.render.film_strip import kept_frames

_MAX_FRAMES = 8
_FEW, _FEWER, _FEWEST = 36, 25, 12  # filters of a frame: six a side, five if they are large
_LARGE_KERNEL = 12
_MAX_FRAME_VALUES = 2**16


@dataclass
class FilterRecord:
    """The past of one layer.

    Attributes:
        initial: (filters, channels, *kernel), what changes are seen from.
        first_step: Of these: 0 for the weights before the first update.
        steps: Of the frames: the first, log-spaced ones, the latest.
        frames: (filters of the strip, channels, *kernel)
    """

    initial: Tensor
    first_step: int
    steps: list[int] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)
    _initial_energy: Tensor | None = None  # these can be had again: not in the state
    _initial_roughness: Tensor | None = None
    _input_roughness: Tensor | None = None
    _places: Tensor | None = None
    _num_first: int = 0  # filters that the strip chooses among: those there were at first
    _decay: float = 0.0  # the exponent so far
    _decay_rate: float = math.nan
    _decay_step: int = 0

    @classmethod
    def begun(cls, filters: Tensor, step: int, *, is_initial: bool) -> FilterRecord:
        """Returns a record that begins with these filters.

        Args:
            filters: (filters, channels, *kernel); copied.
            step: Of the snapshot.
            is_initial: They are those before the step's update, not after it.
        """
        record = cls(
            initial=filters.clone(), first_step=step, _decay_step=step - 1 if is_initial else step
        )
        record.append(step, filters)
        return record

    def append(self, step: int, filters: Tensor) -> None:
        """Adds how the filters look after a step."""
        if self.steps and step <= self.steps[-1]:
            return
        self.steps.append(step)
        # Not in half precision: changes of a thousandth would look rough by its rounding.
        self.frames.append(filters.index_select(0, self._index(filters.device)).float())
        keep = kept_frames(self.steps, _MAX_FRAMES)
        self.steps = [self.steps[index] for index in keep]
        self.frames = [self.frames[index] for index in keep]

    def grow(self, filters: Tensor) -> bool:
        """Takes in filters that have joined behind those known; their changes count from now on.

        Returns:
            Whether these can be the filters known so far and more; if not, nothing changes.
        """
        num_known = len(self.initial)
        if len(filters) <= num_known or filters.shape[1:] != self.initial.shape[1:]:
            return False
        self._num_first = self._num_first or num_known
        self.initial = torch.cat([self.initial, filters[num_known:].to(self.initial)])
        self._initial_energy = self._initial_roughness = None
        return True

    @property
    def strip_places(self) -> list[int]:
        """Which filters the strip shows: evenly spread, the same ones at every step."""
        num_values = self.initial[0].numel()
        few = _FEWER if max(self.initial.shape[2:]) > _LARGE_KERNEL else _FEW
        few = few if self.initial.shape[1] in (1, 3) else _FEWEST  # a map for each channel
        most = max(1, min(few, _MAX_FRAME_VALUES // num_values))
        return evenly_spread(self._num_first or len(self.initial), most)

    def _index(self, device: torch.device) -> Tensor:
        """Returns `strip_places` on the device: a list would be sent there at each snapshot."""
        if self._places is None or self._places.device != device:
            self._places = torch.tensor(self.strip_places, device=device)
        return self._places

    def initial_energy(self) -> Tensor:
        """Returns the sums of squares of the initial filters, (filters,)."""
        if self._initial_energy is None:
            self._initial_energy = energy_of(self.initial)
        return self._initial_energy

    def initial_roughness(self) -> Tensor:
        """Returns the mean roughness of the initial filters."""
        if self._initial_roughness is None:
            self._initial_roughness = roughness(self.initial).nanmean()
        return self._initial_roughness

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

        The learning rate between two snapshots is taken as changing evenly. NaN where weight
        decay acts through Adam's normalisation, or the optimizer is not known.
        """
        if group is None:
            return math.nan
        rate = decay_rate(group.kind, group.lr, group.weight_decay, group.momentum)
        before = rate if math.isnan(self._decay_rate) else self._decay_rate
        self._decay += (step - self._decay_step) * (before + rate) / 2
        self._decay_rate, self._decay_step = rate, step
        return math.exp(-self._decay)

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "initial": self.initial.detach().cpu(),
            "first_step": self.first_step,
            "steps": list(self.steps),
            "frames": [frame.cpu() for frame in self.frames],
            "num_first": self._num_first,
            "decay": [self._decay, self._decay_rate, self._decay_step],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> FilterRecord:
        """Returns the record that `state` told of."""
        decay, rate, step = state["decay"]
        return cls(
            initial=state["initial"],
            first_step=int(state["first_step"]),
            steps=[int(step) for step in state["steps"]],
            frames=list(state["frames"]),
            _num_first=int(state.get("num_first", 0)),
            _decay=float(decay),
            _decay_rate=float(rate),
            _decay_step=int(step),
        )

    def on(self, device: torch.device) -> FilterRecord:
        """Returns itself, its tensors moved to where the weights are."""
        if self.initial.device != device:
            self.initial = self.initial.to(device)
            self.frames = [frame.to(device) for frame in self.frames]
            self._initial_energy = self._initial_roughness = self._input_roughness = None
        return self
