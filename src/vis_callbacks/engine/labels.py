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
    if not shape or shape[0] != num_samples or (form is None and len(_squeezed(labels).shape) > 1):
        return None, (
            f"the labels have shape {shape}, which is not one class for each of "
            f"{num_samples} samples"
        )
    if form is None or form == "numbers":
        kind = str(labels.dtype).removeprefix("torch.")
        return None, f"the labels are {kind} numbers and name no classes"
    return in_form(labels, form), ""


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
    # One transfer of three numbers: whether all fits, the lowest class and the highest.
    is_0_or_1 = (labels == 0) | (labels == 1)
    fits = is_0_or_1.all() if labels.dim() == 1 else _is_one_hot(labels).all()
    classes = labels if labels.dim() == 1 else labels.to(torch.uint8).argmax(1)
    low, high = classes.aminmax()
    has_fit, lowest, highest = torch.stack([fits.double(), low.double(), high.double()]).tolist()
    if not has_fit:
        return "numbers" if labels.is_floating_point() else None
    if lowest == highest:
        return None
    return "binary" if labels.dim() == 1 else "one-hot"


def in_form(labels: Tensor, form: LabelForm) -> Tensor:
    """Returns labels as classes (samples,) int64; -1 where a row has not this form.

    Does not wait for the device.
    """
    labels = _squeezed(labels)
    if form == "one-hot":
        return torch.where(_is_one_hot(labels), labels.to(torch.uint8).argmax(1), -1)
    if form == "binary":
        return torch.where((labels == 0) | (labels == 1), labels, -1).long()
    return labels.long()


def _squeezed(labels: Tensor) -> Tensor:
    return labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels


def _is_one_hot(labels: Tensor) -> Tensor:
    """Returns (samples,): whether one entry of the row is 1 and all others are 0."""
    return ((labels == 1).sum(1) == 1) & ((labels == 0).sum(1) == labels.shape[1] - 1)
