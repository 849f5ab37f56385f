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
)

# The shares among them, in the order `UnitLife.readings` counts them.
_SHARES = (
    readings.NEWLY_DEAD,
    readings.NEWLY_DEAD_LATE,
    readings.NEVER_FIRED,
    readings.DEAD_FRACTION,
    readings.REVIVED,
)

_VERSION = 1

# What is remembered of each unit, and what it is before the unit was ever read.
_FRESH: Mapping[str, float] = {
    "seen": False,  # fired at some snapshot
    "seen_late": False,  # fired at a late one
    "was_dead": False,
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
    "reference_step": math.inf,  # first step at which it was read
}


class UnitLife:
    """Remembers of each unit whether it fired, since when it is silent, and its norm at that time.

    The first snapshot is the reference of all that follows. A healthy network with default
    initialisation may have more than half of a layer silent from the start, so take it before
    the first update.

    Only where the nonlinearity has a flat zero is a silent unit dead: name the other layers in
    ``immortal``, and their readings are NaN.

    Args:
        late_from_step: A unit that fires at this step or later is "seen late". 5 leaves out
            units that the very first updates silence without harm.
        min_batches: Of the window.
        min_samples: Of the window. Called dead wrongly with 160 samples: at most 3 % of the
            units of a dense layer, none of a convolutional map (small tasks of 10-12 classes).
        immortal: Layers whose units cannot die.

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
    ) -> None:
        self.late_from_step = late_from_step
        self.min_batches = min_batches
        self.min_samples = min_samples
        self.immortal = immortal
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
            rows: Merged over micro-batches and ranks. A layer that was not measured stays as it
                was; a layer whose number of units has changed begins anew.
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
        is_zero = rows.is_finite ^ fired
        begins = is_zero & ~units["zero_batches"].bool()
        if weight_norms:
            self._take_norms(begins, weight_norms)
        units["zero_since"] = torch.where(begins, float(step), units["zero_since"])
        batches, samples = rows.num_samples.sign(), rows.num_samples
        for name, more in (("batches", batches), ("samples", samples)):
            layers[f"num_{name}"] = layers[f"num_{name}"] + more
            longer = units[f"zero_{name}"] + torch.where(is_zero, more[:, None], 0.0)
            units[f"zero_{name}"] = torch.where(fired, 0.0, longer)
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
        }
        numbers = torch.stack([by_name[name] for name in READINGS])
        return numbers.masked_fill_(self._unjudged | numbers.isinf(), math.nan)

    def states(self, layer: str) -> Tensor:
        """Returns for each unit of a layer 0 alive, 1 dead, 2 revived, 3 never fired so far.

        -1 where the layer was not read yet; int8, on the device.
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

    def _take_norms(self, begins: Tensor, weight_norms: Mapping[str, Tensor]) -> None:
        """Keeps the first norm of each unit, and the relative one of those that fall silent."""
        table, units = self._known_table(), self._units
        norms = table.fill([weight_norms.get(layer, math.nan) for layer in table.layers])[0]
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
        was_read = self._layers["num_batches"][:, None].bool()
        return torch.where(was_read, states, NOT_MEASURED).to(torch.int8)

    def _revived(self) -> Tensor:
        return self._units["was_dead"] & self._units["seen"] & ~self._dead

    def _known_table(self) -> UnitTable:
        if self.table is None:
            raise RuntimeError("no snapshot was taken in yet; call `update` first")
        return self.table

    def _move_to(self, table: UnitTable) -> None:
        """Takes what is known over to a new table, fresh for layers new to it or changed."""
        old = self.table
        kept = {
            layer
            for layer, width in table.num_units.items()
            if old is not None and old.num_units.get(layer) == width
        }
        self._units = {
            name: table.fill(
                [
                    old.row(self._units[name], layer).float() if old and layer in kept else fresh
                    for layer in table.layers
                ]
            )[0].to(_type_of(fresh))
            for name, fresh in _FRESH.items()
        }
        self._layers = {
            name: torch.stack(
                [
                    self._layers[name][old.layers.index(layer)].to(table.device)
                    if old and layer in kept
                    else torch.full((), fresh, device=table.device)
                    for layer in table.layers
                ]
            )
            for name, fresh in _FRESH_LAYER.items()
        }
        self.table = table
        self._find_unjudged(table)


def _type_of(fresh: float) -> torch.dtype:
    return torch.bool if isinstance(fresh, bool) else torch.float32


class LifeRaster:
    """The states of units over time, for a picture of units by steps.

    Where it is full only every second of its columns stays, and from then on only every second
    snapshot is kept: columns are evenly spread over the run. The latest snapshot is always the
    last column.

    Args:
        max_columns: 128 columns of 512 units are 64 kB; a picture shows no more.
    """

    def __init__(self, max_columns: int = 128) -> None:
        if max_columns < 2:
            raise ValueError(f"max_columns={max_columns} shows no course of time; give 2 or more")
        self.max_columns = max_columns
        self._steps: list[int] = []
        self._columns: list[Tensor] = []
        self._numbers: list[int] = []  # which snapshot a column is, counted from 0
        self._every = 1

    @property
    def steps(self) -> tuple[int, ...]:
        """The step of each column."""
        return tuple(self._steps)

    def append(self, step: int, states: Tensor) -> None:
        """Adds the states (units,) at one snapshot; another number of units begins anew."""
        if self._columns and self._columns[-1].shape != states.shape:
            self._steps, self._columns, self._numbers, self._every = [], [], [], 1
        number = self._numbers[-1] + 1 if self._numbers else 0
        self._thin()  # the latest so far need not stay
        self._steps.append(step)
        self._columns.append(states.detach().to(torch.int8))
        self._numbers.append(number)
        if len(self._columns) > self.max_columns:
            self._every *= 2
            self._thin(but=number)

    def table(self) -> Tensor:
        """Returns (units, columns) int8, on the device. Raises RuntimeError while empty."""
        if not self._columns:
            raise RuntimeError("no snapshot was appended yet; call `append` first")
        device = self._columns[-1].device
        return torch.stack([column.to(device) for column in self._columns], dim=1)

    def state(self) -> dict[str, Any]:
        """Returns plain values and a tensor for a checkpoint (``weights_only=True``)."""
        return {
            "version": _VERSION,
            "steps": list(self._steps),
            "numbers": list(self._numbers),
            "every": self._every,
            "table": self.table().cpu() if self._columns else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state back. Raises ValueError on one that is not ours."""
        try:
            steps = [int(step) for step in state["steps"]]
            numbers = [int(number) for number in state["numbers"]]
            columns = list(state["table"].unbind(1)) if steps else []
            every = int(state["every"])
            if state["version"] != _VERSION or every < 1:
                raise ValueError(f"version {state['version']!r}, every {every}")
            if not len(columns) == len(steps) == len(numbers):
                raise ValueError(f"{len(columns)} columns for {len(steps)} steps")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(
                f"not the state of a LifeRaster of version {_VERSION}: {error!r}; start afresh"
            ) from error
        self._steps, self._columns, self._numbers, self._every = steps, columns, numbers, every

    def _thin(self, but: int = -1) -> None:
        """Keeps the columns that are evenly spread, and the snapshot numbered ``but``."""
        kept = [
            place
            for place, number in enumerate(self._numbers)
            if number % self._every == 0 or number == but
        ]
        if len(kept) < len(self._numbers):
            self._steps = [self._steps[place] for place in kept]
            self._columns = [self._columns[place] for place in kept]
            self._numbers = [self._numbers[place] for place in kept]


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
