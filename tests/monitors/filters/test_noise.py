from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.monitors.filters.noise import (
    NoiseNull,
    can_judge_one,
    energy_of,
    is_noise_like,
    noise_null,
    roughness,
    simulated_null,
    spectral_peak,
)


def white_noise(kind: str, *shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        return uniform - 0.5
    if kind == "laplace":
        return -(uniform - 0.5).sign() * torch.log1p(-2 * (uniform - 0.5).abs())
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def peak_of(filters: Tensor) -> Tensor:
    return spectral_peak(filters, energy_of(filters))


def noise_like(filters: Tensor, null: NoiseNull) -> Tensor:
    return is_noise_like(filters, null, roughness(filters), energy_of(filters))


def checkerboard(*kernel: int) -> Tensor:
    places = torch.meshgrid(*(torch.arange(k) for k in kernel), indexing="ij")
    return (1 - 2 * (sum(places) % 2)).double()[None, None]


def gabors(count: int, channels: int, side: int, shortest: float) -> Tensor:
    """Gratings of any direction, phase and colour under a round window."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    angle, phase = (2 * math.pi * draw(count, 1, 1) for _ in range(2))
    wavelength = shortest + (side - shortest) * draw(count, 1, 1)
    y, x = torch.meshgrid(*[torch.arange(side).double() - (side - 1) / 2] * 2, indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    window = torch.exp(-(x**2 + y**2) / (2 * (side / 3) ** 2))
    gratings = window * torch.cos(2 * math.pi * along / wavelength + phase)
    return gratings[:, None] * (draw(count, channels, 1, 1) - 0.3)


def smoothed_noise(count: int, channels: int, side: int) -> Tensor:
    places = torch.arange(-4, 5).double()
    window = torch.exp(-(places**2) / 2)
    kernel = (window[:, None] * window / window.sum() ** 2)[None, None]
    noise = white_noise("gaussian", count * channels, 1, side + 8, side + 8)
    return F.conv2d(noise, kernel).reshape(count, channels, side, side)


@pytest.mark.parametrize("kernel", [(9,), (7, 7), (3, 11), (5, 4, 3)])
def test_a_constant_has_roughness_0_and_a_checkerboard_2(kernel):
    constant = torch.full((1, 3, *kernel), 0.7, dtype=torch.float64)
    assert roughness(constant).item() == 0
    # (1 - -1)^2 / (2 * 1) at every pair of neighbours: exact.
    assert roughness(checkerboard(*kernel)).item() == 2


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "laplace"])
@pytest.mark.parametrize("kernel", [(64,), (7, 7), (11, 11), (5, 5, 5)])
def test_white_noise_has_roughness_1_on_average(kernel, kind):
    rough = roughness(white_noise(kind, 4000, 3, *kernel))
    # Four standard errors of the mean.
    assert rough.mean().item() == pytest.approx(1, abs=4 * rough.std().item() / 4000**0.5)


def test_the_roughness_counts_every_pair_of_neighbours():
    filters = white_noise("gaussian", 5, 2, 4, 3)
    pairs = [(filters[..., 1:, :] - filters[..., :-1, :]), (filters[..., 1:] - filters[..., :-1])]
    for index, rough in enumerate(roughness(filters)):
        differences = torch.cat([pair[index].flatten() for pair in pairs])
        expected = differences.square().mean() / (2 * filters[index].square().mean())
        assert rough.item() == pytest.approx(expected.item(), rel=1e-12)


def test_roughness_knows_no_scale():
    noise = white_noise("gaussian", 1, 3, 7, 7)
    assert roughness(noise * 9).item() == pytest.approx(roughness(noise).item(), rel=1e-12)


def test_what_has_no_neighbours_or_no_values_has_no_roughness():
    assert roughness(torch.ones(4, 3, 1, 1)).isnan().all()
    assert roughness(torch.zeros(1, 3, 5, 5)).isnan().all()
    assert roughness(torch.full((1, 1, 5, 5), math.nan)).isnan().all()


@pytest.mark.parametrize("side", [6, 7])
def test_a_grating_of_one_frequency_has_all_its_energy_in_one_pair(side):
    x = torch.arange(side).double()
    for frequency in range(1, side // 2 + 1):
        wave = torch.cos(2 * math.pi * frequency * x / side).expand(side, side)[None, None]
        assert peak_of(wave).item() == pytest.approx(1, abs=1e-12)
    assert peak_of(torch.ones(1, 3, side, side)).item() == pytest.approx(1, abs=1e-6)


def test_the_energies_of_channels_are_added():
    wave = torch.cos(2 * math.pi * torch.arange(8).double() / 8).expand(8, 8)
    filters = torch.stack([wave, wave.T])[None]  # two frequencies, half of the energy each
    assert peak_of(filters).item() == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "laplace"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [3, 5, 7, 11, 16])
def test_of_white_noise_at_most_8_percent_are_called_structured(side, channels, kind):
    filters = white_noise(kind, 1000, channels, side, side)
    is_noise = noise_like(filters, noise_null((side, side), channels))
    assert 0 < (~is_noise).sum().item() <= 80


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [7, 11, 16])
def test_of_gabors_and_of_smoothed_noise_at_most_5_percent_are_called_noise(side, channels):
    null = noise_null((side, side), channels)
    for filters in (
        gabors(1000, channels, side, shortest=2.0),
        smoothed_noise(1000, channels, side),
    ):
        assert noise_like(filters, null).sum().item() <= 50
    # It is not empty: as many filters of noise are found.
    noise = white_noise("gaussian", 1000, channels, side, side)
    assert noise_like(noise, null).sum().item() >= 920


def test_roughness_alone_would_call_fine_gratings_noise():
    null = noise_null((7, 7), 3)
    fine = gabors(1000, 3, 7, shortest=2.0)[:400]
    is_rough = roughness(fine) >= null.min_roughness
    assert is_rough.sum() > 4 * noise_like(fine, null).sum() + 10


@pytest.mark.parametrize(
    ("kernel", "channels", "can"),
    [
        ((3, 3), 3, False),
        ((5, 5), 1, False),
        ((5, 5), 3, True),
        ((7, 7), 1, True),
        ((1, 7), 12, False),
        ((1, 1), 64, False),
        ((80,), 1, True),
        ((7,), 1, False),
        ((), 3, False),
    ],
)
def test_a_single_filter_is_judged_where_it_holds_enough_numbers(kernel, channels, can):
    assert can_judge_one(kernel, channels) is can


@pytest.mark.parametrize(("side", "channels"), [(3, 1), (7, 3), (16, 3)])
def test_the_table_holds_what_is_simulated(side, channels):
    known, again = noise_null((side, side), channels), simulated_null((side, side), channels)
    # At most 20,000 filters: the 2.5 % quantile of the peak has a standard error below 1.5 %.
    assert again.roughness_sd == pytest.approx(known.roughness_sd, rel=0.03)
    assert again.min_roughness == pytest.approx(known.min_roughness, rel=0.03)
    assert again.max_peak == pytest.approx(known.max_peak, rel=0.05)


def test_a_kernel_that_is_in_no_table_is_simulated_without_touching_the_random_numbers():
    before = torch.get_rng_state()
    null = noise_null((5, 9), 2)
    assert 0.08 < null.roughness_sd < 0.13
    assert torch.equal(torch.get_rng_state(), before)
