"""Scores as functions of the input that can be differentiated: of a class, or of any unit.

What is differentiated is a plain function of the inputs, so that whoever differentiates knows
neither the model nor how it is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from vis_callbacks.analysis.saliency import MethodUnsuitedError
from vis_callbacks.engine.capture import Capture, Seen
from vis_callbacks.engine.isolation import IsolatedForward
from vis_callbacks.engine.layers import module_names, no_such_layer
from vis_callbacks.engine.scores import Unit, find_scores, select_scores, unit_scores
from vis_callbacks.engine.unit_axis import samples_units_positions

Score = Callable[[Tensor], Tensor]
Positions = Literal["strongest", "sum"]


@dataclass(frozen=True)
class AttachedLayer:
    """A layer's activation in a pass that records gradients.

    Attributes:
        values: (samples, units, *positions), a copy with its graph: in-place successors do not
            reach it, and gradients flow through it to the input.
        edge: Where in the graph the activation itself lies, at the moment it was seen.
        arrange: Brings a tensor of the activation's own shape into that of ``values``.
    """

    values: Tensor
    edge: GradientEdge | None
    arrange: Callable[[Tensor], Tensor]

    def gradient(self, scores: Tensor) -> Tensor:
        """Returns the gradient of the sum of ``scores``, in the shape of ``values``.

        Raises:
            ValueError: The scores do not depend on the layer.
        """
        found = None
        if self.edge is not None and scores.requires_grad:
            (found,) = torch.autograd.grad(
                scores.sum(), [self.edge], retain_graph=True, allow_unused=True
            )
        if found is None:
            raise ValueError(
                "what is explained does not depend on this layer. Use one that lies before it."
            )
        return self.arrange(found)


def run_with_layers(
    forward: IsolatedForward, inputs: Tensor, layers: Sequence[str]
) -> tuple[object, dict[str, AttachedLayer]]:
    """Returns the model's output and the named layers' activations, all in one graph.

    Layers are named as in `vis_callbacks.summary`; a module that is no nonlinearity can be
    named as well, and ``name-1`` is its second call.

    Raises:
        ValueError: A layer was not met; the message says what comes nearest.
        MethodUnsuitedError: Of a layer's output nothing tells which axis holds the units, or
            its rows belong to no sample.
    """
    met: list[str] = []
    kept: dict[str, AttachedLayer] = {}

    def keep(seen: Seen) -> None:
        """Keeps the activation of a named layer's first call, and every name."""
        met.append(seen.name)
        if seen.name in layers and seen.name not in kept:
            kept[seen.name] = _attached(seen, len(inputs))

    watched = {name for layer in layers for name in (layer, _called(layer))}
    with Capture(forward.module, keep, watched={"output": watched}):
        output = forward.run(inputs)
    for layer in layers:
        if layer not in kept:
            names = dict.fromkeys([*met, *module_names(forward.module)])
            if layer in names:
                raise ValueError(f'layer "{layer}" gives no activation in this forward pass.')
            raise ValueError(no_such_layer(layer, names, option="layer"))
    return output, kept


def layers_with_maps(forward: IsolatedForward, inputs: Tensor) -> list[str]:
    """Returns the nonlinearities whose units have a map of more than one position.

    Args:
        forward: Runs one of the inputs, without gradients.
        inputs: (samples, ...).
    """
    names: list[str] = []

    def note(seen: Seen) -> None:
        """Keeps the name of a nonlinearity that has a map."""
        per_position = len(seen.values) * seen.values.shape[seen.unit_axis]
        has_map = seen.values.dim() > 2 and seen.values.numel() > per_position
        if seen.nonlinearity is not None and not seen.is_gate and has_map:
            names.append(seen.name)

    with torch.no_grad(), Capture(forward.module, note):
        forward.run(inputs[:1])
    return names


def as_they_are(scores: Tensor) -> Tensor:
    """Returns the scores as the model gives them."""
    return scores


def class_score(
    forward: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    read: Callable[[Tensor], Tensor] = as_they_are,
) -> Score:
    """Returns the function that gives each sample's score of its class, (samples,).

    The unnormalised score: the probability also rises when all other classes fall (Simonyan
    et al. 2014).

    Args:
        forward: Inputs to scores (samples, classes, ...); several positions are averaged.
        targets: (samples,) int64. Inputs may be several whole copies of the samples.
        read: The model's scores to those of classes, such as `Outputs.class_scores`.
    """

    def score(inputs: Tensor) -> Tensor:
        return select_scores(read(forward(inputs)), targets.repeat(len(inputs) // len(targets)))

    return score


def unit_score(
    forward: IsolatedForward, unit: Unit, *, positions: Positions = "strongest"
) -> Score:
    """Returns the function that gives how strongly a unit answers to each sample, (samples,).

    Its gradient is what one gets by setting the layer's gradient to 0 but for a 1 at the unit.

    Args:
        forward: Alive for as long as the function is used.
        unit: Where its ``position`` is given, that neuron alone.
        positions: Otherwise, the unit's strongest position (what made it fire) or the sum
            over all of them.

    Raises:
        ValueError: When it is called: no such layer, index or position.
    """

    def score(inputs: Tensor) -> Tensor:
        _, layers = run_with_layers(forward, inputs, [unit.layer])
        return value_of_unit(layers[unit.layer].values, unit, positions=positions)

    return score


def value_of_unit(activation: Tensor, unit: Unit, *, positions: Positions = "strongest") -> Tensor:
    """Returns the unit's value for each sample, (samples,); see `unit_score`.

    Raises:
        ValueError: No such index or position.
    """
    unit.check({unit.layer: activation.shape[1]})
    if positions == "sum" and unit.position is None and activation.dim() > 2:
        return activation.select(1, unit.index).flatten(1).sum(1)
    return unit_scores(activation, unit)


def class_layer_gradient(
    forward: IsolatedForward,
    targets: Tensor,
    layer: str,
    *,
    read: Callable[[Tensor], Tensor] = as_they_are,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Returns the function that gives a layer's activation and the class score's gradient there.

    Both are (samples, units, *positions), without graph: what Grad-CAM weighs. ``read`` is that
    of `class_score`.
    """

    def activation_and_gradient(inputs: Tensor) -> tuple[Tensor, Tensor]:
        output, layers = run_with_layers(forward, inputs, [layer])
        scores = select_scores(read(find_scores(output, len(inputs))), targets)
        return layers[layer].values.detach(), layers[layer].gradient(scores)

    return activation_and_gradient


def unit_layer_gradient(
    forward: IsolatedForward, unit: Unit, layer: str, *, positions: Positions = "strongest"
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Returns the same as `class_layer_gradient` for a unit that lies behind the layer."""

    def activation_and_gradient(inputs: Tensor) -> tuple[Tensor, Tensor]:
        names = list(dict.fromkeys([layer, unit.layer]))
        _, layers = run_with_layers(forward, inputs, names)
        value = value_of_unit(layers[unit.layer].values, unit, positions=positions)
        return layers[layer].values.detach(), layers[layer].gradient(value)

    return activation_and_gradient


def _called(layer: str) -> str:
    """Returns the name of the module of which ``layer`` may be a further call, ``name-1``."""
    return re.sub(r"-\d+$", "", layer)


def _attached(seen: Seen, num_samples: int) -> AttachedLayer:
    if not seen.is_axis_known:
        raise MethodUnsuitedError(
            f'layer "{seen.name}" gives {tuple(seen.values.shape)}, and what it multiplies with '
            "does not tell whether its units are the second axis or the last. Use a nonlinearity, "
            "a convolution or a linear layer of it."
        )
    arrange = partial(_arranged, unit_axis=seen.unit_axis, num_samples=num_samples)
    values = seen.attached
    with torch.enable_grad():  # the sink runs without
        arranged = arrange(values).clone()
        if len(arranged) != num_samples:
            raise MethodUnsuitedError(
                f'layer "{seen.name}" gives {len(arranged)} rows for {num_samples} samples, and '
                "none of them can be told to be a sample's (an expert sees some tokens only)."
            )
        edge = get_gradient_edge(values) if values.requires_grad else None
        return AttachedLayer(arranged, edge, arrange)


def _arranged(values: Tensor, *, unit_axis: int, num_samples: int) -> Tensor:
    """Returns (samples, units, *positions); positions are one axis where rows are no samples."""
    if values.shape[0] == num_samples:
        return values.movedim(unit_axis, 1)
    return samples_units_positions(values, unit_axis, num_samples)
