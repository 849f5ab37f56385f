"""Rasters: every unit of one layer over time, alive or dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.axes import bounds, time_plot, uneven_note
from vis_callbacks.pictures.canvas import MAX_FRAME_WIDTH, blank, with_caption
from vis_callbacks.pictures.colours import NOT_MEASURED
from vis_callbacks.pictures.text import Colour, Rgb, line_height, text_width, write

ALIVE, DEAD, REVIVED, NEVER_FIRED = range(4)
STATE_COLOURS: tuple[Colour, ...] = ((205, 225, 240), (213, 94, 0), (0, 114, 178), (70, 70, 70))

_NAMES = ("alive", "dead", "revived", "never fired", "not measured")
_COLOURS = (*STATE_COLOURS, NOT_MEASURED)
# Units that share a pixel show the worst of them: a few dead units must not vanish. From mild to
# grave, the last state being that of what is not measured.
_BY_GRAVITY = np.array([-1, ALIVE, REVIVED, NEVER_FIRED, DEAD])
_GRAVITY = np.argsort(_BY_GRAVITY)  # of the states from -1 on
_MAX_HEIGHT = 400  # of the rows together
_MOST_ROW_HEIGHT = 12
_LEAST_HEIGHT = 96


def raster(states: NDArray[Any], steps: Sequence[int], caption: Sequence[object]) -> Rgb:
    """Returns a picture of units by steps, each cell coloured by the unit's state, 400 px wide.

    Units are sorted: those alive on top, then the revived, then the dead by the time of their
    death, then those that never fired, so that dying reads as a stair. Where the units outnumber
    the pixels, neighbours share a row that shows the worst of them.

    Args:
        states: (units, steps), -1 for what is not measured; at most 128 steps.
        steps: One for each column, increasing.
        caption: Lines over the picture.
    """
    states = states.astype(np.intp)
    ordered, num_units = states[sorted_by_death(states)], len(states)
    gravity = np.maximum.reduceat(_GRAVITY[ordered + 1], bounds(num_units, _MAX_HEIGHT), axis=0)
    cells = np.array(_COLOURS, dtype=np.uint8)[_BY_GRAVITY[gravity]]  # -1 is the last
    height = min(_MAX_HEIGHT, max(_LEAST_HEIGHT, len(cells)), len(cells) * _MOST_ROW_HEIGHT)
    line = line_height()
    names = {line // 2: f"{num_units:,}", line + line // 2: "units"}
    note = f"{num_units:,} units in {len(cells):,} rows: each shows the worst of its units"
    lines = [
        *caption,
        f"units at step {steps[-1]:,}; rows sorted by time of death",
        note if len(cells) < num_units else "",
        uneven_note(steps),
    ]
    return with_caption(time_plot(cells, steps, height, names), lines, bar=_legend(states[:, -1]))


def sorted_by_death(states: NDArray[np.intp]) -> NDArray[np.intp]:
    """Returns the order of the units (units, times) in a raster: the latest dead lie highest."""
    latest, num_times = states[:, -1], states.shape[1]
    # Where the state of today began.
    changed = states != latest[:, None]
    since = np.where(changed.any(1), num_times - np.argmax(changed[:, ::-1], axis=1), 0)
    group = np.select([latest == DEAD, latest == NEVER_FIRED, latest == REVIVED], [2, 3, 1], 0)
    was_ever_dead = (states == DEAD).any(axis=1)
    return np.lexsort((-since, was_ever_dead, group))


def _legend(latest: NDArray[np.intp]) -> Rgb:
    """Returns the states with their colours and how many units are in each at the latest step."""
    height, x, y = line_height(), 3, 0
    canvas = blank(2 * height, MAX_FRAME_WIDTH)
    for state in (ALIVE, DEAD, REVIVED, NEVER_FIRED, -1):
        if not (count := np.count_nonzero(latest == state)) and state < 0:
            continue
        text = f"{_NAMES[state]} {count:,}"
        if x + height + text_width(text) > MAX_FRAME_WIDTH:
            x, y = 3, height
        canvas[y + 2 : y + height - 2, x : x + height - 4] = _COLOURS[state]
        write(canvas, text, x + height, y)
        x += height + text_width(text) + 10
    return canvas[: y + height]
