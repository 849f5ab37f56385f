"""The coordinates in which an input is changed: its values, or colours and waves that are apart.

A step along the gradient depends on the coordinates that it is taken in. Neighbouring pixels of
photographs are alike, and so are their colours; in coordinates in which they are not, each step
changes what changes in photographs, and fine grids and neon colours hardly arise.

Olah, Mordvintsev and Schubert 2017, "Feature visualization", Distill, section "Preconditioning and
parameterization"; `lucid.optvis.param` of its authors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_SHARE = 1e-4  # of the largest variance: grey images have no other colour than grey


class Basis(NamedTuple):
    """Coordinates of z (rows, channels, *places): z = `z`(coordinates), and back.

    Attributes:
        colours: (channels, channels), orthonormal columns: the principal colours of real inputs.
            None: the channels themselves.
        amplitudes: (channels, *places), or all of these 1, how far a step of each coordinate goes:
            by the standard deviation of the colour times the size of the wave.
        has_waves: Whether the places are waves, and not pixels.
    """

    colours: Tensor | None = None
    amplitudes: Tensor | None = None
    has_waves: bool = False

    @classmethod
    def of(cls, z: Tensor, covariance: Tensor | None, decay_power: float) -> Basis:
        """Returns the basis of inputs like z: along the colours of a covariance, and waves.

        Without a covariance colours are not mixed; a `decay_power` of 0 leaves pixels.
        """
        colours, amplitudes = None, None
        if covariance is not None:
            colours, sizes = principal_colours(covariance)
            amplitudes = sizes.view(-1, *[1] * (z.dim() - 2))
        if decay_power:
            waves = wave_amplitudes(z, decay_power)
            amplitudes = waves if amplitudes is None else waves * amplitudes
        return cls(colours, amplitudes, bool(decay_power))

    def z(self, coordinates: Tensor) -> Tensor:
        """Returns the z of coordinates."""
        if self.amplitudes is None:
            return coordinates
        values = coordinates.to(self.amplitudes) * self.amplitudes
        values = hartley(values) if self.has_waves else values
        return self._mixed(values, "ij,rj...->ri...").to(coordinates.dtype)

    def coordinates(self, z: Tensor) -> Tensor:
        """Returns the coordinates of z."""
        return self._along(z, torch.div)

    def gradient(self, gradient: Tensor) -> Tensor:
        """Returns the gradient by the coordinates, of one by z."""
        return self._along(gradient, torch.mul)

    def _along(self, values: Tensor, scaled: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Returns values along the waves of each colour, scaled by their amplitudes."""
        if self.amplitudes is None:
            return values
        mixed = self._mixed(values.to(self.amplitudes), "ji,rj...->ri...")
        return scaled(hartley(mixed) if self.has_waves else mixed, self.amplitudes).to(values.dtype)

    def _mixed(self, values: Tensor, axes: str) -> Tensor:
        return values if self.colours is None else torch.einsum(axes, self.colours, values)


def hartley(values: Tensor) -> Tensor:
    """Returns the Hartley transform along the places of (rows, channels, *places).

    It is the Fourier transform in real numbers, cos + sin of each frequency: as many of them as
    there were values. It keeps lengths, and undoes itself.
    """
    waves: Tensor = torch.fft.fftn(values, dim=tuple(range(2, values.dim())), norm="ortho")
    return waves.real - waves.imag


def wave_amplitudes(z: Tensor, decay_power: float) -> Tensor:
    """Returns (*places) 1 / frequency, and at frequency 0 that of the longest wave; mean square 1.

    So one step of all coordinates moves z as far as one of its values.
    """
    places = z.shape[2:]
    squares = torch.zeros((), dtype=_float(z), device=z.device)
    for length in places:
        along = torch.fft.fftfreq(length, dtype=squares.dtype, device=z.device)
        squares = squares[..., None] + along.square()
    amplitudes = squares.sqrt().clamp_min(1 / max(places)).pow(-decay_power)
    return amplitudes / amplitudes.square().mean().sqrt()


def principal_colours(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns orthonormal colours (in columns) of a covariance, and their standard deviations."""
    variances, colours = torch.linalg.eigh(covariance)
    largest = torch.where(variances[-1] > 0, variances[-1], torch.ones_like(variances[-1]))
    return colours, variances.clamp_min(_LEAST_SHARE * largest).sqrt()


def _float(values: Tensor) -> torch.dtype:
    """Returns a type that can be transformed: half precision cannot."""
    return torch.promote_types(values.dtype, torch.float32)
