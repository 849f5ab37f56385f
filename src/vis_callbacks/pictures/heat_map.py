"""Heat maps: one number for each layer and step."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.axes import (
    bounds,
    labelled_rows,
    largest_of_neighbours,
    time_plot,
    uneven_note,
)
from vis_callbacks.pictures.canvas import colour_bar, with_caption
from vis_callbacks.pictures.colours import NOT_MEASURED, Scale, colour_map, missing_note
from vis_callbacks.pictures.text import Rgb, printable, shortened_names, text_width

_MAX_NAME_WIDTH = 150
_MAX_HEIGHT = 480  # of the rows together
_SHARES = Scale(low=0.0, high=1.0)
_LEAST_ROW_HEIGHT = 3
_MOST_ROW_HEIGHT = 20


def heat_map(
    shares: NDArray[Any],
    row_names: Sequence[str],
    steps: Sequence[int],
    caption: Sequence[object],
    units: str,
    *,
    scale: Scale = _SHARES,
) -> Rgb:
    """Returns a picture of rows by steps, 400 px wide, the latest number to the right of a row.

    What is not finite counts as not measured: grey, and counted. Where the rows outnumber the
    pixels, neighbours share a row that shows the largest of them.

    Args:
        shares: (rows, steps) numbers, at most 128 steps.
        row_names: One for each row, shortened in the middle where too long.
        steps: One for each column, increasing.
        caption: Lines over the picture; where the latest largest number stands is added.
        units: What the numbers are, for the colour bar.
        scale: By default of shares, between 0 and 1.
    """
    first_rows = bounds(len(shares), _MAX_HEIGHT // _LEAST_ROW_HEIGHT)
    rows = largest_of_neighbours(shares, len(first_rows))
    row_height = int(np.clip(_MAX_HEIGHT // len(rows), _LEAST_ROW_HEIGHT, _MOST_ROW_HEIGHT))
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
        _largest_now(shares[:, -1], row_names, steps[-1]),
        f"all names begin with {prefix}" if prefix else "",
        missing_note(shares, "cells", "grey", "not measured"),
        uneven_note(steps),
        shared if len(rows) < len(shares) else "",
    ]
    return with_caption(body, lines, bar=colour_bar(scale, units))


def _largest_now(latest: NDArray[Any], names: Sequence[str], step: int) -> str:
    """Returns where the latest largest number stands: thinned labels may leave it out."""
    if not np.isfinite(latest).any():
        return f"nothing measured at step {step:,}"
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
