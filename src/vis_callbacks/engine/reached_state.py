"""All state that a model's forward may reach from the model, found by a bounded walk."""

from __future__ import annotations

import logging
import re
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter as DataLoaderIterator

from vis_callbacks.engine.kept_state import (
    CONTAINERS,
    STREAMS,
    Kept,
    KeptArray,
    KeptAttributes,
    KeptCell,
    KeptClass,
    KeptItems,
    KeptSlots,
    KeptStream,
    KeptTensor,
)
from vis_callbacks.guard import Catch

MAX_OBJECTS = 50_000
_MAX_ARRAY_BYTES = 64 << 20  # of all arrays together, copied at each pass

_ATOMS = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
        *(types.ModuleType, types.WrapperDescriptorType, types.MethodDescriptorType),
        *(types.GetSetDescriptorType, types.MemberDescriptorType, property),
    }
)
# They lead out of the model, into the program around it: its Trainer, its data, its files.
_PROGRAM = (Dataset, DataLoader, logging.Logger)
_PROGRAM_PACKAGES = (
    *("lightning.", "pytorch_lightning.", "lightning_fabric.", "vis_callbacks."),
    *("torch.utils.data.", "torch.distributed.", "torch._", "torch.jit."),
    *("threading.", "multiprocessing.", "concurrent.", "asyncio.", "queue.", "logging.", "_io."),
    *("tensorboard.", "tensorboardX.", "wandb."),
)
# Classes that hold no state of a run's own; those of users may count their instances' calls.
_STATELESS_PACKAGES = (
    *("builtins.", "collections.", "typing.", "abc.", "enum.", "types.", "functools."),
    *("torch.", "torchvision.", "torchmetrics.", "numpy.", "timm."),
)
_SKIPPED = frozenset(  # of modules: hooks rest anyway, see `isolation.silenced_hooks`
    f"_{kind}"
    for kind in (
        *("forward_pre_hooks", "forward_hooks", "backward_pre_hooks", "backward_hooks"),
        *("forward_pre_hooks_with_kwargs", "forward_hooks_with_kwargs"),
        *("forward_hooks_always_called", "state_dict_hooks", "state_dict_pre_hooks"),
        *("load_state_dict_pre_hooks", "load_state_dict_post_hooks", "trainer", "fabric"),
    )
)

Path = tuple[Any, str] | None  # the one before, and what is added
Children = Iterable[tuple[str, Any]]


class Found(NamedTuple):
    """One piece of state, and where it was found."""

    path: Path
    kept: Kept


@final
class ReachedState:
    """The state that can be reached from some objects, as it was when this was made.

    Attributes, containers, objects, closures, tensors, arrays and random generators, however
    deeply nested. No method or property of the user's is called. Not looked into are the
    Trainer, data sets and what else belongs to the program around the model.

    Args:
        roots: Objects by name; modules among them without their children.
        limit: Of the objects that are looked at, nearest to the roots first.

    Attributes:
        found: What can be put back.
        others: What can only be looked at: iterators, and arrays too large to copy.
        beyond: The name of the first object that was not looked at; empty where all were.
    """

    def __init__(self, roots: Iterable[tuple[str, Any]], limit: int = MAX_OBJECTS) -> None:
        self.found: list[Found] = []
        self.others: list[tuple[Path, Any]] = []
        self.beyond = ""
        self._seen: dict[int, Any] = {}  # holds them, so that no id is given twice
        self._array_bytes = 0
        self._keepers: dict[type, Any] = {}
        self._walk(deque(((None, name), value) for name, value in roots), limit)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """The tensors that were found."""
        return (kept.tensor for _, kept in self.found if isinstance(kept, KeptTensor))

    def changes(self) -> list[Found]:
        """Returns what is not as it was."""
        return [found for found in self.found if not found.kept.is_as_before()]

    def put_back(self) -> list[Path]:
        """Makes everything as it was; returns what could not be."""
        failed: list[Path] = []
        left = iter(self.found)
        while True:
            with Catch() as caught:  # one for all that goes well
                for found in left:
                    if not found.kept.is_as_before():
                        found.kept.put_back()
            if caught.error is None:
                return failed
            failed.append(found.path)

    def _walk(self, queue: deque[tuple[Path, Any]], limit: int) -> None:
        while queue and not self.beyond:
            with Catch():  # what cannot be looked at is left alone
                self._walk_on(queue, limit)

    def _walk_on(self, queue: deque[tuple[Path, Any]], limit: int) -> None:
        seen, keepers = self._seen, self._keepers
        while queue:
            path, value = queue.popleft()
            if id(value) in seen:
                continue
            if len(seen) >= limit:
                self.beyond = name_of(path)
                return
            seen[id(value)] = value
            cls = type(value)
            keeper = keepers.get(cls)
            if keeper is None:
                keeper = keepers[cls] = self._keeper_of(cls)
            for name, child in keeper(path, value):
                if type(child) not in _ATOMS:
                    queue.append(((path, name), child))

    def _keeper_of(self, cls: type) -> Any:
        for kinds, keeper in (
            ((Tensor,), self._tensor),
            ((np.ndarray,), self._array),
            (STREAMS, self._stream),
            ((tuple, frozenset, types.MappingProxyType), _within),
            ((types.FunctionType,), self._function),
            ((types.MethodType, types.BuiltinMethodType, partial), _around),
            ((staticmethod, classmethod), _around),
            ((types.CellType,), self._cell),
            ((type,), self._class),
            ((weakref.ref,), _referred),
            ((types.GeneratorType, DataLoaderIterator), self._iterator),
            (_PROGRAM, _nothing),
        ):
            if issubclass(cls, kinds):
                return keeper
        base = next((base for base in CONTAINERS if issubclass(cls, base)), None)
        if base is not None:
            return self._container_keeper(cls, base)
        if not issubclass(cls, nn.Module) and any(map(_is_of_program, cls.__mro__)):
            return _nothing
        if hasattr(cls, "__next__") and cls.__module__ in ("builtins", "itertools"):
            return self._iterator
        return self._object_keeper(cls)

    def _container_keeper(self, cls: type, base: type) -> Any:
        of_object = None if cls in CONTAINERS else self._object_keeper(cls)
        is_dict = issubclass(base, dict)

        def keep(path: Path, value: Any) -> Iterator[tuple[str, Any]]:
            kept = KeptItems(value, base)
            self.found.append(Found(path, kept))
            items = kept.saved
            if is_dict:
                items = dict.items(value)
                if not _ATOMS.issuperset(map(type, dict.values(value))):
                    yield from ((_key(key), item) for key, item in items)
            elif not _ATOMS.issuperset(map(type, items)):
                yield from ((f"[{i}]", item) for i, item in enumerate(items))
            if of_object is not None:
                yield from of_object(path, value)

        return keep

    def _object_keeper(self, cls: type) -> Any:
        """Returns what keeps attributes and slots of the instances of a class."""
        slots = _slots_of(cls)
        classes = [base for base in cls.__mro__ if _may_hold_state(base)]
        skipped = _SKIPPED if issubclass(cls, nn.Module) else frozenset()

        def keep(path: Path, value: Any) -> Iterator[tuple[str, Any]]:
            attributes = _attributes_of(value)
            if attributes is not None:
                kept = KeptAttributes(attributes)
                self.found.append(Found(path, kept))
                for name, item in kept.saved.items():
                    if type(item) not in _ATOMS and name not in skipped:
                        yield f".{name}", item
            if slots:
                of_slots = KeptSlots(value, slots)
                self.found.append(Found(path, of_slots))
                yield from _named(of_slots.values())
            for base in classes:
                yield ".__class__", base

        return keep

    def _tensor(self, path: Path, value: Tensor) -> Children:
        if nn.parameter.is_lazy(value):
            return ()
        kept = KeptTensor(value)
        self.found.append(Found(path, kept))
        return _named(kept.attributes)

    def _array(self, path: Path, value: np.ndarray) -> Children:
        self._array_bytes += value.nbytes
        if self._array_bytes > _MAX_ARRAY_BYTES:
            self.others.append((path, value))
        elif value.flags.writeable:
            self.found.append(Found(path, KeptArray(value)))
        items = value.flat if value.dtype.hasobject else ()
        return [*_named(_attributes_of(value) or {}), *((f"[{i}]", x) for i, x in enumerate(items))]

    def _stream(self, path: Path, value: Any) -> Children:
        self.found.append(Found(path, KeptStream(value)))
        return ()

    def _function(self, path: Path, value: types.FunctionType) -> Iterator[tuple[str, Any]]:
        if vars(value):
            attributes = KeptAttributes(vars(value))
            self.found.append(Found(path, attributes))
            yield from _named(attributes.saved)
        names = value.__code__.co_freevars
        yield from ((f".{n}", c) for n, c in zip(names, value.__closure__ or (), strict=True))
        yield ".__defaults__", value.__defaults__
        yield ".__kwdefaults__", value.__kwdefaults__

    def _cell(self, path: Path, value: types.CellType) -> Children:
        kept = KeptCell(value)
        self.found.append(Found(path, kept))
        return kept.values().items()

    def _class(self, path: Path, value: type) -> Children:
        if not _may_hold_state(value):
            return ()
        kept = KeptClass(value)
        self.found.append(Found(path, kept))
        return _named(kept.saved)

    def _iterator(self, path: Path, value: Any) -> Children:
        self.others.append((path, value))
        return ()  # what it goes over is of no use where it cannot be put back itself


def name_of(path: Path) -> str:
    """Returns where something was found, as it would be written."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        parts.append(part)
    name = _IN_MODULE.sub(r".\1", "".join(reversed(parts)))
    return name.lstrip(".") or "the model"


_IN_MODULE = re.compile(r"\._(?:parameters|buffers|modules)\['([^']*)'\]")


def modules_by_name(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the modules of a model, and tensors that only its methods give away."""
    yield from ((f".{name}" if name else "", child) for name, child in module.named_modules())
    if isinstance(module, torch.jit.ScriptModule):  # its tensors are no attributes
        yield from ((f".{name}", tensor) for name, tensor in module.named_parameters())
        yield from ((f".{name}", tensor) for name, tensor in module.named_buffers())


def _named(values: Mapping[str, Any]) -> Children:
    return ((f".{name}", value) for name, value in values.items())


def _key(key: Any) -> str:
    return f"[{key!r}]" if type(key) in (str, int) else f"[{type(key).__name__}]"


def _within(path: Path, value: Any) -> Children:
    if isinstance(value, types.MappingProxyType):
        return ((_key(key), item) for key, item in value.items())
    return ((f"[{i}]", item) for i, item in enumerate(value))


def _around(path: Path, value: Any) -> Children:
    """Returns what a method is bound to, or what a partial function or a decorator wraps."""
    names = ("__self__", "__func__", "func", "args", "keywords")
    return [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]


def _referred(path: Path, value: weakref.ref[Any]) -> Children:
    return [("()", value())]


def _nothing(path: Path, value: Any) -> Children:
    return ()


def _attributes_of(value: Any) -> dict[str, Any] | None:
    """Returns an object's own ``__dict__``, whatever its class makes of attributes."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if type(attributes) is dict else None


def _slots_of(cls: type) -> dict[str, types.MemberDescriptorType]:
    return {
        name: slot
        for base in reversed(cls.__mro__)
        if "__slots__" in vars(base)
        for name, slot in vars(base).items()
        if isinstance(slot, types.MemberDescriptorType)
    }


def _home_of(cls: type) -> str:
    return f"{vars(cls).get('__module__', '')}."


def _is_of_program(cls: type) -> bool:
    return _home_of(cls).startswith(_PROGRAM_PACKAGES)


def _may_hold_state(cls: type) -> bool:
    is_made_in_python = bool(cls.__flags__ & 1 << 9)  # a heap type
    home = _home_of(cls)
    return is_made_in_python and not home.startswith((*_STATELESS_PACKAGES, *_PROGRAM_PACKAGES))
