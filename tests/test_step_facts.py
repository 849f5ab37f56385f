from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.step_facts import (
    GroupTable,
    StepSums,
    UpdateWatch,
    loss_of,
)


def stats_of(*batches: torch.Tensor) -> dict[str, torch.Tensor]:
    sums = StepSums()
    for inputs in batches:
        sums.add_inputs(inputs, torch.device("cpu"))
    return sums.input_stats()


@pytest.mark.parametrize("outputs", [{"loss": torch.tensor(2.0)}, torch.tensor([2.0])])
def test_the_loss_is_multiplied_back_by_the_accumulated_batches(outputs):
    sums = StepSums()
    for _ in range(3):
        sums.add_loss(loss_of(outputs), 3)
    assert sums.totals == {"loss_sum": 18.0, "loss_batches": 3.0}


def test_a_loss_that_the_loop_writes_into_later_keeps_its_value():
    sums, loss = StepSums(), torch.tensor(2.0)
    sums.add_loss(loss, 1)
    loss.fill_(7.0)
    assert sums.totals["loss_sum"] == 2.0


@pytest.mark.parametrize("outputs", [None, {}, {"loss": 1.0}, torch.ones(2), "loss"])
def test_a_loop_that_returns_no_loss_has_none(outputs):
    assert loss_of(outputs) is None


def test_input_statistics_of_micro_batches_are_those_of_the_whole():
    x = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))
    x[2] = 5.0
    stats = stats_of(x[:4], x[4:])
    assert stats["share_constant"] == 0.1
    assert stats["mean"] == pytest.approx(x.double().mean().item(), abs=1e-6)
    assert stats["std"] == pytest.approx(x.double().std(correction=0).item(), abs=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(32, 1),  # one number a sample
        torch.rand(32),
        torch.full((32, 7), 300.0),
        torch.full((32, 64), 300),  # tokens, or bytes that the model scales itself
        torch.arange(32),  # indices
        torch.rand(32, 0),
        torch.rand(0, 64),
    ],
    ids=lambda inputs: f"{inputs.dtype} {tuple(inputs.shape)}",
)
def test_inputs_that_cannot_be_constant_or_raw_are_not_judged(inputs):
    stats = stats_of(inputs)
    assert sorted(stats) == ["mean", "share_constant", "std"]  # on every rank alike
    assert all(value.isnan() for value in stats.values())


def test_inputs_that_are_not_judged_leave_the_others_as_they_are():
    images = torch.full((3, 64), 300.0)
    stats = stats_of(torch.rand(5, 1), images)
    assert (stats["share_constant"], stats["mean"]) == (1.0, 300.0)


def test_the_watch_tells_how_far_each_group_moved():
    weight, bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 1.0}], lr=0.1)
    watch = UpdateWatch([optimizer])
    weight.grad, bias.grad = torch.ones(4), torch.full((2,), 3.0)
    optimizer.step()
    first, second = watch.norms().values()
    assert [float(n) for n in first] == pytest.approx([2.0, 0.2])
    assert [float(n) for n in second] == pytest.approx([0.0, 18**0.5])


def test_groups_are_named_after_their_optimizer_and_number():
    model = nn.Linear(2, 2)
    one = torch.optim.SGD([model.weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    two = torch.optim.Adam([{"params": [model.bias]}, {"params": [], "lr": 1.0}])
    table = GroupTable(model)
    groups = table.now([one, two])
    assert [g.name for g in groups] == ["SGD/0", "Adam/1/0", "Adam/1/1"]
    assert [g.place for g in groups] == [0, 1, 1]
    assert table.now([one])[0].name == "SGD"
    assert (groups[0].momentum, groups[0].weight_decay) == (0.9, 0.01)
    assert groups[1].momentum == 0.9
    assert groups[0].parameter_names == ("weight",)


def test_a_group_that_joins_and_a_rate_that_changes_are_seen():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([model.weight], lr=0.1)
    table = GroupTable(model)
    assert [(g.name, g.lr) for g in table.now([optimizer])] == [("SGD", 0.1)]
    optimizer.add_param_group({"params": [model.bias], "lr": 0.5})
    optimizer.param_groups[0]["lr"] = 0.2
    groups = table.now([optimizer])
    assert [(g.name, g.lr) for g in groups] == [("SGD/0", 0.2), ("SGD/1", 0.5)]
    assert groups[1].parameter_names == ("bias",)
