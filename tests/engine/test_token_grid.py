from __future__ import annotations

import pytest
import torch

from vis_callbacks.engine.token_grid import on_grid, token_grid


@pytest.mark.parametrize(
    ("num_tokens", "size", "grid"),
    [
        (16, (32, 32), (4, 4)),
        (17, (32, 32), (4, 4)),  # a class token
        (21, (32, 32), (4, 4)),  # and four registers
        (15, (24, 40), (3, 5)),
        (32, (32, 64), (4, 8)),
        (33, (32, 64), (4, 8)),
        (197, (224, 224), (14, 14)),
        (49, (224, 224), (7, 7)),
    ],
)
def test_square_patches_of_the_images_shape_give_the_grid(num_tokens, size, grid):
    assert token_grid(num_tokens, size) == grid


@pytest.mark.parametrize(
    ("num_tokens", "size"),
    [(15, (32, 32)), (40, (32, 32)), (7, (32, 64)), (3, (31, 37)), (7, (6, 6))],
)
def test_a_number_of_tokens_that_no_patches_give_has_no_grid(num_tokens, size):
    assert token_grid(num_tokens, size) is None


def test_patches_that_are_no_squares_and_overlap_are_known_from_the_network():
    assert token_grid(13, (32, 32), seen=[(30, 30), (2, 6)]) == (2, 6)
    assert token_grid(10, (30, 30), seen=[(3, 3)]) == (3, 3)


def test_the_grid_that_leaves_fewest_tokens_over_is_taken():
    assert token_grid(17, (32, 32), seen=[(3, 5), (2, 8)]) == (2, 8)
    assert token_grid(16, (32, 32), seen=[(3, 5)]) == (4, 4)


def test_tokens_without_a_place_are_left_out():
    tokens = torch.arange(7.0).expand(2, 3, -1)
    assert on_grid(tokens, (2, 3)).shape == (2, 3, 2, 3)
    assert on_grid(tokens, (2, 3))[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
