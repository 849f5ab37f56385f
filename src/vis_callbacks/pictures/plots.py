"""Plots by matplotlib: curves over steps, and scatter plots of two-dimensional maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.canvas import MAX_FRAME_WIDTH, blank, stacked, with_caption
from vis_callbacks.pictures.colours import Scale
from vis_callbacks.pictures.markers import (
    NO_CLASS,
    Marks,
    marked,
    marker_legend,
    marker_style,
)
from vis_callbacks.pictures.text import (
    FAINT_INK,
    INK,
    Colour,
    Rgb,
    line_height,
    shortened_names,
    text_width,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

Curve = tuple[Sequence[float] | NDArray[Any], Sequence[float] | NDArray[Any]]  # steps, values

_DPI = 100
_HEIGHT = 240  # of a plot of curves
_POINTS_PER_PIXEL = 72 / _DPI
_MARKED = 12  # a curve bears its marker at this many points at most
_MAX_NAME_WIDTH = 160
_LEAST_SHARE_APART = 0.08  # of a plot's height: names of levels that are nearer would overlap
_GREY = "0.87"
_GAP, _TICK = 6, 4  # pixels


def line_plot(
    curves: Mapping[str, Curve],
    caption: Sequence[object] = (),
    *,
    y_label: str,
    x_label: str,
    y_range: tuple[float, float],
    colours: Sequence[Colour],
    levels: Mapping[str, float],
) -> Rgb:
    """Returns curves, each with a colour and a marker, and a legend below; 400 px wide.

    ``curves`` are places on the x-axis and values by name; a value that is not finite leaves a gap,
    and is counted. The ``levels`` are compared with: dashed lines with their names, where finite.
    """
    places = [float(place) for of_curve, _ in curves.values() for place in of_curve]
    plane = _Plane.over(min(places, default=0.0), max(places, default=0.0), y_range)
    figure, axes = _figure(MAX_FRAME_WIDTH, _HEIGHT, plane.box)
    axes.set(xlim=plane.x_range, ylim=y_range)
    axes.set_axis_off()
    axes.hlines([*plane.y_ticks.values()], *plane.x_range, colors=_GREY, linewidth=0.6)
    num_missing = 0
    for kind, ((steps, values), ink) in enumerate(zip(curves.values(), colours, strict=True)):
        numbers = np.asarray(values, dtype=np.float64)
        num_missing += int(np.count_nonzero(~np.isfinite(numbers)))
        known = np.flatnonzero(np.isfinite(numbers))
        alone = [p for p in known if not {p - 1, p + 1} & set(known.tolist())]
        every = known[:: -(-len(known) // _MARKED) or 1] if len(curves) > 1 else known[:0]
        axes.plot(
            np.asarray(steps),
            numbers,
            color=_share(ink),
            linewidth=1.5,
            marker=marker_style(kind),
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            markevery=sorted({*map(int, every), *map(int, alone)}),
            clip_on=False,
        )
    for value in levels.values():
        if math.isfinite(value):
            axes.axhline(value, color=_share(INK), linewidth=0.9, linestyle="--")
    canvas = _drawn(figure)
    plane.write_axes(canvas, x_label, y_label)
    for value, name in _names_of(levels, _LEAST_SHARE_APART * (y_range[1] - y_range[0])):
        write(canvas, name, plane.right - _GAP, plane.row(value) - line_height(), align="right")
    parts = [canvas]
    if len(curves) > 1:
        names = shortened_names(list(curves), _MAX_NAME_WIDTH)
        entries = [(name, kind) for kind, name in enumerate(names)]
        parts.append(marker_legend(entries, MAX_FRAME_WIDTH, colours))
    note = f"gaps: {num_missing:,} values that are not finite" if num_missing else ""
    return with_caption(stacked(parts), [*caption, note])


@dataclass(frozen=True)
class _Plane:
    """Where curves are drawn, in pixels, and the ticks of both axes by their names.

    Ticks and names are written by us: matplotlib takes four times as long for them as for the rest.
    """

    left: int
    top: int
    right: int
    bottom: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_ticks: Mapping[str, float]
    y_ticks: Mapping[str, float]

    @classmethod
    def over(cls, first: float, last: float, y_range: tuple[float, float]) -> _Plane:
        """Returns the plane for curves between two places on the x-axis."""
        from matplotlib.ticker import MaxNLocator

        margin = 0.04 * (last - first) or 0.5  # no marker is to lie on the frame
        x_range = first - margin, last + margin
        y_ticks = _ticks(MaxNLocator(nbins=5), *y_range)
        left = max((text_width(name) for name in y_ticks), default=0) + 2 * _GAP
        x_ticks = _ticks(MaxNLocator(integer=True, nbins=5), first, last)
        top, bottom = line_height() + _GAP, _HEIGHT - 2 * line_height() - _TICK
        right = MAX_FRAME_WIDTH - _GAP
        return cls(left, top, right, bottom, x_range, y_range, x_ticks, y_ticks)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Its left, top, right and bottom edge."""
        return self.left, self.top, self.right, self.bottom

    def row(self, value: float) -> int:
        """Returns the row of pixels that a value lies on."""
        return round(self.bottom - _part(value, self.y_range) * (self.bottom - self.top))

    def write_axes(self, canvas: Rgb, x_label: str, y_label: str) -> None:
        """Writes both axes with their ticks and labels around the plane."""
        canvas[self.top : self.bottom, self.left] = INK
        canvas[self.bottom, self.left : self.right] = INK
        for name, value in self.y_ticks.items():
            row = self.row(value)
            canvas[row, self.left - _TICK : self.left] = INK
            write(canvas, name, self.left - _GAP, row - line_height() // 2, align="right")
        for name, value in self.x_ticks.items():
            column = round(self.left + _part(value, self.x_range) * (self.right - self.left))
            canvas[self.bottom : self.bottom + _TICK, column] = INK
            middle = min(column, MAX_FRAME_WIDTH - text_width(name) // 2 - 1)
            write(canvas, name, middle, self.bottom + _TICK, align="centre")
        write(canvas, y_label, self.left, 0, colour=FAINT_INK)
        middle, foot = (self.left + self.right) // 2, _HEIGHT - line_height()
        write(canvas, x_label, middle, foot, align="centre", colour=FAINT_INK)


def _part(value: float, limits: tuple[float, float]) -> float:
    """Returns where in a range a value lies, from 0 to 1. The range may be as wide as floats go."""
    low, high = limits
    return (value / 2 - low / 2) / (high / 2 - low / 2)


def _ticks(locator: Locator, low: float, high: float) -> dict[str, float]:
    """Returns the ticks within a range by their names, of as few digits as tell them apart."""
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high]
    apart = 1e-3 * min((later - tick for tick, later in pairwise(ticks)), default=0.0)
    style = ",.{}f" if 1e-4 < max(map(abs, ticks), default=1.0) < 1e7 else ".{}e"
    names = [str(tick) for tick in ticks]
    for digits in range(17):
        shorter = [format(tick, style.format(digits)) if tick else "0" for tick in ticks]
        shown = [float(name.replace(",", "")) for name in shorter]
        if all(abs(tick - near) <= apart for tick, near in zip(ticks, shown, strict=True)):
            names = shorter
            break
    return dict(zip(names, ticks, strict=True))


def _names_of(levels: Mapping[str, float], apart: float) -> list[tuple[float, str]]:
    """Returns where names of levels stand, from the top; those of near ones stand together."""
    known = [(value, name) for name, value in levels.items() if math.isfinite(value)]
    names = list[tuple[float, str]]()
    for value, name in sorted(known, key=lambda one: -one[0]):
        if names and names[-1][0] - value < apart:
            names[-1] = (names[-1][0], f"{names[-1][1]}, {name}")
        else:
            names.append((value, name))
    return names


def scatter_plot(
    points: NDArray[Any],
    marks: Marks,
    caption: Sequence[object] = (),
    *,
    wrong: NDArray[np.bool_] | None = None,
    trails: NDArray[Any] | None = None,
) -> Rgb:
    """Returns a map of points, each with the marker of its class or the colour of its value.

    Both axes have one scale, because distances are what such a map is read by. There are no ticks,
    because the coordinates of an embedding mean nothing. Points that are not finite are counted.

    Args:
        points: (samples, 2).
        marks: What tells the samples apart.
        caption: Lines over the picture.
        wrong: (samples,) True where the model errs: a thin ring around the marker.
        trails: (samples, 2) where the same samples lay on the last map: a faint line to there.
    """
    points = np.asarray(points, dtype=np.float64)
    is_shown = np.isfinite(points).all(axis=1)
    square = _square_around(points[is_shown])
    shown = _within(square, points[is_shown])
    side = MAX_FRAME_WIDTH
    figure, axes = _figure(side, side, (1, 1, side - 1, side - 1))
    if trails is not None:
        from matplotlib.collections import LineCollection

        before = _within(square, np.asarray(trails, dtype=np.float64)[is_shown])
        ends = np.stack([before, shown], axis=1)
        ends = ends[np.isfinite(ends).all(axis=(1, 2))]
        axes.add_collection(LineCollection(list(ends), colors="0.75", linewidths=0.7))
    radius = float(np.clip(4.5 - 0.5 * np.log2(max(len(shown), 1) / 125), 2.2, 4.5))
    if wrong is not None:
        # All rings lie under the markers: among many they would hide the classes.
        axes.scatter(
            shown[np.asarray(wrong)[is_shown], 0],
            shown[np.asarray(wrong)[is_shown], 1],
            s=(2.5 * radius * _POINTS_PER_PIXEL + 1.5) ** 2,
            facecolors="none",
            edgecolors=_share((20, 20, 20)),
            linewidths=0.8,
        )
    _scatter(axes, shown, marks.at(is_shown), radius)
    _frame(axes)
    notes = []
    if wrong is not None:
        notes.append(f"ringed: misclassified ({np.count_nonzero(wrong):,} of {len(points):,})")
    if trails is not None:
        notes.append("grey lines: from the place on the previous map")
    if num_missing := np.count_nonzero(~is_shown):
        notes.append(f"left out: {num_missing:,} of {len(points):,} points that are not finite")
    picture = stacked([_drawn(figure), *marks.at(is_shown).legend(MAX_FRAME_WIDTH)])
    return with_caption(picture, [*caption, *notes])


def scatter_frames(
    frames: Sequence[tuple[NDArray[Any], Marks]], side: int, scale: Scale | None = None
) -> list[Rgb]:
    """Returns small maps (samples, 2) of several steps, all in one frame of reference.

    A cluster that comes apart, or drifts, is seen to do so. ``scale`` is of the marks' values.
    """
    known = [points[np.isfinite(points).all(axis=1)] for points, _ in frames]
    square = _square_around(np.concatenate([*known, np.empty((0, 2))]).astype(np.float64))
    pictures = []
    for points, marks in frames:  # by Pillow: matplotlib takes five times as long for small maps
        is_shown = np.isfinite(points).all(axis=1)
        shown = marks.at(is_shown)
        reach = side / 2 - 8
        places = side / 2 + _within(square, points[is_shown]) * (reach, -reach)
        spots = [
            (kind, x, y, 2.6) for kind, (x, y) in zip(shown.kinds, places.tolist(), strict=True)
        ]
        inks = None if shown.values is None else [tuple(c) for c in shown.colours(scale).tolist()]
        picture = marked(blank(side, side), spots, inks)
        picture[[0, -1]] = picture[:, [0, -1]] = FAINT_INK
        pictures.append(picture)
    return pictures


def _scatter(axes: Axes, points: NDArray[np.float64], marks: Marks, radius: float) -> None:
    """Draws a marker for each sample: one call for each kind, as matplotlib wants it."""
    kinds, colours = marks.kinds, marks.colours() / 255
    for kind in np.unique(kinds).tolist():
        of_kind = kinds == kind
        axes.scatter(
            points[of_kind, 0],
            points[of_kind, 1],
            s=(2 * radius * _POINTS_PER_PIXEL * (1.1 if kind >= 0 else 0.6)) ** 2,
            c=colours[of_kind] if kind >= 0 else [_share(NO_CLASS)],
            marker=marker_style(kind),
            edgecolors="white",
            linewidths=0.3,
        )


def _square_around(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Returns the centre and half the side of the square that holds the points."""
    if not len(points):
        return np.zeros(2), 1.0
    low, high = points.min(axis=0), points.max(axis=0)
    return low / 2 + high / 2, float((high / 2 - low / 2).max()) or 1.0


def _within(
    square: tuple[NDArray[np.float64], float], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns points of the square as numbers from -1 to 1, which matplotlib can always plot."""
    centre, half_side = square
    return (points / 2 - centre / 2) / (half_side / 2)


def _frame(axes: Axes) -> None:
    axes.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=_share(FAINT_INK), linewidth=0.8)


def _figure(width: int, height: int, box: tuple[int, int, int, int]) -> tuple[Figure, Axes]:
    """Returns a figure with one plot that no window and no global state of matplotlib knows.

    ``box`` is where the plot lies in it, in pixels: its left, top, right and bottom edge.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (width / _DPI, height / _DPI)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    left, top, right, bottom = box
    share = (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
    return figure, figure.add_axes(share, facecolor="white")


def _drawn(figure: Figure) -> Rgb:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    return np.ascontiguousarray(pixels[..., :3])


def _share(colour: Colour) -> tuple[float, float, float]:
    """Returns a colour as matplotlib writes it."""
    return colour[0] / 255, colour[1] / 255, colour[2] / 255
