"""Which layer Grad-CAM looks at, and how the positions of that layer lie in the image.

A map of a layer explains a score only where all of the score comes through the layer, and only
positions that the score depends on have a say. In a network with branches (Inception) or with
residual sums (transformers) the last nonlinearity fulfils neither: it is one branch, or, before a
class token is read, all of its other tokens have no gradient.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from vis_callbacks.engine.capture import Capture, CapturedActivation
from vis_callbacks.engine.layers import module_names
from vis_callbacks.engine.score_functions import Score, despite_overwriting
from vis_callbacks.engine.scores import MethodUnsuitedError, NoGradientError
from vis_callbacks.engine.token_grid import token_grid
from vis_callbacks.engine.top_layer import WeightedCalls

if TYPE_CHECKING:
    from vis_callbacks.engine.isolation import IsolatedForward


@dataclass(frozen=True)
class CamLayer:
    """Where Grad-CAM looks.

    Attributes:
        name: As in `run_with_layers`.
        grid: How its positions lie in the input; None: as they are.
        is_chosen: By us and not by the user.
        is_final: Another look would find the same; False where no gradient reaches any layer.
    """

    name: str
    grid: tuple[int, ...] | None = None
    is_chosen: bool = False
    is_final: bool = True


def choose_cam_layer(
    forward: IsolatedForward, inputs: Tensor, score: Score, *, before: str | None = None
) -> CamLayer:
    """Returns the last layer that all of a score comes through, from most of its positions.

    It is a nonlinearity, or the output of a module: of an Inception block the concatenation, of a
    transformer's block the residual sum. Where only pooling, normalisation and the like lie
    between two layers, a nonlinearity goes before what follows it, and more positions go before
    fewer. It takes one forward and one backward pass, and the same again with a random top layer
    where no gradient reaches any layer, as before the first update of a head of zeros.

    ``forward`` is what the score runs, ``inputs`` are a few samples, and no layer later than
    ``before``, whose unit is explained, is taken. Raises MethodUnsuitedError where there is none.
    """

    def look(random_call: int = 0) -> tuple[CamLayer, int]:
        survey = _Survey(forward, inputs, score, stop_at=before, random_call=random_call)
        if not survey.root.requires_grad:
            raise NoGradientError
        common = _on_all_paths(survey)
        if not common:
            raise MethodUnsuitedError(
                "no layer with the positions of the input lies on all paths from there to what "
                'is explained. Name the layer for Grad-CAM: cam_layer="..."; '
                "vis_callbacks.summary(model, inputs) lists them."
            )
        return _best(survey.root, common), survey.calls.count

    found, num_weights = despite_overwriting(look)
    if found.is_final or before is not None or not num_weights:
        return found
    return despite_overwriting(lambda: look(num_weights)[0])


def named_cam_layer(forward: IsolatedForward, inputs: Tensor, name: str) -> CamLayer:
    """Returns the layer that the user has named, with the grid of its positions.

    A layer that is not there is returned as well: the pass that reads it says so. Raises
    MethodUnsuitedError where the layer's positions are not those of the input.
    """
    survey = _Survey(forward, inputs, forward.run)
    place = next((place for place in survey.places if place.name == name), None)
    if place is not None and place.grid is None:
        raise MethodUnsuitedError(
            f'cam_layer="{name}" has an activation {place.shape} for {len(inputs)} inputs '
            f"{tuple(inputs.shape[1:])}, and its positions are not those of the input. Use a layer "
            "(samples, channels, *positions) or (samples, tokens, channels)."
        )
    return CamLayer(name, None if place is None else place.grid)


@dataclass(frozen=True)
class _Place:
    """An activation with positions.

    Attributes:
        edge: Where in the graph it lies; None where there is no graph or no known axis of units.
        grid: How its positions lie in the input; None where that is not known.
        num_weights: How many weighted calls came before.
    """

    name: str
    edge: GradientEdge | None
    shape: tuple[int, ...]
    unit_axis: int
    grid: tuple[int, ...] | None
    is_nonlinearity: bool
    num_weights: int


class _Survey:
    """One pass over the inputs, and all its activations with positions.

    Its ``root`` is what ``run`` returned, or the sum of the activation at ``stop_at``.
    """

    def __init__(
        self,
        forward: IsolatedForward,
        inputs: Tensor,
        run: Score,
        *,
        stop_at: str | None = None,
        random_call: int = 0,
    ) -> None:
        self.leaf = inputs.detach().clone().requires_grad_()
        self.places: list[_Place] = []
        self.calls = WeightedCalls(random_call)
        self._stop_at = stop_at
        self._stopped: Tensor | None = None
        names = module_names(forward.module)
        with self.calls, Capture(forward.module, self._note, watched={"output": names}):
            result = run(self.leaf.clone())
        self.root = result if self._stopped is None else self._stopped

    def _note(self, seen: CapturedActivation) -> None:
        if self._stopped is not None:
            return
        with torch.enable_grad():  # the sink runs without
            if seen.values.dim() > 2 and not seen.is_gate:
                self.places.append(self._place(seen))
            if seen.name == self._stop_at:
                self._stopped = seen.attached.sum()

    def _place(self, seen: CapturedActivation) -> _Place:
        shape, values = tuple(seen.values.shape), seen.attached
        positions = [size for axis, size in enumerate(shape) if axis != seen.unit_axis % len(shape)]
        is_readable = values.requires_grad and seen.is_axis_known
        return _Place(
            name=seen.name,
            edge=get_gradient_edge(values) if is_readable else None,
            shape=shape,
            unit_axis=seen.unit_axis,
            grid=self._grid(tuple(positions), seen.unit_axis),
            is_nonlinearity=seen.nonlinearity is not None,
            num_weights=self.calls.count,
        )

    def _grid(self, rows_and_positions: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
        """Returns how positions lie in the input, told by the number of its axes or of tokens."""
        (rows, *positions), (num_samples, *others) = rows_and_positions, self.leaf.shape
        if rows != num_samples:
            return None
        if len(positions) == 1 and len(others) == 3:
            seen = {place.grid: None for place in reversed(self.places) if place.grid}
            return token_grid(positions[0], tuple(others[1:]), seen)
        # A series may have its time first, and an image no axis of channels.
        is_elsewhere = positions[0] == others[0] or positions[0] > others[-1]
        if len(positions) == 1 and len(others) == 2 and axis == -1 and is_elsewhere:
            return None
        has_its_axes = len(positions) in (len(others) - 1, len(others))
        return tuple(positions) if has_its_axes else None


def _on_all_paths(survey: _Survey) -> list[_Place]:
    """Returns the places, with several positions, that every path from score to input passes.

    The paths are counted: those up to a place, times those from there on, are all of them.
    """
    end, start = get_gradient_edge(survey.leaf).node, get_gradient_edge(survey.root.sum()).node
    graph, unvisited = dict[Node, list[Node]](), [start]
    while unvisited:
        node = unvisited.pop()
        if node not in graph:
            graph[node] = [follower for follower, _ in node.next_functions if follower is not None]
            unvisited += graph[node]
    order = list(TopologicalSorter(graph).static_order())  # the input first, the score last
    to_end = Counter[Node]()
    for node in order:
        to_end[node] = int(node is end) + sum(to_end[follower] for follower in graph[node])
    if not to_end[start]:
        raise NoGradientError
    from_start, through = Counter({start: 1}), Counter({(start, 0): 1})
    for node in reversed(order):
        for follower, index in node.next_functions:
            if follower is not None:
                from_start[follower] += from_start[node]
                through[follower, index] += from_start[node]
    return [
        place
        for place in survey.places
        if place.grid is not None
        and math.prod(place.grid) > 1
        and place.edge is not None
        and through[place.edge.node, place.edge.output_nr] * to_end[place.edge.node]
        == to_end[start]
    ]


def _best(root: Tensor, places: Sequence[_Place]) -> CamLayer:
    """Returns the last of the layers where most positions have a say."""
    edges = [place.edge for place in places if place.edge is not None]  # each has one
    gradients = torch.autograd.grad(root.sum(), edges, allow_unused=True)
    shares = [0.0] * len(places)  # of the positions that the score depends on
    for index, (place, gradient) in enumerate(zip(places, gradients, strict=True)):
        if gradient is not None:
            has_some = (gradient.movedim(place.unit_axis, 1).flatten(2) != 0).any(1)
            shares[index] = has_some.float().mean().item()
    largest = max(shares)
    needed = min(0.5, largest)  # where no layer has half of them, the most that there is
    seeing = [p for p, share in zip(places, shares, strict=True) if share >= needed]
    stage = [place for place in seeing if place.num_weights == seeing[-1].num_weights]
    best = max(stage, key=lambda place: (place.is_nonlinearity, math.prod(place.grid or ())))
    return CamLayer(best.name, best.grid, is_chosen=True, is_final=largest > 0)
