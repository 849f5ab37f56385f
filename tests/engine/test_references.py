from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.identity import digest

from vis_callbacks.engine.batch_reader import BatchReader
from vis_callbacks.engine.references import (
    default_input_fn,
    default_label_fn,
    take_references,
)

X = torch.arange(24.0).reshape(6, 4)
Y = torch.tensor([2, 2, 0, 2, 1, 0])


# -- which samples


def test_samples_are_taken_evenly_over_the_classes_in_their_order():
    taken = take_references((X, Y), 4, source="here")
    assert taken.labels.tolist() == [2, 0, 1, 2]
    assert taken.inputs[:, 0].tolist() == [0.0, 8.0, 16.0, 4.0]
    assert taken.source == "here"
    assert taken.note == ""


def test_all_samples_of_a_small_batch_are_taken():
    taken = take_references((X, Y), 100, source="")
    assert sorted(taken.inputs[:, 0].tolist()) == X[:, 0].tolist()


def test_samples_without_a_class_are_passed_over_where_others_are_left():
    labels = torch.tensor([-100, 1, -100, 1, 0, -1])
    taken = take_references((X, labels), 3, source="")
    assert taken.labels.tolist() == [1, 0, 1]


def test_where_too_few_samples_have_a_class_the_first_are_taken_without():
    labels = torch.tensor([-100, 1, -100, 1, 0, -1])
    taken = take_references((X, labels), 4, source="")
    assert taken.labels is None
    assert taken.note == "too few samples have a label of 0 or above"
    assert torch.equal(taken.inputs, X[:4])


def test_without_labels_the_first_samples_are_taken():
    taken = take_references(X, 2, source="")
    assert torch.equal(taken.inputs, X[:2])
    assert taken.labels is None
    assert taken.note == "the batch has no labels"


def test_own_functions_are_used():
    taken = take_references(
        {"a": X, "b": Y},
        2,
        source="",
        reader=BatchReader(lambda batch: batch["a"] * 2, lambda batch: batch["b"]),
    )
    assert taken.inputs[:, 0].tolist() == [0.0, 16.0]
    assert taken.labels.tolist() == [2, 0]


def test_a_function_that_returns_no_tensor_is_named():
    with pytest.raises(TypeError, match=r"input_fn returned list\(int\) for a batch"):
        take_references((X, Y), 2, source="", reader=BatchReader(lambda batch: [1]))


def test_a_batch_without_samples_is_refused():
    with pytest.raises(ValueError, match=r"Tensor\(0, 4\) float32: no samples"):
        take_references((X[:0], Y[:0]), 2, source="")


# -- copied once, and nothing else


def test_references_do_not_change_with_the_batch():
    x = X.clone()
    taken = take_references((x, Y), 6, source="")
    before = digest(taken.inputs)
    x.zero_()
    assert digest(taken.inputs) == before


def test_references_hold_no_graph_and_no_more_memory_than_they_need():
    x = torch.zeros(1000, 4, requires_grad=True) * 1
    taken = take_references(x, 2, source="")
    assert not taken.inputs.requires_grad
    assert taken.inputs.untyped_storage().nbytes() == 2 * 4 * 4


def test_references_of_inference_mode_can_be_differentiated():
    with torch.inference_mode():
        taken = take_references((X.clone(), Y.clone()), 2, source="")
    assert taken.inputs.requires_grad_().sum().requires_grad


def test_no_random_number_is_drawn():
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    before = digest(states)
    take_references((X, Y), 3, source="")
    assert digest((torch.get_rng_state(), np.random.get_state(), random.getstate())) == before


def test_a_subclass_of_tensor_becomes_a_plain_one():
    class Image(torch.Tensor):
        pass

    taken = take_references((X.as_subclass(Image), Y), 2, source="")
    assert type(taken.inputs) is torch.Tensor


# -- what was taken


def test_a_choice_among_parts_that_fit_is_told_with_the_option_that_changes_it():
    taken = take_references((X, X, X), 2, source="")
    assert taken.choice == (
        "the inputs are batch[0], though batch[1] would fit as well; "
        "input_fn=lambda batch: batch[1] takes another"
    )
    assert take_references((X, Y), 2, source="").choice == ""


def test_what_the_user_chose_is_no_choice_of_ours():
    reader = BatchReader(lambda batch: batch[1], lambda batch: Y)
    taken = take_references((X, X, X), 2, source="", reader=reader)
    assert (taken.choice, taken.note) == ("", "")


def test_a_list_of_images_of_one_size_is_stacked_and_it_is_said():
    images = torch.rand(6, 3, 8, 8)
    taken = take_references((list(images), Y), 6, source="")
    assert torch.equal(taken.inputs, images[[0, 2, 4, 1, 5, 3]])
    assert taken.note == "a list of images was stacked"


@pytest.mark.parametrize("labels", [Y, torch.eye(3)[Y], torch.eye(3, dtype=torch.int64)[Y]])
def test_rows_with_a_single_one_are_classes(labels):
    taken = take_references((X, labels), 6, source="")
    assert sorted(taken.labels.tolist()) == sorted(Y.tolist())


def test_a_mask_that_is_no_plain_tensor_is_refused():
    with pytest.raises(TypeError, match=r"mask_fn returned Tensor.*for a batch of 6"):
        take_references(X, 2, source="", mask_fn=lambda batch: X.to_sparse())


def test_labels_of_another_kind_are_told():
    with pytest.raises(TypeError, match=r"label_fn returned list\(str, str\).*Return a tensor"):
        take_references(X, 2, source="", reader=BatchReader(None, lambda batch: ["cat", "dog"]))


def test_samples_are_found_where_a_reader_has_found_them_before():
    index = torch.arange(40, 46)
    reader = BatchReader()
    reader.labels((X, Y, index))
    taken = take_references((X, index, Y), 2, source="", reader=reader)
    assert set(taken.labels.tolist()) <= set(index.tolist())


def test_what_is_found_by_default_can_be_asked_for():
    inputs, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    batch = (torch.arange(8), inputs, labels)
    assert torch.equal(default_input_fn(batch), inputs)
    assert torch.equal(default_label_fn(batch), labels)
