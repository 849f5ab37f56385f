"""Occlusion: what the network says while a square hides a part of the image.

Of a signal a window in time is hidden, of a volume or a video a cube: an input has any number
of axes of places.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014, figure 7).
The network enters as a function; nothing here knows how it is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.occlusion_plan import COARSE_STEP, OcclusionPlan, every
from vis_callbacks.monitors.saliency import science

Baseline = Literal["mean", "blur"] | float | Sequence[float]
Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class OcclusionMaps:
    """What was measured with the square at each position.

    Attributes:
        plan: Where the positions lie.
        values: (images, *positions, quantities), an axis of positions for each of places. A
            position that was not measured itself holds the value of the nearest one that was
            measured at first.
        whole: (images, quantities), of the images without a square.
        is_measured: (images, *positions).
    """

    plan: OcclusionPlan
    values: Tensor
    whole: Tensor
    is_measured: Tensor


def baseline_images(images: Tensor, baseline: Baseline | str, window_size: int) -> Tensor:
    """Returns what the square shows instead of the image, broadcastable to ``images``.

    Args:
        images: (samples, channels, *places).
        baseline: ``"mean"``: of each channel, over all these images: the grey of Zeiler and
            Fergus. ``"blur"``: the image itself without its details, which leaves no edge of a
            square for the network to see. A number, or one for each channel: that value or
            colour, in units of the input.
        window_size: The blur's standard deviation is half of it.

    Raises:
        ValueError: ``baseline`` is none of these, or has not one number for each channel.
    """
    if baseline == "mean":
        axes = [0, *range(2, images.dim())]
        return images.double().mean(axes, keepdim=True).to(images.dtype)
    if baseline == "blur":
        return blurred(images, window_size / 2)
    if isinstance(baseline, str):
        raise ValueError(
            f'baseline="{baseline}" is none of the choices. Use "mean", "blur", a number or one '
            "for each channel."
        )
    if not isinstance(baseline, Sequence):
        return torch.full_like(images[:1], baseline)
    if len(baseline) != images.shape[1]:
        raise ValueError(
            f"baseline={baseline!r} has {len(baseline)} numbers, but the inputs have "
            f"{images.shape[1]} channels. Give one number for each, or one for all of them."
        )
    colour = torch.tensor(baseline, dtype=torch.float64, device=images.device)
    return colour.to(images.dtype).view(1, -1, *[1] * (images.dim() - 2)).expand_as(images[:1])


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Returns the images under a Gaussian of ``sigma`` pixels, borders repeated.

    Args:
        images: (samples, channels, *places).
        sigma: Standard deviation in pixels; 0 changes nothing.
    """
    if sigma <= 0:
        return images
    dtype = images.dtype if images.is_floating_point() else torch.float32
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    smooth = images.to(dtype)
    for axis in range(2, images.dim()):
        lines = smooth.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        smooth = F.conv1d(padded, kernel).view(lines.shape).movedim(-1, axis)
    return smooth.to(images.dtype)


@torch.no_grad()
def occlude(
    measure: Measure,
    images: Tensor,
    plan: OcclusionPlan,
    baseline: Baseline = "mean",
    *,
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> OcclusionMaps:
    """Returns what is measured while a square hides a part of each image.

    Where a probability falls, the network needed what was hidden; where it rises, that had
    misled it. What one square cannot show: evidence that stands in two places, either of which
    is enough.

    Args:
        measure: (rows, ...) images with a square and (rows,) indices of the images they were
            made of, to (rows, quantities): any numbers, such as the probability of each
            image's own class. A refinement looks where the first of them changes most.
        images: (images, channels, *places); of more than the plan has, the first ones.
        plan: From `plan_occlusion`.
        baseline: See `baseline_images`.
        batch_size: Images with a square that go through the network at a time; they are made
            as they are needed, so this bounds the memory.
        progress: Told the number of forward passes after each of these batches.

    Raises:
        ValueError: The images have another size than the plan.

    Example:
        >>> def probability(inputs, owners):
        ...     return inputs.mean((1, 2, 3))[:, None]
        >>> plan = plan_occlusion((8, 8), num_images=1, window_size=4, stride=4)
        >>> occlude(probability, torch.ones(1, 3, 8, 8), plan, 0.0).values[0, :, :, 0]
        tensor([[0.7500, 0.7500],
                [0.7500, 0.7500]])

    References:
        Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014,
        section 4.2.
    """
    if tuple(images.shape[2:]) != plan.image_size:
        raise ValueError(
            f"images of {tuple(images.shape[2:])} pixels do not fit a plan for "
            f"{plan.image_size}. Give plan_occlusion the sizes behind samples and channels."
        )
    images = images[: plan.num_images]
    hidden = baseline_images(images, baseline, plan.window_size).expand_as(images)
    work = _Work(measure, images, hidden, plan, batch_size, progress or (lambda count: None))
    whole = work.measure_whole()
    shape = (len(images), *plan.num_along)
    values = whole.new_zeros((*shape, whole.shape[1]))
    is_measured = torch.zeros(shape, dtype=torch.bool, device=images.device)
    places = _all_pairs(len(images), plan.coarse_places, images.device)
    values[places] = work.measure_at(*places)
    is_measured[places] = True
    if plan.num_refined:
        coarse = values
        for axis, length in enumerate(plan.num_along, start=1):
            kept = torch.tensor(every(length, COARSE_STEP), device=images.device)
            coarse = coarse.index_select(axis, kept)
        places = _promising(whole, coarse, is_measured, plan.num_refined)
        values = _nearest(coarse, plan.num_along)
        values[places] = work.measure_at(*places)
        is_measured[places] = True
    return OcclusionMaps(plan=plan, values=values, whole=whole, is_measured=is_measured)


@dataclass(frozen=True)
class _Work:
    """Makes images with a square and has them measured, a batch at a time."""

    measure: Measure
    images: Tensor
    hidden: Tensor
    plan: OcclusionPlan
    batch_size: int
    progress: Callable[[int], object]

    def measure_whole(self) -> Tensor:
        """Returns (images, quantities) of the images as they are."""
        owners = torch.arange(len(self.images), device=self.images.device)
        parts = [
            self._told(self.images[part], part) for part in torch.split(owners, self.batch_size)
        ]
        return torch.cat(parts)

    def measure_at(self, owners: Tensor, *indices: Tensor) -> Tensor:
        """Returns (positions, quantities), the square of each at its indices along each axis."""
        starts = [
            torch.tensor(offsets, device=index.device)[index]
            for offsets, index in zip(self.plan.offsets, indices, strict=True)
        ]
        chunks = zip(
            *(torch.split(part, self.batch_size) for part in (owners, *starts)), strict=True
        )
        return torch.cat([self._told(self._with_square(*c), c[0]) for c in chunks])

    def _told(self, inputs: Tensor, owners: Tensor) -> Tensor:
        measured = self.measure(inputs, owners)
        self.progress(len(owners))
        return measured

    def _with_square(self, owners: Tensor, *starts: Tensor) -> Tensor:
        square = torch.ones((), dtype=torch.bool, device=owners.device)
        num_axes = len(starts)
        for axis, (length, window) in enumerate(
            zip(self.plan.image_size, self.plan.window, strict=True)
        ):
            shape = [1] * (2 + num_axes)
            shape[0], shape[2 + axis] = len(owners), length
            square = square & _within_window(length, starts[axis], window).view(shape)
        return torch.where(square, self.hidden[owners], self.images[owners])


def _within_window(length: int, starts: Tensor, window: int) -> Tensor:
    """Returns (places, length), True where the window of each place lies."""
    pixels = torch.arange(length, device=starts.device)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)


def _all_pairs(
    num_images: int, places: Iterable[tuple[int, ...]], device: torch.device
) -> tuple[Tensor, ...]:
    """Returns the image, and the index along each axis, of every image with every place."""
    table = torch.tensor(list(places), device=device)  # (places, axes)
    owners = torch.arange(num_images, device=device).repeat_interleave(len(table))
    return owners, *table.repeat(num_images, 1).unbind(1)


def _promising(
    whole: Tensor, coarse: Tensor, is_measured: Tensor, count: int
) -> tuple[Tensor, ...]:
    """Returns image and indices of the ``count`` places an image to measure next.

    Those where the first quantity is likely to fall, or to rise, most.
    """
    sizes = is_measured.shape[1:]
    change = coarse[..., 0] - whole[:, 0].view(-1, *[1] * len(sizes))
    for axis, length in enumerate(sizes, start=1):
        change = torch.tensordot(change, _weights(length, change), ([axis], [1])).movedim(-1, axis)
    promised = change.abs().masked_fill(is_measured, -math.inf).flatten(1)
    best = promised.topk(count, dim=1).indices.flatten()
    owners = torch.arange(len(whole), device=best.device).repeat_interleave(count)
    return owners, *torch.unravel_index(best, sizes)


def _weights(length: int, like: Tensor) -> Tensor:
    """Returns (length, coarse), the linear interpolation from the coarse places."""
    places = every(length, COARSE_STEP)
    weights = torch.zeros(length, len(places), dtype=like.dtype)
    for index, (left, right) in enumerate(pairwise(places)):
        for place in range(left, right):
            share = (place - left) / (right - left)
            weights[place, index], weights[place, index + 1] = 1 - share, share
    weights[-1, -1] = 1
    return weights.to(like.device)


def _nearest(coarse: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Returns (images, *positions, quantities) with each place as its nearest coarse one."""
    for axis, length in enumerate(sizes, start=1):
        nearest = torch.tensor(_nearest_coarse(length), device=coarse.device)
        coarse = coarse.index_select(axis, nearest)
    return coarse


def _nearest_coarse(length: int) -> list[int]:
    places = every(length, COARSE_STEP)
    return [
        min(range(len(places)), key=lambda index: abs(places[index] - place))
        for place in range(length)
    ]


def effective_area(falls: Tensor) -> Tensor:
    """Returns the share of positions that carry the falls, (images,): 1 if all are equal.

    (sum f)^2 / (positions x sum f^2) over the falls f above 0, as for activation maps; NaN
    where nothing falls.

    Args:
        falls: (images, *positions), the value without a square less that with it.
    """
    return science.effective_area(falls.clamp(min=0))
