"""Top-activating patches: the places in a data set that excite a unit most.

All of it works on the device without waiting for it, in memory that depends on the number of
units and of patches and not on that of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.byte_images import ByteImages
from vis_callbacks.monitors.embedding.reductions import mixed

_HEADER_WORDS = 18  # an even number: records are moved eight bytes at a time
_HEADER_BYTES = 4 * _HEADER_WORDS
_NO_SAMPLE = 2**31 - 1  # behind all others where values are equal

# Two patches of one image show the same thing if they share more than this of their union;
# the usual threshold of non-maximum suppression (Girshick et al. 2014).
MAX_OVERLAP = 0.3


@dataclass(frozen=True, kw_only=True)
class TopPatches:
    """The strongest activations of some units, best first, and what lies under them.

    All are (units, k), and (units, k, 4) what is a box: top, left, bottom and right in pixels
    of the input, the last two behind the end.

    Attributes:
        values: float32; minus infinity where there are fewer than k.
        concentrations: float32, see `concentration`.
        samples: int32, the sample's number.
        labels: int32; -1 where none is known.
        positions: int32, among the layer's positions.
        boxes: int32, what the position sees.
        regions: int32, what the kept pixels show.
        factors: int32, each kept pixel is the mean of so many in height and width.
        ties: int32, how many of all patches that were read have exactly this value.
        low, steps: float32, ``low + steps * pixels`` are the input's values.
        pixels: (units, k, 1 or 3, side, side) uint8; the region lies in the upper left.
    """

    values: Tensor
    concentrations: Tensor
    low: Tensor
    steps: Tensor
    samples: Tensor
    labels: Tensor
    positions: Tensor
    factors: Tensor
    ties: Tensor
    boxes: Tensor
    regions: Tensor
    pixels: Tensor

    def rows(self, index: Tensor) -> TopPatches:
        """Returns the patches of these rows."""
        return TopPatches(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


_FLOATS = ("values", "concentrations", "low", "steps")
_INTEGERS = ("samples", "labels", "positions", "factors", "ties")
_VALUE, _SAMPLE, _POSITION, _TIES = 0, 4, 6, 8  # their words
_BOXES = len(_FLOATS) + len(_INTEGERS)


def concentration(values: Tensor) -> Tensor:
    """Returns how much of a unit's activation in a sample lies in one place, (samples, units).

    1 minus the effective area ``(sum |h|)**2 / (positions * sum h**2)``: 0 where it is spread
    evenly, nearly 1 where it sits in one point; NaN where it is zero, or there is one position.

    Args:
        values: (samples, units, positions).
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

    Both are (samples, units, per_sample). Of equal values the first position counts. After
    each one, positions whose boxes overlap it by more than `MAX_OVERLAP` are suppressed; what
    is then missing is minus infinity.

    Args:
        values: (samples, units, positions).
        per_sample: More than 1 needs boxes.
        boxes: (positions, 4), what each position sees.
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
    by_unit = _padded(best[drawn].transpose(0, 1).flatten(1), top_k)  # sample by sample
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
        samples=torch.where(is_there, numbers, _NO_SAMPLE),
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


def lots(samples: Tensor, seed: int = 0) -> Tensor:
    """Returns (...) int64 lots of samples, by their numbers: the lower is drawn first.

    A lot depends on nothing but the number and the seed, so the same samples are drawn from
    batches of any size, in any order and on any ranks; and no random stream is moved.
    """
    return mixed(mixed(samples.long()) + seed)


def _padded(values: Tensor, least: int) -> Tensor:
    """Returns values (units, n) with n at least so large."""
    return F.pad(values, (0, max(0, least - values.shape[1])), value=-math.inf)


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


def merged(old: Tensor, new: Tensor, *, top_k: int, seed: int = 0) -> Tensor:
    """Returns the best of two sets of packed patches of the same units, packed again."""
    if not len(old):
        return old
    if old.shape[3] != new.shape[3]:  # images of several sizes
        side = max(_side_of(old), _side_of(new))
        old, new = (packed(_with_side(unpacked(records), side)) for records in (old, new))
    joined, num_old = torch.cat([_header_of(old), _header_of(new)], 1), old.shape[1]
    order = _best_first(joined, seed)[:, :top_k]
    # Never both sets in one tensor: they may be megabytes, and this is done for each batch.
    of_old = _taken(old, order.clamp_max(num_old - 1)).view(torch.int64)
    of_new = _taken(new, (order - num_old).clamp_min(0)).view(torch.int64)
    is_new = (order >= num_old)[..., None, None]
    best = torch.where(is_new, of_new, of_old).view(torch.uint8)
    ties = _ties(joined, order, num_old).unsqueeze(2).contiguous().view(torch.uint8)
    best[:, :, 0, 4 * _TIES : 4 * _TIES + 4] = ties
    return best


def _values_of(header: Tensor) -> Tensor:
    return header[..., _VALUE].contiguous().view(torch.float32)


def _best_first(header: Tensor, seed: int) -> Tensor:
    """Returns the order of each unit's patches: large values, samples by lot, low positions."""
    order = header[..., _POSITION].argsort(dim=1, stable=True)
    for key, is_falling in ((lots(header[..., _SAMPLE], seed), False), (_values_of(header), True)):
        sorted_so_far = key.gather(1, order)
        order = order.gather(1, sorted_so_far.argsort(dim=1, descending=is_falling, stable=True))
    return order


def _ties(header: Tensor, order: Tensor, num_old: int) -> Tensor:
    """Returns how many patches of both sets together have the value of those chosen.

    A set that has a patch of the value tells how many it has; one that has none of it among
    its best had none that could be chosen, for all that it left out is smaller.
    """
    values = _values_of(header)
    is_same = values.gather(1, order).unsqueeze(2) == values.unsqueeze(1)  # (units, k, patches)
    counts = torch.where(is_same, header[..., _TIES].unsqueeze(1), 0)
    return counts[:, :, :num_old].amax(2) + counts[:, :, num_old:].amax(2)


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """Returns values (units, n, ...) in an order (units, k): whole rows, which copy fast."""
    first = torch.arange(len(values), device=values.device).unsqueeze(1) * values.shape[1]
    rows = values.flatten(0, 1).index_select(0, (first + order).flatten())
    return rows.view(*order.shape, *values.shape[2:])


def _header_of(records: Tensor) -> Tensor:
    return records[:, :, 0, :_HEADER_BYTES].contiguous().view(torch.int32)


def _side_of(records: Tensor) -> int:
    return math.isqrt(records.shape[3] - _HEADER_BYTES)


def _with_side(top: TopPatches, side: int) -> TopPatches:
    missing = side - top.pixels.shape[-1]
    return replace(top, pixels=F.pad(top.pixels, (0, missing, 0, missing))) if missing else top


def packed(top: TopPatches) -> Tensor:
    """Returns the patches as one tensor of bytes, (units, k, channels, 72 + side * side).

    A merge over batches and ranks is given one tensor, and what belongs together must not be
    torn apart. The first 72 bytes of the first channel hold all but the pixels. The side is
    rounded up to a multiple of 4, so that a record can be moved eight bytes at a time.
    """
    side = top.pixels.shape[-1]
    top = _with_side(top, side + -side % 4)
    words = [getattr(top, name).float().view(torch.int32) for name in _FLOATS]
    words += [getattr(top, name).int() for name in _INTEGERS]
    header = torch.cat([torch.stack(words, -1), top.boxes.int(), top.regions.int()], -1)
    header = F.pad(header, (0, _HEADER_WORDS - header.shape[-1]))
    as_header = header.contiguous().view(torch.uint8).unsqueeze(2)  # (units, k, 1, 72)
    num_channels = top.pixels.shape[2]
    padding = as_header.new_zeros(*as_header.shape[:2], num_channels - 1, _HEADER_BYTES)
    return torch.cat([torch.cat([as_header, padding], 2), top.pixels.flatten(3)], 3)


def unpacked(records: Tensor) -> TopPatches:
    """Returns what was `packed`."""
    header = _header_of(records)
    words: Sequence[Tensor] = header.unbind(-1)
    side = _side_of(records)
    numbers = len(_FLOATS)
    return TopPatches(
        **{n: words[i].contiguous().view(torch.float32) for i, n in enumerate(_FLOATS)},
        **{n: words[numbers + i] for i, n in enumerate(_INTEGERS)},
        boxes=header[..., _BOXES : _BOXES + 4],
        regions=header[..., _BOXES + 4 : _BOXES + 8],
        pixels=records[..., _HEADER_BYTES:].reshape(*records.shape[:3], side, side),
    )


def drawn_by_lot(top: TopPatches, is_shown: Tensor) -> Tensor:
    """Returns (units, k) whether a patch is shown in place of others that are as strong.

    A unit that is saturated in more images than are shown answers to all of them alike; what
    the few have in common says nothing of it.
    """
    same = (top.values.unsqueeze(2) == top.values.unsqueeze(1)) & is_shown.unsqueeze(1)
    return is_shown & (top.ties > same.sum(2))


def class_purity(labels: Tensor, is_shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns by unit the most common class, how many patches have it, and their share.

    The class is the first met of equally common ones; -1, 0 and NaN where no label is known.

    Args:
        labels: (units, k); below 0: not known.
        is_shown: (units, k) whether there is a patch.
    """
    is_known = is_shown & (labels >= 0)
    same = (labels.unsqueeze(2) == labels.unsqueeze(1)) & is_known.unsqueeze(1)
    counts = torch.where(is_known, same.sum(2), 0)
    most, place = counts.max(1)
    classes = labels.gather(1, place.unsqueeze(1)).squeeze(1)
    return torch.where(most > 0, classes, -1), most, most / is_known.sum(1)


def selective_order(classes: Tensor, counts: Tensor) -> Tensor:
    """Returns the order of units in which each class in turn has its most selective one.

    Without turns, all of the first would be of the class that is told apart most easily.

    Args:
        classes: (units,) the most common class of each unit's patches.
        counts: (units,) how many of its patches have it.
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
