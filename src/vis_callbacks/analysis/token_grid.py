"""Where tokens lie in the image that they were cut from."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

# Registers are the most, of sixteen patches four or five with the class token. Where more would
# be left over, the tokens are others than these patches.
_MAX_PREFIX = 16
_MAX_PREFIX_SHARE = 1 / 3


def token_grid(
    num_tokens: int, size: tuple[int, ...], seen: Iterable[tuple[int, ...]] = ()
) -> tuple[int, ...] | None:
    """Returns the rows and columns that an image's tokens were cut in; None where nothing tells.

    Tokens that have no place (a class token, registers) come first. Of the grids that leave
    fewest of them, one that the network itself has shown goes before one of square patches.

    Args:
        num_tokens: All of them.
        size: (height, width) of the image.
        seen: Sizes of the maps that the network made before, such as the patches' own.

    Example:
        >>> token_grid(33, (32, 64))
        (4, 8)
    """
    patches = range(1, math.gcd(*size) + 1)
    of_squares = [tuple(n // p for n in size) for p in patches if all(n % p == 0 for n in size)]
    fitting = [
        grid
        for grid in (*seen, *of_squares)
        if len(grid) == len(size) and 0 <= num_tokens - math.prod(grid) <= _max_prefix(grid)
    ]
    return min(fitting, key=lambda grid: num_tokens - math.prod(grid), default=None)


def on_grid(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Returns (..., tokens) as (..., rows, columns), without what comes before the image's."""
    placed = tokens[..., tokens.shape[-1] - math.prod(grid) :]
    return placed.reshape(*tokens.shape[:-1], *grid)


def _max_prefix(grid: tuple[int, ...]) -> int:
    return min(_MAX_PREFIX, max(1, int(_MAX_PREFIX_SHARE * math.prod(grid))))
