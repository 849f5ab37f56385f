"""Drawing top-activating patches: from packed arrays on the host to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.analysis.receptive_field import ReceptiveField
from vis_callbacks.analysis.top_patches import (
    TopPatches,
    class_purity,
    drawn_by_lot,
    num_kept,
    unpacked,
)
from vis_callbacks.callbacks.top_patches.reader import UnitChoice
from vis_callbacks.render.colours import CLASS_COLOURS, NOT_MEASURED
from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.patch_rows import Patch, PatchRow, patch_rows
from vis_callbacks.render.text import Colour, Picture, class_name, number


@dataclass(frozen=True, kw_only=True)
class PatchPage:
    """What a picture must know beside its arrays.

    Attributes:
        layer: Its name.
        step: Of the snapshot.
        num_samples: All that have passed by.
        candidates: The units that were read, by row of the arrays.
        num_units: All units of the layer.
        choice: Which units were asked for.
        field: The layer's receptive field; None: it could not be read.
        has_flat_zero: Whether a unit can be silent.
        is_whole: Whether whole images are shown, with a box.
        has_labels: Whether samples have classes.
        is_volume: Whether samples have a depth, of which the middle slice is shown.
        step_before: Of the snapshot before; None: this is the first.
        class_names: By class.
        mean, std: What the inputs were normalised with.
    """

    layer: str
    step: int
    num_samples: int
    candidates: tuple[int, ...]
    num_units: int
    choice: UnitChoice
    field: ReceptiveField | None
    has_flat_zero: bool
    is_whole: bool
    has_labels: bool
    step_before: int | None
    class_names: tuple[str, ...]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    is_volume: bool = False

    def class_name(self, label: int) -> str:
        """Returns the name of a class, or its number; "" for none."""
        return "" if label < 0 else class_name(label, self.class_names)


def draw(
    records: np.ndarray,
    rows: np.ndarray,
    fired: np.ndarray,
    ignored: np.ndarray,
    before: np.ndarray | None = None,
    *,
    page: PatchPage,
) -> Picture:
    """Returns the picture of one layer: a row a unit.

    Args:
        records: (units, k, ...) packed patches.
        rows: (units,) their places among ``page.candidates``.
        fired: (units,) how many samples excite each.
        ignored: How many samples were left out.
        before: (units, k) the samples that were shown before.
        page: All else.
    """
    top = unpacked(torch.from_numpy(records))
    is_shown = top.values > (0 if page.has_flat_zero else -torch.inf)
    cuts, note = _cuts(top, is_shown, page)
    notes = _notes(top, is_shown, fired, before, page)
    drawn = [
        PatchRow(
            title=f"unit {page.candidates[int(place)]}",
            notes=notes[unit],
            patches=[
                _patch(cuts[unit, k], float(top.values[unit, k]), int(top.labels[unit, k]), page)
                for k in is_shown[unit].nonzero().flatten().tolist()
            ],
            missing=_missing(page, int(ignored)),
        )
        for unit, place in enumerate(rows.tolist())
    ]
    num_dead = int((~is_shown.any(1)).sum())
    caption = _caption(records.shape[1], num_dead, len(rows), int(ignored), note, page)
    return patch_rows(drawn, records.shape[1], caption)


Cut = tuple[Picture, tuple[int, int, int, int] | None]


def _cuts(
    top: TopPatches, is_shown: Tensor, page: PatchPage
) -> tuple[dict[tuple[int, int], Cut], str]:
    """Returns by unit and place what is shown, with its box; all by one scale."""
    index = is_shown.nonzero(as_tuple=True)
    if not len(index[0]):
        return {}, ""
    shown = to_uint8(_values(top, index, page))
    cuts = [
        _cut(image, box, region, factor, page.is_whole)
        for image, box, region, factor in zip(
            shown.images,
            top.boxes[index].tolist(),
            top.regions[index].tolist(),
            top.factors[index].tolist(),
            strict=True,
        )
    ]
    places = zip(index[0].tolist(), index[1].tolist(), strict=True)
    return dict(zip(places, cuts, strict=True)), shown.note


def _values(top: TopPatches, index: tuple[Tensor, ...], page: PatchPage) -> np.ndarray:
    """Returns the kept pixels as they were before the user normalised them."""
    low, step = (x[index].view(-1, 1, 1, 1) for x in (top.low, top.steps))
    mean = torch.tensor(page.mean or [0.0]).view(-1, 1, 1)
    std = torch.tensor(page.std or [1.0]).view(-1, 1, 1)
    values = (low + step * top.pixels[index].float()) * std + mean
    # What lies beyond the region was never in an image, and must not widen the scale.
    regions, side = top.regions[index], values.shape[-1]
    height, width = ((regions[:, i + 2] - regions[:, i]).view(-1, 1, 1, 1) for i in (0, 1))
    places = torch.arange(side) * top.factors[index].view(-1, 1, 1, 1)  # (patches, 1, 1, side)
    is_inside = (places.transpose(2, 3) < height) & (places < width)
    values = torch.where(is_inside, values, values[..., :1, :1])
    error = float((step * std).max())  # of a byte: it must not make 0 a little less
    if -error <= values.min() and values.max() <= 1 + error:
        values = values.clamp(0, 1)
    return values.numpy()


def _cut(image: Picture, box: list[int], region: list[int], factor: int, is_whole: bool) -> Cut:
    """Returns the box out of the kept pixels, or all of these and the box within them."""
    rows, columns = (-(-(region[i + 2] - region[i]) // factor) for i in (0, 1))
    top, left = ((box[i] - region[i]) // factor for i in (0, 1))
    bottom, right = (-(-(box[i + 2] - region[i]) // factor) for i in (0, 1))
    if is_whole:
        covers = (top, left, bottom, right) == (0, 0, rows, columns)
        return image[:rows, :columns], None if covers else (top, left, bottom, right)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)], None


def _patch(cut: Cut, value: float, label: int, page: PatchPage) -> Patch:
    labels = [number(value)] + ([page.class_name(label)] if page.has_labels else [])
    return Patch(picture=cut[0], box=cut[1], labels=labels, colour=_colour(label))


def _colour(label: int) -> Colour:
    return NOT_MEASURED if label < 0 else CLASS_COLOURS[label % len(CLASS_COLOURS)]


def _notes(
    top: TopPatches,
    is_shown: Tensor,
    fired: np.ndarray,
    before: np.ndarray | None,
    page: PatchPage,
) -> list[list[str]]:
    """Returns by unit what is said of it: its class, how often it fires, what has changed."""
    is_drawn = drawn_by_lot(top, is_shown)
    classes, counts, _ = class_purity(top.labels, is_shown & ~is_drawn)
    num_counted = (is_shown & ~is_drawn).sum(1).tolist()
    kept = None
    if before is not None and page.step_before is not None:
        kept = num_kept(top.samples, torch.from_numpy(before), is_shown).tolist()
    notes: list[list[str]] = []
    for unit, num_patches in enumerate(is_shown.sum(1).tolist()):
        notes.append([])
        if not num_patches:
            continue
        if classes[unit] >= 0:
            name = page.class_name(int(classes[unit]))
            notes[-1].append(f"{int(counts[unit])} of {num_counted[unit]}: {name}")
        if (num_drawn := int(is_drawn[unit].sum())) > 0:
            ties = int(top.ties[unit][is_drawn[unit]][0])
            notes[-1].append(f"{num_drawn} drawn of {ties:,} equally strong")
        if page.has_flat_zero:
            share = _percent(int(fired[unit]), page.num_samples)
            notes[-1].append(f"fires for {share} of images")
        if kept is not None:
            notes[-1].append(f"{kept[unit]} of {num_patches} as at step {page.step_before:,}")
    return notes


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(whole, 1)
    return f"{share:.1f} %" if share < 10 else f"{share:.0f} %"


def _missing(page: PatchPage, num_ignored: int) -> str:
    num_seen = page.num_samples - num_ignored
    if not num_seen:
        return "no image with finite values"
    return f"dead: 0 everywhere in all {num_seen:,} images" if page.has_flat_zero else "no patch"


def _caption(
    top_k: int, num_dead: int, num_rows: int, num_ignored: int, note: str, page: PatchPage
) -> list[str]:
    is_dead = num_dead and page.has_flat_zero and num_ignored < page.num_samples
    dead = f"{num_dead} of {num_rows} units are dead" if is_dead else ""
    ignored = f"{num_ignored:,} images with values that are not finite are left out"
    border = "border: the image's class" if page.has_labels else ""
    return [
        f"{page.layer}: the {top_k} patches that excite each unit most, among "
        f"{page.num_samples:,} images, step {page.step:,}",
        _of_field(page),
        "; ".join(part for part in (_of_units(page), border, dead) if part),
        ignored if num_ignored else "",
        "of each volume the middle slice is shown" if page.is_volume else "",
        note,
    ]


def _of_units(page: PatchPage) -> str:
    """Returns how the units were chosen."""
    choice, among = page.choice, len(page.candidates)
    pool = f"{among:,}" if among == page.num_units else f"{among:,} (drawn) of {page.num_units:,}"
    if choice.units == "strongest":
        return f"units: those with the largest activation, of {pool}"
    if choice.units == "selective":
        return f"units: of each class in turn the most selective, of {pool}"
    if choice.units == "random" and among < page.num_units:
        return f"units: {among} of {page.num_units:,}, drawn once (seed {choice.seed})"
    return f"units: {among:,} of {page.num_units:,}"


def _of_field(page: PatchPage) -> str:
    """Returns what a patch is: the receptive field, or why it is the whole image."""
    field = page.field
    if field is None:
        return "whole images: the receptive field could not be read"
    if field.is_global:
        return f"whole images: each unit sees all of it ({field.reason})"
    sizes = " x ".join("all" if size is None else f"{size:,}" for size in field.size)
    strides = " x ".join("-" if stride is None else f"{stride:g}" for stride in field.stride)
    words = f"receptive field {sizes} px, stride {strides} px, cut off at borders"
    if page.is_whole:
        words += " (the box)"
    return "; ".join([words, *field.notes])
