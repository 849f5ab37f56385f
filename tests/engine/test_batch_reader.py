"""Inputs and labels are found in batches of any form, or it is said what to write."""

from __future__ import annotations

import copy
import pickle
import re
from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence

from vis_callbacks.engine.batch_reader import BatchReader

N = 8
IMAGE = torch.rand(N, 1, 8, 8)
LABEL = torch.arange(N) % 2
INDEX = torch.arange(N)
SHUFFLED = torch.tensor([907, 12, 55, 348, 2, 71, 660, 123])
LENGTHS = torch.tensor([4, 7, 5, 4, 6, 5, 7, 6])
TOKENS = torch.randint(1, 50, (N, 7))
FLOATING = torch.rand(N)
FEATURES = torch.rand(N, 5)
MASK = torch.ones(N, 8, 8, dtype=torch.int64)


class Sample(NamedTuple):
    target: torch.Tensor
    pixels: torch.Tensor


class OddSample(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class DataBatch:
    image: torch.Tensor
    label: torch.Tensor


# What a batch holds, its inputs, its labels.
FOUND: dict[str, tuple[Any, Any, Any]] = {
    "image, label": ((IMAGE, LABEL), IMAGE, LABEL),
    "image, label that is like an index": ((IMAGE, INDEX), IMAGE, INDEX),
    "label, image": ((LABEL, IMAGE), IMAGE, LABEL),
    "index, image": ((INDEX, IMAGE), IMAGE, None),
    "index, image, label": ((INDEX, IMAGE, LABEL), IMAGE, LABEL),
    "shuffled index, image, label": ((SHUFFLED, IMAGE, LABEL), IMAGE, LABEL),
    "image, label, index": ((IMAGE, LABEL, INDEX), IMAGE, LABEL),
    "image, label, shuffled index": ((IMAGE, LABEL, SHUFFLED), IMAGE, LABEL),
    "image, label of many classes, weight": ((IMAGE, SHUFFLED, FLOATING), IMAGE, SHUFFLED),
    "image, lengths, label": ((IMAGE, LENGTHS, LABEL), IMAGE, LABEL),
    "tokens, label, lengths": ((TOKENS, LABEL, LENGTHS), TOKENS, LABEL),
    "tokens, lengths, label": ((TOKENS, LENGTHS, LABEL), TOKENS, LABEL),
    "tokens and lengths, label": (((TOKENS, LENGTHS), LABEL), TOKENS, LABEL),
    "label, tokens": ((LABEL, TOKENS), TOKENS, LABEL),
    "tokens, next tokens": ((TOKENS, TOKENS + 1), TOKENS, None),
    "image, label, weight": ((IMAGE, LABEL, FLOATING), IMAGE, LABEL),
    "image, path, label": ((IMAGE, ["a.png"] * N, LABEL), IMAGE, LABEL),
    "image, mask, label": ((IMAGE, MASK, LABEL), IMAGE, LABEL),
    "features, value": ((FEATURES, FLOATING), FEATURES, FLOATING),
    "features, value, index": ((FEATURES, FLOATING, SHUFFLED), FEATURES, FLOATING),
    "features, image, label": ((FEATURES, IMAGE, LABEL), IMAGE, LABEL),
    "a few features, many values": ((FEATURES, torch.rand(N, 40)), FEATURES, "many values"),
    "small image, large image": ((IMAGE, torch.rand(N, 1, 16, 16)), IMAGE, "large image"),
    "number, number, each in a column": (
        (FLOATING[:, None], FLOATING[:, None] + 1),
        FLOATING[:, None],
        FLOATING[:, None] + 1,
    ),
    "features, categories, value": (
        (FEATURES, TOKENS[:, :2], FLOATING),
        FEATURES,
        FLOATING,
    ),
    "signal, text, lengths of both": (
        (torch.ones(N, 20, 5), TOKENS, torch.full((N,), 20), torch.full((N,), 7)),
        torch.ones(N, 20, 5),
        TOKENS,
    ),
    "number, number": ((FLOATING, FLOATING + 1), FLOATING, FLOATING + 1),
    "index, value": ((SHUFFLED, FLOATING), SHUFFLED, FLOATING),
    "bytes, label": ((MASK.byte(), LABEL), MASK.byte(), LABEL),
    "image and its meaning, label": (((IMAGE, FLOATING), LABEL), IMAGE, LABEL),
    "two views, label": (((IMAGE, IMAGE + 1), LABEL), IMAGE, LABEL),
    "a list of views, label": ([[IMAGE, IMAGE + 1], LABEL], IMAGE, LABEL),
    "anchor, positive, negative": ((IMAGE, IMAGE + 1, IMAGE + 2), IMAGE, None),
    "noisy, clean": ((IMAGE, IMAGE + 1), IMAGE, None),
    "batches of two loaders": ([(IMAGE, LABEL), (IMAGE + 1, 1 - LABEL)], IMAGE, LABEL),
    "named batches of two loaders": (
        {"labelled": (IMAGE, LABEL), "unlabelled": IMAGE + 1},
        IMAGE,
        LABEL,
    ),
    "named: image, index, label": ({"image": IMAGE, "index": INDEX, "label": LABEL}, IMAGE, LABEL),
    "named: index first": ({"idx": INDEX, "img": IMAGE, "target": LABEL}, IMAGE, LABEL),
    "named: lengths": ({"input_ids": TOKENS, "lengths": LENGTHS, "y": LABEL}, TOKENS, LABEL),
    "named: an attention mask": (
        {"attention_mask": torch.ones(N, 7), "input_ids": TOKENS, "labels": LABEL},
        TOKENS,
        LABEL,
    ),
    "named: nothing known but lengths": ({"series": FEATURES, "length": LENGTHS}, FEATURES, None),
    "named: an image number": ({"image_id": INDEX, "photo": IMAGE}, IMAGE, None),
    "named: words in a name": (
        {"image_path": ["a"] * N, "left_image": IMAGE, "class_idx": LABEL},
        IMAGE,
        LABEL,
    ),
    "named: one-hot": ({"pixel_values": IMAGE, "labels": torch.eye(2)[LABEL]}, IMAGE, LABEL),
    "named tuple": (Sample(target=LABEL, pixels=IMAGE), IMAGE, LABEL),
    "named tuple of odd names": (OddSample(IMAGE, LABEL), IMAGE, LABEL),
    "capitals": ({"Images": IMAGE, "Labels": LABEL}, IMAGE, LABEL),
    "its only wide tensor": ({"cells": IMAGE, "y": LABEL}, IMAGE, LABEL),
    "no dict but a mapping": (UserDict(inputs=IMAGE, targets=LABEL), IMAGE, LABEL),
    "dataclass": (DataBatch(IMAGE, LABEL), IMAGE, LABEL),
    "nested": ({"inputs": {"image": IMAGE}, "label": LABEL}, IMAGE, LABEL),
    "nested in a tuple": (({"x": IMAGE}, {"y": LABEL}), IMAGE, LABEL),
    "a tensor": (IMAGE, IMAGE, None),
    "one part": ((IMAGE,), IMAGE, None),
    "strings": ((IMAGE, ["a"] * N), IMAGE, None),
    "bools": ((IMAGE, [True] * N), IMAGE, None),
    "boxes": ((IMAGE, {"boxes": IMAGE}), IMAGE, None),
    "string labels": ({"image": IMAGE, "label": ["cat"] * N}, IMAGE, None),
    "attributes": (SimpleNamespace(image=IMAGE, label=LABEL), IMAGE, LABEL),
    "attributes in a tuple": ((SimpleNamespace(x=IMAGE), LABEL), IMAGE, LABEL),
    "floating bits": ((FEATURES, LABEL.float()), FEATURES, LABEL),
    "a column of floating bits": ((FEATURES, LABEL.float()[:, None]), FEATURES, LABEL),
    "a list of labels": ((IMAGE, LABEL.tolist()), IMAGE, LABEL),
    "a detector's": ((list(IMAGE), [{"labels": torch.tensor([1])}] * N), IMAGE, None),
    "a detector's in tuples": (
        (tuple(IMAGE), tuple({"boxes": torch.rand(2, 4)} for _ in range(N))),
        IMAGE,
        None,
    ),
    "a batch of images in a list": (list(IMAGE), IMAGE, None),
    "named: a list of images": ({"images": list(IMAGE), "labels": LABEL}, IMAGE, LABEL),
    "one sample": ((IMAGE[:1], LABEL[:1]), IMAGE[:1], LABEL[:1]),
}


@pytest.mark.parametrize(("batch", "inputs", "labels"), FOUND.values(), ids=FOUND.keys())
def test_inputs_and_labels_are_found(batch, inputs, labels):
    reader = BatchReader()
    assert torch.equal(reader.inputs(batch), inputs)
    found = reader.labels(batch)
    if isinstance(labels, str):  # the target of a regression has a shape of its own
        labels = batch[1]
    assert (found is None) == (labels is None)
    assert found is None or (torch.equal(found, labels) and found.dtype == labels.dtype)


class Graph:
    """Holds what it has behind a method, as torch_geometric's graphs do."""

    def __init__(self, **fields: torch.Tensor) -> None:
        self._store = fields
        self.num_graphs = 4

    def to_dict(self) -> dict[str, torch.Tensor]:
        return self._store


EDGES = torch.randint(0, 39, (2, 60))
NODES = torch.rand(39, 5)
SEQUENCES = [torch.rand(4 + k % 3, 5) for k in range(N)]
PACKED = pack_sequence(SEQUENCES, enforce_sorted=False)

REFUSED: dict[str, tuple[Any, str]] = {
    "users, items, rating": (
        (INDEX, LENGTHS, FLOATING),
        r"several parts may be the input.*torch\.stack\(\[batch\[0\], batch\[1\]\], 1\)",
    ),
    "columns": (
        {"age": FLOATING, "income": FLOATING, "target": LABEL},
        r'torch\.stack\(\[batch\["age"\], batch\["income"\]\], 1\)',
    ),
    "images of different sizes": (
        ([torch.rand(3, 8 + k, 9) for k in range(N)], LABEL),
        r"batch\[0\] is a list of 8 images of different sizes, such as \(3, 8, 9\) and "
        r"\(3, 9, 9\)\. Write input_fn=lambda batch: torch\.stack",
    ),
    "named images of different sizes": (
        {"images": [torch.rand(3, 8 + k, 9) for k in range(N)]},
        r'for image in batch\["images"\]',
    ),
    "images of different sizes alone": (
        [torch.rand(3, 8 + k, 9) for k in range(N)],
        r"batch is a list of 8 images",
    ),
    "a packed sequence": ((PACKED, LABEL), r"batch\[0\] is a PackedSequence.*pad_packed_sequence"),
    "samples": ([(image, 1) for image in IMAGE], r"a list of 8 samples.*sample\[0\] for sample"),
    "named samples": (
        [{"image": image, "label": torch.tensor(1)} for image in IMAGE],
        r'list of 8 samples.*sample\["image"\] for sample',
    ),
    "samples on the second axis": (
        (torch.rand(20, N, 5), LABEL),
        r"second axis.*batch\[0\]\.transpose\(0, 1\).*module\(inputs\.transpose\(0, 1\)\)",
    ),
    "a graph": (
        SimpleNamespace(x=NODES, edge_index=EDGES, y=LABEL),
        r"SimpleNamespace\(x: .*edge_index.*are nodes of graphs, not samples",
    ),
    "a graph that gives itself as a dict": (
        Graph(x=NODES, edge_index=EDGES, y=LABEL, batch=torch.zeros(39)),
        "are nodes of graphs",
    ),
    "a graph in a tuple": ((NODES, EDGES, LABEL), "are nodes of graphs"),
    "a graph with a sparse matrix": ((NODES, torch.eye(39).to_sparse(), LABEL), "are nodes of"),
    "complex numbers": ((torch.view_as_complex(torch.rand(N, 5, 2)), LABEL), "inputs are complex"),
    "sparse rows": ((FEATURES.to_sparse(), LABEL), "inputs are sparse"),
    "nothing": (object(), "no input tensor was found in the batch, which looks like object"),
    "names alone": (["a"] * N, "no input tensor was found"),
    "labels alone": ({"label": LABEL}, "no input tensor was found"),
    "none": (None, "looks like NoneType"),
    "empty": ((), r"looks like tuple\(\)"),
    "a number": (torch.tensor(1.0), r"looks like Tensor\(\) float32"),
    "deep": ({"a": {"b": {"c": {"d": IMAGE}}}}, r"dict\(a: dict\(b: dict\(\.\.\.\)\)\)"),
    "many": (dict.fromkeys("abcdefghij", 1), r"h: int, \.\.\.\)"),
}


@pytest.mark.parametrize(("batch", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_batch_without_an_input_of_samples_tells_what_to_write(batch, words):
    with pytest.raises(TypeError, match=words) as raised:
        BatchReader().inputs(batch)
    assert "input_fn=lambda batch: " in str(raised.value)


def written(batch: Any) -> tuple[Any, Any]:
    """Returns the two functions that the words say are to be written, the second if there is."""
    with pytest.raises(TypeError, match="Write input_fn=") as raised:
        BatchReader().inputs(batch)
    words = str(raised.value)[:-1].split("Write input_fn=")[1]
    first, _, second = re.sub(
        " and, where .* one by one, forward", " and forward", words
    ).partition(" and forward_fn=")
    names: dict[str, Any] = {"torch": torch}
    return eval(first, names), eval(second, names) if second else None


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("users, items, rating", torch.stack([INDEX, LENGTHS], 1)),
        ("columns", torch.stack([FLOATING, FLOATING], 1)),
        ("samples", IMAGE),
        ("named samples", IMAGE),
        ("samples on the second axis", REFUSED["samples on the second axis"][0][0].transpose(0, 1)),
        ("a packed sequence", pad_sequence(SEQUENCES, batch_first=True)),
        ("sparse rows", FEATURES),
    ],
)
def test_what_is_to_be_written_gives_samples(kind, inputs):
    batch = REFUSED[kind][0]
    input_fn, _ = written(batch)
    assert torch.equal(BatchReader(input_fn).inputs(batch), inputs)


def test_what_is_to_be_written_for_a_packed_sequence_runs_its_model():
    input_fn, forward_fn = written((PACKED, LABEL))
    lstm = nn.LSTM(5, 3)
    _, (state, _) = forward_fn(lstm, input_fn((PACKED, LABEL))[:2])
    assert state.shape == (1, 2, 3)


def test_what_is_to_be_written_for_two_inputs_runs_their_model():
    class Factors(nn.Module):
        def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
            return users * items

    batch = REFUSED["users, items, rating"][0]
    input_fn, forward_fn = written(batch)
    assert torch.equal(forward_fn(Factors(), input_fn(batch)), INDEX * LENGTHS)


# -- the same places each time


def test_labels_lie_in_the_same_place_in_each_batch_of_a_run():
    reader = BatchReader()
    assert torch.equal(reader.labels((IMAGE, LABEL, SHUFFLED)), LABEL)
    ones = torch.ones(2, dtype=torch.int64)
    assert torch.equal(reader.labels((IMAGE[:2], INDEX[:2], ones)), INDEX[:2])


def test_a_batch_of_another_form_is_looked_at_anew():
    reader = BatchReader()
    reader.inputs((IMAGE, LABEL))
    assert torch.equal(reader.inputs({"index": INDEX, "image": IMAGE}), IMAGE)
    assert torch.equal(reader.inputs((INDEX, IMAGE, LABEL)), IMAGE)


def test_floating_labels_are_classes_or_values_for_a_whole_run():
    binary, values = BatchReader(), BatchReader()
    binary.labels((FEATURES, LABEL.float()))
    assert binary.labels((FEATURES, torch.ones(N))).tolist() == [1] * N
    values.labels((FEATURES, FLOATING))
    assert values.labels((FEATURES, LABEL.float())).dtype == torch.float32


def test_labels_that_tell_nothing_leave_it_to_the_next():
    reader = BatchReader()
    assert reader.labels((FEATURES, torch.ones(N))).dtype == torch.float32
    assert reader.labels((FEATURES, LABEL.float())).dtype == torch.int64


def test_what_a_label_fn_gives_has_one_form_too():
    reader = BatchReader(label_fn=lambda batch: batch[1])
    assert reader.labels((FEATURES, torch.eye(2)[LABEL])).tolist() == LABEL.tolist()
    assert reader.labels((FEATURES, torch.eye(2)[[1, 1]])).tolist() == [1, 1]


def test_labels_that_are_no_plain_tensor_are_none():
    assert BatchReader().labels((FEATURES, torch.eye(N).to_sparse())) is None


def test_tensors_are_made_plain_and_no_code_of_theirs_is_run():
    class Carrying(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            raise RuntimeError("code of the subclass was run")

    reader = BatchReader()
    batch = (IMAGE.as_subclass(Carrying), LABEL.as_subclass(Carrying))
    assert type(reader.inputs(batch)) is torch.Tensor
    assert type(reader.labels(batch)) is torch.Tensor
    assert type(BatchReader(lambda batch: batch[0]).inputs(batch)) is torch.Tensor


def test_inputs_with_a_graph_come_without():
    assert not BatchReader().inputs((IMAGE.clone().requires_grad_(), LABEL)).requires_grad


class Odd:
    """An object of the user's that fails wherever it can."""

    def _fail(self, *args: Any) -> Any:
        raise RuntimeError("code of the user's was run")

    __hash__ = __eq__ = __len__ = __bool__ = __iter__ = __getattr__ = __repr__ = _fail


def test_parts_that_fail_wherever_they_can_are_let_alone():
    batch = {"odd": Odd(), "image": IMAGE, "label": LABEL, "more": [Odd(), Odd()]}
    reader = BatchReader()
    assert torch.equal(reader.inputs(batch), IMAGE)
    assert torch.equal(reader.labels(batch), LABEL)


def test_a_batch_that_the_user_reads_is_let_alone():
    reader = BatchReader(lambda batch: IMAGE, lambda batch: LABEL)
    batch = Odd()
    assert reader.inputs(batch) is IMAGE
    assert reader.labels(batch) is LABEL
    assert reader.layout(batch).choice == ""


def test_a_reader_can_be_copied_and_pickled():
    reader = BatchReader()
    reader.labels((IMAGE, LABEL, INDEX))
    for other in (copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        assert torch.equal(other.labels((IMAGE, LABEL, INDEX)), LABEL)


# -- choices that are told

CHOICES: dict[str, tuple[Any, str]] = {
    "image, label": ((IMAGE, LABEL), ""),
    "noisy, clean": ((IMAGE, IMAGE), ""),
    "two views, label": (
        ((IMAGE, IMAGE), LABEL),
        "the inputs are batch[0][0], though batch[0][1] would fit as well; "
        "input_fn=lambda batch: batch[0][1] takes another",
    ),
    "named views": (
        {"image_1": IMAGE, "image_2": IMAGE, "label": LABEL},
        'the inputs are batch["image_1"], though batch["image_2"] would fit as well; '
        'input_fn=lambda batch: batch["image_2"] takes another',
    ),
    "attributes": (
        SimpleNamespace(left=IMAGE, right=IMAGE),
        "the inputs are batch.left, though batch.right would fit as well; "
        "input_fn=lambda batch: batch.right takes another",
    ),
    "two classes each": (
        (IMAGE, LABEL, LABEL.flip(0)),
        "the labels are batch[2], though batch[1] would fit as well; "
        "label_fn=lambda batch: batch[1] takes another",
    ),
    "image, label, index": ((IMAGE, LABEL, INDEX), ""),
    "tokens, lengths, label": ((TOKENS, LENGTHS, LABEL), ""),
    "numbers from 1 on, numbers from 0 on": (
        (IMAGE, LENGTHS, LABEL),
        "the labels are batch[2], though batch[1] would fit as well; "
        "label_fn=lambda batch: batch[1] takes another",
    ),
}


@pytest.mark.parametrize(("batch", "choice"), CHOICES.values(), ids=CHOICES.keys())
def test_a_choice_is_told_where_there_is_one(batch, choice):
    assert BatchReader().layout(batch).choice == choice
