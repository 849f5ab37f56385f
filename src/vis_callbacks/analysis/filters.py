"""What training made of the first layer's filters, beside what it inherited.

A filter w is split by least squares along its initial values w0: w = a w0 + l. The part a w0
is *inherited*, l is *learned*. Measured in 221 trainings of small networks on patches of
photographs and on digits: the noise that one sees in filters is inherited; what training adds
is smooth from the first dozens of steps on (roughness .02 to .25 for kernels of 7 and 11, where
white noise has 1), in healthy, over-fitted and randomly labelled trainings alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.filter_noise import (
    NoiseNull,
    can_judge_one,
    is_noise_like,
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
        learned: (filters, channels, *kernel), orthogonal to the initial values of each filter;
            exactly 0 where it is no more than rounding.
        learned_share: (filters,) its share of each filter's energy.
        inherited_share: What is left of the layer's energy: 1 - sum |l|^2 / sum |w|^2.
        movement: |w - w0| / |w0| of the layer.
    """

    learned: Tensor
    learned_share: Tensor
    inherited_share: Tensor
    movement: Tensor


@dataclass(frozen=True)
class FilterNumbers:
    """Numbers of one layer, on the device.

    Attributes:
        roughness: (filters,); its plain mean over the layer is ``mean_roughness``.
        noise: Mean of min(roughness, 1) over the filters that are not dead: what is shown.
        noise_like: (filters,) bool, or None where no single filter can be judged.
        is_dead: (filters,) norm below a thousandth of the median.
        is_dominating: (filters,) norm above five times the median and the 95 % quantile.
        is_duplicated: (filters,) |cosine| above .98 with another one; None for kernels below 4.
        norms: (filters,)
        is_finite: (filters,)
    """

    roughness: Tensor
    mean_roughness: Tensor
    noise: Tensor
    noise_like: Tensor | None
    is_dead: Tensor
    is_dominating: Tensor
    is_duplicated: Tensor | None
    norms: Tensor
    is_finite: Tensor

    @property
    def is_odd(self) -> Tensor:
        """Which filters are dead, dominating or duplicated, (filters,)."""
        is_odd = self.is_dead | self.is_dominating
        return is_odd if self.is_duplicated is None else is_odd | self.is_duplicated


def as_filters(weight: Tensor, kind: str, groups: int, image_shape: Sequence[int]) -> Tensor:
    """Returns a weight as filters (filters, channels, *kernel), one for each output.

    Args:
        weight: As the module has it.
        kind: ``"conv2d"``, ``"conv_transpose2d"``, ``"linear"``, ...
        groups: Of a convolution.
        image_shape: What the inputs of a linear layer were before they were flattened, channels
            first or, where the last of three axes has 1, 3 or 4, last. Empty: not known; then a
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


def split_learned(filters: Tensor, initial: Tensor) -> Split:
    """Splits each filter into what it inherited from its initial values and what it learned.

    Filters that are not finite are left out of the layer's numbers and learned nothing.

    Args:
        filters: (filters, channels, *kernel)
        initial: Of the same shape.
    """
    now, before = filters.flatten(1), initial.flatten(1)
    energy, total = before.square().sum(1), now.square().sum(1)
    along = ((now * before).sum(1) / energy).nan_to_num(0, 0, 0)  # of zeros, and not finite
    learned = torch.addcmul(now, along[:, None], before, value=-1)
    learned_energy = learned.square().sum(1)
    # Half a unit in the last place of each number has an energy of eps^2 / 12 at the most.
    is_real = learned_energy > 4 * torch.finfo(filters.dtype).eps ** 2 * total  # no NaN is
    learned = learned.masked_fill(~is_real[:, None], 0)
    moved = (now - before).square().sum(1)
    of_filters = torch.stack([total, learned_energy.masked_fill(~is_real, 0), moved, energy])
    is_broken = ~moved.isfinite()
    of_all, of_learned, of_movement, of_initial = of_filters.masked_fill(is_broken, 0).sum(1)
    return Split(
        learned=learned.view_as(filters),
        learned_share=of_filters[1] / total,
        inherited_share=1 - of_learned / of_all,
        movement=(of_movement / of_initial).sqrt(),
    )


def filter_numbers(filters: Tensor, null: NoiseNull | None, rough: Tensor) -> FilterNumbers:
    """Returns what can be said of the filters of one layer.

    Args:
        filters: (filters, channels, *kernel)
        null: What white noise gives for them; None where neighbours mean nothing.
        rough: Their roughness, (filters,).
    """
    kernel, channels = tuple(filters.shape[2:]), filters.shape[1]
    if null is None:
        rough = torch.full_like(rough, math.nan)
    norms = filters.flatten(1).norm(dim=1)
    is_finite = norms.isfinite()
    norms = norms.masked_fill(~is_finite, math.nan)
    median = norms.nanmedian()
    is_dead = (norms < _DEAD_NORM * median) | (norms == 0)
    # NaN is sorted last. A quantile between two ranks takes fifteen operations, and kthvalue
    # is refused on CUDA where only deterministic algorithms are allowed.
    high = norms.sort().values[math.ceil(_DOMINATING_QUANTILE * len(norms)) - 1]
    is_judged = null is not None and can_judge_one(kernel, channels)
    return FilterNumbers(
        roughness=rough,
        mean_roughness=rough.nanmean(),
        noise=rough.clamp(max=1).masked_fill(is_dead, math.nan).nanmean(),
        noise_like=is_noise_like(filters, null, rough) & ~is_dead if null and is_judged else None,
        is_dead=is_dead,
        is_dominating=(norms > _DOMINATING_NORM * median) & (norms > high),
        is_duplicated=_duplicated(filters, norms, ~is_dead & is_finite)
        if null is not None and min(kernel) >= _SAME_LEAST_KERNEL
        else None,
        norms=norms,
        is_finite=is_finite,
    )


def _duplicated(filters: Tensor, norms: Tensor, counts: Tensor) -> Tensor:
    """Returns which filters are, up to sign and scale, nearly another one."""
    left_out = ~counts[:, None]
    directions = (filters.flatten(1) / norms[:, None]).masked_fill(left_out, 0)
    alike = (directions @ directions.T).abs() > _SAME_COSINE
    return alike.sum(1) > 1


def input_roughness(inputs: Tensor, kernel: Sequence[int]) -> Tensor:
    """Returns the roughness of inputs as a layer with this kernel meets them.

    Over all windows of the kernel's size, each weighing as much as its energy, so that it can
    be compared with the roughness of the learned part.

    Args:
        inputs: (samples, channels, *positions), as the network receives them.
        kernel: As many numbers as there are spatial axes.

    Returns:
        A number; NaN where no window fits or the axes do not match.
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
