"""Scatter plots of two-dimensional maps: which samples lie together, and which go astray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.images import MAX_FRAME_WIDTH, stacked
from vis_callbacks.render.markers import OVERSAMPLING, Marks, draw_all, draw_ring
from vis_callbacks.render.text import FAINT_INK, Picture

_MARGIN = 12  # pixels between the outermost points and the frame
_TRAIL = (190, 190, 190)


def scatter(
    points: NDArray[Any],
    labels: NDArray[Any] | None = None,
    class_names: Sequence[object] = (),
    values: NDArray[Any] | None = None,
    wrong: NDArray[np.bool_] | None = None,
    trails: NDArray[Any] | None = None,
    caption: Sequence[object] = (),
    *,
    width: int = MAX_FRAME_WIDTH,
) -> Picture:
    """Returns a map of points, each with the marker of its class or the colour of its value.

    Both axes have one scale: distances are what such a map is read by. It has no ticks, since
    the coordinates of an embedding mean nothing. The legend names the classes that occur.

    Args:
        points: (samples, 2). What is not finite is left out and counted.
        labels: (samples,) class numbers; below 0, or None, for "not known".
        class_names: Name of each class; a class beyond them is called by its number.
        values: (samples,) numbers in place of classes, on a continuous scale; NaN: not known.
        wrong: (samples,) True where the model errs: a thin ring behind the marker.
        trails: (samples, 2) where the same samples lay on the last map: a faint line to there.
        caption: Lines over the picture.
        width: Of the picture and height of the map, in pixels.

    Raises:
        ValueError: The points are not (samples, 2), or another array has not as many samples.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points have the shape {points.shape}; give (samples, 2)")
    num_samples = len(points)
    kinds = np.full(num_samples, -1) if labels is None else np.asarray(labels).astype(np.int64)
    marks = Marks(labels=kinds, class_names=class_names, values=values)
    is_wrong = np.zeros(num_samples, bool) if wrong is None else np.asarray(wrong, dtype=bool)
    for name, array in (
        ("labels", kinds),
        ("values", values),
        ("wrong", is_wrong),
        ("trails", trails),
    ):
        if array is not None and len(array) != num_samples:
            raise ValueError(f"{name} has {len(array)} entries for {num_samples} points")
    is_shown = np.isfinite(points).all(axis=1)
    before = None if trails is None else np.asarray(trails, dtype=np.float64)[is_shown]
    marks = marks.at(is_shown)
    plot = _plot(points[is_shown], marks, is_wrong[is_shown], before, width)
    lines = [*caption, *_notes(is_shown, is_wrong if wrong is not None else None, trails)]
    return with_caption(stacked([plot, *marks.legend(width)]), lines)


def _notes(
    is_shown: NDArray[np.bool_], is_wrong: NDArray[np.bool_] | None, trails: NDArray[Any] | None
) -> list[str]:
    """Returns what the marks mean and how many there are."""
    notes = []
    num_samples = len(is_shown)
    if is_wrong is not None:
        notes.append(f"ringed: misclassified ({np.count_nonzero(is_wrong):,} of {num_samples:,})")
    if trails is not None:
        notes.append("grey lines: from the place on the map before")
    if num_missing := np.count_nonzero(~is_shown):
        notes.append(f"left out: {num_missing:,} of {num_samples:,} points that are not finite")
    return notes


def _plot(
    points: NDArray[np.float64],
    marks: Marks,
    is_wrong: NDArray[np.bool_],
    before: NDArray[np.float64] | None,
    width: int,
) -> Picture:
    """Returns the map in its frame."""
    size = width * OVERSAMPLING
    canvas = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(canvas)
    num_shown = len(points)
    known = points if before is None else np.concatenate([points, before])
    places = _places(known, points, width) * OVERSAMPLING
    if before is not None:
        for start, end in zip(places[num_shown:], places[:num_shown], strict=True):
            if np.isfinite(start).all():
                draw.line((*start, *end), fill=_TRAIL, width=OVERSAMPLING)
    radius = OVERSAMPLING * float(np.clip(4.5 - 0.5 * np.log2(max(num_shown, 1) / 125), 2.2, 4.5))
    for x, y in places[:num_shown][is_wrong].tolist():
        draw_ring(draw, x, y, radius)
    draw_all(draw, places[:num_shown], marks, radius)
    plot = np.array(canvas.reduce(OVERSAMPLING))
    plot[[0, -1]] = plot[:, [0, -1]] = FAINT_INK
    return plot


def _places(
    known: NDArray[np.float64], points: NDArray[np.float64], width: int
) -> NDArray[np.float64]:
    """Returns the pixels of all known points, so that those of this map fill the picture."""
    if not len(points):
        return known
    low, high = points.min(axis=0), points.max(axis=0)
    centre = low / 2 + high / 2
    half_span = float((high / 2 - low / 2).max()) or 1.0  # all points in one place: the centre
    places = (known - centre) / half_span * (width / 2 - _MARGIN)
    return np.asarray(width / 2 + places * (1, -1))
