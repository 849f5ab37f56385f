"""The score of a class or a unit as a function of the inputs that can be differentiated.

Who differentiates needs to know neither the model nor how it is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from vis_callbacks.engine.capture import Capture, CapturedActivation
from vis_callbacks.engine.isolation import IsolatedForward
from vis_callbacks.engine.layers import module_names, no_such_layer
from vis_callbacks.engine.scores import (
    MethodUnsuitedError,
    Positions,
    Unit,
    select_scores,
    value_of_unit,
)
from vis_callbacks.engine.token_grid import on_grid
from vis_callbacks.engine.unit_axis import samples_units_positions

# Inputs (samples, ...) -> scores (samples,). The inputs may be several whole copies of the
# samples, one after the other.
Score = Callable[[Tensor], Tensor]
# Inputs -> (a layer's activation, the score's gradient there), (samples, units, *positions).
LayerGradient = Callable[[Tensor], tuple[Tensor, Tensor]]

T = TypeVar("T")


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


def class_score(
    forward: Callable[[Tensor], Tensor],
    targets: Tensor,
    *,
    read: Callable[[Tensor], Tensor] | None = None,
) -> Score:
    """Returns the function that gives each sample's score of its target, (samples,).

    It is the unnormalised score: the probability also rises when all other classes fall
    (Simonyan et al. 2014). ``read`` makes the model's scores those of classes, see
    `Outputs.class_scores`.
    """

    def score(inputs: Tensor) -> Tensor:
        scores = forward(inputs) if read is None else read(forward(inputs))
        return select_scores(scores, targets.repeat(len(inputs) // len(targets)))

    return score


def unit_score(
    forward: IsolatedForward, unit: Unit, *, positions: Positions = "strongest"
) -> Score:
    """Returns the function that gives how strongly a unit answers to each sample, (samples,).

    The arguments are those of `value_of_unit`. The function raises ValueError where the model
    has no such layer, unit or position.
    """

    def score(inputs: Tensor) -> Tensor:
        _, layers = run_with_layers(forward, inputs, [unit.layer])
        return value_of_unit(layers[unit.layer].values, unit, positions=positions)

    return score


def layer_gradient(
    forward: IsolatedForward, score: Score, layer: str, grid: tuple[int, ...] | None = None
) -> LayerGradient:
    """Returns the function that gives a layer's activation and the score's gradient there.

    Both are (samples, units, *positions), without graph: what Grad-CAM weighs. ``forward`` is
    the forward pass that the score runs. With a ``grid``, the image's tokens lie in its rows and
    columns, and tokens without a place are left out.
    """

    def activation_and_gradient(inputs: Tensor) -> tuple[Tensor, Tensor]:
        with _attached_layers(forward, len(inputs), [layer]) as layers:
            scores = score(inputs)
        seen, gradient = layers[layer], None
        if seen.edge is not None and scores.requires_grad:
            (gradient,) = torch.autograd.grad(scores.sum(), [seen.edge], allow_unused=True)
        if gradient is None:
            raise ValueError(
                "what is explained does not depend on this layer. Use one that lies before it."
            )
        both = seen.values.detach(), seen.arrange(gradient)
        if grid is None or len(grid) < 2 or seen.values.dim() != 3:
            return both
        return on_grid(both[0], grid), on_grid(both[1], grid)

    return activation_and_gradient


def run_with_layers(
    forward: IsolatedForward, inputs: Tensor, layers: Sequence[str]
) -> tuple[object, dict[str, AttachedLayer]]:
    """Returns the model's output and the named layers' activations, all in one graph.

    Layers are named as in `vis_callbacks.summary`. A module that is no nonlinearity can be named
    as well, and ``name-1`` is its second call. Raises ValueError where a layer was not met, and
    MethodUnsuitedError where it is unknown which axis of its output holds the units, or which
    sample its rows belong to.
    """
    with _attached_layers(forward, len(inputs), layers) as kept:
        output = forward.run(inputs)
    return output, kept


def despite_overwriting(run: Callable[[], T]) -> T:
    """Returns what ``run`` returns, also where the network overwrites what a gradient needs.

    In evaluation mode, or where a part is frozen, an in-place call may overwrite what is another
    tensor while training (dropout returns its input then). Networks that do so are run a second
    time, with what is overwritten copied first; all others pay nothing.
    """
    try:
        return run()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        return run()


@contextmanager
def _attached_layers(
    forward: IsolatedForward, num_samples: int, layers: Sequence[str]
) -> Iterator[dict[str, AttachedLayer]]:
    """Keeps the first call of each named layer in the pass that runs inside."""
    met: list[str] = []
    kept: dict[str, AttachedLayer] = {}

    def keep(seen: CapturedActivation) -> None:
        met.append(seen.name)
        if seen.name in layers and seen.name not in kept:
            kept[seen.name] = _attached(seen, num_samples)

    # "relu-1" may be the second call of the module "relu".
    watched = {name for layer in layers for name in (layer, re.sub(r"-\d+$", "", layer))}
    with Capture(forward.module, keep, watched={"output": watched}):
        yield kept
    for layer in layers:
        if layer not in kept:
            names = dict.fromkeys([*met, *module_names(forward.module)])
            if layer in names:
                raise ValueError(f'layer "{layer}" gives no activation in this forward pass.')
            raise ValueError(no_such_layer(layer, names, option="layer"))


def _attached(seen: CapturedActivation, num_samples: int) -> AttachedLayer:
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
                "it is unknown which sample a row belongs to (an expert sees some tokens only)."
            )
        edge = get_gradient_edge(values) if values.requires_grad else None
        return AttachedLayer(arranged, edge, arrange)


def _arranged(values: Tensor, *, unit_axis: int, num_samples: int) -> Tensor:
    """Returns (samples, units, *positions); positions are one axis where rows are no samples."""
    if values.shape[0] == num_samples:
        return values.movedim(unit_axis, 1)
    return samples_units_positions(values, unit_axis, num_samples)
