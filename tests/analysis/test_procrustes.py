from __future__ import annotations

import math

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from vis_callbacks.analysis.procrustes import aligned, displacement, spread


def points(seed: int = 0, num_points: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_points, 2, generator=generator, dtype=torch.float64)


def turned(angle: float, *, mirrored: bool = False) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    return matrix @ torch.diag(torch.tensor([1.0, -1.0 if mirrored else 1.0], dtype=torch.float64))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2, math.pi, 5.0])
def test_a_copy_that_was_turned_mirrored_and_moved_comes_back(angle, mirrored):
    before = points()
    copy = before @ turned(angle, mirrored=mirrored) + torch.tensor([3.0, -8.0])
    assert displacement(copy, before) > 0.1
    assert displacement(aligned(copy, before), before) < 1e-12


def test_the_turn_is_that_of_the_singular_value_decomposition():
    first, second = points(0), points(1)
    found = aligned(first, second)
    matrix, _ = orthogonal_procrustes(
        (first - first.mean(0)).numpy(), (second - second.mean(0)).numpy()
    )
    expected = (first - first.mean(0)) @ torch.from_numpy(matrix) + second.mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_nothing_is_scaled():
    before = points()
    assert float(spread(aligned(2 * before, before))) == pytest.approx(2 * float(spread(before)))


def test_only_shared_points_decide_and_all_are_turned():
    before = points()
    turn = turned(1.0)
    later = before @ turn
    unknown = before.clone()
    unknown[30:] = torch.nan
    found = aligned(later, unknown, torch.arange(40) < 30)
    torch.testing.assert_close(found, before, rtol=1e-10, atol=1e-10)


def test_points_in_one_place_stay_there():
    nowhere = torch.ones(5, 2)
    assert torch.equal(aligned(nowhere, nowhere), nowhere)
    assert displacement(nowhere, nowhere) == 0


def test_displacement_is_in_units_of_the_spread():
    circle = torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in range(100)]).double()
    circle -= circle.mean(0)
    moved = circle + torch.tensor([0.3, 0.4])
    assert float(displacement(moved, circle)) == pytest.approx(0.5 / float(spread(circle)))
