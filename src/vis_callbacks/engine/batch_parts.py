"""The parts of a batch of any form: where each lies, and what its names say that it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from vis_callbacks.engine.scores import named_fields

Place = tuple[str | int, ...]  # the names and indices that lead from a batch to one of its parts
Role = Literal["input", "label", "neither", ""]

# In the order in which they are preferred. Words of a longer name count as well ("image_1").
_INPUT_NAMES = (
    *("image", "images", "img", "imgs", "input", "inputs", "x", "pixel_values", "features"),
    *("data", "input_ids", "tokens"),
)
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "class", "classes")
_ACCESSORIES = frozenset(
    {"mask", "masks", "length", "lengths", "len", "lens", "weight", "weights", "offsets", "path"}
)
_NUMBERING = frozenset({"index", "indices", "idx", "idxs", "id", "ids", "uid", "ptr"})
_MAX_DEPTH = 3
_MAX_PARTS = 16  # of a list; a longer one holds samples, not parts
_MAX_TENSORS = 256  # of one container: a batch of a list of samples has a tensor or two in each
_IMAGE_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Part:
    """A tensor of a batch, or what stands for one: a list of images or of whole numbers."""

    place: Place
    value: Any

    @cached_property
    def role(self) -> Role:
        """What its nearest telling name says that it is, nothing where none does."""
        return next(filter(None, map(_role_of, self._names)), "")

    @property
    def preference(self) -> int:
        """The rank of its name among those of its role, the lower the better."""
        known = _INPUT_NAMES if self.role == "input" else _LABEL_NAMES
        return min((known.index(n) for n in self._names if n in known), default=len(known))

    @property
    def is_named(self) -> bool:
        """Whether it has a name, which then decides, and not its position."""
        return bool(self.place) and isinstance(self.place[-1], str)

    @property
    def tensor(self) -> Tensor | None:
        """The part itself, if it is a tensor."""
        return self.value if isinstance(self.value, Tensor) else None

    @property
    def form(self) -> tuple[object, ...]:
        """What it has in common with this part of other batches: all but numbers and sizes."""
        tensor = self.tensor
        kind = type(self.value) if tensor is None else (tensor.dim(), tensor.dtype)
        return self.place, kind

    @property
    def _names(self) -> list[str]:
        return [key.lower() for key in reversed(self.place) if isinstance(key, str)]


def parts_of(value: Any, place: Place = ()) -> Iterator[Part]:
    """Yields the parts of a batch in their order, those of nested containers among them."""
    if isinstance(value, Tensor):
        if value.dim() > 0:
            yield Part(place, value)
    elif isinstance(value, PackedSequence) or _is_one_part(value, place):
        yield Part(place, value)
    elif len(place) < _MAX_DEPTH:
        for key, item in _items(value):
            # A detector's targets, a mapping a sample, are not opened; two loaders' batches are.
            if not (place and isinstance(value, list | tuple) and isinstance(item, Mapping)):
                yield from parts_of(item, (*place, key))


def follow(batch: Any, place: Place) -> Any:
    """Returns what lies at a place; a list of tensors or whole numbers as one tensor."""
    for key in place:
        batch = _at(batch, key)
    if isinstance(batch, list | tuple) and not isinstance(batch, PackedSequence):
        is_of_tensors = isinstance(batch[0], Tensor)
        return torch.stack(list(batch)) if is_of_tensors else torch.tensor(batch)
    return batch


def written(batch: Any, place: Place) -> str:
    """Returns a place as one writes it: ``batch[0]["image"]``."""
    text = "batch"
    for key in place:
        is_attribute = isinstance(key, str) and not isinstance(batch, Mapping)
        text += f".{key}" if is_attribute else f'["{key}"]' if isinstance(key, str) else f"[{key}]"
        batch = _at(batch, key)
    return text


def _at(value: Any, key: str | int) -> Any:
    return (named_fields(value) or {})[key] if isinstance(key, str) else value[key]


def tensors_in(batch: Any, depth: int = _MAX_DEPTH + 1) -> Iterator[Tensor]:
    """Yields all tensors in nested dicts, lists and tuples, and in attributes of an object."""
    if isinstance(batch, Tensor):
        yield batch
    elif depth > 0:
        if not isinstance(batch, list | tuple):
            held = batch if isinstance(batch, Mapping) else getattr(batch, "__dict__", {})
            batch = list(held.values())
        for item in batch[:_MAX_TENSORS]:
            yield from tensors_in(item, depth - 1)


def guessed_size(batch: Any) -> int:
    """Returns how many samples a batch seems to have, 0 where that cannot be told.

    That is the length that most of its tensors have; of several such the first.
    """
    lengths = Counter(int(t.size(0)) for t in tensors_in(batch) if t.dim() > 0)
    return lengths.most_common(1)[0][0] if lengths else 0


def is_list_of_images(value: object) -> bool:
    """Whether this is a list of single images, and not of several batches."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(
            isinstance(item, Tensor) and item.dim() == 3 and item.shape[0] in _IMAGE_CHANNELS
            for item in value
        )
    )


def is_list_of_samples(value: object) -> bool:
    """Whether this is a list of samples that nobody has put together: they hold numbers."""
    if not isinstance(value, list | tuple) or not value:
        return False
    if not all(isinstance(sample, Mapping | list | tuple) for sample in value):
        return False
    first = value[0].values() if isinstance(value[0], Mapping) else value[0]
    return any(
        isinstance(item, int | float | str) or (isinstance(item, Tensor) and item.dim() == 0)
        for item in first
    )


def _role_of(name: str) -> Role:
    if name in _INPUT_NAMES:
        return "input"
    if name in _LABEL_NAMES:
        return "label"
    words = set(re.split(r"[^a-z]+", name))
    if words & _ACCESSORIES:
        return "neither"
    if words & set(_LABEL_NAMES):
        return "label"
    if words & _NUMBERING:
        return "neither"
    return "input" if words & set(_INPUT_NAMES) else ""


def _is_one_part(value: object, place: Place) -> bool:
    """Whether a list stands for one tensor. A whole batch may be three grey images as parts."""
    if not isinstance(value, list | tuple) or not value:
        return False
    if all(type(item) is int for item in value):
        return True
    return is_list_of_images(value) and (bool(place) or len(value) > _MAX_DEPTH)


def _items(value: Any) -> Sequence[tuple[str | int, Any]]:
    """Returns the items of a container by name or index; of a list of samples none."""
    named = named_fields(value)
    if named is not None and not (isinstance(value, tuple) and not any(map(_role_of, named))):
        return list(named.items())
    if not isinstance(value, list | tuple) or is_list_of_samples(value):
        return []
    return list(enumerate(value)) if len(value) <= _MAX_PARTS else []
