"""Top-activating patches as records of bytes, which merge over batches and ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.engine.sample_numbers import mixed

_HEADER_WORDS = 18  # an even number: records are moved eight bytes at a time
_HEADER_BYTES = 4 * _HEADER_WORDS
NO_SAMPLE = 2**31 - 1  # behind all others where values are equal


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


def lots(samples: Tensor, seed: int = 0) -> Tensor:
    """Returns (...) int64 lots of samples, by their numbers: the lower is drawn first.

    A lot depends on nothing but the number and the seed, so the same samples are drawn from
    batches of any size, in any order and on any ranks; and no random stream is moved.
    """
    return mixed(mixed(samples.long()) + seed)


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
    words = header.unbind(-1)
    side = _side_of(records)
    numbers = len(_FLOATS)
    return TopPatches(
        **{n: words[i].contiguous().view(torch.float32) for i, n in enumerate(_FLOATS)},
        **{n: words[numbers + i] for i, n in enumerate(_INTEGERS)},
        boxes=header[..., _BOXES : _BOXES + 4],
        regions=header[..., _BOXES + 4 : _BOXES + 8],
        pixels=records[..., _HEADER_BYTES:].reshape(*records.shape[:3], side, side),
    )
