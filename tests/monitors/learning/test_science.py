from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.engine.loss_calls import LossCall, LossInputs
from vis_callbacks.engine.probe import Batch
from vis_callbacks.monitors.learning.science import (
    FORMULAS,
    OUTPUT_SUMS,
    constant_losses,
    measure,
    spreads,
)

LABELS = torch.tensor([0, 1, 2, 2, 2, 0])


def batch(labels: Tensor | None = LABELS, inputs: Tensor | None = None) -> Batch:
    return Batch(inputs=inputs, labels=labels, num_samples=6)


def sums(outputs: Tensor, labels: Tensor | None = LABELS) -> dict[str, Tensor]:
    return measure(LossInputs((), (outputs,)), batch(labels))[""]


def by_formula(outputs: Tensor, labels: Tensor | None = LABELS) -> dict[str, float]:
    found = sums(outputs, labels)
    return dict(zip(FORMULAS, (found["by_formula"] / found["rows"]).tolist(), strict=True))


def test_each_formula_is_the_loss_that_it_is_named_after() -> None:
    outputs, hot = torch.rand(6, 3), F.one_hot(LABELS, 3).float()
    found = by_formula(outputs)
    assert found["cross_entropy"] == pytest.approx(float(F.cross_entropy(outputs, LABELS)), 1e-6)
    assert found["mse_loss"] == pytest.approx(float(F.mse_loss(outputs, hot)), 1e-6)
    assert found["l1_loss"] == pytest.approx(float(F.l1_loss(outputs, hot)), 1e-6)
    expected = float(F.binary_cross_entropy(outputs, hot))
    assert found["binary_cross_entropy"] == pytest.approx(expected, 1e-5)
    shares = outputs / outputs.sum(1, keepdim=True)
    expected = float(F.nll_loss(shares.log(), LABELS))
    assert found["cross_entropy_of_probabilities"] == pytest.approx(expected, 1e-5)
    assert math.isnan(found["mse_of_all_pairs"])


def test_all_pairs_are_what_broadcasting_makes_of_two_shapes() -> None:
    outputs, targets = torch.randn(6, 1), torch.randn(6)
    broadcast = float((outputs - targets).square().mean())
    assert by_formula(outputs, targets)["mse_of_all_pairs"] == pytest.approx(broadcast, 1e-5)


def test_of_a_loss_of_torchs_only_its_own_formula_is_tried() -> None:
    call = LossCall("cross_entropy", torch.randn(6, 3), LABELS)
    found = measure(LossInputs([call], ()), batch())["cross_entropy"]
    named = dict(zip(FORMULAS, found["by_formula"].tolist(), strict=True))
    assert [name for name, value in named.items() if not math.isnan(value)] == ["cross_entropy"]


def test_labels_that_a_loss_ignores_are_in_no_class() -> None:
    call = LossCall("cross_entropy", torch.randn(6, 3), torch.tensor([0, -100, 2, 2, -100, 0]))
    found = measure(LossInputs([call], ()), batch())["cross_entropy"]
    assert found["label_counts"].tolist() == [2.0, 0.0, 2.0]


@pytest.mark.parametrize("ignored", [-100, 0])
def test_a_mean_is_that_of_the_rows_that_count(ignored: int) -> None:
    outputs, labels = torch.randn(6, 3), LABELS.masked_fill(LABELS == 0, ignored)
    call = LossCall("cross_entropy", outputs, labels, ignored)
    found = measure(LossInputs([call], ()), batch())["cross_entropy"]
    value = dict(zip(FORMULAS, (found["by_formula"] / 6).tolist(), strict=True))["cross_entropy"]
    loss = F.cross_entropy(outputs, labels, ignore_index=ignored)
    assert value == pytest.approx(float(loss), 1e-6)
    assert found["label_counts"].tolist() == [0, 1, 3]


REWARDS = torch.tensor([1.0, 0, 1, 1, 1, 1, 1, 0])
FIRST = torch.zeros(8, dtype=torch.long)  # the score that is to be the highest one
OF_BATCH = torch.tensor([0, 1, 1, 0, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("kind", "targets", "of_batch", "are_labels"),
    [
        ("mse_loss", REWARDS, OF_BATCH, False),
        ("mse_loss", REWARDS, None, False),
        ("mse_loss", OF_BATCH.float(), OF_BATCH, True),
        ("cross_entropy", FIRST, OF_BATCH, False),
        ("cross_entropy", FIRST, None, False),
        ("cross_entropy", FIRST, FIRST, True),  # then it is the batch that has one class alone
        ("cross_entropy", OF_BATCH, None, True),
        ("cross_entropy", FIRST[:4], None, True),  # so few may be alike by chance
        ("binary_cross_entropy_with_logits", REWARDS, OF_BATCH, True),
    ],
)
def test_targets_that_the_step_makes_are_no_labels(
    kind: str, targets: Tensor, of_batch: Tensor | None, are_labels: bool
) -> None:
    columns = 5 if kind == "cross_entropy" else 1
    outputs = torch.randn(len(targets), columns)
    targets = targets if columns > 1 else targets[:, None]
    inputs = LossInputs([LossCall(kind, outputs, targets)], ())
    found = measure(inputs, Batch(inputs=None, labels=of_batch, num_samples=len(targets)))[kind]
    assert found["label_counts"].sum() == len(targets) * are_labels


def test_of_several_losses_nothing_is_said() -> None:
    call = LossCall("mse_loss", torch.randn(6, 3), torch.randn(6, 3))
    assert measure(LossInputs([call, call], ()), batch()) == {}


def test_the_loss_of_a_criterion_is_not_taken_for_the_models_output() -> None:
    outputs = torch.randn(6, 3)
    found = measure(LossInputs((), (outputs, torch.tensor(0.3))), batch())[""]
    assert found["high"].tolist() == pytest.approx(outputs.amax(0).tolist())


def test_the_positions_of_a_segmentation_are_rows() -> None:
    call = LossCall("cross_entropy", torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5).long())
    found = measure(LossInputs([call], ()), batch())["cross_entropy"]
    assert found["rows"] == 40
    assert found["label_counts"].tolist() == [40.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("cross_entropy", torch.tensor([2, 1, 3]).div(6).log()),
        ("mse_loss", torch.tensor([2, 1, 3]).div(6)),
        ("binary_cross_entropy", torch.tensor([2, 1, 3]).div(6)),
    ],
)
def test_no_constant_is_better_than_the_best(name: str, constant: Tensor) -> None:
    best = dict(zip(FORMULAS, map(float, constant_losses(sums(torch.rand(6, 3)))), strict=True))
    assert by_formula(constant.expand(6, 3))[name] == pytest.approx(best[name], rel=1e-5)
    for _ in range(20):
        other = (constant + 0.1 * torch.randn(3)).expand(6, 3)
        assert by_formula(other)[name] > best[name] - 1e-9 or name == "binary_cross_entropy"


def test_targets_that_are_all_the_same_have_no_variance() -> None:
    targets = torch.full((60, 1), 0.3)
    found = measure(LossInputs([LossCall("mse_loss", targets + 1, targets)], ()), batch())
    losses = dict(zip(FORMULAS, constant_losses(found["mse_loss"]), strict=True))
    assert losses["mse_loss"] == 0


def test_the_best_constant_of_distances_is_the_median() -> None:
    values = torch.tensor([0.0, 0.0, 0.0, 1.0, 10.0])
    found = measure(
        LossInputs((), (torch.zeros(5, 1),)), Batch(inputs=None, labels=values, num_samples=5)
    )[""]
    best = dict(zip(FORMULAS, map(float, constant_losses(found)), strict=True))
    assert best["l1_loss"] == pytest.approx(11 / 5)
    assert best["mse_loss"] == pytest.approx(float(values.var(correction=0)), rel=1e-6)


def test_a_spread_of_a_millionth_is_told() -> None:
    outputs = 1 + 1e-6 * torch.randn(64, 1, dtype=torch.float64)
    found = measure(LossInputs((), (outputs,)), Batch(inputs=None, labels=None, num_samples=64))[""]
    spread = float(spreads(found["sum"], found["squares"], found["rows"]))
    assert spread == pytest.approx(float(outputs.std(correction=0)), rel=1e-2)


def test_every_sum_says_how_it_merges() -> None:
    assert sums(torch.rand(6, 3)).keys() <= OUTPUT_SUMS.keys()
    assert sums(torch.rand(6, 1), LABELS.clamp(max=1).float()).keys() <= OUTPUT_SUMS.keys()


@pytest.mark.parametrize("returned", [torch.rand(6, 3).to_sparse(), torch.empty(0, 3), None, {}])
def test_what_cannot_be_read_is_passed_over(returned: object) -> None:
    assert measure(LossInputs((), (returned,)), batch()) == {}
