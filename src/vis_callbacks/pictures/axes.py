"""What plots over the steps share: time to the right, rows thinned to what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.canvas import MAX_FRAME_WIDTH, blank
from vis_callbacks.pictures.text import FAINT_INK, INK, Rgb, line_height, text_width, write

_TICK = 4
_LEAST_DISTANCE = 10  # between two labels
_GAP = 5
# Plots of this width at least label the same snapshots, however wide the names beside them are.
_SHARED_WIDTH = 190


def time_plot(
    cells: Rgb,
    steps: Sequence[int],
    height: int,
    names: Mapping[int, str],
    latest: Mapping[int, str] | None = None,
    *,
    width: int | None = None,
) -> Rgb:
    """Returns (rows, columns, 3) cells enlarged, with names to their left and steps below.

    Args:
        cells: At most so many as there are pixels; each step has as many columns.
        steps: From left to right.
        height: Of the cells together, in pixels.
        names: What is written to the left, by the pixel row of its middle.
        latest: What is written to the right, likewise, under the word "now".
        width: Of the cells together; by default the picture becomes 400 px wide.
    """
    left = max(text_width(text) for text in (*names.values(), "step")) + 2 * _GAP
    right = max(text_width(text) for text in (*latest.values(), "now")) + _GAP if latest else 1
    room = width or _SHARED_WIDTH
    width = width or MAX_FRAME_WIDTH - left - right
    axis = step_axis(steps, width, room)
    top = line_height() if latest else 0
    canvas = blank(top + max(height, 2 * line_height()) + len(axis), left + width + right)
    plot = cells[stretch(len(cells), height)][:, stretch(cells.shape[1], width)]
    canvas[top : top + height, left : left + width] = plot
    canvas[top + height : top + height + len(axis), left : left + width] = axis
    write(canvas, "step", left - _GAP, top + height + _TICK, align="right", colour=FAINT_INK)
    if latest:
        write(canvas, "now", left + width + _GAP, 0, colour=FAINT_INK)
    for middle, name in names.items():
        y = top + middle - line_height() // 2
        colour = INK if latest else FAINT_INK
        write(canvas, name, left - _GAP, y, align="right", colour=colour)
        if latest:
            canvas[top + middle, left - 3 : left] = FAINT_INK
            canvas[top + middle, left + width : left + width + 3] = FAINT_INK
            write(canvas, latest[middle], left + width + _GAP, y)
    return canvas


def uneven_note(steps: Sequence[int]) -> str:
    """Returns what a reader of columns of equal width must know; "" where steps are even."""
    distances = {later - earlier for earlier, later in pairwise(steps)}
    return "a column a snapshot: steps are not evenly spaced" if len(distances) > 1 else ""


def step_axis(steps: Sequence[int], width: int, room: int) -> Rgb:
    """Returns the ticks and labels under columns of equal width, one for each step.

    The latest and the first are always labelled; others where there is room. The labels fit into
    ``room``, if it is less than the width: so pictures of different widths label the same steps.
    """
    canvas = blank(_TICK + line_height(), width)
    labels = [f"{step:,}" for step in steps]

    def centre(column: int, over: int) -> float:
        return (column + 0.5) * over / len(labels)

    def left_end(column: int, over: int) -> int:
        size = text_width(labels[column])
        return int(np.clip(centre(column, over) - size / 2, 0, max(0, over - size)))

    taken: list[tuple[int, int]] = []
    for column in dict.fromkeys((len(labels) - 1, *range(len(labels)))):
        size, x = text_width(labels[column]), left_end(column, min(room, width))
        if all(x > right or x + size < left for left, right in taken):
            taken.append((x - _LEAST_DISTANCE, x + size + _LEAST_DISTANCE))
            canvas[:_TICK, min(int(centre(column, width)), width - 1)] = INK
            write(canvas, labels[column], left_end(column, width), _TICK)
    return canvas


def labelled_rows(num_rows: int, height: int) -> list[int]:
    """Returns which rows of this height can carry a label: all, or every k-th and the last."""
    every = -(-(line_height() - 1) // height)
    rows = list(range(0, num_rows - 1, every))
    if rows and num_rows - 1 - rows[-1] < every:
        rows.pop()
    return [*rows, num_rows - 1]


def bounds(length: int, most: int) -> NDArray[np.intp]:
    """Returns where at most ``most`` groups of neighbours begin, of nearly equal size."""
    num_groups = min(length, most)
    return (np.arange(num_groups) * length) // num_groups


def stretch(length: int, pixels: int) -> NDArray[np.intp]:
    """Returns for each pixel which of ``length`` cells it shows."""
    return (np.arange(pixels) * length) // pixels


def largest_of_neighbours(values: NDArray[Any], most: int) -> NDArray[Any]:
    """Returns at most ``most`` rows, each the largest of neighbours; NaN gives way to a number."""
    if len(values) <= most:
        return values
    return np.asarray(np.fmax.reduceat(values, bounds(len(values), most), axis=0))
