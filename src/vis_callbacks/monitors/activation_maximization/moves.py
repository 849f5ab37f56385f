"""Moves of an input before its gradient is taken: shifts, turns and changes of size.

What raises the score only at one place, angle and size is averaged away (Olah et al. 2017,
"Feature visualization", section "Transformation robustness").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LOOK_EVERY = 4  # each fourth step is not moved, so that its score is known


class Move(NamedTuple):
    """One move of (rows, channels, *places), and the way back.

    Attributes:
        shift: Pixels along each axis of places, circularly.
        turn: (2, 3) where each place of an image comes from, as `affine_grid` takes it.
        turn_back: The same of the inverse.
    """

    shift: list[int]
    turn: Tensor | None = None
    turn_back: Tensor | None = None

    @property
    def is_none(self) -> bool:
        """Whether all stays where it is."""
        return not any(self.shift) and self.turn is None

    def there(self, z: Tensor) -> Tensor:
        """Returns the input moved; from beyond its border the mean input comes in."""
        return _turned(torch.roll(z, self.shift, self._axes), self.turn)

    def back(self, gradient: Tensor) -> Tensor:
        """Returns the gradient at the moved input, carried back to where it came from."""
        return torch.roll(
            _turned(gradient, self.turn_back), [-pixels for pixels in self.shift], self._axes
        )

    @property
    def _axes(self) -> list[int]:
        return list(range(2, 2 + len(self.shift)))


def moves(
    z: Tensor, num_steps: int, seed: int, *, jitter: int, rotation: float, scaling: float
) -> Iterator[Move]:
    """Yields a move of z for each step, see `Preset`, drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    shifts = torch.randint(-jitter, jitter + 1, (num_steps, z.dim() - 2), generator=generator)
    shifts[::_LOOK_EVERY] = 0
    has_turns = z.dim() == 4 and bool(rotation or scaling)
    angles, sizes = 2 * torch.rand(2, num_steps, generator=generator) - 1
    turns: Sequence[Tensor] = ()
    if has_turns:
        turns = turned_maps(angles * rotation, 1 + sizes * scaling, z).unbind()
    for index, shift in enumerate(shifts.tolist()):
        is_turned = has_turns and index % _LOOK_EVERY
        yield Move(shift, *turns[index]) if is_turned else Move(shift)


def turned_maps(degrees: Tensor, sizes: Tensor, z: Tensor) -> Tensor:
    """Returns (steps, 2, 2, 3): the maps that turn and enlarge images like z, and their inverses.

    A map is of the coordinates of `affine_grid`, in which height and width both go from -1 to 1.
    """
    ratio = z.shape[-2] / z.shape[-1]
    angles = degrees * (math.pi / 180)
    cosine, sine = angles.cos() / sizes, angles.sin() / sizes
    rows = [cosine, -sine * ratio, sine / ratio, cosine]
    maps = torch.stack(rows, dim=1).view(-1, 2, 2)
    both = torch.stack([maps, torch.linalg.inv(maps)], dim=1)
    return F.pad(both, (0, 1)).to(z.device, _grid_type(z))


def _turned(z: Tensor, turn: Tensor | None) -> Tensor:
    if turn is None:
        return z
    # Only the forward pass is used: the backward one of grid_sample is not deterministic on GPUs.
    grid = F.affine_grid(turn.expand(len(z), 2, 3), list(z.shape), align_corners=False)
    moved = F.grid_sample(z.to(turn.dtype), grid, align_corners=False)
    return moved.to(z.dtype)


def _grid_type(z: Tensor) -> torch.dtype:
    return torch.promote_types(z.dtype, torch.float32)
