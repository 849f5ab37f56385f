"""How large weights are, and how large the steps that the optimizer takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class Selection:
    """A fixed, evenly strided selection of the values of some parameters.

    It holds the parameters, not their values. ``starts`` has for each of them the first index in
    its flattened values.
    """

    parameters: tuple[Tensor, ...]
    starts: tuple[int, ...]
    stride: int

    @torch.no_grad()
    def values(self) -> Tensor:
        """Returns a copy of the selected values, (values,) in float32 or float64."""
        parts = [
            parameter.reshape(-1)[start :: self.stride]
            for parameter, start in zip(self.parameters, self.starts, strict=True)
        ]
        if not parts:
            return torch.zeros(0)
        if any(part.dtype != torch.float32 or part.device != parts[0].device for part in parts):
            dtype = torch.float64 if any(p.dtype == torch.float64 for p in parts) else torch.float32
            parts = [part.to(parts[0].device, dtype) for part in parts]
        return torch.cat(parts)  # always a copy


def select(parameters: Iterable[Tensor], max_values: int = 65_536) -> Selection:
    """Returns at most ``max_values`` of the parameters' values, evenly spread over all.

    65,536 values give the norm of a whole optimizer group within about 1 %. Parameters that are not
    materialised yet are left out.
    """
    known = tuple(p for p in parameters if not is_lazy(p) and p.numel())
    stride = stride_for(sum(parameter.numel() for parameter in known), max_values)
    starts, position = [], 0  # position: of the parameter within all values laid end to end
    for parameter in known:
        starts.append(-position % stride)
        position += parameter.numel()
    return Selection(known, tuple(starts), stride)


def update_norms(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the norm of the weights before and the norm of their change, on the device.

    Their ratio falls after units have died, so its level is no sign of health.
    """
    return torch.linalg.vector_norm(before), torch.linalg.vector_norm(after - before)


def stride_for(num_values: int, max_values: int) -> int:
    """Returns the least stride that leaves at most ``max_values``, coprime to 2, 3, 5 and 7.

    Widths of layers are products of small primes: a stride that shares them would always hit
    the same few columns.
    """
    stride = max(1, -(-num_values // max_values))
    while stride > 1 and any(stride % prime == 0 for prime in (2, 3, 5, 7)):
        stride += 1
    return stride
