"""All state that a model's forward may reach from the model, found by a bounded walk."""

from __future__ import annotations

import logging
import re
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter as DataLoaderIterator

from vis_callbacks.engine.state_kinds import (
    ARRAY,
    ATTRIBUTES,
    CELL,
    CLASS,
    CONTAINERS,
    STREAMS,
    TENSOR,
    Kind,
    in_slots,
)
from vis_callbacks.guard import Catch

MAX_OBJECTS = 50_000
_MAX_ARRAY_BYTES = 64 << 20  # of all arrays together, copied at each pass

# They lead out of the model, into the program around it: its Trainer, its data, its files.
_PROGRAM = (types.ModuleType, Dataset, DataLoader, logging.Logger)
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
# Of modules. Hooks rest anyway, see `isolation.silenced_hooks`.
_SKIPPED = {"_trainer", "_fabric", *(name for name in vars(nn.Module()) if "_hooks" in name)}

Path = tuple[Any, Any, bool] | None  # the one before; a name or a key; whether it is a name


class Kept(NamedTuple):
    """One piece of state as it was, and where it was found."""

    path: Path
    kind: Kind
    owner: Any
    saved: Any

    def is_as_before(self) -> bool:
        """Whether the owner holds the same objects."""
        return self.kind.is_same(self.owner, self.saved)  # type: ignore[misc]

    def put_back(self) -> None:
        """Makes it as it was."""
        self.kind.put_back(self.owner, self.saved)  # type: ignore[misc]


@final
class ReachedState:
    """The state that can be reached from some objects by name, as it was when this was made.

    Attributes, containers, objects, closures, tensors, arrays and random generators, however
    deeply nested. No method or property of the user's is called. Not looked into are the
    Trainer, data sets and what else belongs to the program around the model. At most ``limit``
    objects are looked at, those nearest to the roots first.

    Attributes:
        kept: What can be put back.
        others: What can only be looked at: iterators, and arrays too large to copy.
        beyond: The name of the first object that was not looked at; empty where all were.
    """

    def __init__(
        self,
        roots: Iterable[tuple[str, Any]],
        limit: int = MAX_OBJECTS,
        kinds: KindsOf | None = None,
    ) -> None:
        self.kept: list[Kept] = []
        self.others: list[tuple[Path, Any]] = []
        self.beyond = ""
        self._seen: dict[int, Any] = {}  # holds them, so that no id is given twice
        self._array_bytes = 0
        self._kinds = KindsOf() if kinds is None else kinds
        queue = deque(((None, name, True), value) for name, value in roots)
        while queue and not self.beyond:
            with Catch():  # what cannot be looked at is left alone
                self._walk(queue, limit)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """The tensors that were found."""
        return (kept.owner for kept in self.kept if kept.kind is TENSOR)

    def is_as_before(self) -> bool:
        """Whether all of it is as it was."""
        return all(kept.is_as_before() for kept in self.kept)

    def put_back(self) -> list[Path]:
        """Makes everything as it was; returns what could not be."""
        failed: list[Path] = []
        left = iter(self.kept)
        while True:
            with Catch() as caught:  # one for all that goes well
                for kept in left:
                    if not kept.is_as_before():
                        kept.put_back()
            if caught.error is None:
                return failed
            failed.append(kept.path)

    def _walk(self, queue: deque[tuple[Any, Any]], limit: int) -> None:
        seen, kinds_of = self._seen, self._kinds
        while queue:
            path, value = queue.popleft()
            if id(value) in seen:
                continue
            if len(seen) >= limit:
                self.beyond = name_of(path)
                return
            seen[id(value)] = value
            for kind in kinds_of[type(value)]:
                if kind is _ITERATOR or (kind is ARRAY and self._is_too_large(value)):
                    self.others.append((path, value))
                    continue
                taken = kind.take(value)
                if taken is None:
                    continue
                if kind.put_back is not None:
                    self.kept.append(Kept(path, kind, value, taken))
                queue += [
                    ((path, name, kind.is_named), part)
                    for name, part in kind.parts(taken)
                    if kinds_of[type(part)]
                ]

    def _is_too_large(self, values: np.ndarray) -> bool:
        self._array_bytes += values.nbytes
        return self._array_bytes > _MAX_ARRAY_BYTES


def name_of(path: Path) -> str:
    """Returns where something was found, as it would be written."""
    name = ""
    while path is not None:
        path, part, is_named = path
        if not is_named:
            part = f"[{part!r}]" if type(part) in (str, int) else f"[{type(part).__name__}]"
        elif path is not None:
            part = f".{part}"
        name = part + name
    name = re.sub(r"\._(?:parameters|buffers|modules)\['([^']*)'\]", r".\1", name)
    name = name.replace(".cell_contents", "").replace(".()", "()")
    return name.lstrip(".") or "the model"


def modules_by_name(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the modules of a model, and tensors that only its methods give away."""
    yield from module.named_modules()
    if isinstance(module, torch.jit.ScriptModule):  # its tensors are no attributes
        yield from module.named_parameters()
        yield from module.named_buffers()


# -- which kinds of state a class has


def _way(parts: Any, *, is_named: bool = False) -> Kind:
    """Returns the kind of what holds no state itself, but leads to some."""
    return Kind(take=lambda value: value, parts=parts, is_named=is_named)


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    yield "__defaults__", function.__defaults__
    yield "__kwdefaults__", function.__kwdefaults__


def _wrapped(value: Any) -> list[tuple[str, Any]]:
    """Returns what a method is bound to, or what a partial function or a decorator wraps."""
    names = ("__self__", "__func__", "func", "args", "keywords")
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


_ITERATOR = _way(lambda value: ())  # what it goes over is of no use: it cannot be wound back
_AROUND = _way(_wrapped, is_named=True)
_TABLE: tuple[tuple[type, tuple[Kind, ...]], ...] = (
    (Tensor, (TENSOR, ATTRIBUTES)),
    (np.ndarray, (ARRAY, ATTRIBUTES)),
    *((base, (kind,)) for base, kind in STREAMS.items()),
    (tuple, (_way(enumerate),)),
    (frozenset, (_way(enumerate),)),
    (types.MappingProxyType, (_way(lambda value: value.items()),)),
    (types.FunctionType, (ATTRIBUTES, _way(_of_function, is_named=True))),
    *((base, (_AROUND,)) for base in (types.MethodType, types.BuiltinMethodType, partial)),
    *((base, (_AROUND,)) for base in (staticmethod, classmethod)),
    (types.CellType, (CELL,)),
    (type, (CLASS._replace(take=lambda cls: CLASS.take(cls) if _may_hold_state(cls) else None),)),
    (weakref.ref, (_way(lambda value: [("()", value())], is_named=True),)),
    (types.GeneratorType, (_ITERATOR,)),
    (DataLoaderIterator, (_ITERATOR,)),
    *((base, ()) for base in _PROGRAM),
)
_OF_MODULE = ATTRIBUTES._replace(
    parts=lambda taken: ((name, part) for name, part in taken.items() if name not in _SKIPPED)
)


class KindsOf(dict[type, tuple[Kind, ...]]):
    """The kinds of state of each class's instances; none for numbers and what is left alone."""

    def __missing__(self, cls: type) -> tuple[Kind, ...]:
        kinds: tuple[Kind, ...] = ()
        with Catch():  # the user's metaclass may fail
            kinds = _kinds_of(cls)
        self[cls] = kinds
        return kinds


def _kinds_of(cls: type) -> tuple[Kind, ...]:
    for base, kinds in _TABLE:
        if issubclass(cls, base):
            return kinds
    container = next((kind for base, kind in CONTAINERS.items() if issubclass(cls, base)), None)
    if container is not None:
        return (container, *_of_objects(cls))
    if not issubclass(cls, nn.Module) and any(map(_is_of_program, cls.__mro__)):
        return ()
    if hasattr(cls, "__next__") and cls.__module__ in ("builtins", "itertools"):
        return (_ITERATOR,)
    return tuple(_of_objects(cls))


def _of_objects(cls: type) -> Iterator[Kind]:
    """Yields the kinds of state of objects: attributes, slots and the classes above."""
    if cls.__dictoffset__:
        yield _OF_MODULE if issubclass(cls, nn.Module) else ATTRIBUTES
    slots = {
        name: slot
        for base in reversed(cls.__mro__)
        if "__slots__" in vars(base)
        for name, slot in vars(base).items()
        if isinstance(slot, types.MemberDescriptorType)
    }
    if slots:
        yield in_slots(slots)
    classes = [("__class__", base) for base in cls.__mro__ if _may_hold_state(base)]
    if classes:
        yield _way(lambda value: classes, is_named=True)


def _home_of(cls: type) -> str:
    return f"{vars(cls).get('__module__', '')}."


def _is_of_program(cls: type) -> bool:
    return _home_of(cls).startswith(_PROGRAM_PACKAGES)


def _may_hold_state(cls: type) -> bool:
    is_made_in_python = bool(cls.__flags__ & 1 << 9)  # a heap type
    home = _home_of(cls)
    return is_made_in_python and not home.startswith((*_STATELESS_PACKAGES, *_PROGRAM_PACKAGES))
