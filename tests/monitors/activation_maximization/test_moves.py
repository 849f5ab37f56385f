from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vis_callbacks.monitors.activation_maximization.moves import Move, moves, turned_maps

NONE = {"jitter": 0, "rotation": 0.0, "scaling": 0.0}


def blob(rows: float, columns: float, size: tuple[int, int] = (41, 61)) -> Tensor:
    """Returns an image (1, 1, height, width) with one smooth spot."""
    y, x = (torch.arange(length, dtype=torch.float64) for length in size)
    squares = (y[:, None] - rows) ** 2 + (x - columns) ** 2
    return torch.exp(-squares / 18).view(1, 1, *size)


def centre_of(image: Tensor) -> tuple[float, float]:
    """Returns where the spot lies."""
    mass = image[0, 0] / image.sum()
    y, x = (torch.arange(length, dtype=torch.float64) for length in image.shape[2:])
    return float((mass.sum(1) * y).sum()), float((mass.sum(0) * x).sum())


def turned(image: Tensor, degrees: float, size: float) -> tuple[Move, Tensor]:
    there, back = turned_maps(torch.tensor([degrees]), torch.tensor([size]), image)[0]
    move = Move([0, 0], there, back)
    return move, move.there(image)


@pytest.mark.parametrize(("degrees", "size"), [(0.0, 1.0), (30.0, 1.0), (-20.0, 1.2), (0.0, 0.8)])
def test_an_image_is_turned_and_enlarged_around_its_middle(degrees, size):
    down, right = -6.0, 14.0  # of the spot from the middle, in an image that is no square
    _, moved = turned(blob(20 + down, 30 + right), degrees, size)
    angle = math.radians(degrees)
    expected = (
        20 + size * (down * math.cos(angle) - right * math.sin(angle)),
        30 + size * (down * math.sin(angle) + right * math.cos(angle)),
    )
    assert centre_of(moved) == pytest.approx(expected, abs=0.1)


def test_a_gradient_comes_back_to_where_the_image_was():
    image = blob(16, 38)
    move, moved = turned(image, 25.0, 1.15)
    assert centre_of(move.back(moved)) == pytest.approx((16, 38), abs=0.1)


def test_the_mean_input_comes_in_from_beyond_the_border():
    _, moved = turned(torch.ones(1, 1, 20, 20, dtype=torch.float64), 0.0, 0.5)
    assert moved[0, 0, 0].eq(0).all()
    assert moved[0, 0, 10, 10] == 1


def drawn(z: Tensor, num_steps: int = 40, seed: int = 0, **extents) -> list[Move]:
    return list(moves(z, num_steps, seed, **NONE | extents))


def test_each_fourth_step_is_not_moved():
    found = drawn(blob(20, 30), jitter=3, rotation=10.0, scaling=0.1)
    assert [move.is_none for move in found] == [index % 4 == 0 for index in range(40)]


def test_moves_are_drawn_from_a_generator_of_their_own():
    before = torch.get_rng_state()
    first, same, other = (
        [(move.shift, move.turn) for move in drawn(blob(1, 1), 8, seed, jitter=3, rotation=9.0)]
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(one[0] == two[0] for one, two in zip(first, same, strict=True))
    assert torch.equal(first[1][1], same[1][1])
    assert not torch.equal(first[1][1], other[1][1])


@pytest.mark.parametrize("size", [(30,), (4, 5, 6)])
def test_signals_and_volumes_are_only_shifted(size):
    found = drawn(torch.zeros(2, 3, *size), jitter=2, rotation=10.0, scaling=0.1)
    assert {move.turn for move in found} == {None}
    assert {len(move.shift) for move in found} == {len(size)}
    assert any(not move.is_none for move in found)
