from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vis_callbacks.monitors.activation_maximization.basis import (
    Basis,
    hartley,
    principal_colours,
    wave_amplitudes,
)

# The principal colours of ImageNet, as long as their standard deviations: the constant
# `color_correlation_svd_sqrt` of lucid and lucent.
IMAGENET = torch.tensor(
    [[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64
)
SIZES = [(30,), (6, 7), (8, 8), (4, 5, 6)]


def values(*size: int, rows: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, channels, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_keeps_lengths_and_undoes_itself(size):
    z = values(*size)
    waves = hartley(z)
    torch.testing.assert_close(waves.square().sum(), z.square().sum())
    torch.testing.assert_close(hartley(waves), z)
    assert not torch.allclose(waves, z)


def test_one_coordinate_is_a_wave_of_its_frequency():
    coordinates = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
    coordinates[0, 0, 2, 3] = 1.0
    rows, columns = torch.arange(6).view(-1, 1).double(), torch.arange(8).double()
    phase = 2 * torch.pi * (2 * rows / 6 + 3 * columns / 8)
    expected = (phase.cos() + phase.sin()) / 48**0.5
    torch.testing.assert_close(hartley(coordinates)[0, 0], expected)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (32, 20)])
def test_amplitudes_fall_with_the_frequency_as_lucid_s_do(height, width):
    found = wave_amplitudes(values(height, width), 1.0)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    frequencies = np.sqrt(rows**2 + columns**2)
    scale = 1.0 / np.maximum(frequencies, 1.0 / max(width, height)) ** 1.0  # lucent's `fft_image`
    torch.testing.assert_close(found / found[0, 0], torch.from_numpy(scale / scale[0, 0]))
    assert found.square().mean().item() == pytest.approx(1)


def test_colours_have_the_covariance_of_real_ones():
    colours, sizes = principal_colours(IMAGENET @ IMAGENET.T)
    root = colours * sizes
    torch.testing.assert_close(root @ root.T, IMAGENET @ IMAGENET.T)
    torch.testing.assert_close(colours.T @ colours, torch.eye(3, dtype=torch.float64))
    grey = colours[:, -1] / colours[0, -1]  # the widest: nearly the same in all channels
    torch.testing.assert_close(grey, torch.ones(3).double(), rtol=0.06, atol=0)


def test_steps_of_all_coordinates_have_the_covariance_and_the_spectrum():
    shape = (4000, 3, 6, 5)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = IMAGENET @ IMAGENET.T
    basis = Basis.of(drawn, covariance, 1.0)
    z = basis.z(drawn)
    flat = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat @ flat.T / flat.shape[1], covariance, rtol=0.1, atol=0.003)
    power = torch.fft.fft2(z, norm="ortho").abs().square().mean((0, 1))
    expected = wave_amplitudes(drawn, 1.0).square()
    torch.testing.assert_close(power / power[0, 0], expected / expected[0, 0], rtol=0.15, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("decay_power", [0.0, 1.0])
@pytest.mark.parametrize("covariance", [None, IMAGENET @ IMAGENET.T])
def test_coordinates_lead_there_and_back_and_gradients_through(size, decay_power, covariance):
    z = values(*size)
    basis = Basis.of(z, covariance, decay_power)
    torch.testing.assert_close(basis.z(basis.coordinates(z)), z)
    coordinates = basis.coordinates(z).requires_grad_()
    weight = values(*size).flip(0)
    (expected,) = torch.autograd.grad((basis.z(coordinates) * weight).sum(), coordinates)
    torch.testing.assert_close(basis.gradient(weight), expected)


def test_without_colours_and_waves_coordinates_are_the_values():
    z = values(6, 7)
    basis = Basis.of(z, None, 0.0)
    assert basis.coordinates(z) is z
    assert basis.z(z) is z


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_grey_images_have_coordinates(scale):
    z = values(6, 7)[:, :1].expand(-1, 3, -1, -1)
    basis = Basis.of(z, scale * torch.ones(3, 3, dtype=torch.float64), 0.0)
    torch.testing.assert_close(basis.z(basis.coordinates(z)), z)


def test_half_precision_is_computed_in_single():
    z = values(6, 7).half()
    basis = Basis.of(z, (IMAGENET @ IMAGENET.T).float(), 1.0)
    assert basis.z(basis.coordinates(z)).dtype == torch.float16
    torch.testing.assert_close(basis.z(basis.coordinates(z)), z, rtol=0.02, atol=0.02)
