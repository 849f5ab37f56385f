"""Top-activating patches: the places in a data set that excite a unit most.

All of it works on the device without waiting for it, in memory that depends on the number of
units and of patches and not on that of the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.monitors.top_patches.records import NO_SAMPLE, TopPatches, lots
from vis_callbacks.pictures.inputs import as_image_planes

# Two patches of one image show the same thing if they share more than this of their union;
# the usual threshold of non-maximum suppression (Girshick et al. 2014).
MAX_OVERLAP = 0.3
_MIN_STEP = 1e-30


@dataclass(frozen=True, kw_only=True)
class ByteImages:
    """A batch of inputs as pictures of one byte a value, each with a scale of its own.

    Attributes:
        pixels: (samples, 1 or 3, height, width) uint8; ``low + step * pixels`` are the values.
        low, step: (samples,).
        is_finite: (samples,) False where a value of the input is NaN or infinite.
        factor: Each pixel is the mean of so many pixels of the input in height and width.
        size: Height and width of the input.
    """

    pixels: Tensor
    low: Tensor
    step: Tensor
    is_finite: Tensor
    factor: int
    size: tuple[int, int]


def as_pictures(inputs: Tensor) -> Tensor:
    """Returns inputs as (samples, 1 or 3, height, width): what can be seen of them."""
    planes = cast(Tensor, as_image_planes(cast(Any, inputs))[0])  # it slices tensors like arrays
    return planes if planes.shape[1] in (1, 3) else planes.float().mean(1, keepdim=True)


def as_bytes(inputs: Tensor, factor: int = 1) -> ByteImages:
    """Returns inputs as bytes, averaged over ``factor`` x ``factor`` pixels."""
    pictures = as_pictures(inputs).float()
    size = (pictures.shape[2], pictures.shape[3])
    is_finite = inputs.isfinite().flatten(1).all(1)
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor, ceil_mode=True, count_include_pad=False)
    pictures = pictures.nan_to_num(0, 0, 0)
    low, high = torch.aminmax(pictures.flatten(1), dim=1)
    step = (high - low) / 255
    scaled = (pictures - low.view(-1, 1, 1, 1)) / step.clamp_min(_MIN_STEP).view(-1, 1, 1, 1)
    return ByteImages(
        pixels=scaled.round_().to(torch.uint8),
        low=low,
        step=step,
        is_finite=is_finite,
        factor=factor,
        size=size,
    )


def factor_and_side(extent: int, limit: int) -> tuple[int, int]:
    """Returns by what to average the extent, and the side of the square that then holds it."""
    if extent <= limit:
        return 1, extent
    factor = math.ceil(extent / (limit - 1))
    return factor, math.ceil(extent / factor) + 1  # a region begins within an averaged pixel


def concentration(values: Tensor) -> Tensor:
    """Returns how much of a unit's activation in a sample lies in one place, (samples, units).

    1 minus the effective area ``(sum |h|)**2 / (positions * sum h**2)``: 0 where it is spread
    evenly, nearly 1 where it sits in one point; NaN where it is zero, or there is one position.
    """
    num_positions = values.shape[2]
    if num_positions < 2:
        return values.new_full(values.shape[:2], math.nan)
    spread = values.abs().sum(2).square() / (num_positions * values.square().sum(2))
    return 1 - spread


def strongest_places(
    values: Tensor, per_sample: int, boxes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the largest values of each unit in each sample, and their positions.

    Both are (samples, units, per_sample), of values (samples, units, positions). Of equal values
    the first position counts. After each one, positions whose boxes (positions, 4) overlap it by
    more than `MAX_OVERLAP` are suppressed; what is then missing is minus infinity.
    """
    best, place = values.max(dim=2)
    found = [(best, place)]
    while len(found) < per_sample and boxes is not None:
        shared = overlap_of_boxes(boxes[place].unsqueeze(2), boxes)  # (samples, units, positions)
        values = values.masked_fill(shared > MAX_OVERLAP, -math.inf)
        best, place = values.max(dim=2)
        found.append((best, place))
    return torch.stack([v for v, _ in found], 2), torch.stack([p for _, p in found], 2)


def overlap_of_boxes(one: Tensor, other: Tensor) -> Tensor:
    """Returns the share of their union that boxes (..., 4) have in common."""
    top_left = torch.maximum(one[..., :2], other[..., :2])
    bottom_right = torch.minimum(one[..., 2:], other[..., 2:])
    common = (bottom_right - top_left).clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (one, other)]
    return common / (areas[0] + areas[1] - common).clamp_min(1)


def finite_samples(values: Tensor, images: ByteImages) -> Tensor:
    """Returns (samples,) whether all values of the input and of these units are finite."""
    return images.is_finite & values.isfinite().flatten(1).all(1)


def top_patches(
    values: Tensor,
    images: ByteImages,
    *,
    samples: Tensor,
    is_valid: Tensor,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    keep_whole: bool = False,
    top_k: int,
    per_sample: int = 1,
    side: int,
    seed: int = 0,
) -> TopPatches:
    """Returns the patches of one batch that excite each unit most.

    Which of equally strong samples count is drawn by lot, see `lots`; of one sample it is the
    lower position.

    Args:
        values: (samples, units, positions).
        images: The same samples.
        samples: (samples,) their numbers, increasing.
        is_valid: (samples,) False for those to leave out, see `finite_samples`.
        labels: (samples,) classes.
        boxes: (positions, 4) what each position sees; None: the whole image.
        keep_whole: Keep the pixels of the whole image, not of the box alone.
        top_k: Patches a unit.
        per_sample: At most so many of one sample.
        side: Of the square of pixels that is kept.
        seed: Of the lots.
    """
    values = values.float()
    best, places = strongest_places(values, per_sample, boxes)
    best = best.masked_fill(~is_valid.view(-1, 1, 1), -math.inf)
    drawn, per_sample = lots(samples, seed).argsort(), best.shape[2]
    by_unit = best[drawn].transpose(0, 1).flatten(1)  # sample by sample
    by_unit = F.pad(by_unit, (0, max(0, top_k - by_unit.shape[1])), value=-math.inf)
    best, order = by_unit.sort(dim=1, descending=True, stable=True)
    ties = (best[:, None] == best[:, :top_k, None]).sum(2)
    best, order = best[:, :top_k], order[:, :top_k]
    is_there = best > -math.inf
    order = torch.where(is_there, order, 0)
    which = drawn[order // per_sample]
    positions = places[drawn].transpose(0, 1).flatten(1).gather(1, order)
    boxes_seen = _whole(images, positions) if boxes is None else boxes[positions].int()
    regions = _whole(images, positions) if keep_whole else _snapped(boxes_seen, images)
    spread = concentration(values).transpose(0, 1).gather(1, which)
    numbers = samples.int()[which]
    return TopPatches(
        values=best,
        concentrations=spread,
        low=images.low[which],
        steps=images.step[which],
        samples=torch.where(is_there, numbers, NO_SAMPLE),
        labels=torch.full_like(numbers, -1) if labels is None else labels.int()[which],
        positions=positions.int(),
        factors=torch.full_like(numbers, images.factor),
        ties=ties.int(),
        boxes=boxes_seen,
        regions=regions,
        pixels=(
            _whole_pixels(images, which, side)
            if keep_whole or boxes is None
            else _cut(images, which, regions, side)
        ),
    )


def _whole(images: ByteImages, like: Tensor) -> Tensor:
    height, width = images.size
    box = torch.zeros(4, dtype=torch.int32, device=like.device)
    box[2], box[3] = height, width
    return box.expand(*like.shape, 4)


def _snapped(boxes: Tensor, images: ByteImages) -> Tensor:
    """Returns the boxes grown to whole averaged pixels."""
    factor, (height, width) = images.factor, images.size
    if factor == 1:
        return boxes
    top_left = boxes[..., :2] // factor * factor
    bottom_right = -(-boxes[..., 2:] // factor) * factor
    bottom, right = bottom_right[..., 0].clamp_max(height), bottom_right[..., 1].clamp_max(width)
    return torch.cat([top_left, torch.stack([bottom, right], -1)], -1)


def _whole_pixels(images: ByteImages, which: Tensor, side: int) -> Tensor:
    height, width = images.pixels.shape[2:]
    square = F.pad(images.pixels, (0, side - width, 0, side - height))
    return square.index_select(0, which.flatten()).view(*which.shape, -1, side, side)


def _cut(images: ByteImages, which: Tensor, regions: Tensor, side: int) -> Tensor:
    """Returns the pixels of the regions, (units, k, channels, side, side)."""
    num_channels, height, width = images.pixels.shape[1:]
    steps = torch.arange(side, device=which.device)
    first = regions[..., :2].long() // images.factor
    rows = (first[..., 0, None] + steps).clamp_max(height - 1)  # (units, k, side)
    columns = (first[..., 1, None] + steps).clamp_max(width - 1)
    channels = torch.arange(num_channels, device=which.device)
    planes = (which.unsqueeze(2) * num_channels + channels)[..., None, None]
    places = (planes * height + rows[:, :, None, :, None]) * width + columns[:, :, None, None]
    # Three times as fast as indexing by five tensors.
    return images.pixels.flatten().index_select(0, places.flatten()).view(places.shape)


def drawn_by_lot(top: TopPatches, is_shown: Tensor) -> Tensor:
    """Returns (units, k) whether a patch is shown in place of others that are as strong.

    A unit that is saturated in more images than are shown answers to all of them alike; what
    the few have in common says nothing of it.
    """
    same = (top.values.unsqueeze(2) == top.values.unsqueeze(1)) & is_shown.unsqueeze(1)
    return is_shown & (top.ties > same.sum(2))


def class_purity(labels: Tensor, is_shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns by unit the most common class, how many patches have it, and their share.

    Labels, below 0 where they are not known, and ``is_shown`` are (units, k). The class is the
    first met of equally common ones; -1, 0 and NaN where no label is known.
    """
    is_known = is_shown & (labels >= 0)
    same = (labels.unsqueeze(2) == labels.unsqueeze(1)) & is_known.unsqueeze(1)
    counts = torch.where(is_known, same.sum(2), 0)
    most, place = counts.max(1)
    classes = labels.gather(1, place.unsqueeze(1)).squeeze(1)
    return torch.where(most > 0, classes, -1), most, most / is_known.sum(1)


def selective_order(classes: Tensor, counts: Tensor) -> Tensor:
    """Returns the order of units in which each class in turn has its most selective one.

    Without turns, all of the first would be of the class that is told apart most easily. The
    ``classes`` (units,) are the most common ones of their patches, ``counts`` how many have it.
    """
    by_count = counts.argsort(descending=True, stable=True)
    ranked = classes[by_count]
    turn = (ranked.unsqueeze(1) == ranked.unsqueeze(0)).tril(-1).sum(1)
    turn = torch.where(ranked < 0, len(ranked), turn)  # of no class: behind all others
    return by_count[turn.argsort(stable=True)]


def num_kept(samples: Tensor, before: Tensor, is_shown: Tensor) -> Tensor:
    """Returns by unit how many of the patches' samples were among those before."""
    is_old = (samples.unsqueeze(2) == before.unsqueeze(1)).any(2)
    return (is_old & is_shown).sum(1)
