"""Which part of a batch is the model's input, or what to write where none can be taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from vis_callbacks.engine.batch_places import (
    Part,
    is_list_of_images,
    is_list_of_samples,
    written,
)
from vis_callbacks.engine.scores import describe

_OF_GRAPHS = frozenset({"edge_index", "edge_attr", "adj", "adj_t", "senders", "receivers"})
_IMAGE_AXES = 4


class Fit(IntEnum):
    """How well a part without a name fits as the input, the better the higher."""

    INDICES = 0  # (samples,) whole numbers
    NUMBERS = 1  # (samples,) floating
    TOKENS = 2  # (samples, ...) whole numbers
    FLOATING = 3  # (samples, ...) floating, and images in bytes


def choose_inputs(parts: Sequence[Part]) -> tuple[Part | None, list[Part]]:
    """Returns the part that is the input, and those that would fit as well.

    A name decides. Of parts without one it is the one that fits best: of floating ones that
    with most axes, then the first. The last is the target, if there is another to take.
    """
    fitting = [part for part in parts if part.role == "input" and fit_of(part) is not None]
    if fitting:
        best = min(part.preference for part in fitting)
        fitting = [part for part in fitting if part.preference == best]
    else:
        fitting = [part for part in parts if not part.role and fit_of(part) is not None]
        if len(fitting) > 1 and fitting[-1] is parts[-1] and not fitting[-1].is_named:
            is_only_wide = _is_wide(fitting[-1]) and not any(map(_is_wide, fitting[:-1]))
            fitting = fitting[-1:] if is_only_wide else fitting[:-1]
    if not fitting:
        return None, []
    best_fit = max(map(_rank, fitting))
    alike = [part for part in fitting if _rank(part) == best_fit]
    return alike[0], alike[1:]


def why_no_inputs(
    batch: Any, parts: Sequence[Part], inputs: Part | None, rivals: Sequence[Part]
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
            f"the rows of {looks}, are nodes of graphs and no samples. Where some of them can be "
            "looked at by themselves, write input_fn=lambda batch: ... and forward_fn."
        )
    there = written(batch, inputs.place)
    if isinstance(inputs.value, PackedSequence):
        return (
            f"{there} is a PackedSequence, whose rows are no samples. Write "
            "input_fn=lambda batch: torch.nn.utils.rnn.pad_packed_sequence("
            f"{there}, batch_first=True)[0] and forward_fn=lambda module, inputs: "
            "module(torch.nn.utils.rnn.pack_sequence(list(inputs)))."
        )
    if is_list_of_images(inputs.value):
        return _of_sizes(inputs.value, there)
    if rivals and fit_of(inputs) in (Fit.INDICES, Fit.NUMBERS):
        columns = ", ".join(written(batch, part.place) for part in (inputs, *rivals))
        return (
            f"several parts may be the input of {looks}. Write input_fn=lambda batch: "
            f"torch.stack([{columns}], 1) and, where the model takes them one by one, "
            "forward_fn=lambda module, inputs: module(*inputs.unbind(1))."
        )
    return ""


def why_not_samples_first(batch: Any, inputs: Part, labels: Part) -> str:
    """Returns what to write where the samples lie on the second axis of the inputs."""
    tensor, num_labels = inputs.tensor, len(labels.value)
    is_one_each = labels.tensor is None or labels.tensor.dim() == 1
    if tensor is None or tensor.dim() < 2 or not is_one_each or num_labels < 2:
        return ""
    if tensor.shape[0] == num_labels or tensor.shape[1] != num_labels:
        return ""
    there = written(batch, inputs.place)
    return (
        f"the samples of {there}, {describe(tensor)}, lie on its second axis. Write "
        f"input_fn=lambda batch: {there}.transpose(0, 1) and "
        "forward_fn=lambda module, inputs: module(inputs.transpose(0, 1))."
    )


def fit_of(part: Part) -> Fit | None:
    """Returns how well a part fits as the input, None for one that is none."""
    tensor = part.tensor
    if tensor is None:
        is_input = isinstance(part.value, PackedSequence) or is_list_of_images(part.value)
        return Fit.FLOATING if is_input else None
    if tensor.is_nested:
        return Fit.FLOATING
    is_wide = tensor.dim() > 1 and math.prod(tensor.shape[1:]) != 1
    if tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized:
        return Fit.FLOATING if is_wide else Fit.NUMBERS
    if not is_wide:
        return Fit.INDICES
    return Fit.FLOATING if tensor.dtype == torch.uint8 and tensor.dim() > 2 else Fit.TOKENS


def _is_wide(part: Part) -> bool:
    return fit_of(part) in (Fit.TOKENS, Fit.FLOATING)


def _rank(part: Part) -> tuple[int, int]:
    fit, tensor = fit_of(part), part.tensor
    if fit != Fit.FLOATING:
        return -1 if fit is None else fit, 0
    return fit, tensor.dim() if tensor is not None else _IMAGE_AXES


def _is_graph(parts: Sequence[Part], inputs: Part) -> bool:
    """Whether a part holds edges: by its name, as pairs of whole numbers, or as a sparse matrix."""
    others = [part for part in parts if part is not inputs and part.tensor is not None]
    if any(name in _OF_GRAPHS for part in others for name in part.place):
        return True
    return any(_holds_edges(part.tensor, inputs.tensor) for part in others)


def _holds_edges(tensor: Tensor | None, nodes: Tensor | None) -> bool:
    if tensor is None or nodes is None or tensor.is_nested or tensor.dim() != 2:
        return False
    is_sparse = tensor.layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
    if is_sparse:
        return tensor.shape[0] == tensor.shape[1] == len(nodes)
    return tensor.dtype == torch.int64 and len(tensor) == 2 != len(nodes)


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
