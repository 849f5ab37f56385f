"""t-SNE, exact, in torch, on the device that holds the points.

Barnes-Hut and interpolation win by leaving pairs out, which pays from some thousand points on;
below that, a few dense passes over all pairs are faster and need no native solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MIN_POINTS = 4
MAX_POINTS = 5_000  # P and the weights take 4 N^2 bytes each: 100 MB

_BLOCK_ELEMENTS = 1 << 16  # of 256 kB: three of them stay in the cache of a core
_CALIBRATION_STEPS = 10  # 8 reach 1e-12 on all that was tried, from isotropic to heavy-tailed
_LONGEST_STEP = 1.5  # in the logarithm of a precision: Newton overshoots where the slope is small
_WIDEST = 40.0  # exp(40): beyond any ratio of distances that float32 can tell apart
_LEAST_GAIN = 0.01
_INITIAL_STD = 1e-4


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How far, and how, gradient descent goes.

    Attributes:
        num_exaggerated: Iterations with P multiplied by ``exaggeration``: clusters form.
        num_plain: Iterations on P itself.
        exaggeration: 12, as Belkina et al. (2019) advise.
    """

    num_exaggerated: int
    num_plain: int
    exaggeration: float = 12.0


# Of the usual 250 + 500 iterations the last ones gain 1 % of the divergence, and neither
# trustworthiness nor neighbours; a shorter exaggeration costs both on 200 faces.
COLD = Descent(num_exaggerated=250, num_plain=350)
WARM = Descent(num_exaggerated=0, num_plain=100)


def tsne(
    squared_distances: Tensor,
    start: Tensor,
    *,
    perplexity: float = 30.0,
    descent: Descent = COLD,
) -> Tensor:
    """Returns a map (points, 2) in which near neighbours stay near.

    Deterministic: there is no random number in it. What it cannot tell: distances between
    clusters, their sizes and their densities mean little.

    Args:
        squared_distances: (points, points), of points that are not all equal.
        start: (points, 2). For ``COLD``, the first principal components at a standard deviation
            of 1e-4 (`as_start`); for ``WARM``, the last map as it is.
        perplexity: About how many neighbours a point has; see `fitting_perplexity`.
        descent: ``COLD`` builds a map; ``WARM`` lets one follow points that have moved a little.

    Raises:
        ValueError: Fewer than 4 or more than 5,000 points, or a perplexity beyond them.

    References:
        van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; Belkina et al. 2019,
        "Automated optimized parameters for t-distributed stochastic neighbor embedding", for
        learning rate and exaggeration; Kobak and Berens 2019, "The art of using t-SNE for
        single-cell transcriptomics", for the start.
    """
    num_points = len(squared_distances)
    if not MIN_POINTS <= num_points <= MAX_POINTS:
        raise ValueError(
            f"{num_points:,} points are no case for exact t-SNE. Give {MIN_POINTS} to "
            f"{MAX_POINTS:,}."
        )
    if not 1 < perplexity < num_points:
        raise ValueError(
            f"perplexity={perplexity:g} does not fit {num_points:,} points. Use more than 1 and "
            f"less than {num_points:,}; fitting_perplexity gives one."
        )
    similarities = joint_probabilities(squared_distances, perplexity)
    return _descended(similarities, start.to(similarities.dtype), descent)


def fitting_perplexity(perplexity: float, num_points: int) -> float:
    """Returns the perplexity, or less where there are too few points for it: (points - 1) / 3.

    Beyond that the neighbourhoods are no longer local.
    """
    return min(perplexity, max(2.0, (num_points - 1) / 3))


def as_start(points: Tensor) -> Tensor:
    """Returns points (points, 2) small enough that every pair attracts at first."""
    points = points - points.mean(0)
    spread = points.std(0, correction=0).amax()
    return points * (_INITIAL_STD / spread.clamp_min(torch.finfo(points.dtype).tiny))


def joint_probabilities(squared_distances: Tensor, perplexity: float) -> Tensor:
    """Returns P (points, points): symmetric, its diagonal 0, its sum 1, in float32."""
    conditional = conditional_probabilities(squared_distances, perplexity)
    conditional += conditional.T.clone()
    return conditional.div_(conditional.sum())


def conditional_probabilities(squared_distances: Tensor, perplexity: float) -> Tensor:
    """Returns p(j|i) (points, points): a Gaussian around each point, all of one perplexity.

    Their precisions are found by Newton steps in the logarithm, kept inside a bracket: for all
    points at once and always as many, so that the host need not wait for the device. A point
    with more duplicates than the perplexity shares its row evenly among them.
    """
    distances = _scaled(squared_distances, perplexity)
    log_precision = distances.new_zeros(len(distances), 1)
    low = torch.full_like(log_precision, -_WIDEST)
    high = torch.full_like(log_precision, _WIDEST)
    settled = torch.finfo(distances.dtype).eps ** 0.5  # the next step of Newton is below eps
    weights = torch.empty_like(distances)
    for _ in range(_CALIBRATION_STEPS):
        precision = log_precision.exp()
        total = _gaussian(distances, precision, weights).sum(1, keepdim=True)
        mean = weights.mul_(distances).sum(1, keepdim=True) / total
        squares = weights.mul_(distances).sum(1, keepdim=True) / total
        excess = total.log() + precision * mean - math.log(perplexity)  # of the entropy
        low = torch.where(excess > 0, log_precision, low)
        high = torch.where(excess > 0, high, log_precision)
        slope = precision.square() * (squares - mean.square())
        step = (excess / slope).clamp(-_LONGEST_STEP, _LONGEST_STEP)  # NaN where nothing is left
        newton = log_precision + step
        is_good = (newton > low) & (newton < high) | (step.abs() < settled)
        log_precision = torch.where(is_good, newton, (low + high) / 2)
    _gaussian(distances, log_precision.exp(), weights)
    return weights.div_(weights.sum(1, keepdim=True))


def _scaled(squared_distances: Tensor, perplexity: float) -> Tensor:
    """Returns the distances less that of the nearest, in units of that of a far neighbour.

    So the nearest weighs exp(0), no row vanishes, a precision of 1 is a good first guess, and
    float32 is enough for all that follows.
    """
    distances = squared_distances.clone().fill_diagonal_(math.inf)
    distances -= distances.amin(1, keepdim=True)
    rank = min(math.ceil(perplexity), len(distances) - 1)
    neighbour = distances.kthvalue(rank, dim=1, keepdim=True).values
    distances.fill_diagonal_(0.0)
    mean = distances.mean(1, keepdim=True)
    unit = torch.where(neighbour > 0, neighbour, mean)  # 0 among many duplicates
    return distances.div_(unit.clamp_min(torch.finfo(distances.dtype).tiny)).float()


def _gaussian(distances: Tensor, precision: Tensor, out: Tensor) -> Tensor:
    """Writes exp(-precision distance) into ``out``, a point's own weight 0."""
    return torch.mul(distances, -precision, out=out).exp_().fill_diagonal_(0.0)


def kl_divergence(similarities: Tensor, points: Tensor) -> Tensor:
    """Returns KL(P || Q) of a map (points, 2): what t-SNE makes small."""
    are_two = ~torch.eye(len(points), dtype=torch.bool, device=points.device)
    p = similarities[are_two]
    weights = 1 / (1 + (points[:, None] - points).square().sum(2)[are_two])
    return (torch.xlogy(p, p) - p * (weights / weights.sum()).log()).sum()


def kl_gradient(similarities: Tensor, points: Tensor, exaggeration: float = 1.0) -> Tensor:
    """Returns the gradient (points, 2) of `kl_divergence`, P multiplied by ``exaggeration``.

    4 sum_j (p_ij - w_ij / Z) w_ij (y_i - y_j) with w = 1 / (1 + |y_i - y_j|^2), Z = sum w.
    """
    scratch = _Scratch(similarities)
    return _gradient(similarities, points.T.contiguous(), exaggeration, scratch).T


class _Scratch:
    """What every iteration writes into: w, and a block of rows of the forces."""

    def __init__(self, similarities: Tensor) -> None:
        num_points = len(similarities)
        num_rows = max(1, min(num_points, _BLOCK_ELEMENTS // num_points))
        self.rows = [
            slice(start, min(start + num_rows, num_points))
            for start in range(0, num_points, num_rows)
        ]
        self.weights = torch.empty_like(similarities)
        self.block = similarities.new_empty(num_rows, num_points)
        self.one = similarities.new_ones(())


def _gradient(similarities: Tensor, axes: Tensor, exaggeration: float, scratch: _Scratch) -> Tensor:
    """Returns the gradient (2, points) of a map given as its two axes.

    Block by block, so that what one operation leaves is still in the cache for the next. There
    is no product of matrices, nor of one with a vector: where the user lets these be rounded,
    some processors do so to eight bits.
    """
    total = -float(axes.shape[1]) * scratch.one  # each point's own weight is 1
    for rows in scratch.rows:
        weights, block = scratch.weights[rows], scratch.block[: rows.stop - rows.start]
        torch.sub(axes[0, rows, None], axes[0], out=weights)
        torch.sub(axes[1, rows, None], axes[1], out=block)
        torch.addcmul(scratch.one, weights, weights, out=weights)
        total += weights.addcmul_(block, block).reciprocal_().sum()
    scale = -1 / (exaggeration * total)
    gradient = torch.empty_like(axes)
    for rows in scratch.rows:
        weights, block = scratch.weights[rows], scratch.block[: rows.stop - rows.start]
        forces = torch.addcmul(similarities[rows], weights, scale, out=block).mul_(weights)
        sums = forces.sum(1)
        for axis, of_axis in zip(axes, gradient, strict=True):
            pulled = torch.mul(forces, axis, out=weights).sum(1)
            torch.addcmul(-pulled, sums, axis[rows], out=of_axis[rows])
    return gradient.mul_(4 * exaggeration)


def _descended(similarities: Tensor, start: Tensor, descent: Descent) -> Tensor:
    """Returns the map after gradient descent with momentum and a gain for each coordinate."""
    axes = start.T.contiguous()
    scratch = _Scratch(similarities)
    velocity, gains = torch.zeros_like(axes), torch.ones_like(axes)
    for iteration in range(descent.num_exaggerated + descent.num_plain):
        is_early = iteration < descent.num_exaggerated
        exaggeration = descent.exaggeration if is_early else 1.0
        # Belkina et al.'s N / exaggeration, for a gradient that has the factor 4. The floor of
        # 50 that is usual beside it lets maps of 100 points and fewer never come to rest.
        rate = len(similarities) / (4 * exaggeration)
        gradient = _gradient(similarities, axes, exaggeration, scratch)
        is_reversed = gradient * velocity > 0  # the last step went up this slope
        gains = torch.where(is_reversed, gains * 0.8, gains + 0.2).clamp_min_(_LEAST_GAIN)
        velocity.mul_(0.5 if is_early else 0.8).sub_(gains * gradient, alpha=rate)
        axes += velocity
    axes -= axes.mean(1, keepdim=True)
    return axes.T.contiguous()
