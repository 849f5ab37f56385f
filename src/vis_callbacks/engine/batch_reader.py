"""Finding inputs and labels in the batches of a run, in the same places each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.engine.batch_choice import choose_inputs, choose_labels, why_no_inputs
from vis_callbacks.engine.batch_parts import Part, Place, follow, parts_of, written
from vis_callbacks.engine.labels import LabelForm, in_form, label_form
from vis_callbacks.engine.plain_tensors import how_to_make_plain, is_plain, plain
from vis_callbacks.engine.scores import describe

Form = tuple[object, ...]


@dataclass(frozen=True)
class Layout:
    """Where inputs and labels lie in a batch.

    Attributes:
        inputs: None where there are none that can be taken; ``refusal`` says why.
        labels: None where there are none.
        choice: What to say where other parts would fit as well.
        note: What to say of the inputs that were taken.
    """

    inputs: Place | None = None
    labels: Place | None = None
    choice: str = ""
    note: str = ""
    refusal: str = ""


class BatchReader:
    """Finds inputs and labels in one batch after the other, with the user's functions or without.

    Where they lie, and whether floating labels are classes, is decided once for all batches of
    one form: a later batch might tell otherwise by chance, and asking waits for the device.
    """

    def __init__(
        self,
        input_fn: Callable[[Any], Tensor] | None = None,
        label_fn: Callable[[Any], Tensor | None] | None = None,
    ) -> None:
        self._input_fn = input_fn
        self._label_fn = label_fn
        self._layouts: dict[Form, Layout] = {}
        self._label_forms: dict[Form, LabelForm] = {}

    def inputs(self, batch: Any) -> Tensor:
        """Returns the inputs (samples, ...) as a plain tensor; raises TypeError for none."""
        if self._input_fn is not None:
            inputs = self._input_fn(batch)
        else:
            layout = self.layout(batch)
            if layout.inputs is None:
                raise TypeError(layout.refusal)
            inputs = follow(batch, layout.inputs)
        if not isinstance(inputs, Tensor):
            raise TypeError(_wrong("input_fn", inputs, batch, "(samples, ...)"))
        if not is_plain(inputs):
            raise TypeError(f"the inputs are {how_to_make_plain(inputs)}.")
        return plain(inputs)

    def labels(self, batch: Any) -> Tensor | None:
        """Returns the labels as a plain tensor, in int64 where they are classes, or None."""
        if self._label_fn is not None:
            labels = self._label_fn(batch)
            if labels is not None and not isinstance(labels, Tensor):
                raise TypeError(_wrong("label_fn", labels, batch, "(samples,) or None"))
        else:
            place = self.layout(batch).labels
            labels = None if place is None else follow(batch, place)
        return self._of_one_form(labels)

    def layout(self, batch: Any) -> Layout:
        """Returns where inputs and labels lie; nothing where the user's functions find both."""
        if self._input_fn is not None and self._label_fn is not None:
            return Layout()
        form = _outline(batch)
        if form is not None and (known := self._layouts.get(form)) and not known.refusal:
            return known
        with torch._C.DisableTorchFunctionSubclass():  # no code of a subclass is run
            parts = list(parts_of(batch))
            form = form or tuple(part.form for part in parts)
            # Without an input it is the batch that is described, and not its form.
            layout = self._layouts.get(form)
            if layout is None or layout.refusal:
                layout = self._layouts[form] = self._layout_of(batch, parts)
            return layout

    def _layout_of(self, batch: Any, parts: Sequence[Part]) -> Layout:
        inputs, rivals = choose_inputs(parts)
        labels, other_labels = choose_labels(parts, inputs)
        refusal = why_no_inputs(batch, parts, inputs, rivals, labels)
        is_found = inputs is not None and not refusal and self._input_fn is None
        choices = []
        if is_found:
            choices.append(_choice(batch, "inputs", "input_fn", inputs, rivals))
        if self._label_fn is None:
            choices.append(_choice(batch, "labels", "label_fn", labels, other_labels))
        is_list = inputs is not None and inputs.tensor is None
        return Layout(
            inputs=inputs.place if inputs is not None and not refusal else None,
            labels=labels.place if labels is not None else None,
            choice="; ".join(filter(None, choices)),
            note="a list of images was stacked" if is_found and is_list else "",
            refusal=refusal,
        )

    def _of_one_form(self, labels: Tensor | None) -> Tensor | None:
        if labels is None or not is_plain(labels):
            return None
        labels = plain(labels)
        kind = (labels.dtype, *labels.shape[1:])
        known = self._label_forms.get(kind) or label_form(labels)
        if known is None:  # these tell nothing: the next may
            return labels
        self._label_forms[kind] = known
        return labels if known in ("whole", "numbers") else in_form(labels, known)


def _wrong(option: str, returned: object, batch: Any, wanted: str) -> str:
    return (
        f"{option} returned {describe(returned)} for a batch that looks like {describe(batch)}. "
        f"Return a tensor {wanted}."
    )


def _outline(batch: Any) -> Form | None:
    """Returns the form of a plain tuple, list or dict of tensors: at a tenth of the cost."""
    if type(batch) is dict:
        items = tuple(batch.items())
    elif type(batch) in (tuple, list):
        items = tuple(enumerate(batch))
    else:
        return None
    tensors = [(key, part.dim(), part.dtype) for key, part in items if type(part) is Tensor]
    return (type(batch), *tensors) if len(tensors) == len(items) else None


def _choice(batch: Any, what: str, option: str, part: Part | None, rivals: Sequence[Part]) -> str:
    """Returns what was taken and how to take another part, where there is a choice."""
    if part is None or not rivals:
        return ""
    others = [written(batch, rival.place) for rival in rivals]
    return (
        f"the {what} are {written(batch, part.place)}, though {' and '.join(others)} would fit "
        f"as well; {option}=lambda batch: {others[0]} takes another"
    )
