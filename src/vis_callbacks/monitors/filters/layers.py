"""Which layers' filters are looked at, and how a weight is read as filters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks.engine.layers import nearest
from vis_callbacks.engine.probe import WeightInfo
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.filters.noise import NoiseNull, noise_null
from vis_callbacks.monitors.filters.science import as_filters
from vis_callbacks.pictures.film_strip import evenly_spread

if TYPE_CHECKING:
    from vis_callbacks.engine.snapshot import Group, Snapshot

MAX_LAYERS = 8  # inputs or branches whose cards one still looks through
_MAX_FILTERS = 256  # as many as one picture shows; a share of them is known to 3 points
_MAX_VALUES = 2**20  # of one layer: 4 MiB, and as much for its initial values


@dataclass(frozen=True)
class WatchedLayer:
    """A layer whose filters are looked at.

    Attributes:
        weight: What the forward pass tells of its weight.
        image_shape: What its inputs were before they were flattened; empty: not known.
    """

    weight: WeightInfo
    image_shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.weight.layer

    def filters(self, weight: Tensor) -> Tensor:
        """Returns a weight of this layer as filters, in float32 at least.

        Of a large layer evenly spread ones: at most 256, with a million numbers together.

        Raises:
            ValueError: It holds no filters here; the message says why.
        """
        initial = self.weight.initial
        is_part = initial is not None and weight.dim() < initial.dim()
        if hasattr(weight, "full_tensor") or is_part:
            raise ValueError(
                f'the weight of "{self.name}" is sharded: this rank holds a part of it, of shape '
                f"{tuple(weight.shape)}, and no filter as a whole. Train without sharding (ddp) to "
                "see filters, or leave FilterMonitor out."
            )
        if weight.dim() < 2 or not weight.numel():
            raise ValueError(
                f'the weight of "{self.name}" has the shape {tuple(weight.shape)}: no filters. '
                'Name a convolution or a linear layer: FilterMonitor(layer="...").'
            )
        filters = as_filters(weight, self.weight.kind, self.weight.groups, self.image_shape)
        most = min(_MAX_FILTERS, max(16, _MAX_VALUES // math.prod(filters.shape[1:])))
        if len(filters) > most:
            filters = filters[evenly_spread(len(filters), most)]
        return filters if filters.dtype == torch.float64 else filters.float()

    def num_filters(self, weight: Tensor) -> int:
        """Returns how many filters the layer has."""
        is_transposed = self.weight.kind.startswith("conv_transpose")
        return weight.shape[1] * self.weight.groups if is_transposed else weight.shape[0]

    def null(self, filters: Tensor) -> NoiseNull | None:
        """Returns what white noise gives for such filters; None where noise cannot be judged."""
        kernel = tuple(filters.shape[2:])
        has_neighbours = self.weight.kind != "linear" or bool(self.image_shape)
        if not has_neighbours or math.prod(kernel) == 1:
            return None
        return noise_null(kernel, filters.shape[1])

    def kernel_size(self, filters: Tensor) -> int:
        """Returns the shortest side; 0 where neighbours mean nothing, 1 for 1x1 filters."""
        kernel = filters.shape[2:]
        if self.weight.kind == "linear" and not self.image_shape:
            return 0
        return max(kernel) if min(kernel) == 1 else min(kernel)


def watched_layers(
    snapshot: Snapshot, layer: str | None, image_shape: Sequence[int] | None
) -> list[WatchedLayer]:
    """Returns the layers that touch the input, or the one that is named.

    Raises:
        NothingToShow: None is known to touch the input; the message says what to write.
        ValueError: The one that is named is none, or ``image_shape`` does not fit it.
    """
    infos = [_named(snapshot, layer)] if layer is not None else _touching(snapshot)
    return [WatchedLayer(info, _image_shape(snapshot, info, image_shape)) for info in infos]


def _touching(snapshot: Snapshot) -> list[WeightInfo]:
    infos = [
        info for info in snapshot.weighted if info.touches_input and info.weight_name is not None
    ]
    if infos:
        return infos
    names = [info.layer for info in snapshot.weighted if info.weight_name is not None]
    if not names:
        names = [n.removesuffix(".weight") for n in snapshot.weights if n.endswith(".weight")]
        listed = ", ".join(f'"{name}"' for name in names[:3])
        raise NothingToShow(
            "no forward pass that could be followed met a convolution or a linear layer, so that "
            "none is known to read the input. Name the layer to show: "
            'FilterMonitor(layer="..."), or write forward_fn=lambda model, inputs: ... for a pass '
            f"of our own; there are {listed}."
            if names
            else "the model has no layer with weights, so there are no filters to show. "
            "Leave FilterMonitor out."
        )
    listed = ", ".join(f'"{name}"' for name in names[:3])
    raise NothingToShow(
        "no layer with weights was found that reads the input: something that is not followed, "
        "such as an embedding or a recurrent layer, is in between. Name the layer to show: "
        f'FilterMonitor(layer="..."); the first ones are {listed}.'
    )


def _named(snapshot: Snapshot, layer: str) -> WeightInfo:
    for info in snapshot.weighted:
        if info.layer == layer and info.weight_name is not None:
            return info
    weight_name = f"{layer}.weight"
    weight = snapshot.weights.get(weight_name)
    if weight is not None:  # not met by the pass that finds the layers
        kind = "linear" if weight.dim() == 2 else f"conv{weight.dim() - 2}d"
        return WeightInfo(layer=layer, weight_name=weight_name, kind=kind)
    names = [name.removesuffix(".weight") for name in snapshot.weights if name.endswith(".weight")]
    near = nearest(layer, names) or names[:3]
    listed = ", ".join(f'"{name}"' for name in near)
    raise ValueError(
        f'layer="{layer}" names no layer with a weight. '
        + (f'Nearest: {listed}. Use layer="{near[0]}".' if near else "The model has none.")
    )


def _image_shape(
    snapshot: Snapshot, info: WeightInfo, given: Sequence[int] | None
) -> tuple[int, ...]:
    """Returns what the inputs of a linear layer were before they were flattened, if known."""
    if info.kind != "linear":  # asked first: reading a weight takes a while
        return ()
    weight = snapshot.weights.get(info.weight_name or "")
    if weight is None or weight.dim() != 2:
        return ()
    num_inputs = weight.shape[1]
    if given is not None:
        if math.prod(given) != num_inputs:
            raise ValueError(
                f"image_shape={tuple(given)} has {math.prod(given)} numbers, and "
                f'"{info.layer}" has {num_inputs} inputs. Give the shape before flattening.'
            )
        return tuple(given)
    if snapshot.references is None or not info.touches_input:
        return ()
    shape = tuple(snapshot.references.inputs.shape[1:])
    return shape if 2 <= len(shape) <= 4 and math.prod(shape) == num_inputs else ()


def group_of(info: WeightInfo, groups: Sequence[Group]) -> Group | None:
    """Returns the optimizer's group that holds a weight, or what it is computed of."""
    name = info.weight_name or ""
    path, _, attribute = name.rpartition(".")
    computed_of = f"{path}.parametrizations.{attribute}." if path else ""
    for group in groups:
        for parameter in group.parameter_names:
            is_part = bool(computed_of) and parameter.startswith(computed_of)
            if parameter == name or is_part or parameter.startswith(f"{name}_"):
                return group
    return None
