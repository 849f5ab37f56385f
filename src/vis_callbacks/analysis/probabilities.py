"""Probabilities of classes, of the scores that a network gives."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(scores: Tensor) -> Tensor:
    """Returns (samples, classes) probabilities of unnormalised scores.

    Of scores at several positions the mean. A single score is that of a yes, so its
    probability is the sigmoid. Rows that are probabilities already stay as they are.

    Args:
        scores: (samples, classes, ...).
    """
    scores = scores.flatten(2).mean(2) if scores.dim() > 2 else scores
    if scores.shape[1] == 1:
        return scores.sigmoid()
    is_probability = (scores >= 0).all(1) & ((scores.sum(1) - 1).abs() < 1e-3)
    return torch.where(is_probability[:, None], scores, scores.softmax(1))
