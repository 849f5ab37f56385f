"""One layer's filters at one snapshot, and the numbers made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.filters import (
    FilterNumbers,
    Split,
    filter_numbers,
    has_channels_last,
    split_learned,
)
from vis_callbacks.callbacks.filters.layers import WatchedLayer, group_of
from vis_callbacks.callbacks.filters.record import FilterRecord
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.report import ReadingsTable, Scalar, tag

# Measured on the device, in the order in which they cross to the host: numbers of the layer,
# then means over its filters as `FilterNumbers` has them.
MEASURED = (
    readings.INITIAL_ROUGHNESS,
    readings.FILTER_CHANGE,
    readings.INHERITED_SHARE,
    readings.LEARNED_ROUGHNESS,
    readings.INPUT_ROUGHNESS,
    readings.FILTER_ROUGHNESS,
    readings.FILTER_NOISE,
    readings.NOISE_LIKE,
    readings.DEAD_FILTERS,
    readings.DOMINATING_FILTERS,
    readings.DUPLICATED_FILTERS,
    readings.ODD_FILTERS,
)
_TAGS = {
    readings.FILTER_NOISE: "filter_noise",
    readings.FILTER_CHANGE: "filter_change",
    readings.INHERITED_SHARE: "filter_inherited",
    readings.LEARNED_ROUGHNESS: "filter_learned_noise",
    readings.NOISE_LIKE: "filter_share/noise_like",
    readings.ODD_FILTERS: "filter_share/odd",
}


@dataclass(frozen=True)
class FilterLook:
    """One layer at one snapshot.

    Attributes:
        filters: Those that are read, (filters, channels, *kernel).
        num_filters: Of the layer.
        measured: (numbers,) in the order of `MEASURED`, on the device.
        known: What needs no measuring.
    """

    layer: WatchedLayer
    filters: Tensor
    num_filters: int
    record: FilterRecord
    split: Split
    numbers: FilterNumbers
    measured: Tensor
    known: Mapping[str, float]


def look_at(
    layer: WatchedLayer,
    weight: Tensor,
    filters: Tensor,
    record: FilterRecord,
    snapshot: Snapshot,
    of_inputs: Tensor | None = None,
) -> FilterLook:
    """Returns what can be said of a layer's filters, without waiting for the device.

    Args:
        layer: The layer.
        weight: Its weight.
        filters: What is read of it.
        record: Its past.
        snapshot: Of this moment.
        of_inputs: `roughness_of_inputs`; None: not known.
    """
    null = layer.null(filters)
    split = split_learned(filters, record.initial, record.initial_energy())
    numbers = filter_numbers(filters, null, split.roughness, split.energy)
    group = group_of(layer.weight, snapshot.optimizer)
    error = null.roughness_sd / math.sqrt(len(filters)) if null else math.nan
    return FilterLook(
        layer=layer,
        filters=filters,
        num_filters=layer.num_filters(weight),
        record=record,
        split=split,
        numbers=numbers,
        measured=_measured(split, numbers, record, of_inputs),
        known={
            readings.NUM_FILTERS: float(len(filters)),
            readings.KERNEL_SIZE: float(layer.kernel_size(filters)),
            readings.ROUGHNESS_ERROR: error,
            readings.FIRST_STEP: float(record.first_step),
            # No group of any optimizer holds it: then nothing moves it.
            readings.LEARNING_RATE: group.lr if group else 0.0 if snapshot.optimizer else math.nan,
            readings.DECAY_LEFT: record.decay_left(snapshot.step, group),
        },
    )


def readings_of(looks: Sequence[FilterLook]) -> Iterator[ReadingsTable]:
    """Yields the numbers of all layers for the rules."""
    layers = tuple(look.layer.name for look in looks)
    known = tuple(looks[0].known)
    yield ReadingsTable(
        metrics=known,
        layers=layers,
        values=tuple(tuple(look.known[metric] for look in looks) for metric in known),
    )
    device = looks[0].measured.device  # layers may lie on several
    measured = [look.measured.to(device) for look in looks]
    yield ReadingsTable(metrics=MEASURED, layers=layers, values=torch.stack(measured, dim=1))


def scalars_of(look: FilterLook) -> Iterator[Scalar]:
    """Yields what is written of a layer; what cannot be judged is left out."""
    is_judged = {
        readings.FILTER_NOISE: look.known[readings.KERNEL_SIZE] > 1,
        readings.LEARNED_ROUGHNESS: look.known[readings.KERNEL_SIZE] > 1,
        readings.NOISE_LIKE: look.numbers.noise_like is not None,
    }
    for metric, name in _TAGS.items():
        if is_judged.get(metric, True):
            value = look.measured[MEASURED.index(metric)]
            yield Scalar(tag=tag(name, look.layer.name), value=value)
    if not math.isnan(left := look.known[readings.DECAY_LEFT]):
        yield Scalar(tag=tag("filter_decay_left", look.layer.name), value=left)


def _measured(
    split: Split, numbers: FilterNumbers, record: FilterRecord, of_inputs: Tensor | None
) -> Tensor:
    unknown = torch.full_like(split.movement, math.nan)
    of_layer = [
        record.initial_roughness(),
        split.movement,
        split.inherited_share,
        split.learned_roughness,
        unknown if of_inputs is None else of_inputs,
    ]
    return torch.cat([torch.stack(of_layer), numbers.means])


def roughness_of_inputs(
    layer: WatchedLayer, filters: Tensor, record: FilterRecord, references: References | None
) -> Tensor | None:
    """Returns the roughness of the reference samples, None where noise is not judged.

    Raises:
        ValueError: There are none.
    """
    if layer.null(filters) is None:
        return None
    if references is None:
        raise ValueError("no batch was understood")
    return record.input_roughness(_inputs(layer, filters, references))


def _inputs(layer: WatchedLayer, filters: Tensor, references: References) -> Tensor | None:
    """Returns the reference samples as the filters meet them, None where they do not fit."""
    inputs = references.inputs
    if layer.image_shape and has_channels_last(layer.image_shape):
        inputs = inputs.movedim(-1, 1)
    if inputs.dim() == filters.dim() - 1:
        inputs = inputs.unsqueeze(1)
    has_channels = inputs.dim() == filters.dim()
    num_channels = filters.shape[1] * layer.weight.groups
    return inputs if has_channels and inputs.shape[1] == num_channels else None
