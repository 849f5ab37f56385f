"""What `SaliencyMonitor` remembers: the frames of its strips and each method's last maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.saliency_maps import rank_correlation
from vis_callbacks.render.film_strip import with_frame

_MAX_FRAMES = 8
_MAX_ROWS = 2  # samples of a strip
_FEW = 8  # rows or columns that stay apart: the channels of a series
_MAX_SIZE = 64  # pixels of a remembered map: 8 frames of 2 samples are 131 kB a method


@dataclass(frozen=True)
class Frame:
    """One step of a strip: the first samples' maps and what is said of them.

    Attributes:
        maps: (samples, height, width) float16, of a mean magnitude of 1.
        classes: (samples,) int64, -1 for a unit.
        values: (samples,) the probability, or the output's or the unit's value.
        are_classes: Whether the outputs were known to be scores of classes.
    """

    step: int
    maps: Tensor
    classes: Tensor
    values: Tensor
    are_classes: bool = True


class SaliencyRecord:
    """Keeps the first, log-spaced and the latest frames of each method, and its last maps."""

    def __init__(self) -> None:
        self._frames: dict[str, list[Frame]] = {}
        self._last: dict[str, Tensor] = {}

    def similarity(self, method: str, maps: Tensor) -> Tensor | None:
        """Returns (samples,) the rank correlation with the last maps; None at the first time."""
        last, small = self._last.get(method), _remembered(maps)
        self._last[method] = small
        if last is None or last.shape != small.shape:
            return None
        return rank_correlation(last.to(small.device).float(), small.float())

    def append(
        self,
        method: str,
        step: int,
        maps: Tensor,
        classes: Tensor,
        values: Tensor,
        *,
        are_classes: bool = True,
    ) -> None:
        """Adds a frame."""
        small = _remembered(maps[:_MAX_ROWS])
        frame = Frame(step, small, classes[:_MAX_ROWS], values[:_MAX_ROWS].float(), are_classes)
        self._frames[method] = with_frame(
            self._frames.get(method, ()),
            frame,
            _MAX_FRAMES,
            key=lambda kept: (kept.step, kept.maps.shape),
        )

    def steps(self, method: str) -> list[int]:
        """Returns the steps of a strip, oldest first; none where it has no frame yet."""
        return [frame.step for frame in self._frames.get(method, ())]

    def are_classes(self, method: str) -> list[bool]:
        """Returns for each frame whether the outputs were known to be scores of classes."""
        return [frame.are_classes for frame in self._frames.get(method, ())]

    def arrays(self, method: str) -> dict[str, Tensor]:
        """Returns the frames of a strip, stacked: maps, classes and values."""
        frames = self._frames[method]
        device = frames[-1].maps.device
        return {
            name: torch.stack([getattr(frame, name).to(device) for frame in frames])
            for name in ("maps", "classes", "values")
        }

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "frames": {
                method: [
                    [f.step, f.maps.cpu(), f.classes.cpu(), f.values.cpu(), f.are_classes]
                    for f in frames
                ]
                for method, frames in self._frames.items()
            },
            "last": {method: maps.cpu() for method, maps in self._last.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._frames = {
            str(method): [Frame(int(step), *others) for step, *others in frames]
            for method, frames in state["frames"].items()
        }
        self._last = {str(method): maps for method, maps in state["last"].items()}


def shrunk(maps: Tensor, max_size: int) -> Tensor:
    """Returns (samples, height, width) averaged so that no side is above ``max_size``.

    A short side stays as it is.
    """
    ratio = max_size / max(maps.shape[1:])
    if ratio >= 1:
        return maps
    height, width = (max(min(side, _FEW), round(side * ratio)) for side in maps.shape[1:])
    return F.adaptive_avg_pool2d(maps.unsqueeze(1), (height, width)).squeeze(1)


def _remembered(maps: Tensor) -> Tensor:
    """Returns small maps in half precision; scaled first, as gradients of 1e-8 would be 0."""
    means = maps.abs().flatten(1).mean(1).view(-1, 1, 1)
    return shrunk(maps / torch.where(means > 0, means, 1), _MAX_SIZE).half()
