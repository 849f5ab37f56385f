from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from vis_callbacks.engine.scores import (
    Unit,
    expand_target,
    find_scores,
    refused_inputs,
    resolve_targets,
    select_scores,
    value_of_unit,
)

SCORES = torch.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 0.0]])

# -- units


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("layer4.1.relu-1:17", Unit("layer4.1.relu-1", 17)),
        ("net/relu:0", Unit("net/relu", 0)),
        ("conv:3@4,5", Unit("conv", 3, (4, 5))),
        ("a:b:7", Unit("a:b", 7)),
    ],
)
def test_a_unit_is_read_as_it_is_written(text, unit):
    assert Unit.parse(text) == unit
    assert str(unit) == text


@pytest.mark.parametrize(
    "text", ["", "relu", ":3", "relu:", "relu:x", "relu:-1", "relu:1@", "r:1@a"]
)
def test_a_unit_written_otherwise_is_refused(text):
    with pytest.raises(ValueError, match=rf'unit "{text}" is not written as .*Use "layer4.1.relu'):
        Unit.parse(text)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("a", -1), ValueError, "index=-1 is negative"),
        (("a", 1.0), TypeError, "index=1.0 is a float"),
        (("a", True), TypeError, "index=True is a bool"),
        (("a", 1, (0, -2)), ValueError, "position=-2 is negative"),
    ],
)
def test_an_index_that_is_none_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Unit(*arguments)


def test_an_index_beyond_the_layer_is_refused():
    with pytest.raises(ValueError, match=r'"fc" has 5 units. Use an index from 0 to 4'):
        Unit("fc", 5).check({"fc": 5})


def test_a_unit_is_as_strong_as_its_strongest_position_or_as_the_neuron_that_is_named():
    activation = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert torch.equal(value_of_unit(activation, Unit("conv", 1)), activation[:, 1].amax((1, 2)))
    selected = value_of_unit(activation, Unit("conv", 1, (2, 3)))
    assert torch.equal(selected, activation[:, 1, 2, 3])
    for positions in ("strongest", "sum"):
        assert value_of_unit(SCORES, Unit("fc", 2), positions=positions).tolist() == [3.0, 0.0]


@pytest.mark.parametrize("position", [(1,), (4, 0), (0, 0, 0)])
def test_a_position_that_does_not_fit_is_refused(position):
    with pytest.raises(ValueError, match=r"positions of size \(4, 5\)"):
        value_of_unit(torch.zeros(2, 3, 4, 5), Unit("conv", 1, position))


# -- targets


@pytest.mark.parametrize("target", ["label", "predicted", 0, 7])
def test_both_is_the_label_and_the_prediction_and_another_target_stays_alone(target):
    assert expand_target("both") == ("label", "predicted")
    assert expand_target(target) == (target,)


def test_the_predicted_class_has_the_highest_score_and_a_number_is_the_same_for_all():
    assert resolve_targets(SCORES, "predicted").indices.tolist() == [1, 0]
    assert resolve_targets(SCORES, 2).indices.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("lable", ValueError, 'target="lable" is not a target.*nearest: "label"'),
        ("prediction", ValueError, 'nearest: "predicted"'),
        (-1, ValueError, "target=-1 is negative"),
        (1.5, TypeError, "target=1.5 is a float"),
        (True, TypeError, "target=True is a bool"),
        (None, TypeError, "target=None is a NoneType"),
    ],
)
def test_a_wrong_target_is_refused(target, error, words):
    with pytest.raises(error, match=words):
        expand_target(target)


def test_a_class_beyond_the_scores_is_refused():
    with pytest.raises(ValueError, match=r"target=3 is not a class.*Use 0 to 2"):
        resolve_targets(SCORES, 3)


def test_labels_are_explained_where_they_are_classes():
    targets = resolve_targets(SCORES, "label", torch.tensor([2, 1], dtype=torch.uint8))
    assert targets.indices.tolist() == [2, 1]
    assert targets.note == ""


@pytest.mark.parametrize("odd", [3, -100])
def test_the_prediction_stands_in_for_a_label_that_is_no_class(odd):
    targets = resolve_targets(SCORES, "label", torch.tensor([odd, 1]))
    assert targets.indices.tolist() == [1, 1]
    assert targets.note == "1 of 2 labels are none of the 3 classes: the predicted class instead"


def test_the_prediction_stands_in_for_missing_labels():
    targets = resolve_targets(SCORES, "label", None)
    assert targets.indices.tolist() == [1, 0]
    assert targets.note == "no usable labels: the predicted class instead"


def test_each_sample_gets_the_score_of_its_class():
    assert select_scores(SCORES, torch.tensor([2, 0])).tolist() == [3.0, 4.0]


def test_scores_at_several_positions_are_averaged():
    scores = torch.zeros(1, 2, 2, 2)
    scores[0, 1] = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    assert resolve_targets(scores, "predicted").indices.tolist() == [1]
    assert select_scores(scores, torch.tensor([1])).tolist() == [2.0]


def test_selected_scores_can_be_differentiated():
    scores = SCORES.clone().requires_grad_()
    select_scores(scores, torch.tensor([2, 0])).sum().backward()
    assert scores.grad.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


# -- scores in an output


class Output(NamedTuple):
    loss: torch.Tensor
    scores: torch.Tensor


class OddOutput(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass
class DataOutput:
    hidden: torch.Tensor
    logits: torch.Tensor


HIDDEN = torch.zeros(2, 9)


@pytest.mark.parametrize(
    "output",
    [
        SCORES,
        (SCORES, HIDDEN),
        [torch.tensor(0.5), SCORES],
        {"hidden": HIDDEN, "logits": SCORES},
        {"only": SCORES, "name": "x"},
        OrderedDict(out=SCORES, aux=HIDDEN),
        Output(torch.tensor(0.5), SCORES),
        OddOutput(SCORES, HIDDEN),
        DataOutput(HIDDEN, SCORES),
        (torch.zeros(2, 3, dtype=torch.int64), SCORES),
        (HIDDEN[:1], SCORES),
    ],
    ids=lambda output: type(output).__name__,
)
def test_scores_are_found_in_whatever_is_returned(output):
    assert find_scores(output, 2) is SCORES


def test_how_to_take_one_of_several_named_outputs_is_said():
    output = {"cost": torch.zeros(()), "kind": SCORES, "size": torch.zeros(2)}
    with pytest.raises(
        TypeError, match=r"forward_fn=lambda model, inputs: model.inputs.\['kind'\]"
    ):
        find_scores(output, 2)


def test_one_score_a_sample_becomes_one_class():
    assert find_scores(torch.zeros(2), 2).shape == (2, 1)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "NoneType"),
        (torch.tensor(1.0), r"Tensor\(\) float32"),
        (torch.zeros(2, dtype=torch.int64), r"Tensor\(2,\) int64"),
        (torch.zeros(3, 2), r"Tensor\(3, 2\) float32"),
        ({"a": SCORES, "b": SCORES}, r"dict\(a: Tensor\(2, 3\)"),
        ([], r"list\(\)"),
        ([[1.0], [2.0, 3.0]], r"list\(list\(float\), list\(float, float\)\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_output_without_scores_is_described(output, words):
    with pytest.raises(TypeError, match=rf"of 2 samples returned {words}.*Write forward_fn="):
        find_scores(output, 2)


def test_refused_inputs_are_described_with_what_to_write():
    found = refused_inputs(torch.zeros(4, 7), "which are no images")
    assert found.startswith("the inputs are Tensor(4, 7) float32, which are no images. ")
    assert "Write input_fn=lambda batch: ... that returns images (samples, channels" in found
    assert "forward_fn" in found
