"""t-SNE, exact, on the device that holds the points; or scikit-learn's, on the host.

Barnes-Hut wins by leaving pairs out, which pays on a CPU from some thousand points on. Below
that, and on a GPU, a few dense passes over all pairs are faster and need no native solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, repeat
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Backend = Literal["auto", "torch", "sklearn"]

MAX_POINTS = 5_000  # P and the weights take 4 N^2 bytes each: 100 MB

# Up to here all pairs are faster on a CPU than Barnes-Hut, both on one thread, from the start and
# from the last map.
_MAX_ON_HOST = 4_000
_CALIBRATION_STEPS = 10  # 8 reach 1e-12 on all that was tried, from isotropic to heavy-tailed
_LONGEST_STEP = 1.5  # in the logarithm of a precision: Newton overshoots where the slope is small
_WIDEST = 40.0  # exp(40): beyond any ratio of distances that float32 can tell apart
_LEAST_GAIN = 0.01
_INITIAL_STD = 1e-4
# It exaggerates for 250, with a momentum of .5; from the last map fewer than 250 are refused.
_SKLEARN_COLD, _SKLEARN_WARM = 600, 250
_BLOCK = 256  # points whose weights for all others fit into the second-level cache of a core


class Descent(NamedTuple):
    """Iterations with P exaggerated, in which clusters form, and on P itself."""

    num_exaggerated: int
    num_plain: int
    exaggeration: float = 12.0
    momentum: float = 0.8


# The usual schedule is 250 iterations with a momentum of .5 and an exaggeration of 12, then 500
# with .8. These reach the same divergence on average. With fewer, a map has not settled and drifts
# when it is continued; more points take longer.
COLD, COLD_OF_MANY = Descent(60, 250, exaggeration=8.0, momentum=0.85), Descent(125, 275)
WARM = Descent(0, 100)
_MANY = 700


def laid_out_by_tsne(
    features: Tensor,
    squared_distances: Tensor,
    start: Tensor,
    *,
    perplexity: float,
    is_warm: bool,
    backend: Backend = "auto",
) -> Tensor:
    """Returns a map (points, 2) by the solver asked for, or by the faster one.

    Args:
        features: (points, dimensions).
        squared_distances: (points, points), theirs.
        start: (points, 2); see `tsne`.
        perplexity: See `fitting_perplexity`.
        is_warm: Whether the start is the last map.
        backend: ``"torch"`` takes all pairs, ``"sklearn"`` Barnes-Hut.
    """
    if backend == "auto":
        is_exact = is_exact_faster(features.device, len(features))
        backend = "torch" if is_exact else "sklearn"
    if backend == "sklearn":
        return barnes_hut_tsne(features, start, perplexity=perplexity, is_warm=is_warm)
    descent = WARM if is_warm else None
    return tsne(squared_distances, start, perplexity=perplexity, descent=descent)


def is_exact_faster(device: torch.device, num_points: int) -> bool:
    """Whether all pairs at once are faster than Barnes-Hut; never above `MAX_POINTS`."""
    return num_points <= (_MAX_ON_HOST if device.type == "cpu" else MAX_POINTS)


def tsne(
    squared_distances: Tensor,
    start: Tensor,
    *,
    perplexity: float = 30.0,
    descent: Descent | None = None,
) -> Tensor:
    """Returns a map (points, 2) in which near neighbours stay near, without a random number.

    Distances between clusters, their sizes and their densities mean little on it. It takes 4 to
    `MAX_POINTS` points that are not all equal. By default a map is built, which starts from the
    first principal components (`as_start`); ``WARM`` lets the last map follow points that moved a
    little.

    References:
        van der Maaten and Hinton 2008, "Visualizing data using t-SNE"; Belkina et al. 2019,
        "Automated optimized parameters for t-distributed stochastic neighbor embedding", for
        the learning rate; Kobak and Berens 2019, "The art of using t-SNE for
        single-cell transcriptomics", for the start.
    """
    conditional = conditional_probabilities(squared_distances, perplexity)
    conditional += conditional.T.clone()
    similarities = conditional.div_(conditional.sum())
    if descent is None:
        descent = COLD if len(similarities) <= _MANY else COLD_OF_MANY
    return _descended(similarities, start.to(similarities.dtype), descent)


def barnes_hut_tsne(features: Tensor, start: Tensor, *, perplexity: float, is_warm: bool) -> Tensor:
    """Returns a map (points, 2) by scikit-learn; ``is_warm``: the start is the last map.

    With a start of its own (``init="pca"``) it ends the whole process on constant features. So
    it is given one, and never features that are all equal. It runs on one thread: the sums of
    several are added in any order, so that no map would be the same twice, and threads that wait
    for each other in each iteration crawl where others are at work.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    solver = TSNE(perplexity=perplexity, init=start.cpu().numpy(), random_state=0)
    # Before scikit-learn 1.5 its name is "n_iter".
    count = "max_iter" if "max_iter" in solver.get_params() else "n_iter"
    solver.set_params(**{count: _SKLEARN_WARM if is_warm else _SKLEARN_COLD})
    if is_warm:
        solver.set_params(early_exaggeration=1.0)
    with threadpool_limits(1):
        return torch.from_numpy(solver.fit_transform(features.float().cpu().numpy()))


def fitting_perplexity(perplexity: float, num_points: int) -> float:
    """Returns the perplexity, or (points - 1) / 3: above it neighbourhoods are not local."""
    return min(perplexity, max(2.0, (num_points - 1) / 3))


def as_start(points: Tensor) -> Tensor:
    """Returns points (points, 2) in float32, so small that every pair attracts at first."""
    points = points - points.mean(0)
    spread = points.std(0, correction=0).amax()
    return (points * (_INITIAL_STD / spread.clamp_min(torch.finfo(points.dtype).tiny))).float()


def conditional_probabilities(squared_distances: Tensor, perplexity: float) -> Tensor:
    """Returns p(j|i) (points, points) in float32: a Gaussian around each, all of one perplexity.

    Their precisions are found by Newton steps in the logarithm, kept inside a bracket. All
    points take the same number of steps, so that the host need not wait for the device. A point
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
    # Not kthvalue: CUDA refuses it where only deterministic algorithms are allowed.
    neighbour = distances.topk(rank, dim=1, largest=False).values[:, -1:]
    distances.fill_diagonal_(0.0)
    mean = distances.mean(1, keepdim=True)
    unit = torch.where(neighbour > 0, neighbour, mean)  # 0 among many duplicates
    return distances.div_(unit.clamp_min(torch.finfo(distances.dtype).tiny)).float()


def _gaussian(distances: Tensor, precision: Tensor, out: Tensor) -> Tensor:
    """Writes exp(-precision distance) into ``out``, a point's own weight 0."""
    return torch.mul(distances, -precision, out=out).exp_().fill_diagonal_(0.0)


def _descended(similarities: Tensor, start: Tensor, descent: Descent) -> Tensor:
    """Returns the map after gradient descent with momentum and a gain for each coordinate."""
    from threadpoolctl import threadpool_limits

    axes = start.T.contiguous()  # (2, points)
    num_points = len(similarities)
    gradient, velocity, gains = axes.clone(), torch.zeros_like(axes), torch.ones_like(axes)
    is_on_host = similarities.device.type == "cpu"
    write_of = _host_gradient if is_on_host else _device_gradient
    write_gradient = write_of(similarities, axes, gradient)
    early = repeat(descent.exaggeration, descent.num_exaggerated)
    with threadpool_limits(1, user_api="blas") if is_on_host else nullcontext():
        for exaggeration in chain(early, repeat(1.0, descent.num_plain)):
            # Belkina et al.'s N / exaggeration, for a gradient that has the factor 4. The floor
            # of 50 that is usual beside it lets maps of 100 points and fewer never come to rest.
            rate = num_points / (4 * exaggeration)
            write_gradient(exaggeration)
            is_reversed = gradient * velocity > 0  # the last step went up this slope
            gains = torch.where(is_reversed, gains * 0.8, gains + 0.2).clamp_min_(_LEAST_GAIN)
            velocity.mul_(descent.momentum).sub_(gains * gradient, alpha=rate)
            axes += velocity
    axes -= axes.mean(1, keepdim=True)
    return axes.T.contiguous()


def _device_gradient(
    similarities: Tensor, axes: Tensor, gradient: Tensor
) -> Callable[[float], None]:
    """Returns what writes the gradient of KL(P || Q), for a map given as its two axes.

    4 sum_j (p_ij - w_ij / Z) w_ij (y_i - y_j) with w = 1 / (1 + |y_i - y_j|^2) and Z = sum w,
    P exaggerated. There is no product of matrices, nor of one with a vector: where the user lets
    these be rounded, some devices do so to 8 bits.
    """
    one = axes.new_ones(())
    weights, forces = torch.empty_like(similarities), torch.empty_like(similarities)

    def write(exaggeration: float) -> None:
        """Writes the gradient for P times ``exaggeration``."""
        torch.sub(axes[0][:, None], axes[0], out=weights)
        torch.sub(axes[1][:, None], axes[1], out=forces)
        torch.addcmul(one, weights, weights, out=weights)
        # Each point's own weight is 1.
        total = weights.addcmul_(forces, forces).reciprocal_().sum() - len(weights)
        scale = -1 / (exaggeration * total)
        torch.addcmul(similarities, weights, scale, out=forces).mul_(weights)
        sums = forces.sum(1)
        for axis, of_axis in zip(axes, gradient, strict=True):
            pulled = torch.mul(forces, axis, out=weights).sum(1)
            torch.addcmul(-pulled, sums, axis, out=of_axis)
        gradient.mul_(4 * exaggeration)

    return write


def _host_gradient(similarities: Tensor, axes: Tensor, gradient: Tensor) -> Callable[[float], None]:
    """Returns what `_device_gradient` does, in NumPy: half the time on one core of a CPU.

    Its products of matrices are those of NumPy, which torch's options do not reach. The points
    are taken in blocks, whose weights stay in the processor's cache.
    """
    p, places, out = similarities.numpy(), axes.numpy(), gradient.numpy()
    num_points = len(p)
    blocks = [slice(start, start + _BLOCK) for start in range(0, num_points, _BLOCK)]
    block_weights, block_forces = np.empty((2, min(_BLOCK, num_points), num_points), p.dtype)
    left, right = np.ones((num_points, 4), p.dtype), np.ones((4, num_points), p.dtype)
    columns = *places, np.ones(num_points, p.dtype)
    # For each of these columns its product with p w, and with w^2.
    pulled, pushed = np.empty((2, len(columns), num_points), p.dtype)

    def write(exaggeration: float) -> None:
        """Writes the gradient for P times ``exaggeration``."""
        # 1 + |y_i - y_j|^2 = (-2 y_i, 1, |y_i|^2 + 1) . (y_j, |y_j|^2, 1)
        norms = np.square(places).sum(0)
        left[:, :2], left[:, 3] = -2 * places.T, norms + 1
        right[:2], right[2] = places, norms
        total = -float(num_points)  # each point's own weight is 1
        for block in blocks:
            of_block = p[block]
            weights, forces = block_weights[: len(of_block)], block_forces[: len(of_block)]
            np.reciprocal(np.matmul(left[block], right, out=weights), out=weights)
            np.fill_diagonal(weights[:, block], 1)
            total += float((weights @ columns[-1]).sum())
            np.multiply(of_block, weights, out=forces)
            np.multiply(weights, weights, out=weights)
            for column, pull, push in zip(columns, pulled, pushed, strict=True):
                np.matmul(forces, column, out=pull[block])
                np.matmul(weights, column, out=push[block])
        *moments, sums = pulled - pushed / (exaggeration * total)
        np.multiply(sums * places - moments, 4 * exaggeration, out=out)

    return write
