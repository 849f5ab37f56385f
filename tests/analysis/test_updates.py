from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vis_callbacks.analysis.updates import (
    layer_norm,
    num_nonzero,
    select,
    unit_norms,
    update_norms,
    update_ratio,
)


def test_the_ratio_of_plain_gradient_descent_is_rate_times_gradient_over_weight() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    selection = select([weight])
    before = selection.values()
    (weight * torch.tensor([6.0, 8.0])).sum().backward()
    optimizer.step()
    assert update_ratio(before, selection.values()).item() == pytest.approx(0.1 * 10 / 5, rel=1e-14)
    norm, change = update_norms(before, selection.values())
    assert (norm.item(), change.item()) == pytest.approx((5.0, 1.0), rel=1e-14)


def test_weights_of_zero_have_no_ratio() -> None:
    assert math.isnan(update_ratio(torch.zeros(3), torch.ones(3)).item())


@given(
    sizes=st.lists(st.integers(0, 400), max_size=6),
    most=st.integers(1, 500),
)
def test_a_selection_is_evenly_strided_over_all_parameters(sizes: list[int], most: int) -> None:
    everything = torch.arange(float(sum(sizes)), dtype=torch.float64)
    values = select(everything.split(sizes), most).values() if sizes else select([], most).values()
    assert len(values) <= most
    if len(values) > 1:
        steps = values.diff()
        assert (steps == steps[0]).all()
        assert values[0] == 0
        assert values[-1] + steps[0] > everything[-1]


def test_a_selection_is_a_copy_and_reads_anew() -> None:
    weight = torch.ones(4)
    selection = select([weight])
    before = selection.values()
    weight.fill_(2.0)
    assert before.tolist() == [1.0] * 4
    assert selection.values().tolist() == [2.0] * 4


def test_a_sample_of_the_values_tells_the_norm_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1024, 1024, generator=generator)
    change = 0.01 * torch.randn(1024, 1024, generator=generator)
    selection = select([weight])
    before = selection.values()
    assert 50_000 < len(before) <= 65_536
    weight += change
    whole = (change.norm() / (weight - change).norm()).item()
    # Two independent norms of 65,536 values: a standard error of sqrt(2 / 131,072) = 0.4 %.
    assert update_ratio(before, selection.values()).item() == pytest.approx(whole, rel=0.016)


def test_half_precision_parameters_are_compared_in_single() -> None:
    weight = torch.full((1000,), 300.0, dtype=torch.float16)
    assert select([weight]).values().dtype == torch.float32
    assert torch.isfinite(update_ratio(select([weight]).values(), torch.zeros(1000)))


def test_parameters_that_are_not_materialised_are_left_out() -> None:
    lazy = nn.LazyLinear(3).weight
    assert select([lazy, torch.ones(2)]).values().tolist() == [1.0, 1.0]


def test_non_contiguous_parameters_are_read_in_their_order() -> None:
    weight = torch.arange(6.0).reshape(2, 3).t()
    assert select([weight]).values().tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]


def test_unit_norms_are_those_of_the_rows_of_a_linear_layer() -> None:
    weight = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
    assert unit_norms(weight).tolist() == [5.0, 13.0]


def test_unit_norms_are_those_of_the_filters_of_a_convolution() -> None:
    weight = torch.ones(4, 2, 3, 3)
    weight[1] = 2.0
    assert unit_norms(weight).tolist() == pytest.approx([18**0.5, 72**0.5, 18**0.5, 18**0.5])


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_unit_norms_of_a_transposed_convolution_are_of_its_outputs(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(6, 3 * groups, 2, groups=groups, bias=False).double()
    norms = unit_norms(layer.weight, is_transposed=True, groups=groups)
    # What reaches one output from each input alone are the weights that feed it.
    energy = torch.zeros(3 * groups, dtype=torch.float64)
    for channel in range(6):
        one = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
        one[0, channel] = 1.0
        energy += layer(one)[0].square().sum((1, 2)).detach()
    torch.testing.assert_close(norms, energy.sqrt(), rtol=1e-14, atol=0)


def test_the_norm_of_a_layer_is_that_of_all_its_weights() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(layer_norm(unit_norms(weight)), weight.norm(), rtol=1e-14, atol=0)


def test_half_precision_weights_do_not_overflow() -> None:
    weight = torch.full((1, 1000), 300.0, dtype=torch.float16)
    assert unit_norms(weight).item() == pytest.approx(300 * 1000**0.5, rel=1e-6)


def test_a_bias_feeds_no_units() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\) feeds no units"):
        unit_norms(torch.zeros(3))


@pytest.mark.parametrize("shape", [(40, 30), (600, 513), (0, 3), (64, 33, 9, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_weights_that_are_not_0_are_counted(shape: tuple[int, ...], share: float) -> None:
    weight = torch.rand(shape) + 0.5
    weight *= torch.rand(shape) < share
    count = float(num_nonzero(weight))
    exact = float((weight != 0).sum())
    # Above 4,096 values a selection is counted: four standard errors of a share at its worst.
    least = 0.032 * weight.numel() if weight.numel() > 4_096 else 0.0
    assert count == pytest.approx(exact, abs=least)


def test_pruned_units_are_counted_whichever_they_are() -> None:
    weight = torch.ones(512, 4608)
    weight[100:300] = 0.0
    assert float(num_nonzero(weight)) == pytest.approx(312 * 4608, rel=0.02)
