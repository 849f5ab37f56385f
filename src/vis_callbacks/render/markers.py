"""Markers of samples: ten shapes for classes, colours on a scale for values; their legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import colour_bar
from vis_callbacks.render.colours import CLASS_COLOURS, NOT_MEASURED, Scale, colour_map
from vis_callbacks.render.images import blank, stacked
from vis_callbacks.render.text import (
    Colour,
    Picture,
    line_height,
    shortened_names,
    text_width,
    write,
)

OVERSAMPLING = 3  # pictures are drawn this much larger and averaged: Pillow's edges are hard

_EDGE: Colour = (255, 255, 255)
_WRONG: Colour = (20, 20, 20)
_NO_CLASS: Colour = (150, 150, 150)


_VALUE_QUANTILE = 0.02  # at each end: one outlier would leave all else in one colour
_MAX_LEGEND_ENTRIES = 100  # as many as colours times shapes
_MAX_NAME_WIDTH = 180


def class_colour(kind: int) -> Colour:
    """Returns the colour of a class, the same in every run; every eleventh class shares it."""
    return CLASS_COLOURS[kind % len(CLASS_COLOURS)]


def shares_its_colour(kind: int) -> bool:
    """Returns whether a class before this one has its colour, so that it needs its shape."""
    return kind >= len(CLASS_COLOURS)


def _regular(corners: int, turn: float) -> tuple[tuple[float, float], ...]:
    """Returns the corners of a regular polygon around 0."""
    angles = [2 * math.pi * corner / corners + turn for corner in range(corners)]
    return tuple((math.sin(angle), -math.cos(angle)) for angle in angles)


def _plus(arm: float) -> tuple[tuple[float, float], ...]:
    """Returns the corners of an upright cross whose arms are ``2 * arm`` wide."""
    quarter = ((-arm, -1.0), (arm, -1.0), (arm, -arm))
    corners = list(quarter)
    for _ in range(3):
        quarter = tuple((-y, x) for x, y in quarter)  # type: ignore[assignment]
        corners += quarter
    return tuple(corners)


def _turned(corners: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    half = math.sqrt(0.5)
    return tuple((half * (x - y), half * (x + y)) for x, y in corners)


def _star() -> tuple[tuple[float, float], ...]:
    outer, inner = _regular(5, 0.0), _regular(5, math.pi / 5)
    return tuple(
        point
        for (x, y), (u, v) in zip(outer, inner, strict=True)
        for point in ((1.2 * x, 1.2 * y), (0.5 * u, 0.5 * v))
    )


_SQUARE = tuple((0.85 * x, 0.85 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)))
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    _regular(24, 0.0),  # a disc
    _SQUARE,
    _regular(3, 0.0),
    _regular(4, 0.0),
    _regular(3, math.pi),
    _plus(0.38),
    _star(),
    _turned(_plus(0.38)),
    _regular(3, math.pi / 2),
    _regular(3, -math.pi / 2),
)
NUM_SHAPES = len(_SHAPES)


def draw_marker(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    kind: int,
    radius: float,
    colour: Colour | None = None,
) -> None:
    """Draws the marker of one class.

    Ten classes differ in colour and in shape; further ones combine the two anew, so that a
    hundred classes still differ in one of them.

    Args:
        draw: Of a picture `OVERSAMPLING` times the size.
        x: Its centre, in pixels of that picture.
        y: Likewise.
        kind: Number of the class; below 0, a grey dot: no class known.
        radius: In pixels of that picture.
        colour: By default that of the class.
    """
    if kind < 0:
        radius, shape, own = 0.6 * radius, _SHAPES[0], _NO_CLASS
    else:
        own = class_colour(kind)
        shape = _SHAPES[(kind + kind // len(CLASS_COLOURS)) % NUM_SHAPES]
    corners = [(x + radius * u, y + radius * v) for u, v in shape]
    draw.polygon(corners, fill=own if colour is None else colour, outline=_EDGE, width=1)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What tells the samples of a map apart: classes, or values on a continuous scale.

    Attributes:
        labels: (samples,) class numbers; below 0: not known.
        class_names: Name of each class; a class beyond them is called by its number.
        values: (samples,) numbers, such as a regression's targets, in place of classes; NaN:
            not known.
        what: What the values are, for the legend.
    """

    labels: NDArray[Any]
    class_names: Sequence[object] = ()
    values: NDArray[Any] | None = None
    what: str = "target"

    @property
    def are_known(self) -> bool:
        """Whether any sample is marked at all."""
        return bool(np.isfinite(self.values).any() if self.values is not None
                    else (self.labels >= 0).any())  # fmt: skip

    @property
    def kinds(self) -> NDArray[np.int64]:
        """(samples,) the kind of marker: of values all are discs."""
        if self.values is not None:
            return np.where(np.isfinite(self.values), 0, -1)
        return self.labels.astype(np.int64)

    def at(self, index: NDArray[Any]) -> Marks:
        """Returns the marks of some of the samples."""
        values = None if self.values is None else self.values[index]
        return replace(self, labels=self.labels[index], values=values)

    def colours(self, scale: Scale | None = None) -> list[Colour]:
        """Returns each sample's colour; values on this scale, or one of their own."""
        if self.values is None:
            return [class_colour(kind) if kind >= 0 else NOT_MEASURED for kind in self.kinds]
        scale = value_scale(self.values) if scale is None else scale
        colours = colour_map(self.values, scale=scale, missing=NOT_MEASURED)
        return [(int(red), int(green), int(blue)) for red, green, blue in colours]

    def legend(self, width: int) -> list[Picture]:
        """Returns the classes that occur, or a colour bar; nothing where nothing is known."""
        if self.values is None:
            return class_legend(self.labels, self.class_names, width)
        if not self.are_known:
            return []
        num_unknown = int(np.count_nonzero(~np.isfinite(self.values)))
        unknown = f"; grey: not known ({num_unknown:,})" if num_unknown else ""
        return [colour_bar(value_scale(self.values), f"{self.what}{unknown}")]


def draw_all(
    draw: ImageDraw.ImageDraw,
    places: NDArray[Any],
    marks: Marks,
    radius: float,
    scale: Scale | None = None,
) -> None:
    """Draws a marker for each sample at its place (samples, 2); see `draw_marker`."""
    # A class not known has a grey of its own, which its marker knows.
    colours = [None] * len(places) if marks.values is None else marks.colours(scale)
    for (x, y), kind, colour in zip(places.tolist(), marks.kinds.tolist(), colours, strict=True):
        draw_marker(draw, x, y, kind, radius, colour)


def value_scale(values: NDArray[Any]) -> Scale:
    """Returns the scale from nearly the least to nearly the largest of the finite values."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Scale(low=0.0, high=0.0)
    least, most = float(finite.min()), float(finite.max())
    low, high = np.quantile(finite, (_VALUE_QUANTILE, 1 - _VALUE_QUANTILE)).tolist()
    if low == high:
        low, high = least, most
    return Scale(low=low, high=high, is_clipped=least < low or most > high)


def draw_ring(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """Draws the thin ring of a misclassified sample around where its marker lies.

    Draw all rings before the first marker: among many they would hide the classes.

    Args:
        draw: As for `draw_marker`, like ``x`` and ``y``.
        x: Its centre.
        y: Likewise.
        radius: Of the marker.
    """
    ring = 1.25 * radius + OVERSAMPLING
    box = (x - ring, y - ring, x + ring, y + ring)
    draw.ellipse(box, outline=_WRONG, width=OVERSAMPLING - 1)


def marked(
    picture: Picture,
    marks: Iterable[tuple[int, float, float, float]],
    colour: Colour | None = None,
) -> Picture:
    """Returns the picture with markers of classes drawn on it.

    Args:
        picture: In its own size.
        marks: Number of the class, the centre's x and y, and the radius, in pixels, of each.
        colour: By default that of the class.
    """
    height, width = picture.shape[:2]
    size = (width * OVERSAMPLING, height * OVERSAMPLING)
    large = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    for kind, x, y, radius in marks:
        centre = OVERSAMPLING * (x + 0.5), OVERSAMPLING * (y + 0.5)
        draw_marker(draw, *centre, kind, OVERSAMPLING * radius, colour)
    return np.array(large.reduce(OVERSAMPLING))


def class_legend(kinds: NDArray[Any], class_names: Sequence[object], width: int) -> list[Picture]:
    """Returns the classes that occur, in as many columns as their names allow; maybe none.

    Args:
        kinds: Class numbers of the samples; below 0: not known, and counted.
        class_names: Name of each class; a class beyond them is called by its number.
        width: Of the legend, in pixels.
    """
    classes = [int(kind) for kind in np.unique(kinds) if kind >= 0]
    if not classes:
        return []
    listed = classes[:_MAX_LEGEND_ENTRIES]
    names = [class_names[kind] if kind < len(class_names) else kind for kind in listed]
    entries = list(zip(shortened_names(names, _MAX_NAME_WIDTH), listed, strict=True))
    if num_unknown := int(np.count_nonzero(np.asarray(kinds) < 0)):
        entries.append((f"class not known: {num_unknown:,}", -1))
    parts = [marker_legend(entries, width)]
    if hidden := len(classes) - len(listed):
        line = blank(line_height(), width)
        write(line, f"and {hidden:,} classes more; colours and shapes repeat", 2, 0)
        parts.append(line)
    return [stacked(parts, gap=0)]


def marker_legend(
    entries: Sequence[tuple[str, int]], width: int, colours: Sequence[Colour] | None = None
) -> Picture:
    """Returns (text, kind of marker) in columns, as many as fit, read downwards.

    Args:
        entries: What to list.
        width: Of the legend, in pixels.
        colours: One for each entry; by default those of the classes.
    """
    height = line_height()
    column_width = max(text_width(text) for text, _ in entries) + 2 * height
    num_columns = max(1, width // column_width)
    num_rows = -(-len(entries) // num_columns)
    spots = [
        (index // num_rows * (width // num_columns), index % num_rows * height)
        for index in range(len(entries))
    ]
    image = Image.new("RGB", (width * OVERSAMPLING, num_rows * height * OVERSAMPLING), "white")
    draw = ImageDraw.Draw(image)
    fills = [None] * len(entries) if colours is None else colours
    for (x, y), (_, kind), fill in zip(spots, entries, fills, strict=True):
        centre = OVERSAMPLING * (x + height / 2), OVERSAMPLING * (y + height / 2)
        draw_marker(draw, *centre, kind, 4.5 * OVERSAMPLING, fill)
    legend = np.array(image.reduce(OVERSAMPLING))
    for (x, y), (text, _) in zip(spots, entries, strict=True):
        write(legend, text, x + height + 2, y)
    return legend
