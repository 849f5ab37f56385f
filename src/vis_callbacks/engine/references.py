"""Reference samples: the fixed few that are looked at again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.engine.scores import describe, named_fields

_INPUT_KEYS = (
    "image",
    "images",
    "img",
    "imgs",
    "input",
    "inputs",
    "x",
    "pixel_values",
    "features",
    "data",
    "input_ids",
)
_MAX_SHARED = 16
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class", "classes")


@dataclass(frozen=True, kw_only=True)
class References:
    """A few samples of one batch, copied once and never exchanged.

    Attributes:
        inputs: (samples, ...), detached, on the device where they were met.
        labels: (samples,) int64, or None where there are none that name classes.
        source: Where they come from, for captions: "the first validation batch".
        note: What must be said about them, such as why there are no labels.
        masks: (samples, ...) what the user's ``mask_fn`` gave for them, or None.
    """

    inputs: Tensor
    labels: Tensor | None
    source: str
    note: str = ""
    masks: Tensor | None = None

    def to(self, device: torch.device) -> References:
        """Returns the same samples on a device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.device != device
        }
        return replace(self, **moved) if moved else self

    def first(self, num_samples: int) -> References:
        """Returns the first of these samples, as views."""
        if num_samples >= len(self.inputs):
            return self
        tensors: dict[str, Any] = {
            n: v[:num_samples] for n, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)

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


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other


def take_references(
    batch: Any,
    num_samples: int,
    *,
    source: str,
    input_fn: Callable[[Any], Tensor] | None = None,
    label_fn: Callable[[Any], Tensor | None] | None = None,
    mask_fn: Callable[[Any], Tensor] | None = None,
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
    inputs = (input_fn or default_input_fn)(batch)
    _check_inputs(inputs, batch)
    found = (label_fn or default_label_fn)(batch)
    labels, note = class_labels(found, len(inputs))
    chosen = list(range(min(num_samples, len(inputs))))
    if labels is not None:
        values = labels.tolist()
        chosen = _evenly_over_classes(values, num_samples)
        if len(chosen) < min(num_samples, len(values)):
            labels, note = None, "too few samples have a label of 0 or above"
            chosen = list(range(min(num_samples, len(values))))
    index = torch.tensor(chosen, device=inputs.device)
    masks = None if mask_fn is None else _checked_masks(mask_fn(batch), len(inputs))
    return References(
        inputs=_copied(inputs, index),
        labels=None if labels is None else _copied(labels, index.to(labels.device)),
        source=source,
        note=note,
        masks=None if masks is None else _copied(masks, index.to(masks.device)),
    )


def default_input_fn(batch: Any) -> Tensor:
    """Returns the input tensor of a batch.

    Understands a tensor, a tuple or list (its first part), and a mapping, dataclass or named
    tuple (the usual names, or its only tensor of two or more axes).

    Raises:
        TypeError: None is found; the message says what the batch looks like.
    """
    found = _find_inputs(batch)
    if found is None:
        raise TypeError(
            f"no input tensor was found in the batch, which looks like {describe(batch)}. "
            "Write input_fn=lambda batch: ... that returns it."
        )
    return found


def default_label_fn(batch: Any) -> Tensor | None:
    """Returns the labels of a batch, or None.

    Understands a tuple or list (its second part) and a mapping, dataclass or named tuple (the
    usual names).
    """
    named = named_fields(batch)
    if named is not None and (keyed := _by_key(named, _LABEL_KEYS)) is not None:
        return _as_labels(keyed)
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return _as_labels(batch[1])
    return None


def class_labels(labels: Tensor | None, num_samples: int) -> tuple[Tensor | None, str]:
    """Returns labels as classes (samples,), or None and why they are none."""
    if labels is None:
        return None, "the batch has no labels"
    labels = labels.detach()
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels.squeeze(1)
    if labels.dim() != 1 or len(labels) != num_samples:
        return None, (
            f"the labels have shape {tuple(labels.shape)}, which is not one class for each of "
            f"{num_samples} samples"
        )
    if labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype).removeprefix("torch.")
        return None, f"the labels are {kind} numbers and name no classes"
    return labels.long(), ""


def require_tensor(inputs: object, batch: Any) -> Tensor:
    """Returns the inputs that were found in a batch, if they are a tensor.

    Raises:
        TypeError: They are none; the message says what the batch looks like.
    """
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"input_fn returned {describe(inputs)} for a batch that looks like "
            f"{describe(batch)}. Return a tensor (samples, ...)."
        )
    return inputs


def _checked_masks(masks: object, num_samples: int) -> Tensor:
    if not isinstance(masks, Tensor) or masks.dim() == 0 or len(masks) != num_samples:
        raise TypeError(
            f"mask_fn returned {describe(masks)} for a batch of {num_samples} samples. Return a "
            "tensor (samples, height, width)."
        )
    return masks


def _check_inputs(inputs: object, batch: Any) -> None:
    inputs = require_tensor(inputs, batch)
    if inputs.dim() == 0 or len(inputs) == 0:
        raise ValueError(
            f"the inputs are {describe(inputs)}: no samples. "
            "Write input_fn=lambda batch: ... that returns a tensor (samples, ...)."
        )


def _find_inputs(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.dim() > 0 else None
    named = named_fields(value)
    if named is not None:
        if (keyed := _by_key(named, _INPUT_KEYS)) is not None:
            return _find_inputs(keyed)
        wide = [v for v in named.values() if isinstance(v, Tensor) and v.dim() >= 2]
        if len(wide) == 1:
            return wide[0]
    return _find_inputs(value[0]) if isinstance(value, tuple | list) and value else None


def _by_key(named: Any, keys: Sequence[str]) -> Any:
    by_lower = {key.lower(): item for key, item in named.items()}
    return next((by_lower[key] for key in keys if key in by_lower), None)


def _as_labels(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    named = named_fields(value)
    if named is not None:
        keyed = _by_key(named, _LABEL_KEYS)
        return keyed if isinstance(keyed, Tensor) else None
    if isinstance(value, tuple | list) and all(type(item) is int for item in value):
        return torch.tensor(value, dtype=torch.int64)
    return None


def _evenly_over_classes(labels: Sequence[int], num_samples: int) -> list[int]:
    """Returns indices of samples, one of each class in turn."""
    of_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        if label >= 0:
            of_class.setdefault(label, []).append(index)
    turns = sorted(
        (turn, order, index)
        for order, indices in enumerate(of_class.values())
        for turn, index in enumerate(indices)
    )
    return [index for _, _, index in turns[:num_samples]]


def _copied(tensor: Tensor, index: Tensor) -> Tensor:
    """Returns the chosen rows as a plain tensor of their own, not one of inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        plain = tensor.as_subclass(Tensor)
        return plain.index_select(0, index).detach()
