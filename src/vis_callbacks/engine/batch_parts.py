"""What can be told of a batch of any form: the tensors in it, and how many samples they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

_MAX_DEPTH = 4
_MAX_PARTS = 256  # of one container: a batch of a list of samples has a tensor or two in each


def tensors_in(batch: Any, depth: int = _MAX_DEPTH) -> Iterator[Tensor]:
    """Yields the tensors in nested dicts, lists and tuples, and in attributes of an object."""
    if isinstance(batch, Tensor):
        yield batch
        return
    if depth == 0:
        return
    parts: Any = ()
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    elif isinstance(batch, list | tuple):
        parts = batch
    elif hasattr(batch, "__dict__"):
        parts = list(vars(batch).values())
    for part in parts[:_MAX_PARTS]:
        yield from tensors_in(part, depth - 1)


def guessed_size(batch: Any) -> int:
    """Returns how many samples a batch seems to have, 0 where that cannot be told.

    That is the length that most of its tensors have; of several such the first.
    """
    lengths = Counter(int(t.size(0)) for t in tensors_in(batch) if t.dim() > 0)
    return lengths.most_common(1)[0][0] if lengths else 0
