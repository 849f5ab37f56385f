"""The kinds of state that a forward pass may change: how each is taken, compared and put back.

What is put back are the original *objects*, in the containers and attributes that held them.
Tensors and arrays get back their values too: without a trace in the version counters that
autograd compares, so a backward pass of the user's that is still to come finds what it saved.
None of the user's own methods is called: a container goes by the methods of its base class.
"""

from __future__ import annotations

import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import is_
from types import CellType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

_MISSING: Any = object()


class Kind(NamedTuple):
    """One kind of state. Its functions take the owner, and what was taken of it before.

    Attributes:
        take: Returns the state as it is now; None where there is nothing to keep.
        is_same: Whether the owner holds the same objects; of values only what is cheap to compare.
        put_back: Makes the owner as it was. None: this is only a way to other state.
        parts: Returns what lies in the taken state, with names or keys.
        is_named: Whether parts have the names of attributes, and not keys.
    """

    take: Callable[[Any], Any]
    is_same: Callable[[Any, Any], bool] | None = None
    put_back: Callable[[Any, Any], object] | None = None
    parts: Callable[[Any], Iterable[tuple[Any, Any]]] = lambda taken: ()
    is_named: bool = False


def _same_objects(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(is_, first, second))


def _same_mapping(first: dict[Any, Any], second: dict[Any, Any]) -> bool:
    return (
        dict.__len__(first) == len(second)
        and all(map(is_, dict.values(first), second.values()))
        and all(map(is_, dict.__iter__(first), second))
    )


# -- objects


def attributes_of(owner: Any) -> dict[str, Any] | None:
    """Returns an object's own ``__dict__``, whatever its class makes of attributes."""
    try:
        attributes = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return attributes if type(attributes) is dict else None


def _take_attributes(owner: Any) -> dict[str, Any] | None:
    attributes = attributes_of(owner)
    return None if attributes is None else attributes.copy()


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


ATTRIBUTES = Kind(
    take=_take_attributes,
    is_same=lambda owner, saved: _same_mapping(attributes_of(owner) or {}, saved),
    put_back=lambda owner, saved: put_back_mapping(attributes_of(owner), saved),
    parts=dict.items,
    is_named=True,
)


def _in_slot(slot: Any, owner: Any) -> Any:
    try:
        return slot.__get__(owner)
    except (AttributeError, ValueError):  # of an object, of a cell
        return _MISSING


def in_slots(slots: Mapping[str, Any]) -> Kind:
    """Returns the kind of what lies behind descriptors, such as those of ``__slots__``."""

    def take(owner: Any) -> dict[str, Any]:
        return {name: _in_slot(slot, owner) for name, slot in slots.items()}

    def put_back(owner: Any, saved: dict[str, Any]) -> None:
        for name, value in saved.items():
            if value is not _MISSING:
                slots[name].__set__(owner, value)
            elif _in_slot(slots[name], owner) is not _MISSING:
                slots[name].__delete__(owner)

    def is_same(owner: Any, saved: dict[str, Any]) -> bool:
        return _same_mapping(take(owner), saved)

    return Kind(take, is_same, put_back, dict.items, is_named=True)


# A variable of a function around the one that is called (``nonlocal``).
CELL = in_slots({"cell_contents": vars(CellType)["cell_contents"]})


def _put_back_class(owner: type, saved: dict[str, Any]) -> None:
    now = dict(vars(owner))
    for name in now.keys() - saved.keys():
        type.__delattr__(owner, name)
    for name, value in saved.items():
        if now.get(name, _MISSING) is not value:
            type.__setattr__(owner, name, value)


CLASS = Kind(
    take=lambda owner: dict(vars(owner)),
    is_same=lambda owner, saved: _same_mapping(dict(vars(owner)), saved),
    put_back=_put_back_class,
    parts=dict.items,
    is_named=True,
)


# -- containers, of subclasses too


def _refill(base: Any, fill: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def put_back(live: Any, saved: Any) -> None:
        base.clear(live)
        fill(live, saved)

    return put_back


def _fill_ordered(live: Any, saved: Iterable[tuple[Any, Any]]) -> None:
    for key, value in saved:
        OrderedDict.__setitem__(live, key, value)


def _sequence(base: Any, take: Callable[[Any], Any]) -> Kind:
    return Kind(
        take,
        is_same=lambda live, saved: _same_objects(take(live), saved),
        put_back=lambda live, saved: base.__setitem__(live, slice(None), saved),
        parts=enumerate,
    )


def _numbers(base: Any, take: Callable[[Any], Any]) -> Kind:
    return Kind(take, lambda live, saved: bool(take(live) == saved), _sequence(base, take).put_back)


# An OrderedDict is a dict whose order counts, so it comes first.
CONTAINERS: Mapping[type, Kind] = {
    OrderedDict: Kind(
        take=lambda live: list(OrderedDict.items(live)),
        is_same=lambda live, saved: _same_objects(
            list(chain(*OrderedDict.items(live))), list(chain(*saved))
        ),
        put_back=_refill(OrderedDict, _fill_ordered),
        parts=iter,
    ),
    dict: Kind(dict.copy, _same_mapping, _refill(dict, dict.update), dict.items),
    list: _sequence(list, list.copy),
    set: Kind(
        take=lambda live: set().union(live),
        is_same=lambda live, saved: set(map(id, set.__iter__(live))) == set(map(id, saved)),
        put_back=_refill(set, set.update),
        parts=enumerate,
    ),
    deque: _sequence(deque, lambda live: list(deque.__iter__(live)))._replace(
        put_back=_refill(deque, deque.extend)
    ),
    bytearray: _numbers(bytearray, bytes),
    array: _numbers(array, lambda live: array.__getitem__(live, slice(None))),
}


# -- tensors


class TensorState(NamedTuple):
    """A tensor's form and its place in the graph; `SavedWrites` keeps the values."""

    alias: Tensor
    storage: int | None
    version: int
    node: Any
    needs_grad: bool


def _take_tensor(tensor: Tensor) -> TensorState | None:
    if nn.parameter.is_lazy(tensor):
        return None
    storage, version = _storage_of(tensor), _version_of(tensor)
    return TensorState(tensor.data, storage, version, tensor.grad_fn, tensor.requires_grad)


def _is_same_tensor(tensor: Tensor, saved: TensorState) -> bool:
    return (
        _version_of(tensor) == saved.version
        and _has_form(tensor, saved)
        and tensor.grad_fn is saved.node
        and tensor.requires_grad is saved.needs_grad
    )


def _put_back_tensor(tensor: Tensor, saved: TensorState) -> None:
    """Raises ValueError for a tensor that cannot leave the graph that it has entered."""
    if saved.node is None:
        if tensor.grad_fn is not None:
            tensor.detach_()
        tensor.requires_grad_(saved.needs_grad)
    if not _has_form(tensor, saved):
        tensor.data = saved.alias  # exchanges the storage, and is no write for autograd
    if _version_of(tensor) != saved.version:
        set_versions = torch._C._autograd._unsafe_set_version_counter
        try:
            set_versions((tensor,), (saved.version,))
        except TypeError:  # before torch 2.7
            set_versions(tensor, saved.version)  # type: ignore[arg-type]
    if tensor.grad_fn is not saved.node:
        raise ValueError("a tensor inside of a graph was written to")


def has_new_version(tensor: Tensor, saved: TensorState) -> bool:
    """Whether autograd has counted a write to the same memory."""
    return _version_of(tensor) != saved.version and _storage_of(tensor) == saved.storage


def _version_of(tensor: Tensor) -> int:
    """Returns how often it was written to in place, for autograd; -1 where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version


def _has_form(tensor: Tensor, saved: TensorState) -> bool:
    alias = saved.alias
    return (
        _storage_of(tensor) == saved.storage
        and tensor.shape == alias.shape
        and (saved.storage is None or _layout(tensor) == _layout(alias))
    )


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tensor.stride()


def detached_clone(tensor: Tensor) -> Any:
    """Returns a copy of its values that is in no graph, and is trained where the tensor is."""
    with torch.no_grad():
        return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _storage_of(tensor: Tensor) -> int | None:
    """Returns what tells its storage from others; None for a tensor without one (sparse)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


TENSOR = Kind(_take_tensor, _is_same_tensor, _put_back_tensor)


# -- arrays and random generators


def _is_same_array(values: np.ndarray, saved: np.ndarray) -> bool:
    if saved.dtype.hasobject:
        return all(map(is_, values.view(np.ndarray).flat, saved.flat))
    return values.view(np.ndarray).tobytes() == saved.tobytes()


ARRAY = Kind(
    take=lambda values: values.view(np.ndarray).copy() if values.flags.writeable else None,
    is_same=_is_same_array,
    put_back=lambda values, saved: np.copyto(values.view(np.ndarray), saved),
    parts=lambda saved: enumerate(saved.flat) if saved.dtype.hasobject else (),
)


def _stream(take: Callable[[Any], Any], put_back: Callable[[Any, Any], object]) -> Kind:
    """To compare the states of a generator costs what it costs to put one back."""
    return Kind(take, lambda stream, saved: False, put_back)


def _bits_of(stream: Any) -> Any:
    return getattr(stream, "bit_generator", stream)


_NEW_NUMPY = _stream(
    lambda stream: _bits_of(stream).state,
    lambda stream, saved: setattr(_bits_of(stream), "state", saved),
)
STREAMS: Mapping[type, Kind] = {
    torch.Generator: _stream(torch.Generator.get_state, torch.Generator.set_state),
    random.Random: _stream(random.Random.getstate, random.Random.setstate),
    np.random.RandomState: _stream(
        partial(np.random.RandomState.get_state, legacy=False), np.random.RandomState.set_state
    ),
    np.random.Generator: _NEW_NUMPY,
    np.random.BitGenerator: _NEW_NUMPY,
}
