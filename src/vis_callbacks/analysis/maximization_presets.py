"""How an input is kept in bounds while gradient ascent raises its score."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import torch
from torch import Tensor

from vis_callbacks.analysis.occlusion import blurred

_FULL_SIDE = 32  # what is counted in pixels is meant for inputs of this side and more


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How an input is kept in bounds while its score rises.

    Everything is relative to real inputs, so that one preset serves inputs of any size and
    normalisation. z = (input - centre) / scale is the input as the regularisers see it, where
    the scale is the root mean square of real inputs' deviation from the centre. Scores should
    be relative as well, see `score_spread`: a unit's are 1, a class's 50. Blur, shifts and
    differences of neighbours are meant for inputs of 32 pixels a side and more, see `fitting`.

    Attributes:
        l2: Penalty on the mean of z^2: what an input that deviates as much as real ones costs,
            in units of the score (Simonyan et al. 2014).
        total_variation: Penalty on the mean absolute difference of neighbours in z, in units of
            the score.
        decay: Share of z taken off after each step (Yosinski et al. 2015, theta_decay).
        blur_sigma: Standard deviation in pixels of a Gaussian blur (theta_b_width).
        blur_every: Blur after each so many steps; 0 for never (theta_b_every).
        norm_percentile: Percentage of the pixels, those of smallest norm over the channels,
            that are set to 0 after each step (theta_n_pct).
        contribution_percentile: The same for those that contribute least to the score,
            |sum over channels of z times gradient| (theta_c_pct).
        jitter: Before a gradient the input is shifted by up to so many pixels, circularly.
        step_size: The learning rate of Adam: what a first step moves each value of z.
    """

    l2: float = 0.0
    total_variation: float = 0.0
    decay: float = 0.0
    blur_sigma: float = 0.0
    blur_every: int = 0
    norm_percentile: float = 0.0
    contribution_percentile: float = 0.0
    jitter: int = 0
    step_size: float = 0.1

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{entry.name}={value!r} is no number. Use one of at least 0.")
            if value < 0:
                raise ValueError(f"{entry.name}={value} is negative. Use a number of at least 0.")
        for name in ("norm_percentile", "contribution_percentile"):
            if getattr(self, name) >= 100:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing. Use 0 to 99.")
        if self.step_size == 0:
            raise ValueError("step_size=0 moves nothing. Use more than 0, such as 0.1.")
        if self.decay >= 1:
            raise ValueError(f"decay={self.decay} leaves nothing. Use less than 1.")

    def fitting(self, side: int) -> Preset:
        """Returns the preset for inputs of this shorter side, in pixels.

        Below 32 pixels blur, shifts and the penalty on differences shrink in proportion: two
        pixels are a quarter of a digit of 8 x 8.
        """
        share = min(1.0, side / _FULL_SIDE)
        return replace(
            self,
            total_variation=self.total_variation * share,
            blur_sigma=self.blur_sigma * share,
            jitter=int(self.jitter * share),
        )

    def penalty(self, z: Tensor) -> Tensor:
        """Returns what is taken off each row's score, (rows,)."""
        penalty = self.l2 * z.flatten(1).square().mean(1)
        if self.total_variation:
            axes = range(2, z.dim())
            sums = [z.diff(dim=axis).abs().flatten(1).sum(1) for axis in axes]
            variation = torch.stack(sums).sum(0) / (len(axes) * z[0].numel())
            penalty = penalty + self.total_variation * variation
        return penalty


PRESETS = MappingProxyType(
    {
        "simonyan": Preset(l2=1.0, step_size=0.4),
        "smooth": Preset(
            l2=1.0, total_variation=1.0, blur_sigma=0.5, blur_every=4, jitter=2, step_size=0.4
        ),
        "yosinski_norm": Preset(blur_sigma=0.5, blur_every=4, norm_percentile=50),
        "yosinski_decay": Preset(decay=0.3, norm_percentile=20),
        "yosinski_blur": Preset(decay=1e-4, blur_sigma=1.0, blur_every=4),
        "yosinski_contribution": Preset(blur_sigma=0.5, blur_every=4, contribution_percentile=90),
    }
)


def constrained(z: Tensor, gradient: Tensor, preset: Preset, index: int) -> Tensor:
    """Returns z after what Yosinski et al. do behind each step, this one being the ``index``-th."""
    z = z * (1 - preset.decay)
    if preset.blur_every and preset.blur_sigma and index % preset.blur_every == 0:
        z = blurred(z, preset.blur_sigma)
    if preset.norm_percentile:
        z = _without_smallest(z, z.square().sum(1), preset.norm_percentile)
    if preset.contribution_percentile:
        contribution = (z * gradient).sum(1).abs()
        z = _without_smallest(z, contribution, preset.contribution_percentile)
    return z


def _without_smallest(z: Tensor, sizes: Tensor, percentile: float) -> Tensor:
    """Returns z, 0 at the given percentage of each row's pixels of least ``sizes``."""
    flat = sizes.flatten(1)  # (rows, pixels)
    num_dropped = int(flat.shape[1] * percentile / 100)
    if not num_dropped:
        return z
    bound = flat.kthvalue(num_dropped, dim=1).values
    kept = (flat > bound[:, None]).view_as(sizes)
    return z * kept.unsqueeze(1)
