from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr

from vis_callbacks.analysis.saliency_maps import (
    effective_area,
    rank_correlation,
    saliency_maps,
    share_in_mask,
)


def test_unsigned_maps_are_the_largest_magnitude_of_the_channels():
    values = torch.tensor([[[[1.0, -5]], [[-3, 2]]]])
    assert saliency_maps(values).tolist() == [[[3.0, 5.0]]]


def test_signed_maps_are_the_sum_of_the_channels():
    values = torch.tensor([[[[1.0, -5]], [[-3, 2]]]])
    assert saliency_maps(values, is_signed=True).tolist() == [[[-2.0, -3.0]]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 7), (2, 1, 7)),  # vectors
        ((2, 5, 7), (2, 5, 7)),  # images without channels
        ((2, 3, 5, 7), (2, 5, 7)),
        ((2, 3, 4, 5, 7), (2, 5, 7)),  # volumes: the middle slice
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
def test_inputs_of_every_form_get_a_map(shape, expected, is_signed):
    assert saliency_maps(torch.randn(shape), is_signed=is_signed).shape == expected


def test_of_a_volume_the_middle_slice_is_taken():
    values = torch.zeros(1, 1, 5, 2, 2)
    values[0, 0, 2] = 7.0
    assert saliency_maps(values).mean() == 7.0


def test_the_effective_area_is_one_for_an_even_map_and_one_place_for_a_point():
    even, point = torch.ones(4, 5), torch.zeros(4, 5)
    point[2, 3] = -1e-30
    assert effective_area(torch.stack([even, point])).tolist() == pytest.approx([1, 1 / 20])


def test_an_empty_map_has_no_effective_area():
    assert effective_area(torch.zeros(1, 2, 2)).isnan().all()


def test_the_rank_correlation_is_that_of_scipy_ties_included():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5, 6, 7, generator=generator)
    second = first + torch.randn(5, 6, 7, generator=generator)
    second[second < 0] = 0
    expected = [
        spearmanr(a.abs().flatten(), b.abs().flatten()).statistic
        for a, b in zip(first, second, strict=True)
    ]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_map_is_like_itself_whatever_its_sign_and_size():
    maps = torch.randn(2, 4, 4)
    assert rank_correlation(maps, -3 * maps).tolist() == pytest.approx([1, 1])


def test_a_constant_map_is_like_nothing():
    assert rank_correlation(torch.ones(1, 4, 4), torch.randn(1, 4, 4)).isnan().all()


def test_the_share_inside_a_mask_counts_magnitudes():
    maps = torch.tensor([[[1.0, -3], [2, 2]]])
    masks = torch.tensor([[[0, 255], [0, 0]]])
    assert share_in_mask(maps, masks).tolist() == [3 / 8]


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 3, 3\) do not fit maps of shape \(1, 2, 2\)"):
        share_in_mask(torch.ones(1, 2, 2), torch.ones(1, 3, 3))
