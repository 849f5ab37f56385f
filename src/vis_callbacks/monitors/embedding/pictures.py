"""What `EmbeddingMonitor` draws: maps, film strips of them, thumbnails, and probes by depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vis_callbacks.monitors.embedding.reductions import from_bytes
from vis_callbacks.pictures.canvas import (
    MAX_FRAME_WIDTH,
    MAX_WIDTH,
    blank,
    hatched,
    line,
    side_by_side,
    stacked,
    with_caption,
)
from vis_callbacks.pictures.colours import WHITE, colours_in_order, shares_its_colour
from vis_callbacks.pictures.film_strip import evenly_spread
from vis_callbacks.pictures.inputs import Shown, input_pictures
from vis_callbacks.pictures.markers import Marks, marked, value_scale
from vis_callbacks.pictures.plots import line_plot, scatter_frames, scatter_plot
from vis_callbacks.pictures.text import FAINT_INK, Rgb, shortened
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table

_ROUNDING = 0.01
_FEW_A_CLASS = 10
_LEAST_FRAME = 192  # eight frames are 1,600 px wide then
_GAP = 6

_MAX_THUMBNAILS = 256
_SIDE = 24
_EDGE = 2  # of the class's colour
_CELL = _SIDE + 2 * _EDGE
_CORNER = 10  # what the marker of a class takes
_MAP_SIDE = 640


def draw_map(
    points: NDArray[Any],
    labels: NDArray[Any],
    wrong: NDArray[Any] | None = None,
    before: NDArray[Any] | None = None,
    targets: NDArray[Any] | None = None,
    *,
    caption: Sequence[str],
    class_names: Sequence[str] = (),
) -> Rgb:
    """Draws the map by class or target, with the way that each sample has come."""
    marks = Marks(labels=labels, class_names=class_names, values=targets)
    return scatter_plot(points, marks, caption, wrong=wrong, trails=before)


def draw_no_map(*, caption: Sequence[str]) -> Rgb:
    """Draws an empty frame under the reason why there is no map."""
    return with_caption(hatched(120, MAX_FRAME_WIDTH), caption)


def draw_strip(
    points: NDArray[Any],
    labels: NDArray[Any],
    targets: NDArray[Any] | None = None,
    *,
    steps: Sequence[int],
    caption: Sequence[str],
    class_names: Sequence[str] = (),
) -> Rgb:
    """Draws the maps of several steps side by side, all on one scale and in one place.

    ``points`` are (steps, samples, 2), oldest first; where they are not finite there is no
    sample. ``labels``, or ``targets`` of a regression, are (steps, samples).
    """
    side = (MAX_WIDTH + _GAP) // len(steps) - _GAP
    side = max(_LEAST_FRAME, min(side, MAX_FRAME_WIDTH))
    frames = [
        Marks(labels=kinds, values=values)
        for kinds, values in zip(
            labels, [None] * len(steps) if targets is None else targets, strict=True
        )
    ]
    is_known = labels >= 0 if targets is None else np.isfinite(targets)
    known = None if targets is None else targets[is_known]
    legend = Marks(labels=labels[is_known], class_names=class_names, values=known)
    scale = None if known is None else value_scale(known)
    pictures = scatter_frames(list(zip(points, frames, strict=True)), side, scale)
    titled = zip(pictures, steps, strict=True)
    tiles = [Tile(picture=picture, title=f"step {step:,}") for picture, step in titled]
    title, *rest = caption
    title += ", and the maps before it: one scale, each aligned to the previous one"
    strip = tile_table([TileRow(tiles=tiles)], [title, *rest], tile=(side, side))
    return stacked([strip, *legend.legend(strip.shape[1])])


def draw_thumbnails(
    points: NDArray[Any],
    labels: NDArray[Any],
    pixels: NDArray[Any],
    ranges: NDArray[Any],
    targets: NDArray[Any] | None = None,
    *,
    caption: Sequence[str],
    class_names: Sequence[str] = (),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Rgb:
    """Draws the samples themselves twice: placed by the map, and snapped to a grid.

    On the left distances are true, and thumbnails may hide each other. On the right each is
    seen, and only who is near whom is left.
    """
    shown = np.array(evenly_spread(len(points), _MAX_THUMBNAILS))
    inputs = shown_inputs(pixels[shown], ranges[shown], mean, std)
    marks = Marks(labels=labels, class_names=class_names, values=targets).at(shown)
    edges = zip(marks.kinds.tolist(), marks.colours(), strict=True)
    tiles = [_thumbnail(image, *edge) for image, edge in zip(inputs.images, edges, strict=True)]
    # One scale for both axes of the unit square, the second one pointing down.
    places = points[shown].astype(np.float64)
    low, high = places.min(0), places.max(0)
    places = (places - (low + high) / 2) / (float((high - low).max()) or 1.0) * (1, -1) + 0.5
    on_map = blank(_MAP_SIDE, _MAP_SIDE)
    for tile, (x, y) in zip(tiles, (places * (_MAP_SIDE - _CELL)).astype(int), strict=True):
        on_map[y : y + _CELL, x : x + _CELL] = tile
    on_map[[0, -1]] = on_map[:, [0, -1]] = FAINT_INK
    num_columns = math.ceil(math.sqrt(len(tiles)))
    pitch = _CELL + 1
    on_grid = blank(-(-len(tiles) // num_columns) * pitch + 1, num_columns * pitch + 1)
    for tile, (row, column) in zip(tiles, grid_cells(places, num_columns), strict=True):
        y, x = row * pitch + 1, column * pitch + 1
        on_grid[y : y + _CELL, x : x + _CELL] = tile
    body = side_by_side(
        [
            stacked([line("where the map puts them"), on_map], 1),
            stacked([line("snapped to a grid, so that none is hidden"), on_grid], 1),
        ],
        2 * _EDGE + 4,
    )
    note = f"{len(shown):,} of {len(points):,} samples"
    if marks.are_known:
        edge = "classes" if targets is None else f"{marks.what}s"
        note += f"; edges in the colours of the {edge} (legend below)"
    lines = [*caption, inputs.note, note]
    return with_caption(stacked([body, *marks.legend(body.shape[1])]), lines)


def grid_cells(places: NDArray[np.float64], num_columns: int) -> NDArray[np.intp]:
    """Returns (samples, 2): row and column of a cell for each place (samples, 2).

    No two samples share a cell, and the sum of the squared ways to the cells is the least.
    """
    from scipy.optimize import linear_sum_assignment  # a fifth of a second that few pictures need

    # The places' own extent is stretched over the grid: else a long map would leave half of the
    # cells far away.
    low, high = places.min(axis=0), places.max(axis=0)
    places = (places - low) / np.where(high > low, high - low, 1)
    num_rows = -(-len(places) // num_columns)
    rows, columns = np.divmod(np.arange(num_rows * num_columns), num_columns)
    centres = np.stack([(columns + 0.5) / num_columns, (rows + 0.5) / num_rows], axis=1)
    ways = ((places[:, None] - centres[None]) ** 2).sum(axis=2)
    _, cells = linear_sum_assignment(ways)
    return np.stack([rows[cells], columns[cells]], axis=1)


def _thumbnail(image: Rgb, kind: int, colour: NDArray[np.uint8]) -> Rgb:
    """Returns one thumbnail with an edge of the colour of its class or value."""
    tile = np.tile(colour, (_CELL, _CELL, 1))
    height, width = image.shape[:2]
    factor = _SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
    top, left = (_CELL - size[1]) // 2, (_CELL - size[0]) // 2
    small = np.asarray(Image.fromarray(image).resize(size, how))
    tile[top : top + size[1], left : left + size[0]] = small
    if shares_its_colour(kind):
        tile[-_CORNER:, -_CORNER:] = WHITE
        centre = _CELL - _CORNER / 2 - 0.5
        tile = marked(tile, [(kind, centre, centre, 0.4 * _CORNER)])
    return tile


def shown_inputs(
    pixels: NDArray[Any],
    ranges: NDArray[Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Shown:
    """Returns images kept as bytes as pictures; see `from_bytes` and `input_pictures`.

    What rounding to bytes put beyond 0 and 1 is cut off.
    """
    images = from_bytes(torch.from_numpy(pixels), torch.from_numpy(ranges)).double().numpy()
    if mean is not None and std is not None and images.shape[1] == len(mean):
        images = images * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    is_nearly = images.min() >= -_ROUNDING and images.max() <= 1 + _ROUNDING
    return input_pictures(images.clip(0, 1) if is_nearly else images)


def draw_probes(
    accuracies: NDArray[Any],
    *,
    layers: Sequence[str],
    steps: Sequence[int],
    num_samples: int,
    num_classes: int,
    epoch: int,
    chance: float,
    network: float,
) -> Rgb:
    """Draws what linear probes reach at each depth, now and before.

    ``accuracies`` are (steps, layers), oldest first; NaN leaves a gap. ``chance`` is the accuracy
    of guessing, ``network`` that of the network itself, NaN where it is not known.
    """
    best = int(np.nanargmax(accuracies[-1])) if np.isfinite(accuracies[-1]).any() else 0
    caption = [
        f"linear probes by depth, {num_samples:,} samples; epoch {epoch}, step {steps[-1]:,}",
        f"cross-validated; best at layer {best + 1}: "
        f"{100 * accuracies[-1, best]:.1f} %, guessing {100 * chance:.1f} %",
    ]
    if math.isfinite(network):
        caption.append(f"the network itself: {100 * network:.1f} %")
    if num_samples < _FEW_A_CLASS * num_classes:
        caption.append(
            f"{num_samples / num_classes:.1f} samples per class: probes fitted to so few "
            "underestimate the layers"
        )
    depths = range(1, len(layers) + 1)
    plot = line_plot(
        {f"step {step:,}": (depths, row) for step, row in zip(steps, accuracies, strict=True)},
        caption,
        y_label="accuracy",
        x_label="layer",
        y_range=(0.0, 1.0),
        colours=colours_in_order(len(steps)),
        levels={"network itself": network, "guessing": chance},
    )
    names = [
        line(f"{depth:>2}  {shortened(layer, MAX_FRAME_WIDTH - 30)}", MAX_FRAME_WIDTH)
        for depth, layer in zip(depths, layers, strict=True)
    ]
    return stacked([plot, *names], gap=2)
