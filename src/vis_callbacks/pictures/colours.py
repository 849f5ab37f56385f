"""Numbers as colours: viridis for amounts, red and blue around 0 for signed values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from vis_callbacks.pictures.text import Colour, Rgb, number

NOT_FINITE: Colour = (255, 0, 255)  # in neither colour map
NOT_MEASURED: Colour = (200, 200, 200)
WHITE: Colour = (255, 255, 255)

# For classes: Okabe and Ito's set without yellow and black, filled up from Tol's "muted".
CLASS_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (51, 34, 136),
    (153, 153, 51),
    (136, 34, 85),
    (68, 170, 153),
)

_EARLIEST = 0.35  # of matplotlib's "Blues": lighter ones vanish on white


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Which numbers get the first and the last colour.

    Attributes:
        low: Gets the first colour.
        high: Gets the last colour.
        signed: Red and blue around the middle instead of viridis.
        is_clipped: Some values lie beyond an end; they get its colour, and the bar says so.
    """

    low: float
    high: float
    signed: bool = False
    is_clipped: bool = False


def scale_of(values: NDArray[Any], *, signed: bool = False, quantile: float = 1.0) -> Scale:
    """Returns the scale that shows the values: from 0 for amounts, around 0 for signed ones.

    What is not finite does not count. A ``quantile`` below 1 is the share of the values that the
    scale covers: one outlier would otherwise leave all else in one colour.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Scale(low=0.0, high=0.0, signed=signed)
    if signed:
        sizes = np.abs(finite)
        largest = float(sizes.max())
        # A quantile of 0 (nearly all values are 0) would hide the few that are not.
        high = float(np.quantile(sizes, quantile)) if quantile < 1 else largest
        high = high or largest
        return Scale(low=-high, high=high, signed=True, is_clipped=largest > high)
    smallest, largest = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    if quantile == 1:
        return Scale(low=smallest, high=largest)
    low, high = np.quantile(finite, (1 - quantile, quantile)).tolist()
    low = min(0.0, low) or smallest
    high = max(0.0, high) or largest
    return Scale(low=low, high=high, is_clipped=largest > high or smallest < low)


def colour_map(values: NDArray[Any], scale: Scale, missing: Colour = NOT_FINITE) -> Rgb:
    """Returns the colours of the values on a scale, with one axis of 3 more, uint8.

    What is not finite gets the colour ``missing``; `missing_note` counts it.
    """
    real = np.asarray(values, dtype=np.float64)
    table = _table(scale.signed)
    is_finite = np.isfinite(real)
    # Halves, because the distance between the ends may itself be too large for a float.
    half_span = scale.high / 2 - scale.low / 2
    if half_span > 0:
        places = (np.where(is_finite, real, 0) / 2 - scale.low / 2) / half_span
    else:
        places = np.full(real.shape, 0.5 if scale.signed else 0.0)
    colours = table[np.rint(np.clip(places, 0, 1) * (len(table) - 1)).astype(np.intp)]
    colours[~is_finite] = missing
    return colours


def class_colour(kind: int) -> Colour:
    """Returns the colour of a class, the same in every run; every eleventh class shares it."""
    return CLASS_COLOURS[kind % len(CLASS_COLOURS)]


def shares_its_colour(kind: int) -> bool:
    """Whether a class before this one has its colour, so that only its marker tells it apart."""
    return kind >= len(CLASS_COLOURS)


def rgb_of(values: NDArray[Any]) -> Rgb:
    """Returns (..., 1 or 3 channels, height, width) of 0 to 1 as (..., height, width, 3) uint8.

    What lies beyond 0 and 1 is cut off. A pixel that is not finite is magenta.
    """
    is_finite = np.isfinite(values).all(axis=-3)
    shares = np.clip(np.where(np.isfinite(values), values, 0), 0, 1)
    shown = np.moveaxis(np.rint(shares * 255).astype(np.uint8), -3, -1)
    shown = np.repeat(shown, 3, axis=-1) if shown.shape[-1] == 1 else shown.copy()
    shown[~is_finite] = NOT_FINITE
    return shown


def colours_in_order(count: int) -> list[Colour]:
    """Returns colours that get darker, so that an order is seen; a lone one is the darkest."""
    places = np.linspace(1, _EARLIEST, count)[::-1]
    blues: NDArray[np.uint8] = colormaps["Blues"](places, bytes=True)[:, :3]
    return [(int(red), int(green), int(blue)) for red, green, blue in blues]


@lru_cache(maxsize=2)
def _table(signed: bool) -> Rgb:
    """Returns the colours from first to last; signed: an odd number, so that 0 has its own."""
    name, num_colours = ("RdBu_r", 255) if signed else ("viridis", 256)
    table: Rgb = colormaps[name](np.linspace(0, 1, num_colours), bytes=True)[:, :3]
    return table


def missing_note(
    values: NDArray[Any],
    what: str = "values",
    mark: str = "magenta",
    meaning: str = "not finite",
) -> str:
    """Returns how many values are not finite, in words for a caption; "" where none is."""
    num_missing = int(np.count_nonzero(~np.isfinite(values)))
    if not num_missing:
        return ""
    return f"{mark}: {meaning} ({number(num_missing)} of {number(np.size(values))} {what})"
