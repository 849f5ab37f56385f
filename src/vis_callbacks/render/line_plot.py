"""Line plots: numbers over steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.images import MAX_FRAME_WIDTH, stacked
from vis_callbacks.render.markers import OVERSAMPLING, class_colour, draw_marker, marker_legend
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Colour,
    Picture,
    line_height,
    number,
    shortened_names,
    text_width,
    write,
)

Curve = tuple[Sequence[float] | NDArray[Any], Sequence[float] | NDArray[Any]]  # steps, values
Points = tuple[NDArray[np.float64], NDArray[np.float64]]

_GRID = (225, 225, 225)
_MARKED = 12  # so many points of a curve at most carry its marker
_MAX_NAME_WIDTH = 160
_MOST_TICKS = 5
_DASH = 4
_GAP = 5
_MARGIN = 12  # right of the plot: half a label


def line_plot(
    curves: Mapping[str, Curve],
    caption: Sequence[object] = (),
    *,
    y_label: str = "",
    x_label: str = "step",
    y_range: tuple[float, float] | None = None,
    colours: Sequence[Colour] | None = None,
    levels: Mapping[str, float] | None = None,
    width: int = MAX_FRAME_WIDTH,
    height: int = 220,
) -> Picture:
    """Returns curves over steps, each with a colour and a marker, and a legend below.

    Args:
        curves: Name to (steps, values). A value that is not finite leaves a gap, and is counted.
        caption: Lines over the picture.
        y_label: What the values are, with their unit; written over the axis.
        x_label: What the steps are, where they are none: whole numbers in any case.
        y_range: By default what the values take.
        colours: One for each curve; by default those of the classes.
        levels: Name to a value that the curves are compared with: a dashed line with its name
            on it. One that is not finite is left out.
        width: Of the picture, in pixels.
        height: Of the plot, without caption and legend.

    Raises:
        ValueError: A curve has not one value for each step, or the range is empty.
    """
    if y_range is not None and not y_range[0] < y_range[1]:
        raise ValueError(f"y_range={y_range} is empty; give (low, high) with low below high")
    data = {}
    for name, (steps, values) in curves.items():
        data[name] = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if data[name][0].shape != data[name][1].shape:
            raise ValueError(f"curve {name!r} has {len(steps)} steps and {len(values)} values")
    known_levels = {n: float(v) for n, v in (levels or {}).items() if math.isfinite(v)}
    if y_range is None:
        y_range = _ends(
            [*(values for _, values in data.values()), np.array([*known_levels.values()])]
        )
    y_axis = _Axis(*y_range, height - line_height() - _GAP, line_height() + _GAP)
    left = max(text_width(text) for text in (x_label, *(text for text, _ in y_axis.ticks()))) + _GAP
    x_axis = _Axis(*_ends([steps for steps, _ in data.values()]), left, width - _MARGIN)
    colours = [class_colour(kind) for kind in range(len(data))] if colours is None else colours
    plot = _plot(list(data.values()), colours, x_axis, y_axis, (width, height))
    _draw_levels(plot, known_levels, x_axis, y_axis)
    _draw_axes(plot, x_axis, y_axis, (x_label, y_label))
    num_missing = sum(int(np.count_nonzero(~np.isfinite(values))) for _, values in data.values())
    notes = [f"gaps: {num_missing:,} values that are not finite"] if num_missing else []
    parts = [plot]
    if len(data) > 1:
        names = shortened_names(list(data), _MAX_NAME_WIDTH)
        entries = [(name, kind) for kind, name in enumerate(names)]
        parts.append(marker_legend(entries, width, colours))
    return with_caption(stacked(parts), [*caption, *notes])


def _ends(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Returns the least and the largest finite number, widened where they are one."""
    known = [array[np.isfinite(array)] for array in arrays]
    numbers = np.concatenate([*known, np.empty(0)])
    if not numbers.size:
        return 0.0, 1.0
    low, high = float(numbers.min()), float(numbers.max())
    if low / 2 == high / 2:  # two denormal numbers may be closer than any axis can tell
        margin = abs(low) / 4 or 0.5
        low, high = (max(low - margin, -sys.float_info.max), min(high + margin, sys.float_info.max))
    return low, high


@dataclass(frozen=True)
class _Axis:
    """Numbers from ``low`` to ``high`` along the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: int
    end: int

    def places(self, values: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the pixels; what lies beyond an end is drawn at it."""
        shares = (np.asarray(values) / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return np.asarray(self.start + np.clip(shares, 0, 1) * (self.end - self.start))

    def ticks(self, whole: bool = False) -> list[tuple[str, int]]:
        """Returns round numbers as they are written, each with its pixel."""
        distance = 2 * ((self.high / 2 - self.low / 2) / _MOST_TICKS)
        if whole:
            distance = max(1.0, distance)
        if distance < sys.float_info.min * 1e8:
            return []
        power = 10.0 ** math.floor(math.log10(distance))
        distance = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= distance)
        first, last = math.ceil(self.low / distance), math.floor(self.high / distance)
        ticks = [count * distance for count in range(first, last + 1)]
        return [(_as_text(tick, distance), int(self.places(tick))) for tick in ticks]


def _as_text(tick: float, distance: float) -> str:
    """Returns a tick with as many places as tell it from its neighbours."""
    if not 1e-4 <= distance <= 1e7:
        return number(tick)
    return f"{tick:,.{max(0, -math.floor(math.log10(distance)))}f}"


def _plot(
    curves: Sequence[Points],
    colours: Sequence[Colour],
    x_axis: _Axis,
    y_axis: _Axis,
    size: tuple[int, int],
) -> Picture:
    """Returns the curves over the lines of a grid."""
    width, height = size
    image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), "white")
    draw = ImageDraw.Draw(image)
    left, right = x_axis.start * OVERSAMPLING, x_axis.end * OVERSAMPLING
    for _, y in y_axis.ticks():
        draw.line((left, y * OVERSAMPLING, right, y * OVERSAMPLING), fill=_GRID, width=2)
    for kind, ((steps, values), colour) in enumerate(zip(curves, colours, strict=True)):
        points = np.stack([x_axis.places(steps), y_axis.places(values)]) * OVERSAMPLING
        _draw_curve(draw, points, kind, colour, has_markers=len(curves) > 1)
    return np.array(image.reduce(OVERSAMPLING))


def _draw_curve(
    draw: ImageDraw.ImageDraw,
    points: NDArray[np.float64],
    kind: int,
    colour: Colour,
    has_markers: bool,
) -> None:
    """Draws one curve with gaps, and its marker at a few of its points and at lone ones."""
    known: NDArray[np.bool_] = np.all(np.isfinite(points), axis=0)  # points are (x and y, steps)
    for index, following in pairwise(range(len(known))):
        if known[index] and known[following]:
            ends = (*points[:, index], *points[:, following])
            draw.line(ends, fill=colour, width=2 * OVERSAMPLING - 1)
    joined = np.pad(known, 1)
    is_lone = known & ~joined[:-2] & ~joined[2:]
    places = np.flatnonzero(known)
    marked = places[:: -(-len(places) // _MARKED) or 1] if has_markers else ()
    for index in {*marked, *np.flatnonzero(is_lone)}:
        x, y = points[:, index].tolist()
        draw_marker(draw, x, y, kind, 4 * OVERSAMPLING, colour)


def _draw_levels(
    canvas: Picture, levels: Mapping[str, float], x_axis: _Axis, y_axis: _Axis
) -> None:
    """Draws dashed lines, their names over them; under one that lies close below another."""
    columns = np.arange(x_axis.start + 1, x_axis.end)
    dashes = columns[columns // _DASH % 2 == 0]
    height, above = line_height(), -math.inf
    for name, value in sorted(levels.items(), key=lambda level: -level[1]):
        y = int(y_axis.places(value))
        canvas[y, dashes] = INK
        is_over = y - above > height or y + height > y_axis.start
        write(canvas, name, x_axis.end, y - height if is_over else y + 1, align="right")
        above = y


def _draw_axes(canvas: Picture, x_axis: _Axis, y_axis: _Axis, labels: tuple[str, str]) -> None:
    """Draws the two axes, their ticks and what they are."""
    left, bottom = x_axis.start, y_axis.start
    canvas[bottom, left : x_axis.end] = canvas[y_axis.end : bottom, left] = FAINT_INK
    x_label, y_label = labels
    write(canvas, y_label, 3, 0, colour=FAINT_INK)
    write(canvas, x_label, left - 3, bottom + 5, align="right", colour=FAINT_INK)
    for text, y in y_axis.ticks():
        write(canvas, text, left - 3, y - line_height() // 2, align="right")
    for text, x in x_axis.ticks(whole=True):
        half = text_width(text) // 2 + 1
        canvas[bottom : bottom + 3, x] = FAINT_INK
        centre = min(max(x, left + half), canvas.shape[1] - half)
        write(canvas, text, centre, bottom + 5, align="centre")
