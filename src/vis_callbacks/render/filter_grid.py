"""Filters as pictures: enlarged without smoothing, 0 in the middle of the scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import NOT_FINITE, Scale, colour_map
from vis_callbacks.render.film_strip import film_strip
from vis_callbacks.render.images import (
    blank,
    crossed,
    enlarge,
    grid,
    shrink_values,
    side_by_side,
    stacked,
)
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Colour,
    Picture,
    line_height,
    text_width,
    write,
)

Scaling = Literal["filter", "layer"]

NOISE_FRAME: Colour = (230, 120, 0)

_QUANTILE = 0.99
_MAX_CHANNELS = 16  # maps of one filter that are still told apart
_PANEL_WIDTH = 780  # two of them within 1,600 px
_STRIP_WIDTH = 186  # eight frames within 1,600 px
_LEAST_STRIP_WIDTH = 96  # narrower frames are enlarged, and their words would be, too
_STRIP_TILE = 28
_FEW_TILE, _MANY_TILE, _LARGEST_TILE = 42, 24, 390
_BORDER = 2
_FEW = 64  # filters that get a number beside their index
_GAP = 18
_LEAST_ROW_HEIGHT = 5


@dataclass(frozen=True, kw_only=True)
class FilterPanel:
    """Filters to be drawn together.

    Attributes:
        filters: (filters, channels, *kernel)
        title: One line over them.
        labels: One for each filter.
        framed: (filters,) those that get an orange frame.
        crossed: (filters,) those that are near zero.
        missing: (filters,) those of which there is nothing to show: hatched.
    """

    filters: NDArray[Any]
    title: str = ""
    labels: Sequence[str] = ()
    framed: NDArray[np.bool_] | None = None
    crossed: NDArray[np.bool_] | None = None
    missing: NDArray[np.bool_] | None = None


def filter_scales(filters: NDArray[Any], scaling: Scaling = "filter") -> NDArray[np.float64]:
    """Returns what gets the strongest colour, (filters,): the 99 % quantile of the sizes.

    Of each filter by itself, so that structure is seen in all, or of the layer, which shows
    the filters that matter. Scales lie around 0: from the smallest to the largest value, as
    pictures are often stretched, 0 would have another colour in each filter.
    """
    sizes = np.abs(np.asarray(filters, dtype=np.float64)).reshape(len(filters), -1)
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    if scaling == "layer":
        sizes = np.broadcast_to(sizes.reshape(1, -1), (len(filters), sizes.size))
        quantile = np.quantile(sizes[:1], _QUANTILE, axis=1).repeat(len(filters))
        largest = sizes[:1].max(axis=1).repeat(len(filters))
    else:
        quantile, largest = np.quantile(sizes, _QUANTILE, axis=1), sizes.max(axis=1)
    scale = np.where(quantile > 0, quantile, largest)  # nearly all 0: the few would be hidden
    return np.where(scale > 0, scale, 1.0)


def channels_note(num_channels: int, num_axes: int) -> str:
    """Returns how the channels of filters are drawn, in words for a caption."""
    if num_axes == 1:
        return "blue is below 0, red above" + ("; one row a channel" if num_channels > 1 else "")
    if num_channels in (1, 3):
        return "grey is 0" if num_channels == 1 else "channels as red, green and blue; grey is 0"
    shown = min(num_channels, _MAX_CHANNELS)
    which = f"the {shown} largest of {num_channels}" if shown < num_channels else f"{shown}"
    return f"{which} channels side by side; blue is below 0, red above"


def filter_grid(
    panels: Sequence[FilterPanel],
    caption: Sequence[object] = (),
    *,
    scaling: Scaling = "filter",
) -> Picture:
    """Returns panels of filters side by side, each filter at the same place in all.

    One channel is grey, three are a colour, others are maps around 0 side by side; of kernels
    with three spatial axes the slices lie side by side, and of those with one axis each channel
    is a row. What is not finite is magenta.

    Args:
        panels: Of as many filters each, one at the least.
        caption: Lines over the picture.
        scaling: See `filter_scales`.

    Raises:
        ValueError: There is no filter, or the panels have different shapes.
    """
    shapes = {panel.filters.shape for panel in panels}
    if len(shapes) != 1 or not next(iter(shapes))[0]:
        raise ValueError(f"panels hold filters of the shapes {sorted(shapes)}; give one shape")
    is_few = len(panels[0].filters) <= _FEW
    size = _FEW_TILE if is_few else _MANY_TILE
    labels = [label for panel in panels for label in panel.labels]
    width = max((text_width(label) for label in labels), default=0)
    drawn = [_panel(panel, scaling, max(size, width - 2 * _BORDER)) for panel in panels]
    return with_caption(side_by_side(drawn, _GAP), caption)


def filter_strip(
    frames: NDArray[Any],
    steps: Sequence[int],
    caption: Sequence[object] = (),
    *,
    scaling: Scaling = "filter",
) -> Picture:
    """Returns filters over time: a frame a step, and below it what changed since the one before.

    Each filter has one scale in all frames, and its changes another one; how large they are is
    written over them.

    Args:
        frames: (frames, filters, channels, *kernel), oldest first.
        steps: One for each frame.
        caption: Lines over the strip.
        scaling: See `filter_scales`; the quantile is that over all frames.
    """
    values = np.asarray(frames, dtype=np.float64)
    changes = np.diff(values, axis=0)
    scales = filter_scales(np.moveaxis(values, 0, 1), scaling)
    drawn = [_strip_tiles(frame, scales) for frame in values]
    width = max(drawn[0].shape[1], _LEAST_STRIP_WIDTH)
    drawn[0] = stacked([drawn[0], _line("no change yet", width)], gap=2)
    if len(changes):
        scales = filter_scales(np.moveaxis(changes, 0, 1), scaling)
    for index, change in enumerate(changes):
        size = np.sqrt(np.nansum(change**2) / max(np.nansum(values[index] ** 2), 1e-30))
        title = _line(f"changed by {percent(size)}", width)
        below = _strip_tiles(change, scales)
        drawn[index + 1] = stacked([drawn[index + 1], title, below], gap=2)
    return film_strip(drawn, steps, caption)


def _strip_tiles(filters: NDArray[Any], scales: NDArray[np.float64]) -> Picture:
    columns = math.ceil(math.sqrt(len(filters)))
    tiles = _tiles(filters, scales, _STRIP_TILE, _STRIP_WIDTH // columns - 2, _STRIP_WIDTH)
    return grid(tiles, _columns(tiles, _STRIP_WIDTH, 0))


def percent(share: float) -> str:
    """Returns a share in words, small ones with their first digits: ``"0.03 %"``."""
    if not np.isfinite(share):
        return "?"
    return f"{100 * share:.0f} %" if share >= 0.1 or share <= 0 else f"{100 * share:.2g} %"


def _panel(panel: FilterPanel, scaling: Scaling, size: int) -> Picture:
    """Returns one panel: its title and its tiles, each with frame and label."""
    scales = filter_scales(panel.filters, scaling)
    tiles = _tiles(panel.filters, scales, size, _LARGEST_TILE, _PANEL_WIDTH)
    for index in np.flatnonzero(panel.crossed) if panel.crossed is not None else ():
        tiles[index] = crossed(tiles[index], (90, 90, 90))
    edge = ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0))
    tiles = np.pad(tiles, edge, constant_values=255)
    if panel.framed is not None:
        inside = tiles[:, _BORDER:-_BORDER, _BORDER:-_BORDER].copy()
        tiles[panel.framed] = NOISE_FRAME
        tiles[:, _BORDER:-_BORDER, _BORDER:-_BORDER] = inside
    cells = grid(
        tiles, _columns(tiles, _PANEL_WIDTH, 14), labels=panel.labels or None, missing=panel.missing
    )
    return stacked([_line(panel.title, cells.shape[1], INK), cells], gap=1)


def _columns(tiles: Picture, width: int, label_height: int) -> int:
    """Returns how many columns make the picture about as wide as high, and no wider."""
    num_tiles, height, tile_width = tiles.shape[:3]
    square = math.ceil(math.sqrt(num_tiles * (height + label_height) / (tile_width + 2)))
    most = max(1, min(square, width // (tile_width + 2), num_tiles))
    # Of a few that are as good, the one that leaves the fewest places empty.
    return min(range(most, max(0, most - 3), -1), key=lambda columns: -num_tiles % columns)


def _tiles(
    filters: NDArray[Any], scales: NDArray[np.float64], size: int, most: int, most_of_maps: int
) -> Picture:
    """Returns a picture of each filter, (filters, height, width, 3).

    Args:
        filters: (filters, channels, *kernel)
        scales: What gets the strongest colour, (filters,).
        size: Pixels of the longer side, about; two thirds where a filter is several maps.
        most: The longer side at the most.
        most_of_maps: The width at the most where a filter is several maps.
    """
    values = np.asarray(filters, dtype=np.float64)
    values = values / scales.reshape(-1, *[1] * (values.ndim - 1))
    maps, has_colour = _maps(values)  # (filters, maps, channels, height, width)
    num_maps = maps.shape[1]
    room = most if num_maps == 1 else max(1, (most_of_maps - 4) // num_maps - 1)
    maps = _shrunk(maps, room)
    height, width = maps.shape[3:]
    wanted = size if num_maps == 1 else 2 * size // 3
    factor = max(1, min(round(wanted / max(height, width)), room // width))
    rows = max(factor, min(_LEAST_ROW_HEIGHT, wanted // height))
    colours = _coloured(maps, has_colour)  # (filters, maps, height, width, 3)
    parts = [
        np.stack([enlarge(tile, (rows, factor)) for tile in colours[:, index]])
        for index in range(num_maps)
    ]
    if num_maps > 1:
        gap = np.full((len(filters), parts[0].shape[1], 1, 3), 255, dtype=np.uint8)
        parts = [part for one in parts for part in (one, gap)][:-1]
    tiles: Picture = np.concatenate(parts, axis=2)
    return tiles


def _maps(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Returns (filters, maps, channels, height, width), and whether the channels are a colour."""
    num_axes, num_channels = values.ndim - 2, values.shape[1]
    if num_axes == 1:
        return values[:, None, None], False
    if num_axes > 2:  # volumes: slices side by side
        values = np.moveaxis(values.reshape(*values.shape[:2], -1, *values.shape[-2:]), 2, 1)
    else:
        values = values[:, None]
    if num_channels in (1, 3):
        return values, True
    if num_channels > _MAX_CHANNELS:
        energy = np.nansum(values**2, axis=(0, 1, 3, 4))
        values = values[:, :, np.sort(np.argsort(-energy)[:_MAX_CHANNELS])]
    flat = values.reshape(len(values), -1, 1, *values.shape[-2:])
    return flat, False


def _coloured(maps: NDArray[np.float64], has_colour: bool) -> Picture:
    if not has_colour:
        return colour_map(maps[:, :, 0], scale=Scale(low=-1, high=1, signed=True))
    is_finite = np.isfinite(maps).all(axis=2)
    shown = np.where(np.isfinite(maps), maps, 0)
    shown = np.rint(np.clip(0.5 + 0.5 * shown, 0, 1) * 255).astype(np.uint8)
    shown = np.moveaxis(shown, 2, -1)
    colours = np.repeat(shown, 3, axis=-1) if shown.shape[-1] == 1 else shown.copy()
    colours[~is_finite] = NOT_FINITE
    return np.asarray(colours)


def _shrunk(maps: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    if max(maps.shape[-2:]) <= most:
        return maps
    flat = maps.reshape(-1, *maps.shape[-2:])
    shrunk = np.stack([shrink_values(one, most) for one in flat])
    return shrunk.reshape(*maps.shape[:-2], *shrunk.shape[1:]).astype(np.float64)


def _line(text: str, width: int, colour: Colour = FAINT_INK) -> Picture:
    canvas = blank(line_height(), max(width, text_width(text) + 2))
    write(canvas, text, 1, 0, colour=colour)
    return canvas
