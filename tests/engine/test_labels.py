"""Labels are classes in every form in which losses take them, and in no other."""

from __future__ import annotations

import re

import pytest
import torch

from vis_callbacks.engine.labels import class_labels, in_form, label_form

Y = torch.tensor([2, 2, 0, 2, 1, 0])
BITS = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])

CLASSES = {
    "whole numbers": (Y, Y),
    "a column": (Y[:, None], Y),
    "bytes": (Y.to(torch.uint8), Y),
    "32 bits": (Y.int(), Y),
    "bools": (BITS.bool(), BITS),
    "floating bits": (BITS, BITS),
    "a column of floating bits": (BITS[:, None], BITS),
    "floating bits of half precision": (BITS.bfloat16(), BITS),
    "rows with a single 1": (torch.eye(3)[Y], Y),
    "whole rows with a single 1": (torch.eye(3, dtype=torch.int64)[Y], Y),
    "negative ones": (Y - 100, Y - 100),
}


@pytest.mark.parametrize(("labels", "classes"), CLASSES.values(), ids=CLASSES.keys())
def test_labels_are_classes(labels, classes):
    found, note = class_labels(labels, 6)
    assert found.dtype == torch.int64
    assert torch.equal(found, classes.long())
    assert note == ""


UNUSABLE = {
    "floating": (torch.rand(6), "float32 numbers and name no classes"),
    "half": (torch.rand(6).half(), "float16 numbers"),
    "ages in floating numbers": (torch.tensor([31.0, 0, 1, 64, 7, 1]), "float32 numbers"),
    "nothing but ones": (torch.ones(6), "float32 numbers"),
    "not a number": (torch.full((6,), torch.nan), "float32 numbers"),
    "mixed up": (torch.eye(3)[Y] * 0.9 + 0.1 / 3, "float32 numbers"),
    "several ones in a row": (torch.tensor([[1.0, 1, 0]] * 3 + [[0, 0, 1.0]] * 3), "float32"),
    "whole rows with several ones": (torch.ones(6, 3, dtype=torch.int64), r"have shape \(6, 3\)"),
    "of each pixel": (torch.zeros(6, 4, 4, dtype=torch.int64), r"have shape \(6, 4, 4\)"),
    "of each pixel and class": (torch.zeros(6, 3, 4, 4), r"have shape \(6, 3, 4, 4\)"),
    "of each token": (torch.zeros(6, 9, dtype=torch.int64), r"have shape \(6, 9\)"),
    "one number": (torch.tensor(3), r"have shape \(\)"),
    "another length": (torch.zeros(5, dtype=torch.int64), r"not one class for each of 6"),
    "sparse": (torch.eye(6).to_sparse(), "a Tensor that holds no plain numbers"),
    "none": (None, "the batch has no labels"),
}


@pytest.mark.parametrize(("labels", "why"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_labels_that_name_no_classes_are_dropped_and_it_is_said(labels, why):
    found, note = class_labels(labels, 6)
    assert found is None
    assert re.search(why, note)


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.ones(4, 1), torch.eye(3)[[1, 1]]])
def test_labels_that_all_have_one_value_tell_nothing_of_their_form(labels):
    assert label_form(labels) is None


def test_a_row_of_another_form_names_no_class():
    assert in_form(torch.tensor([1.0, 0.5, 0.0]), "binary").tolist() == [1, -1, 0]
    rows = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 1.0], [1.0, 0.0]])
    assert in_form(rows, "one-hot").tolist() == [1, -1, -1, 0]
