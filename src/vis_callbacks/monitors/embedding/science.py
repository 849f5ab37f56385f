"""Features as clouds of points: their shape, who is near whom, and a map laid on another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Obstacle = Literal["too few", "equal", "few places"]
Points = NDArray[np.float32]  # (samples, 2)

_MIN_SAMPLES = 4
_NUM_OF_CLASS = 10  # neighbours that are asked for their class: one odd one must not decide
_NUM_ON_MAP = 5  # neighbours on a map that are looked up in truth
# Relative to the size of the features: what float32 leaves of a difference is about 1e-7.
_NO_SPREAD = 1e-6
_NO_VARIANCE = 1e-12  # of the largest: what rounding leaves of a direction that is not there
_SAME_PLACE = 1e-12  # of squared distances, in units of the squared norms


@dataclass(frozen=True)
class Cloud:
    """One layer's finite features, and what must be known before any solver looks at them.

    Attributes:
        layer: Its name.
        places: (points,) which of the samples these are.
        features: (points, dimensions).
        distances: (points, points), squared.
        num_places: How many different points they are.
        spread: Root mean squared distance from the mean, over root mean squared norm.
        effective_rank: In how many directions they vary: the exponential of the entropy of the
            singular values' shares, of centred features; 0: all are equal. (Roy and Vetterli
            2007, "The effective rank: a measure of effective dimensionality".)
        num_directions: In how many they vary at all; 1: they lie on a line.
        agreement: See `class_agreement`.
    """

    layer: str
    places: NDArray[np.intp]
    features: Tensor
    distances: Tensor
    num_places: float
    spread: float
    effective_rank: float
    num_directions: float
    agreement: float

    @property
    def obstacle(self) -> Obstacle | None:
        """Why there can be no map; None where there can be one."""
        if len(self.places) < _MIN_SAMPLES:
            return "too few"
        if self.spread <= _NO_SPREAD:
            return "equal"
        return "few places" if self.num_places < _MIN_SAMPLES else None


def clouds_of(by_layer: Mapping[str, Tensor], labels: NDArray[np.int64]) -> list[Cloud]:
    """Returns the cloud of each layer's features (samples, dimensions); labels (samples,)."""
    clouds = []
    for layer, features in by_layer.items():
        is_finite = features.isfinite().all(1)
        places = np.flatnonzero(is_finite.cpu().numpy())
        features = features[is_finite]
        distances = squared_distances(features)
        agreement = class_agreement(distances, labels[places])
        numbers = torch.stack([*_shape(features, distances), agreement]).tolist()
        clouds.append(Cloud(layer, places, features, distances, *numbers))
    return clouds


def _shape(features: Tensor, distances: Tensor) -> list[Tensor]:
    """Returns number of places, spread, effective rank and number of directions of a cloud."""
    values = precise(features)
    zero = values.new_zeros(())
    if len(values) < 2:
        return [zero + len(values), zero, zero, zero]
    tiny = torch.finfo(values.dtype).tiny
    norms = values.square().sum(1)
    centred = values - values.mean(0)
    spread = centred.square().sum(1).mean().div(norms.mean().clamp_min(tiny)).sqrt()
    is_known_place = (distances <= _SAME_PLACE * (norms[:, None] + norms)).tril(-1).any(1)
    variances = torch.linalg.eigvalsh(_smaller_product(centred))
    variances = torch.where(variances > _NO_VARIANCE * variances[-1], variances, 0)
    lengths = variances.sqrt()
    rank = torch.special.entr(lengths / lengths.sum().clamp_min(tiny)).sum().exp()
    return [
        (~is_known_place).sum() + zero,
        spread,
        torch.where(spread > _NO_SPREAD, rank, zero),
        (variances > 0).sum() + zero,
    ]


def _smaller_product(centred: Tensor) -> Tensor:
    """Returns the product of the rows or of the columns, whichever has the fewer numbers."""
    num_rows, num_columns = centred.shape
    return centred @ centred.T if num_rows <= num_columns else centred.T @ centred


def precise(values: Tensor) -> Tensor:
    """Returns the values in the widest float that the device has: float64, but for Apple's."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def squared_distances(points: Tensor) -> Tensor:
    """Returns (points, points) for points (points, dimensions), in float64."""
    # Products of matrices in float32 may be rounded to ten bits where the user allows it.
    centred = precise(points) - precise(points).mean(0)
    products = centred @ centred.T
    norms = products.diagonal().clone()
    distances = products.mul_(-2).add_(norms).add_(norms[:, None]).clamp_min_(0)
    return distances.fill_diagonal_(0)


def class_agreement(distances: Tensor, labels: NDArray[np.int64]) -> Tensor:
    """Returns the mean share of a point's ten nearest neighbours that are of its class.

    1: each class lies by itself. By chance it is about the sum of the squared shares of the
    classes. NaN: there is one class alone, or none with two points. A point has no more neighbours
    than its class has other points, so that small classes can reach 1 as well. Of the distances
    (points, points) only the order counts; labels (points,) below 0 are not known.
    """
    labelled = np.flatnonzero(labels >= 0)
    num_classes = len(np.unique(labels[labelled]))
    if num_classes < 2 or num_classes == len(labelled):
        return distances.new_full((), torch.nan)
    index = torch.from_numpy(labelled).to(distances.device)
    others = distances[index][:, index].fill_diagonal_(torch.inf)
    classes = torch.from_numpy(labels[labelled]).to(distances.device)
    count = min(_NUM_OF_CLASS, len(classes) - 1)
    nearest = others.topk(count, dim=1, largest=False).indices
    is_same = (classes[nearest] == classes[:, None]).to(distances.dtype)
    num_others = (classes[:, None] == classes).sum(1) - 1
    is_counted = torch.arange(count, device=classes.device) < num_others[:, None]
    shares = (is_same * is_counted).sum(1) / is_counted.sum(1)  # NaN of a class of one
    return shares.nanmean()


def principal_components(features: Tensor) -> Tensor:
    """Returns the coordinates (samples, 2) along the two directions of largest variance.

    The longest coordinate of each is positive, so that the same features give the same picture.
    Directions that are not there (features on one line) are 0.
    """
    centred = precise(features)
    centred = centred - centred.mean(0)
    variances, axes = torch.linalg.eigh(_smaller_product(centred))
    axes, variances = axes[:, -2:].flip(1), variances[-2:].flip(0).clamp_min(0)
    points = axes * variances.sqrt() if len(axes) == len(centred) else centred @ axes
    points = torch.where(variances > _NO_VARIANCE * variances[0], points, 0)
    longest = points.gather(0, points.abs().argmax(0, keepdim=True))
    points = torch.where(longest < 0, -points, points)
    return torch.nn.functional.pad(points, (0, 2 - points.shape[1]))


def trustworthiness(distances: Tensor, points: Points) -> float:
    """Returns how far neighbours on a map are neighbours in truth: 1 all, 0 the worst there is.

    Each of a point's five nearest on the map costs as much as it lies beyond the nearest by
    ``distances`` (points, points). Whether neighbours were torn apart is not seen. (Venna and
    Kaski 2001, "Neighborhood preservation in nonlinear projection methods".)
    """
    from sklearn.manifold import trustworthiness as of_sklearn

    count = max(1, min(_NUM_ON_MAP, (len(points) - 1) // 2))
    in_truth = distances.cpu().numpy()
    return float(of_sklearn(in_truth, points, n_neighbors=count, metric="precomputed"))


def aligned(points: Points, before: Points, is_shared: NDArray[np.bool_]) -> Points:
    """Returns the points turned, mirrored and moved so that they lie nearest to ``before``.

    Nothing is scaled: that a map grows is to be seen. Where ``is_shared`` (points,) is False,
    ``before`` is not known.
    """
    from scipy.linalg import orthogonal_procrustes

    centre, centre_before = points[is_shared].mean(0), before[is_shared].mean(0)
    turn, _ = orthogonal_procrustes(points[is_shared] - centre, before[is_shared] - centre_before)
    return np.asarray((points - centre) @ turn + centre_before, dtype=points.dtype)


def displacement(points: Points, before: Points) -> float:
    """Returns the median distance that points have moved, in units of the map's `spread`."""
    moved = np.median(np.linalg.norm(points - before, axis=1))
    return float(moved / max(spread(points), np.finfo(points.dtype).tiny))


def spread(points: Points) -> float:
    """Returns the root mean squared distance from the centre."""
    return float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))
