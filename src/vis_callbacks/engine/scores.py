"""What is explained, a class or a unit, and where the scores are in what a model returns."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

Target = Literal["label", "predicted"] | int
Positions = Literal["strongest", "sum"]

_SCORE_KEYS = ("logits", "scores", "out", "output", "outputs", "pred", "preds", "predictions")
_TARGETS: Mapping[object, tuple[Target, ...]] = {
    "label": ("label",),
    "predicted": ("predicted",),
    "both": ("label", "predicted"),
}


class MethodUnsuitedError(ValueError):
    """A method has nothing to say about this network or these inputs; its message says why."""


class NoGradientError(MethodUnsuitedError):
    """The score does not depend on the inputs by anything that can be differentiated."""

    def __init__(self) -> None:
        super().__init__(
            "no gradient leads from the score to the inputs: the "
            "model's forward detaches them, or a part of it runs under torch.no_grad()."
        )


@dataclass(frozen=True)
class Unit:
    """One unit of one layer: a channel of a convolution, a feature of anything else.

    Attributes:
        layer: Its name in ``vis_callbacks.summary(model, inputs)``.
        index: From 0.
        position: One place of the unit (row and column, or a token): a neuron. None: all places.

    Example:
        >>> Unit.parse("layer4.1.relu-1:17")
        Unit(layer='layer4.1.relu-1', index=17, position=None)
    """

    layer: str
    index: int
    position: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_index("index", self.index)
        for place in self.position or ():
            _check_index("position", place)

    def __str__(self) -> str:
        place = "" if self.position is None else "@" + ",".join(map(str, self.position))
        return f"{self.layer}:{self.index}{place}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the unit written as ``layer:index`` or ``layer:index@row,column``.

        Raises:
            ValueError: The text is written otherwise.
        """
        layer, _, numbers = text.rpartition(":")
        index, at, position = numbers.partition("@")
        try:
            if not layer:
                raise ValueError("no layer")
            places = tuple(int(place) for place in position.split(",")) if at else None
            return cls(layer, int(index), places)
        except ValueError as error:
            raise ValueError(
                f'unit "{text}" is not written as a layer and an index from 0. '
                'Use "layer4.1.relu-1:17", or "layer4.1.relu-1:17@3,5" for one position.'
            ) from error

    def check(self, num_units: Mapping[str, int]) -> None:
        """Raises ValueError unless its layer has a unit of this index."""
        count = num_units[self.layer]
        if self.index >= count:
            raise ValueError(
                f'unit "{self}": layer "{self.layer}" has {count} units. '
                f"Use an index from 0 to {count - 1}."
            )


@dataclass(frozen=True)
class Targets:
    """The class explained for each sample, and what must be said about the choice."""

    indices: Tensor  # (samples,) int64
    note: str = ""


def expand_target(option: object) -> tuple[Target, ...]:
    """Returns the targets that an option asks for: "both" is the label and the prediction.

    Raises ValueError for an unknown word or a negative class, TypeError for what is neither.
    """
    if isinstance(option, str) and option not in _TARGETS:
        near = difflib.get_close_matches(option, [str(word) for word in _TARGETS], cutoff=0.0)[0]
        raise ValueError(
            f'target="{option}" is not a target. Use "label", "predicted", "both" or the index of '
            f'a class; nearest: "{near}".'
        )
    return _TARGETS[option] if isinstance(option, str) else (_check_index("target", option),)


def resolve_targets(scores: Tensor, target: Target, labels: Tensor | None = None) -> Targets:
    """Returns the class to explain for each sample.

    Where a label is missing or is not a class of these scores, the predicted class takes its place,
    and ``note`` says for how many. Scores at several positions are compared by their mean. Raises
    ValueError for a class that the scores do not have.
    """
    num_classes = scores.shape[1]
    predicted = per_output(scores.detach()).argmax(1)
    if target == "predicted":
        return Targets(predicted)
    if target == "label":
        if labels is None:
            return Targets(predicted, "no usable labels: the predicted class instead")
        labels = labels.to(device=scores.device, dtype=torch.int64)
        is_class = (labels >= 0) & (labels < num_classes)
        num_odd = int((~is_class).sum())
        note = (
            f"{num_odd} of {len(labels)} labels are none of the {num_classes} classes: "
            "the predicted class instead"
        )
        return Targets(torch.where(is_class, labels, predicted), note if num_odd else "")
    if target >= num_classes:
        raise ValueError(
            f"target={target} is not a class of these scores, which have {num_classes}. "
            f"Use 0 to {num_classes - 1}."
        )
    return Targets(torch.full_like(predicted, target))


def select_scores(scores: Tensor, indices: Tensor) -> Tensor:
    """Returns each sample's score of its class, (samples,); of several positions the mean."""
    return per_output(scores).gather(1, indices.unsqueeze(1)).squeeze(1)


def per_output(scores: Tensor) -> Tensor:
    """Returns scores (samples, outputs, ...) as (samples, outputs): of positions the mean."""
    return scores.flatten(2).mean(2) if scores.dim() > 2 else scores


def value_of_unit(activation: Tensor, unit: Unit, *, positions: Positions = "strongest") -> Tensor:
    """Returns how strongly the unit answers to each sample, (samples,), of (samples, units, ...).

    Without a ``position`` of its own it is the unit's strongest one, which is what made it fire, or
    the sum over all of them. Raises ValueError where the layer has no such unit or position.
    """
    unit.check({unit.layer: activation.shape[1]})
    values = activation[:, unit.index]
    if unit.position is None:
        values = values.unsqueeze(1).flatten(1)
        return values.sum(1) if positions == "sum" else values.amax(1)
    sizes = tuple(values.shape[1:])
    if len(unit.position) != len(sizes) or any(
        place >= size for place, size in zip(unit.position, sizes, strict=True)
    ):
        raise ValueError(
            f'unit "{unit}": its layer has positions of size {sizes}. Use one index below each.'
        )
    place: tuple[Any, ...] = (slice(None), *unit.position)
    return values[place]


def at_least_float32(values: Tensor) -> Tensor:
    """Returns the values in a type that numbers of half precision do not overflow."""
    return values.float() if values.element_size() < 4 else values


def find_scores(output: Any, num_samples: int) -> Tensor:
    """Returns the scores (samples, classes, ...) in what a forward pass has returned.

    A tensor is taken as it is. Of a mapping, dataclass or named tuple the usual names are tried,
    of a tuple or list the first tensor that has a row for each sample. Scores (samples,) become
    (samples, 1). Raises TypeError where there is no such tensor.
    """
    for candidate in _candidates(output):
        if (
            isinstance(candidate, Tensor)
            and candidate.is_floating_point()
            and candidate.dim() > 0
            and len(candidate) == num_samples
        ):
            return candidate.unsqueeze(1) if candidate.dim() == 1 else candidate
    named = output.items() if isinstance(output, Mapping) else ()
    keys = [k for k, v in named if isinstance(v, Tensor) and v.shape[:1] == (num_samples,)]
    call = f"model(inputs)[{keys[0]!r}], say" if keys else "... that returns them"
    raise TypeError(
        f"the forward pass of {num_samples} samples returned {describe(output)}, where no "
        f"scores (samples, classes) were found. Write forward_fn=lambda model, inputs: {call}."
    )


def describe(value: Any, depth: int = 2) -> str:
    """Returns in a few words what a batch or an output looks like: types, names, shapes."""
    if isinstance(value, Tensor):
        return f"Tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    named = named_fields(value)
    if named is None and not isinstance(value, tuple | list):
        return type(value).__name__
    if depth == 0:
        return f"{type(value).__name__}(...)"
    if named is not None:
        parts = [f"{key}: {describe(item, depth - 1)}" for key, item in named.items()]
    else:
        parts = [describe(item, depth - 1) for item in value]
    shown = ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")
    return f"{type(value).__name__}({shown})"


def refused_inputs(
    inputs: Tensor,
    why: str,
    wanted: str = "images (samples, channels, height, width) in floating point",
) -> str:
    """Returns what to say of inputs that a monitor cannot use, and what to write instead."""
    return (
        f"the inputs are {describe(inputs)}, {why}. Write input_fn=lambda batch: ... that returns "
        f"{wanted}, and forward_fn if the model needs another form."
    )


def named_fields(value: Any) -> Mapping[str, Any] | None:
    """Returns the parts of a value by name, or None if it has no named parts.

    Understands mappings, dataclasses, named tuples, and objects that hold tensors as attributes
    or give them with ``to_dict`` (graphs of torch_geometric).
    """
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", None)
        return None if names is None else dict(zip(names, value, strict=True))
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, type | Tensor | nn.Module):
        return None
    if dataclasses.is_dataclass(value):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    try:
        held = object.__getattribute__(value, "__dict__")  # runs none of the object's code
    except AttributeError:
        return None
    public = {name: item for name, item in held.items() if not name.startswith("_")}
    if any(isinstance(item, Tensor) for item in public.values()):
        return public
    as_dict = getattr(type(value), "to_dict", None)
    return named_fields(as_dict(value)) if public and callable(as_dict) else None


def _candidates(output: Any) -> Iterator[Any]:
    """Yields what may be the scores, the most likely first."""
    named = named_fields(output)
    if named is not None:
        yield from (named[key] for key in _SCORE_KEYS if key in named)
        tensors = [item for item in named.values() if isinstance(item, Tensor)]
        if len(tensors) == 1 or isinstance(output, tuple):
            yield from tensors
    elif isinstance(output, tuple | list):
        yield from output
    else:
        yield output


def _check_index(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}. Use a whole number from 0.")
    if value < 0:
        raise ValueError(f"{name}={value} is negative. Use a whole number from 0.")
    return value
