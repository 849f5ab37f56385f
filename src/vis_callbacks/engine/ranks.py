"""Exchanging what several ranks have read, so that no rank waits for a failed one.

Every rank joins the same collectives whatever happened to it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vis_callbacks.engine.probe import MergeName
from vis_callbacks.guard import Catch

Merge = MergeName | Callable[[Tensor, Tensor], Tensor]
Key = TypeVar("Key", bound=Hashable)


class RanksError(RuntimeError):
    """The values of the ranks cannot be merged; raised on every rank alike."""


def gather(values: Mapping[Key, Tensor]) -> list[dict[Key, Tensor]]:
    """Returns, by rank, the values whose keys all ranks have; the same on every rank.

    Every rank must call it, with dense tensors on any device. They come back on the device that
    the value of the same key has on this rank. Without other ranks it returns at once. Where the
    values of one rank cannot be sent, all ranks raise RanksError.
    """
    if not _has_several_ranks():
        return [dict(values)]
    device = next((v.device for v in values.values() if v.device.type != "cpu"), None)
    sent: Any = None
    with Catch() as caught:  # a rank that fails must still join the others
        sent = _packed(values, device)
    if (error := caught.error) is not None:
        sent = f"{type(error).__name__}: {error}"
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, sent)
    failed = [f"rank {rank}: {why}" for rank, why in enumerate(told) if isinstance(why, str)]
    if failed:
        raise RanksError(f"values cannot be sent to other ranks: {'; '.join(failed)}")
    parts = [_unpacked(facts, torch.from_numpy(raw).to(device), values) for facts, raw in told]
    everywhere = set(values).intersection(*parts)
    return [{key: part[key] for key in values if key in everywhere} for part in parts]


_Fact = tuple[Any, torch.dtype, tuple[int, ...]]  # key, type and shape of a value


def _packed(
    values: Mapping[Key, Tensor], device: torch.device | None
) -> tuple[list[_Fact], np.ndarray]:
    """Returns what there is to know of the values, and all their bytes in one transfer."""
    facts = [(key, value.dtype, tuple(value.shape)) for key, value in values.items()]
    raw = [v.detach().to(device).contiguous().view(-1).view(torch.uint8) for v in values.values()]
    return facts, torch.cat([torch.empty(0, dtype=torch.uint8, device=device), *raw]).cpu().numpy()


def _unpacked(facts: list[_Fact], raw: Tensor, mine: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Returns the values of a rank that this rank has as well."""
    values: dict[Key, Tensor] = {}
    for key, dtype, shape in facts:
        size = dtype.itemsize * torch.Size(shape).numel()
        own, raw = raw[:size], raw[size:]
        if key in mine:
            # A copy: views of one storage as several types cannot be put into a checkpoint.
            values[key] = own.clone().view(dtype).view(shape).to(mine[key].device)
    return values


def merge_two(old: Tensor, new: Tensor, how: Merge) -> Tensor:
    """Returns the value of two sets of samples together, from the values of each.

    ``how`` must be associative. "concat" keeps the order, along the first axis; NaN wins in "max"
    and "min". Raises ValueError for shapes that differ, which would be broadcast.
    """
    if callable(how):
        return how(old, new)
    if how == "concat":
        if old.dim() == 0 or old.shape[1:] != new.shape[1:]:
            raise ValueError(
                f'merge="concat" got {tuple(old.shape)} and {tuple(new.shape)}. '
                "Return at least one axis, and the same sizes but for the first."
            )
        return torch.cat([old, new])
    if old.shape != new.shape:
        raise ValueError(
            f'merge="{how}" got {tuple(old.shape)} and {tuple(new.shape)}. '
            'Return the same shape at each call, or use "concat".'
        )
    if how == "sum":
        if old.dtype == torch.bool:
            raise TypeError('merge="sum" got bools, which lose counts. Use "max", or .long().')
        return old + new
    if how in ("max", "min"):
        return torch.maximum(old, new) if how == "max" else torch.minimum(old, new)
    raise ValueError(f'merge={how!r} is unknown. Use "sum", "max", "min", "concat" or a function.')


def any_rank(flag: bool) -> bool:
    """Returns on every rank whether one of them says yes. Every rank must call it."""
    return any(bool(said["flag"]) for said in gather({"flag": torch.tensor(flag)}))


class RefusedCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses collectives inside, such as a SyncBatchNorm's: no other rank comes to them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise RanksError(
                f"the forward pass waits for other ranks ({func.name()}), which make no extra pass "
                "here. Give every rank the same monitors."
            )
        return func(*args, **(kwargs or {}))


def _has_several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
