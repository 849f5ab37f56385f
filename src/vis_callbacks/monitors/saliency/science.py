"""Saliency: which parts of an input a score answers to, and what is measured of such maps.

The model enters as a function of the inputs that can be differentiated: the score of a class, or
of any unit. The methods are in `methods`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.engine.score_functions import LayerGradient, Score, despite_overwriting
from vis_callbacks.engine.scores import MethodUnsuitedError, NoGradientError
from vis_callbacks.monitors.saliency.methods import Method, named_method
from vis_callbacks.monitors.saliency.relu_rules import RuleInUse, relu_rule

# Values of all inputs of one pass: 6 images of 3 x 224 x 224. With 4 to 8 of them a resnet18
# takes least time an image on one thread, and a fifteenth of the memory of all at once.
_MAX_VALUES = 2**20

_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}
_MAX_REMEMBERED = 64  # pixels of a side of a map that is kept
_FEW = 8  # rows or columns that are not averaged: the channels of a series


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What a method gives to each value of the input.

    Attributes:
        values: In the shape of the inputs, without graph; of Grad-CAM one channel.
        used: What the gradients of one pass came through; None for the gradient's own rule.
        completeness_error: (samples,) of a complete method, relative; above 0.05 take more steps.
        without_gradient: (samples,) the share of Grad-CAM's positions without a gradient.
    """

    values: Tensor
    used: RuleInUse | None = None
    completeness_error: Tensor | None = None
    without_gradient: Tensor | None = None


def attribute(
    method: str | Method,
    score: Score,
    inputs: Tensor,
    *,
    layer_gradient: LayerGradient | None = None,
) -> Attribution:
    """Returns what each value of the inputs contributes to the score, as a method sees it.

    The score takes inputs (samples, ...) to (samples,), unnormalised, the model in evaluation mode.

    Raises:
        ValueError: There is no such method, or it needs ``layer_gradient``.
        MethodUnsuitedError: It needs ReLUs and none was called, or a layer with the inputs'
            axes; or the score does not depend on the inputs.
    """
    chosen = named_method(method) if isinstance(method, str) else method
    if chosen.uses_layer and layer_gradient is None:
        raise ValueError("Grad-CAM needs layer_gradient=inputs -> (activation, gradient).")
    return despite_overwriting(lambda: _attribution(chosen, score, inputs.detach(), layer_gradient))


def _attribution(
    method: Method, score: Score, inputs: Tensor, layer_gradient: LayerGradient | None
) -> Attribution:
    values, used = inputs.new_ones(()), RuleInUse()
    if method.points is not None:
        with relu_rule(method.rule) as used:
            values, num_passes = mean_gradient(score, inputs, method.points(inputs))
        used = used.per_pass(num_passes)
        _require_relus(method, used)
    if method.times_input:
        values = values * inputs
    error = without_gradient = None
    if layer_gradient is not None and method.uses_layer:
        activation, gradient = layer_gradient(inputs.clone().requires_grad_().clone())
        values = values * upsampled(grad_cam(activation, gradient), inputs)
        without_gradient = (gradient == 0).all(1).flatten(1).float().mean(1)
    if method.is_complete:
        with torch.no_grad():
            whole, nothing = score(torch.cat([inputs, torch.zeros_like(inputs)])).chunk(2)
        error = (values.flatten(1).sum(1) - (whole - nothing)).abs() / (whole - nothing).abs()
    return Attribution(
        values=values,
        used=None if method.rule == "gradient" else used,
        completeness_error=error,
        without_gradient=without_gradient,
    )


def _require_relus(method: Method, used: RuleInUse) -> None:
    if method.rule != "gradient" and not used.num_relus:
        kinds = f" ({', '.join(sorted(used.left_out))} were)" if used.left_out else ""
        raise MethodUnsuitedError(
            f'the rule "{method.rule}" says how a gradient passes a ReLU, and no ReLU was called '
            f'on the way to this score{kinds}. Use the method "gradient", which suits every '
            "network."
        )


def mean_gradient(
    score: Score, inputs: Tensor, points: Iterable[tuple[Tensor, float]]
) -> tuple[Tensor, int]:
    """Returns the weighted sum of the score's gradients at the points, and how many passes ran."""
    copies = max(1, _MAX_VALUES // max(1, inputs.numel()))  # in one pass
    total, num_passes = torch.zeros_like(inputs), 0
    remaining = iter(points)
    while group := list(islice(remaining, copies)):
        stacked = torch.cat([point for point, _ in group]).requires_grad_()
        scores = score(stacked.clone())  # which the network may overwrite
        # (copies, samples). The weights are positive, so that rules see the same signs.
        # Made one by one on the device: a list would be sent there, and waited for.
        weights = torch.stack([scores.new_full((1,), weight) for _, weight in group])
        weighted = scores.view(len(group), -1) * weights
        gradient = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(weighted.sum(), stacked, allow_unused=True)
        if gradient is None:
            raise NoGradientError
        total += gradient.view(len(group), *inputs.shape).sum(0)
        num_passes += 1
    return total, num_passes


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Returns Grad-CAM's map (samples, *positions): where units that raise the score fire.

    Each unit of the activation (samples, units, *positions) is weighed by its mean gradient over
    the positions; what is below 0 is cut off.
    """
    if activation.dim() < 3:
        raise MethodUnsuitedError(
            f"Grad-CAM's layer has the activation {tuple(activation.shape)}, without positions. "
            "Use a layer (samples, channels, height, width)."
        )
    weights = gradient.flatten(2).mean(2)  # (samples, units)
    return torch.einsum("nu,nu...->n...", weights, activation).clamp(min=0)


def upsampled(maps: Tensor, inputs: Tensor) -> Tensor:
    """Returns maps (samples, *positions) in the size of the inputs, linear between positions.

    The result has one channel if the inputs have some.
    """
    has_channels = maps.dim() != inputs.dim()
    size = tuple(inputs.shape[2 if has_channels else 1 :])
    if maps.dim() != len(size) + 1 or len(size) not in _INTERPOLATIONS:
        raise MethodUnsuitedError(
            f"a map of positions {tuple(maps.shape[1:])} cannot be laid over inputs of size "
            f"{size}. Grad-CAM needs inputs (samples, channels, *positions), and a layer that "
            "has as many axes, or tokens of square patches."
        )
    mode = _INTERPOLATIONS[len(size)]
    large = F.interpolate(maps.unsqueeze(1), size=size, mode=mode, align_corners=False)
    return (large if has_channels else large.squeeze(1)).to(inputs.dtype)


def saliency_maps(values: Tensor, *, is_signed: bool = False) -> Tensor:
    """Returns one number for each position, (samples, height, width), of an attribution.

    It is the largest magnitude of the channels (Simonyan et al. 2014) or, where signs count,
    their sum. A row of features becomes one row, and of a volume the middle slice is taken.
    """
    if values.dim() in (2, 3):
        return (values if is_signed else values.abs()).reshape(len(values), -1, values.shape[-1])
    maps = values.sum(1) if is_signed else values.abs().amax(1)
    while maps.dim() > 3:
        maps = maps[:, maps.shape[1] // 2]
    return maps


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Returns (samples,) Spearman's correlation of the magnitudes of two sets of maps.

    It is scipy's `spearmanr`, but stays on the device. Equal values share their mean rank; where
    a map is the same everywhere the result is NaN.
    """
    centred = []
    for maps in (first, second):
        values = maps.flatten(1).abs().contiguous()
        ordered = values.sort(1).values
        below = torch.searchsorted(ordered, values)
        ranks = (below + torch.searchsorted(ordered, values, right=True)).double() / 2
        centred.append(ranks - ranks.mean(1, keepdim=True))
    lengths = centred[0].square().sum(1) * centred[1].square().sum(1)
    return (centred[0] * centred[1]).sum(1) / lengths.sqrt()


def share_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Returns (samples,) the share of the saliency's magnitude where the mask is not 0.

    It is NaN for a map that is 0 everywhere. Raises ValueError where the shapes differ.
    """
    if maps.shape != masks.shape:
        raise ValueError(
            f"masks of shape {tuple(masks.shape)} do not fit maps of shape {tuple(maps.shape)}. "
            "Give one (height, width) for each sample, of the input's size."
        )
    sizes = maps.abs()
    return (sizes * (masks != 0)).flatten(1).sum(1) / sizes.flatten(1).sum(1)


def shrunk(maps: Tensor, max_size: int) -> Tensor:
    """Returns (samples, height, width) averaged so that no side is above ``max_size``.

    A side of up to 8 stays as it is.
    """
    ratio = max_size / max(maps.shape[1:])
    if ratio >= 1:
        return maps
    height, width = (max(min(side, _FEW), round(side * ratio)) for side in maps.shape[1:])
    return F.adaptive_avg_pool2d(maps.unsqueeze(1), (height, width)).squeeze(1)


def remembered(maps: Tensor) -> Tensor:
    """Returns maps to keep: small, in half precision, each with a mean magnitude of 1.

    They are scaled first, because in half precision gradients of 1e-8 would be 0.
    """
    means = maps.abs().flatten(1).mean(1).view(-1, 1, 1)
    return shrunk(maps / torch.where(means > 0, means, 1), _MAX_REMEMBERED).half()
