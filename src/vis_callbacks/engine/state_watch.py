"""Puts back the state that extra passes move, and finds out what cannot be put back."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from types import GeneratorType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data.dataloader import _BaseDataLoaderIter as DataLoaderIterator

from vis_callbacks.engine.kept_state import KeptTensor
from vis_callbacks.engine.reached_state import Path, ReachedState, modules_by_name, name_of
from vis_callbacks.engine.saved_writes import SavedWrites, storages_of
from vis_callbacks.guard import Catch, NothingToShow, log

_MAX_HOST_BYTES = 2 << 30  # are read for a checksum; devices read theirs much faster
_MAX_OBJECTS_GIVEN = 1_000  # of the inputs of a pass
_MAX_NAMES = 3
_MAX_DEPTH = 4


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

    def require_harmless(self) -> None:
        """Raises ExtraPassRefused where an extra pass has changed the run before."""
        if self._refusal:
            raise ExtraPassRefused(self._refusal)

    @contextmanager
    def keeping(self, model: nn.Module, kind: Hashable) -> Iterator[KeptState]:
        """Puts back what the passes inside move. ``kind`` tells passes that do alike."""
        kept = KeptState(modules_by_name(model))
        is_first = kind not in self._compared
        self._compared.add(kind)
        marks = _Marks(kept.state) if is_first else None
        if kept.state.beyond:
            self._say_limit(kept.state.beyond)
        try:
            yield kept
        finally:
            moved = kept.put_back()
            if marks is not None:
                moved += marks.differing()
            if moved:
                self._refuse(moved)

    def _refuse(self, moved: Iterable[Path]) -> None:
        if self._refusal:
            return
        names = list(dict.fromkeys(map(name_of, moved)))
        listed = ", ".join(names[:_MAX_NAMES]) + (", ..." if len(names) > _MAX_NAMES else "")
        self._refusal = f"an extra forward pass changes {listed}, which cannot be put back"
        log(
            f"The model's forward changes {listed}, and an extra pass over it cannot put that "
            "back. There are no extra passes from now on: what needs them is left out, and "
            "what reads the run's own passes goes on."
        )

    def _say_limit(self, name: str) -> None:
        if not self._has_said_limit:
            self._has_said_limit = True
            log(
                f"More objects hang on the model than extra passes look at: what lies beyond "
                f"{name} is not compared.",
                level=logging.INFO,
            )


@final
class KeptState:
    """The state of some objects as it was, and of what passes over a model are given."""

    def __init__(self, roots: Iterable[tuple[str, Any]]) -> None:
        self.state = ReachedState(roots)
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
            if state.changes():
                self._given.append(state)  # not at once: a graph of this pass may be alive

    def put_back(self) -> list[Path]:
        """Makes everything as it was; returns what could not be."""
        failed = self._written_unseen()
        with Catch() as caught:
            self.writes.put_back()
        if caught.error is not None:
            failed.append((None, "parameters"))
        for state in (*self._given, self.state):
            failed += state.put_back()
        return failed

    def _written_unseen(self) -> list[Path]:
        """Returns tensors that autograd has seen a write to, of which no copy was made."""
        return [
            path
            for path, kept in self.state.found
            if isinstance(kept, KeptTensor)
            and kept.has_new_version()
            and not self.writes.was_written(kept.alias)
        ]


class _Marks:
    """What tells whether values have changed that no object's identity gives away."""

    def __init__(self, state: ReachedState) -> None:
        self._storages = list(_storages(state))
        self._others = state.others
        self._before = self._now()

    def differing(self) -> list[Path]:
        """Returns what is not as it was."""
        after = self._now()
        return [path for path, mark in self._before.items() if after.get(path) != mark]

    def _now(self) -> dict[Path, Any]:
        marks: dict[Path, Any] = {}
        with Catch():
            sums = _listed([_checksum(storage) for _, storage in self._storages])
            marks.update(zip((path for path, _ in self._storages), sums, strict=True))
        for path, value in self._others:
            with Catch():
                marks[path] = _mark_of(value)
        return marks


def _storages(state: ReachedState) -> Iterator[tuple[Path, Any]]:
    """Yields each storage that can be reached once, those of the host up to a limit."""
    seen: set[int] = set()
    num_bytes = 0
    for path, kept in state.found:
        for storage in storages_of(kept.alias) if isinstance(kept, KeptTensor) else ():
            if storage._cdata in seen:
                continue
            seen.add(storage._cdata)
            num_bytes += storage.nbytes() if storage.device.type == "cpu" else 0
            if num_bytes <= _MAX_HOST_BYTES:
                yield path, storage


_WIDTH = 1021  # of the sums: what is moved by another number of places shows


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


def _listed(numbers: list[Tensor]) -> list[int]:
    devices = {number.device for number in numbers}
    if len(devices) > 1:
        return [int(number) for number in numbers]
    return torch.stack(numbers).tolist() if numbers else []


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
