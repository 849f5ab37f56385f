"""Orthogonal Procrustes in the plane: a map turned and mirrored until it lies as another one."""

from __future__ import annotations

import torch
from torch import Tensor


def aligned(points: Tensor, before: Tensor, is_shared: Tensor | None = None) -> Tensor:
    """Returns the points turned, mirrored and moved so that they lie nearest to ``before``.

    Nothing is scaled: that a map grows is to be seen. In the plane the best turn has a closed
    form, so no decomposition makes the host wait for the device.

    Args:
        points: (points, 2).
        before: (points, 2), the same samples on another map.
        is_shared: (points,) True where ``before`` is known; None: everywhere.

    References:
        Schönemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    weights = torch.ones_like(points[:, :1]) if is_shared is None else is_shared[:, None]
    weights = weights.to(points.dtype)
    known = torch.where(weights > 0, before, 0)
    total = weights.sum().clamp_min(1)
    centre, centre_before = (points * weights).sum(0) / total, (known * weights).sum(0) / total
    centred = points - centre
    (a, b), (c, d) = (centred * weights).T @ (known - centre_before)
    turn = torch.stack([torch.stack([a + d, b - c]), torch.stack([c - b, a + d])])
    mirror = torch.stack([torch.stack([a - d, b + c]), torch.stack([b + c, d - a])])
    best = torch.where(_size(turn) >= _size(mirror), turn, mirror)
    nothing_to_turn_by = torch.eye(2, dtype=points.dtype, device=points.device)
    size = _size(best)
    matrix = torch.where(size > 0, best / size.clamp_min(torch.finfo(size.dtype).tiny),
                         nothing_to_turn_by)  # fmt: skip
    return centred @ matrix + centre_before


def _size(matrix: Tensor) -> Tensor:
    """Returns the length of the first row, which is that of the second."""
    size: Tensor = torch.linalg.vector_norm(matrix[0])
    return size


def spread(points: Tensor) -> Tensor:
    """Returns the root mean squared distance from the centre."""
    return (points - points.mean(0)).square().sum(1).mean().sqrt()


def displacement(points: Tensor, before: Tensor) -> Tensor:
    """Returns the median distance that points have moved, in units of the map's `spread`."""
    moved: Tensor = torch.linalg.vector_norm(points - before, dim=1).median()
    return moved / spread(points).clamp_min(torch.finfo(points.dtype).tiny)
