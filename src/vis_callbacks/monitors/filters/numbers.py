"""The numbers of one layer's filters at one snapshot, and what is remembered of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot
from vis_callbacks.monitors.filters.layers import WatchedLayer, group_of
from vis_callbacks.monitors.filters.noise import energy_of, roughness
from vis_callbacks.monitors.filters.science import (
    FilterNumbers,
    Split,
    decay_rate,
    filter_numbers,
    has_channels_last,
    input_roughness,
    split_learned,
)
from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread
from vis_callbacks.report import RuleMetrics, Scalar, tag

# What is measured on the device, in the order in which it crosses to the host: numbers of the
# layer, then means over its filters as `FilterNumbers` has them.
MEASURED = (
    metric_names.INITIAL_ROUGHNESS,
    metric_names.FILTER_CHANGE,
    metric_names.INHERITED_SHARE,
    metric_names.LEARNED_ROUGHNESS,
    metric_names.INPUT_ROUGHNESS,
    metric_names.FILTER_ROUGHNESS,
    metric_names.FILTER_NOISE,
    metric_names.NOISE_LIKE,
    metric_names.DEAD_FILTERS,
    metric_names.DOMINATING_FILTERS,
    metric_names.DUPLICATED_FILTERS,
    metric_names.ODD_FILTERS,
)
_TAGS = {
    metric_names.FILTER_NOISE: "filter_noise",
    metric_names.FILTER_CHANGE: "filter_change",
    metric_names.INHERITED_SHARE: "filter_inherited",
    metric_names.LEARNED_ROUGHNESS: "filter_learned_noise",
    metric_names.NOISE_LIKE: "filter_share/noise_like",
    metric_names.ODD_FILTERS: "filter_share/odd",
}


_FEW, _FEWER, _FEWEST = 36, 16, 12  # filters of a frame: six a side, four if they are large
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


@dataclass(frozen=True)
class LayerNumbers:
    """One layer at one snapshot.

    Attributes:
        filters: Those that are read, (filters, channels, *kernel).
        num_filters: All that the layer has.
        measured: (numbers,) in the order of `MEASURED`, on the device.
        known: The numbers that need no measuring.
    """

    layer: WatchedLayer
    filters: Tensor
    num_filters: int
    record: FilterRecord
    split: Split
    numbers: FilterNumbers
    measured: Tensor
    known: Mapping[str, float]


def layer_numbers(
    layer: WatchedLayer,
    weight: Tensor,
    filters: Tensor,
    record: FilterRecord,
    snapshot: Snapshot,
    of_inputs: Tensor | None = None,
) -> LayerNumbers:
    """Returns what can be said of a layer's filters, without waiting for the device.

    ``filters`` are read of its ``weight``, and ``of_inputs`` is `roughness_of_inputs`, if known.
    """
    null = layer.null(filters)
    split = split_learned(filters, record.initial, record.initial_energy)
    numbers = filter_numbers(filters, null, split.roughness, split.energy)
    unknown = torch.full_like(split.movement, math.nan)
    of_layer = [
        record.initial_roughness,
        split.movement,
        split.inherited_share,
        split.learned_roughness,
        unknown if of_inputs is None else of_inputs,
    ]
    group = group_of(layer.weight, snapshot.optimizer)
    error = null.roughness_sd / math.sqrt(len(filters)) if null else math.nan
    return LayerNumbers(
        layer=layer,
        filters=filters,
        num_filters=layer.num_filters(weight),
        record=record,
        split=split,
        numbers=numbers,
        measured=torch.cat([torch.stack(of_layer), numbers.means]),
        known={
            metric_names.NUM_FILTERS: float(len(filters)),
            metric_names.KERNEL_SIZE: float(layer.kernel_size(filters)),
            metric_names.ROUGHNESS_ERROR: error,
            metric_names.FIRST_STEP: float(record.first_step),
            # No group of any optimizer holds it: then nothing moves it.
            metric_names.LEARNING_RATE: group.lr
            if group
            else 0.0
            if snapshot.optimizer
            else math.nan,
            metric_names.DECAY_LEFT: record.decay_left(snapshot.step, group),
        },
    )


def readings_of(layers: Sequence[LayerNumbers]) -> Iterator[RuleMetrics]:
    """Yields the numbers of all layers for the rules."""
    names, known = tuple(of.layer.name for of in layers), tuple(layers[0].known)
    values = tuple(tuple(of.known[metric] for of in layers) for metric in known)
    yield RuleMetrics(metrics=known, layers=names, values=values)
    device = layers[0].measured.device  # layers may lie on several
    measured = torch.stack([of.measured.to(device) for of in layers], dim=1)
    yield RuleMetrics(metrics=MEASURED, layers=names, values=measured)


def scalars_of(of: LayerNumbers) -> Iterator[Scalar]:
    """Yields what is written of a layer; what cannot be judged is left out."""
    is_judged = {
        metric_names.FILTER_NOISE: of.known[metric_names.KERNEL_SIZE] > 1,
        metric_names.LEARNED_ROUGHNESS: of.known[metric_names.KERNEL_SIZE] > 1,
        metric_names.NOISE_LIKE: of.numbers.noise_like is not None,
    }
    for metric, name in _TAGS.items():
        if is_judged.get(metric, True):
            value = of.measured[MEASURED.index(metric)]
            yield Scalar(tag=tag(name, of.layer.name), value=value)
    if not math.isnan(left := of.known[metric_names.DECAY_LEFT]):
        yield Scalar(tag=tag("filter_decay_left", of.layer.name), value=left)


def roughness_of_inputs(
    layer: WatchedLayer, filters: Tensor, record: FilterRecord, references: References | None
) -> Tensor | None:
    """Returns the roughness of the reference samples, None where noise is not judged.

    Raises:
        ValueError: There are no reference samples.
    """
    if layer.null(filters) is None:
        return None
    if references is None:
        raise ValueError("no batch was understood")
    inputs = references.inputs
    if layer.image_shape and has_channels_last(layer.image_shape):
        inputs = inputs.movedim(-1, 1)
    if inputs.dim() == filters.dim() - 1:
        inputs = inputs.unsqueeze(1)
    num_channels = filters.shape[1] * layer.weight.groups
    fits = inputs.dim() == filters.dim() and inputs.shape[1] == num_channels
    return record.input_roughness(inputs if fits else None)
