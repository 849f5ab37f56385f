"""What tells samples apart over batches and ranks: their numbers, and lots drawn by numbers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from vis_callbacks.engine.probe import Batch

_LARGE_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def sample_numbers(batch: Batch, device: torch.device, most: int | None = None) -> Tensor:
    """Returns the samples' places in the data set, int64; only those below ``most``, if given.

    Of several ranks it is so with the sampler that Lightning puts in, which deals samples out
    one by one; with another one they are still all different.
    """
    rank, num_ranks = 0, 1
    if dist.is_available() and dist.is_initialized():
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
    first = batch.first_index * num_ranks + rank
    stop = first + batch.num_samples * num_ranks
    stop = stop if most is None else max(first, min(stop, most))
    return torch.arange(first, stop, num_ranks, device=device)


def mixed(values: Tensor) -> Tensor:
    """Returns int64 whose bits all depend on all bits given: the finalizer of splitmix64."""
    first, second, third = (number - (1 << 64) * (number >> 63) for number in _LARGE_ODD)
    values = values * first
    values = (values ^ (values >> 30)) * second
    values = (values ^ (values >> 27)) * third
    return values ^ (values >> 31)
