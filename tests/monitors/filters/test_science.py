from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.monitors.filters.noise import (
    NoiseNull,
    energy_of,
    neighbour_differences,
    noise_null,
    roughness,
)
from vis_callbacks.monitors.filters.science import (
    FilterNumbers,
    Split,
    as_filters,
    decay_rate,
    filter_numbers,
    input_roughness,
    split_learned,
)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbers_of(filters: Tensor, null: NoiseNull | None) -> FilterNumbers:
    return filter_numbers(filters, null, roughness(filters), energy_of(filters))


def split_of(filters: Tensor, initial: Tensor) -> Split:
    return split_learned(filters, initial, energy_of(initial))


def pooled_roughness(filters: Tensor) -> Tensor:
    """Of all filters together, each weighing as much as its energy."""
    return neighbour_differences(filters).sum() / energy_of(filters).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 0.3, -2.5, 1 / 3])
def test_scaled_initial_weights_have_no_learned_part(factor, dtype):
    initial = noise(16, 3, 7, 7, dtype=dtype)
    split = split_of(factor * initial, initial)
    assert split.learned.count_nonzero() == 0
    assert split.inherited_share.item() == 1
    assert split.movement.item() == pytest.approx(abs(1 - factor), rel=1e-6)
    assert pooled_roughness(split.learned).isnan()


def test_the_learned_part_is_the_part_orthogonal_to_the_initial_weights():
    initial, added = noise(16, 3, 7, 7), 0.1 * noise(16, 3, 7, 7, seed=1)
    split = split_of(initial + added, initial)
    for learned, w0, s in zip(split.learned, initial, added, strict=True):
        along = (s * w0).sum() / w0.square().sum() * w0
        # Both are sums of 147 products of about 1 in float64.
        torch.testing.assert_close(learned, s - along, rtol=0, atol=1e-14)
        assert abs((learned * w0).sum().item()) < 1e-12


def test_the_shares_are_those_of_the_energies():
    initial = noise(4, 1, 5, 5)
    weights = initial + noise(4, 1, 5, 5, seed=1)
    split = split_of(weights, initial)
    of_learned, of_all = (
        split.learned.flatten(1).square().sum(1),
        weights.flatten(1).square().sum(1),
    )
    torch.testing.assert_close(split.learned_share, of_learned / of_all)
    assert split.inherited_share.item() == pytest.approx(
        1 - (of_learned.sum() / of_all.sum()).item()
    )
    assert split.movement.item() == pytest.approx(
        ((weights - initial).norm() / initial.norm()).item()
    )


def test_a_filter_that_is_not_finite_is_left_out_of_the_layers_numbers():
    initial = noise(8, 3, 5, 5)
    weights = initial + 0.1
    broken = weights.clone()
    broken[3, 0, 2, 2] = math.inf
    others = [0, 1, 2, 4, 5, 6, 7]
    of_others = split_of(weights[others], initial[others])
    split = split_of(broken, initial)
    assert split.movement.item() == pytest.approx(of_others.movement.item())
    assert split.inherited_share.item() == pytest.approx(of_others.inherited_share.item())
    assert split.learned[3].count_nonzero() == 0
    numbers = numbers_of(broken, noise_null((5, 5), 3))
    assert numbers.norms.isnan().tolist() == [i == 3 for i in range(8)]
    assert numbers.means[0].item() == pytest.approx(
        numbers_of(weights[others], noise_null((5, 5), 3)).means[0].item()
    )


def test_a_filter_that_began_at_zero_has_learned_all_that_it_is():
    initial = torch.zeros(2, 3, 5, 5)
    split = split_of(initial + 1, initial)
    assert torch.equal(split.learned, initial + 1)
    assert split.learned_share.tolist() == [1, 1]


def test_noise_is_clipped_and_leaves_dead_filters_out():
    filters = noise(64, 1, 7, 7)
    filters[0] = 1e-6 * torch.tensor([1.0, -1.0] * 25)[:49].reshape(7, 7)  # rough, and dead
    numbers = numbers_of(filters, noise_null((7, 7), 1))
    expected = numbers.roughness[1:].clamp(max=1).mean()
    assert numbers.means[1].item() == pytest.approx(expected.item())
    assert numbers.means[0].item() == pytest.approx(numbers.roughness.mean().item())
    assert numbers.noise_like is not None
    assert not numbers.noise_like[0]


def test_dead_dominating_and_duplicated_filters_are_found():
    filters = noise(40, 3, 7, 7)
    filters[5] *= 1e-4
    filters[6] = 0
    filters[7] *= 20
    filters[9] = -3 * filters[8] + 0.3 * filters[10]  # a cosine of -.995
    filters[12] = filters[11] + 0.33 * filters[13]  # one of .95: alike, and not the same
    numbers = numbers_of(filters, noise_null((7, 7), 3))
    assert numbers.is_duplicated is not None
    assert numbers.is_dead.nonzero().flatten().tolist() == [5, 6]
    assert numbers.is_dominating.nonzero().flatten().tolist() == [7]
    assert numbers.is_duplicated.nonzero().flatten().tolist() == [8, 9]


def test_at_3x3_no_single_filter_is_judged():
    numbers = numbers_of(noise(500, 3, 3, 3), noise_null((3, 3), 3))
    assert numbers.noise_like is None
    assert numbers.is_duplicated is None
    assert numbers.means[1].item() == pytest.approx(0.93, abs=0.02)  # clipped at 1


def test_where_neighbours_mean_nothing_there_is_no_noise():
    numbers = numbers_of(noise(5, 1, 30), None)
    assert numbers.means[1].isnan()
    assert numbers.noise_like is None
    assert numbers.is_duplicated is None


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((4, 3, 20, 17), (7, 7)),
        ((4, 1, 9, 9), (9, 9)),
        ((2, 5, 40), (6,)),
        ((2, 1, 6, 7, 8), (3, 2, 4)),
    ],
)
def test_the_roughness_of_inputs_is_that_of_all_their_windows(shape, kernel):
    inputs = noise(*shape).cumsum(-1)
    windows = inputs
    for axis, k in enumerate(kernel):
        windows = windows.unfold(axis + 2, k, 1)
    axes = len(kernel)
    windows = windows.movedim(1, 1 + axes).reshape(-1, shape[1], *kernel)
    assert input_roughness(inputs, kernel).item() == pytest.approx(
        pooled_roughness(windows).item(), rel=1e-10
    )


@pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 3, 4, 4), (5, 5)), ((2, 3, 4, 4), (3,)), ((2, 3, 4, 4), (1, 1))]
)
def test_inputs_that_no_window_fits_have_no_roughness(shape, kernel):
    assert input_roughness(noise(*shape), kernel).isnan()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_gives_a_filter_for_each_output(groups):
    weight = noise(4, 6 // groups, 3, 3)
    filters = as_filters(weight, "conv_transpose2d", groups, ())
    assert filters.shape == (6, 4 // groups, 3, 3)
    for channel in range(4):
        impulse = torch.zeros(1, 4, 1, 1, dtype=torch.float64)
        impulse[0, channel] = 1
        (answer,) = F.conv_transpose2d(impulse, weight, groups=groups)
        group, place = divmod(channel, 4 // groups)
        mine = slice(group * 6 // groups, (group + 1) * 6 // groups)
        assert torch.equal(answer[mine], filters[mine, place])


def test_a_linear_layer_is_read_as_the_image_that_was_flattened():
    images = noise(2, 3, 6, 5)
    weight = noise(7, 90)
    scores = F.linear(images.flatten(1), weight)
    filters = as_filters(weight, "linear", 1, (3, 6, 5))
    torch.testing.assert_close((filters[None] * images[:, None]).sum((2, 3, 4)), scores)
    last = images.movedim(1, -1)
    filters = as_filters(weight, "linear", 1, (6, 5, 3))
    expected = F.linear(last.flatten(1), weight)
    torch.testing.assert_close((filters[None] * images[:, None]).sum((2, 3, 4)), expected)


def test_a_linear_layer_on_what_is_no_image_is_read_as_rows():
    weight = noise(7, 60)
    assert torch.equal(as_filters(weight, "linear", 1, ()), weight[:, None])
    assert as_filters(weight, "linear", 1, (6, 10)).shape == (7, 1, 6, 10)


def test_weight_decay_alone_shrinks_weights_as_it_does_without_a_gradient():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    for make, kind, options in (
        (torch.optim.SGD, "SGD", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}),
        (torch.optim.AdamW, "AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ):
        weight.data.fill_(1)
        optimizer = make([weight], **options)
        weight.grad = torch.zeros_like(weight)
        for _ in range(500):
            optimizer.step()
        rate = decay_rate(kind, options["lr"], options["weight_decay"], options.get("momentum"))
        # Momentum starts from rest: the first 1 / (1 - 0.9) steps count for less.
        assert weight.item() == pytest.approx(math.exp(-500 * rate), rel=0.02)


def test_no_factor_is_given_where_decay_goes_through_adams_normalisation():
    assert math.isnan(decay_rate("Adam", 0.01, 0.1, 0.9))
    assert decay_rate("Adam", 0.01, 0.0, 0.9) == 0
