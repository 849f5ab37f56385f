from __future__ import annotations

import pytest
import torch

from vis_callbacks.analysis.byte_images import as_bytes, as_pictures, factor_and_side


@pytest.mark.parametrize("extent", [1, 7, 64, 65, 127, 195, 224, 427, 1000])
@pytest.mark.parametrize("limit", [64, 256])
def test_a_box_fits_into_its_square_wherever_it_begins(extent, limit):
    factor, side = factor_and_side(extent, limit)
    assert side <= limit
    for start in range(factor):
        assert -(-(start + extent) // factor) - start // factor <= side


def test_bytes_tell_an_image_up_to_half_a_step():
    images = torch.randn(4, 3, 5, 7) * torch.tensor([1e-3, 1.0, 50.0, 0.0]).view(4, 1, 1, 1) + 3
    found = as_bytes(images)
    values = found.pixels * found.step.view(4, 1, 1, 1) + found.low.view(4, 1, 1, 1)
    error = (values - images).abs().flatten(1).amax(1)
    assert (error <= 0.5 * found.step + 1e-5).all()


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((9,), (1, 1, 9)), ((4, 9), (1, 4, 9)), ((1, 5, 6), (1, 5, 6)), ((3, 5, 6), (3, 5, 6)),
     ((2, 5, 6), (1, 5, 6)), ((3, 4, 5, 6), (3, 5, 6))],
)  # fmt: skip
def test_inputs_of_any_kind_become_pictures(shape, shown):
    assert as_pictures(torch.rand(2, *shape)).shape == (2, *shown)
