"""The axes that heat map and raster share: time to the right, rows thinned to what fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.images import blank
from vis_callbacks.render.text import INK, Picture, line_height, text_width, write

_TICK = 4
_LEAST_DISTANCE = 10  # between two labels


def step_axis(steps: Sequence[int], width: int) -> Picture:
    """Returns the ticks and labels under columns of equal width, one column for each step.

    Steps are seldom equally far apart (bursts, log-spaced), so labels name steps and do not
    count columns. The first and the latest are always labelled; others where there is room.
    """
    canvas = blank(_TICK + line_height(), width)
    centres = (np.arange(len(steps)) + 0.5) * width / max(1, len(steps))
    labels = [f"{step:,}" for step in steps]
    for column, x in _labels_with_room(labels, centres, width):
        tick = min(int(centres[column]), width - 1)
        canvas[:_TICK, tick] = INK
        write(canvas, labels[column], x, _TICK)
    return canvas


def _labels_with_room(
    labels: Sequence[str], centres: NDArray[np.float64], width: int
) -> list[tuple[int, int]]:
    """Returns which labels do not overlap, each with its left end: first, last, then the rest."""
    chosen: list[tuple[int, int]] = []
    taken: list[tuple[int, int]] = []
    last = len(labels) - 1
    for column in dict.fromkeys((last, *range(len(labels)))):
        size = text_width(labels[column])
        x = int(np.clip(centres[column] - size / 2, 0, max(0, width - size)))
        if all(x > right or x + size < left for left, right in taken):
            chosen.append((column, x))
            taken.append((x - _LEAST_DISTANCE, x + size + _LEAST_DISTANCE))
    return sorted(chosen)


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
