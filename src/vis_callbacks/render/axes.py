"""The axes that heat map and raster share: time to the right, rows thinned to what fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.images import blank
from vis_callbacks.render.text import INK, Picture, line_height, text_width, write

_TICK = 4
_LEAST_DISTANCE = 10  # between two labels


# Plots of this width at least label the same snapshots, however wide the names beside them are.
SHARED_WIDTH = 190


def uneven_note(steps: Sequence[int]) -> str:
    """Returns what a reader of columns of equal width must know; "" where steps are even."""
    distances = {later - earlier for earlier, later in pairwise(steps)}
    return "a column a snapshot: steps are not evenly spaced" if len(distances) > 1 else ""


def step_axis(steps: Sequence[int], width: int, room: int | None = None) -> Picture:
    """Returns the ticks and labels under columns of equal width, one column for each step.

    Steps are seldom equally far apart (bursts, log-spaced), so labels name steps and do not
    count columns. The first and the latest are always labelled; others where there is room.

    Args:
        steps: One for each column.
        width: Of the columns together, in pixels.
        room: Choose the labels that fit this width, if it is less: so pictures of different
            widths label the same steps.
    """
    canvas = blank(_TICK + line_height(), width)
    labels = [f"{step:,}" for step in steps]
    for column in _labelled(labels, width if room is None else min(room, width)):
        tick = min(int(_centre(column, len(labels), width)), width - 1)
        canvas[:_TICK, tick] = INK
        write(canvas, labels[column], _left_end(labels, column, width), _TICK)
    return canvas


def _labelled(labels: Sequence[str], width: int) -> list[int]:
    """Returns which labels do not overlap: the last, the first, then the rest."""
    chosen: list[int] = []
    taken: list[tuple[int, int]] = []
    for column in dict.fromkeys((len(labels) - 1, *range(len(labels)))):
        size, x = text_width(labels[column]), _left_end(labels, column, width)
        if all(x > right or x + size < left for left, right in taken):
            chosen.append(column)
            taken.append((x - _LEAST_DISTANCE, x + size + _LEAST_DISTANCE))
    return sorted(chosen)


def _left_end(labels: Sequence[str], column: int, width: int) -> int:
    """Returns where a label begins: under the middle of its column, but within the width."""
    size = text_width(labels[column])
    middle = _centre(column, len(labels), width)
    return int(np.clip(middle - size / 2, 0, max(0, width - size)))


def _centre(column: int, num_columns: int, width: int) -> float:
    return (column + 0.5) * width / num_columns


def labelled_rows(num_rows: int, height: float) -> list[int]:
    """Returns which rows of this height can carry a label: all, or every k-th and the last."""
    every = max(1, int(np.ceil((line_height() - 1) / height)))
    rows = list(range(0, num_rows, every))
    if rows and rows[-1] != num_rows - 1:
        if num_rows - 1 - rows[-1] < every:
            rows.pop()
        rows.append(num_rows - 1)
    return rows


def bounds(length: int, most: int) -> NDArray[np.intp]:
    """Returns where at most ``most`` groups of neighbours begin, of nearly equal size."""
    num_groups = min(length, most)
    return (np.arange(num_groups) * length) // max(1, num_groups)


def stretch(length: int, pixels: int) -> NDArray[np.intp]:
    """Returns for each pixel which of ``length`` cells, no more than pixels, it shows."""
    return (np.arange(pixels) * length) // pixels


def largest_of_neighbours(values: NDArray[Any], most: int, axis: int) -> NDArray[Any]:
    """Returns the values with groups of neighbours along an axis replaced by their largest.

    NaN gives way to a number. At most ``most`` groups are left; nothing changes if so many fit.
    """
    if values.shape[axis] <= most:
        return values
    return np.asarray(np.fmax.reduceat(values, bounds(values.shape[axis], most), axis=axis))
