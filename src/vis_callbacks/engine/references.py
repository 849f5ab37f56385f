"""Reference samples: the fixed few that are looked at again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.engine.batch_reader import BatchReader
from vis_callbacks.engine.labels import class_labels
from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.scores import describe

_MAX_SHARED = 16


def default_input_fn(batch: Any) -> Tensor:
    """Returns the inputs that monitors find in a batch by themselves, for an ``input_fn`` to use.

    Raises:
        TypeError: None are found; the message says what to write.
    """
    return BatchReader().inputs(batch)


def default_label_fn(batch: Any) -> Tensor | None:
    """Returns the labels that monitors find by themselves, None where a batch has none."""
    return BatchReader().labels(batch)


@dataclass(frozen=True, kw_only=True)
class References:
    """A few samples of one batch, copied once and never exchanged.

    Attributes:
        inputs: (samples, ...), detached, on the device where they were met.
        labels: (samples,) int64, or None where there are none that name classes.
        source: Where they come from, for captions: "the first validation batch".
        note: What must be said about them, such as why there are no labels.
        masks: (samples, ...) what the user's ``mask_fn`` gave for them, or None.
        choice: Which part of the batch was taken where another would fit as well, and the
            option that takes the other; empty for an ordinary batch.
    """

    inputs: Tensor
    labels: Tensor | None
    source: str
    note: str = ""
    masks: Tensor | None = None
    choice: str = ""

    def to(self, device: torch.device) -> References:
        """Returns the same samples on a device."""
        return self._with(lambda tensor: tensor.to(device))

    def first(self, num_samples: int) -> References:
        """Returns the first of these samples, as views."""
        if num_samples >= len(self.inputs):
            return self
        return self._with(lambda tensor: tensor[:num_samples])

    def shared_with(self, others: Iterable[References]) -> References:
        """Returns views of others that begin with the same samples, where there are some.

        The others are on the same device. Not of many: where few are kept for long, these
        would be as well.
        """
        for other in others:
            if len(self.inputs) <= len(other.inputs) <= _MAX_SHARED:
                first = other.first(len(self.inputs))
                if all(_is_same(value, vars(first)[name]) for name, value in vars(self).items()):
                    return first
        return self

    def _with(self, change: Callable[[Tensor], Tensor]) -> References:
        tensors: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other


def take_references(
    batch: Any,
    num_samples: int,
    *,
    source: str,
    mask_fn: Callable[[Any], Tensor] | None = None,
    reader: BatchReader | None = None,
) -> References:
    """Returns copies of up to ``num_samples`` samples of a batch that passes by.

    Nothing is drawn from a loader and no random number is used. Samples are taken evenly over
    the classes as far as this one batch has them: the first of each class in the order in which
    the classes appear, then the second of each, and so on. Samples whose label names no class
    (below 0) are passed over where enough others are left.

    Raises:
        TypeError: The batch is not understood, or a function returned no tensor.
        ValueError: The batch has no samples.
    """
    reader = reader or BatchReader()
    inputs = reader.inputs(batch)
    if inputs.dim() == 0 or len(inputs) == 0:
        raise ValueError(
            f"the inputs are {describe(inputs)}: no samples. "
            "Write input_fn=lambda batch: ... that returns a tensor (samples, ...)."
        )
    most = min(num_samples, len(inputs))
    labels, note = class_labels(reader.labels(batch), len(inputs))
    chosen: Sequence[int] = range(most)
    if labels is not None:
        chosen = _evenly_over_classes(labels.tolist(), most)
        if len(chosen) < most:
            labels, note = None, "too few samples have a label of 0 or above"
            chosen = range(most)
    masks = None if mask_fn is None else _checked_masks(mask_fn(batch), len(inputs))
    layout = reader.layout(batch)
    return References(
        inputs=_copied(inputs, chosen),
        labels=None if labels is None else _copied(labels, chosen),
        source=source,
        note="; ".join(filter(None, (layout.note, note))),
        masks=None if masks is None else _copied(masks, chosen),
        choice=layout.choice,
    )


def _checked_masks(masks: object, num_samples: int) -> Tensor:
    if isinstance(masks, Tensor) and is_plain(masks) and masks.shape[:1] == (num_samples,):
        return plain(masks)
    raise TypeError(
        f"mask_fn returned {describe(masks)} for a batch of {num_samples} samples. Return a "
        "tensor (samples, height, width)."
    )


def _evenly_over_classes(labels: Sequence[int], num_samples: int) -> list[int]:
    """Returns indices of samples, one of each class in turn."""
    orders: dict[int, int] = {}  # of the classes, as they appear
    turns: Counter[int] = Counter()
    places = []
    for index, label in enumerate(labels):
        if label >= 0:
            places.append((turns[label], orders.setdefault(label, len(orders)), index))
            turns[label] += 1
    return [index for _, _, index in sorted(places)[:num_samples]]


def _copied(tensor: Tensor, chosen: Sequence[int]) -> Tensor:
    """Returns the chosen rows as a tensor of their own, not one of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return tensor.index_select(0, torch.tensor(chosen, device=tensor.device))
