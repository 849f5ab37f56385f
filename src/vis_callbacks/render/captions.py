"""Captions and colour bars: what a picture must say of itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vis_callbacks.render.colours import Scale, colour_map
from vis_callbacks.render.images import blank, stacked
from vis_callbacks.render.text import (
    CAPTION_SIZE,
    FAINT_INK,
    INK,
    Picture,
    line_height,
    number,
    printable,
    text_width,
    wrapped,
    write,
)

_MIN_WIDTH = 240  # narrower pictures get white beside them: a caption of one word a line is none
_MARGIN = 3
_MAX_LINES = 8  # of one caption entry: a name of a thousand letters must not bury the picture


def with_caption(
    image: Picture, lines: Sequence[object], *, bar: Picture | None = None, above: bool = True
) -> Picture:
    """Returns the picture with a caption, wrapped to its width and never clipped.

    Args:
        image: Any picture.
        lines: What to say, the most important first: it is drawn darker than the rest. Each
            begins a new line; empty ones are left out.
        bar: A colour bar (see `colour_bar`), drawn between caption and picture.
        above: Over the picture, where TensorBoard's card begins; else under it.
    """
    width = max(image.shape[1], _MIN_WIDTH, 0 if bar is None else bar.shape[1])
    parts = []
    if text := [line for line in lines if str(line)]:
        parts.append(_paragraph(text, width))
    if bar is not None:
        parts.append(bar)
    return stacked([*parts, image] if above else [image, *parts])


def _paragraph(lines: Sequence[object], width: int) -> Picture:
    """Returns the lines as a picture of this width."""
    rows = [
        (row, INK if index == 0 else FAINT_INK)
        for index, line in enumerate(lines)
        for row in _few(wrapped(line, width - 2 * _MARGIN))
    ]
    height = line_height(CAPTION_SIZE)
    canvas = blank(height * len(rows) + _MARGIN, width)
    for index, (row, colour) in enumerate(rows):
        write(canvas, row, _MARGIN, index * height, size=CAPTION_SIZE, colour=colour)
    return canvas


def _few(rows: list[str]) -> list[str]:
    """Returns at most `_MAX_LINES` rows: the first ones and the last, "…" for the rest."""
    if len(rows) <= _MAX_LINES:
        return rows
    return [*rows[: _MAX_LINES - 2], "…", rows[-1]]


def colour_bar(scale: Scale, units: str = "", width: int = 120) -> Picture:
    """Returns a bar of the scale's colours between its two ends, with the units after it.

    An end beyond which values were cut off carries a sign: ``≥ 3.2``.
    """
    left, right = number(scale.low), number(scale.high)
    if scale.is_clipped:
        left = left if scale.low == 0 else f"≤ {left}"
        right = f"≥ {right}"
    right = f"{right} {printable(units)}".rstrip()
    height = line_height()
    start = _MARGIN + text_width(left) + _MARGIN
    end = start + width
    canvas = blank(height, end + 2 * _MARGIN + text_width(right))
    write(canvas, left, _MARGIN, 0)
    write(canvas, right, end + _MARGIN, 0)
    ramp = colour_map(np.linspace(0, 1, width), scale=Scale(low=0, high=1, signed=scale.signed))
    canvas[2:-2, start:end] = ramp
    if scale.signed:
        write(canvas, "0", (start + end) // 2, 0, align="centre")
    return canvas
