"""Which units are alive, dead, revived, or never fired: what is remembered over a whole run.

A unit that is 0 for every one of n samples fires, at 95 % confidence, for fewer than 3 / n of the
inputs. So it is called dead only after a window of several batches, and the verdict names n. The
window counts batches and samples that were *read*, never steps: it lasts over the steps between
two bursts of snapshots, and a single firing starts it anew.

Everything lies on the device as (layers, units) tables. Nothing waits for the host but
``state_dict``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.monitors.activations.science import UnitRows, UnitTable

ALIVE, DEAD, REVIVED, NEVER_FIRED, NOT_MEASURED = 0, 1, 2, 3, -1

# A unit that fires at this step or later is "seen late": the very first updates silence units
# without harm.
LATE_FROM_STEP = 5
# Of the window. With 160 samples at most 3 % of the units of a dense layer were called dead
# wrongly, and none of a convolutional map (small tasks of 10-12 classes).
MIN_BATCHES, MIN_SAMPLES = 3, 160

# What is remembered of each unit, and what it is before the unit was ever read.
_OF_UNITS: Mapping[str, float] = {
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
_OF_LAYERS: Mapping[str, float] = {
    "num_batches": 0.0,
    "num_samples": 0.0,
    "num_rows": 0.0,  # of these that are rows and no samples
    "reference_step": math.inf,  # first step at which it was read, with all its units
}


class DeadUnitTracker:
    """Remembers of each unit whether it fired, since when it is silent, and its norm at that time.

    The first snapshot is the reference of all that follows. A healthy network with default
    initialisation may have more than half of a layer silent from the start, so take it before
    the first update. A window counts the samples that have reached the layer.

    Attributes:
        table: The layers met so far.
        cannot_die: Layers whose nonlinearity has no flat zero: a silent unit is not dead.
        masked: Layers whose weights were pruned before they were first read.
    """

    def __init__(self) -> None:
        self.cannot_die: frozenset[str] = frozenset()
        self.masked: frozenset[str] = frozenset()
        self.table = UnitTable({}, torch.device("cpu"))
        self._units = {name: torch.full((0, 0), fresh) for name, fresh in _OF_UNITS.items()}
        self._layers = {name: torch.full((0,), fresh) for name, fresh in _OF_LAYERS.items()}
        self._dead = torch.zeros(0, 0, dtype=torch.bool)

    def update(
        self, step: int, rows: UnitRows, weight_norms: Mapping[str, Tensor] | None = None
    ) -> None:
        """Takes in one snapshot.

        A layer that no sample has reached stays as it was. Units that join a layer stand behind
        those it has. A layer that has lost units begins anew, for which are left is not known.

        Args:
            step: Of the snapshot.
            rows: Merged over micro-batches and ranks.
            weight_norms: By layer, where they are known, the norm of each unit's incoming weights
                after the update made with this batch.
        """
        if rows.table is not self.table:
            self._move_to(rows.table)
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
            start = torch.where(units["start_norm"].isnan(), norms, units["start_norm"])
            units["start_norm"] = start
            units["death_norm"] = torch.where(begins, norms / start, units["death_norm"])
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
        if step >= LATE_FROM_STEP:
            units["seen_late"] = units["seen_late"] | fired
        self._find_dead()
        units["was_dead"] = units["was_dead"] | self._dead

    def metrics(self) -> tuple[tuple[str, ...], Tensor]:
        """Returns names, and (names, layers): what rules learn of the units, on the device.

        NaN where there is nothing to tell (the norm at death where nothing died), for layers that
        no sample has reached so far, and for those whose units cannot die.
        """
        units, layers, dead = self._units, self._layers, self._dead
        newly = dead & units["seen"]
        late, never, revived = dead & units["seen_late"], dead ^ newly, self._revived()
        counts = torch.stack([newly, late, never, dead, revived]).sum(2, dtype=torch.float32)
        newly_dead, newly_dead_late, never_fired, dead_fraction, revived = (
            counts / self.table.widths
        )
        is_full = (layers["num_batches"] >= MIN_BATCHES) & (layers["num_samples"] >= MIN_SAMPLES)
        fewest = torch.where(dead, units["zero_samples"], math.inf).amin(1)
        numbers = {
            metric_names.NUM_UNITS: self.table.widths,
            metric_names.NEWLY_DEAD: newly_dead,
            metric_names.NEWLY_DEAD_LATE: newly_dead_late,
            metric_names.NEVER_FIRED: never_fired,
            metric_names.DEAD_FRACTION: dead_fraction,
            metric_names.REVIVED: revived,
            metric_names.NORM_AT_DEATH: masked_median(units["death_norm"], newly),
            metric_names.FIRST_DEATH_STEP: torch.where(newly, units["zero_since"], math.inf).amin(
                1
            ),
            metric_names.WINDOW_SAMPLES: torch.minimum(fewest, layers["num_samples"]),
            metric_names.WINDOW_FULL: is_full.float(),
            metric_names.REFERENCE_STEP: layers["reference_step"],
            metric_names.COUNTS_ROWS: self.counts_rows().float(),
        }
        table = torch.stack(list(numbers.values()))
        is_unknown = self.table.among(self.cannot_die) | ~self.was_reached() | table.isinf()
        return tuple(numbers), table.masked_fill_(is_unknown, math.nan)

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
        return self.table.row(self._states(), layer)

    def all_states(self) -> Tensor:
        """Returns the `states` of the units of all layers one after the other."""
        return self.table.units(self._states())

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint (``weights_only=True``)."""
        return {
            "num_units": dict(self.table.num_units),
            "units": {name: value.cpu() for name, value in self._units.items()},
            "layers": {name: value.cpu() for name, value in self._layers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state back; it moves to the device of the next snapshot."""
        self.table = UnitTable(state["num_units"], torch.device("cpu"))
        self._units = {name: state["units"][name].clone() for name in _OF_UNITS}
        self._layers = {name: state["layers"][name].clone() for name in _OF_LAYERS}
        self._find_dead()

    def _norms(self, weight_norms: Mapping[str, Tensor]) -> Tensor:
        return self.table.fill([weight_norms.get(name, math.nan) for name in self.table.layers])[0]

    def _pruned(self, norms: Tensor) -> Tensor:
        """Returns which units have lost all their weights: a norm of 0 that was none before."""
        had_weights = self._units["start_norm"] > 0
        if self.masked:
            had_weights = had_weights | self.table.among(self.masked)[:, None]
        return (norms == 0) & had_weights

    def _find_dead(self) -> None:
        is_long = self._units["zero_batches"] >= MIN_BATCHES
        self._dead = is_long & (self._units["zero_samples"] >= MIN_SAMPLES)

    def _revived(self) -> Tensor:
        units = self._units
        return units["was_dead"] & units["seen"] & ~self._dead & ~units["pruned"]

    def _states(self) -> Tensor:
        states = torch.where(self._dead, DEAD, ALIVE)
        states = torch.where(self._revived(), REVIVED, states)
        states = torch.where(self._units["seen"], states, NEVER_FIRED)
        is_known = self._layers["num_batches"][:, None].bool() & ~self._units["pruned"]
        return torch.where(is_known, states, NOT_MEASURED).to(torch.int8)

    def _move_to(self, table: UnitTable) -> None:
        """Takes what is known over to a new table, which begins with the layers of the old one."""
        before, self.table = self.table, table
        num_new = len(table.layers) - len(before.layers)
        room = (0, table.mask.shape[1] - before.mask.shape[1], 0, num_new)
        widths = F.pad(before.widths.to(table.device), (0, num_new))
        is_known = (widths > 0) & (widths <= table.widths)  # not those that have lost units
        has_grown = widths < table.widths
        is_known_unit = F.pad(before.mask.to(table.device), room) & is_known[:, None]
        for name, fresh in _OF_UNITS.items():
            rows = F.pad(self._units[name].to(table.device), room)
            self._units[name] = torch.where(is_known_unit, rows, fresh)
        for name, fresh in _OF_LAYERS.items():
            is_kept = is_known & ~has_grown if name == "reference_step" else is_known
            values = F.pad(self._layers[name].to(table.device), (0, num_new))
            self._layers[name] = torch.where(is_kept, values, fresh)


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the median of each row's masked values that are not NaN; infinity if there is none.

    Nothing waits for the device: everything else is sorted behind the rest as an infinity.
    """
    if values.shape[1] == 0:
        return values.new_full((values.shape[0],), math.inf)
    mask = mask & ~values.isnan()
    ordered = torch.where(mask, values, math.inf).sort(dim=1).values
    count = mask.sum(1, keepdim=True)
    middle = torch.cat([count - 1, count], dim=1).clamp_(min=0) >> 1
    return ordered.gather(1, middle).sum(1) / 2


class StateHistory:
    """The states of units over a run, for a picture of units by steps.

    Where it is full only every second of its columns stays, and from then on only every second
    snapshot is kept, so that columns are evenly spread over the run. The latest snapshot is
    always the last column. Of units that join later, nothing is known before (-1).

    Args:
        max_columns: 128 columns of 512 units are 64 kB, and a picture shows no more.
    """

    def __init__(self, max_columns: int = 128) -> None:
        self.max_columns = max_columns
        self.steps: list[int] = []  # of the columns
        self._columns: list[Tensor] = []
        self._every = 1
        self._num_snapshots = 0
        self._widths: dict[str, int] = {}

    def append(self, step: int, states: Tensor, widths: Mapping[str, int]) -> None:
        """Adds the states (units,) at one snapshot.

        Args:
            step: Of the snapshot.
            states: Of all layers one after the other.
            widths: Layers and how many units each has. One that has lost units begins anew.
        """
        if widths != self._widths:
            self._lay_out(dict(widths))
        if self._columns and (self._num_snapshots - 1) % self._every:
            del self.steps[-1], self._columns[-1]  # the latest so far need not stay
        self.steps.append(step)
        self._columns.append(states.detach().to(torch.int8))
        self._num_snapshots += 1
        if len(self._columns) > self.max_columns:
            self._every *= 2
            self.steps = [*self.steps[:-1:2], step]
            self._columns = [*self._columns[:-1:2], self._columns[-1]]

    def table(self) -> Tensor:
        """Returns (units, columns) int8, on the device of the latest column."""
        device = self._columns[-1].device
        return torch.stack([column.to(device) for column in self._columns], dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint (``weights_only=True``)."""
        return {
            "steps": list(self.steps),
            "columns": [column.cpu() for column in self._columns],
            "every": self._every,
            "num_snapshots": self._num_snapshots,
            "widths": dict(self._widths),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self.steps, self._columns = list(state["steps"]), list(state["columns"])
        self._every, self._num_snapshots = state["every"], state["num_snapshots"]
        self._widths = dict(state["widths"])

    def _lay_out(self, widths: dict[str, int]) -> None:
        """Brings the columns so far into the layout of other layers."""
        before, self._widths = self._widths, widths
        for index, column in enumerate(self._columns):
            known = dict(zip(before, torch.split(column, list(before.values())), strict=True))
            parts = []
            for layer, width in widths.items():
                part = known.get(layer, column[:0])
                part = part if len(part) <= width else part[:0]
                parts.append(F.pad(part, (0, width - len(part)), value=NOT_MEASURED))
            self._columns[index] = torch.cat(parts)
