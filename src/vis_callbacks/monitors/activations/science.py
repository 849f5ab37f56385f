"""What is measured of an activation while it passes by, and the statistics made of it.

What runs inside the forward pass never waits for the device, and returns sums, which merge over
micro-batches and ranks by adding. The statistics are made of the merged sums of all layers at once.

A *unit* is a channel or a feature; spatial places and tokens are its *positions*. Positions of
one sample are never counted as samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from vis_callbacks.engine.nonlinearities import Nonlinearity, as_real
from vis_callbacks.engine.probe import Activation, Batch
from vis_callbacks.engine.updates import stride_for

Sums = Mapping[str, Mapping[str, Tensor]]  # layer -> name -> tensor

_SUM: Literal["sum"] = "sum"
UNIT_SUMS = dict.fromkeys(("num_samples", "num_rows", "num_values", "magnitude", "flat"), _SUM)
MAP_SUMS = dict.fromkeys(("nonzeros", "area", "num_maps"), _SUM)
HISTOGRAM_SUMS = dict.fromkeys(("counts", "total", "total_of_squares"), _SUM)


def new_number(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a number as a tensor."""
    return torch.full((), number, dtype=dtype, device=device)


def measure(
    activation: Activation,
    batch: Batch,
    number: Callable[[float, torch.dtype, torch.device], Tensor] = new_number,
) -> dict[str, Tensor]:
    """Returns the sums that verdicts rest on. For a ReLU it reads the values once.

    - ``num_samples`` that have reached the layer. Where it has more or fewer rows (boxes, nodes
      of graphs, an expert's share) these are counted, but never more than the batch has samples:
      rows of one sample are not independent. ``num_rows``: how many of these are such rows.
    - ``num_values`` of each unit: samples x positions.
    - ``magnitude`` (units,): sum of abs(h). Above 0 the unit fired; NaN or infinite it held such a
      value, or its mean is above 1e32. Such a unit neither fired nor was 0.
    - ``flat`` (units,): how many values lie where the nonlinearity is flat. It is missing where
      that is not known, or is told from an input that was overwritten.

    Args:
        activation: As the engine saw it.
        batch: Its ``num_samples`` is 0 where that is not known: then rows are counted.
        number: Makes a number a tensor. Between two convolutions the caches are cold, and that
            takes 40 microseconds instead of 2, so give a function that remembers.
    """
    values = as_real(activation.values.detach())
    rows, _, positions = values.shape
    counted = min(rows if positions else 0, batch.num_samples or rows)
    dtype, device = values.dtype, values.device
    measured = {
        "num_samples": number(counted, dtype, device),
        "num_rows": number(0 if rows == batch.num_samples else counted, dtype, device),
        "num_values": number(rows * positions, dtype, device),
        "magnitude": activation.magnitudes.sum(0),
    }
    flat = _num_flat(values, activation.nonlinearity, activation.inputs)
    return measured if flat is None else measured | {"flat": flat}


def _num_flat(
    values: Tensor, nonlinearity: Nonlinearity | None, inputs: Tensor | None
) -> Tensor | None:
    """Returns per unit how many values lie in a flat part, None where that cannot be told."""
    if nonlinearity is None or not nonlinearity.saturates:
        return None
    scratch = torch.empty_like(values)
    counts: list[Tensor] = []
    if (below := nonlinearity.flat_output_below) is not None:
        counts.append(torch.lt(values, below, out=scratch).sum((0, 2)))
    if (above := nonlinearity.flat_output_above) is not None:
        counts.append(torch.gt(values, above, out=scratch).sum((0, 2)))
    if (low := nonlinearity.flat_input_below) is not None:
        if inputs is None:
            return None
        counts.append(torch.lt(inputs.detach(), low, out=scratch).sum((0, 2)))
    return torch.stack(counts).sum(0)


def measure_maps(
    activation: Activation, batch: Batch, edges: Callable[[torch.device], Tensor] | None = None
) -> dict[str, Tensor]:
    """Returns the sums of what is shown of the maps, and with ``edges`` those of `histogram`.

    They cost two further passes over the values, and no verdict rests on them: once a burst of
    snapshots is enough.

    - ``nonzeros`` (units,): how many values are not exactly 0.
    - ``area``, ``num_maps`` (units,): sum over the maps that are not all zero of their effective
      area (sum abs(h))^2 / (positions x sum h^2), and how many these are. They are missing where
      units have one position. A map whose squares leave the range of the type is left out.
    """
    values = as_real(activation.values.detach())
    scratch = torch.empty_like(values)  # one allocation for all passes that need to write
    measured = {"nonzeros": torch.ne(values, 0, out=scratch).sum((0, 2))}
    if values.shape[2] > 1:
        # vector_norm does not write: half the time where positions lie side by side. Over a
        # strided dimension (tokens, channels last) it was measured 7-10 times slower.
        if values.stride(2) == 1:
            squares = torch.linalg.vector_norm(values, dim=2).square_()
        else:
            squares = torch.mul(values, values, out=scratch).sum(2)
        areas = activation.magnitudes.square() / squares.mul_(values.shape[2])
        areas = areas.nan_to_num_(0.0, 0.0, 0.0)
        measured |= {"area": areas.sum(0), "num_maps": areas.sign_().sum(0)}
    return measured if edges is None else measured | histogram(values, edges(values.device))


def log_edges(device: torch.device | None = None) -> Tensor:
    """Returns edges of bins that grow by a constant factor on both sides of 0: 1e-6 to 1e6.

    They are fixed, because edges taken from the values would have to be waited for, and
    snapshots with equal edges can be added. The outermost bins take in what lies beyond them.
    A bin is as wide as 11 % of its values: TensorBoard's 30 bars stay smooth up to the largest.
    """
    positive = torch.logspace(-6, 6, 241, dtype=torch.float64)
    return torch.cat([-positive.flip(0), positive]).to(device)


def histogram(values: Tensor, edges: Tensor) -> dict[str, Tensor]:
    """Returns ``counts`` between the edges, ``total`` and ``total_of_squares``.

    NaN and the infinities are left out. Of more than 65,536 values an evenly strided selection
    is counted: shares are then off by less than 0.4 points (two standard errors).
    """
    flat = as_real(values.detach()).reshape(-1)
    flat = flat[:: stride_for(flat.shape[0], 65_536)]
    is_finite = flat.isfinite()
    finite = torch.where(is_finite, flat, 0.0)
    bins = torch.bucketize(finite, edges[1:-1].to(flat.dtype), right=True)
    # index_add_ and not bincount, histc or scatter: it neither waits for the device nor is it
    # refused under torch.use_deterministic_algorithms.
    counts = flat.new_zeros(edges.shape[0] - 1).index_add_(0, bins, is_finite.to(flat.dtype))
    return {"counts": counts, "total": finite.sum(), "total_of_squares": finite.square().sum()}


class UnitTable:
    """Lays the units of several layers out as one (layers, units) table on one device.

    A statistic of all layers is then a handful of operations on one small tensor instead of a
    handful a layer. Building a table waits for the device, so it is kept between snapshots.

    Attributes:
        num_units: Layers and their widths, in forward order.
        mask: (layers, units), False where a row is longer than its layer.
        widths: (layers,).
    """

    def __init__(self, num_units: Mapping[str, int], device: torch.device) -> None:
        self.num_units = dict(num_units)
        self.device = device
        self.layers = tuple(num_units)
        widths = torch.tensor(list(num_units.values()), dtype=torch.long)
        mask = torch.arange(max(num_units.values(), default=0)) < widths[:, None]
        self._index = (mask.flatten().cumsum(0) - 1).clamp(min=0).to(device)
        width = mask.shape[1]
        places = [
            row * width + unit for row, n in enumerate(num_units.values()) for unit in range(n)
        ]
        self._places = torch.tensor(places, dtype=torch.long).to(device)
        self.mask = mask.to(device)
        self.widths = widths.to(device, torch.float32)
        self._among: dict[frozenset[str], Tensor] = {}

    def among(self, names: frozenset[str]) -> Tensor:
        """Returns which layers are among these, (layers,): kept, as making it waits as well."""
        if names not in self._among:
            is_among = torch.tensor([layer in names for layer in self.layers], dtype=torch.bool)
            self._among[names] = is_among.to(self.device)
        return self._among[names]

    def holding(self, sums: Sums) -> UnitTable:
        """Returns the table itself if it holds the layers of these sums, else one that does.

        Layers that the sums lack keep their rows: a layer that is not used at every step must
        not forget.
        """
        device = next((of_layer["magnitude"].device for of_layer in sums.values()), self.device)
        widths = {layer: of_layer["magnitude"].shape[0] for layer, of_layer in sums.items()}
        num_units = {**self.num_units, **widths}
        if num_units == self.num_units and device == self.device:
            return self
        return UnitTable(num_units, device)

    def fill(self, *columns: Sequence[Tensor | float]) -> Tensor:
        """Returns (columns, layers, units), made in one concatenation and one gathering.

        Each column holds for each layer a tensor (units,), or a number for all its units. What
        stands where `mask` is False has no meaning.
        """
        shape = (len(columns), *self.mask.shape)
        if not self.layers:
            return torch.zeros(shape, device=self.device)
        flat = torch.cat(
            [
                row.to(self.device)
                if isinstance(row, Tensor)
                else torch.full((width,), row, device=self.device)
                for column in columns
                for row, width in zip(column, self.num_units.values(), strict=True)
            ]
        )
        return flat.reshape(len(columns), -1).index_select(1, self._index).reshape(shape)

    def units(self, table: Tensor) -> Tensor:
        """Returns the units of all layers one after the other: what `fill` was given."""
        return table.flatten().index_select(0, self._places)

    def row(self, table: Tensor, layer: str) -> Tensor:
        """Returns one layer's units out of a table."""
        return table[self.layers.index(layer), : self.num_units[layer]]


class UnitRows:
    """The merged sums of one snapshot, magnitudes laid out as a table.

    Attributes:
        table: Holds the layers of the sums, and those of the table before.
        magnitude: (layers, units); 0 for a unit that is not finite.
        is_finite: (layers, units), False for units that held a NaN or an infinity, for layers
            that no sample has reached, and where there is no unit.
        num_samples: (layers,) that have reached the layer; 0 for one that was not measured.
    """

    def __init__(self, sums: Sums, before: UnitTable) -> None:
        self.table = before.holding(sums)
        self._sums = sums
        (magnitude,) = self.table.fill(self._column(sums, "magnitude", math.nan))
        self.num_samples = self._of_layers("num_samples")
        is_known = self.table.mask & (self.num_samples > 0)[:, None]
        self.is_finite: Tensor = (magnitude < math.inf) & is_known
        self.magnitude = torch.where(self.is_finite, magnitude, 0.0)

    def _column(self, sums: Sums, name: str, missing: float) -> list[Tensor | float]:
        return [sums.get(layer, {}).get(name, missing) for layer in self.table.layers]

    def _of_layers(self, name: str) -> Tensor:
        """Returns a number that a layer has once, (layers,); 0 where it was not measured."""
        zero = torch.zeros((), device=self.table.device)
        column = [self._sums.get(layer, {}).get(name, zero) for layer in self.table.layers]
        return (
            torch.stack([n.to(self.table.device) for n in column]) if column else zero.new_empty(0)
        )

    def num_rows(self) -> Tensor:
        """Returns how many of each layer's samples are rows that are none, (layers,)."""
        return self._of_layers("num_rows")

    def non_finite(self) -> Tensor:
        """Returns each layer's share of units that held a NaN or an infinity, (layers,)."""
        share = 1 - self.is_finite.sum(1) / self.table.widths
        return torch.where(self.num_samples > 0, share, math.nan)

    def num_finite(self) -> Tensor:
        """Returns how many units of each layer held neither a NaN nor an infinity, (layers,)."""
        return self.is_finite.sum(1, dtype=torch.float32)

    def num_values(self) -> Tensor:
        """Returns how many values the finite units of each layer have, (layers,)."""
        return self._of_layers("num_values") * self.num_finite()

    def flat_share(self) -> Tensor:
        """Returns each layer's share of flat values, (layers,); NaN where that is not known."""
        (flat,) = self.table.fill(self._column(self._sums, "flat", math.nan))
        return torch.where(self.is_finite, flat, 0.0).sum(1) / self.num_values()

    def statistics(self, maps: Sums) -> dict[str, Tensor]:
        """Returns what is shown of all layers, (layers,) each; no verdict rests on it.

        - ``sparsity``: share of values that are exactly 0.
        - ``dormant_fraction``: share of units whose E abs(h) is at most a tenth of the layer's
          mean over its units (all are dormant where the layer is 0). This works for every
          nonlinearity, but for the tanh it is blind to saturation.
        - ``effective_area``: share of a map's positions that carries its activation, mean over
          the maps that are not all zero: 1 for a constant map, 1 / positions for a single spike.
          NaN where units have one position or no map is lit.

        Units that held a NaN or an infinity are left out; NaN where none is left.

        Args:
            maps: What `measure_maps` returned at the same snapshot, merged.

        References:
            Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning",
            definition 3.1. Treves and Rolls 1991, "What determines the capacity of
            autoassociative memories in the brain?", for the measure behind the effective area.
        """
        columns = [self._column(maps, name, 0.0) for name in MAP_SUMS]
        known = torch.where(self.is_finite, self.table.fill(*columns), 0.0)
        nonzeros, area, num_maps = known.sum(2)
        num_finite = self.num_finite()
        # Every unit of a layer has as many values, so a unit's mean compares as its sum does.
        level = 0.1 * self.magnitude.sum(1) / num_finite
        num_dormant = ((self.magnitude <= level[:, None]) & self.is_finite).sum(1)
        return {
            "sparsity": 1 - nonzeros / self.num_values(),
            "dormant_fraction": num_dormant / num_finite,
            "effective_area": area / num_maps,
        }


def unit_norms(weight: Tensor, num_units: int) -> Tensor | None:
    """Returns the L2 norm of the weights that feed each unit, (units,); None: they do not fit.

    The weights of a layer that has just grown have more units than those that were read.

    Args:
        weight: Linear (out, in), convolution (out, in / groups, *kernel), or transposed
            convolution (in, out / groups, *kernel).
        num_units: Of the layer.
    """
    if weight.dim() < 2 or not weight.numel():
        return None
    weight = as_real(weight.detach())
    num_inputs, width = weight.shape[:2]
    groups, rest = divmod(num_units, width)
    norms: Tensor | None = None
    if num_inputs == num_units:
        norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    elif weight.dim() > 2 and not rest and groups and not num_inputs % groups:
        grouped = weight.reshape(groups, num_inputs // groups, width, -1)
        norms = torch.linalg.vector_norm(grouped, dim=(1, 3)).reshape(-1)
    return norms


def num_nonzero(weight: Tensor) -> Tensor:
    """Returns how many values of a weight are not exactly 0, on the device.

    Pruned weights are 0 for good; those that train hardly ever are. Of more than 4,096 values
    so many are looked at, evenly spread: the share is then off by less than 1.6 points (two
    standard errors).
    """
    values = weight.detach().reshape(-1)
    looked_at = values[:: stride_for(len(values), 4_096)]
    return looked_at.count_nonzero() * (len(values) / max(1, len(looked_at)))


def has_mask(weight_name: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether a weight is computed of another one, as pruning does it, by a mask."""
    path, _, attribute = weight_name.rpartition(".")
    computed_of = f"{path}.parametrizations.{attribute}.original"
    return f"{weight_name}_mask" in weights or computed_of in weights
