"""Inputs as pictures of one byte a value: what can be kept and shown of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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
    """Returns inputs as (samples, 1 or 3, height, width): what can be seen of them.

    Features become a line, of volumes the middle slice is taken, of channels that are neither
    one nor three the mean.
    """
    if inputs.dim() == 2:
        return inputs[:, None, None, :]
    if inputs.dim() == 3:
        return inputs[:, None]
    while inputs.dim() > 4:
        inputs = inputs[:, :, inputs.shape[2] // 2]
    if inputs.shape[1] in (1, 3):
        return inputs
    return inputs.float().mean(1, keepdim=True)


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
    """Returns by what to average, and the side of the square that then holds the extent.

    Args:
        extent: Pixels of the longest side.
        limit: The largest side wanted.
    """
    if extent <= limit:
        return 1, extent
    factor = math.ceil(extent / (limit - 1))
    return factor, math.ceil(extent / factor) + 1  # a region begins within an averaged pixel
