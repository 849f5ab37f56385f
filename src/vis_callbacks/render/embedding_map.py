"""Pictures of an embedding beside its scatter plot: over time, by depth, and its absence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import colours_in_order
from vis_callbacks.render.film_strip import film_strip
from vis_callbacks.render.images import MAX_FRAME_WIDTH, MAX_WIDTH, blank, hatched, stacked
from vis_callbacks.render.line_plot import line_plot
from vis_callbacks.render.markers import OVERSAMPLING, class_legend, draw_marker
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
    frames: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    steps: Sequence[int],
    class_names: Sequence[object] = (),
    caption: Sequence[object] = (),
) -> Picture:
    """Returns maps of several steps side by side, all on one scale and in one place.

    So a cluster that comes apart, or drifts, is seen to.

    Args:
        frames: (points (samples, 2), labels (samples,)) each, oldest first. Points that are not
            finite are left out.
        steps: One for each frame.
        class_names: Name of each class; a class beyond them is called by its number.
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
    pictures = [_frame((points - centre) / half_span, labels, side) for points, labels in frames]
    strip = film_strip(pictures, steps, caption)
    classes = np.unique(np.concatenate([labels for _, labels in frames]))
    return stacked([strip, *class_legend(classes[classes >= 0], class_names, strip.shape[1])])


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


def _frame(places: NDArray[np.float64], labels: NDArray[Any], side: int) -> Picture:
    """Returns one small map of places between -1 and 1."""
    canvas = Image.new("RGB", (side * OVERSAMPLING, side * OVERSAMPLING), "white")
    draw = ImageDraw.Draw(canvas)
    pixels = OVERSAMPLING * (side / 2 + places * (1, -1) * (side / 2 - _MARGIN))
    is_shown = np.isfinite(places).all(axis=1)
    for (x, y), kind in zip(pixels[is_shown].tolist(), labels[is_shown].tolist(), strict=True):
        draw_marker(draw, x, y, kind, _MARKER * OVERSAMPLING)
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
