from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.engine.parameter_watch import ParameterWatch


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(100, 90), nn.ReLU(), nn.Linear(90, 3), nn.Linear(2, 2))


def watched(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> ParameterWatch:
    watch = ParameterWatch(net, [optimizer])
    net[:3](torch.randn(16, 100)).square().mean().backward()
    watch.before_step(optimizer)
    optimizer.step()
    return watch


def test_plain_gradient_descent_moves_each_weight_by_rate_times_gradient() -> None:
    net = network()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    norms = watched(net, torch.optim.SGD(net.parameters(), 0.1)).norms()
    assert list(norms) == ["0.weight", "2.weight"]
    for name, of in norms.items():
        assert float(of["weight"]) == pytest.approx(float(before[name].norm()), rel=1e-6)
        # That of 9,000 values is told from 4,096 or fewer.
        assert float(of["update"]) == pytest.approx(0.1 * float(of["gradient"]), rel=0.1)


def test_weights_that_no_gradient_reaches_are_named() -> None:
    net = network()
    watch = watched(net, torch.optim.SGD(net.parameters(), 0.1))
    assert watch.without_gradient == ["3.weight"]
    assert watch.without_optimizer == []


def test_weights_that_no_optimizer_holds_are_named_and_frozen_ones_are_not() -> None:
    net = network()
    net[3].requires_grad_(False)
    watch = watched(net, torch.optim.SGD(net[0].parameters(), 0.1))
    assert watch.without_optimizer == ["2.weight"]
    assert list(watch.norms()) == ["0.weight"]


def test_a_second_look_at_one_optimizer_changes_nothing() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    watch = watched(net, optimizer)
    before = {name: float(of["weight"]) for name, of in watch.norms().items()}
    watch.before_step(optimizer)
    assert {name: float(of["weight"]) for name, of in watch.norms().items()} == before
