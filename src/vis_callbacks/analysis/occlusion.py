"""Occlusion: what the network says while a square hides a part of the image.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014, figure 7).
The network enters as a function; nothing here knows how it is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis import saliency_maps
from vis_callbacks.analysis.occlusion_plan import COARSE_STEP, OcclusionPlan, every

Baseline = Literal["mean", "blur"] | float
Measure = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class OcclusionMaps:
    """What was measured with the square at each position.

    Attributes:
        plan: Where the positions lie.
        values: (images, rows, columns, quantities). A position that was not measured itself
            holds the value of the nearest one that was measured at first.
        whole: (images, quantities), of the images without a square.
        is_measured: (images, rows, columns).
    """

    plan: OcclusionPlan
    values: Tensor
    whole: Tensor
    is_measured: Tensor


def baseline_images(images: Tensor, baseline: Baseline, window_size: int) -> Tensor:
    """Returns what the square shows instead of the image, broadcastable to ``images``.

    Args:
        images: (samples, channels, height, width), or (samples, height, width).
        baseline: ``"mean"``: of each channel, over all these images: the grey of Zeiler and
            Fergus. ``"blur"``: the image itself without its details, which leaves no edge of a
            square for the network to see. A number: that value, in units of the input.
        window_size: The blur's standard deviation is half of it.

    Raises:
        ValueError: ``baseline`` is none of these.
    """
    if isinstance(baseline, str):
        if baseline == "mean":
            axes = (0, images.dim() - 2, images.dim() - 1)
            return images.double().mean(axes, keepdim=True).to(images.dtype)
        if baseline == "blur":
            return blurred(images, window_size / 2)
        raise ValueError(f'baseline="{baseline}" is none. Use "mean", "blur" or a number.')
    return torch.full_like(images[:1], baseline)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Returns the images under a Gaussian of ``sigma`` pixels, borders repeated.

    Args:
        images: (..., height, width).
        sigma: Standard deviation in pixels; 0 changes nothing.
    """
    if sigma <= 0:
        return images
    height, width = images.shape[-2:]
    planes = images.reshape(-1, 1, height, width)
    dtype = planes.dtype if planes.is_floating_point() else torch.float32
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    smooth = F.pad(planes.to(dtype), (radius,) * 4, mode="replicate")
    smooth = F.conv2d(smooth, kernel.view(1, 1, -1, 1))
    smooth = F.conv2d(smooth, kernel.view(1, 1, 1, -1))
    return smooth.reshape(images.shape).to(images.dtype)


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

    Where a probability falls, the network needed what was hidden. What one square cannot show:
    evidence that stands in two places, either of which is enough.

    Args:
        measure: (rows, ...) images with a square and (rows,) indices of the images they were
            made of, to (rows, quantities): any numbers, such as the probability of each
            image's own class. A refinement looks where the first of them falls.
        images: (images, channels, height, width), or (images, height, width); of more than the
            plan has, the first ones.
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
    if tuple(images.shape[-2:]) != plan.image_size:
        raise ValueError(
            f"images of {tuple(images.shape[-2:])} pixels do not fit a plan for "
            f"{plan.image_size}. Give plan_occlusion their height and width."
        )
    images = images[: plan.num_images]
    hidden = baseline_images(images, baseline, plan.window_size).expand_as(images)
    work = _Work(measure, images, hidden, plan, batch_size, progress or (lambda count: None))
    whole = work.measure_whole()
    shape = (len(images), len(plan.tops), len(plan.lefts))
    values = whole.new_zeros((*shape, whole.shape[1]))
    is_measured = torch.zeros(shape, dtype=torch.bool, device=images.device)
    owners, rows, columns = _all_pairs(len(images), plan.coarse_places, images.device)
    values[owners, rows, columns] = work.measure_at(owners, rows, columns)
    is_measured[owners, rows, columns] = True
    if plan.num_refined:
        coarse = values[:, every(shape[1], COARSE_STEP)][:, :, every(shape[2], COARSE_STEP)]
        owners, rows, columns = _promising(whole, coarse, is_measured, plan.num_refined)
        values = _nearest(coarse, shape[1:])
        values[owners, rows, columns] = work.measure_at(owners, rows, columns)
        is_measured[owners, rows, columns] = True
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

    def measure_at(self, owners: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Returns (places, quantities), the square of each at its position."""
        tops = torch.tensor(self.plan.tops, device=rows.device)[rows]
        lefts = torch.tensor(self.plan.lefts, device=columns.device)[columns]
        chunks = zip(
            *(torch.split(part, self.batch_size) for part in (owners, tops, lefts)), strict=True
        )
        return torch.cat([self._told(self._with_square(*c), c[0]) for c in chunks])

    def _told(self, inputs: Tensor, owners: Tensor) -> Tensor:
        measured = self.measure(inputs, owners)
        self.progress(len(owners))
        return measured

    def _with_square(self, owners: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
        height, width = self.plan.image_size
        in_rows = _within_window(height, tops, self.plan.window_size)
        in_columns = _within_window(width, lefts, self.plan.window_size)
        square = in_rows[:, :, None] & in_columns[:, None, :]  # (places, height, width)
        if self.images.dim() == 4:
            square = square.unsqueeze(1)
        return torch.where(square, self.hidden[owners], self.images[owners])


def _within_window(length: int, starts: Tensor, window: int) -> Tensor:
    """Returns (places, length), True where the window of each place lies."""
    pixels = torch.arange(length, device=starts.device)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + window)


def _all_pairs(
    num_images: int, places: Iterable[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns image, row and column of every image with every place."""
    table = torch.tensor(list(places), device=device)  # (places, 2)
    owners = torch.arange(num_images, device=device).repeat_interleave(len(table))
    rows, columns = table.repeat(num_images, 1).unbind(1)
    return owners, rows, columns


def _promising(
    whole: Tensor, coarse: Tensor, is_measured: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns image, row and column of the ``count`` places an image to measure next."""
    num_images, num_rows, num_columns = is_measured.shape
    fall = whole[:, None, None, 0] - coarse[..., 0]
    by_row = _weights(num_rows, fall)
    by_column = _weights(num_columns, fall)
    promised = by_row @ fall @ by_column.T
    promised = promised.masked_fill(is_measured, -math.inf).flatten(1)
    best = promised.topk(count, dim=1).indices.flatten()
    owners = torch.arange(num_images, device=best.device).repeat_interleave(count)
    return owners, best // num_columns, best % num_columns


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


def _nearest(coarse: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns (images, rows, columns, quantities) with each place as its nearest coarse one."""
    rows, columns = (_nearest_coarse(length) for length in size)
    return coarse[:, rows][:, :, columns].clone()


def _nearest_coarse(length: int) -> list[int]:
    places = every(length, COARSE_STEP)
    return [
        min(range(len(places)), key=lambda index: abs(places[index] - place))
        for place in range(length)
    ]


def effective_area(falls: Tensor) -> Tensor:
    """Returns the share of positions that carry the falls, (images,): 1 if all alike.

    (sum f)^2 / (positions x sum f^2) over the falls f above 0, as for activation maps; NaN
    where nothing falls.

    Args:
        falls: (images, rows, columns), the value without a square less that with it.
    """
    return saliency_maps.effective_area(falls.clamp(min=0))
