from __future__ import annotations

import pytest
import torch

from vis_callbacks.engine.maps import blurred, effective_area


def test_the_effective_area_is_one_for_an_even_map_and_one_place_for_a_point():
    even, point = torch.ones(4, 5), torch.zeros(4, 5)
    point[2, 3] = -1e-30
    assert effective_area(torch.stack([even, point])).tolist() == pytest.approx([1, 1 / 20])
    assert effective_area(torch.zeros(1, 2, 2)).isnan().all()


def test_a_blur_keeps_a_constant_and_the_mean_of_a_point():
    assert torch.allclose(blurred(torch.full((1, 3, 9, 9), 2.5), 2.0), torch.tensor(2.5))
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1.0
    smooth = blurred(point, 3.0)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-12)
    places = torch.arange(41, dtype=torch.float64) - 20
    variance = (smooth[0, 0].sum(0) * places.square()).sum()
    assert variance.sqrt().item() == pytest.approx(3.0, abs=0.05)  # cut off at 3 sigma
