"""Where tokens lie in the image that they were cut from."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

# Tokens before the first patch: a class token and registers, of 16 patches four or five. Where
# more would be left over, the tokens do not belong to these patches.
_MAX_PREFIX = 16
_MAX_PREFIX_SHARE = 1 / 3


def token_grid(
    num_tokens: int, size: tuple[int, ...], seen: Iterable[tuple[int, ...]] = ()
) -> tuple[int, ...] | None:
    """Returns the rows and columns that an image's tokens were cut in, or None if nothing tells.

    Tokens that have no place (a class token, registers) come first. The grid that leaves the
    fewest of them is taken; of equals, one that the network has shown (``seen``, the sizes of its
    maps) goes before one of square patches. ``size`` is the image's height and width.

    Example:
        >>> token_grid(33, (32, 64))
        (4, 8)
    """
    sides = range(1, math.gcd(*size) + 1)
    of_squares = [tuple(n // side for n in size) for side in sides if math.gcd(*size) % side == 0]
    fitting = [
        grid
        for grid in (*seen, *of_squares)
        if len(grid) == len(size) and 0 <= num_tokens - math.prod(grid) <= _max_prefix(grid)
    ]
    return min(fitting, key=lambda grid: num_tokens - math.prod(grid), default=None)


def on_grid(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Returns (..., tokens) as (..., rows, columns), without the tokens before the patches."""
    placed = tokens[..., tokens.shape[-1] - math.prod(grid) :]
    return placed.reshape(*tokens.shape[:-1], *grid)


def _max_prefix(grid: tuple[int, ...]) -> int:
    return min(_MAX_PREFIX, max(1, int(_MAX_PREFIX_SHARE * math.prod(grid))))
