"""Which parts of a batch are the model's input and the labels, or what to write instead."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from vis_callbacks.engine.batch_parts import (
    Part,
    Place,
    is_list_of_images,
    is_list_of_samples,
    written,
)
from vis_callbacks.engine.labels import label_form
from vis_callbacks.engine.plain_tensors import is_plain
from vis_callbacks.engine.scores import describe

_OF_GRAPHS = frozenset({"edge_index", "edge_attr", "adj", "adj_t", "senders", "receivers"})
_IMAGE_AXES = 4

# How much a part is like labels.
_CLASSES = 3.0  # as good as a part can be
_VALUES = 2.0
_HINT = 0.25  # that there is no class 0: no more than a hint
_FEW = 4  # so few samples differ in any label


class Fit(IntEnum):
    """How well a part without a name fits as the input, the better the higher."""

    NONE = -1
    INDICES = 0  # (samples,) whole numbers
    NUMBERS = 1  # (samples,) floating
    TOKENS = 2  # (samples, ...) whole numbers
    FLOATING = 3  # (samples, ...) floating, and images in bytes


# -- the inputs


def choose_inputs(parts: Sequence[Part]) -> tuple[Part | None, list[Part]]:
    """Returns the part that is the input, and those that would fit as well.

    A name decides. Of parts without one it is the one that fits best: of floating ones that
    with most axes, then the first. The last is the target, if there is another to take.
    """
    possible = [part for part in parts if _fit_of(part) != Fit.NONE]
    fitting = [part for part in possible if part.role == "input"]
    if fitting:
        best = min(part.preference for part in fitting)
        fitting = [part for part in fitting if part.preference == best]
    else:
        fitting = [part for part in possible if not part.role]
        if len(fitting) > 1 and fitting[-1] is parts[-1] and not fitting[-1].is_named:
            *others, last = fitting
            is_only_wide = _fit_of(last) >= Fit.TOKENS > max(map(_fit_of, others))
            fitting = [last] if is_only_wide else others
    if not fitting:
        return None, []
    best_fit = max(map(_rank, fitting))
    chosen, *rivals = [part for part in fitting if _rank(part) == best_fit]
    return chosen, rivals


def _fit_of(part: Part) -> Fit:
    """Returns how well a part fits as the input."""
    tensor = part.tensor
    if tensor is None:
        is_input = isinstance(part.value, PackedSequence) or is_list_of_images(part.value)
        return Fit.FLOATING if is_input else Fit.NONE
    if tensor.is_nested:
        return Fit.FLOATING
    is_wide = tensor.dim() > 1 and math.prod(tensor.shape[1:]) != 1
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return Fit.FLOATING if is_wide else Fit.NUMBERS
    if not is_wide:
        return Fit.INDICES
    return Fit.FLOATING if tensor.dtype == torch.uint8 and tensor.dim() > 2 else Fit.TOKENS


def _rank(part: Part) -> tuple[int, int]:
    fit, tensor = _fit_of(part), part.tensor
    if fit != Fit.FLOATING:
        return fit, 0
    return fit, tensor.dim() if tensor is not None else _IMAGE_AXES


def why_no_inputs(
    batch: Any,
    parts: Sequence[Part],
    inputs: Part | None,
    rivals: Sequence[Part],
    labels: Part | None,
) -> str:
    """Returns why the input cannot be taken and what to write; nothing where it can be."""
    if is_list_of_samples(batch):
        return _of_samples(batch)
    looks = f"the batch, which looks like {describe(batch)}"
    if inputs is None:
        return (
            f"no input tensor was found in {looks}. "
            "Write input_fn=lambda batch: ... that returns it."
        )
    if _is_graph(parts, inputs):
        return (
            f"the rows of {looks}, are nodes of graphs, not samples. If single nodes can be run on "
            "their own, write input_fn=lambda batch: ... and forward_fn."
        )
    there = written(batch, inputs.place)
    if isinstance(inputs.value, PackedSequence):
        return (
            f"{there} is a PackedSequence, whose rows are not samples. Write "
            "input_fn=lambda batch: torch.nn.utils.rnn.pad_packed_sequence("
            f"{there}, batch_first=True)[0] and forward_fn=lambda module, inputs: "
            "module(torch.nn.utils.rnn.pack_sequence(list(inputs)))."
        )
    if is_list_of_images(inputs.value):
        return _of_sizes(inputs.value, there)
    if rivals and _fit_of(inputs) in (Fit.INDICES, Fit.NUMBERS):
        columns = ", ".join(written(batch, part.place) for part in (inputs, *rivals))
        return (
            f"several parts may be the input in {looks}. Write input_fn=lambda batch: "
            f"torch.stack([{columns}], 1) and, where the model takes them one by one, "
            "forward_fn=lambda module, inputs: module(*inputs.unbind(1))."
        )
    if labels is not None and _are_samples_second(inputs.tensor, labels):
        return (
            f"the samples of {there}, {describe(inputs.value)}, lie on its second axis. Write "
            f"input_fn=lambda batch: {there}.transpose(0, 1) and "
            "forward_fn=lambda module, inputs: module(inputs.transpose(0, 1))."
        )
    return ""


def _of_samples(batch: Sequence[Any]) -> str:
    first = batch[0]
    items = first.items() if isinstance(first, Mapping) else enumerate(first)
    key = next((key for key, item in items if isinstance(item, Tensor)), 0)
    there = f'"{key}"' if isinstance(key, str) else key
    return (
        f"the batch is a list of {len(batch)} samples, such as {describe(first)}. Write "
        f"input_fn=lambda batch: torch.stack([sample[{there}] for sample in batch])."
    )


def _of_sizes(images: Sequence[Tensor], there: str) -> str:
    sizes = list(dict.fromkeys(tuple(image.shape) for image in images))
    if len(sizes) == 1:
        return ""
    return (
        f"{there} is a list of {len(images)} images of different sizes, such as {sizes[0]} and "
        f"{sizes[1]}. Write input_fn=lambda batch: torch.stack([torchvision.transforms.functional"
        f".resize(image, [224, 224]) for image in {there}])."
    )


def _is_graph(parts: Sequence[Part], inputs: Part) -> bool:
    """Whether a part holds edges: by its name, as pairs of whole numbers, or as a sparse matrix."""
    others = [part for part in parts if part is not inputs and part.tensor is not None]
    return any(
        not _OF_GRAPHS.isdisjoint(part.place) or _holds_edges(part.tensor, inputs.tensor)
        for part in others
    )


def _holds_edges(tensor: Tensor | None, nodes: Tensor | None) -> bool:
    if tensor is None or nodes is None or tensor.is_nested or tensor.dim() != 2:
        return False
    if tensor.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc):
        return tensor.shape[0] == tensor.shape[1] == len(nodes)
    return tensor.dtype == torch.int64 and len(tensor) == 2 != len(nodes)


def _are_samples_second(tensor: Tensor | None, labels: Part) -> bool:
    num_labels = len(labels.value)
    is_one_each = labels.tensor is None or labels.tensor.dim() == 1
    if tensor is None or tensor.dim() < 2 or not is_one_each or num_labels < 2:
        return False
    return tensor.shape[0] != num_labels == tensor.shape[1]


# -- the labels


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
        if inputs.tensor is not None or isinstance(inputs.value, list):  # its rows are samples
            num_samples = len(inputs.value)
            others = [part for part in others if len(part.value) == num_samples] or others[:1]
        others = [part for part in others if not _is_alike(part.tensor, inputs.tensor)]
    if not others:
        return None, []
    first = -1 if inputs is None else parts.index(inputs)
    if len(others) == 1 and parts.index(others[0]) > first:
        return others[0], []
    sizes = {size for part in parts if part.tensor is not None for size in part.tensor.shape[1:]}
    scored = [(part, _score(part, sizes) - (parts.index(part) < first) / 2) for part in others]
    best = max(score for _, score in scored)
    alike = [part for part, score in scored if score == best]
    if best <= _VALUES:
        return (alike[0] if len(others) > 1 else None), []
    chosen = alike[-1]
    return chosen, [p for p, score in scored if p is not chosen and score >= best - _HINT]


def _nearest(parts: Sequence[Part], place: Place) -> list[Part]:
    """Returns the parts of the outermost container around a place that has any of its own."""
    for depth in range(len(place)):
        around = [p for p in parts if len(p.place) == depth + 1 and p.place[:-1] == place[:depth]]
        if around:
            return around
    return list(parts)


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
