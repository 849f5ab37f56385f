"""State as it was, and putting it back: one class for each kind of it.

What is put back are the original *objects*, in the containers and attributes that held them.
Tensors and arrays get back their values too: without a trace in the version counters that
autograd compares, so a backward pass of the user's that is still to come finds what it saved.
"""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from operator import is_
from types import CellType, MemberDescriptorType
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

_MISSING: Any = object()


class Kept(Protocol):
    """Something that a forward pass may change, as it was when this was made."""

    def is_as_before(self) -> bool:
        """Whether it holds the same objects; of values only what is cheap to compare."""
        ...

    def put_back(self) -> None:
        """Makes it as it was."""
        ...


@final
class KeptAttributes:
    """The attributes of an object: its ``__dict__``."""

    __slots__ = ("live", "saved")

    def __init__(self, live: dict[str, Any]) -> None:
        self.live, self.saved = live, dict(live)

    def is_as_before(self) -> bool:
        """Whether they are the same objects in the same order."""
        return _same_mapping(self.live, self.saved)

    def put_back(self) -> None:
        """Gives the object its attributes back."""
        put_back_mapping(self.live, self.saved)


@final
class KeptItems:
    """What a list, dict, set, deque or byte string holds; of subclasses too.

    It goes by the methods of the base, so that none of the user's own is called.
    """

    __slots__ = ("base", "live", "saved")

    def __init__(self, live: Any, base: type) -> None:
        self.live, self.base = live, base
        self.saved = _TAKE[base](live)

    def is_as_before(self) -> bool:
        """Whether it holds the same objects in the same order."""
        now, saved = _TAKE[self.base](self.live), self.saved
        if self.base is dict:
            return _same_mapping(now, saved)
        if self.base in (bytearray, array):
            return bool(now == saved)
        if self.base is set:
            return set(map(id, now)) == set(map(id, saved))
        if self.base is OrderedDict:
            now, saved = [*sum(now, ())], [*sum(saved, ())]
        return len(now) == len(saved) and all(map(is_, now, saved))

    def put_back(self) -> None:
        """Gives it the contents that it had."""
        _REFILL[self.base](self.live, self.saved)


_TAKE: Mapping[type, Callable[[Any], Any]] = {
    OrderedDict: lambda live: list(OrderedDict.items(live)),
    dict: dict.copy,
    list: list.copy,
    set: lambda live: set(set.__iter__(live)),
    deque: lambda live: list(deque.__iter__(live)),
    bytearray: bytes,
    array: lambda live: live[:],
}


def _refill_ordered(live: Any, saved: Any) -> None:
    OrderedDict.clear(live)
    for key, value in saved:
        OrderedDict.__setitem__(live, key, value)


def _refill_dict(live: Any, saved: Any) -> None:
    dict.clear(live)
    dict.update(live, saved)


def _refill_set(live: Any, saved: Any) -> None:
    set.clear(live)
    set.update(live, saved)


def _refill_deque(live: Any, saved: Any) -> None:
    deque.clear(live)
    deque.extend(live, saved)


def _refill_slice(live: Any, saved: Any) -> None:
    live[:] = saved


_REFILL: Mapping[type, Callable[[Any, Any], None]] = {
    OrderedDict: _refill_ordered,
    dict: _refill_dict,
    list: lambda live, saved: list.__setitem__(live, slice(None), saved),
    set: _refill_set,
    deque: _refill_deque,
    bytearray: _refill_slice,
    array: _refill_slice,
}
# An OrderedDict is a dict: the order counts.
CONTAINERS: tuple[type, ...] = tuple(_TAKE)


@final
class KeptSlots:
    """The values in an object's ``__slots__``."""

    __slots__ = ("owner", "saved")

    def __init__(self, owner: Any, slots: Mapping[str, MemberDescriptorType]) -> None:
        self.owner = owner
        self.saved = {name: (slot, _in_slot(slot, owner)) for name, slot in slots.items()}

    def is_as_before(self) -> bool:
        """Whether the slots hold the same objects."""
        return all(_in_slot(slot, self.owner) is value for slot, value in self.saved.values())

    def put_back(self) -> None:
        """Fills the slots as they were."""
        for slot, value in self.saved.values():
            if value is not _MISSING:
                slot.__set__(self.owner, value)
            elif _in_slot(slot, self.owner) is not _MISSING:
                slot.__delete__(self.owner)

    def values(self) -> Mapping[str, Any]:
        """What the slots hold."""
        return {name: value for name, (_, value) in self.saved.items() if value is not _MISSING}


def _in_slot(slot: MemberDescriptorType, owner: Any) -> Any:
    try:
        return slot.__get__(owner)
    except AttributeError:
        return _MISSING


@final
class KeptClass:
    """The attributes of a class, such as a count of all its calls."""

    __slots__ = ("owner", "saved")

    def __init__(self, owner: type) -> None:
        self.owner, self.saved = owner, dict(vars(owner))

    def is_as_before(self) -> bool:
        """Whether the class has the same attributes."""
        return _same_mapping(vars(self.owner), self.saved)

    def put_back(self) -> None:
        """Gives the class its attributes back."""
        now = dict(vars(self.owner))
        for name in now.keys() - self.saved.keys():
            type.__delattr__(self.owner, name)
        for name, value in self.saved.items():
            if now.get(name, _MISSING) is not value:
                type.__setattr__(self.owner, name, value)


@final
class KeptCell:
    """A variable of a function around the one that is called (``nonlocal``)."""

    __slots__ = ("cell", "saved")

    def __init__(self, cell: CellType) -> None:
        self.cell, self.saved = cell, _in_cell(cell)

    def is_as_before(self) -> bool:
        """Whether the variable is the same object."""
        return _in_cell(self.cell) is self.saved

    def put_back(self) -> None:
        """Sets the variable as it was."""
        if self.saved is not _MISSING:
            self.cell.cell_contents = self.saved
        else:
            del self.cell.cell_contents

    def values(self) -> Mapping[str, Any]:
        """What the variable holds."""
        return {} if self.saved is _MISSING else {"": self.saved}


def _in_cell(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


@final
class KeptTensor:
    """A tensor: its storage, form and place in the graph; `SavedWrites` keeps the values.

    Assigning to ``.data`` exchanges the storage and counts as no write for autograd.
    """

    __slots__ = ("alias", "attributes", "needs_grad", "node", "storage", "tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.alias = tensor.data
        self.storage = _storage_of(tensor)
        self.version = version_of(tensor)
        self.node, self.needs_grad = tensor.grad_fn, tensor.requires_grad
        self.attributes = dict(vars(tensor))

    def is_as_before(self) -> bool:
        """Whether form, place in the graph and number of writes are the same."""
        return (
            version_of(self.tensor) == self.version
            and self._has_form()
            and self.tensor.grad_fn is self.node
            and self.tensor.requires_grad is self.needs_grad
            and _same_mapping(vars(self.tensor), self.attributes)
        )

    def put_back(self) -> None:
        """Gives it form and place back; raises ValueError where it had entered a graph."""
        tensor = self.tensor
        put_back_mapping(vars(tensor), self.attributes)
        if self.node is None:
            if tensor.grad_fn is not None:
                tensor.detach_()
            tensor.requires_grad_(self.needs_grad)
        if not self._has_form():
            tensor.data = self.alias
        if version_of(tensor) != self.version:
            _set_version(tensor, self.version)
        if tensor.grad_fn is not self.node:
            raise ValueError("a tensor inside of a graph was written to")

    def has_new_version(self) -> bool:
        """Whether autograd has counted a write to the same memory."""
        return version_of(self.tensor) != self.version and _storage_of(self.tensor) == self.storage

    def _has_form(self) -> bool:
        tensor, alias = self.tensor, self.alias
        return (
            _storage_of(tensor) == self.storage
            and tensor.shape == alias.shape
            and (self.storage is None or _layout(tensor) == _layout(alias))
        )


def _storage_of(tensor: Tensor) -> int | None:
    """Returns what tells its storage from others; None for a tensor without one (sparse)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tensor.stride()


def version_of(tensor: Tensor) -> int:
    """Returns how often it was written to in place, for autograd; -1 where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version


def _set_version(tensor: Tensor, version: int) -> None:
    set_versions = torch._C._autograd._unsafe_set_version_counter
    try:
        set_versions((tensor,), (version,))
    except TypeError:  # before torch 2.7
        set_versions(tensor, version)  # type: ignore[arg-type]


@final
class KeptArray:
    """The values of a NumPy array."""

    __slots__ = ("array", "saved")

    def __init__(self, values: np.ndarray) -> None:
        self.array = values.view(np.ndarray)
        self.saved = self.array.copy()

    def is_as_before(self) -> bool:
        """Whether all values are the same."""
        if self.array.dtype.hasobject:
            return all(map(is_, self.array.flat, self.saved.flat))
        return self.array.tobytes() == self.saved.tobytes()

    def put_back(self) -> None:
        """Writes the values back."""
        self.array[...] = self.saved


@final
class KeptStream:
    """The state of a random generator of PyTorch, NumPy or Python."""

    __slots__ = ("saved", "stream")

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.saved = self._now()

    def is_as_before(self) -> bool:
        """Always False: to compare costs what it costs to put it back."""
        return False

    def put_back(self) -> None:
        """Sets the generator to the state that it had."""
        stream, saved = self.stream, self.saved
        if isinstance(stream, torch.Generator):
            stream.set_state(saved)
        elif isinstance(stream, random.Random):
            random.Random.setstate(stream, saved)
        elif isinstance(stream, np.random.RandomState):
            stream.set_state(saved)
        else:
            _bits_of(stream).state = saved

    def _now(self) -> Any:
        stream = self.stream
        if isinstance(stream, torch.Generator):
            return stream.get_state()
        if isinstance(stream, random.Random):
            return random.Random.getstate(stream)
        if isinstance(stream, np.random.RandomState):
            return stream.get_state(legacy=False)
        return _bits_of(stream).state


STREAMS: tuple[type, ...] = (
    torch.Generator,
    random.Random,
    np.random.RandomState,
    np.random.Generator,
    np.random.BitGenerator,
)


def _bits_of(stream: Any) -> Any:
    return stream.bit_generator if isinstance(stream, np.random.Generator) else stream


def put_back_mapping(live: Any, saved: Mapping[str, Any]) -> None:
    """Makes a dictionary hold the same objects in the same order again; writes only changes.

    ``live`` may be the view of a scripted module's buffers, which knows little more than
    ``items`` and setting what is there.
    """
    for name in [name for name, _ in live.items() if name not in saved]:
        del live[name]
    for name, value in saved.items():
        if name not in live or live[name] is not value:
            live[name] = value
    if [name for name, _ in live.items()] != list(saved):
        for name in saved:
            live[name] = live.pop(name)


def _same_mapping(first: Mapping[Any, Any], second: Mapping[Any, Any]) -> bool:
    return (
        len(first) == len(second)
        and all(map(is_, first.values(), second.values()))
        and all(map(is_, first, second))
    )
