"""The activation maps of a few layers for one reference sample, kept over the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.token_grid import on_grid, token_grid
from vis_callbacks.engine.layers import matches
from vis_callbacks.monitors.activations.pictures import MAX_MAP, draw_maps
from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread
from vis_callbacks.report import Image, tag

if TYPE_CHECKING:
    from vis_callbacks.callbacks.options import CheckedOptions
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.activations.dead_units import DeadUnitTracker

_MAX_DEFAULT_LAYERS = 3


class MapFilms:
    """The activation maps of a few layers for one reference sample, kept over the training.

    Args:
        layers: Globs; None takes the first, a middle and the last layer that the sample reaches
            when it is first shown.
        max_maps: Units a layer, evenly spread; the same ones at every step.
    """

    def __init__(self, layers: Sequence[str] | None, max_maps: int) -> None:
        self._layers = layers
        self._max_maps = max_maps
        self._films: dict[str, FilmStrip] = {}
        self._units: dict[str, list[int]] = {}  # those shown
        self._num_units: dict[str, int] = {}

    def pictures(
        self, snapshot: Snapshot, options: CheckedOptions, tracker: DeadUnitTracker
    ) -> Iterator[Image]:
        """Reads the maps of this moment and yields each layer's film strip.

        A layer that the sample does not reach now, such as another's expert, has no picture now.

        Args:
            snapshot: Of this moment.
            options: The monitor's.
            tracker: Tells which units are dead: on one sample many others are 0 as well.

        Raises:
            ValueError: There is no sample, or a pass of it does not reach the layers asked for, or
                none; raised after the pictures of those that it reaches.
        """
        candidates = self._candidates(snapshot)
        if not candidates:
            return
        shown = [] if self._layers is not None else [n for n in candidates if n in self._films]
        read = self._read(snapshot, shown or candidates)
        if not read:  # what was shown so far may be gone
            read = self._read(snapshot, candidates)
        reached = [name for name in read if read[name].numel()]
        if self._layers is None and len(reached) > _MAX_DEFAULT_LAYERS:
            reached = [reached[0], reached[len(reached) // 2], reached[-1]]
        for name in reached:
            yield self._picture(name, read[name], snapshot, options, tracker)
        missing = [name for name in candidates if name not in read]
        if missing and (self._layers is not None or not read):
            raise ValueError(f"a pass of one sample does not reach {', '.join(missing[:3])}")

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "films": {name: film.state_dict() for name, film in self._films.items()},
            "units": {name: list(units) for name, units in self._units.items()},
            "num_units": dict(self._num_units),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._films = {name: FilmStrip() for name in state["films"]}
        for name, film in self._films.items():
            film.load_state_dict(state["films"][name])
        self._units, self._num_units = dict(state["units"]), dict(state["num_units"])

    def _candidates(self, snapshot: Snapshot) -> list[str]:
        """Returns the layers that may be shown, in forward order."""
        read = snapshot.values.get("units", {})
        names = [info.name for info in snapshot.trace]
        if self._layers is None:
            return [name for name in names if name in read]
        return [name for name in names if matches(name, self._layers)]

    def _read(self, snapshot: Snapshot, names: Sequence[str]) -> dict[str, Tensor]:
        """Returns what the sample makes of these layers, (rows, units, *positions) of each.

        Those it does not reach are missing, and empty where they are given none of its rows. Of
        a training with a teacher and a student, say, only one is part of ``forward``.
        """
        if snapshot.references is None or snapshot.read_layers is None:
            raise ValueError("no batch was understood, so that there is no sample to show")
        read = snapshot.read_layers(names, snapshot.references.inputs[:1])
        return {name: read[name] for name in names if name in read}

    def _picture(
        self,
        name: str,
        values: Tensor,
        snapshot: Snapshot,
        options: CheckedOptions,
        tracker: DeadUnitTracker,
    ) -> Image:
        """Adds the layer's maps to its film, and returns the film."""
        references = snapshot.references
        sample = None if references is None else references.inputs[0]
        maps = as_maps(values.float(), () if sample is None else tuple(sample.shape[1:]))
        num_units, before = len(maps), self._num_units.get(name, 0)
        wanted = min(num_units, self._max_maps)
        if num_units < before or wanted != min(before, self._max_maps):  # some are gone, or new
            self._units[name] = evenly_spread(num_units, wanted)
            self._films[name] = FilmStrip()
        self._num_units[name], units, film = num_units, self._units[name], self._films[name]
        maps = maps[torch.tensor(units, device=maps.device)]
        if maps.dim() == 3 and max(maps.shape[1:]) > MAX_MAP:
            height, width = (min(length, MAX_MAP) for length in maps.shape[1:])
            maps = F.adaptive_avg_pool2d(maps, (height, width))
        film.add(snapshot.step, maps=maps.half())
        arrays = film.stacked() if sample is None else film.stacked() | {"sample": sample}
        if name not in tracker.cannot_die and tracker.table.num_units.get(name) == num_units:
            counts_rows = tracker.counts_rows()[tracker.table.layers.index(name)]
            arrays |= {"states": tracker.states(name), "counts_rows": counts_rows}
        source = "" if references is None else references.source
        caption = [
            f"{name}: {len(units)} of {num_units} units for one reference sample (from {source})"
        ]
        if len(values) > 1:
            caption += [f"the {len(values)} rows that this sample has here, from left to right"]
        draw = partial(
            draw_maps,
            caption=caption,
            steps=list(film.steps),
            units=list(units),
            mean=options.mean,
            std=options.std,
        )
        return Image(tag=f"activations/maps/{tag(name)}", draw=draw, arrays=arrays)


def as_maps(values: Tensor, size: tuple[int, ...] = ()) -> Tensor:
    """Returns (units, height, width), or (units,) where units have no positions.

    Where the only sample has several rows (tokens, nodes, boxes) they lie in a line, in their
    order. Tokens of an image lie as they were cut from it, and other tokens in a line. Of a
    volume the middle slice is taken.

    Args:
        values: (rows, units, *positions)
        size: (height, width) of the sample, where it is an image.
    """
    if len(values) > 1:
        return values.transpose(0, 1).flatten(1).unsqueeze(1)
    maps = values[0]
    if maps[0].numel() == 1:
        return maps.reshape(len(maps))
    if maps.dim() == 2:
        grid = token_grid(maps.shape[1], size) if len(size) == 2 else None
        return maps.unsqueeze(1) if grid is None else on_grid(maps, grid)
    return maps[:, maps.shape[1] // 2] if maps.dim() == 4 else maps
