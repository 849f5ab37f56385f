from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from benchmarks.remedies.__main__ import Row, changes_of, score_of, table, train
from benchmarks.remedies.programs import PROGRAMS, Program, digits, mlp
from torch import nn

PROGRAM = Program(
    layers=mlp(64, 8, 10, last=(nn.Softmax(1),)), loss=nn.functional.cross_entropy, data=digits
)


def changed(remedy: str, program: Program = PROGRAM) -> Program:
    for change in changes_of(remedy):
        program = change(program)
    return program


@pytest.mark.parametrize(
    ("remedy", "rate"),
    [
        ("Restart with learning rate 0.005 (a tenth of 0.05): better.", 0.005),
        ("Restart with a tenth of the learning rate (0.005 instead of 0.05).", 0.005),
        ("Lower the learning rate tenfold (to 0.005 instead of 0.05), and again until it.", 0.005),
        ("Use ten times the learning rate (0.5 instead of 0.05), or train longer.", 0.5),
        ("Look at the labels as the loss gets them.", 0.05),
    ],
)
def test_a_rate_in_a_remedy_is_followed(remedy, rate):
    assert changed(remedy).rate == pytest.approx(rate)


def test_an_activation_at_the_end_is_taken_out():
    layers = changed("Remove the softmax at the end of the model: cross_entropy must").layers()
    assert isinstance(layers[-1], nn.Linear)


@pytest.mark.parametrize(("name", "is_normalised"), [("inputs", True), ("targets", False)])
def test_only_what_is_named_is_normalised(name, is_normalised):
    prices = PROGRAMS["prices"]
    x, y, *_ = changed(f"Normalise the {name} (mean 3): subtract the mean.", prices).data()
    raw_x, raw_y, *_ = prices.data()
    assert torch.equal(y, raw_y) == is_normalised
    assert torch.equal(x, raw_x) != is_normalised


def test_numbers_of_classes_are_not_normalised():
    _, y, *_ = changed("Normalise inputs and targets if they are raw: subtract the mean.").data()
    assert torch.equal(y, digits()[1])


def test_a_remedy_that_says_nothing_to_do_is_not_followed():
    assert changes_of("Look at what stands between the last layer and the loss.") == []


def test_scores_are_accuracy_and_explained_variance():
    outputs, labels = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])
    assert score_of(outputs, labels, "accuracy") == 0.5
    targets = torch.tensor([[1.0], [3.0]])
    assert score_of(targets, targets, "r2") == 1.0
    assert score_of(targets * 1e9, targets, "r2") == -1.0
    assert score_of(targets * torch.nan, targets, "r2") == -1.0


def test_a_program_is_trained_and_its_alert_is_seen():
    run = train(replace(PROGRAM, steps=5), 0, is_watched=True)
    assert [alert.kind for alert in run.alerts] == ["loss_misfit"]
    assert "learning/gradients" in run.pictures


def test_the_table_counts_what_was_better_by_kind():
    rows = [Row("a", "x", "", 0.1, 0.9), Row("b", "x", "", 0.1, 0.1), Row("b", "y", "", 0.1, 0.2)]
    assert "| `x` | 2 | 1 | 0.10, 0.90 |" in table(rows)
    assert "| all | 3 | 2 | |" in table(rows)
