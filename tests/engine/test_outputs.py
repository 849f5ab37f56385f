"""Outputs are classes only where labels and outputs agree, or the user says so."""

from __future__ import annotations

import pytest
import torch

from vis_callbacks.engine.outputs import Outputs


def scores_of(labels: torch.Tensor, num_classes: int, share_right: float = 1.0) -> torch.Tensor:
    """Returns scores whose highest is the label for the first ``share_right`` of each class."""
    shown = labels.clone()
    for kind in labels.unique():
        rows = (labels == kind).nonzero().squeeze(1)
        shown[rows[round(share_right * len(rows)) :]] = (kind + 1) % num_classes
    return torch.nn.functional.one_hot(shown, num_classes).float()


def test_a_classifier_is_recognised_at_the_third_look_at_few_samples():
    labels, outputs = torch.arange(8), Outputs()
    learned = [outputs.learn(scores_of(labels, 10), labels) for _ in range(3)]
    assert learned == [False, False, True]


def test_a_classifier_is_recognised_at_the_first_look_at_many_samples():
    labels, outputs = torch.arange(100) % 10, Outputs()
    assert outputs.learn(scores_of(labels, 10, 0.6), labels)


def test_clusters_that_meet_few_classes_by_luck_are_no_classes():
    labels = torch.arange(100) % 10
    scores = torch.nn.functional.one_hot(20 + labels, 64).float()
    scores[labels == 3] = torch.nn.functional.one_hot(torch.tensor(3), 64).float()
    outputs = Outputs()
    for _ in range(5):
        assert not outputs.learn(scores, labels)


def test_a_network_that_always_says_the_largest_class_shows_nothing():
    labels = torch.tensor([0] * 80 + [1] * 20)
    assert not Outputs().learn(scores_of(torch.zeros_like(labels), 2), labels)


def test_labels_beyond_the_outputs_are_no_classes():
    labels = torch.arange(100) % 10
    assert not Outputs().learn(scores_of(labels, 10)[:, :5], labels)


def test_a_look_at_chance_begins_the_row_anew():
    labels, outputs = torch.arange(8), Outputs()
    for share in (1.0, 1.0, 0.0, 1.0, 1.0):
        assert not outputs.learn(scores_of(labels, 10, share), labels)
    assert outputs.learn(scores_of(labels, 10), labels)


@pytest.mark.parametrize(
    ("outputs", "are"),
    [
        (Outputs(), False),
        (Outputs("classes"), True),
        (Outputs("values", ["cat", "dog"]), False),
        (Outputs("auto", ["cat", "dog"]), True),
    ],
)
def test_the_user_decides(outputs, are):
    assert outputs.are_classes is are


def test_a_single_score_is_that_of_class_1():
    outputs = Outputs("auto", ["cat", "dog"])
    scores = torch.tensor([[2.0], [-1.0]])
    outputs.learn(scores, None)
    torch.testing.assert_close(
        outputs.class_scores(scores), torch.tensor([[-2.0, 2.0], [1.0, -1.0]])
    )
    p = torch.sigmoid(scores)
    torch.testing.assert_close(outputs.probabilities(scores), torch.cat([1 - p, p], 1))


def test_a_single_probability_stays_one():
    scores = torch.tensor([[0.9], [0.2]])
    torch.testing.assert_close(
        Outputs().probabilities(scores), torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    )


def test_once_a_single_score_is_known_to_be_none_it_is_never_taken_for_a_probability():
    outputs = Outputs()
    outputs.learn(torch.tensor([[3.0], [-2.0]]), None)
    hidden = torch.tensor([[0.5]])
    torch.testing.assert_close(outputs.probabilities(hidden)[:, 1:], hidden.sigmoid())


def test_names():
    assert Outputs().name(52) == "output 52"
    assert Outputs("classes").name(3) == "class 3"
    assert Outputs("auto", ["cat"]).name(0) == "cat"
    assert Outputs("auto", ["cat"]).name(1) == "class 1"


def test_what_was_learned_survives_a_restart():
    labels, outputs, later = torch.arange(100) % 10, Outputs(), Outputs()
    outputs.learn(scores_of(labels, 10), labels)
    later.restore(outputs.state())
    assert later.are_classes
