"""Saliency maps beside their image, and over the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import Scale, colour_map, missing_note
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    crossed,
    enlarge,
    factor_for,
    shrink,
    shrink_values,
    side_by_side,
    stacked,
)
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Picture,
    line_height,
    shortened,
    write,
)

MAX_TILE = 128  # pixels of the longer side
_LEAST_TILE = 96
_LEAST_HEIGHT = 32  # of what is no image: a series, a row of features
_GAP = 4
_BLOCK_GAP = 16
_BLOCKS_A_ROW = 2
# A map of noise hardly reaches 3 times its mean, one blob on a tenth of the image 10 times: at 6
# noise looks dull, what stands out is bright, and only the brightest places are cut off.
_LARGEST = 6.0


@dataclass(frozen=True, kw_only=True)
class SaliencyMap:
    """One map of one image.

    Attributes:
        title: Over it: what is explained.
        values: (height, width); None: the same as the map before.
        lines: Under it.
    """

    title: str
    values: NDArray[Any] | None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SaliencyRow:
    """An image and its maps.

    Attributes:
        image: (height, width, 3) uint8.
        lines: Under the image.
        maps: To its right.
        title: Over the image.
    """

    image: Picture
    maps: tuple[SaliencyMap, ...]
    lines: tuple[str, ...] = ()
    title: str = "image"


def relative(maps: NDArray[Any]) -> NDArray[np.float64]:
    """Returns each map (..., height, width) divided by its own mean magnitude.

    Gradients grow and shrink by orders of magnitude while a network trains. What remains says
    how many times the mean a place has: it needs no scale that depends on the run, so that
    epochs, images, classes and runs can be compared. A map of zeros stays one.
    """
    values = np.asarray(maps, dtype=np.float64)
    sizes = np.where(np.isfinite(values), np.abs(values), 0)
    largest = sizes.max(axis=(-2, -1), keepdims=True)
    scaled = sizes / np.where(largest > 0, largest, 1)  # so that no mean of tiny numbers is 0
    means = scaled.mean(axis=(-2, -1), keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        return values / np.where(largest > 0, largest, 1) / np.where(means > 0, means, 1)


def saliency_grid(
    rows: Sequence[SaliencyRow], caption: Sequence[object] = (), *, is_signed: bool = False
) -> Picture:
    """Returns the images with their maps beside them, two images a row.

    Args:
        rows: One for each image.
        caption: Lines over the picture.
        is_signed: Red speaks for what is explained and blue against it, instead of viridis.

    Raises:
        ValueError: There is no row.
    """
    if not rows:
        raise ValueError("got no row; give one for each image, one at least")
    blocks = [_block(row, is_signed) for row in rows]
    fitting = max(1, (MAX_WIDTH + _BLOCK_GAP) // (blocks[0].shape[1] + _BLOCK_GAP))
    a_row = min(_BLOCKS_A_ROW, fitting)
    lines = [
        side_by_side(blocks[start : start + a_row], _BLOCK_GAP)
        for start in range(0, len(blocks), a_row)
    ]
    maps = [m.values for row in rows for m in row.maps if m.values is not None]
    return _finished(stacked(lines, 2 * _GAP), maps, caption, is_signed)


def saliency_strip(
    images: Sequence[Picture],
    maps: NDArray[Any],
    steps: Sequence[int],
    words: Sequence[Sequence[tuple[str, ...]]],
    caption: Sequence[object] = (),
    *,
    is_signed: bool = False,
) -> Picture:
    """Returns a table of maps: an image a row, a step a column.

    Args:
        images: (height, width, 3) uint8 each.
        maps: (frames, images, height, width).
        steps: One for each frame, oldest first.
        words: By frame and image, the lines under the map.
        caption: Lines over the picture.
        is_signed: See `saliency_grid`.

    Raises:
        ValueError: The numbers of frames, steps, images and words do not fit.
    """
    maps = np.asarray(maps)
    fits = maps.ndim == 4 and maps.size and maps.shape[:2] == (len(steps), len(images))
    if not fits or [len(of_frame) for of_frame in words] != [len(images)] * len(steps):
        raise ValueError(
            f"maps of shape {maps.shape} and {len(words)} frames of words do not fit "
            f"{len(steps)} steps and {len(images)} images; give (frames, images, height, width)"
        )
    rows = []
    for index, image in enumerate(images):
        is_first = index == 0
        tile = _tile(image)
        height, width = tile.shape[:2]
        tiles = [_titled(tile, "image" if is_first else None, ())]
        for frame, step in enumerate(steps):
            tile = _coloured(maps[frame, index], (height, width), is_signed)
            title = f"step {step:,}" if is_first else None
            tiles.append(_titled(tile, title, words[frame][index]))
        rows.append(side_by_side(tiles, _GAP))
    return _finished(
        stacked(rows, 2 * _GAP), list(maps[:, :].reshape(-1, *maps.shape[2:])), caption, is_signed
    )


def _finished(
    body: Picture, maps: Sequence[NDArray[Any]], caption: Sequence[object], is_signed: bool
) -> Picture:
    """Returns the picture with what all maps have in common said over it."""
    num_silent = sum(not values.any() for values in maps)
    values = np.concatenate([np.ravel(values) for values in maps])
    lines = [
        *caption,
        f"crossed: 0 everywhere ({num_silent:,} of {len(maps):,} maps)" if num_silent else "",
        missing_note(values),
    ]
    bar = colour_bar(_scale(is_signed), "x the map's own mean")
    return with_caption(body, lines, bar=bar)


def _scale(is_signed: bool) -> Scale:
    low = -_LARGEST if is_signed else 0.0
    return Scale(low=low, high=_LARGEST, signed=is_signed, is_clipped=True)


def _block(row: SaliencyRow, is_signed: bool) -> Picture:
    image = _tile(row.image)
    height, width = image.shape[:2]
    tiles = [_titled(image, row.title, row.lines)]
    for shown in row.maps:
        if shown.values is None:
            tile = _same(height, width)
        else:
            tile = _coloured(shown.values, (height, width), is_signed)
        tiles.append(_titled(tile, shown.title, shown.lines))
    return side_by_side(tiles, _GAP)


def _tile(image: Picture) -> Picture:
    """Returns the image at a legible size; one or a few rows are stretched."""
    height, width = image.shape[:2]
    if max(height, width) > MAX_TILE:
        return shrink(image, max(1, round(width * MAX_TILE / max(height, width))))
    factor = factor_for(max(height, width), _LEAST_TILE, MAX_TILE)
    stretched = factor * max(1, math.ceil(_LEAST_HEIGHT / (factor * height)))
    enlarged: Picture = enlarge(image, (stretched, factor))
    return enlarged


def _coloured(values: NDArray[Any], size: tuple[int, int], is_signed: bool) -> Picture:
    """Returns a map in colours, of the size (height, width) of the image's tile."""
    colours = colour_map(shrink_values(relative(values), MAX_TILE), scale=_scale(is_signed))
    resized = Image.fromarray(colours).resize(size[::-1], Image.Resampling.NEAREST)
    tile = np.asarray(resized)
    return tile if values.any() else crossed(tile)


def _same(height: int, width: int) -> Picture:
    """Returns a tile that says that the map before holds for this one too."""
    tile = blank(height, width, (244, 244, 244))
    top = max(0, height // 2 - line_height())
    for index, text in enumerate(("the same", "map")):
        y = top + index * line_height()
        write(tile, text, width // 2, y, align="centre", colour=FAINT_INK)
    return tile


def _titled(tile: Picture, title: str | None, lines: Sequence[str]) -> Picture:
    """Returns the tile between its title and its lines, wide enough for a short word."""
    width = max(tile.shape[1], _LEAST_TILE)
    top = 0 if title is None else line_height() + 1
    canvas = blank(top + tile.shape[0] + len(lines) * line_height(), width)
    canvas[top : top + tile.shape[0], : tile.shape[1]] = tile
    if title is not None:
        write(canvas, shortened(title, width), 0, 0, colour=FAINT_INK)
    for index, line in enumerate(lines):
        y = top + tile.shape[0] + index * line_height()
        write(canvas, shortened(line, width), 0, y, colour=INK if index == 0 else FAINT_INK)
    return canvas
