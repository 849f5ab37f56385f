"""Linear probes: how well one linear layer could tell the classes from a layer's features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.analysis.neighbours import precise

# Strengths of the ridge, in units of the features' largest variance along any direction.
_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_NO_VARIANCE = 1e-12


def probe_accuracy(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the leave-one-out accuracy of ridge regression on the classes.

    Each sample is judged by the probe fitted to all others. That has a closed form, so nothing
    is trained: with the hat matrix H the residual of a left-out sample is that of the fit over
    1 - h_ii. The strength of the ridge is the one of six with the least squared error left out.
    The step from layer to layer tells more than the height: a wide layer helps any probe.

    Args:
        features: (samples, dimensions).
        labels: (samples,) from 0 to ``num_classes - 1``.
        num_classes: Two or more.

    References:
        Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
        probes"; Allen 1974, "The relationship between variable selection and data augmentation
        and a method for prediction", for the residuals.
    """
    features = precise(features)
    targets = F.one_hot(labels, num_classes).to(features.dtype)
    left, variances = _axes(features - features.mean(0))
    mean = targets.mean(0)
    projected = left.T @ (targets - mean)
    losses, accuracies = [], []
    for strength in _STRENGTHS:
        shrinkage = variances / (variances + strength * variances[-1])
        shrinkage = shrinkage.nan_to_num(0.0)  # features without any variance explain nothing
        fitted = mean + left @ (shrinkage[:, None] * projected)
        leverage = 1 / len(labels) + left.square() @ shrinkage
        left_out = targets - (targets - fitted) / (1 - leverage).clamp_min(1e-9)[:, None]
        losses.append((targets - left_out).square().mean())
        accuracies.append((left_out.argmax(1) == labels).double().mean())
    return torch.stack(accuracies)[torch.stack(losses).argmin()]


def _axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the left singular vectors (samples, rank) and the squared singular values.

    By the eigenvectors of the smaller of the two products: several times faster than an SVD.
    """
    num_samples, num_dimensions = centred.shape
    if num_samples <= num_dimensions:
        variances, left = torch.linalg.eigh(centred @ centred.T)
    else:
        variances, right = torch.linalg.eigh(centred.T @ centred)
        is_kept = variances > _NO_VARIANCE * variances[-1]
        scale = torch.where(is_kept, variances, torch.inf).rsqrt()
        left = centred @ (right * scale)
    return left, torch.where(variances > _NO_VARIANCE * variances[-1], variances, 0)
