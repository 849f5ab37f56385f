"""How large weights are, and how large the steps that the optimizer takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from vis_callbacks.analysis.activations import stride_for


@dataclass(frozen=True)
class Selection:
    """A fixed, evenly strided selection of the values of some parameters.

    Holds the parameters, not their values: `values` reads these anew. Drop the copy as soon as
    the norm is taken.

    Attributes:
        slices: For each parameter the first index and the stride in its flattened values.
    """

    parameters: tuple[Tensor, ...]
    slices: tuple[tuple[int, int], ...]

    @torch.no_grad()
    def values(self) -> Tensor:
        """Returns a copy of the selected values, (values,) in float32 or float64."""
        parts = [
            parameter.reshape(-1) if stride == 1 else parameter.reshape(-1)[start::stride]
            for parameter, (start, stride) in zip(self.parameters, self.slices, strict=True)
        ]
        if not parts:
            return torch.zeros(0)
        if any(part.dtype != torch.float32 or part.device != parts[0].device for part in parts):
            dtype = torch.float64 if any(p.dtype == torch.float64 for p in parts) else torch.float32
            parts = [part.to(parts[0].device, dtype) for part in parts]
        return torch.cat(parts)  # always a copy


def select(parameters: Iterable[Tensor], max_values: int = 65_536) -> Selection:
    """Returns at most ``max_values`` of the parameters' values, evenly spread over all.

    Args:
        parameters: Of one optimizer group. Those that are not materialised yet are left out.
        max_values: 65,536 values give the norm of a whole group within about 1 %.
    """
    known = tuple(p for p in parameters if not is_lazy(p) and p.numel())
    stride = stride_for(sum(parameter.numel() for parameter in known), max_values)
    slices, position = [], 0  # position: of the parameter within all values laid end to end
    for parameter in known:
        slices.append((-position % stride, stride))
        position += parameter.numel()
    return Selection(known, tuple(slices))


def update_norms(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the norm of the weights before and the norm of their change, on the device."""
    return _norm(before), _norm(after - before)


def update_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Returns ||after - before|| / ||before||, on the device; NaN where the weights were 0.

    It falls after units have died, so its level is no sign of health.
    """
    norm, change = update_norms(before, after)
    return torch.where(norm > 0, change / norm, math.nan)


def unit_norms(weight: Tensor, *, is_transposed: bool = False, groups: int = 1) -> Tensor:
    """Returns the L2 norm of the weights that feed each output unit, (units,).

    Args:
        weight: Linear (out, in) or convolution (out, in / groups, *kernel).
        is_transposed: A transposed convolution, (in, out / groups, *kernel).
        groups: Of the transposed convolution.

    Raises:
        ValueError: The weight has fewer than two dimensions, so no incoming weights.
    """
    if weight.dim() < 2:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} feeds no units; give one of a linear or"
            " convolutional layer"
        )
    weight = weight.detach()
    if weight.dtype != torch.float64:
        weight = weight.float()
    if not is_transposed:
        return _norm(weight.flatten(1), 1)
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return _norm(grouped, (1, 3)).reshape(-1)


def layer_norm(norms: Tensor) -> Tensor:
    """Returns the L2 norm of all weights of a layer from the norms of its units."""
    return _norm(norms)


def num_nonzero(weight: Tensor, max_values: int = 4_096) -> Tensor:
    """Returns how many values of a weight are not exactly 0, on the device.

    Pruned weights are 0 for good; those that train hardly ever are.

    Args:
        weight: Of any shape.
        max_values: Of a larger weight so many are looked at, evenly spread over it: the share is
            then off by less than 1.6 points (two standard errors).
    """
    values = weight.detach().reshape(-1)
    looked_at = values[:: stride_for(len(values), max_values)]
    return looked_at.count_nonzero() * (len(values) / max(1, len(looked_at)))


def _norm(values: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dim=dim)
    return norm
