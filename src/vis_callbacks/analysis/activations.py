"""What is measured of an activation while it passes by, and the statistics made of it.

`measure` runs inside the forward pass, so it never waits for the device and reads the values
as few times as it can. All it returns are sums, which merge over micro-batches and ranks by
adding; the statistics are made from the merged sums of all layers at once (`UnitTable`).

A *unit* is a channel or a feature; spatial places and tokens are its *positions*. Positions of
one sample are never counted as samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vis_callbacks.analysis.nonlinearities import Nonlinearity

MERGE: Mapping[str, Literal["sum", "max", "min"]] = dict.fromkeys(
    ("num_samples", "num_rows", "num_values", "magnitude", "flat"), "sum"
)
MAPS_MERGE: Mapping[str, Literal["sum", "max", "min"]] = dict.fromkeys(
    ("nonzeros", "area", "num_maps"), "sum"
)

_MAX_NUMBERS = 256

Measures = Mapping[str, Mapping[str, Tensor]]  # layer -> name -> tensor


class Numbers:
    """Numbers as tensors, each made once for a type and a device.

    Between two convolutions the caches are cold, and a tensor of one number then takes 40
    microseconds to make instead of 2. Nothing writes into those that are given out.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[float, torch.dtype, torch.device], Tensor] = {}

    def __call__(self, number: float, like: Tensor) -> Tensor:
        """Returns the number with the type and on the device of a tensor."""
        key = (number, like.dtype, like.device)
        if key not in self._known:
            if len(self._known) >= _MAX_NUMBERS:  # inputs of ever new sizes
                self._known.clear()
            self._known[key] = like.new_full((), number)
        return self._known[key]


def measure(
    values: Tensor,
    nonlinearity: Nonlinearity | None,
    inputs: Tensor | None = None,
    *,
    num_samples: int | None = None,
    sums: Tensor | None = None,
    numbers: Numbers | None = None,
) -> dict[str, Tensor]:
    """Returns the sums that verdicts rest on, reduced without a host synchronisation.

    - ``num_samples``: how many samples have reached the layer, and ``num_rows``: how many of these
      are rows that cannot be told apart by sample (see ``num_samples`` below).
    - ``num_values`` of each unit: samples x positions.
    - ``magnitude``: sum of abs(h) of each unit. Above 0 means that the unit fired, and a NaN or
      an infinity that it held one: such a unit neither fired nor was 0, and its other numbers
      mean nothing. So does a sum that overflows float32 (float64 for such activations): a mean
      above 1e32.
    - ``flat``: how many values of each unit lie where the nonlinearity is flat. Missing where
      its table does not say where that is, or where it is told from the input and ``inputs``
      are missing.

    All merge as `MERGE` says. For a ReLU this reads the values once.

    Args:
        values: (samples, units, positions).
        nonlinearity: None for a layer that is none.
        inputs: What went into the nonlinearity, same shape.
        num_samples: Of the batch, 0 where that is not known. If there are more or fewer rows
            (boxes, nodes of graphs, an expert's share) they are counted, but never more than
            the batch has samples: rows of one sample are not independent. None: rows are
            samples.
        sums: `magnitudes` of these values, where they are known.
        numbers: Keep it from call to call: the constants are then made once.
    """
    values = _as_real(values.detach())
    rows, _, positions = values.shape
    number = numbers or Numbers()
    counted = min(rows if positions else 0, num_samples or rows)
    has_samples = num_samples is None or rows == num_samples
    measured = {
        "num_samples": number(counted, values),
        "num_rows": number(0 if has_samples else counted, values),
        "num_values": number(rows * positions, values),
        "magnitude": (magnitudes(values, nonlinearity) if sums is None else sums).sum(0),
    }
    flat = _num_flat(values, nonlinearity, inputs)
    if flat is not None:
        measured["flat"] = flat
    return measured


def measure_maps(
    values: Tensor, nonlinearity: Nonlinearity | None, *, sums: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns the sums of what is shown of the maps, reduced without a host synchronisation.

    They cost two further passes over the values, and no verdict rests on them: once a burst
    of snapshots is enough.

    - ``nonzeros``: how many values of each unit are not exactly 0.
    - ``area`` and ``num_maps``: sum over the maps that are not all zero of their effective area
      (sum abs(h))^2 / (positions x sum h^2), and how many maps these are. Missing where units
      have only one position. A map whose squares leave the range of the type is left out.

    All merge as `MAPS_MERGE` says.

    Args:
        values: (samples, units, positions).
        nonlinearity: None for a layer that is none.
        sums: `magnitudes` of these values, where they are known.
    """
    values = _as_real(values.detach())
    scratch = torch.empty_like(values)  # one allocation for all passes that need to write
    measured = {"nonzeros": torch.ne(values, 0, out=scratch).sum((0, 2))}
    if values.shape[2] > 1:
        # vector_norm does not write: half the time where positions lie side by side. Over a
        # strided dimension (tokens, channels last) it was measured 7-10 times slower.
        if values.stride(2) == 1:
            squares = torch.linalg.vector_norm(values, dim=2).square_()
        else:
            squares = torch.mul(values, values, out=scratch).sum(2)
        maps = magnitudes(values, nonlinearity) if sums is None else sums
        areas = (maps.square() / squares.mul_(values.shape[2])).nan_to_num_(0.0, 0.0, 0.0)
        measured |= {"area": areas.sum(0), "num_maps": areas.sign_().sum(0)}
    return measured


def magnitudes(values: Tensor, nonlinearity: Nonlinearity | None) -> Tensor:
    """Returns the sum over positions of abs(h), (samples, units).

    Args:
        values: (samples, units, positions).
        nonlinearity: None for a layer that is none.
    """
    values = _as_real(values.detach())
    is_nonnegative = nonlinearity is not None and nonlinearity.is_nonnegative
    sizes = values if is_nonnegative else values.abs()
    return sizes[:, :, 0] if values.shape[2] == 1 else sizes.sum(2)


def _as_real(values: Tensor) -> Tensor:
    """Returns the values in the type they are summed in: half precision would overflow."""
    if values.is_complex():
        values = values.abs()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


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


class UnitTable:
    """Lays the units of several layers out as one (layers, units) table.

    A statistic of all layers is then a handful of operations on one small tensor instead of a
    handful a layer. Rows are as long as the widest layer has units. The table lies on one
    device, whatever the layers lie on. Building one waits for the device: keep it from snapshot
    to snapshot (`joined`).

    Args:
        num_units: Layers and their widths, in forward order.
        device: Where the tables lie.

    Attributes:
        mask: (layers, units), False where a row is longer than its layer.
        widths: (layers,).
    """

    def __init__(self, num_units: Mapping[str, int], device: torch.device) -> None:
        self.num_units = dict(num_units)
        self.device = device
        self.layers = tuple(num_units)
        widths_of = list(num_units.values())
        widths = torch.tensor(widths_of, dtype=torch.long)
        column = torch.arange(max(num_units.values(), default=0))
        mask = column < widths[:, None]
        starts = widths.cumsum(0) - widths
        self._index = torch.where(mask, starts[:, None] + column, 0).flatten().to(device)
        longest = mask.shape[1]
        places = [torch.arange(width) + row * longest for row, width in enumerate(widths_of)]
        self._places = torch.cat([torch.arange(0), *places]).to(device)
        self.mask = mask.to(device)
        self.widths = widths.to(device, torch.float32)

    def fill(self, *columns: Sequence[Tensor | float]) -> Tensor:
        """Returns (columns, layers, units), made in one concatenation and one gathering.

        What stands where `mask` is False has no meaning.

        Args:
            columns: Each holds for each layer a tensor (units,), or a number for all its units.
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


def joined(table: UnitTable | None, measures: Measures) -> UnitTable:
    """Returns the table itself if it holds the layers of these measures, else one that does.

    Layers that the table has and the measures lack keep their rows: a layer that is not used at
    every step must not forget. A layer whose number of units has changed gets a new row.
    """
    totals = {layer: measured["magnitude"] for layer, measured in measures.items()}
    widths = {layer: total.shape[0] for layer, total in totals.items()}
    if table is None:
        device = next((total.device for total in totals.values()), torch.device("cpu"))
        return UnitTable(widths, device)
    device = next((total.device for total in totals.values()), table.device)
    num_units = {**table.num_units, **widths}
    if num_units == table.num_units and device == table.device:
        return table
    return UnitTable(num_units, device)


@dataclass(frozen=True)
class UnitRows:
    """The merged measures of one snapshot, magnitudes laid out as a table.

    Attributes:
        table: Holds at least the layers of the measures (`joined`).
        magnitude: (layers, units); 0 for a unit that is not finite.
        is_finite: (layers, units), False for units that held a NaN or an infinity, for layers
            that no sample has reached, and where there is no unit.
        num_samples: (layers,) that have reached the layer; 0 for one that was not measured.
    """

    table: UnitTable
    measures: Measures
    magnitude: Tensor
    is_finite: Tensor
    num_samples: Tensor

    @classmethod
    def of(cls, table: UnitTable, measures: Measures) -> UnitRows:
        """Returns the measures laid out."""
        (magnitude,) = table.fill(_column(table, measures, "magnitude", math.nan))
        num_samples = _per_layer(table, measures, "num_samples")
        is_finite = (magnitude < math.inf) & table.mask & (num_samples > 0)[:, None]
        return cls(
            table=table,
            measures=measures,
            magnitude=torch.where(is_finite, magnitude, 0.0),
            is_finite=is_finite,
            num_samples=num_samples,
        )

    def num_rows(self) -> Tensor:
        """Returns how many of each layer's samples are rows that are none, (layers,)."""
        return _per_layer(self.table, self.measures, "num_rows")

    def non_finite(self) -> Tensor:
        """Returns each layer's share of units that held a NaN or an infinity, (layers,)."""
        share = 1 - self.is_finite.sum(1) / self.table.widths
        return torch.where(self.num_samples > 0, share, math.nan)

    def num_finite(self) -> Tensor:
        """Returns how many units of each layer held neither a NaN nor an infinity, (layers,)."""
        return self.is_finite.sum(1, dtype=torch.float32)

    def num_values(self) -> Tensor:
        """Returns how many values these units have, (layers,)."""
        return _per_layer(self.table, self.measures, "num_values") * self.num_finite()

    def flat_share(self) -> Tensor:
        """Returns each layer's share of flat values, (layers,); NaN where that is not known."""
        (flat,) = self.table.fill(_column(self.table, self.measures, "flat", math.nan))
        return torch.where(self.is_finite, flat, 0.0).sum(1) / self.num_values()


def _column(
    table: UnitTable, measures: Measures, name: str, missing: float
) -> list[Tensor | float]:
    nothing: Mapping[str, Tensor] = {}
    return [measures.get(layer, nothing).get(name, missing) for layer in table.layers]


def _per_layer(table: UnitTable, measures: Measures, name: str) -> Tensor:
    """Returns a number that a layer has once, (layers,); 0 where it was not measured."""
    zero = torch.zeros((), device=table.device)
    column = [measures[layer][name] if layer in measures else zero for layer in table.layers]
    return torch.stack([number.to(table.device) for number in column]) if column else zero[None][:0]


def statistics(rows: UnitRows, maps: Measures, *, tau: float = 0.1) -> dict[str, Tensor]:
    """Returns the statistics of all layers, one tensor (layers,) each, without a host sync.

    - ``sparsity``: share of values that are exactly 0.
    - ``dormant_fraction``: share of units whose E abs(h) is at most ``tau`` of the layer's mean
      over its units (all are dormant where the layer is 0). Works for every nonlinearity; for
      the tanh it is blind to saturation.
    - ``effective_area``: share of a map's positions that carries its activation, mean over the
      maps that are not all zero: 1 for a constant map, 1 / positions for a single spike. NaN
      where units have one position or no map is lit.

    Units that held a NaN or an infinity are left out; a layer is NaN where no unit is left or
    it was not measured. For what is shown, not for verdicts: once in a while is enough.

    Args:
        rows: Of one snapshot, merged.
        maps: Of the same snapshot (`measure_maps`), merged.
        tau: 0.1 is what dormant units were compared at with other signs of dying.

    References:
        Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning",
        definition 3.1. Treves and Rolls 1991, "What determines the capacity of autoassociative
        memories in the brain?", for the measure of sparseness behind the effective area.
    """
    table = rows.table
    columns = table.fill(
        _column(table, maps, "nonzeros", 0.0),
        _column(table, maps, "area", 0.0),
        _column(table, maps, "num_maps", 0.0),
    )
    nonzeros, area, num_maps = torch.where(rows.is_finite, columns, 0.0).sum(2)
    num_finite = rows.num_finite()
    # Every unit of a layer has as many values, so a unit's mean compares as its sum does.
    level = tau * rows.magnitude.sum(1) / num_finite
    num_dormant = ((rows.magnitude <= level[:, None]) & rows.is_finite).sum(1)
    return {
        "sparsity": 1 - nonzeros / rows.num_values(),
        "dormant_fraction": num_dormant / num_finite,
        "effective_area": area / num_maps,
    }


def log_edges(*, smallest: float = 1e-6, largest: float = 1e6, per_decade: int = 5) -> Tensor:
    """Returns edges of bins that grow by a constant factor on both sides of 0.

    Fixed, because edges taken from the values would have to be waited for, and snapshots with
    equal edges can be compared and added. What lies between -smallest and smallest shares one
    bin; the outermost bins take in what lies beyond ``largest``.
    """
    low, high = torch.tensor([smallest, largest], dtype=torch.float64).log10().tolist()
    num_edges = round((high - low) * per_decade) + 1
    positive = torch.logspace(low, high, num_edges, dtype=torch.float64)
    return torch.cat([-positive.flip(0), positive])


def histogram(values: Tensor, edges: Tensor, *, max_values: int = 65_536) -> dict[str, Tensor]:
    """Returns ``counts`` between the edges, ``total`` and ``total_of_squares``, merged by sum.

    Counted on the device without a host synchronisation. NaN and the infinities are left out.

    Args:
        values: Of any shape.
        edges: Increasing, on the device of the values (`log_edges`).
        max_values: Of a larger tensor an evenly strided selection of at most so many values is
            counted: shares are then off by less than 0.4 points (two standard errors).
    """
    flat = _as_real(values.detach()).reshape(-1)
    flat = flat[:: stride_for(flat.shape[0], max_values)]
    is_finite = flat.isfinite()
    finite = torch.where(is_finite, flat, 0.0)
    bins = torch.bucketize(finite, edges[1:-1].to(flat.dtype), right=True)
    # index_add_ and not bincount, histc or scatter: it neither waits for the device nor is it
    # refused under torch.use_deterministic_algorithms.
    counts = flat.new_zeros(edges.shape[0] - 1).index_add_(0, bins, is_finite.to(flat.dtype))
    return {"counts": counts, "total": finite.sum(), "total_of_squares": finite.square().sum()}


HISTOGRAM_MERGE: Mapping[str, Literal["sum"]] = dict.fromkeys(
    ("counts", "total", "total_of_squares"), "sum"
)


def stride_for(num_values: int, max_values: int) -> int:
    """Returns the least stride that leaves at most ``max_values``, coprime to 2, 3, 5 and 7.

    Widths of layers are products of small primes: a stride that shares them would always hit
    the same few columns.
    """
    stride = max(1, -(-num_values // max_values))
    while stride > 1 and any(stride % prime == 0 for prime in (2, 3, 5, 7)):
        stride += 1
    return stride
