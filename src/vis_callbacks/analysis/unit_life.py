"""Which units are alive, dead, revived, or never fired: their memory over a whole run.

A unit that is 0 for every sample of n has, at 95 % confidence, a rate of firing below 3 / n: so
it is called dead only after a window of several batches, and the verdict names n. The window
counts batches and samples that were *read*, never steps: it lasts over the steps between two
bursts of snapshots, and a single firing starts it anew.

Everything lies on the device as (layers, units) tables; nothing waits for the host but
`UnitLife.state`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.activations import UnitRows, UnitTable

ALIVE, DEAD, REVIVED, NEVER_FIRED, NOT_MEASURED = 0, 1, 2, 3, -1

READINGS = (
    readings.NUM_UNITS,
    readings.NEWLY_DEAD,
    readings.NEWLY_DEAD_LATE,
    readings.NEVER_FIRED,
    readings.DEAD_FRACTION,
    readings.REVIVED,
    readings.NORM_AT_DEATH,
    readings.FIRST_DEATH_STEP,
    readings.WINDOW_SAMPLES,
    readings.WINDOW_FULL,
    readings.REFERENCE_STEP,
    readings.COUNTS_ROWS,
)

# The shares among them, in the order `UnitLife.readings` counts them.
_SHARES = (
    readings.NEWLY_DEAD,
    readings.NEWLY_DEAD_LATE,
    readings.NEVER_FIRED,
    readings.DEAD_FRACTION,
    readings.REVIVED,
)

_VERSION = 2

# What is remembered of each unit, and what it is before the unit was ever read.
_FRESH: Mapping[str, float] = {
    "seen": False,  # fired at some snapshot
    "seen_late": False,  # fired at a late one
    "was_dead": False,
    "pruned": False,  # all of its incoming weights were taken away
    "zero_batches": 0.0,  # running
    "zero_samples": 0.0,  # running
    "zero_since": math.inf,  # step of the first of these
    "start_norm": math.nan,  # of the incoming weights
    "death_norm": math.nan,  # at zero_since / at the start
}

# The same of each layer.
_FRESH_LAYER: Mapping[str, float] = {
    "num_batches": 0.0,
    "num_samples": 0.0,
    "num_rows": 0.0,  # of these that are rows and no samples
    "reference_step": math.inf,  # first step at which it was read, with all its units
}


class UnitLife:
    """Remembers of each unit whether it fired, since when it is silent, and its norm at that time.

    The first snapshot is the reference of all that follows. A healthy network with default
    initialisation may have more than half of a layer silent from the start, so take it before
    the first update.

    Only where the nonlinearity has a flat zero is a silent unit dead: name the other layers in
    ``immortal``, and their readings are NaN. Nor is a unit dead whose incoming weights have all
    become exactly 0: it was pruned.

    A window counts the samples that have reached the layer: of a layer that none has reached
    so far nothing is known, and its readings are NaN.

    Args:
        late_from_step: A unit that fires at this step or later is "seen late". 5 leaves out
            units that the very first updates silence without harm.
        min_batches: Of the window.
        min_samples: Of the window. Called dead wrongly with 160 samples: at most 3 % of the
            units of a dense layer, none of a convolutional map (small tasks of 10-12 classes).
        immortal: Layers whose units cannot die.
        masked: Layers whose weights were pruned before they were first read.

    Attributes:
        table: The layers met so far; None before the first update.
    """

    def __init__(
        self,
        *,
        late_from_step: int = 5,
        min_batches: int = 3,
        min_samples: int = 160,
        immortal: Collection[str] = (),
        masked: Collection[str] = (),
    ) -> None:
        self.late_from_step = late_from_step
        self.min_batches = min_batches
        self.min_samples = min_samples
        self.immortal = immortal
        self.masked = masked
        self.table: UnitTable | None = None
        self._units: dict[str, Tensor] = {}  # each (layers, units)
        self._layers: dict[str, Tensor] = {}  # each (layers,)
        self._dead = torch.zeros(0, 0, dtype=torch.bool)
        self._unjudged = torch.zeros(0, dtype=torch.bool)  # (layers,)
        self._judged_without: set[str] = set()  # what `_unjudged` was made from

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers met so far, in forward order."""
        return self.table.layers if self.table is not None else ()

    def update(
        self, step: int, rows: UnitRows, weight_norms: Mapping[str, Tensor] | None = None
    ) -> None:
        """Takes in one snapshot.

        Args:
            step: Of the snapshot; the reference is the first one given.
            rows: Merged over micro-batches and ranks. A layer that no sample has reached stays as
                it was. Units that join a layer begin behind those it has; a layer that has lost
                units begins anew, for which of them are left is not known.
            weight_norms: By layer, the norm of each unit's incoming weights after the update
                made with this batch. A layer without known weights is left out.
        """
        if rows.table is not self.table:
            self._move_to(rows.table)
        if set(self.immortal) != self._judged_without:
            self._find_unjudged(rows.table)
        # A dozen microseconds each are lost where a table meets a Python number or another
        # type, so what is yes or no stays boolean.
        units, layers = self._units, self._layers
        fired = rows.magnitude.bool()
        norms = self._norms(weight_norms) if weight_norms else None
        if norms is not None:
            units["pruned"] = self._pruned(norms)
        is_zero = (rows.is_finite ^ fired) & ~units["pruned"]
        begins = is_zero & ~units["zero_batches"].bool()
        if norms is not None:
            self._take_norms(begins, norms)
        units["zero_since"] = torch.where(begins, float(step), units["zero_since"])
        batches, samples = rows.num_samples.sign(), rows.num_samples
        for name, more in (("batches", batches), ("samples", samples)):
            layers[f"num_{name}"] = layers[f"num_{name}"] + more
            longer = units[f"zero_{name}"] + torch.where(is_zero, more[:, None], 0.0)
            units[f"zero_{name}"] = torch.where(fired | units["pruned"], 0.0, longer)
        layers["num_rows"] = layers["num_rows"] + rows.num_rows()
        first = torch.where(batches.bool(), float(step), math.inf)
        layers["reference_step"] = torch.minimum(layers["reference_step"], first)
        units["seen"] = units["seen"] | fired
        if step >= self.late_from_step:
            units["seen_late"] = units["seen_late"] | fired
        self._find_dead()
        units["was_dead"] = units["was_dead"] | self._dead

    def readings(self) -> Tensor:
        """Returns one number a layer for each of `READINGS`: (readings, layers), on the device.

        NaN where there is nothing to tell, e.g. the norm at death where nothing died, and for
        layers whose units cannot die.
        """
        table, units, layers, dead = self._known_table(), self._units, self._layers, self._dead
        newly = dead & units["seen"]
        shares = torch.stack(
            [newly, dead & units["seen_late"], dead ^ newly, dead, self._revived()]
        )
        shares = shares.sum(2, dtype=torch.float32) / table.widths
        is_full = (layers["num_batches"] >= self.min_batches) & (
            layers["num_samples"] >= self.min_samples
        )
        since = torch.where(newly, units["zero_since"], math.inf).amin(1)
        fewest = torch.where(dead, units["zero_samples"], math.inf).amin(1)
        by_name = dict(zip(_SHARES, shares, strict=True)) | {
            readings.NUM_UNITS: table.widths,
            readings.NORM_AT_DEATH: masked_median(units["death_norm"], newly),
            readings.FIRST_DEATH_STEP: since,
            readings.WINDOW_SAMPLES: torch.minimum(fewest, layers["num_samples"]),
            readings.WINDOW_FULL: is_full.float(),
            readings.REFERENCE_STEP: layers["reference_step"],
            readings.COUNTS_ROWS: self.counts_rows().float(),
        }
        numbers = torch.stack([by_name[name] for name in READINGS])
        unknown = self._unjudged | ~self.was_reached()
        return numbers.masked_fill_(unknown | numbers.isinf(), math.nan)

    def counts_rows(self) -> Tensor:
        """Returns whether a layer's samples are rows that cannot be told apart, (layers,)."""
        return self._layers["num_rows"].bool()

    def was_reached(self) -> Tensor:
        """Returns whether any sample has reached a layer so far, (layers,)."""
        return self._layers["num_samples"].bool()

    def states(self, layer: str) -> Tensor:
        """Returns for each unit of a layer 0 alive, 1 dead, 2 revived, 3 never fired so far.

        -1 where nothing has reached the layer yet, or the unit was pruned; int8, on the device.
        """
        return self._known_table().row(self._states(), layer)

    def all_states(self) -> Tensor:
        """Returns the `states` of the units of all layers one after the other."""
        return self._known_table().units(self._states())

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint (``weights_only=True``)."""
        return {
            "version": _VERSION,
            "num_units": dict(self.table.num_units) if self.table is not None else {},
            "units": {name: value.cpu() for name, value in self._units.items()},
            "layers": {name: value.cpu() for name, value in self._layers.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state back; it moves to the device of the next snapshot.

        Raises:
            ValueError: The state is not ours; this one is left as it was.
        """
        try:
            if state["version"] != _VERSION:
                raise ValueError(f"version {state['version']!r}")
            num_units = {str(layer): int(width) for layer, width in state["num_units"].items()}
            table = UnitTable(num_units, torch.device("cpu"))
            units = {name: state["units"][name].clone() for name in _FRESH if num_units}
            layers = {name: state["layers"][name].clone() for name in _FRESH_LAYER if num_units}
            wanted = [(units[name], table.mask, fresh) for name, fresh in _FRESH.items() if units]
            wanted += [(value, table.widths, 0.0) for value in layers.values()]
            for value, like, fresh in wanted:
                if value.shape != like.shape or value.dtype != _type_of(fresh):
                    raise ValueError(f"tables that do not fit {num_units}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"not the state of a UnitLife of version {_VERSION}: {error!r}; start afresh"
            ) from error
        self.table, self._units, self._layers = table if num_units else None, units, layers
        if num_units:
            self._find_dead()
            self._find_unjudged(table)

    def _norms(self, weight_norms: Mapping[str, Tensor]) -> Tensor:
        table = self._known_table()
        return table.fill([weight_norms.get(layer, math.nan) for layer in table.layers])[0]

    def _pruned(self, norms: Tensor) -> Tensor:
        """Returns which units have lost all their weights: a norm of 0 that was none before."""
        had_weights = self._units["start_norm"] > 0
        if self.masked:
            layers = self._known_table().layers
            masked = torch.tensor([layer in self.masked for layer in layers], device=norms.device)
            had_weights = had_weights | masked[:, None]
        return (norms == 0) & had_weights

    def _take_norms(self, begins: Tensor, norms: Tensor) -> None:
        """Keeps the first norm of each unit, and the relative one of those that fall silent."""
        units = self._units
        start = torch.where(units["start_norm"].isnan(), norms, units["start_norm"])
        units["start_norm"] = start
        units["death_norm"] = torch.where(begins, norms / start, units["death_norm"])

    def _find_dead(self) -> None:
        is_long = self._units["zero_batches"] >= self.min_batches
        self._dead = is_long & (self._units["zero_samples"] >= self.min_samples)

    def _find_unjudged(self, table: UnitTable) -> None:
        self._judged_without = set(self.immortal)
        immortal = [layer in self.immortal for layer in table.layers]
        self._unjudged = torch.tensor(immortal, dtype=torch.bool).to(table.device)

    def _states(self) -> Tensor:
        states = torch.where(self._dead, DEAD, ALIVE)
        states = torch.where(self._revived(), REVIVED, states)
        states = torch.where(self._units["seen"], states, NEVER_FIRED)
        is_known = self._layers["num_batches"][:, None].bool() & ~self._units["pruned"]
        return torch.where(is_known, states, NOT_MEASURED).to(torch.int8)

    def _revived(self) -> Tensor:
        units = self._units
        return units["was_dead"] & units["seen"] & ~self._dead & ~units["pruned"]

    def _known_table(self) -> UnitTable:
        if self.table is None:
            raise RuntimeError("no snapshot was taken in yet; call `update` first")
        return self.table

    def _move_to(self, table: UnitTable) -> None:
        """Takes what is known over to a new table; what is new to it is fresh."""
        self._units = {
            name: table.fill([self._row(name, layer, table) for layer in table.layers])[0].to(
                _type_of(fresh)
            )
            for name, fresh in _FRESH.items()
        }
        self._layers = {
            name: torch.stack([self._number(name, layer, table) for layer in table.layers])
            for name in _FRESH_LAYER
        }
        self.table = table
        self._find_unjudged(table)

    def _num_kept(self, layer: str, table: UnitTable) -> int:
        """Returns how many units of a layer, the first ones, are in the new table as well."""
        known = self.table.num_units.get(layer, 0) if self.table is not None else 0
        return known if known <= table.num_units[layer] else 0

    def _row(self, name: str, layer: str, table: UnitTable) -> Tensor | float:
        """Returns what is remembered of a layer's units, as a new table is to hold it."""
        fresh, num_kept = float(_FRESH[name]), self._num_kept(layer, table)
        if self.table is None or not num_kept:
            return fresh
        kept = self.table.row(self._units[name], layer).to(table.device, torch.float32)
        return torch.cat([kept, kept.new_full((table.num_units[layer] - num_kept,), fresh)])

    def _number(self, name: str, layer: str, table: UnitTable) -> Tensor:
        """Returns what is remembered of a layer as a whole."""
        num_kept = self._num_kept(layer, table)
        has_grown = num_kept < table.num_units[layer]
        if self.table is None or not num_kept or (has_grown and name == "reference_step"):
            return torch.full((), _FRESH_LAYER[name], device=table.device)
        return self._layers[name][self.table.layers.index(layer)].to(table.device)


def _type_of(fresh: float) -> torch.dtype:
    return torch.bool if isinstance(fresh, bool) else torch.float32


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the median of each row's masked values that are not NaN; infinity if there is none.

    Of an even number of values it is the mean of the middle two. Without a host
    synchronisation: everything else is sorted behind the rest as an infinity.
    """
    if values.shape[1] == 0:
        return values.new_full((values.shape[0],), math.inf)
    mask = mask & ~values.isnan()
    ordered = torch.where(mask, values, math.inf).sort(dim=1).values
    count = mask.sum(1, keepdim=True)
    middle = torch.cat([count - 1, count], dim=1).clamp_(min=0) >> 1
    return ordered.gather(1, middle).sum(1) / 2
