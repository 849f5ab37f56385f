"""Does the picture point at what decides the class? Where a detail is pasted, it must."""

from __future__ import annotations

import pytest
import torch
from tests.system.planted_object import (
    DETAIL,
    SIDE,
    Planted,
    both_halves,
    planted,
    position_sensitive_net,
    trained,
)
from torch import Tensor, nn

from vis_callbacks.analysis.occlusion import occlude
from vis_callbacks.analysis.occlusion_plan import OcclusionPlan, plan_occlusion
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.score_functions import class_score, layer_gradient
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import attribute

NUM_UNSEEN = 50
LAST_MAPS = "7"  # the last ReLU before the network's head


@pytest.fixture(scope="module")
def unseen() -> Planted:
    return planted(both_halves()[1], NUM_UNSEEN, seed=100, num_classes=4)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    samples = planted(both_halves()[0], 2_000, seed=0)
    return trained(position_sensitive_net(), samples, num_epochs=6, seed=0)


def share_inside(places: Tensor, corners: Tensor) -> float:
    """Returns the share of (row, column) places that lie inside the pasted boxes."""
    inside = (places >= corners) & (places <= corners + DETAIL)
    return inside.all(1).double().mean().item()


def largest_values(maps: Tensor) -> Tensor:
    """Returns the centre of the pixel, (images, 2), where each map is largest."""
    best = maps.flatten(1).argmax(1)
    return torch.stack([best // maps.shape[-1], best % maps.shape[-1]], dim=1) + 0.5


def steepest_falls(falls: Tensor, plan: OcclusionPlan) -> Tensor:
    """Returns the centre of the square, (images, 2), where the probability falls most."""
    best = falls.flatten(1).argmax(1)
    tops, lefts = (torch.tensor(offsets) for offsets in (plan.offsets[0], plan.offsets[1]))
    corners = torch.stack([tops[best // len(lefts)], lefts[best % len(lefts)]], dim=1)
    return corners + plan.window_size / 2


def test_the_network_knows_where_the_detail_is(net, unseen):
    accuracy = (net(unseen.images).argmax(1) == unseen.labels).double().mean()
    assert accuracy >= 0.9  # in 20 seeds: never below 0.96


@pytest.mark.parametrize("coarse_to_fine", [False, True])
@pytest.mark.parametrize("baseline", ["mean", "blur"])
def test_the_probability_falls_most_where_the_detail_is_hidden(
    net, unseen, baseline, coarse_to_fine, record_property
):
    def probability(inputs: Tensor, owners: Tensor) -> Tensor:
        return net(inputs).softmax(1).gather(1, unseen.labels[owners, None])

    plan = plan_occlusion((SIDE, SIDE), NUM_UNSEEN, coarse_to_fine=coarse_to_fine)
    maps = occlude(probability, unseen.images, plan, baseline)
    falls = maps.whole[:, None, None, 0] - maps.values[..., 0]
    share = share_inside(steepest_falls(falls, plan), unseen.corners)
    record_property("share_inside", share)
    assert share >= 0.9  # in 20 seeds: never below 0.96


def test_a_map_of_noise_points_there_seldom(unseen):
    plan = plan_occlusion((SIDE, SIDE), NUM_UNSEEN)
    noise = torch.rand(NUM_UNSEEN, len(plan.offsets[0]), len(plan.offsets[1]))
    assert share_inside(steepest_falls(noise, plan), unseen.corners) < 0.25


def share_pointed_at(method: str, net: nn.Module, unseen: Planted) -> float:
    """Returns the share of images where the largest value lies inside the pasted box."""
    with isolated(net) as forward:
        score = class_score(forward, unseen.labels)
        at_layer = layer_gradient(forward, score, LAST_MAPS)
        found = attribute(method, score, unseen.images, layer_gradient=at_layer)
    return share_inside(largest_values(found.values.abs().amax(1)), unseen.corners)


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if not method.uses_layer]
)
def test_the_saliency_of_the_pixels_points_at_the_detail(net, unseen, method, record_property):
    share = share_pointed_at(method, net, unseen)
    record_property("share_inside", share)
    assert share >= 0.9  # in 20 seeds: never below 0.96


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam"])
def test_a_class_activation_map_does_not_suit_a_head_that_knows_positions(
    net, unseen, method, record_property
):
    # It weighs a unit by its mean gradient over all positions, and here a unit speaks for one
    # class in one quadrant and for another class in the next.
    share = share_pointed_at(method, net, unseen)
    record_property("share_inside", share)
    assert share < 0.5
