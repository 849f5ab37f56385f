"""Markers that tell classes apart by colour and shape, colours for values, and their legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.pictures.canvas import blank, colour_bar, line, stacked
from vis_callbacks.pictures.colours import (
    CLASS_COLOURS,
    NOT_MEASURED,
    Scale,
    class_colour,
    colour_map,
)
from vis_callbacks.pictures.text import (
    Colour,
    Rgb,
    line_height,
    shortened_names,
    text_width,
    write,
)

NO_CLASS: Colour = (150, 150, 150)

_STYLES = "os^DvP*X<>"  # of matplotlib
_OVERSAMPLING = 3  # pictures are drawn this much larger and averaged: Pillow's edges are hard
_VALUE_QUANTILE = 0.02  # at each end: one outlier would leave all else in one colour
_MAX_LEGEND_ENTRIES = 100  # as many as colours times shapes
_MAX_NAME_WIDTH = 180


def marker_style(kind: int) -> str:
    """Returns matplotlib's name of a class's shape; below 0 (no class known) it is a disc.

    Ten classes differ in colour and in shape. Further ones combine the two anew, so that a
    hundred classes differ in one of them.
    """
    return _STYLES[(kind + kind // len(CLASS_COLOURS)) % len(_STYLES)] if kind >= 0 else _STYLES[0]


@lru_cache(maxsize=16)
def _shape(style: str) -> tuple[tuple[float, float], ...]:
    """Returns the corners of a shape, whose longest reach is 1, y downwards."""
    marker = MarkerStyle(style)
    path: Path = marker.get_path().transformed(marker.get_transform())
    corners = path.to_polygons()[0]
    corners = corners / np.abs(corners).max()
    return tuple((float(x), -float(y)) for x, y in corners)


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
        if self.values is not None:
            return bool(np.isfinite(self.values).any())
        return bool((self.labels >= 0).any())

    @property
    def kinds(self) -> NDArray[np.int64]:
        """(samples,) the kind of marker: values are all drawn as discs."""
        if self.values is not None:
            return np.where(np.isfinite(self.values), 0, -1)
        return self.labels.astype(np.int64)

    def at(self, index: NDArray[Any]) -> Marks:
        """Returns the marks of some of the samples."""
        values = None if self.values is None else self.values[index]
        return replace(self, labels=self.labels[index], values=values)

    def colours(self, scale: Scale | None = None) -> NDArray[np.uint8]:
        """Returns (samples, 3); values are coloured on this scale, or on one of their own."""
        if self.values is None:
            kinds = self.kinds.tolist()
            inks = [class_colour(kind) if kind >= 0 else NOT_MEASURED for kind in kinds]
            return np.array(inks, dtype=np.uint8).reshape(-1, 3)
        scale = value_scale(self.values) if scale is None else scale
        return colour_map(self.values, scale=scale, missing=NOT_MEASURED)

    def legend(self, width: int) -> list[Rgb]:
        """Returns the classes that occur, or a colour bar; nothing where nothing is known."""
        if self.values is None:
            return class_legend(self.labels, self.class_names, width)
        if not self.are_known:
            return []
        num_unknown = int(np.count_nonzero(~np.isfinite(self.values)))
        unknown = f"; grey: not known ({num_unknown:,})" if num_unknown else ""
        return [colour_bar(value_scale(self.values), f"{self.what}{unknown}")]


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


def marked(
    picture: Rgb,
    marks: Iterable[tuple[int, float, float, float]],
    colours: Sequence[Colour | None] | Colour | None = None,
) -> Rgb:
    """Returns the picture with markers: each a class, the centre's x and y, and the radius.

    ``colours`` are one for all or one for each; None takes those of the classes.
    """
    marks = list(marks)
    size = (picture.shape[1] * _OVERSAMPLING, picture.shape[0] * _OVERSAMPLING)
    large = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    inks = colours if isinstance(colours, list) else [colours] * len(marks)
    for (kind, x, y, radius), ink in zip(marks, inks, strict=True):
        centre_x, centre_y = _OVERSAMPLING * (x + 0.5), _OVERSAMPLING * (y + 0.5)
        reach = _OVERSAMPLING * radius * (1 if kind >= 0 else 0.6)
        shape = _shape(marker_style(kind))
        corners = [(centre_x + reach * u, centre_y + reach * v) for u, v in shape]
        own = class_colour(kind) if kind >= 0 else NO_CLASS
        draw.polygon(corners, fill=own if ink is None else ink, outline=(255, 255, 255), width=1)
    return np.array(large.reduce(_OVERSAMPLING))


def class_legend(kinds: NDArray[Any], class_names: Sequence[object], width: int) -> list[Rgb]:
    """Returns the classes that occur, in as many columns as their names allow; maybe nothing.

    ``kinds`` below 0 are not known, and counted.
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
        parts.append(line(f"and {hidden:,} more classes; colours and shapes repeat", width))
    return [stacked(parts, gap=0)]


def marker_legend(
    entries: Sequence[tuple[str, int]], width: int, colours: Sequence[Colour] | None = None
) -> Rgb:
    """Returns (text, kind of marker) in columns, as many as fit, read downwards."""
    height = line_height()
    column_width = max(text_width(text) for text, _ in entries) + 2 * height
    num_columns = max(1, width // column_width)
    num_rows = -(-len(entries) // num_columns)
    spots = [
        (index // num_rows * (width // num_columns), index % num_rows * height)
        for index in range(len(entries))
    ]
    marks = [
        (kind, x + height / 2 - 0.5, y + height / 2 - 0.5, 4.5)
        for (x, y), (_, kind) in zip(spots, entries, strict=True)
    ]
    inks = None if colours is None else list(colours)
    legend = marked(blank(num_rows * height, width), marks, inks)
    for (x, y), (text, _) in zip(spots, entries, strict=True):
        write(legend, text, x + height + 2, y)
    return legend
