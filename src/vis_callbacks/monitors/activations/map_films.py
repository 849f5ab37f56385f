"""The maps of a few layers for one reference sample, kept over the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.selection import evenly_spread
from vis_callbacks.engine.layers import matches
from vis_callbacks.render.activation_maps import activation_maps
from vis_callbacks.render.film_strip import with_frame
from vis_callbacks.render.images import to_uint8
from vis_callbacks.report import Image, tag

if TYPE_CHECKING:
    from vis_callbacks.analysis.unit_life import UnitLife
    from vis_callbacks.callbacks.options import CheckedOptions
    from vis_callbacks.engine.snapshot import Snapshot

# Eight columns of 16 maps are read at a glance; larger maps than 48 would not be shown larger.
_MAX_FRAMES = 8
_MAX_SIZE = 48
_MOST_CHOSEN = 3


class MapStrips:
    """Keeps the activation maps of one reference sample: the first, log-spaced, the latest.

    Args:
        layers: Globs; None takes the first, a middle and the last layer that the sample reaches
            when it is first shown.
        max_maps: Units a layer, evenly spread; the same ones at every step.
    """

    def __init__(self, layers: Sequence[str] | None, max_maps: int) -> None:
        self._layers = layers
        self._max_maps = max_maps
        self._frames: dict[str, list[tuple[int, Tensor]]] = {}
        self._num_units: dict[str, int] = {}
        self._places: dict[str, list[int]] = {}  # the units shown
        self._num_rows: dict[str, int] = {}  # of the sample, at the latest step

    def pictures(
        self, snapshot: Snapshot, options: CheckedOptions, life: UnitLife
    ) -> Iterator[Image]:
        """Reads the maps of this moment and yields each layer's strip.

        A layer that the sample does not reach now, such as another's expert, has no picture now.

        Args:
            snapshot: Of this moment.
            options: The monitor's.
            life: Tells which units are dead: on one sample many others are 0 as well.

        Raises:
            ValueError: There is no sample, or a pass of it does not reach the layers asked for, or
                none; raised after the pictures of those that it reaches.
        """
        candidates = self._candidates(snapshot)
        if not candidates:
            return
        read = self._read(snapshot, self._chosen(candidates))
        if not read:  # what was shown so far may be gone
            read = self._read(snapshot, candidates)
        reached = [name for name in read if read[name].numel()]
        if self._layers is None and len(reached) > _MOST_CHOSEN:
            reached = [reached[0], reached[len(reached) // 2], reached[-1]]
        for name in reached:
            self._append(snapshot.step, name, read[name])
            yield self._picture(name, snapshot, options, life)
        missing = [name for name in candidates if name not in read]
        if missing and (self._layers is not None or not read):
            raise ValueError(f"a pass of one sample does not reach {', '.join(missing[:3])}")

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "frames": {
                name: [[step, frame.cpu()] for step, frame in frames]
                for name, frames in self._frames.items()
            },
            "num_units": dict(self._num_units),
            "places": {name: list(places) for name, places in self._places.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._frames = {
            str(name): [(int(step), frame) for step, frame in frames]
            for name, frames in state["frames"].items()
        }
        self._num_units = {str(name): int(count) for name, count in state["num_units"].items()}
        self._places = {str(name): list(places) for name, places in state["places"].items()}

    def _candidates(self, snapshot: Snapshot) -> list[str]:
        """Returns the layers that may be shown, in forward order."""
        read = snapshot.values.get("units", {})
        if self._layers is None:
            return [info.name for info in snapshot.trace if info.name in read]
        return [info.name for info in snapshot.trace if matches(info.name, self._layers)]

    def _chosen(self, candidates: list[str]) -> list[str]:
        """Returns the layers to show: by default those that have been shown."""
        shown = [name for name in candidates if name in self._frames]
        return shown if shown and self._layers is None else candidates

    def _read(self, snapshot: Snapshot, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns what the sample makes of these layers, (rows, units, *positions) of each.

        Those it does not reach are missing, and empty where they are given none of its rows. Of
        a training with a teacher and a student, say, only one is part of ``forward``.
        """
        references, read_layers = snapshot.references, snapshot.read_layers
        if references is None or read_layers is None:
            raise ValueError("no batch was understood, so that there is no sample to show")
        read = read_layers(names, references.inputs[:1])
        return {name: read[name] for name in names if name in read}

    def _append(self, step: int, name: str, values: Tensor) -> None:
        """Adds one layer's activation for the reference sample."""
        maps = _of_one_sample(values.float())
        self._choose_units(name, len(maps))
        self._num_rows[name] = len(values)
        places = torch.tensor(self._places[name], device=maps.device)
        self._frames[name] = with_frame(
            self._frames.get(name, ()),
            (step, _shrunk(maps[places]).half()),
            _MAX_FRAMES,
            key=lambda kept: (kept[0], kept[1].shape),
        )

    def _choose_units(self, name: str, num_units: int) -> None:
        """Keeps to the units shown; begins anew where more find a place, or some are gone."""
        before, self._num_units[name] = self._num_units.get(name, 0), num_units
        if num_units < before or min(num_units, self._max_maps) != min(before, self._max_maps):
            self._places[name] = evenly_spread(num_units, self._max_maps)
            self._frames.pop(name, None)

    def _picture(
        self, name: str, snapshot: Snapshot, options: CheckedOptions, life: UnitLife
    ) -> Image:
        frames = self._frames[name]
        references = snapshot.references
        source = references.source if references is not None else ""
        return Image(
            tag=f"activations/maps/{tag(name)}",
            draw=partial(
                _draw,
                layer=name,
                steps=[step for step, _ in frames],
                places=list(self._places[name]),
                num_units=self._num_units[name],
                num_rows=self._num_rows[name],
                source=source,
                mean=options.mean,
                std=options.std,
                min_samples=life.min_samples,
            ),
            arrays={
                "maps": torch.stack([frame.to(frames[-1][1].device) for _, frame in frames]),
                **({"sample": references.inputs[0]} if references is not None else {}),
                **self._states(name, life),
            },
        )

    def _states(self, name: str, life: UnitLife) -> dict[str, Tensor]:
        """Returns the states of all units of a layer whose units can die, else nothing."""
        if life.table is None or name in life.immortal:
            return {}
        if life.table.num_units.get(name) != self._num_units[name]:
            return {}
        counts_rows = life.counts_rows()[life.layers.index(name)]
        return {"states": life.states(name), "counts_rows": counts_rows}


def _of_one_sample(values: Tensor) -> Tensor:
    """Returns the maps of the only sample there is.

    Where it has several rows (tokens, nodes, boxes) they lie in a line, in their order.

    Args:
        values: (rows, units, *positions)
    """
    if len(values) == 1:
        return as_maps(values[0])
    return values.transpose(0, 1).flatten(1).unsqueeze(1)


def as_maps(values: Tensor) -> Tensor:
    """Returns (units, height, width), or (units,) where units have no positions.

    A row of tokens whose number is a square, or a square and one class token, is laid out as
    the square that it was cut from; other rows stay one line.
    """
    if values.dim() == 1 or values[0].numel() == 1:
        return values.reshape(len(values))
    if values.dim() == 2:
        num_positions = values.shape[1]
        for extra in (0, 1):
            side = round((num_positions - extra) ** 0.5)
            if side > 1 and side * side == num_positions - extra:
                return values[:, extra:].reshape(-1, side, side)
        return values.unsqueeze(1)
    if values.dim() == 4:  # volumes: the middle slice
        return values[:, values.shape[1] // 2]
    return values


def _shrunk(maps: Tensor) -> Tensor:
    if maps.dim() == 1 or max(maps.shape[1:]) <= _MAX_SIZE:
        return maps
    height, width = (min(length, _MAX_SIZE) for length in maps.shape[1:])
    return F.adaptive_avg_pool2d(maps, (height, width))


def _draw(
    maps: np.ndarray,
    *,
    layer: str,
    steps: Sequence[int],
    places: Sequence[int],
    num_units: int,
    num_rows: int,
    source: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    min_samples: int,
    sample: np.ndarray | None = None,
    states: np.ndarray | None = None,
    counts_rows: np.ndarray | None = None,
) -> np.ndarray:
    reference, note = None, ""
    if sample is not None and sample.ndim == 3:
        shown = to_uint8(sample[None], mean, std)
        reference, note = shown.images[0], shown.note
    caption = [
        f"{layer}: {len(places)} of {num_units} units for one reference sample (from {source})",
        f"the {num_rows} rows that this sample has here, from left to right"
        if num_rows > 1
        else "",
        note,
    ]
    return activation_maps(
        maps.astype(np.float32),
        steps,
        caption,
        unit_names=[f"unit {place}" for place in places],
        reference=reference,
        states=None if states is None else states[list(places)],
        min_samples=min_samples,
        samples="rows" if counts_rows is not None and counts_rows else "samples",
    )
