"""Samples shown as themselves: thumbnails where a map puts them, and snapped to a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import WHITE
from vis_callbacks.render.images import blank, side_by_side, stacked
from vis_callbacks.render.markers import Marks, marked, shares_its_colour
from vis_callbacks.render.text import FAINT_INK, Colour, Picture, line_height, text_width, write

MAX_THUMBNAILS = 256
_SIDE = 24
_EDGE = 2  # of the class's colour
_CELL = _SIDE + 2 * _EDGE
_CORNER = 10  # what the marker of a class takes
_MAP_SIDE = 640


def thumbnail_map(
    points: NDArray[Any],
    images: Picture,
    labels: NDArray[Any] | None = None,
    caption: Sequence[object] = (),
    class_names: Sequence[object] = (),
    values: NDArray[Any] | None = None,
) -> Picture:
    """Returns thumbnails twice: in their places on the map, and snapped to a grid.

    On the left distances are true and thumbnails may hide each other, on the right each is
    seen and only who is near whom is left. The grid gives every sample a cell so that the sum
    of the squared ways there is the least.

    Args:
        points: (samples, 2), the map. What is not finite is left out and counted.
        images: (samples, height, width, 3) uint8.
        labels: (samples,) class numbers, for the colour of the edges; below 0: grey. Classes
            that share a colour bear their marker in a corner.
        caption: Lines over the picture.
        class_names: Name of each class, for the legend below.
        values: (samples,) numbers in place of classes, on a continuous scale; NaN: not known.

    Raises:
        ValueError: Nothing to show, or not as many images as points.
    """
    if len(points) != len(images):
        raise ValueError(f"got {len(images)} images for {len(points)} points; give one for each")
    is_known = np.isfinite(points).all(axis=1)
    known = np.flatnonzero(is_known)
    if not known.size:
        raise ValueError("no point is finite: there is nothing to show")
    shown = known[np.arange(min(len(known), MAX_THUMBNAILS)) * len(known)
                  // min(len(known), MAX_THUMBNAILS)]  # fmt: skip
    kinds = np.full(len(points), -1) if labels is None else np.asarray(labels)
    marks = Marks(labels=kinds, class_names=class_names, values=values).at(shown)
    edges = zip(marks.kinds.tolist(), marks.colours(), strict=True)
    tiles = [_tile(images[place], *edge) for place, edge in zip(shown, edges, strict=True)]
    places = _in_unit_square(np.asarray(points, dtype=np.float64)[shown])
    body = side_by_side(
        [
            _titled(_placed(tiles, places), "where the map puts them"),
            _titled(_snapped(tiles, places), "snapped to a grid: neighbours, none hidden"),
        ],
        2 * _EDGE + 4,
    )
    note = f"{len(shown):,} of {len(points):,} samples"
    if marks.are_known:
        edge = "classes" if values is None else f"{marks.what}s"
        note += f"; edges in the colours of the {edge} (legend below)"
    if num_missing := int(np.count_nonzero(~is_known)):
        note += f"; left out: {num_missing:,} whose place is not finite"
    return with_caption(stacked([body, *marks.legend(body.shape[1])]), [*caption, note])


def grid_cells(places: NDArray[np.float64], num_columns: int) -> NDArray[np.intp]:
    """Returns (samples, 2) row and column for each place (samples, 2) in the unit square.

    No two samples share a cell.
    """
    from scipy.optimize import linear_sum_assignment  # a fifth of a second that few pictures need

    num_rows = -(-len(places) // num_columns)
    rows, columns = np.divmod(np.arange(num_rows * num_columns), num_columns)
    centres = np.stack([(columns + 0.5) / num_columns, (rows + 0.5) / num_rows], axis=1)
    ways = ((places[:, None] - centres[None]) ** 2).sum(axis=2)
    _, cells = linear_sum_assignment(ways)
    return np.stack([rows[cells], columns[cells]], axis=1)


def _in_unit_square(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the places with one scale for both axes, the second one pointing down."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    places = (points - (low + high) / 2) / span + 0.5
    return np.asarray(np.stack([places[:, 0], 1 - places[:, 1]], axis=1))


def _tile(image: Picture, kind: int, colour: Colour) -> Picture:
    """Returns one thumbnail with an edge of the colour of its class or value."""
    tile = blank(_CELL, _CELL, colour)
    height, width = image.shape[:2]
    factor = _SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    small = np.asarray(Image.fromarray(image).resize(size, how))
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    if shares_its_colour(kind):
        corner = _CELL - _CORNER
        tile[corner:, corner:] = WHITE
        centre = _CELL - _CORNER / 2 - 0.5
        tile = marked(tile, [(kind, centre, centre, 0.45 * _CORNER)])
    return tile


def _placed(tiles: Sequence[Picture], places: NDArray[np.float64]) -> Picture:
    canvas = blank(_MAP_SIDE, _MAP_SIDE)
    for tile, (x, y) in zip(tiles, (places * (_MAP_SIDE - _CELL)).astype(int), strict=True):
        canvas[y : y + _CELL, x : x + _CELL] = tile
    return _framed(canvas)


def _snapped(tiles: Sequence[Picture], places: NDArray[np.float64]) -> Picture:
    num_columns = math.ceil(math.sqrt(len(tiles)))
    num_rows = -(-len(tiles) // num_columns)
    # The map's own extent, not its frame: else a long map would leave half of the cells far.
    low, high = places.min(axis=0), places.max(axis=0)
    stretched = (places - low) / np.where(high > low, high - low, 1)
    canvas = blank(num_rows * (_CELL + 1) + 1, num_columns * (_CELL + 1) + 1)
    for tile, (row, column) in zip(tiles, grid_cells(stretched, num_columns), strict=True):
        y, x = row * (_CELL + 1) + 1, column * (_CELL + 1) + 1
        canvas[y : y + _CELL, x : x + _CELL] = tile
    return canvas


def _framed(canvas: Picture) -> Picture:
    canvas[[0, -1]] = canvas[:, [0, -1]] = FAINT_INK
    return canvas


def _titled(picture: Picture, text: str) -> Picture:
    title = blank(line_height(), max(picture.shape[1], text_width(text) + 1))
    write(title, text, 1, 0, colour=FAINT_INK)
    return stacked([title, picture], gap=1)
