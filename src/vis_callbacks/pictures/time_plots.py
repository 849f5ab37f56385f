"""Pictures over the steps: heat maps of layers and rasters of units, time to the right.

Where the rows outnumber the pixels, neighbours share a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.canvas import MAX_FRAME_WIDTH, blank, colour_bar, with_caption
from vis_callbacks.pictures.colours import NOT_MEASURED, Scale, colour_map, missing_note
from vis_callbacks.pictures.text import (
    FAINT_INK,
    INK,
    Colour,
    Rgb,
    line_height,
    printable,
    shortened_names,
    text_width,
    write,
)

ALIVE, DEAD, REVIVED, NEVER_FIRED = range(4)
STATE_COLOURS: tuple[Colour, ...] = ((205, 225, 240), (213, 94, 0), (0, 114, 178), (70, 70, 70))

_NAMES = ("alive", "dead", "revived", "never fired", "not measured")
_COLOURS = (*STATE_COLOURS, NOT_MEASURED)
# Units that share a pixel show the worst of them: a few dead units must not vanish. From mild to
# grave, the last state being that of what is not measured.
_BY_GRAVITY = np.array([-1, ALIVE, REVIVED, NEVER_FIRED, DEAD])
_GRAVITY = np.argsort(_BY_GRAVITY)  # of the states from -1 on
# Of the rows together, and of one row: of a raster, then of a heat map.
_LEAST_HEIGHT, _MAX_HEIGHT, _MOST_ROW_HEIGHT = 96, 400, 12
_MAX_MAP_HEIGHT, _LEAST_MAP_ROW_HEIGHT, _MOST_MAP_ROW_HEIGHT = 480, 3, 20
_MAX_NAME_WIDTH = 150
_TICK = 4
_LEAST_DISTANCE = 10  # between two labels
_GAP = 5
# Plots of this width at least label the same snapshots, however wide the names beside them are.
_SHARED_WIDTH = 190
_SHARES = Scale(low=0.0, high=1.0)


def heat_map(
    shares: NDArray[Any],
    row_names: Sequence[str],
    steps: Sequence[int],
    caption: Sequence[object],
    units: str,
    *,
    scale: Scale = _SHARES,
    missing: str = "not measured",
) -> Rgb:
    """Returns a picture of rows by steps, 400 px wide, the latest number to the right of a row.

    ``shares`` are (rows, steps), by default between 0 and 1, at most 128 steps. What is not finite
    is grey, and counted as ``missing`` says. Neighbours that share a row show the largest of them.
    """
    first_rows = bounds(len(shares), _MAX_MAP_HEIGHT // _LEAST_MAP_ROW_HEIGHT)
    rows = largest_of_neighbours(shares, len(first_rows))
    row_height = int(
        np.clip(_MAX_MAP_HEIGHT // len(rows), _LEAST_MAP_ROW_HEIGHT, _MOST_MAP_ROW_HEIGHT)
    )
    prefix = _common_prefix(row_names)
    labelled = labelled_rows(len(rows), row_height)
    names = [row_names[first_rows[row]].removeprefix(prefix) for row in labelled]
    middles = [row * row_height + row_height // 2 for row in labelled]
    body = time_plot(
        colour_map(rows, scale=scale, missing=NOT_MEASURED),
        steps,
        row_height * len(rows),
        dict(zip(middles, shortened_names(names, _MAX_NAME_WIDTH), strict=True)),
        {y: _figure(rows[row, -1]) for y, row in zip(middles, labelled, strict=True)},
    )
    shared = f"{len(shares):,} rows in {len(rows):,}: each shows the largest of its neighbours"
    lines = [
        *caption,
        _largest_now(shares[:, -1], row_names, steps[-1], missing),
        f"all names begin with {prefix}" if prefix else "",
        missing_note(shares, "cells", "grey", missing),
        uneven_note(steps),
        shared if len(rows) < len(shares) else "",
    ]
    return with_caption(body, lines, bar=colour_bar(scale, units))


def _largest_now(latest: NDArray[Any], names: Sequence[str], step: int, missing: str) -> str:
    """Returns where the latest largest number stands: thinned labels may leave it out."""
    if not np.isfinite(latest).any():
        return f"at step {step:,} all rows are {missing}"
    row = int(np.nanargmax(latest))
    return f"largest at step {step:,}: {names[row]}, {_figure(latest[row])}"


def _figure(value: float) -> str:
    """Returns one number for a row: with three places, so that the numbers align."""
    return f"{value:.3f}" if np.isfinite(value) else ""


def _common_prefix(names: Sequence[str]) -> str:
    """Returns what too long names share, up to a dot (``model.backbone.``); else nothing."""
    if len(names) < 2 or all(text_width(printable(name)) <= _MAX_NAME_WIDTH for name in names):
        return ""
    shared = commonprefix(list(names))  # noqa: RUF071 (names are no paths)
    return shared[: shared.rfind(".") + 1]


def raster(states: NDArray[Any], steps: Sequence[int], caption: Sequence[object]) -> Rgb:
    """Returns a picture of units by steps, each cell coloured by the unit's state, 400 px wide.

    ``states`` are (units, steps), -1 for what is not measured; at most 128 steps. Units are sorted:
    those alive on top, then the revived, then the dead by the time of their death, then those that
    never fired, so that dying reads as a stair. Neighbours that share a row show the worst of them.
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

    ``names`` stand at the pixel rows of their middles, and so does what is ``latest``, to the right
    under the word "now". Without a ``width`` of the cells the picture becomes 400 px wide.
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
    return "one column per snapshot: steps are not evenly spaced" if len(distances) > 1 else ""


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
