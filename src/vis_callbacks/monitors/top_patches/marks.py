"""Forward passes through which marks of NaN spread to whatever depends on them, and no further."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

GATED = "channels are scaled by numbers that see the whole image (squeeze-and-excite)"
NORMALISED = "a normalisation takes its mean and deviation from the whole image"
ATTENTION = "attention"
WIDE = "a field larger than the image"

_NORMS = frozenset({"native_group_norm", "native_layer_norm", "native_batch_norm",
                    "_native_batch_norm_legit", "_batch_norm_with_update"})  # fmt: skip
# These answer a NaN with a number.
_FORGETFUL = frozenset({"where", "nan_to_num", "softshrink", "fmax", "fmin"})
# On a GPU these end the process where they are given a NaN, or an index that is too large.
_DRAWN = frozenset({"multinomial", "bernoulli", "poisson", "binomial"})
_LOOKED_UP = ("embedding", "index", "gather", "scatter", "take", "put")
_REASONS = (
    ("attention|softmax|bmm", ATTENTION),
    ("adaptive|^(mean|sum|amax|amin|max|min|prod|var|std|logsumexp)$", "global pooling"),
    ("convolution|pool|upsample|pad", WIDE),
    ("^(add)?m[mv]$|linear", "a fully connected layer"),
)


class NotFollowedError(RuntimeError):
    """A mark cannot be sent through this network; the message says why."""


class MarkedPass(TorchDispatchMode):
    """Lets NaN pass through a network as its values would.

    What the whole image decides and each place only takes its scale from is held fixed: the
    statistics of a normalisation, and the gates of channels. ``explains`` keeps, of every tensor,
    what was held fixed on its way and which operation made it see the whole image; this waits for
    the device at each operation.
    """

    def __init__(self, *, is_resized: bool = False, explains: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._is_resized = is_resized
        self._explains = explains
        self._notes: Any = WeakTensorKeyDictionary()
        self._reasons: Any = WeakTensorKeyDictionary()

    def notes_of(self, tensor: Tensor) -> tuple[str, ...]:
        """Returns what was held fixed on the way to a tensor."""
        return tuple(sorted(self._notes.get(tensor, ())))

    def reason_of(self, tensor: Tensor) -> str:
        """Returns which operation joined all places of the image; "" where none was seen."""
        return str(self._reasons.get(tensor, ""))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs one operation."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__.rstrip("_")
        given = [x for x in tree_leaves((args, kwargs)) if _may_be_marked(x)]
        self._refuse_what_is_dangerous(name, given, args, kwargs)
        lost = [x.isnan() for x in given] if name in _FORGETFUL else []
        notes: set[str] = set()
        if name in _NORMS:
            result = self._normalised(func, args, kwargs, notes)
        elif name in ("mul", "div") and len(given) == 2:
            result = func(*self._without_gates(given, args, notes), **kwargs)
        elif "upsample" in name:
            result = self._interpolated(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        if name.startswith("_fft"):  # its algorithms let some NaN get lost
            nan = complex(torch.nan, torch.nan) if result.is_complex() else torch.nan
            result[args[0].isnan().flatten(1).any(1)] = nan
        for mask in lost:
            if result.is_floating_point():
                result.masked_fill_(mask, torch.nan)
        if self._explains:
            self._explain(name, given, result, notes)
        return result

    def _normalised(self, func: Any, args: Any, kwargs: Any, notes: set[str]) -> Any:
        mask = args[0].isnan()
        result = func(args[0].masked_fill(mask, 0), *args[1:], **kwargs)
        if self._explains and not _same_marks(func(*args, **kwargs)[0], mask):
            notes.add(NORMALISED)
        result[0].masked_fill_(mask, torch.nan)
        return result

    def _interpolated(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Returns marks where a weight is not 0: at borders pixels are read that do not count."""
        mask = args[0].isnan()
        result: Tensor = func(args[0].masked_fill(mask, 0), *args[1:], **kwargs)
        reached = func(mask.to(result.dtype), *args[1:], **kwargs) != 0
        return result.masked_fill_(reached, torch.nan)

    def _without_gates(self, given: list[Tensor], args: Any, notes: set[str]) -> list[Any]:
        held = list(args)
        for place, (gate, other) in enumerate((given, given[::-1])):
            if _is_gate(gate, other) and held[place] is gate:
                if self._explains and bool(gate.isnan().any()):
                    notes.add(GATED)
                held[place] = gate.masked_fill(gate.isnan(), 1)
        return held

    def _refuse_what_is_dangerous(
        self, name: str, given: list[Tensor], args: Any, kwargs: Any
    ) -> None:
        to_whole = name == "_to_copy" and not _is_float(kwargs.get("dtype") or torch.float)
        to_whole = to_whole or (name == "copy" and not args[0].is_floating_point())
        if (name in _DRAWN or to_whole) and any(bool(x.isnan().any()) for x in given):
            raise NotFollowedError(f"the image's values choose what is computed ({name})")
        if self._is_resized and name.startswith(_LOOKED_UP):
            raise NotFollowedError(f"a table might be too short for a larger image ({name})")

    def _explain(self, name: str, given: list[Tensor], result: Any, notes: set[str]) -> None:
        reasons = [self._reasons[x] for x in given if x in self._reasons]
        for x in given:
            notes |= self._notes.get(x, set())
        for tensor in filter(_may_be_marked, tree_leaves(result)):
            self._notes[tensor] = notes
            if tensor.numel() and bool(tensor.isnan().all()):
                ways = [ATTENTION] if ATTENTION in reasons else reasons
                self._reasons[tensor] = (ways or [_reason(name)])[0]


@contextmanager
def exact_windows() -> Iterator[None]:
    """Keeps convolutions from algorithms that read beyond their windows, as Winograd's does."""
    was_enabled = torch.backends.cudnn.enabled
    try:
        torch.backends.cudnn.enabled = False
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.backends.cudnn.enabled = was_enabled


def _may_be_marked(value: Any) -> bool:
    return isinstance(value, Tensor) and _is_float(value.dtype) and value.dim() > 0


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _same_marks(values: Tensor, mask: Tensor) -> bool:
    return bool((values.isnan() == mask).all())


def _is_gate(one: Tensor, other: Tensor) -> bool:
    """Whether it is one number for all places of the other: one a channel, first or last."""
    if one.dim() != other.dim() or one.dim() < 3:
        return False
    first = set(one.shape[2:]) == {1} != set(other.shape[2:])
    return first or (one.dim() > 3 and set(one.shape[1:-1]) == {1} != set(other.shape[1:-1]))


def _reason(name: str) -> str:
    return next((words for pattern, words in _REASONS if re.search(pattern, name)), name.strip("_"))
