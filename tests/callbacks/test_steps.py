from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.callbacks.steps import (
    UpdateWatch,
    groups_of,
    input_stats,
    input_sums,
    loss_of,
)


@pytest.mark.parametrize("outputs", [{"loss": torch.tensor(2.0)}, torch.tensor([2.0])])
def test_the_loss_is_multiplied_back_by_the_accumulated_batches(outputs):
    assert loss_of(outputs, 3) == 6.0


@pytest.mark.parametrize("outputs", [None, {}, {"loss": 1.0}, torch.ones(2), "loss"])
def test_a_loop_that_returns_no_loss_has_none(outputs):
    assert loss_of(outputs, 1) is None


def test_input_statistics_of_micro_batches_are_those_of_the_whole():
    x = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))
    x[2] = 5.0
    parts = [input_sums(x[:4]), input_sums(x[4:])]
    stats = input_stats({name: parts[0][name] + parts[1][name] for name in parts[0]})
    assert stats["share_constant"] == 0.1
    assert stats["mean"] == pytest.approx(x.double().mean().item(), abs=1e-6)
    assert stats["std"] == pytest.approx(x.double().std(correction=0).item(), abs=1e-6)


def test_integer_inputs_without_other_axes_are_understood():
    assert input_stats(input_sums(torch.tensor([1, 2, 3])))["mean"] == 2.0


def test_the_watch_tells_how_far_each_group_moved():
    weight, bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [weight]}, {"params": [bias], "lr": 1.0}], lr=0.1)
    watch = UpdateWatch([optimizer])
    weight.grad, bias.grad = torch.ones(4), torch.full((2,), 3.0)
    optimizer.step()
    ((first, second),) = watch.norms()
    assert [float(n) for n in first] == pytest.approx([2.0, 0.2])
    assert [float(n) for n in second] == pytest.approx([0.0, 18**0.5])


def test_groups_are_named_after_their_optimizer_and_number():
    model = nn.Linear(2, 2)
    one = torch.optim.SGD([model.weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    two = torch.optim.Adam([{"params": [model.bias]}, {"params": [], "lr": 1.0}])
    groups = groups_of(model, [one, two], None)
    assert [g.name for g in groups] == ["SGD/0", "Adam/1/0", "Adam/1/1"]
    assert groups_of(model, [one], None)[0].name == "SGD"
    assert (groups[0].momentum, groups[0].weight_decay) == (0.9, 0.01)
    assert groups[1].momentum == 0.9
    assert groups[0].parameter_names == ("weight",)
