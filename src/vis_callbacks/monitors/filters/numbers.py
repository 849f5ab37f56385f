"""The numbers of one layer's filters at one snapshot, for rules and loggers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitors.filters.layers import WatchedLayer, group_of
from vis_callbacks.monitors.filters.record import FilterRecord
from vis_callbacks.monitors.filters.science import (
    FilterNumbers,
    Split,
    filter_numbers,
    has_channels_last,
    split_learned,
)
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

    Args:
        layer: The layer.
        weight: Its weight.
        filters: What is read of it.
        record: Its past.
        snapshot: Of this moment.
        of_inputs: `roughness_of_inputs`; None: not known.
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
