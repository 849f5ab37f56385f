"""Who is near whom: among features, among pixels, and on a map."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 1 << 22  # comparisons held at once


def precise(values: Tensor) -> Tensor:
    """Returns the values in the widest float the device has: float64, but for Apple's."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def squared_distances(points: Tensor) -> Tensor:
    """Returns (points, points) for points (points, dimensions), in float64.

    Products of matrices in float32 may be rounded to ten bits where the user allows it.
    """
    centred = precise(points) - precise(points).mean(0)
    products = centred @ centred.T
    norms = products.diagonal().clone()
    distances = products.mul_(-2).add_(norms).add_(norms[:, None]).clamp_min_(0)
    return distances.fill_diagonal_(0)


def nearest(distances: Tensor, num_neighbours: int) -> Tensor:
    """Returns (points, neighbours): the nearest others of each point, the nearest first."""
    others = distances.clone().fill_diagonal_(torch.inf)
    return others.topk(num_neighbours, dim=1, largest=False).indices


def class_agreement(distances: Tensor, labels: Tensor, num_neighbours: int = 10) -> Tensor:
    """Returns the mean share of a point's nearest neighbours that are of its class.

    1: each class lies by itself. By chance it is about the sum of the squared shares of the
    classes. A point has no more neighbours than its class has other points, so that small
    classes can reach 1 as well; a class of one point does not count. NaN: nothing counts.

    Args:
        distances: (points, points); of any kind, only their order counts.
        labels: (points,) class numbers.
        num_neighbours: 10, so that one odd neighbour does not decide.
    """
    count = min(num_neighbours, len(labels) - 1)
    is_same = (labels[nearest(distances, count)] == labels[:, None]).to(distances.dtype)
    num_others = (labels[:, None] == labels).sum(1) - 1
    places = torch.arange(count, device=labels.device)
    is_counted = (places < num_others[:, None]).to(distances.dtype)
    shares = (is_same * is_counted).sum(1) / is_counted.sum(1)  # NaN of a class of one
    return shares.nanmean()


def trustworthiness(distances: Tensor, points: Tensor, num_neighbours: int = 5) -> Tensor:
    """Returns how far neighbours on a map are neighbours in truth: 1 all, 0 the worst there is.

    It punishes each of a point's nearest on the map by how far it lies beyond the nearest of
    the features. What it cannot tell: whether neighbours were torn apart.

    Args:
        distances: (points, points) between the features.
        points: (points, 2), the map.
        num_neighbours: 5; fewer where there are not twice as many points.

    References:
        Venna and Kaski 2001, "Neighborhood preservation in nonlinear projection methods".
    """
    num_points = len(points)
    count = max(1, min(num_neighbours, (num_points - 1) // 2))
    on_map = nearest(squared_distances(points), count)
    penalty = distances.new_zeros(())
    num_rows = max(1, _CHUNK_ELEMENTS // (num_points * count))
    for start in range(0, num_points, num_rows):
        rows = distances[start : start + num_rows]
        to_neighbours = rows.gather(1, on_map[start : start + num_rows])
        ranks = (rows[:, None, :] < to_neighbours[:, :, None]).sum(2)  # itself counts: from 1
        penalty += (ranks - count).clamp_min(0).sum()
    worst = num_points * count * (2 * num_points - 3 * count - 1) / 2
    return 1 - penalty / worst


def neighbour_recall(distances: Tensor, points: Tensor, num_neighbours: int = 10) -> Tensor:
    """Returns the share of the nearest neighbours in truth that are so on the map as well."""
    in_truth = nearest(distances, num_neighbours)
    on_map = nearest(squared_distances(points), num_neighbours)
    return (in_truth[:, :, None] == on_map[:, None, :]).any(2).double().mean()
