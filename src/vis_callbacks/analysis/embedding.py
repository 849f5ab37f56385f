"""Features as a cloud of points: its shape, and maps of it with or without a solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vis_callbacks.analysis.neighbours import precise

Obstacle = Literal["too few", "equal", "few places"]

MIN_SAMPLES = 4
# Relative to the size of the features: what float32 leaves of a difference is some 1e-7.
_NO_SPREAD = 1e-6
_NO_VARIANCE = 1e-12  # of the largest: what rounding leaves of a direction that is not there
_SAME_PLACE = 1e-12  # of squared distances, in units of the squared norms


@dataclass(frozen=True, kw_only=True)
class CloudShape:
    """What must be known of a cloud of features before any solver looks at it, as host numbers.

    Attributes:
        num_samples: Those whose features are all finite.
        num_places: How many different points they are.
        spread: Root mean squared distance from the mean, over root mean squared norm.
        effective_rank: See `effective_rank`; 0 where all are equal.
        is_line: Whether they all lie on one line.
    """

    num_samples: int
    num_places: int
    spread: float
    effective_rank: float
    is_line: bool

    @property
    def obstacle(self) -> Obstacle | None:
        """Why there can be no map; None where there can be one."""
        if self.num_samples < MIN_SAMPLES:
            return "too few"
        if self.spread <= _NO_SPREAD:
            return "equal"
        return "few places" if self.num_places < MIN_SAMPLES else None

    @classmethod
    def of_numbers(cls, numbers: list[float]) -> CloudShape:
        """Returns the shape from what `cloud_numbers` has measured, once on the host."""
        num_samples, num_places, spread, rank, is_line = numbers
        return cls(
            num_samples=int(num_samples),
            num_places=int(num_places),
            spread=spread,
            effective_rank=rank,
            is_line=bool(is_line),
        )


def finite_rows(features: Tensor) -> Tensor:
    """Returns (samples,) True where all features of a sample are finite."""
    return features.isfinite().all(1)


def cloud_numbers(features: Tensor, distances: Tensor) -> Tensor:
    """Returns the five numbers of a `CloudShape`, on the device, so that several travel at once.

    Args:
        features: (samples, dimensions), finite.
        distances: (samples, samples), the squared distances between them.
    """
    if len(features) < 2:
        return precise(features).new_tensor([len(features), len(features), 0.0, 0.0, 0.0])
    values = precise(features)
    norms = values.square().sum(1)
    size = norms.mean().clamp_min(torch.finfo(values.dtype).tiny)
    spread = (values - values.mean(0)).square().sum(1).mean().div(size).sqrt()
    scale = norms[:, None] + norms
    is_known_place = (distances <= _SAME_PLACE * scale).tril(-1).any(1)
    variances = _variances(values)
    share = variances / variances.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.where(spread > _NO_SPREAD, _rank_of(share), 0)
    is_line = (share[-1] == 1).to(values.dtype)
    num_samples = torch.full_like(spread, len(features))
    num_places = (~is_known_place).sum().to(values.dtype)
    return torch.stack([num_samples, num_places, spread, rank, is_line])


def effective_rank(features: Tensor) -> Tensor:
    """Returns in how many directions features (samples, dimensions) vary, 1 at the least.

    The exponential of the entropy of the singular values' shares, of centred features: k equal
    directions give k, and a direction that hardly counts hardly adds. A classifier that is
    done with learning has about as many as classes, less one.

    References:
        Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    variances = _variances(precise(features))
    return _rank_of(variances / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny))


def principal_components(features: Tensor, num_components: int = 2) -> Tensor:
    """Returns the coordinates (samples, components) along the directions of largest variance.

    Each direction points to where its longest coordinate is positive, so that the same features
    give the same picture. Directions that are not there (features on one line) are 0.
    """
    centred = precise(features)
    centred = centred - centred.mean(0)
    is_wide = centred.shape[0] <= centred.shape[1]
    product = centred @ centred.T if is_wide else centred.T @ centred
    variances, axes = torch.linalg.eigh(product)
    count = min(num_components, len(variances))
    axes, variances = axes[:, -count:].flip(1), variances[-count:].flip(0).clamp_min(0)
    points = axes * variances.sqrt() if is_wide else centred @ axes
    points = torch.where(variances > _NO_VARIANCE * variances[0], points, 0)
    longest = points.gather(0, points.abs().argmax(0, keepdim=True))
    points = torch.where(longest < 0, -points, points)
    return torch.nn.functional.pad(points, (0, num_components - count))


def _variances(values: Tensor) -> Tensor:
    """Returns the variances along the principal directions, times the samples, ascending."""
    centred = values - values.mean(0)
    is_wide = centred.shape[0] <= centred.shape[1]
    product = centred @ centred.T if is_wide else centred.T @ centred
    variances: Tensor = torch.linalg.eigvalsh(product)
    return torch.where(variances > _NO_VARIANCE * variances[-1], variances, 0)


def _rank_of(share: Tensor) -> Tensor:
    """Returns the effective rank from the shares of the variances."""
    lengths = share.sqrt()
    shares = lengths / lengths.sum().clamp_min(torch.finfo(share.dtype).tiny)
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()
