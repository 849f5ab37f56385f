"""Saliency: which parts of an input a score answers to.

A method is a *rule* (how a gradient passes a ReLU, see `relu_rules`) and an *estimator* (at
which points gradients are taken and how they are averaged), chosen apart. The model enters as
a function of the inputs that can be differentiated: the score of a class, or of any unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.overwriting import despite_overwriting
from vis_callbacks.analysis.relu_rules import ReluRule, RuleInUse, relu_rule
from vis_callbacks.analysis.token_grid import on_grid, token_grid

# Inputs (samples, ...) -> scores (samples,). It may be given several whole copies of the
# samples, one after the other.
Score = Callable[[Tensor], Tensor]
# Inputs -> (a layer's activation, the score's gradient there), (samples, units, *positions).
LayerGradient = Callable[[Tensor], tuple[Tensor, Tensor]]

# Values of all inputs of one pass: 6 images of 3 x 224 x 224. With 4 to 8 of them a resnet18
# takes least time an image on one thread, and a fifteenth of the memory of all at once.
_MAX_VALUES = 2**20


class MethodUnsuitedError(ValueError):
    """A method has nothing to say about this network or these inputs; its message says why."""


class NoGradientError(MethodUnsuitedError):
    """The score does not depend on the inputs by anything that can be differentiated."""


class Estimator(Protocol):
    """At which points gradients are taken, and the share of each in the average."""

    @property
    def baseline(self) -> float:
        """What is taken off the input before a gradient is multiplied by it."""
        ...

    def points(self, inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yields tensors like ``inputs``, each with its weight; the weights sum to 1."""
        ...


@dataclass(frozen=True)
class Gradient:
    """The gradient at the input itself (Simonyan et al. 2014).

    Attributes:
        baseline: What stands for "no signal" where the gradient is multiplied by the input.
    """

    baseline: float = 0.0

    def points(self, inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yields the inputs."""
        yield inputs, 1.0


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient at noisy copies of the input.

    The noise is the same at each call, so that two maps differ because the network does.

    Attributes:
        num_samples: Of noise; the paper finds little gained beyond 50.
        noise: Standard deviation as a share of each input's range (largest minus smallest
            value): 0.1 to 0.2 in the paper.
        seed: Of a generator of its own.
        baseline: As of `Gradient`.

    References:
        Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise".
    """

    num_samples: int = 25
    noise: float = 0.15
    seed: int = 0
    baseline: float = 0.0

    def points(self, inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yields ``num_samples`` noisy copies; each is drawn apart, however many run at once."""
        generator = torch.Generator(inputs.device).manual_seed(self.seed)
        flat = inputs.flatten(1)
        spread = self.noise * (flat.amax(1) - flat.amin(1))
        spread = spread.view(-1, *[1] * (inputs.dim() - 1))
        for _ in range(self.num_samples):
            drawn = torch.randn(
                inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device
            )
            yield inputs + spread * drawn, 1 / self.num_samples


@dataclass(frozen=True)
class IntegratedGradients:
    """The mean gradient on the straight way from a baseline to the input.

    Multiplied by the input's difference to the baseline, it adds up to the difference that the
    way makes to the score (completeness), but for the error of the sum.

    Attributes:
        num_steps: Points on the way, at the places of Gauss and Legendre.
        baseline: What stands for "no signal": 0 is the mean where inputs are normalised.

    References:
        Sundararajan et al. 2017, "Axiomatic attribution for deep networks".
    """

    num_steps: int = 50
    baseline: float = 0.0

    def points(self, inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yields the points of the way, from the baseline on."""
        places, weights = np.polynomial.legendre.leggauss(self.num_steps)
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            share = (1 + place) / 2
            yield self.baseline + share * (inputs - self.baseline), weight / 2


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        estimator: None where no gradient of the input is needed (Grad-CAM).
        rule: How gradients pass a ReLU.
        times_input: Multiply by the input (or its difference to the estimator's baseline): then
            values have a sign that says for or against, and add up to the score.
        uses_layer: Weigh by Grad-CAM's map of a layer.
    """

    estimator: Estimator | None
    rule: ReluRule = "gradient"
    times_input: bool = False
    uses_layer: bool = False

    @property
    def is_signed(self) -> bool:
        """Whether the sign of a value says whether it speaks for the score or against it."""
        return self.times_input


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gradient": Method(Gradient()),
        "guided_backprop": Method(Gradient(), rule="guided"),
        "deconvnet": Method(Gradient(), rule="deconvnet"),
        "input_x_gradient": Method(Gradient(), times_input=True),
        "smoothgrad": Method(SmoothGrad()),
        "integrated_gradients": Method(IntegratedGradients(), times_input=True),
        "grad_cam": Method(None, uses_layer=True),
        "guided_grad_cam": Method(Gradient(), rule="guided", uses_layer=True),
    }
)


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What a method gives to each value of the input.

    Attributes:
        values: In the shape of the inputs, without graph; of Grad-CAM one channel.
        num_relus: Calls of a ReLU in one forward pass that the rule was applied to; None for
            the gradient's own rule.
        left_out: By kind, calls of other nonlinearities on the way, which the rule leaves alone.
        completeness_error: (samples,) |sum of the values - difference of the scores| over the
            latter, for integrated gradients; above 0.05 take more steps.
        without_gradient: (samples,) the share of the positions of Grad-CAM's layer that the
            score does not depend on, to first order.
    """

    values: Tensor
    num_relus: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    completeness_error: Tensor | None = None
    without_gradient: Tensor | None = None


def attribute(
    method: str | Method,
    score: Score,
    inputs: Tensor,
    *,
    layer_gradient: LayerGradient | None = None,
    max_rows: int | None = None,
) -> Attribution:
    """Returns what each value of the inputs contributes to the score, as a method sees it.

    Args:
        method: A name of `METHODS`, or one put together from a rule and an estimator.
        score: Inputs to (samples,), unnormalised; the model in evaluation mode.
        inputs: (samples, ...), floating point.
        layer_gradient: For Grad-CAM: inputs to a layer's activation and the score's gradient
            there.
        max_rows: Samples, copies counted, in one pass; at least one copy of all samples runs.
            None bounds it by their size.

    Raises:
        TypeError: The inputs are no floating point numbers.
        ValueError: There is no such method, or it needs ``layer_gradient``.
        MethodUnsuitedError: It needs ReLUs and none was called, or a layer with the inputs'
            axes; or the score does not depend on the inputs.

    References:
        Simonyan et al. 2014, "Deep inside convolutional networks"; Selvaraju et al. 2017,
        "Grad-CAM"; and those of the estimators and rules.
    """
    chosen = named_method(method) if isinstance(method, str) else method
    if not inputs.is_floating_point():
        raise TypeError(
            f"the inputs are {inputs.dtype}, and no gradient can be taken there. Give the "
            "floating point numbers that the network sees (input_fn=... for a monitor)."
        )
    if chosen.uses_layer and layer_gradient is None:
        raise ValueError("Grad-CAM needs layer_gradient=inputs -> (activation, gradient).")
    return despite_overwriting(
        lambda: _attribution(chosen, score, inputs.detach(), layer_gradient, max_rows)
    )


def named_method(name: str) -> Method:
    """Returns the method of this name. Raises ValueError where there is none."""
    if name not in METHODS:
        raise ValueError(f'there is no method "{name}". Use {", ".join(METHODS)}.')
    return METHODS[name]


def mean_gradient(
    score: Score,
    inputs: Tensor,
    points: Iterable[tuple[Tensor, float]],
    *,
    max_rows: int | None = None,
) -> tuple[Tensor, int]:
    """Returns the weighted sum of the score's gradients at some points, and the passes it took.

    Args:
        score: Inputs to (samples,).
        inputs: (samples, ...), which the points resemble.
        points: With their weights.
        max_rows: As in `attribute`.

    Raises:
        NoGradientError: The score does not depend on the inputs.
        ValueError: The score is not one number for each sample.
    """
    rows = _MAX_VALUES // max(1, inputs[0].numel()) if max_rows is None else max_rows
    copies = max(1, rows // len(inputs))
    total, num_passes = torch.zeros_like(inputs), 0
    remaining = iter(points)
    while group := list(islice(remaining, copies)):
        stacked = torch.cat([point for point, _ in group]).requires_grad_()
        scores = score(stacked.clone())  # which the network may overwrite
        if scores.shape != stacked.shape[:1]:
            raise ValueError(
                f"the score of {len(stacked)} samples has shape {tuple(scores.shape)}. Return one "
                "number for each sample, (samples,)."
            )
        # (copies, samples): all that came before is positive, so rules see the same signs.
        weights = scores.new_tensor([weight for _, weight in group]).unsqueeze(1)
        weighted = scores.view(len(group), -1) * weights
        gradient = None
        if scores.requires_grad:
            (gradient,) = torch.autograd.grad(weighted.sum(), stacked, allow_unused=True)
        if gradient is None:
            raise NoGradientError(
                "the score does not depend on the inputs by anything that can be differentiated: "
                "the model's forward detaches them, or a part of it runs under torch.no_grad()."
            )
        total += gradient.view(len(group), *inputs.shape).sum(0)
        num_passes += 1
    return total, num_passes


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Returns Grad-CAM's map (samples, *positions): where units that raise the score fire.

    Each unit is weighed by its mean gradient over the positions; what is below 0 is cut off.

    Args:
        activation: (samples, units, *positions) of the last layer that still has positions.
        gradient: Of the score with respect to it.

    Raises:
        ValueError: The layer has no positions.
    """
    if activation.dim() < 3:
        raise MethodUnsuitedError(
            f"Grad-CAM's layer has the activation {tuple(activation.shape)}, without positions. "
            "Use a layer (samples, channels, height, width)."
        )
    weights = gradient.flatten(2).mean(2)  # (samples, units)
    return torch.einsum("nu,nu...->n...", weights, activation).clamp(min=0)


def upsampled(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Returns (samples, *positions) as (samples, 1, *size), linear between positions.

    Tokens of an image are laid out as the square patches that it was cut in (`token_grid`).

    Raises:
        MethodUnsuitedError: The maps have other axes than the size, or no such grid.
    """
    if maps.dim() == 2 and len(size) == 2 and (grid := token_grid(maps.shape[1], size)):
        maps = on_grid(maps, grid)
    if maps.dim() != len(size) + 1 or len(size) not in _INTERPOLATIONS:
        raise MethodUnsuitedError(
            f"a map of positions {tuple(maps.shape[1:])} cannot be laid over inputs of size "
            f"{size}. Grad-CAM needs inputs (samples, channels, *positions), and a layer that "
            "has as many axes, or tokens of square patches."
        )
    mode = _INTERPOLATIONS[len(size)]
    return F.interpolate(maps.unsqueeze(1), size=size, mode=mode, align_corners=False)


_INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _attribution(
    method: Method,
    score: Score,
    inputs: Tensor,
    layer_gradient: LayerGradient | None,
    max_rows: int | None,
) -> Attribution:
    """Returns what a method gives to the inputs, which carry no graph."""
    values, used = inputs.new_ones(()), RuleInUse()
    if method.estimator is not None:
        values, used = _of_input(method, method.estimator, score, inputs, max_rows)
    error = without_gradient = None
    if layer_gradient is not None and method.uses_layer:
        leaf = inputs.clone().requires_grad_()
        activation, gradient = layer_gradient(leaf.clone())
        values = values * _laid_over(grad_cam(activation, gradient), inputs).to(inputs.dtype)
        without_gradient = (gradient == 0).all(1).flatten(1).float().mean(1)
    if isinstance(method.estimator, IntegratedGradients) and method.times_input:
        error = _completeness_error(score, inputs, values, method.estimator.baseline)
    return Attribution(
        values=values,
        num_relus=None if method.rule == "gradient" else used.num_relus,
        left_out=used.left_out,
        completeness_error=error,
        without_gradient=without_gradient,
    )


def _laid_over(cam: Tensor, inputs: Tensor) -> Tensor:
    """Returns Grad-CAM's map in the size of the inputs, with one channel if these have some."""
    if cam.dim() == inputs.dim():
        return upsampled(cam, tuple(inputs.shape[1:])).squeeze(1)
    return upsampled(cam, tuple(inputs.shape[2:]))


def _of_input(
    method: Method, estimator: Estimator, score: Score, inputs: Tensor, max_rows: int | None
) -> tuple[Tensor, RuleInUse]:
    """Returns the attribution to the input, and what its rule met in one pass."""
    with relu_rule(method.rule) as used:
        points = estimator.points(inputs)
        values, num_passes = mean_gradient(score, inputs, points, max_rows=max_rows)
    if method.rule != "gradient" and not used.num_relus:
        kinds = f" ({', '.join(sorted(used.left_out))} were)" if used.left_out else ""
        raise MethodUnsuitedError(
            f'the rule "{method.rule}" says how a gradient passes a ReLU, and no ReLU was called '
            f'on the way to this score{kinds}. Use the method "gradient", which suits every '
            "network."
        )
    if method.times_input:
        values = values * (inputs - estimator.baseline)
    return values, used.per_pass(num_passes)


def _completeness_error(score: Score, inputs: Tensor, values: Tensor, baseline: float) -> Tensor:
    with torch.no_grad():
        ends = score(torch.cat([inputs, torch.full_like(inputs, baseline)]))
    difference = ends[: len(inputs)] - ends[len(inputs) :]
    return (values.flatten(1).sum(1) - difference).abs() / difference.abs()
