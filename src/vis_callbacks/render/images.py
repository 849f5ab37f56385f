"""Pictures as arrays: sizes, grids, marks, and a model's inputs made visible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.colours import NOT_FINITE, NOT_MEASURED, WHITE
from vis_callbacks.render.text import (
    FAINT_INK,
    LABEL_SIZE,
    Colour,
    Picture,
    line_height,
    number,
    shortened_names,
    wrapped,
    write,
)

MAX_WIDTH = 1_600  # of strips and grids
MAX_FRAME_WIDTH = 400  # of a single picture, or of one frame of a strip

_MIN_LABELLED_WIDTH = 28
_LEAST_LEGIBLE = 96  # pixels of the width of an input that is to be looked at
_MOST_LEGIBLE = 160
_ROUNDING = 1e-3  # undoing a normalisation in float16 misses 0 and 1 by this much


class Shown(NamedTuple):
    """Inputs made visible, and what had to be done to them in words ("" for nothing)."""

    images: Picture  # (samples, height, width, 3)
    note: str


def blank(height: int, width: int, colour: Colour = WHITE) -> Picture:
    """Returns a picture of one colour."""
    return np.full((height, width, 3), colour, dtype=np.uint8)


def enlarge(image: NDArray[Any], factor: int | tuple[int, int]) -> NDArray[Any]:
    """Returns (height, width, ...) repeated to ``factor`` times its size: no smoothing.

    Args:
        image: A picture, or values that are yet to be coloured.
        factor: One for both axes, or (rows, columns).
    """
    rows, columns = (factor, factor) if isinstance(factor, int) else factor
    return np.repeat(np.repeat(image, rows, axis=0), columns, axis=1)


def factor_for(size: int, least: int, most: int) -> int:
    """Returns the factor that brings ``size`` to ``least`` pixels without passing ``most``."""
    return max(1, min(math.ceil(least / size), most // size))


def shrink(image: Picture, max_width: int = MAX_FRAME_WIDTH) -> Picture:
    """Returns the picture averaged down to ``max_width``, or as it is where it fits."""
    height, width = image.shape[:2]
    if width <= max_width:
        return image
    size = (max_width, max(1, round(height * max_width / width)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def legible(image: Picture) -> Picture:
    """Returns an input at a size at which its details are seen: 96 to 160 px wide, if it can."""
    image = shrink(image, _MOST_LEGIBLE)
    factor = factor_for(image.shape[1], _LEAST_LEGIBLE, _MOST_LEGIBLE)
    enlarged: Picture = enlarge(image, factor)
    return enlarged


def shrink_values(values: NDArray[Any], max_size: int) -> NDArray[np.float32]:
    """Returns (height, width) values averaged so that no side is above ``max_size``.

    A value that is not finite makes its whole cell so: averaging must not hide it.
    """
    height, width = values.shape
    values = np.asarray(values, dtype=np.float32)
    if max(height, width) <= max_size:
        return values
    ratio = max_size / max(height, width)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def crossed(tile: Picture, colour: Colour = (235, 235, 235)) -> Picture:
    """Returns the tile with its diagonals drawn: what it stands for is silent."""
    image = Image.fromarray(tile)
    height, width = tile.shape[:2]
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, width - 1, height - 1), fill=colour)
    draw.line((0, height - 1, width - 1, 0), fill=colour)
    return np.asarray(image)


def hatched(height: int, width: int) -> Picture:
    """Returns grey with diagonal stripes: nothing is known here."""
    tile = blank(height, width, NOT_MEASURED)
    diagonals = np.add.outer(np.arange(height), np.arange(width)) % 6 == 0
    tile[diagonals] = FAINT_INK
    return tile


def side_by_side(pictures: Sequence[Picture], gap: int = 4) -> Picture:
    """Returns the pictures in a row, their tops aligned, on white."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = blank(height, width)
    x = 0
    for picture in pictures:
        canvas[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + gap
    return canvas


def stacked(pictures: Sequence[Picture], gap: int = 4) -> Picture:
    """Returns the pictures one under the other, their left sides aligned, on white."""
    height = sum(picture.shape[0] for picture in pictures) + gap * (len(pictures) - 1)
    canvas = blank(height, max(picture.shape[1] for picture in pictures))
    y = 0
    for picture in pictures:
        canvas[y : y + picture.shape[0], : picture.shape[1]] = picture
        y += picture.shape[0] + gap
    return canvas


def grid(
    tiles: Picture,
    columns: int | None = None,
    padding: int = 2,
    labels: Sequence[object] | None = None,
    missing: NDArray[np.bool_] | None = None,
    missing_note: str = "",
) -> Picture:
    """Returns the tiles row by row, at most 1,600 px wide.

    Args:
        tiles: (tiles, height, width, 3) uint8. What is wider than 400 px is averaged down.
        columns: By default as many as rows; fewer where they would not fit.
        padding: White pixels around each tile.
        labels: One for each tile, written under it, shortened to its width.
        missing: (tiles,) True where there is nothing to show: drawn hatched.
        missing_note: What is left out and how much of it, written under the grid.

    Raises:
        ValueError: There are no tiles, or not one label for each.
    """
    if not len(tiles):
        raise ValueError("a grid needs at least one tile, got none")
    if labels is not None and len(labels) != len(tiles):
        raise ValueError(f"got {len(labels)} labels for {len(tiles)} tiles; give one for each")
    pictures = [shrink(tile) for tile in tiles]
    for index in np.flatnonzero(missing) if missing is not None else ():
        pictures[index] = hatched(*pictures[index].shape[:2])
    if labels is not None:
        pictures = _labelled(pictures, labels)
    cells = _cells(np.stack(pictures), columns, padding)
    if not missing_note:
        return cells
    lines = wrapped(missing_note, max(cells.shape[1], 160), LABEL_SIZE)
    return stacked([cells, *(_line(line, max(cells.shape[1], 160)) for line in lines)], gap=0)


def _cells(tiles: Picture, columns: int | None, padding: int) -> Picture:
    """Returns tiles of one size side by side, without a loop over them."""
    num_tiles, height, width = tiles.shape[:3]
    columns = math.ceil(math.sqrt(num_tiles)) if columns is None else columns
    columns = max(1, min(columns, num_tiles, (MAX_WIDTH - padding) // (width + padding)))
    rows = math.ceil(num_tiles / columns)
    cells = np.full((rows * columns, height + padding, width + padding, 3), 255, dtype=np.uint8)
    cells[:num_tiles, padding:, padding:] = tiles
    cells = cells.reshape(rows, columns, height + padding, width + padding, 3)
    body = cells.swapaxes(1, 2).reshape(rows * (height + padding), columns * (width + padding), 3)
    return np.pad(body, ((0, padding), (0, padding), (0, 0)), constant_values=255)


def _labelled(pictures: Sequence[Picture], labels: Sequence[object]) -> list[Picture]:
    """Returns each picture with its label under it, wide enough for a few letters."""
    height, width = pictures[0].shape[:2]
    width = max(width, _MIN_LABELLED_WIDTH)
    results = []
    for picture, label in zip(pictures, shortened_names(labels, width), strict=True):
        cell = blank(height + line_height(), width)
        left = (width - picture.shape[1]) // 2
        cell[:height, left : left + picture.shape[1]] = picture
        write(cell, label, width // 2, height, align="centre")
        results.append(cell)
    return results


def _line(text: str, width: int) -> Picture:
    canvas = blank(line_height(), width)
    write(canvas, text, 2, 0)
    return canvas


def to_uint8(
    images: NDArray[Any],
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Shown:
    """Returns a model's inputs as RGB pictures, and what had to be done to them in words.

    Args:
        images: (samples, channels, height, width), or without channels; (samples, features)
            becomes pictures one row high, of a volume the middle slice is shown. One channel
            is grey, three are RGB, of any other number the mean is shown.
        mean: What the user's pipeline subtracted, one number or one for each channel.
        std: What it divided by afterwards.

    Returns:
        Values between 0 and 1 as they are (uint8: between 0 and 255); others stretched from
        black to white, all by one scale. What is not finite is magenta.
    """
    notes: list[str] = []
    array = _four_axes(np.asarray(images), notes)
    is_bytes = array.dtype == np.uint8 and mean is None and std is None
    values = np.abs(array) if np.iscomplexobj(array) else array
    values = values.astype(np.float64) / (255 if is_bytes else 1)
    values = values * _per_channel(std, 1.0) + _per_channel(mean, 0.0)
    if values.shape[1] not in (1, 3):
        notes.append(f"mean of {values.shape[1]} channels")
        values = values.mean(axis=1, keepdims=True)
    is_finite: NDArray[np.bool_] = np.all(np.isfinite(values), axis=1)
    values = _stretched(np.where(np.isfinite(values), values, 0), is_finite, notes)
    shown = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    shown = np.repeat(shown, 3, axis=3) if shown.shape[3] == 1 else shown.copy()
    shown[~is_finite] = NOT_FINITE
    if num_missing := int(np.count_nonzero(~is_finite)):
        notes.append(f"magenta: not finite ({number(num_missing)} of {is_finite.size:,} pixels)")
    return Shown(shown, "; ".join(notes))


def _four_axes(images: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Returns the images as (samples, channels, height, width)."""
    if images.ndim == 2:
        return images[:, None, None, :]
    if images.ndim == 3:
        return images[:, None]
    while images.ndim > 4:
        middle = images.shape[2] // 2
        notes.append(f"slice {middle} of {images.shape[2]}")
        images = images[:, :, middle]
    if images.ndim != 4:
        raise ValueError(f"images have two axes at least, samples first; got {images.shape}")
    return images


def _per_channel(value: Sequence[float] | float | None, default: float) -> NDArray[np.float64]:
    """Returns the numbers so that they meet the channels of (samples, channels, ...)."""
    numbers = np.asarray(default if value is None else value, dtype=np.float64)
    return numbers.reshape(-1, 1, 1)


def _stretched(
    values: NDArray[np.float64], is_finite: NDArray[np.bool_], notes: list[str]
) -> NDArray[np.float64]:
    """Returns the values between 0 and 1; stretches them, and says so, where they are not."""
    if not is_finite.any():
        return values
    known = values.transpose(0, 2, 3, 1)[is_finite]
    low, high = float(known.min()), float(known.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return values
    notes.append(f"black is {number(low)}, white is {number(high)}")
    span = high / 2 - low / 2
    return (values / 2 - low / 2) / span if span > 0 else np.full_like(values, 0.5)
