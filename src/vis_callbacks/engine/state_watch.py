"""Puts back the state that extra passes move, and finds out what cannot be put back."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter as DataLoaderIterator

from vis_callbacks.engine.reached_state import KindsOf, Path, ReachedState, modules_by_name, name_of
from vis_callbacks.engine.saved_writes import SavedWrites, storages_of
from vis_callbacks.engine.state_kinds import TENSOR, has_new_version
from vis_callbacks.guard import Catch, NothingToShow, log

_MAX_HOST_BYTES = 2 << 30  # are read for a checksum; devices read theirs much faster
_MAX_OBJECTS_GIVEN = 1_000  # of the inputs of a pass
_MAX_NAMES = 3
_MAX_DEPTH = 4
_WIDTH = 1021  # of the sums: what is moved by another number of places shows


class ExtraPassRefused(NothingToShow):
    """Says that there are no extra passes in this run: they would change it."""


@final
class StateWatch:
    """What is known of a run's state under extra passes: one a run, for all its monitors.

    Around the first pass of each kind the values of all state that can be reached are compared
    with those before. Where something has changed that cannot be put back, a warning names it,
    and from then on no extra pass is made.
    """

    def __init__(self) -> None:
        self._refusal = ""
        self._compared: set[Hashable] = set()
        self._has_said_limit = False
        self._kinds = KindsOf()

    def require_harmless(self) -> None:
        """Raises ExtraPassRefused where an extra pass has changed the run before."""
        if self._refusal:
            raise ExtraPassRefused(self._refusal)

    @contextmanager
    def keeping(self, model: nn.Module, kind: Hashable) -> Iterator[KeptState]:
        """Puts back what the passes inside move. ``kind`` tells passes that do the same."""
        kept = KeptState(modules_by_name(model), self._kinds)
        compared = [] if kind in self._compared else _comparable(kept.state)
        self._compared.add(kind)
        before = _marks(compared)
        if kept.state.beyond and not self._has_said_limit:
            self._has_said_limit = True
            log(
                f"More objects are attached to the model than extra passes check: those beyond "
                f"{kept.state.beyond} are not compared.",
                level=logging.INFO,
            )
        try:
            yield kept
        finally:
            moved = kept.put_back()
            pairs = zip(compared, before, _marks(compared), strict=True)
            moved += [path for (path, _), mark, now in pairs if mark != now]
            if moved and not self._refusal:
                self._refuse(list(dict.fromkeys(map(name_of, moved))))

    def _refuse(self, names: Sequence[str]) -> None:
        listed = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
        self._refusal = f"an extra forward pass changes {listed}, which cannot be put back"
        log(
            f"The model's forward changes {listed}, and an extra pass over it cannot put that "
            "back. There are no extra passes from now on: what needs them is left out, and "
            "what reads the run's own passes goes on."
        )


@final
class KeptState:
    """The state of some objects as it was, and of what passes over a model are given."""

    def __init__(self, roots: Iterable[tuple[str, Any]], kinds: KindsOf | None = None) -> None:
        self.state = ReachedState(roots, kinds=kinds)
        self.writes = SavedWrites()
        self.writes.know(self.state.tensors)
        self._given: list[ReachedState] = []

    @contextmanager
    def given(self, inputs: Any) -> Iterator[None]:
        """Keeps the inputs of one pass as well."""
        state = ReachedState([("the inputs", inputs)], _MAX_OBJECTS_GIVEN)
        new = self.writes.know(state.tensors)
        try:
            yield
        finally:
            self.writes.forget(new)
            if not state.is_as_before():
                self._given.append(state)  # not put back yet: a graph of this pass may be alive

    def put_back(self) -> list[Path]:
        """Makes everything as it was; returns what could not be."""
        failed: list[Path] = [
            kept.path  # autograd has seen a write of which no copy was made
            for kept in self.state.kept
            if kept.kind is TENSOR
            and has_new_version(kept.owner, kept.saved)
            and not self.writes.was_written(kept.saved.alias)
        ]
        with Catch() as caught:
            self.writes.put_back()
        if caught.error is not None:
            failed.append((None, "parameters", True))
        for state in (*self._given, self.state):
            failed += state.put_back()
        return failed


# -- whether values have changed that no object's identity gives away


def _comparable(state: ReachedState) -> list[tuple[Path, Any]]:
    """Returns each storage that can be reached once, those of the host up to a limit, and more."""
    found: dict[int, tuple[Path, Any]] = {}
    num_bytes = 0
    for kept in state.kept:
        for storage in storages_of(kept.saved.alias) if kept.kind is TENSOR else ():
            if storage._cdata not in found:
                num_bytes += storage.nbytes() if storage.device.type == "cpu" else 0
                if num_bytes <= _MAX_HOST_BYTES:
                    found[storage._cdata] = kept.path, storage
    return [*found.values(), *state.others]


def _marks(compared: Sequence[tuple[Path, Any]]) -> list[Any]:
    """Returns what tells each value from a changed one; of storages by one transfer."""
    marks: list[Any] = []
    for _, value in compared:
        mark = None
        with Catch():
            mark = _checksum(value) if isinstance(value, UntypedStorage) else _mark_of(value)
        marks.append(mark)
    sums = [mark for mark in marks if isinstance(mark, Tensor)]
    numbers: list[Any] = [None] * len(sums)
    with Catch():
        numbers = torch.stack([mark.to(sums[0].device) for mark in sums]).tolist() if sums else []
    left = iter(numbers)
    return [next(left) if isinstance(mark, Tensor) else mark for mark in marks]


def _checksum(storage: Any) -> Tensor:
    """Returns a number, on the storage's device, that a change of any one element changes."""
    values = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    num_rows = len(values) // (8 * _WIDTH)
    split = 8 * _WIDTH * num_rows
    sums = values[:split].view(torch.int64).view(num_rows, _WIDTH).sum(0)
    rest = values[split:].long()
    odd = torch.arange(8 * _WIDTH, device=storage.device) * 2 + 1
    total: Tensor = (sums * odd[:_WIDTH]).sum() + (rest * odd[: len(rest)]).sum()
    return total


def _mark_of(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Returns what tells how far an iterator is, or the checksum of an array."""
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value).view(np.uint8).data)
    if isinstance(value, bool | int | float | str | bytes | None):
        return repr(value)
    if depth == 0:
        return id(value)
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        if frame is None:
            return None
        return frame.f_lasti, [_mark_of(item, depth - 1) for item in frame.f_locals.values()]
    if isinstance(value, DataLoaderIterator):
        return value._num_yielded
    if type(value) in (tuple, list):
        return len(value), [_mark_of(item, depth - 1) for item in value[:_WIDTH]]
    if hasattr(type(value), "__next__") and type(value).__module__ in ("builtins", "itertools"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of itertools: that this will go
            return _mark_of(value.__reduce__(), depth)
    return id(value)
