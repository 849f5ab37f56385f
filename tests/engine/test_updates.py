from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vis_callbacks.engine.updates import (
    select,
    stride_for,
    update_norms,
)


def test_the_update_of_plain_gradient_descent_is_rate_times_gradient() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    selection = select([weight])
    before = selection.values()
    (weight * torch.tensor([6.0, 8.0])).sum().backward()
    optimizer.step()
    norm, change = update_norms(before, selection.values())
    assert (norm.item(), change.item()) == pytest.approx((5.0, 1.0), rel=1e-14)


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
    norm, moved = update_norms(before, selection.values())
    assert (moved / norm).item() == pytest.approx(whole, rel=0.016)


def test_half_precision_parameters_are_compared_in_single() -> None:
    weight = torch.full((1000,), 300.0, dtype=torch.float16)
    assert select([weight]).values().dtype == torch.float32
    assert all(map(torch.isfinite, update_norms(select([weight]).values(), torch.zeros(1000))))


def test_parameters_that_are_not_materialised_are_left_out() -> None:
    lazy = nn.LazyLinear(3).weight
    assert select([lazy, torch.ones(2)]).values().tolist() == [1.0, 1.0]


def test_non_contiguous_parameters_are_read_in_their_order() -> None:
    weight = torch.arange(6.0).reshape(2, 3).t()
    assert select([weight]).values().tolist() == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]


@given(num_values=st.integers(0, 10**9), most=st.integers(1, 10**6))
def test_a_stride_keeps_to_the_limit_and_misses_no_column(num_values: int, most: int) -> None:
    stride = stride_for(num_values, most)
    assert len(range(0, num_values, stride)) <= most
    assert stride == 1 or math.gcd(stride, 210) == 1
