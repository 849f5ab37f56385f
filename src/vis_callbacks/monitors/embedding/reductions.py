"""Samples as they pass by, reduced to what a map of them needs: on the device, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.engine.sample_numbers import mixed

_MAX_PIXELS = 32  # of a side of a kept image
_MAX_VALUES = 1_024  # of a kept input that is no image
_MAX_HASHED = 4_096  # values of a sample
_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SEED = 20_080_401


def target_values(labels: Tensor | None, num_samples: int, device: torch.device) -> Tensor:
    """Returns (samples,) float32 targets of a regression; NaN where there is no number."""
    if labels is not None and labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels is None or labels.shape != (num_samples,) or not labels.is_floating_point():
        return torch.full((num_samples,), math.nan, device=device)
    return labels.float().to(device)


def pooled(values: Tensor, *, class_token: bool = False) -> Tensor:
    """Returns (samples, units) in float32: the first position, or the mean over positions."""
    if class_token or values.shape[2] == 1:
        return values[:, :, 0].float()
    return values.mean(2, dtype=torch.float32)


def has_class_token(shape: Sequence[int], num_units: int, input_axes: int) -> bool:
    """Whether an activation of this shape holds the patches of an image and one token more.

    Only inputs with four axes are images: a text of 17 words has no 4 x 4 patches.
    """
    if len(shape) != 3 or shape[-1] != num_units or input_axes != 4:
        return False
    side = math.isqrt(shape[1] - 1) if shape[1] > 1 else 0
    return side > 1 and side * side + 1 == shape[1]


def projected(features: Tensor, num_dimensions: int) -> Tensor:
    """Returns features (samples, dimensions) in at most so many, with distances nearly kept.

    Each new dimension is a sum of old ones, chosen and signed at random from a fixed seed. The
    inner products are kept on average, and no large matrix is needed. (Charikar, Chen and
    Farach-Colton 2002, "Finding frequent items in data streams".)
    """
    size = features.shape[1]
    if size <= num_dimensions:
        return features
    generator = torch.Generator().manual_seed(_SEED)
    order = torch.randperm(size, generator=generator).to(features.device)
    signs = torch.randint(2, (size,), generator=generator).mul_(2).sub_(1)
    signed = features[:, order] * signs.to(device=features.device, dtype=features.dtype)
    padded = F.pad(signed, (0, -size % num_dimensions))
    return padded.view(len(features), padded.shape[1] // num_dimensions, num_dimensions).sum(1)


def fingerprints(inputs: Tensor, labels: Tensor) -> Tensor:
    """Returns (samples,) int64 that are equal for equal samples, in any batch.

    The bits of at most 4,096 values of a sample, each times a large odd number of its place, are
    summed in whole numbers. So neither the order of the sum nor the device matters.
    """
    rows = inputs.detach().reshape(len(inputs), -1)
    rows = rows[:, :: max(1, -(-rows.shape[1] // _MAX_HASHED))].contiguous()
    if rows.dtype == torch.bool:
        rows = rows.byte()
    bits = rows.view(_INTEGER_OF_SIZE[rows.element_size()]).long()
    places = torch.arange(1, bits.shape[1] + 1, device=rows.device)
    sums = (bits * (mixed(places) | 1)).sum(1)
    return mixed(sums + mixed(labels.to(rows.device).long()))


def shrunk_inputs(inputs: Tensor) -> Tensor | None:
    """Returns inputs as small images (samples, channels, height, width); None: no pixels.

    Images are averaged to at most 32 pixels a side. Of channels other than 1 and 3 the mean is
    kept, of a volume the middle slice. Vectors become one row of at most 1,024 values. Token
    numbers are left out, because distances between them mean nothing.
    """
    if inputs.dim() < 2 or (inputs.dim() == 2 and not inputs.is_floating_point()):
        return None
    if inputs.dim() == 2:
        rows = inputs.detach().float()[:, None]
        return F.adaptive_avg_pool1d(rows, min(rows.shape[2], _MAX_VALUES))[:, None]
    images = inputs.detach() if inputs.dim() > 3 else inputs.detach()[:, None]
    while images.dim() > 4:
        images = images[:, :, images.shape[2] // 2]
    images = images.float()
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    height, width = (min(size, _MAX_PIXELS) for size in images.shape[2:])
    return F.adaptive_avg_pool2d(images, (height, width))


def to_bytes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images as uint8 and each one's range (samples, 2): a quarter of the memory."""
    finite = torch.where(images.isfinite(), images, 0)
    low, high = finite.amin((1, 2, 3)), finite.amax((1, 2, 3))
    span = (high - low).clamp_min(torch.finfo(finite.dtype).tiny)
    shares = (finite - low[:, None, None, None]) / span[:, None, None, None]
    return shares.mul_(255).round_().to(torch.uint8), torch.stack([low, high], dim=1)


def from_bytes(kept: Tensor, ranges: Tensor) -> Tensor:
    """Returns what `to_bytes` was given, to a 255th of each sample's range, in float32."""
    low, high = ranges[:, 0, None, None, None], ranges[:, 1, None, None, None]
    return kept.float() / 255 * (high - low) + low


def predicted_classes(scores: Tensor) -> Tensor:
    """Returns (samples,), of scores (samples, classes, positions); -1: more than one a sample."""
    if scores.shape[2] != 1:
        return torch.full_like(scores[:, 0, 0], -1, dtype=torch.int64)
    scores = scores[:, :, 0]
    # A single score is the log-odds of class 1 against 0.
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)
