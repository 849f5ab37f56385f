"""Maps over the places of an input: how widely they are spread, and how they look blurred."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_area(maps: Tensor) -> Tensor:
    """Returns (samples,) how widely saliency is spread: 1 evenly, 1/P in one of P positions.

    It is (sum |m|)^2 / (P sum m^2), and NaN for a map that is 0 everywhere.
    """
    sizes = maps.flatten(1).abs()
    sizes = sizes / sizes.amax(1, keepdim=True)  # the squares of tiny gradients would be 0
    return sizes.sum(1).square() / (sizes.square().sum(1) * sizes.shape[1])


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Returns (samples, channels, *places) under a Gaussian of ``sigma`` pixels."""
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
