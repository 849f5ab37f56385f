"""Rasters: every unit of one layer over time, alive or dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.axes import SHARED_WIDTH, bounds, step_axis, stretch, uneven_note
from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import NOT_MEASURED
from vis_callbacks.render.images import MAX_FRAME_WIDTH, blank
from vis_callbacks.render.text import (
    FAINT_INK,
    Colour,
    Picture,
    line_height,
    text_width,
    write,
)

ALIVE, DEAD, REVIVED, NEVER_FIRED = range(4)

_NAMES = ("alive", "dead", "revived", "never fired")
STATE_COLOURS: tuple[Colour, ...] = ((205, 225, 240), (213, 94, 0), (0, 114, 178), (70, 70, 70))
# Rows that share a pixel show the worst of them: a few dead units must not vanish.
_BADNESS = np.array([0, 3, 1, 2])
_STATE_OF_BADNESS = np.argsort(_BADNESS)
_MOST_ROW_HEIGHT = 12
_LEAST_HEIGHT = 96
_MARGIN = 3
_GAP = 5


def raster(
    states: NDArray[Any],
    column_steps: Sequence[int],
    caption: Sequence[object] = (),
    *,
    width: int = MAX_FRAME_WIDTH,
    max_height: int = 400,
) -> Picture:
    """Returns a picture of units by steps, each cell coloured by the unit's state.

    Units are sorted: those alive on top, then the revived, then the dead by the time of their
    death, then those that never fired, so that dying reads as a stair. The legend counts the
    units in each state at the latest step.

    Args:
        states: (units, times) of 0 alive, 1 dead, 2 revived, 3 never fired; anything else is
            not measured: grey, and counted.
        column_steps: One for each time, increasing.
        caption: Lines over the picture.
        width: Of the whole picture, in pixels.
        max_height: Of the rows together; where the units outnumber the pixels, neighbours
            share a row that shows the worst of them, and the caption says so.

    Raises:
        ValueError: No states, or not one step for each column.
    """
    states = np.asarray(states)
    if states.ndim != 2 or not states.size or states.shape[1] != len(column_steps):
        raise ValueError(
            f"states of shape {states.shape} do not fit {len(column_steps)} steps; give "
            "(units, times), one of each at least"
        )
    states = np.where(np.isin(states, range(4)), states, -1).astype(np.intp)
    num_units = len(states)
    cells = _worst_of_neighbours(states[sorted_by_death(states)], max_height)
    note = ""
    if len(cells) < num_units:
        note = f"{num_units:,} units in {len(cells):,} rows: each shows the worst of its units"
    body = _body(cells, num_units, column_steps, width, max_height)
    legend = _legend(states, width)
    counts = f"units at step {column_steps[-1]:,}; rows sorted by time of death"
    lines = [*caption, counts, note, uneven_note(column_steps)]
    return with_caption(body, lines, bar=legend)


def sorted_by_death(states: NDArray[np.intp]) -> NDArray[np.intp]:
    """Returns the order of the units (units, times) in a raster: the latest dead lie highest."""
    latest = states[:, -1]
    # Where the state of today began.
    changed = states != latest[:, None]
    num_times = states.shape[1]
    since = np.where(changed.any(1), num_times - np.argmax(changed[:, ::-1], axis=1), 0)
    group = np.select([latest == DEAD, latest == NEVER_FIRED, latest == REVIVED], [2, 3, 1], 0)
    was_ever_dead = (states == DEAD).any(axis=1)
    return np.lexsort((-since, was_ever_dead, group))


def _worst_of_neighbours(states: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Returns at most so many rows, each the worst state of its units at each time."""
    if len(states) <= most:
        return states
    badness = np.where(states < 0, -1, _BADNESS[states])
    worst = np.maximum.reduceat(badness, bounds(len(states), most), axis=0)
    return np.where(worst < 0, -1, _STATE_OF_BADNESS[worst])


def _body(
    cells: NDArray[np.intp], num_units: int, steps: Sequence[int], width: int, max_height: int
) -> Picture:
    """Returns the cells, the number of units beside them and the axis below them."""
    height = min(max_height, max(_LEAST_HEIGHT, len(cells)), len(cells) * _MOST_ROW_HEIGHT)
    names = (f"{num_units:,}", "units")
    left = _MARGIN + max(text_width(name) for name in (*names, "step")) + _GAP
    plot_width = max(20, width - left - 1)
    columns = stretch(cells.shape[1], plot_width)
    colours = np.array([*STATE_COLOURS, NOT_MEASURED], dtype=np.uint8)  # -1 is the last
    plot = colours[cells[stretch(len(cells), height)][:, columns]]
    axis = step_axis(steps, plot_width, SHARED_WIDTH)
    canvas = blank(max(height, 2 * line_height()) + axis.shape[0], width)
    canvas[:height, left : left + plot_width] = plot
    canvas[height : height + axis.shape[0], left : left + plot_width] = axis
    for row, name in enumerate(names):
        write(canvas, name, left - _GAP, row * line_height(), align="right", colour=FAINT_INK)
    write(canvas, "step", left - _GAP, height + 4, align="right", colour=FAINT_INK)
    return canvas


def _legend(states: NDArray[np.intp], width: int) -> Picture:
    """Returns the states with their colours and how many units are in each at the latest step."""
    latest = states[:, -1]
    entries = [
        (f"{name} {np.count_nonzero(latest == state):,}", STATE_COLOURS[state])
        for state, name in enumerate(_NAMES)
    ]
    if num_missing := np.count_nonzero(latest < 0):
        entries.append((f"not measured {num_missing:,}", NOT_MEASURED))
    height = line_height()
    places, x, y = [], 3, 0
    for text, _ in entries:
        size = height + text_width(text) + 10
        if x > 3 and x + size > width:
            x, y = 3, y + height
        places.append((x, y))
        x += size
    canvas = blank(y + height, width)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        canvas[y + 2 : y + height - 2, x : x + height - 4] = colour
        write(canvas, text, x + height, y)
    return canvas
