"""The methods of saliency, in one table: `METHODS`.

To add a method, add an entry: at which points gradients are taken, by which rule they pass a
ReLU, whether they are multiplied by the input, whether Grad-CAM's map of a layer weighs them, and
what the caption says. All else (options, tags, pictures, tests of every method) follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.monitors.saliency.relu_rules import ReluRule

# Inputs -> tensors like them, each with its weight; the weights sum to 1.
Points = Callable[[Tensor], Iterator[tuple[Tensor, float]]]


def at_the_input(inputs: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Yields the inputs themselves."""
    yield inputs, 1.0


def noisy_copies(
    inputs: Tensor, *, num_copies: int = 25, noise: float = 0.15
) -> Iterator[tuple[Tensor, float]]:
    """Yields noisy copies of the inputs.

    The noise is the same at each call, so that two maps differ only because the network does.
    Its standard deviation is a share of each input's range (largest minus smallest value): 0.1 to
    0.2 in the paper, which finds little gained beyond 50 copies.
    """
    generator = torch.Generator(inputs.device).manual_seed(0)
    flat = inputs.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (inputs.dim() - 1))
    for _ in range(num_copies):  # one by one: it does not matter how many run at once
        drawn = torch.randn(
            inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device
        )
        yield inputs + spread * drawn, 1 / num_copies


def way_from_zero(inputs: Tensor, *, num_steps: int = 50) -> Iterator[tuple[Tensor, float]]:
    """Yields points from 0 ("no signal") to the inputs, at the places of Gauss and Legendre."""
    places, weights = np.polynomial.legendre.leggauss(num_steps)
    for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
        yield (1 + place) / 2 * inputs, weight / 2


@dataclass(frozen=True, kw_only=True)
class Method:
    """An attribution method.

    Attributes:
        points: Where gradients are taken; None where no gradient of the input is needed.
        rule: How gradients pass a ReLU.
        times_input: Multiply by the input: then a value's sign says whether it speaks for the
            score or against it, and the values add up to the score, to first order.
        is_complete: They add up exactly, but for the error of a sum over few points.
        uses_layer: Multiply by Grad-CAM's map of a layer.
        explanation: For the caption, about ``{what}`` (the class's score), the ``{whole}`` (an
            image), a ``{part}`` of it (a pixel), and the ``{layer}``.
    """

    points: Points | None = at_the_input
    rule: ReluRule = "gradient"
    times_input: bool = False
    is_complete: bool = False
    uses_layer: bool = False
    explanation: str = ""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "gradient": Method(  # Simonyan et al. 2014, "Deep inside convolutional networks"
            explanation="gradient: how strongly {what} responds to a small change of each {part}",
        ),
        "guided_backprop": Method(  # Springenberg et al. 2015, "Striving for simplicity"
            rule="guided",
            explanation="guided backpropagation: the gradient with only positive evidence passed "
            "through ReLUs; mostly the {whole}'s edges, whatever the network has learned",
        ),
        "deconvnet": Method(  # Zeiler and Fergus 2014, "Visualizing and understanding CNNs"
            rule="deconvnet",
            explanation="deconvnet: {what} projected back through the ReLUs; mostly the "
            "{whole}'s edges, whatever the network has learned",
        ),
        "input_x_gradient": Method(
            times_input=True,
            explanation="gradient x input: red speaks for {what}, blue against it, to first order",
        ),
        "smoothgrad": Method(  # Smilkov et al. 2017, "Removing noise by adding noise"
            points=noisy_copies,
            explanation="SmoothGrad: the mean gradient of {what} over noisy copies of the {whole}",
        ),
        "integrated_gradients": Method(  # Sundararajan et al. 2017, "Axiomatic attribution"
            points=way_from_zero,
            times_input=True,
            is_complete=True,
            explanation="integrated gradients: red speaks for {what}, blue against it; a map adds "
            "up to the score's difference from an all-zero {whole}",
        ),
        "grad_cam": Method(  # Selvaraju et al. 2017, "Grad-CAM"
            points=None,
            uses_layer=True,
            explanation="Grad-CAM: where the units of the layer {layer} speak for {what}",
        ),
        "guided_grad_cam": Method(
            rule="guided",
            uses_layer=True,
            explanation="guided Grad-CAM: guided backpropagation where the units of the layer "
            "{layer} speak for {what}",
        ),
    }
)


def named_method(name: str) -> Method:
    """Returns the method of this name. Raises ValueError where there is none."""
    if name not in METHODS:
        raise ValueError(f'there is no method "{name}". Use {", ".join(METHODS)}.')
    return METHODS[name]
