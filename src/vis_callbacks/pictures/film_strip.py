"""Film strips: one thing at several steps, kept for one picture.

TensorBoard keeps ten pictures of a tag, drawn at random, so what must be compared over time
goes into one picture (as in Zeiler and Fergus, 2014, figure 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class FilmStrip:
    """Keeps frames of one thing over a training: the first, log-spaced ones and the latest.

    A frame is a set of named tensors. The tensors stay on the device that they come from.

    Args:
        max_frames: Eight columns are read at a glance.
    """

    def __init__(self, max_frames: int = 8) -> None:
        self.max_frames = max_frames
        self.steps: list[int] = []
        self._frames: list[dict[str, Tensor]] = []

    def add(self, step: int, **arrays: Tensor) -> None:
        """Adds a frame and drops the one that is missed least.

        Frames of another shape, or at this step or behind it, belong to a run that began anew,
        and the new frame stands alone.
        """
        if self.steps and (step <= self.steps[-1] or _shapes(arrays) != _shapes(self._frames[-1])):
            self.clear()
        # New lists: a picture that is drawn later may hold the old ones. Copies: a view would
        # keep, and a checkpoint would write, all that it is a part of.
        frame = {name: array.detach().clone() for name, array in arrays.items()}
        steps, frames = [*self.steps, step], [*self._frames, frame]
        kept = log_spaced(steps, self.max_frames)
        self.steps = [steps[index] for index in kept]
        self._frames = [frames[index] for index in kept]

    def stacked(self, device: torch.device | None = None) -> dict[str, Tensor]:
        """Returns name -> (frames, ...), on the device of the latest frame unless told."""
        if not self._frames:
            return {}
        return {
            name: torch.stack([frame[name].to(device or latest.device) for frame in self._frames])
            for name, latest in self._frames[-1].items()
        }

    def clear(self) -> None:
        """Forgets all frames."""
        self.steps, self._frames = [], []

    def __len__(self) -> int:
        return len(self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values, and tensors on the CPU."""
        frames = [{name: array.cpu() for name, array in frame.items()} for frame in self._frames]
        return {"steps": list(self.steps), "frames": frames}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned; an empty state begins anew."""
        self.steps = [int(step) for step in state.get("steps", ())]
        self._frames = [dict(frame) for frame in state.get("frames", ())]


def _shapes(arrays: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: array.shape for name, array in arrays.items()}


def log_spaced(steps: Sequence[int], max_frames: int) -> list[int]:
    """Returns the indexes of at most ``max_frames`` increasing steps, spaced by their logarithm.

    The first and the latest always stay. Steps that were thinned, with a new one appended and
    thinned once more, stay log-spaced, so that only the kept frames need to be remembered.
    """
    kept = list(range(len(steps)))
    times = [math.log1p(max(0, step - steps[0])) for step in steps]
    while len(kept) > max_frames:
        # The frame whose absence leaves the smallest gap; of equals the later, because early
        # frames cannot be had again.
        gaps = [
            (times[kept[place + 1]] - times[kept[place - 1]], -place)
            for place in range(1, len(kept) - 1)
        ]
        del kept[-min(gaps)[1]]
    return kept


def evenly_spread(total: int, most: int) -> list[int]:
    """Returns at most ``most`` indexes, evenly spread over ``total``."""
    count = min(total, most)
    return [index * total // count for index in range(count)]
