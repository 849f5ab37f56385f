"""Pictures of an embedding beside its scatter plot: over time, by depth, and its absence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import Scale, colours_in_order
from vis_callbacks.render.film_strip import film_strip
from vis_callbacks.render.images import MAX_FRAME_WIDTH, MAX_WIDTH, blank, hatched, stacked
from vis_callbacks.render.line_plot import line_plot
from vis_callbacks.render.markers import OVERSAMPLING, Marks, draw_all, value_scale
from vis_callbacks.render.text import (
    FAINT_INK,
    Picture,
    line_height,
    shortened,
    write,
)

_LEAST_SIDE = 192  # eight frames are 1,600 px wide then
_GAP = 6
_MARGIN = 8
_MARKER = 2.6


def map_strip(
    frames: Sequence[tuple[NDArray[Any], Marks]],
    steps: Sequence[int],
    caption: Sequence[object] = (),
) -> Picture:
    """Returns maps of several steps side by side, all on one scale and in one place.

    So a cluster that comes apart, or drifts, is seen to.

    Args:
        frames: (points (samples, 2), their marks) each, oldest first. Points that are not
            finite are left out. The classes' names are those of the last.
        steps: One for each frame.
        caption: Lines over the strip.

    Raises:
        ValueError: There is no frame, or not one step for each.
    """
    known = [points[np.isfinite(points).all(axis=1)] for points, _ in frames]
    everything = np.concatenate([*known, np.empty((0, 2))]).astype(np.float64)
    low, high = (everything.min(0), everything.max(0)) if len(everything) else (0, 0)
    centre, half_span = np.add(low, high) / 2, float(np.subtract(high, low).max()) / 2 or 1.0
    side = (MAX_WIDTH + _GAP) // max(1, len(frames)) - _GAP
    side = max(_LEAST_SIDE, min(side, MAX_FRAME_WIDTH))
    every = _of_all_frames([marks for _, marks in frames])
    scale = None if every is None or every.values is None else value_scale(every.values)
    pictures = [
        _frame((points - centre) / half_span, marks, scale, side) for points, marks in frames
    ]
    strip = film_strip(pictures, steps, caption)
    return stacked([strip, *(every.legend(strip.shape[1]) if every is not None else [])])


def probe_curve(
    curves: Mapping[str, Sequence[float]],
    layers: Sequence[object],
    levels: Mapping[str, float],
    caption: Sequence[object] = (),
) -> Picture:
    """Returns the accuracy of linear probes over the depth of their layers.

    Args:
        curves: Name, such as a step, to one accuracy a layer; oldest first, drawn lightest.
        layers: Their names, in the order of the forward pass; listed below the plot.
        levels: What to compare with, by name: the accuracy of guessing, of the network itself.
            Drawn dashed; NaN: not known.
        caption: Lines over the picture.
    """
    depths = list(range(1, len(layers) + 1))
    plot = line_plot(
        {name: (depths, list(values)) for name, values in curves.items()},
        caption,
        y_label="accuracy",
        x_label="layer",
        y_range=(0.0, 1.0),
        height=240,
        colours=colours_in_order(len(curves)),
        levels=levels,
    )
    return stacked([plot, *_listed(layers)], gap=2)


def no_map(lines: Sequence[object]) -> Picture:
    """Returns a picture that says why there is none."""
    return with_caption(hatched(120, MAX_FRAME_WIDTH), lines)


def _of_all_frames(marks: Sequence[Marks]) -> Marks | None:
    """Returns what is known of the samples of all frames together, for their legend."""
    if not marks:
        return None
    values = [each.values for each in marks if each.values is not None]
    if len(values) == len(marks):
        values = [each[np.isfinite(each)] for each in values]
        return replace(marks[-1], labels=np.empty(0), values=np.concatenate(values))
    known = np.unique(np.concatenate([each.labels for each in marks]))
    return replace(marks[-1], labels=known[known >= 0], values=None)


def _frame(places: NDArray[np.float64], marks: Marks, scale: Scale | None, side: int) -> Picture:
    """Returns one small map of places between -1 and 1."""
    canvas = Image.new("RGB", (side * OVERSAMPLING, side * OVERSAMPLING), "white")
    draw = ImageDraw.Draw(canvas)
    pixels = OVERSAMPLING * (side / 2 + places * (1, -1) * (side / 2 - _MARGIN))
    is_shown = np.asarray(np.isfinite(places).all(axis=1))
    draw_all(draw, pixels[is_shown], marks.at(is_shown), _MARKER * OVERSAMPLING, scale)
    frame = np.array(canvas.reduce(OVERSAMPLING))
    frame[[0, -1]] = frame[:, [0, -1]] = FAINT_INK
    return frame


def _listed(names: Sequence[object]) -> list[Picture]:
    """Returns numbered names, one a line."""
    lines = []
    for place, name in enumerate(names, start=1):
        line = blank(line_height(), MAX_FRAME_WIDTH)
        write(line, f"{place}", 18, 0, align="right", colour=FAINT_INK)
        write(line, shortened(name, MAX_FRAME_WIDTH - 30), 26, 0)
        lines.append(line)
    return lines
