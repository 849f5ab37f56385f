"""Whether a filter looks like noise: its roughness, its spectrum, and what white noise gives.

A filter is a tensor (channels, *kernel): any number of spatial axes. Its mean is not removed:
a colour blob is structure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_LEVEL = 0.025  # of each of the two sides of the joined test
# Below so many numbers a filter, gratings and noise cannot be told apart: at 3x3 up to 81 % of
# Gabors (wavelength >= 3) were called noise, at 5x5 with one channel 17 %, at 7x7 none.
_LEAST_NUMBERS, _LEAST_LENGTH = 49, 5
_SIMULATED_NUMBERS, _MOST_SIMULATED, _FEWEST_SIMULATED = 2**21, 20_000, 500


@dataclass(frozen=True)
class NoiseNull:
    """What filters of white noise give, for one kernel and number of channels.

    Uniform, Gaussian, Laplace and Student's t noise agree.

    Attributes:
        roughness_sd: Standard deviation of `roughness`; its mean is 1.
        min_roughness: Its 2.5 % quantile.
        max_peak: 97.5 % quantile of `spectral_peak`.
    """

    roughness_sd: float
    min_roughness: float
    max_peak: float


def roughness(filters: Tensor) -> Tensor:
    """Returns how rough each filter (filters, channels, *kernel) is, (filters,).

    White noise has 1 on average, a constant 0, a checkerboard 2: it is the mean squared difference
    over all pairs of neighbours, along every spatial axis, over twice the mean square. NaN for a
    filter without neighbours (1x1), of zeros, or not finite.
    """
    return neighbour_differences(filters) / energy_of(filters)


def energy_of(filters: Tensor) -> Tensor:
    """Returns the sum of squares of each filter, (filters,)."""
    values = filters.flatten(1)
    return (values * values).sum(1)


def neighbour_differences(filters: Tensor) -> Tensor:
    """Returns roughness times energy, (filters,); NaN where there are no neighbours."""
    steps = [filters.diff(dim=axis).flatten(1) for axis in range(2, filters.dim())]
    num_pairs = sum(of_axis.shape[1] for of_axis in steps)
    if not num_pairs:
        return filters.new_full((len(filters),), math.nan)
    total = torch.stack([(of_axis * of_axis).sum(1) for of_axis in steps]).sum(0)
    return total * (math.prod(filters.shape[1:]) / (2 * num_pairs))


def spectral_peak(filters: Tensor, energy: Tensor) -> Tensor:
    """Returns the largest share of a filter's energy in one pair of conjugate frequencies.

    The channels' energies are added. A fine grating is as rough as noise, but has a high peak. The
    result (filters,) lies between 0 and 1; NaN for a filter of zeros.
    """
    kernel = tuple(filters.shape[2:])
    half = torch.view_as_real(torch.fft.rfftn(filters, dim=tuple(range(2, filters.dim()))))
    power = (half * half).sum((1, -1))  # (filters, *half of the frequencies)
    largest = (power * _num_partners(kernel, power.dtype, power.device)).flatten(1).amax(1)
    share: Tensor = largest / (energy * math.prod(kernel))
    return share


def is_noise_like(filters: Tensor, null: NoiseNull, rough: Tensor, energy: Tensor) -> Tensor:
    """Returns which filters cannot be told from white noise, (filters,) bool.

    The test is a joined one: the filter is rough enough, and no frequency stands out. Of white
    noise 3 to 8 % are called structured. Of 7x7 Gabors and of noise smoothed with sigma 1 up to
    1 % are called noise. Roughness alone misses fine gratings (wavelengths of 2-3 pixels: 77 to
    100 % called noise). The result means nothing where `can_judge_one` says no.
    """
    return (rough >= null.min_roughness) & (spectral_peak(filters, energy) <= null.max_peak)


def can_judge_one(kernel: Sequence[int], channels: int) -> bool:
    """Whether a single filter of this size can be told from noise; else only the layer's mean.

    From 5x5 with three channels, or 7x7 with one, upwards.
    """
    if not kernel:
        return False
    return min(kernel) >= _LEAST_LENGTH and channels * math.prod(kernel) >= _LEAST_NUMBERS


@lru_cache(maxsize=64)
def noise_null(kernel: tuple[int, ...], channels: int) -> NoiseNull:
    """Returns what white noise gives, from a table for usual kernels, else simulated once."""
    is_square = len(kernel) == 2 and kernel[0] == kernel[1]
    known = _TABLE.get((kernel[0], channels)) if is_square else None
    return NoiseNull(*known) if known else simulated_null(kernel, channels)


def simulated_null(kernel: tuple[int, ...], channels: int) -> NoiseNull:
    """Returns what white noise gives, from up to 20,000 filters of a generator of its own."""
    numbers = max(1, channels * math.prod(kernel))
    count = min(_MOST_SIMULATED, max(_FEWEST_SIMULATED, _SIMULATED_NUMBERS // numbers))
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(count, channels, *kernel, generator=generator)
    rough, peak = roughness(filters), spectral_peak(filters, energy_of(filters))
    return NoiseNull(
        roughness_sd=float(rough.std()),
        min_roughness=float(rough.quantile(_LEVEL)),
        max_peak=float(peak.quantile(1 - _LEVEL)),
    )


@lru_cache(maxsize=64)
def _num_partners(kernel: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns 2 for each frequency with a conjugate of its own, 1 for one that is real.

    Of the half of the frequencies that a real transform gives.
    """
    is_real = torch.ones((*kernel[:-1], kernel[-1] // 2 + 1), dtype=torch.bool)
    for axis, (length, kept) in enumerate(zip(kernel, is_real.shape, strict=True)):
        shape = [1] * len(kernel)
        shape[axis] = kept
        is_real = is_real & ((2 * torch.arange(kept)) % length == 0).reshape(shape)
    return (2 - is_real.int()).to(device, dtype)


# (side of a square kernel, channels): sd of the roughness, its 2.5 % quantile, 97.5 % quantile
# of the spectral peak. Simulated from 100,000 filters each.
_TABLE = {
    (2, 1): (0.4086, 0.1808, 0.94099),
    (2, 3): (0.2670, 0.4708, 0.73085),
    (3, 1): (0.2834, 0.4722, 0.76808),
    (3, 3): (0.1735, 0.6703, 0.54548),
    (4, 1): (0.2088, 0.5996, 0.55141),
    (4, 3): (0.1252, 0.7592, 0.35241),
    (5, 1): (0.1635, 0.6858, 0.41635),
    (5, 3): (0.0967, 0.8134, 0.25251),
    (6, 1): (0.1340, 0.7398, 0.31785),
    (6, 3): (0.0785, 0.8460, 0.18621),
    (7, 1): (0.1130, 0.7811, 0.25249),
    (7, 3): (0.0662, 0.8718, 0.14475),
    (8, 1): (0.0979, 0.8100, 0.20498),
    (8, 3): (0.0571, 0.8881, 0.11466),
    (9, 1): (0.0860, 0.8332, 0.17077),
    (9, 3): (0.0501, 0.9025, 0.09372),
    (10, 1): (0.0769, 0.8502, 0.14313),
    (10, 3): (0.0448, 0.9128, 0.07798),
    (11, 1): (0.0696, 0.8640, 0.12247),
    (11, 3): (0.0405, 0.9208, 0.06595),
    (12, 1): (0.0635, 0.8757, 0.10573),
    (12, 3): (0.0368, 0.9280, 0.05648),
    (13, 1): (0.0585, 0.8857, 0.09235),
    (13, 3): (0.0338, 0.9341, 0.04895),
    (14, 1): (0.0536, 0.8952, 0.08152),
    (14, 3): (0.0312, 0.9389, 0.04288),
    (15, 1): (0.0502, 0.9018, 0.07278),
    (15, 3): (0.0290, 0.9433, 0.03808),
    (16, 1): (0.0470, 0.9084, 0.06478),
    (16, 3): (0.0270, 0.9470, 0.03376),
}
