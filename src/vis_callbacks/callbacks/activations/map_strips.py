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


class MapStrips:
    """Keeps the activation maps of one reference sample: the first, log-spaced, the latest.

    Args:
        layers: Globs; None takes the first, a middle and the last layer of the trace.
        max_maps: Units a layer, evenly spread; the same ones at every step.
    """

    def __init__(self, layers: Sequence[str] | None, max_maps: int) -> None:
        self._layers = layers
        self._max_maps = max_maps
        self._frames: dict[str, list[tuple[int, Tensor]]] = {}
        self._num_units: dict[str, int] = {}

    def pictures(
        self, snapshot: Snapshot, options: CheckedOptions, life: UnitLife
    ) -> Iterator[Image]:
        """Reads the maps of this moment and yields each layer's strip.

        Args:
            snapshot: Of this moment.
            options: The monitor's.
            life: Tells which units are dead: on one sample many others are 0 as well.
        """
        references, read = snapshot.references, snapshot.read_layers
        names = self._chosen(snapshot)
        if references is None or read is None or not names:
            return
        maps = read(names, references.inputs[:1])
        for name in names:
            if name in maps:
                self._append(snapshot.step, name, maps[name][0])
                yield self._picture(name, snapshot, options, life)

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "frames": {
                name: [[step, frame.cpu()] for step, frame in frames]
                for name, frames in self._frames.items()
            },
            "num_units": dict(self._num_units),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._frames = {
            str(name): [(int(step), frame) for step, frame in frames]
            for name, frames in state["frames"].items()
        }
        self._num_units = {str(name): int(count) for name, count in state["num_units"].items()}

    def _chosen(self, snapshot: Snapshot) -> list[str]:
        read = snapshot.values.get("units", {})
        names = [i.name for i in snapshot.trace if i.name in read or self._layers is not None]
        if self._layers is not None:
            return [name for name in names if matches(name, self._layers)]
        return list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]])) if names else []

    def _append(self, step: int, name: str, values: Tensor) -> None:
        """Adds one layer's activation (units, *positions) for the reference sample."""
        maps = as_maps(values.float())
        self._num_units[name] = len(maps)
        places = evenly_spread(len(maps), self._max_maps)
        frame = _shrunk(maps[torch.tensor(places, device=maps.device)]).half()
        self._frames[name] = with_frame(
            self._frames.get(name, ()),
            (step, frame),
            _MAX_FRAMES,
            key=lambda kept: (kept[0], kept[1].shape),
        )

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
                num_units=self._num_units[name],
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
        return {"states": life.states(name)}


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
    num_units: int,
    source: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    min_samples: int,
    sample: np.ndarray | None = None,
    states: np.ndarray | None = None,
) -> np.ndarray:
    places = evenly_spread(num_units, maps.shape[1])
    reference, note = None, ""
    if sample is not None and sample.ndim == 3:
        shown = to_uint8(sample[None], mean, std)
        reference, note = shown.images[0], shown.note
    caption = [
        f"{layer}: {len(places)} of {num_units} units for one reference sample (from {source})",
        note,
    ]
    return activation_maps(
        maps.astype(np.float32),
        steps,
        caption,
        unit_names=[f"unit {place}" for place in places],
        reference=reference,
        states=None if states is None else states[places],
        min_samples=min_samples,
    )
