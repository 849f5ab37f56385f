"""The pictures of a layer's filters: enlarged without smoothing, 0 in the middle of the scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.rules.filters import why_not_judged
from vis_callbacks.pictures.canvas import (
    crossed,
    fitted,
    hatched,
    line,
    side_by_side,
    stacked,
    with_caption,
)
from vis_callbacks.pictures.colours import WHITE, Scale, colour_map, rgb_of
from vis_callbacks.pictures.text import INK, Colour, Rgb, percent, text_width
from vis_callbacks.pictures.tiles import Tile, tile_grid

Scaling = Literal["filter", "layer"]
Order = Literal["index", "norm"]

NOISE_FRAME: Colour = (230, 120, 0)

_QUANTILE = 0.99
_MAX_CHANNELS = 16  # maps of one filter that are still told apart
_PANEL_WIDTH = 780  # two of them within 1,600 px
_STRIP_WIDTH = 186  # eight frames within 1,600 px
_LEAST_STRIP_WIDTH = 96
_STRIP_TILE, _FEW_TILE, _MANY_TILE, _LARGEST_TILE = 28, 42, 24, 390
_FEW = 64  # filters that get a number beside their index
_LABEL_HEIGHT = 14
_OWN = {"filter": "each filter has a scale of its own", "layer": "one scale for all"}


def draw_grid(
    filters: NDArray[Any],
    learned: NDArray[Any],
    learned_share: NDArray[Any],
    norms: NDArray[Any],
    rough: NDArray[Any],
    is_dead: NDArray[np.bool_],
    noise_like: NDArray[np.bool_] | None = None,
    *,
    numbers: Mapping[str, float],
    layer: str,
    step: int,
    num_filters: int,
    max_filters: int,
    scale: Scaling,
    order: Order,
) -> Rgb:
    """Returns the filters beside what training added to each, at the same place in both.

    One channel is grey and three are a colour; other numbers of channels are maps around 0 side
    by side. Of kernels with three spatial axes the slices lie side by side, and of those with
    one axis each channel is a row. What is not finite is magenta.

    ``filters`` and ``learned`` are (filters, channels, *kernel), the other arrays (filters,);
    without ``noise_like`` single filters cannot be judged. ``numbers`` are the layer's, by the
    names of `vis_callbacks.alerts.metric_names`.
    """
    by_norm = np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")[:max_filters]
    shown = by_norm if order == "norm" else np.sort(by_norm)
    is_few, shares = len(shown) <= _FEW, np.nan_to_num(learned_share[shown])
    size = _FEW_TILE if is_few else _MANY_TILE
    of_filters = []
    pictures = filter_pictures(filters[shown], scale, size, _LARGEST_TILE, _PANEL_WIDTH)
    for index, picture in zip(shown, pictures, strict=True):
        label = f"{index} {_short(rough[index])}" if noise_like is not None and is_few else index
        frame = NOISE_FRAME if noise_like is not None and noise_like[index] else WHITE
        picture = crossed(picture, (90, 90, 90)) if is_dead[index] else picture
        of_filters.append(Tile(picture=picture, lines=(str(label),), border=frame))
    of_learned = []
    pictures = filter_pictures(learned[shown], scale, size, _LARGEST_TILE, _PANEL_WIDTH)
    for share, picture in zip(shares, pictures, strict=True):
        picture = picture if share else hatched(*picture.shape[:2])
        of_learned.append(Tile(picture=picture, lines=(_share_label(share),), border=WHITE))
    energy = percent(1 - numbers[metric_names.INHERITED_SHARE])
    added = _panel(f"what training added: {energy} of the energy", of_learned)
    num_broken = int(np.count_nonzero(~np.isfinite(norms)))
    lines = [
        f"{layer}: {_which(filters, len(shown), num_filters)}; step {step:,}",
        *_noise_lines(numbers, step, has_verdicts=noise_like is not None),
        _learned_line(numbers),
        _odd_line(numbers),
        f"{channels_note(filters.shape[1], filters.ndim - 2)}; {_OWN[scale]}, up to the 99 % "
        "quantile",
        f"magenta: not finite ({num_broken} filters)" if num_broken else "",
        "hatched: nothing learned" if (shares == 0).any() else "",
    ]
    return with_caption(side_by_side([_panel("the filters", of_filters), added], gap=18), lines)


def _which(filters: NDArray[Any], num_shown: int, num_filters: int) -> str:
    """Returns which filters are shown, and their size."""
    side = "x".join(map(str, filters.shape[2:]))
    if not (left_out := num_filters - num_shown):
        return f"{num_shown} filters of {side}"
    largest = f"the largest ones; {left_out} are left out"
    return f"{num_shown} of {num_filters} filters of {side}, {largest}"


def draw_strip(
    frames: NDArray[Any],
    norms: NDArray[Any],
    *,
    layer: str,
    steps: Sequence[int],
    num_filters: int,
    first_step: int,
    scale: Scaling,
    order: Order,
) -> Rgb:
    """Returns filters over time: a frame a step, and below it what changed since the previous one.

    Each filter has one scale in all frames, and its changes have another one. How large the
    changes are is written over them. ``frames`` are (frames, filters, channels, *kernel), oldest
    first, and changes are seen from ``first_step`` on.
    """
    if order == "norm":
        frames = frames[:, np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")]
    values = np.asarray(frames, dtype=np.float64)
    changes = np.diff(values, axis=0)
    scales = filter_scales(np.moveaxis(values, 0, 1), scale)
    drawn = [_strip_tiles(frame, scales) for frame in values]
    width = max(drawn[0].shape[1], _LEAST_STRIP_WIDTH)
    drawn[0] = stacked([drawn[0], line("no change yet", width)], gap=2)
    if len(changes):
        scales = filter_scales(np.moveaxis(changes, 0, 1), scale)
    for index, change in enumerate(changes):
        size = np.sqrt(np.nansum(change**2) / max(np.nansum(values[index] ** 2), 1e-30))
        below = [line(f"changed by {percent(size)}", width), _strip_tiles(change, scales)]
        drawn[index + 1] = stacked([drawn[index + 1], *below], gap=2)
    which = f"{values.shape[1]} of {num_filters}" if values.shape[1] < num_filters else "all"
    first = "the initial weights" if first_step == 0 else "the first ones that were seen"
    whose = {"filter": "a filter", "layer": "the layer"}[scale]
    lines = [
        f"{layer}: {which} filters over time; below each frame: its change since the previous one",
        f"step {first_step:,}: {first}; {whose} has one scale in all frames, its changes another",
        f"{channels_note(values.shape[2], values.ndim - 3)}; every filter stays at its place",
    ]
    tiles = [
        Tile(picture=frame, title=f"step {step:,}")
        for frame, step in zip(drawn, steps, strict=True)
    ]
    return tile_grid(tiles, lines, columns=len(tiles), tile=(1, 1600), gap=6)


def filter_scales(filters: NDArray[Any], scaling: Scaling = "filter") -> NDArray[np.float64]:
    """Returns what gets the strongest colour, (filters,): the 99 % quantile of the sizes.

    It is that of each filter by itself, so that structure is seen in all of them, or that of the
    layer, which shows the filters that matter. Scales lie around 0. If they went from the
    smallest to the largest value, 0 would have another colour in each filter.
    """
    sizes = np.abs(np.asarray(filters, dtype=np.float64)).reshape(len(filters), -1)
    sizes = np.where(np.isfinite(sizes), sizes, 0.0)
    rows = sizes.reshape(1, -1) if scaling == "layer" else sizes
    quantile, largest = np.quantile(rows, _QUANTILE, axis=1), rows.max(axis=1)
    scale = np.where(quantile > 0, quantile, largest)  # nearly all 0: the few would be hidden
    return np.broadcast_to(np.where(scale > 0, scale, 1.0), (len(filters),))


def channels_note(num_channels: int, num_axes: int) -> str:
    """Returns how the channels of filters are drawn, in words for a caption."""
    if num_axes == 1:
        return "blue is below 0, red above" + ("; one row per channel" if num_channels > 1 else "")
    if num_channels in (1, 3):
        return "grey is 0" if num_channels == 1 else "channels as red, green and blue; grey is 0"
    shown = min(num_channels, _MAX_CHANNELS)
    which = f"the {shown} largest of {num_channels}" if shown < num_channels else f"{shown}"
    return f"{which} channels side by side; blue is below 0, red above"


def filter_pictures(
    filters: NDArray[Any],
    scale: Scaling | NDArray[np.float64],
    size: int,
    most: int,
    most_of_maps: int,
) -> list[Rgb]:
    """Returns a picture of each filter (filters, channels, *kernel).

    ``scale`` says how the scales are chosen, or is what gets the strongest colour, (filters,). The
    longer side has about ``size`` pixels, two thirds of that where a filter is several maps, and at
    most ``most``; several maps together are ``most_of_maps`` wide at the most.
    """
    values = np.asarray(filters, dtype=np.float64)
    scales = filter_scales(values, scale) if isinstance(scale, str) else scale
    maps, has_colour = _maps(values / scales.reshape(-1, *[1] * (values.ndim - 1)))
    num_maps = maps.shape[1]
    room = most if num_maps == 1 else max(1, (most_of_maps - 4) // num_maps - 1)
    least = min(room, size if num_maps == 1 else 2 * size // 3)
    if has_colour:
        colours = rgb_of(0.5 + 0.5 * maps)
    else:
        colours = colour_map(maps[:, :, 0], scale=Scale(low=-1, high=1, signed=True))
    return [side_by_side([fitted(one, least, room) for one in of], 1) for of in colours]


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
    return values.reshape(len(values), -1, 1, *values.shape[-2:]), False


def _panel(title: str, tiles: Sequence[Tile]) -> Rgb:
    width = max(text_width(text) for tile in tiles for text in tile.lines)
    pictures = [tile.picture for tile in tiles if tile.picture is not None]
    columns = _columns(pictures, _PANEL_WIDTH, label_height=_LABEL_HEIGHT)
    cells = tile_grid(tiles, columns=columns, tile=(1, _PANEL_WIDTH), min_width=width, gap=2)
    return stacked([line(title, cells.shape[1], INK), cells], gap=1)


def _columns(pictures: Sequence[Rgb], width: int, label_height: int = 0) -> int:
    """Returns how many columns make a grid about as wide as high, and no wider than ``width``."""
    num_tiles, (height, tile_width) = len(pictures), pictures[0].shape[:2]
    square = math.ceil(math.sqrt(num_tiles * (height + label_height) / (tile_width + 2)))
    most = max(1, min(square, width // (tile_width + 2), num_tiles))
    # Of a few that are as good, the one that leaves the fewest places empty.
    return min(range(most, max(0, most - 3), -1), key=lambda columns: -num_tiles % columns)


def _strip_tiles(filters: NDArray[Any], scales: NDArray[np.float64]) -> Rgb:
    room = _STRIP_WIDTH // math.ceil(math.sqrt(len(filters))) - 2
    pictures = filter_pictures(filters, scales, _STRIP_TILE, room, _STRIP_WIDTH)
    columns = _columns(pictures, _STRIP_WIDTH)
    return tile_grid([Tile(picture=p) for p in pictures], columns=columns, tile=(1, 400), gap=2)


def _noise_lines(numbers: Mapping[str, float], step: int, *, has_verdicts: bool) -> list[str]:
    reason = why_not_judged(
        kernel_size=numbers[metric_names.KERNEL_SIZE],
        first_step=numbers[metric_names.FIRST_STEP],
        initial_roughness=numbers[metric_names.INITIAL_ROUGHNESS],
        roughness_error=numbers[metric_names.ROUGHNESS_ERROR],
        rate=numbers[metric_names.LEARNING_RATE],
        change=numbers[metric_names.FILTER_CHANGE],
        has_stepped=step > numbers[metric_names.FIRST_STEP],
    )
    lines = [f"No verdict on noise: {reason}." if reason else ""]
    if numbers[metric_names.KERNEL_SIZE] <= 1:
        return lines
    noise = (
        f"noise {numbers[metric_names.FILTER_NOISE]:.2f} (white noise has 1, a constant 0); it was"
        f" {numbers[metric_names.INITIAL_ROUGHNESS]:.2f} at step"
        f" {numbers[metric_names.FIRST_STEP]:,.0f}"
    )
    if not has_verdicts:
        small = "a single filter of this size cannot be told from noise, so none is framed"
        return [*lines, noise, small]
    count = round(numbers[metric_names.NOISE_LIKE] * numbers[metric_names.NUM_FILTERS])
    framed = f"orange frame: {count} that cannot be told from noise; healthy networks keep some"
    return [*lines, noise, framed if count else "no filter looks like noise"]


def _learned_line(numbers: Mapping[str, float]) -> str:
    rough, of_inputs = (
        numbers[metric_names.LEARNED_ROUGHNESS],
        numbers[metric_names.INPUT_ROUGHNESS],
    )
    change, first_step = numbers[metric_names.FILTER_CHANGE], numbers[metric_names.FIRST_STEP]
    words = f"moved by {percent(change)} of the norm since step {first_step:,.0f}"
    if np.isfinite(rough):
        words += f"; noise of the learned part {rough:.2f}"
        words += f" (of the inputs {of_inputs:.2f})" if np.isfinite(of_inputs) else ""
    left = numbers[metric_names.DECAY_LEFT]
    if np.isfinite(left):
        words += f"; weight decay alone would have left {percent(left)} of the initial weights"
    return words


def _odd_line(numbers: Mapping[str, float]) -> str:
    words = {
        metric_names.DEAD_FILTERS: "near zero (crossed)",
        metric_names.DOMINATING_FILTERS: "far larger than the median",
        metric_names.DUPLICATED_FILTERS: "nearly equal to another one",
    }
    known = {metric: numbers[metric] for metric in words if np.isfinite(numbers[metric])}
    counts = {m: round(share * numbers[metric_names.NUM_FILTERS]) for m, share in known.items()}
    return ", ".join(f"{count} {words[metric]}" for metric, count in counts.items() if count)


def _short(rough: float) -> str:
    """Returns a roughness in three characters: ``".87"``, ``"1.1"``."""
    if not np.isfinite(rough):
        return "?"
    return f"{rough:.1f}" if rough > 0.995 else f"{rough:.2f}".removeprefix("0")


def _share_label(share: float) -> str:
    """Returns a share in few characters: ``"12 %"``, ``"<1 %"``."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "<1 %"
