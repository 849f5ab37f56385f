"""Heat maps: one number for each layer and step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.axes import (
    SHARED_WIDTH,
    bounds,
    labelled_rows,
    largest_of_neighbours,
    step_axis,
    stretch,
    uneven_note,
)
from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import NOT_MEASURED, Scale, colour_map, missing_note
from vis_callbacks.render.images import MAX_FRAME_WIDTH, blank
from vis_callbacks.render.text import (
    FAINT_INK,
    Picture,
    line_height,
    number,
    printable,
    shortened_names,
    text_width,
    write,
)

_MAX_NAME_WIDTH = 150
_LEAST_ROW_HEIGHT = 3
_MOST_ROW_HEIGHT = 20
_MARGIN = 3
_GAP = 5


def heat_map(
    values: NDArray[Any],
    row_names: Sequence[object],
    column_steps: Sequence[int],
    caption: Sequence[object] = (),
    *,
    scale: Scale | None = None,
    units: str = "dead fraction",
    width: int = MAX_FRAME_WIDTH,
    max_height: int = 480,
) -> Picture:
    """Returns a picture of rows by steps: by default, how much of each layer is dead.

    Rows keep their order (layers: that of the forward pass, the first on top); time runs to
    the right in columns of equal width, labelled by step. To the right of each labelled row
    stands its latest number. What is not finite counts as not measured: grey, and counted.

    Args:
        values: (rows, columns). Where they outnumber the pixels, neighbours share a cell that
            shows the largest of them.
        row_names: One for each row, shortened in the middle where too long.
        column_steps: One for each column, increasing.
        caption: Lines over the picture; where the latest largest number stands is added.
        scale: By default 0 to 1.
        units: What the numbers are, for the colour bar.
        width: Of the whole picture, in pixels.
        max_height: Of the rows together, in pixels.

    Raises:
        ValueError: No values, or their shape does not fit the names and steps.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size or values.shape != (len(row_names), len(column_steps)):
        raise ValueError(
            f"values of shape {values.shape} do not fit {len(row_names)} row names and "
            f"{len(column_steps)} steps; give (rows, columns), one of each at least"
        )
    scale = Scale(low=0.0, high=1.0) if scale is None else scale
    first_rows = bounds(len(values), max_height // _LEAST_ROW_HEIGHT)
    prefix = _common_prefix(row_names)
    names = [str(row_names[row]).removeprefix(prefix) for row in first_rows]
    rows = largest_of_neighbours(values, len(first_rows), axis=0)
    row_height = int(np.clip(max_height // len(rows), _LEAST_ROW_HEIGHT, _MOST_ROW_HEIGHT))
    body = _body(rows, names, column_steps, scale, width, row_height)
    lines = [
        *caption,
        _largest_now(values, row_names, column_steps, scale),
        f"all names begin with {prefix}" if prefix else "",
        missing_note(values, "cells", "grey", "not measured"),
        uneven_note(column_steps),
        _shared_rows(len(values), len(rows)),
    ]
    return with_caption(body, lines, bar=colour_bar(scale, units))


def _body(
    rows: NDArray[np.float64],
    names: Sequence[object],
    steps: Sequence[int],
    scale: Scale,
    width: int,
    row_height: int,
) -> Picture:
    """Returns names, cells, latest numbers and the axis below them."""
    labelled = labelled_rows(len(rows), row_height)
    short = shortened_names([names[row] for row in labelled], _MAX_NAME_WIDTH)
    latest = [_figure(rows[row, -1], scale) for row in labelled]
    left = _MARGIN + max(text_width(text) for text in (*short, "step")) + _GAP
    plot_width = max(20, width - left - _GAP - max(text_width(text) for text in (*latest, "now")))
    cells = colour_map(
        largest_of_neighbours(rows, plot_width, axis=1), scale=scale, missing=NOT_MEASURED
    )
    cells = cells[np.repeat(np.arange(len(rows)), row_height)]
    cells = cells[:, stretch(cells.shape[1], plot_width)]
    axis = step_axis(steps, plot_width, SHARED_WIDTH)
    top = line_height()  # the first label is higher than a row of three pixels
    canvas = blank(top + len(cells) + axis.shape[0], width)
    canvas[top : top + len(cells), left : left + plot_width] = cells
    canvas[top + len(cells) :, left : left + plot_width] = axis
    write(canvas, "step", left - _GAP, top + len(cells) + 4, align="right", colour=FAINT_INK)
    write(canvas, "now", left + plot_width + _GAP, 0, colour=FAINT_INK)
    for row, name, value in zip(labelled, short, latest, strict=True):
        middle = top + row * row_height + row_height // 2
        canvas[middle, left - 3 : left] = FAINT_INK
        canvas[middle, left + plot_width : left + plot_width + 3] = FAINT_INK
        y = middle - line_height() // 2
        write(canvas, name, left - _GAP, y, align="right")
        write(canvas, value, left + plot_width + _GAP, y)
    return canvas


def _largest_now(
    values: NDArray[np.float64], names: Sequence[object], steps: Sequence[int], scale: Scale
) -> str:
    """Returns where the latest largest number stands: thinned labels may leave it out."""
    latest = np.where(np.isfinite(values[:, -1]), values[:, -1], -np.inf)
    row = int(np.argmax(latest))
    if not np.isfinite(latest[row]):
        return f"nothing measured at step {steps[-1]:,}"
    return f"largest at step {steps[-1]:,}: {names[row]}, {_figure(latest[row], scale)}"


def _shared_rows(num_rows: int, num_drawn: int) -> str:
    if num_rows == num_drawn:
        return ""
    return f"{num_rows:,} rows in {num_drawn:,}: each shows the largest of its neighbours"


def _figure(value: float, scale: Scale) -> str:
    """Returns one number for a row: fractions with three places, so that they align."""
    if not np.isfinite(value):
        return ""
    return f"{value:.3f}" if scale.high <= 1 else number(float(value))


def _common_prefix(names: Sequence[object]) -> str:
    """Returns what too long names share, up to a dot (``model.backbone.``); else nothing."""
    texts = [str(name) for name in names]
    if len(texts) < 2 or all(text_width(printable(text)) <= _MAX_NAME_WIDTH for text in texts):
        return ""
    # What the first and the last of the sorted names share, all others share.
    ends = zip(min(texts), max(texts), strict=False)
    shared = "".join(letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return shared[: shared.rfind(".") + 1]
