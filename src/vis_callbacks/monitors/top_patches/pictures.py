"""Drawing top-activating patches: from packed arrays on the host to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.monitors.top_patches.reader import UnitChoice
from vis_callbacks.monitors.top_patches.receptive_field import ReceptiveField
from vis_callbacks.monitors.top_patches.records import TopPatches, unpacked
from vis_callbacks.monitors.top_patches.science import class_purity, drawn_by_lot, num_kept
from vis_callbacks.pictures.canvas import MAX_WIDTH, Box, blank, fitted
from vis_callbacks.pictures.colours import NOT_MEASURED, class_colour
from vis_callbacks.pictures.inputs import input_pictures
from vis_callbacks.pictures.text import Colour, Rgb, class_name, number
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table

_TILE = (56, 96)  # the least and the most pixels of a patch's longer side
_LEAST_WIDTH = 62  # room for a value and a few letters of a class
_NAMES_WIDTH = 184
# Of the part of a receptive field that lies beyond the image: a grey-blue that few images hold.
_BEYOND: Colour = (150, 160, 185)
_WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class PatchPage:
    """What a picture must know beside its arrays."""

    layer: str
    step: int
    num_samples: int  # all that have passed by
    candidates: tuple[int, ...]  # the units that were read, by row of the arrays
    num_units: int  # of the layer
    choice: UnitChoice
    field: ReceptiveField | None  # None: it could not be measured
    has_flat_zero: bool  # whether a unit can be silent
    is_whole: bool  # whole images are shown, with a box
    has_labels: bool
    is_volume: bool = False  # of samples with a depth the middle slice is shown
    step_before: int | None = None  # of the snapshot before
    class_names: tuple[str, ...] = ()
    mean: Sequence[float] | None = None  # what the inputs were normalised with
    std: Sequence[float] | None = None


def draw(
    records: np.ndarray,
    rows: np.ndarray,
    fired: np.ndarray,
    ignored: np.ndarray,
    before: np.ndarray | None = None,
    *,
    page: PatchPage,
) -> Rgb:
    """Returns the picture of one layer: a row a unit.

    ``records`` (units, k, ...) are packed patches, ``rows`` the units' places among
    ``page.candidates``, and ``fired`` how many samples excite each; so many were ``ignored``.
    ``before`` (units, k) are the samples that were shown before.
    """
    top = unpacked(torch.from_numpy(records))
    is_shown = top.values > (0 if page.has_flat_zero else -torch.inf)
    tiles, words = _tiles(top, is_shown, page)
    notes = _notes(top, is_shown, fired, before, page)
    sample = tiles[0].picture if tiles else None  # all have one size
    wide = 0 if sample is None else fitted(sample, *_TILE).shape[1] + 4  # with its border
    width = max(_LEAST_WIDTH, wide)
    columns = (MAX_WIDTH - _NAMES_WIDTH) // (width + 4)
    if (left_out := records.shape[1] - columns) > 0:
        words.append(f"{left_out} weaker patches of each unit do not fit")
    counts, remaining = is_shown.sum(1).tolist(), iter(tiles)
    drawn = [
        TileRow(
            name=f"unit {page.candidates[int(place)]}",
            notes=notes[unit],
            tiles=[next(remaining) for _ in range(counts[unit])][:columns],
            missing=_missing(page, int(ignored)),
        )
        for unit, place in enumerate(rows.tolist())
    ]
    caption = _caption(records.shape[1], counts, int(ignored), page)
    return tile_table(drawn, [*caption, *words], tile=_TILE, min_width=_LEAST_WIDTH)


def _tiles(top: TopPatches, is_shown: Tensor, page: PatchPage) -> tuple[list[Tile], list[str]]:
    """Returns the patches that are shown, by one scale and in one size; and a note."""
    if not is_shown.any():
        return [], []
    shown = input_pictures(_values(top, is_shown, page))
    boxes, regions, factors = (x[is_shown] for x in (top.boxes, top.regions, top.factors))
    cuts = []
    for image, box, region, factor in zip(
        shown.images, boxes.tolist(), regions.tolist(), factors.tolist(), strict=True
    ):
        first = [(box[i] - region[i]) // factor for i in (0, 1)]
        behind = [-(-(box[i + 2] - region[i]) // factor) for i in (0, 1)]
        sizes = [-(-(region[i + 2] - region[i]) // factor) for i in (0, 1)]
        if page.is_whole:
            frame = None if (*first, *behind) == (0, 0, *sizes) else (*first, *behind)
            cuts.append((image[: sizes[0], : sizes[1]], frame, (0.5, 0.5)))
        else:
            spans = (slice(a, max(b, a + 1)) for a, b in zip(first, behind, strict=True))
            cuts.append((image[tuple(spans)], None, (float(box[0] == 0), float(box[1] == 0))))
    full = [max(picture.shape[axis] for picture, *_ in cuts) for axis in (0, 1)]
    pairs = zip(top.values[is_shown].tolist(), top.labels[is_shown].tolist(), strict=True)
    tiles = [
        _tile(*_completed(*cut, full), value, label, page)
        for cut, (value, label) in zip(cuts, pairs, strict=True)
    ]
    return tiles, [shown.note]


def _completed(
    picture: Rgb, box: Box | None, before: Sequence[float], full: Sequence[int]
) -> tuple[Rgb, Box | None]:
    """Returns a patch in the size of a full one: all patches of a page have one scale.

    The share ``before`` of what is missing along each axis lies over it and to its left: all, where
    the patch begins at the image's border, and else nothing.
    """
    rows, columns = (most - size for most, size in zip(full, picture.shape, strict=False))
    top, left = round(rows * before[0]), round(columns * before[1])
    completed = blank(full[0], full[1], _BEYOND)
    completed[top : top + len(picture), left : left + picture.shape[1]] = picture
    return completed, box and (box[0] + top, box[1] + left, box[2] + top, box[3] + left)


def _tile(picture: Rgb, box: Box | None, value: float, label: int, page: PatchPage) -> Tile:
    name = [class_name(label, page.class_names) if label >= 0 else ""] if page.has_labels else []
    return Tile(
        picture=picture,
        boxes=[(box, _WHITE)] if box else [],
        lines=[number(value), *name],
        border=class_colour(label) if label >= 0 else NOT_MEASURED,
    )


def _values(top: TopPatches, is_shown: Tensor, page: PatchPage) -> np.ndarray:
    """Returns the kept pixels as they were before the user normalised them."""
    low, step = (x[is_shown].view(-1, 1, 1, 1) for x in (top.low, top.steps))
    mean = torch.tensor(page.mean or [0.0]).view(-1, 1, 1)
    std = torch.tensor(page.std or [1.0]).view(-1, 1, 1)
    values = (low + step * top.pixels[is_shown].float()) * std + mean
    # What lies beyond the region was never in an image, and must not widen the scale.
    regions, side = top.regions[is_shown], values.shape[-1]
    height, width = ((regions[:, i + 2] - regions[:, i]).view(-1, 1, 1, 1) for i in (0, 1))
    places = torch.arange(side) * top.factors[is_shown].view(-1, 1, 1, 1)  # (patches, 1, 1, side)
    is_inside = (places.transpose(2, 3) < height) & (places < width)
    values = torch.where(is_inside, values, values[..., :1, :1])
    error = float((step * std).max())  # of a byte: it must not make 0 a little less
    if -error <= values.min() and values.max() <= 1 + error:
        values = values.clamp(0, 1)
    return values.numpy()


def _notes(
    top: TopPatches,
    is_shown: Tensor,
    fired: np.ndarray,
    before: np.ndarray | None,
    page: PatchPage,
) -> list[list[str]]:
    """Returns by unit what is said of it: its class, how often it fires, what has changed."""
    is_drawn = drawn_by_lot(top, is_shown)
    is_counted = is_shown & ~is_drawn
    classes, counts, _ = class_purity(top.labels, is_counted)
    kept = None if before is None else num_kept(top.samples, torch.from_numpy(before), is_shown)
    notes: list[list[str]] = []
    for unit, num_patches in enumerate(is_shown.sum(1).tolist()):
        notes.append([])
        if not num_patches:
            continue
        if classes[unit] >= 0:
            name = class_name(int(classes[unit]), page.class_names)
            notes[-1].append(f"{int(counts[unit])} of {int(is_counted[unit].sum())}: {name}")
        if (num_drawn := int(is_drawn[unit].sum())) > 0:
            ties = int(top.ties[unit][is_drawn[unit]][0])
            notes[-1].append(f"{num_drawn} drawn from {ties:,} equally strong")
        if page.has_flat_zero:
            share = 100 * int(fired[unit]) / max(page.num_samples, 1)
            notes[-1].append(f"fires for {share:.{int(share < 10)}f} % of images")
        if kept is not None and page.step_before is not None:
            notes[-1].append(f"{kept[unit]} of {num_patches} as at step {page.step_before:,}")
    return notes


def _missing(page: PatchPage, num_ignored: int) -> str:
    num_seen = page.num_samples - num_ignored
    if not num_seen:
        return "no image with finite values"
    return f"dead: 0 everywhere in all {num_seen:,} images" if page.has_flat_zero else "no patch"


def _caption(top_k: int, counts: Sequence[int], num_ignored: int, page: PatchPage) -> list[str]:
    can_be_dead = page.has_flat_zero and num_ignored < page.num_samples
    dead = f"{counts.count(0)} of {len(counts)} units are dead" if 0 in counts else ""
    ignored = f"{num_ignored:,} images with values that are not finite are left out"
    border = "border: the image's class" if page.has_labels else ""
    return [
        f"{page.layer}: the {top_k} patches that excite each unit most, among "
        f"{page.num_samples:,} images, step {page.step:,}",
        _of_field(page),
        "; ".join(filter(None, (_of_units(page), border, dead if can_be_dead else ""))),
        ignored if num_ignored else "",
        "the middle slice of each volume is shown" if page.is_volume else "",
    ]


def _of_units(page: PatchPage) -> str:
    """Returns how the units were chosen."""
    choice, among = page.choice, len(page.candidates)
    pool = f"{among:,}" if among == page.num_units else f"{among:,} (drawn) of {page.num_units:,}"
    if choice.units == "strongest":
        return f"units: those with the largest activation, of {pool}"
    if choice.units == "selective":
        return f"units: the most selective for each class in turn, of {pool}"
    if choice.units == "random" and among < page.num_units:
        return f"units: {among} of {page.num_units:,}, drawn once (seed {choice.seed})"
    return f"units: {among:,} of {page.num_units:,}"


def _of_field(page: PatchPage) -> str:
    """Returns what a patch is: the receptive field, or why it is the whole image."""
    field = page.field
    if field is None:
        return "whole images: the receptive field could not be measured"
    if field.is_global:
        return f"whole images: each unit sees all of it ({field.reason})"
    sizes = " x ".join(
        "all" if axis is None else f"{axis.size:,}" if axis.pattern else f"at least {axis.size:,}"
        for axis in field.axes
    )
    strides = " x ".join("-" if stride is None else f"{stride:g}" for stride in field.stride)
    words = f"receptive field {sizes} px, stride {strides} px"
    ending = " (the box)" if page.is_whole else "; grey-blue: beyond the image's border"
    return "; ".join([words + ending, *field.notes])
