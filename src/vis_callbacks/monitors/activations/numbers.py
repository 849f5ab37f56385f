"""The numbers of a snapshot that are not the units' own: of the run, of weights and groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.activations import UnitRows, log_edges
from vis_callbacks.analysis.nonlinearities import NONLINEARITIES
from vis_callbacks.analysis.updates import layer_norm, num_nonzero, unit_norms
from vis_callbacks.engine.snapshot import Group, Snapshot
from vis_callbacks.report import Histogram, Readings, ReadingsTable, Scalar, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import LayerInfo

# TensorBoard draws a card for each tag; more than these nobody looks through.
MAX_LAYER_SCALARS = 20
_MAX_GROUPS = 3
_FLAT_READING = {n.kind: readings.flat_share_of(n.kind) for n in NONLINEARITIES if n.saturates}


def run_readings(snapshot: Snapshot) -> Iterator[ReadingsTable]:
    """Yields the numbers of the whole run that rules look at."""
    groups, stats = snapshot.optimizer, snapshot.input_stats
    known = {
        readings.LEARNING_RATE: max((group.lr for group in groups), default=math.nan),
        readings.WEIGHT_DECAY: max((group.weight_decay for group in groups), default=math.nan),
        readings.NUM_SAMPLES: float(snapshot.num_samples.get("units", 0)),
    }
    measured = {
        readings.CONSTANT_INPUTS: stats.get("share_constant"),
        readings.INPUT_MEAN: stats.get("mean"),
        readings.INPUT_STD: stats.get("std"),
    }
    if snapshot.loss is not None:
        loss = torch.as_tensor(snapshot.loss)
        measured |= {readings.LOSS: loss, readings.NON_FINITE_LOSS: ~loss.isfinite()}
    numbers = {metric: value.double() for metric, value in measured.items() if value is not None}
    columns = tuple((value,) for value in known.values())
    yield ReadingsTable(metrics=tuple(known), layers=("",), values=columns)
    if numbers:
        values = torch.stack(list(numbers.values()))[:, None]
        yield ReadingsTable(metrics=tuple(numbers), layers=("",), values=values)


def flat_readings(rows: UnitRows, infos: Mapping[str, LayerInfo]) -> Iterator[Readings]:
    """Yields the share of flat values of the layers whose nonlinearity has a flat part."""
    layers = rows.table.layers
    by_metric: dict[str, list[int]] = {}
    for place, name in enumerate(layers):
        metric = _FLAT_READING.get(infos[name].kind) if name in infos else None
        if metric is not None:
            by_metric.setdefault(metric, []).append(place)
    if by_metric:
        shares = rows.flat_share()
        for metric, places in by_metric.items():
            named = tuple(layers[place] for place in places)
            yield Readings(metric=metric, layers=named, values=shares[places])


def weight_readings(weights: Mapping[str, UnitWeights]) -> Iterator[ReadingsTable]:
    """Yields how large the weights before each layer are, and how many of them there are."""
    if weights:
        norms = torch.stack([layer_norm(weight.norms) for weight in weights.values()])
        counts = torch.stack([weight.num_nonzero for weight in weights.values()])
        yield ReadingsTable(
            metrics=(readings.WEIGHT_NORM, readings.NUM_WEIGHTS),
            layers=tuple(weights),
            values=torch.stack([norms, counts.to(norms)]),
        )


def group_scalars(groups: Sequence[Group]) -> Iterator[Scalar]:
    """Yields rate and update ratio of each group; of many, the largest and the smallest rate."""
    shown = list(groups)
    if len(shown) > _MAX_GROUPS:
        by_rate = sorted(shown, key=lambda group: group.lr)
        shown = [by_rate[0], by_rate[-1]]
    for group in shown:
        yield Scalar(tag=tag("learning_rate", group.name), value=group.lr)
        if group.weight_norm is not None and group.update_norm is not None:
            ratio = group.update_norm / group.weight_norm
            yield Scalar(tag=tag("update_ratio", group.name), value=ratio)


def histograms(
    names: Sequence[str], measures: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[Histogram]:
    """Yields the counted histograms of the first layers."""
    edges = log_edges()
    for name in list(names)[:MAX_LAYER_SCALARS]:
        measured = measures[name]
        yield Histogram(
            tag=f"activations/histogram/{tag(name)}",
            counts=measured["counts"],
            edges=edges,
            total=measured["total"],
            total_of_squares=measured["total_of_squares"],
        )


class UnitWeights(NamedTuple):
    """What is known of the weights that feed a layer's units."""

    norms: Tensor  # (units,)
    num_nonzero: Tensor


def unit_weights(
    names: Mapping[str, str | None], widths: Mapping[str, int], weights: Mapping[str, Tensor]
) -> dict[str, UnitWeights]:
    """Returns by layer what is known of its units' incoming weights, where these are known.

    Args:
        names: Of the layers' weights.
        widths: How many units the layers have.
        weights: By name.
    """
    known: dict[str, UnitWeights] = {}
    for layer, num_units in widths.items():
        weight_name = names[layer]
        if weight_name is None or weight_name not in weights:
            continue
        weight = weights[weight_name]
        groups = _groups_of(weight, num_units)
        if groups is not None:
            norms = unit_norms(weight, is_transposed=groups > 0, groups=groups)
            known[layer] = UnitWeights(norms, num_nonzero(weight))
    return known


def has_mask(weight_name: str | None, weights: Mapping[str, Tensor]) -> bool:
    """Whether a weight is computed of another one, as pruning does it, by a mask."""
    if weight_name is None:
        return False
    path, _, attribute = weight_name.rpartition(".")
    computed_of = f"{path}.parametrizations.{attribute}.original"
    return f"{weight_name}_mask" in weights or computed_of in weights


def _groups_of(weight: Tensor, num_units: int) -> int | None:
    """Returns the groups of a transposed convolution, 0 of another layer; None: it does not fit.

    Where a layer has just grown, its weights have more units than those that were read.
    """
    if weight.dim() < 2 or not weight.numel():
        return None
    if weight.shape[0] == num_units:
        return 0
    groups = num_units // weight.shape[1]
    fits = groups > 0 and groups * weight.shape[1] == num_units and weight.shape[0] % groups == 0
    return groups if fits and weight.dim() > 2 else None
