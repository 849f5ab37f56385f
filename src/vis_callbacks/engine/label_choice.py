"""Which part of a batch holds the labels of its samples."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from torch import Tensor

from vis_callbacks.engine.batch_places import Part, Place
from vis_callbacks.engine.labels import label_form
from vis_callbacks.engine.plain_tensors import is_plain

_CLASSES = 3.0  # as good as a part can be
_VALUES = 2.0
_HINT = 0.25  # that there is no class 0: no more than a hint
_FEW = 4  # so few samples differ in any label


def choose_labels(parts: Sequence[Part], inputs: Part | None) -> tuple[Part | None, list[Part]]:
    """Returns the part that holds the labels, and those that would fit as well.

    A name decides. Of parts without one it is the one with one class a sample. Where several
    have, their values are asked (once: this waits for the device): an index has another one
    for each sample, lengths are those of the input. Of several that remain it is the last.
    """
    others = [part for part in parts if part is not inputs and _is_of_values(part)]
    named = [part for part in others if part.role == "label"]
    if named:
        return min(named, key=lambda part: part.preference), []
    others = [part for part in others if not part.role and not part.is_named]
    if inputs is not None:
        others = _nearest(others, inputs.place)
        num_samples = _num_samples(inputs)
        if num_samples is not None:
            others = [part for part in others if len(part.value) == num_samples] or others[:1]
        others = [part for part in others if not _is_alike(part.tensor, inputs.tensor)]
    if not others:
        return None, []
    first = -1 if inputs is None else parts.index(inputs)
    is_before = [parts.index(part) < first for part in others]
    if len(others) == 1 and not is_before[0]:
        return others[0], []
    sizes = {size for part in parts if part.tensor is not None for size in part.tensor.shape[1:]}
    scores = [
        _score(part, sizes) - before / 2 for part, before in zip(others, is_before, strict=True)
    ]
    best = max(scores)
    if len(others) == 1:
        return (others[0] if best > _VALUES else None), []
    alike = [part for part, score in zip(others, scores, strict=True) if score == best]
    chosen = alike[-1] if best > _VALUES else alike[0]
    rivals = [
        part
        for part, score in zip(others, scores, strict=True)
        if part is not chosen and score >= best - _HINT and best > _VALUES
    ]
    return chosen, rivals


def _nearest(parts: Sequence[Part], place: Place) -> list[Part]:
    """Returns the parts of the outermost container around a place that has any of its own."""
    for depth in range(len(place)):
        around = [p for p in parts if len(p.place) == depth + 1 and p.place[:-1] == place[:depth]]
        if around:
            return around
    return list(parts)


def _num_samples(inputs: Part) -> int | None:
    """Returns how many samples the input has, None where its rows are no samples."""
    is_of_rows = inputs.tensor is not None or isinstance(inputs.value, list)
    return len(inputs.value) if is_of_rows else None


def _is_of_values(part: Part) -> bool:
    """Whether it is a tensor or a list of whole numbers, and not one of images."""
    return part.tensor is not None or type(part.value[0]) is int


def _is_alike(part: Tensor | None, inputs: Tensor | None) -> bool:
    """Whether this is another view of the input, or its reconstruction."""
    if part is None or inputs is None or part.is_nested or inputs.is_nested:
        return False
    is_wide = part.dim() > 1 and math.prod(part.shape[1:]) > 1
    return is_wide and (part.shape, part.dtype) == (inputs.shape, inputs.dtype)


def _score(part: Part, sizes: Collection[int]) -> float:
    """Returns how much a part is like labels. ``sizes`` are those of all axes in the batch."""
    tensor = part.tensor
    if tensor is None:  # a list of whole numbers
        return _CLASSES - _is_numbering(part.value, sizes)
    if not is_plain(tensor):
        return 0.0
    form = label_form(tensor)
    if form == "whole":
        return _CLASSES - _is_numbering(tensor.flatten().tolist(), sizes)
    if form in ("binary", "one-hot"):
        return _CLASSES
    if tensor.dim() > 2:
        return 1.0
    return _VALUES if tensor.is_floating_point() else 1.5


def _is_numbering(values: Sequence[int], sizes: Collection[int]) -> float:
    """Returns how much whole numbers are like an index or lengths, and not like classes."""
    if len(values) >= _FEW and len(set(values)) == len(values):
        return 2.0 if list(values) == list(range(values[0], values[0] + len(values))) else 1.0
    if not values or min(values) < 1:
        return 0.0
    return 1.5 if max(values) in sizes else _HINT
