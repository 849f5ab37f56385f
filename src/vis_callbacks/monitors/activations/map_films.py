"""The activation maps of a few layers for one reference sample, kept over the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.cards import card_of
from vis_callbacks.engine.layers import matches
from vis_callbacks.engine.token_grid import on_grid, token_grid
from vis_callbacks.monitors.activations.pictures import MAX_MAP, draw_maps
from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread
from vis_callbacks.report import Picture, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.activations.dead_units import DeadUnitTracker
    from vis_callbacks.options import Options

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
        self, snapshot: Snapshot, options: Options, tracker: DeadUnitTracker
    ) -> Iterator[Picture]:
        """Reads the maps of this moment and yields each layer's film strip.

        A layer that the sample does not reach now, such as another's expert, has no picture now.
        The tracker tells which units are dead: on one sample many others are 0 as well.

        Raises:
            ValueError: There is no sample, or a pass of it does not reach the layers asked for, or
                none; raised after the pictures of those that it reaches.
        """
        candidates = self._candidates(snapshot)
        if not candidates:
            return
        references, read_layers = snapshot.references, snapshot.read_layers
        if references is None or read_layers is None:
            raise ValueError("no batch was understood, so there is no sample to show")
        shown = [] if self._layers is not None else [n for n in candidates if n in self._films]
        read = read_layers(shown or candidates, references.inputs[:1])
        if not read:  # what was shown so far may be gone
            read = read_layers(candidates, references.inputs[:1])
        reached = [name for name in candidates if name in read and read[name].numel()]
        if self._layers is None and len(reached) > _MAX_DEFAULT_LAYERS:
            reached = [reached[0], reached[len(reached) // 2], reached[-1]]
        for name in reached:
            film = self._extended(name, read[name], snapshot.step, references.inputs[0])
            yield self._picture(name, film, len(read[name]), references, options, tracker)
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
        for name, film in state["films"].items():
            self._films[name] = FilmStrip()
            self._films[name].load_state_dict(film)
        self._units, self._num_units = dict(state["units"]), dict(state["num_units"])

    def _candidates(self, snapshot: Snapshot) -> list[str]:
        """Returns the layers that may be shown, in forward order."""
        read = snapshot.values.get("units", {})
        names = [info.name for info in snapshot.trace]
        if self._layers is None:
            return [name for name in names if name in read]
        return [name for name in names if matches(name, self._layers)]

    def _extended(self, name: str, values: Tensor, step: int, sample: Tensor) -> FilmStrip:
        """Returns a layer's film with one more frame, of (rows, units, *positions)."""
        maps = as_maps(values.float(), tuple(sample.shape[1:]))
        num_units, before = len(maps), self._num_units.get(name, 0)
        wanted = min(num_units, self._max_maps)
        if num_units < before or wanted != min(before, self._max_maps):  # some are gone, or new
            self._units[name] = evenly_spread(num_units, wanted)
            self._films[name] = FilmStrip()
        self._num_units[name] = num_units
        maps = torch.stack([maps[unit] for unit in self._units[name]])  # a list would be sent
        if maps.dim() == 3 and max(maps.shape[1:]) > MAX_MAP:
            height, width = (min(length, MAX_MAP) for length in maps.shape[1:])
            maps = F.adaptive_avg_pool2d(maps, (height, width))
        self._films[name].add(step, maps=maps.half())
        return self._films[name]

    def _picture(
        self,
        name: str,
        film: FilmStrip,
        num_rows: int,
        references: References,
        options: Options,
        tracker: DeadUnitTracker,
    ) -> Picture:
        arrays = film.stacked() | {"sample": references.inputs[0]}
        units, num_units = list(self._units[name]), self._num_units[name]
        if name not in tracker.cannot_die and tracker.table.num_units.get(name) == num_units:
            counts_rows = tracker.counts_rows()[tracker.table.layers.index(name)]
            arrays |= {"states": tracker.states(name), "counts_rows": counts_rows}
        caption = [
            f"{name}: {len(units)} of {num_units} units for one reference sample "
            f"(from {references.source})"
        ]
        if num_rows > 1:
            caption += [f"the {num_rows} rows that this sample has here, from left to right"]
        steps, mean, std = list(film.steps), options.mean, options.std
        draw = partial(draw_maps, caption=caption, steps=steps, units=units, mean=mean, std=std)
        spelled = f"activations/maps/{tag(name)}"
        # Who names layers looks for them; three tall pictures a run would hide all else.
        card = card_of(spelled)._replace(is_shown=self._layers is not None)
        return Picture(tag=spelled, draw=draw, arrays=arrays, card=card)


def as_maps(values: Tensor, size: tuple[int, ...] = ()) -> Tensor:
    """Returns (units, height, width), or (units,) where units have no positions.

    The rows of one sample (nodes, boxes) lie in a line, and so do tokens, but those of an image
    lie as they were cut from it. Of a volume the middle slice is taken.

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
