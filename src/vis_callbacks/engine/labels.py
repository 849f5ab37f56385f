"""Labels as classes of samples, in the forms in which losses take them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vis_callbacks.engine.plain_tensors import is_plain, plain

LabelForm = Literal["whole", "binary", "one-hot", "numbers"]


def class_labels(labels: Tensor | None, num_samples: int) -> tuple[Tensor | None, str]:
    """Returns labels as classes (samples,) int64, or None and why there are none.

    Classes are whole numbers, one a sample, rows of which one entry is 1 and all others 0, and
    floating numbers that are all 0 or 1. The latter two are recognised by their values, which
    waits for the device.
    """
    if labels is None:
        return None, "the batch has no labels"
    if not is_plain(labels):
        return None, f"the labels are a {type(labels).__name__} that holds no plain numbers"
    labels = plain(labels)
    form = label_form(labels)
    shape = tuple(labels.shape)
    if shape[:1] != (num_samples,) or (form is None and _squeezed(labels).dim() > 1):
        return None, (
            f"the labels have shape {shape}, which is not one class for each of "
            f"{num_samples} samples"
        )
    if form is None or form == "numbers":
        kind = str(labels.dtype).removeprefix("torch.")
        return None, f"the labels are {kind} numbers and name no classes"
    return in_form(labels, form), ""


def whole_labels(labels: Tensor | None, num_samples: int) -> Tensor | None:
    """Returns the labels of a `BatchReader` as classes (samples,) int64, or None.

    The reader has brought what names classes into whole numbers, so this does not wait.
    """
    if labels is None or not is_plain(labels):
        return None
    labels = _squeezed(plain(labels))
    is_whole = labels.shape == (num_samples,) and not labels.is_floating_point()
    return labels.long() if is_whole else None


def label_form(labels: Tensor) -> LabelForm | None:
    """Returns the form in which labels name classes.

    ``"numbers"``: their values show that they name none. None: these tell nothing, either for
    their shape or because they all have the same value.
    """
    labels = _squeezed(labels)
    if labels.dim() == 1 and not labels.is_floating_point():
        return "whole"
    if labels.dim() not in (1, 2) or labels.numel() == 0:
        return None
    form: LabelForm = "binary" if labels.dim() == 1 else "one-hot"
    # One transfer of two numbers: the lowest class, -1 where one does not fit, and the highest.
    low, high = in_form(labels, form).aminmax()
    lowest, highest = torch.stack([low, high]).tolist()
    if lowest < 0:
        return "numbers" if labels.is_floating_point() else None
    return None if lowest == highest else form


def in_form(labels: Tensor, form: LabelForm) -> Tensor:
    """Returns labels as classes (samples,) int64; -1 where a row has not this form.

    Does not wait for the device.
    """
    labels = _squeezed(labels)
    if form == "whole":
        return labels.long()
    is_0, is_1 = labels == 0, labels == 1
    if form == "one-hot":
        is_row = (is_1.sum(1) == 1) & (is_0.sum(1) == labels.shape[1] - 1)
        return torch.where(is_row, is_1.to(torch.uint8).argmax(1), -1)
    return torch.where(is_0 | is_1, labels, -1).long()


def _squeezed(labels: Tensor) -> Tensor:
    return labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
