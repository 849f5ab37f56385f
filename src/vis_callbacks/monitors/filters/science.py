"""What training made of the first layer's filters, beside what it inherited.

A filter w is split by least squares along its initial values w0: w = a w0 + l. The part a w0
is *inherited*, l is *learned*. Measured in 221 trainings of small networks on patches of
photographs and on digits: the noise that one sees in filters is inherited; what training adds
is smooth from the first dozens of steps on (roughness .02 to .25 for kernels of 7 and 11, where
white noise has 1). This holds for healthy, over-fitted and randomly labelled trainings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.monitors.filters.noise import (
    NoiseNull,
    can_judge_one,
    energy_of,
    is_noise_like,
    neighbour_differences,
)

_DEAD_NORM = 1e-3  # of the median norm
_DOMINATING_NORM = 5.0  # times the median norm
_DOMINATING_QUANTILE = 0.95
_SAME_COSINE = 0.98
_SAME_LEAST_KERNEL = 4  # filters of nine numbers are often alike by chance
_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Split:
    """Filters beside their initial values.

    Attributes:
        unrounded: (filters, channels, *kernel), orthogonal to the initial values of each
            filter; see `learned`.
        is_rounding: (filters,) that is no more than rounding, or not finite.
        energy: (filters,) sum of squares of each filter.
        learned_energy: (filters,) likewise, of what is `unrounded`.
        roughness: (filters,) of the filters.
        learned_roughness: Of the learned part, each filter weighing as much as its energy.
        inherited_share: What is left of the layer's energy: 1 - sum |l|^2 / sum |w|^2.
        movement: |w - w0| / |w0| of the layer.
    """

    unrounded: Tensor
    is_rounding: Tensor
    energy: Tensor
    learned_energy: Tensor
    roughness: Tensor
    learned_roughness: Tensor
    inherited_share: Tensor
    movement: Tensor

    @cached_property
    def learned(self) -> Tensor:
        """What was learned; exactly 0 where it is no more than rounding. For pictures."""
        is_rounding = self.is_rounding.view(-1, *[1] * (self.unrounded.dim() - 1))
        return self.unrounded.masked_fill(is_rounding, 0)

    @property
    def learned_share(self) -> Tensor:
        """Its share of each filter's energy, (filters,)."""
        return self.learned_energy.masked_fill(self.is_rounding, 0) / self.energy


@dataclass(frozen=True)
class FilterNumbers:
    """Numbers of one layer, on the device.

    Attributes:
        roughness: (filters,)
        noise_like: (filters,) bool, or None where no single filter can be judged.
        is_dead: (filters,) norm at most a thousandth of the median.
        is_dominating: (filters,) norm above five times the median and the 95 % quantile.
        is_duplicated: (filters,) |cosine| above .98 with another one; None for kernels below 4.
        norms: (filters,)
        means: (7,) over the layer, in one tensor: roughness; min(roughness, 1) of the filters
            that are not dead, which is what is shown; the shares that are noise-like, dead,
            dominating, duplicated, any of these three. NaN: not known.
    """

    roughness: Tensor
    noise_like: Tensor | None
    is_dead: Tensor
    is_dominating: Tensor
    is_duplicated: Tensor | None
    norms: Tensor
    means: Tensor


def as_filters(weight: Tensor, kind: str, groups: int, image_shape: Sequence[int]) -> Tensor:
    """Returns a weight as filters (filters, channels, *kernel), one for each output.

    ``image_shape`` is what the inputs of a linear layer were before they were flattened, channels
    first or, where the last of three axes has 1, 3 or 4, last. Where it is not known (empty), a
    filter is one row.
    """
    if kind.startswith("conv_transpose"):
        per_group = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
        return per_group.flatten(0, 1)
    if weight.dim() > 2:
        return weight
    if not image_shape:
        return weight.unsqueeze(1)
    shape = tuple(image_shape)
    if len(shape) < 3:
        shape = (1, *shape)
    if has_channels_last(image_shape):
        return weight.reshape(-1, *shape).movedim(-1, 1)
    return weight.reshape(-1, *shape)


def has_channels_last(image_shape: Sequence[int]) -> bool:
    """Whether the last axis of an image's shape looks like its channels."""
    few = (1, 3, 4)
    return len(image_shape) == 3 and image_shape[-1] in few and image_shape[0] not in few


def split_learned(filters: Tensor, initial: Tensor, initial_energy: Tensor) -> Split:
    """Splits each filter into what it inherited from its initial values and what it learned.

    Filters that are not finite are left out of the layer's numbers and learned nothing. Both are
    (filters, channels, *kernel), ``initial_energy`` are the sums of squares, (filters,).
    """
    before = initial_energy
    limits = torch.finfo(filters.dtype)
    along = (filters * initial).flatten(1).sum(1) / before.clamp(min=limits.tiny)  # 0 of zeros
    along = along.view(-1, *[1] * (filters.dim() - 1))
    learned = torch.addcmul(filters, along, initial, value=-1)
    # As one tensor: few large operations, where an idle one takes as long as a thousand numbers.
    parts = torch.cat([filters, learned, filters - initial])
    energies = energy_of(parts)
    differences = neighbour_differences(parts[: 2 * len(filters)])
    energy, of_learned, of_change = energies.view(3, -1).unbind()
    rough, learned_rough = differences.view(2, -1).unbind()
    # Half a unit in the last place of each number has an energy of eps^2 / 12 at the most.
    is_rounding = ~(of_learned > energy * (4 * limits.eps**2))  # no NaN is larger
    is_broken = ~(of_change <= limits.max)
    of_layer = torch.stack([energy, of_change, before]).masked_fill(is_broken, 0).sum(1)
    learned_of_layer = torch.stack([of_learned, learned_rough]).masked_fill(is_rounding, 0).sum(1)
    all_energy, all_change, all_before = of_layer.unbind()
    all_learned, all_rough = learned_of_layer.unbind()
    return Split(
        unrounded=learned,
        is_rounding=is_rounding,
        energy=energy,
        learned_energy=of_learned,
        roughness=rough / energy,
        learned_roughness=all_rough / all_learned,
        inherited_share=1 - all_learned / all_energy,
        movement=(all_change / all_before).sqrt(),
    )


def filter_numbers(
    filters: Tensor, null: NoiseNull | None, rough: Tensor, energy: Tensor
) -> FilterNumbers:
    """Returns what can be said of the filters (filters, channels, *kernel) of one layer.

    Without ``null`` neighbours mean nothing. Roughness and sums of squares are (filters,).
    """
    kernel, channels = tuple(filters.shape[2:]), filters.shape[1]
    rough = rough if null is not None else _unknown(rough)
    norms = energy.sqrt()
    norms = norms.masked_fill(~norms.isfinite(), math.nan)
    median = norms.nanmedian()
    is_dead = norms <= median * _DEAD_NORM  # a norm of 0 is, where the median is 0, too
    # NaN is sorted last. A quantile between two ranks takes fifteen operations, and kthvalue
    # is refused on CUDA where only deterministic algorithms are allowed.
    high = norms.sort().values[math.ceil(_DOMINATING_QUANTILE * len(norms)) - 1]
    is_dominating = norms > torch.maximum(median * _DOMINATING_NORM, high)
    is_odd = is_dead | is_dominating
    noise_like, is_duplicated = None, None
    if null is not None and can_judge_one(kernel, channels):
        noise_like = is_noise_like(filters, null, rough, energy) & ~is_dead
    if null is not None and min(kernel) >= _SAME_LEAST_KERNEL:
        is_duplicated = _duplicated(filters, norms.masked_fill(is_dead, math.nan))
        is_odd = is_odd | is_duplicated
    noise = rough.clamp(max=1).masked_fill(is_dead, math.nan)
    of_filters = (rough, noise, noise_like, is_dead, is_dominating, is_duplicated, is_odd)
    rows = [_unknown(rough) if values is None else values for values in of_filters]
    return FilterNumbers(
        roughness=rough,
        noise_like=noise_like,
        is_dead=is_dead,
        is_dominating=is_dominating,
        is_duplicated=is_duplicated,
        norms=norms,
        means=torch.stack(rows).nanmean(1),
    )


def _unknown(values: Tensor) -> Tensor:
    return torch.full_like(values, math.nan)


def _duplicated(filters: Tensor, norms: Tensor) -> Tensor:
    """Returns which filters are, up to sign and scale, nearly another one; none of norm NaN."""
    directions = filters.flatten(1) / norms[:, None]
    alike = (directions @ directions.T).abs() > _SAME_COSINE
    return alike.sum(1) > 1


def input_roughness(inputs: Tensor, kernel: Sequence[int]) -> Tensor:
    """Returns the roughness of inputs as a layer with this kernel meets them.

    Over all windows of the kernel's size, each weighing as much as its energy, so that it can be
    compared with the roughness of the learned part. The inputs are (samples, channels, *positions);
    the result is NaN where no window fits or the axes do not match.
    """
    num_axes = len(kernel)
    if inputs.dim() != num_axes + 2 or num_axes not in _POOL:
        return torch.full((), math.nan)
    if any(side < k for side, k in zip(inputs.shape[2:], kernel, strict=True)):
        return torch.full((), math.nan)
    values = inputs if inputs.is_floating_point() else inputs.float()
    squares = _windowed(values.square(), kernel)
    differences = torch.zeros_like(squares)
    num_pairs = 0
    for axis in range(num_axes):
        window = [k - (d == axis) for d, k in enumerate(kernel)]
        if window[axis]:
            pairs = math.prod(window)
            num_pairs += pairs
            differences += pairs * _windowed(values.diff(dim=axis + 2).square(), window)
    return differences / num_pairs / (2 * squares) if num_pairs else torch.full((), math.nan)


def _windowed(values: Tensor, window: Sequence[int]) -> Tensor:
    """Returns the sum over all windows of the means within them."""
    return _POOL[len(window)](values, tuple(window), stride=1).sum()


def decay_rate(kind: str, rate: float, weight_decay: float, momentum: float | None) -> float:
    """Returns how fast weight decay alone shrinks weights: by exp(-this) a step.

    ``rate * weight_decay / (1 - momentum)`` for SGD, ``rate * weight_decay`` for AdamW, 0
    without weight decay; NaN for an optimizer in which decay acts through the gradient's
    normalisation (Adam).
    """
    if weight_decay == 0:
        return 0.0
    if kind == "SGD":
        return rate * weight_decay / (1 - (momentum or 0.0))
    return rate * weight_decay if kind in ("AdamW", "NAdamW") else math.nan
