"""Outputs are classes only where labels and outputs agree, or the user says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

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


def test_few_of_very_many_classes_are_not_met_by_luck():
    labels = torch.tensor([3, 907, 12, 55, 348, 2, 71, 660])
    outputs = Outputs()
    learned = [outputs.learn(met(labels, 1000, 2), labels) for _ in range(3)]
    assert learned == [False, False, True]


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_a_single_class_that_is_met_is_luck(num_classes):
    labels, outputs = torch.arange(8), Outputs()
    for _ in range(5):
        assert not outputs.learn(met(labels, num_classes, 1), labels)


def met(labels: torch.Tensor, num_classes: int, num_met: int) -> torch.Tensor:
    """Returns scores that are right for the first samples, and else the same other class."""
    shown = torch.full_like(labels, num_classes - 1)
    shown[:num_met] = labels[:num_met]
    return torch.nn.functional.one_hot(shown, num_classes).float()


@pytest.mark.parametrize(
    "change",
    [
        lambda scores: scores.bfloat16(),
        lambda scores: scores[:, :, None, None].expand(-1, -1, 3, 3),
        lambda scores: scores.index_fill(0, torch.arange(0, 100, 7), torch.nan),
    ],
    ids=["half precision", "several positions", "some samples not finite"],
)
def test_scores_of_other_forms_are_understood(change):
    labels = torch.arange(100) % 10
    assert Outputs().learn(change(scores_of(labels, 10)), labels)


def test_a_probability_that_was_not_finite_once_stays_one():
    outputs = Outputs()
    outputs.learn(torch.tensor([[torch.nan], [0.5]]), None)
    given = torch.tensor([[0.9], [0.2]])
    torch.testing.assert_close(outputs.probabilities(given)[:, 1:], given)


# -- labels in every form, of models that have learned


def trained(
    make_target: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    num_outputs: int,
    last: nn.Module | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns outputs and targets of a network that was trained on three clusters of points."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.arange(120) % 3
    points = torch.randn(120, 4, generator=generator) + 4 * torch.eye(4)[kind]
    target = make_target(kind)
    torch.manual_seed(0)
    layers = [nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, num_outputs), last or nn.Identity()]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss(model(points), target).backward()
        optimizer.step()
    return model(points).detach(), target


def is_second(kind: torch.Tensor) -> torch.Tensor:
    return (kind == 1).float()[:, None]


def bits(kind: torch.Tensor) -> torch.Tensor:
    """Several may be true of a sample."""
    return torch.stack([kind == 0, kind < 2, kind > 0], 1).float()


def ages(kind: torch.Tensor) -> torch.Tensor:
    return 10 * kind[:, None] + 1


bce = nn.functional.binary_cross_entropy_with_logits
CLASSIFIERS = {
    "cross-entropy": (lambda kind: kind, nn.functional.cross_entropy, 3, None),
    "one-hot": (lambda kind: torch.eye(3)[kind], nn.functional.cross_entropy, 3, None),
    "one logit, floating bits": (is_second, bce, 1, None),
    "one probability": (is_second, nn.functional.binary_cross_entropy, 1, nn.Sigmoid()),
    "one logit, whole bits": (
        lambda kind: (kind == 1).long(),
        lambda scores, labels: bce(scores[:, 0], labels.float()),
        1,
        None,
    ),
    "log-probabilities": (lambda k: k, nn.functional.nll_loss, 3, nn.LogSoftmax(1)),
    "a head with room": (lambda kind: kind, nn.functional.cross_entropy, 10, None),
}


@pytest.mark.parametrize("case", CLASSIFIERS.values(), ids=CLASSIFIERS.keys())
def test_the_outputs_of_a_classifier_are_classes(case):
    assert Outputs().learn(*trained(*case))


OTHERS = {
    "a value of whole numbers": (
        ages,
        lambda value, age: nn.functional.mse_loss(value, age.float()),
        1,
        None,
    ),
    "several bits": (bits, bce, 3, None),
    "mixed up labels": (
        lambda kind: 0.9 * torch.eye(3)[kind] + 0.1 * torch.eye(3)[kind.flip(0)],
        nn.functional.cross_entropy,
        3,
        None,
    ),
    "values": (lambda kind: kind[:, None] * 1.5, nn.functional.mse_loss, 1, None),
    "distances of what belongs together": (
        lambda kind: kind,
        lambda places, kind: (
            torch.cdist(places, places).sub(4.0 * (kind[:, None] != kind)).square().mean()
        ),
        16,
        None,
    ),
}


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS.keys())
def test_the_outputs_of_another_model_are_none(case):
    outputs, (scores, target) = Outputs(), trained(*case)
    for _ in range(5):
        assert not outputs.learn(scores, target)


def test_the_pixels_of_a_segmentation_are_no_samples():
    masks = torch.arange(100)[:, None, None].expand(-1, 4, 4) % 10
    scores = torch.nn.functional.one_hot(masks, 10).movedim(-1, 1).float()
    outputs = Outputs()
    for _ in range(5):
        assert not outputs.learn(scores, masks)


def test_a_single_output_whose_labels_were_ages_stays_a_value():
    outputs, bits = Outputs(), torch.arange(100) % 2
    assert not outputs.learn(torch.full((3, 1), 31.0), torch.tensor([31, 0, 7]))
    for _ in range(5):
        assert not outputs.learn(bits[:, None] * 2.0 - 1, bits)
    later = Outputs()
    later.load_state_dict(outputs.state_dict())
    assert not later.learn(bits[:, None] * 2.0 - 1, bits)


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
    later.load_state_dict(outputs.state_dict())
    assert later.are_classes


def test_probabilities_are_those_of_the_softmax_and_stay_what_they_are():
    scores = torch.randn(5, 4)
    shares = scores.softmax(1)
    torch.testing.assert_close(Outputs().probabilities(scores), shares)
    torch.testing.assert_close(Outputs().probabilities(scores.log_softmax(1)), shares)
    assert torch.equal(Outputs().probabilities(shares), shares)


def test_scores_at_several_positions_are_averaged():
    scores = torch.randn(2, 3, 4, 5)
    expected = scores.mean((2, 3)).softmax(1)
    torch.testing.assert_close(Outputs().probabilities(scores), expected)
