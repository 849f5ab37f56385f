"""Which layer Grad-CAM looks at, and how the positions of that layer lie in the image.

A map of a layer explains a score only where all of the score comes through the layer, and only
positions that the score depends on have a say. In a network with branches (Inception) or with
residual sums (transformers) the last nonlinearity is neither: it is one branch, or, before a
class token is read, all of its other tokens have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from vis_callbacks.analysis.overwriting import despite_overwriting
from vis_callbacks.analysis.saliency import MethodUnsuitedError, NoGradientError
from vis_callbacks.analysis.sanity import WeightedCalls
from vis_callbacks.analysis.token_grid import token_grid
from vis_callbacks.engine.capture import Capture, Seen, Site
from vis_callbacks.engine.layers import module_names
from vis_callbacks.engine.scores import find_scores

if TYPE_CHECKING:
    from vis_callbacks.engine.isolation import IsolatedForward

_MAX_SAMPLES = 2  # not one: a model may squeeze it away


_NO_PATH = (
    "what is explained does not depend on the inputs by anything that can be differentiated: the "
    "model's forward detaches them, or a part of it runs under torch.no_grad()."
)


@dataclass(frozen=True)
class CamLayer:
    """Where Grad-CAM looks.

    Attributes:
        name: As in `run_with_layers`.
        grid: How its positions lie in the input; None: as they are.
        is_chosen: Not by the user.
        is_final: Another look would find the same; False where no gradient reaches any layer.
    """

    name: str
    grid: tuple[int, ...] | None = None
    is_chosen: bool = False
    is_final: bool = True


def choose_cam_layer(
    forward: IsolatedForward,
    inputs: Tensor,
    score: Callable[[Tensor], Tensor],
    *,
    before: str | None = None,
) -> CamLayer:
    """Returns the last layer that all of a score comes through, from most of its positions.

    It is a nonlinearity, or the output of a module: of an Inception block the concatenation,
    of a transformer's block the residual sum. Where only pooling, normalisation and the like
    lie between, a nonlinearity goes before what follows it, and more positions go before
    fewer. One forward and one backward pass of two samples; and the same again with a random top
    layer where no gradient reaches any layer, as before the first update of a head of zeros.

    Args:
        forward: Runs the inputs, recording gradients.
        inputs: (samples, channels, *positions).
        score: The model's scores to (samples,).
        before: Up to and with this layer, whose units are what is explained.

    Raises:
        MethodUnsuitedError: There is none.
    """

    def look(random_call: int = 0) -> tuple[CamLayer, int]:
        survey = _Survey(forward, inputs, stop_at=before, random_call=random_call)
        root = survey.stopped if before else score(find_scores(survey.output, len(survey.leaf)))
        places = [place for place in survey.places if place.is_usable]
        if root is None or not root.requires_grad:
            raise NoGradientError(_NO_PATH)
        common = _on_all_paths(root, survey.leaf, places)
        if not common:
            raise MethodUnsuitedError(
                "no layer with the positions of the input lies on all paths from there to what "
                'is explained. Name the one that Grad-CAM is to look at: cam_layer="..."; '
                "vis_callbacks.summary(model, inputs) lists them."
            )
        return _best(common, _shares_with_gradient(root, common)), survey.num_weights

    found, num_weights = despite_overwriting(look)
    if found.is_final or before is not None or not num_weights:
        return found
    return despite_overwriting(lambda: look(num_weights)[0])


def named_cam_layer(forward: IsolatedForward, inputs: Tensor, name: str) -> CamLayer:
    """Returns the layer that the user has named, with the grid of its positions.

    Raises:
        MethodUnsuitedError: Its positions are none of the input.
    """
    for place in _Survey(forward, inputs).places:
        if place.name == name and place.grid is None:
            raise MethodUnsuitedError(
                f'cam_layer="{name}" has an activation {place.shape} for '
                f"{min(len(inputs), _MAX_SAMPLES)} inputs {tuple(inputs.shape[1:])}, whose "
                "positions are none of the input. Use a layer (samples, channels, *positions) or "
                "(samples, tokens, channels)."
            )
        if place.name == name:
            return CamLayer(name, place.grid)
    return CamLayer(name)  # which is not there, or has no positions: it will be said when read


@dataclass(frozen=True)
class _Place:
    """An activation with positions.

    Attributes:
        edge: Where in the graph it lies.
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
    is_axis_known: bool

    @property
    def is_usable(self) -> bool:
        """Whether a map can be made of it."""
        has_positions = self.grid is not None and math.prod(self.grid) > 1
        return has_positions and self.edge is not None and self.is_axis_known


class _Survey:
    """One pass over the first samples, and all its activations with positions."""

    def __init__(
        self,
        forward: IsolatedForward,
        inputs: Tensor,
        *,
        stop_at: str | None = None,
        random_call: int = 0,
    ) -> None:
        self.leaf = inputs[:_MAX_SAMPLES].detach().clone().requires_grad_()
        self.places: list[_Place] = []
        self.stopped: Tensor | None = None  # the sum of the activation at ``stop_at``
        self._stop_at = stop_at
        self._calls = WeightedCalls(random_call)
        watched: dict[Site, list[str]] = {"output": module_names(forward.module)}
        with ExitStack() as stack:
            stack.enter_context(self._calls)
            stack.enter_context(Capture(forward.module, self._note, watched=watched))
            self.output: Any = forward.run(self.leaf.clone())

    @property
    def num_weights(self) -> int:
        """How many weighted calls were made so far."""
        return self._calls.count

    def _note(self, seen: Seen) -> None:
        if self.stopped is not None:
            return
        if seen.values.dim() > 2 and not seen.is_gate:
            self.places.append(self._place(seen))
        if seen.name == self._stop_at:
            with torch.enable_grad():  # the sink runs without
                self.stopped = seen.attached.sum()

    def _place(self, seen: Seen) -> _Place:
        shape, values = tuple(seen.values.shape), seen.attached
        positions = [size for axis, size in enumerate(shape) if axis != seen.unit_axis % len(shape)]
        with torch.enable_grad():
            edge = get_gradient_edge(values) if values.requires_grad else None
        return _Place(
            name=seen.name,
            edge=edge,
            shape=shape,
            unit_axis=seen.unit_axis,
            grid=self._grid(tuple(positions), seen.unit_axis),
            is_nonlinearity=seen.nonlinearity is not None,
            num_weights=self.num_weights,
            is_axis_known=seen.is_axis_known,
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


def _on_all_paths(root: Tensor, leaf: Tensor, places: Sequence[_Place]) -> list[_Place]:
    """Returns the places that every path from the score to the input passes.

    The paths are counted: those up to a place, times those from there on, are all of them.

    Raises:
        NoGradientError: There is no path.
    """
    end, start = get_gradient_edge(leaf).node, get_gradient_edge(root.sum()).node
    order = _from_the_score_on(start)
    to_end: dict[Node, int] = {}
    for node in reversed(order):
        followers = (follower for follower, _ in node.next_functions if follower is not None)
        to_end[node] = int(node is end) + sum(to_end[follower] for follower in followers)
    from_start: dict[Node, int] = dict.fromkeys(order, 0) | {start: 1}
    through: dict[tuple[Node, int], int] = {(start, 0): 1}
    for node in order:
        for follower, index in node.next_functions:
            if follower is not None:
                from_start[follower] += from_start[node]
                key = (follower, index)
                through[key] = through.get(key, 0) + from_start[node]
    if not (all_paths := to_end[start]):
        raise NoGradientError(_NO_PATH)
    return [
        place
        for place in places
        if place.edge is not None
        and through.get((place.edge.node, place.edge.output_nr), 0) * to_end.get(place.edge.node, 0)
        == all_paths
    ]


def _from_the_score_on(start: Node) -> list[Node]:
    """Returns all nodes that the score depends on, each before those that it was made of."""
    found: list[Node] = []
    is_known = {start}
    stack = [(start, iter(start.next_functions))]
    while stack:
        node, followers = stack[-1]
        follower = next((f for f, _ in followers if f is not None and f not in is_known), None)
        if follower is None:
            found.append(node)
            stack.pop()
        else:
            is_known.add(follower)
            stack.append((follower, iter(follower.next_functions)))
    return found[::-1]


def _shares_with_gradient(root: Tensor, places: Iterable[_Place]) -> Mapping[str, float]:
    """Returns by name the share of the positions that the score depends on."""
    edges = {place.name: (place.edge, place.unit_axis) for place in places}
    gradients = torch.autograd.grad(
        root.sum(), [edge for edge, _ in edges.values() if edge is not None], allow_unused=True
    )
    shares = {}
    for (name, (_, axis)), gradient in zip(edges.items(), gradients, strict=True):
        if gradient is not None:
            has_some = (gradient.movedim(axis, 1).flatten(2) != 0).any(1)
            shares[name] = has_some.float().mean().item()
    return shares


def _best(places: Sequence[_Place], shares: Mapping[str, float]) -> CamLayer:
    """Returns the last of the layers that most positions have a say at."""
    largest = max(shares.values(), default=0.0)
    needed = min(0.5, largest)  # where no layer has half of them, the most that there is
    seeing = [place for place in places if shares.get(place.name, 0.0) >= needed]
    stage = [place for place in seeing if place.num_weights == seeing[-1].num_weights]
    best = max(stage, key=lambda place: (place.is_nonlinearity, math.prod(place.grid or ())))
    return CamLayer(best.name, best.grid, is_chosen=True, is_final=largest > 0)
