"""Saves what a forward pass is about to write over, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@final
class SavedWrites(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, copies a known tensor's memory before an operation writes into it.

    A copy beforehand of all parameters would double the memory of the model. Here a network
    that writes to nothing costs no copy at all, and one with a momentum encoder a copy of
    that. Writes through ``.data``, views and ``out=`` are seen alike: it goes by storages.
    Unseen are writes of what is no PyTorch operation: NumPy on shared memory, kernels of
    one's own that take a pointer.
    """

    supports_higher_order_operators = True  # else they refuse to run

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self._saved: dict[int, tuple[Any, Any]] = {}
        self._streams: dict[int, tuple[torch.Generator, Any]] = {}

    def know(self, tensors: Iterable[Tensor]) -> set[int]:
        """Watches these tensors' storages too; returns those that are new."""
        found = {storage._cdata for tensor in tensors for storage in storages_of(tensor)}
        new = found - self._known
        self._known |= new
        return new

    def forget(self, storages: set[int]) -> None:
        """Watches these no more; what was saved of them stays saved."""
        self._known -= storages

    def was_written(self, tensor: Tensor) -> bool:
        """Whether values of this tensor were written over, and will be put back."""
        return any(storage._cdata in self._saved for storage in storages_of(tensor))

    def put_back(self) -> None:
        """Gives all storages and generators back what they held; their versions stay."""
        for storage, copy in self._saved.values():
            if storage.nbytes() != copy.nbytes():
                storage.resize_(copy.nbytes())
            storage.copy_(copy)
        for stream, state in self._streams.values():
            stream.set_state(state)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for place, name in _written_by(func):
            value = args[place] if place < len(args) else kwargs.get(name)
            if value is not None:
                self._save(value)
        return func(*args, **kwargs)

    def _save(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            if id(value) not in self._streams:
                self._streams[id(value)] = value, value.get_state()
            return
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if isinstance(tensor, Tensor):
                for storage in storages_of(tensor):
                    key = storage._cdata
                    if key in self._known and key not in self._saved:
                        self._saved[key] = storage, storage.clone()


@cache
def _written_by(func: Any) -> tuple[tuple[int, str], ...]:
    """Returns which arguments an operation writes to: tensors, and generators that it draws from.

    Batch norm's schema says nothing of the running statistics.
    """
    schema = getattr(func, "_schema", None)
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(schema.arguments if schema is not None else ())
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or argument.name == "generator"
        or argument.name.startswith("running_")
    )


def storages_of(tensor: Tensor) -> list[Any]:
    """Returns the storages that hold a tensor's values: of a sharded one those of its parts."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)  # of tensors around tensors
    if flatten is not None:
        parts = (getattr(tensor, name) for name in flatten(tensor)[0])
        return [storage for part in parts for storage in storages_of(part)]
    if tensor.layout == torch.strided and tensor.device.type != "meta":
        with suppress(NotImplementedError, RuntimeError):  # there are tensors without one
            return [tensor.untyped_storage()]
    return []
