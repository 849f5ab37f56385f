"""Merging what several ranks, batches or calls have read, so that no rank waits for a failed one.

Every rank joins the same collectives whatever happened to it: a header of fixed size that
says whether it is well and how much it has to send, and, only if all ranks are well and agree
on names and types, the values themselves.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vis_callbacks.engine.probe import MergeName

Merge = MergeName | Callable[[Tensor, Tensor], Tensor]

_HEADER = struct.Struct("<?q16s103s")  # is well, payload bytes, digest, why not: 128 bytes
_ALIGNMENT = 16  # a view of another type may only begin at a multiple of its item size
_SEPARATOR = "\x1f"


class RanksError(RuntimeError):
    """The values of the ranks cannot be merged; raised on every rank alike."""


@dataclass(frozen=True)
class Gathered:
    """What all ranks have sent, the same on each of them.

    Attributes:
        statuses: By rank: None where it is well, else what failed there.
        values: By rank; empty unless all are well and agree.
    """

    statuses: tuple[str | None, ...]
    values: tuple[Mapping[str, Tensor], ...] = ()

    @property
    def problem(self) -> str | None:
        """Why there are no values, or None."""
        failed = [f"rank {i}: {why}" for i, why in enumerate(self.statuses) if why is not None]
        if failed:
            return "; ".join(failed)
        if not self.values:
            return "the ranks have read different layers, or values of different types"
        return None


def gather(
    status: str | None,
    values: Mapping[str, Tensor],
    *,
    group: dist.ProcessGroup | None = None,
) -> Gathered:
    """Returns the values of all ranks, by at most two collectives that every rank must join.

    Values of one name may differ between ranks in the length of their first axis only.
    Without a process group, or in one of a single rank, it returns at once.

    Args:
        status: None if this rank is well, else what failed: then its values are not sent.
        values: Dense tensors on any device; they come back on the device they had here.
        group: None takes the default group.
    """
    if not _has_several_ranks(group):
        return Gathered((status,), (values,) if status is None else ())
    device = _device_of(group)
    names = sorted(values)
    payload = torch.empty(0, dtype=torch.uint8, device=device)
    if status is None:
        try:
            payload = _packed([values[name] for name in names], device)
        except (RuntimeError, TypeError) as error:  # it must still join the header
            status = f"packing the values: {type(error).__name__}: {error}"
    headers = _all_headers(status, payload, _digest(values), device, group)
    statuses = tuple(header.status for header in headers)
    if any(why is not None for why in statuses) or len({h.digest for h in headers}) > 1:
        return Gathered(statuses)
    if not names:
        return Gathered(statuses, tuple({} for _ in headers))
    # Every rank takes this branch, or none does: they all look at the same headers.
    length = max(header.num_bytes for header in headers)
    padded = torch.cat([payload, payload.new_zeros(length - payload.numel())])
    rows = _all_gather(padded, len(headers), group)
    like = [values[name] for name in names]
    parts = (dict(zip(names, _unpacked(row, like), strict=True)) for row in rows)
    return Gathered(statuses, tuple(parts))


def merge_over_ranks(
    values: Mapping[str, Mapping[str, Tensor]],
    merge: Mapping[str, Merge],
    *,
    status: str | None = None,
    group: dist.ProcessGroup | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Returns values by layer and name, merged over all ranks in the order of the ranks.

    Every rank must call it, a failed one with its ``status``.

    Raises:
        RanksError: A rank has failed, or the ranks have read different things. All ranks
            raise it.
    """
    flat = {_SEPARATOR.join((k, n)): v for k, named in values.items() for n, v in named.items()}
    gathered = gather(status, flat, group=group)
    if gathered.problem is not None:
        raise RanksError(f"nothing is merged at this snapshot: {gathered.problem}")
    merged: dict[str, dict[str, Tensor]] = {layer: {} for layer in values}
    for key in flat:
        layer, name = key.split(_SEPARATOR)
        value = gathered.values[0][key]
        for part in gathered.values[1:]:
            value = merge_two(value, part[key], merge[name])
        merged[layer][name] = value
    return merged


def merge_named(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], merge: Mapping[str, Merge]
) -> dict[str, Tensor]:
    """Returns two sets of named values as one.

    Raises:
        ValueError: The names are not the same.
    """
    if old.keys() != new.keys():
        odd = ", ".join(sorted(old.keys() ^ new.keys()))
        raise ValueError(f"only one of the two has {odd}. Return the same names at each call.")
    return {name: merge_two(old[name], new[name], merge[name]) for name in old}


def merge_two(old: Tensor, new: Tensor, how: Merge) -> Tensor:
    """Returns the value of two sets of samples together, from the values of each.

    Used alike over the calls of a reused layer, micro-batches, the batches of an evaluation
    and ranks, so ``how`` must be associative; "concat" keeps the order, along the first axis.
    NaN wins in "max" and "min".

    Raises:
        ValueError: Shapes that differ (they would be broadcast), or an unknown ``how``.
        TypeError: A "sum" of bools, which would be no count.
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
    if how == "max":
        return torch.maximum(old, new)
    if how == "min":
        return torch.minimum(old, new)
    raise ValueError(f'merge={how!r} is unknown. Use "sum", "max", "min", "concat" or a function.')


def all_agree(flag: bool, *, group: dist.ProcessGroup | None = None) -> bool:
    """Returns on every rank whether all ranks say yes. Every rank must call it."""
    if not _has_several_ranks(group):
        return flag
    said = torch.tensor(int(flag), dtype=torch.int32, device=_device_of(group))
    dist.all_reduce(said, op=dist.ReduceOp.MIN, group=group)
    return bool(said.item())


def any_rank(flag: bool, *, group: dist.ProcessGroup | None = None) -> bool:
    """Returns on every rank whether one of them says yes. Every rank must call it."""
    return not all_agree(not flag, group=group)


class RefusedCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses collectives inside, such as a SyncBatchNorm's: no other rank comes to them."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise RanksError(
                f"the forward pass waits for other ranks ({func.name()}), which make no extra pass "
                "here. Give every rank the same monitors."
            )
        return func(*args, **(kwargs or {}))


def _has_several_ranks(group: dist.ProcessGroup | None) -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def _device_of(group: dist.ProcessGroup | None) -> torch.device:
    """Returns where the collectives' tensors must lie: a property of the group, not of values.

    A rank that failed has no values, and must still choose what the others choose.
    """
    backends = dict(
        pair.split(":", 1) for pair in dist.get_backend_config(group).split(",") if ":" in pair
    )
    for kind, backend in backends.items():
        if kind != "cpu" and backend not in ("gloo", "mpi", "fake"):
            return torch.device(kind, torch.get_device_module(kind).current_device())
    return torch.device("cpu")


@dataclass(frozen=True)
class _Header:
    status: str | None
    num_bytes: int
    digest: bytes


def _all_headers(
    status: str | None,
    payload: Tensor,
    digest: bytes,
    device: torch.device,
    group: dist.ProcessGroup | None,
) -> list[_Header]:
    why = (status or "").encode()
    mine = _HEADER.pack(status is None, payload.numel(), digest, why)
    sent = torch.frombuffer(bytearray(mine), dtype=torch.uint8).to(device)
    rows = _all_gather(sent, dist.get_world_size(group), group)
    headers = []
    for row in torch.stack(list(rows)).cpu().numpy():
        is_well, num_bytes, digest, why = _HEADER.unpack(row.tobytes())
        text = why.rstrip(b"\0").decode(errors="ignore")
        headers.append(_Header(None if is_well else text or "failed", num_bytes, digest))
    return headers


def _all_gather(row: Tensor, world_size: int, group: dist.ProcessGroup | None) -> Sequence[Tensor]:
    rows = [torch.empty_like(row) for _ in range(world_size)]
    dist.all_gather(rows, row, group=group)
    return rows


def _digest(values: Mapping[str, Tensor]) -> bytes:
    """Returns a digest of all that must be the same on each rank."""
    facts = [
        (name, str(value.dtype), value.dim(), tuple(value.shape[1:]))
        for name, value in sorted(values.items())
    ]
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).digest()


def _packed(values: Sequence[Tensor], device: torch.device) -> Tensor:
    """Returns the lengths of the first axes and then all values, as bytes."""
    lengths = torch.tensor([len(v) if v.dim() else 1 for v in values], dtype=torch.int64)
    parts = []
    for value in [lengths, *values]:
        raw = value.detach().to(device).contiguous().view(-1).view(torch.uint8)
        parts += [raw, raw.new_zeros(-raw.numel() % _ALIGNMENT)]
    return torch.cat(parts)


def _unpacked(row: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yields values of the types and devices of ``like`` out of another rank's bytes."""
    lengths = row[: 8 * len(like)].view(torch.int64).tolist()
    start = -(-8 * len(like) // _ALIGNMENT) * _ALIGNMENT
    for value, length in zip(like, lengths, strict=True):
        shape = (length, *value.shape[1:]) if value.dim() else ()
        size = length * value.element_size() * value.shape[1:].numel()
        # A copy: views of one storage as several types cannot be put into a checkpoint.
        raw = row[start : start + size].clone()
        yield raw.view(value.dtype).view(shape).to(value.device)
        start += -(-size // _ALIGNMENT) * _ALIGNMENT
