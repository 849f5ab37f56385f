"""One number for each place of an input, and what is measured of such maps."""

from __future__ import annotations

import torch
from torch import Tensor


def saliency_maps(values: Tensor, *, is_signed: bool = False) -> Tensor:
    """Returns one number for each position, (samples, height, width), of an attribution.

    The largest magnitude of the channels (Simonyan et al. 2014), or, where signs count, their
    sum. Inputs without channels stay as they are, vectors and series become one row, and of a
    volume the middle slice is taken.

    Args:
        values: (samples, channels, *positions), (samples, height, width) or (samples, features).
        is_signed: See `Method.is_signed`.
    """
    if values.dim() in (2, 3):
        return (values if is_signed else values.abs()).reshape(len(values), -1, values.shape[-1])
    maps = values.sum(1) if is_signed else values.abs().amax(1)
    while maps.dim() > 3:
        maps = maps[:, maps.shape[1] // 2]
    return maps


def effective_area(maps: Tensor) -> Tensor:
    """Returns (samples,) how widely saliency is spread: 1 evenly, 1/P in one of P positions.

    (sum |m|)^2 / (P sum m^2); NaN for a map that is 0 everywhere.
    """
    sizes = maps.flatten(1).abs()
    # Scaled first: squares of tiny gradients would be 0.
    sizes = sizes / sizes.amax(1, keepdim=True)
    return sizes.sum(1).square() / (sizes.square().sum(1) * sizes.shape[1])


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Returns (samples,) Spearman's correlation of the magnitudes of two sets of maps.

    NaN where a map is the same everywhere. Equal values share their mean rank.
    """
    ranks = [_ranks(maps.flatten(1).abs()) for maps in (first, second)]
    centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    lengths = centred[0].square().sum(1) * centred[1].square().sum(1)
    return (centred[0] * centred[1]).sum(1) / lengths.sqrt()


def share_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns (samples,) the share of the saliency's magnitude that lies inside the mask.

    NaN for a map that is 0 everywhere.

    Args:
        maps: (samples, height, width).
        masks: The same shape; what is not 0 is inside.

    Raises:
        ValueError: The shapes differ.
    """
    if maps.shape != masks.shape:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} do not fit maps of shape {tuple(maps.shape)}. "
            "Give one (height, width) for each sample, of the input's size."
        )
    sizes = maps.abs()
    return (sizes * (masks != 0)).flatten(1).sum(1) / sizes.flatten(1).sum(1)


def _ranks(values: Tensor) -> Tensor:
    """Returns each value's rank in its row; equal ones share the mean of theirs."""
    values = values.contiguous()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).to(torch.float64) / 2
