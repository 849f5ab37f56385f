"""What `SaliencyMonitor` asks of the network, and what a method answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vis_callbacks.analysis.saliency import METHODS, attribute
from vis_callbacks.analysis.saliency_maps import rank_correlation, saliency_maps
from vis_callbacks.analysis.sanity import count_weighted_calls, random_top_layer
from vis_callbacks.analysis.token_grid import on_grid
from vis_callbacks.engine.cam_layer import CamLayer
from vis_callbacks.engine.score_functions import (
    Positions,
    as_they_are,
    class_layer_gradient,
    class_score,
    unit_layer_gradient,
    unit_score,
)
from vis_callbacks.engine.scores import at_least_float32

if TYPE_CHECKING:
    from vis_callbacks.analysis.saliency import Attribution, LayerGradient, Score
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.scores import Unit

_ALL = slice(None)


@dataclass(frozen=True)
class Question:
    """What is explained on each reference sample.

    Attributes:
        column: "label", "predicted", "class 3", "output 3" or "unit".
        classes: (samples,) of the outputs; -1 where a unit is explained.
        values: (samples,) the class's probability, or the output's or the unit's value.
        note: What must be said about the choice.
        num_classes: Of the scores; 0 where they are not known to be of classes.
        read: The model's scores to those of classes; see `class_score`.
    """

    forward: IsolatedForward
    column: str
    classes: Tensor
    values: Tensor
    note: str = ""
    num_classes: int = 0
    unit: Unit | None = None
    positions: Positions = "strongest"
    read: Callable[[Tensor], Tensor] = as_they_are

    def score(self, rows: Tensor | slice) -> Score:
        """Returns the function that is differentiated, for some of the samples."""
        if self.unit is None:
            return class_score(self.forward, self.classes[rows], read=self.read)
        return unit_score(self.forward, self.unit, positions=self.positions)

    def layer_gradient(self, layer: CamLayer | None, rows: Tensor | slice) -> LayerGradient | None:
        """Returns what Grad-CAM weighs, for some of the samples; None without a layer."""
        if layer is None:
            return None
        if self.unit is None:
            found = class_layer_gradient(
                self.forward, self.classes[rows], layer.name, read=self.read
            )
        else:
            found = unit_layer_gradient(
                self.forward, self.unit, layer.name, positions=self.positions
            )
        return _laid_out(found, layer.grid)

    def attribution(
        self, method: str, inputs: Tensor, layer: CamLayer | None, rows: Tensor | slice
    ) -> Attribution:
        """Returns what the method gives to the inputs of some of the samples."""
        gradient = self.layer_gradient(layer, rows)
        return attribute(method, self.score(rows), inputs[rows], layer_gradient=gradient)


@dataclass(frozen=True)
class Answer:
    """What one method says to the questions.

    Attributes:
        maps: For each question (samples, height, width).
        first: The attribution that the first question's maps were made of.
    """

    method: str
    questions: Sequence[Question]
    maps: Sequence[Tensor]
    first: Attribution
    cam_layer: CamLayer | None

    def sanity(self, inputs: Tensor) -> Tensor:
        """Returns (samples,) how alike the first maps are with a random top layer."""
        question = self.questions[0]
        num_calls = count_weighted_calls(lambda: question.forward(inputs[:1]))
        with random_top_layer(num_calls):
            other = question.attribution(self.method, inputs, self.cam_layer, _ALL)
        return rank_correlation(self.maps[0], _maps(self.method, other))


def answer_to(
    method: str, questions: Sequence[Question], inputs: Tensor, cam_layer: CamLayer | None
) -> Answer:
    """Asks a method; of later questions only what differs from the first one is computed."""
    layer = cam_layer if METHODS[method].uses_layer else None
    first = questions[0].attribution(method, inputs, layer, _ALL)
    maps = [_maps(method, first)]
    for question in questions[1:]:
        others = (question.classes != questions[0].classes).nonzero().squeeze(1)
        both = maps[0].clone()
        if len(others):
            both[others] = _maps(method, question.attribution(method, inputs, layer, others))
        maps.append(both)
    return Answer(method, questions, maps, first, layer)


def _laid_out(layer_gradient: LayerGradient, grid: tuple[int, ...] | None) -> LayerGradient:
    """Returns the function that gives tokens at their places; others have no say."""
    if grid is None or len(grid) < 2:
        return layer_gradient

    def activation_and_gradient(inputs: Tensor) -> tuple[Tensor, Tensor]:
        activation, gradient = layer_gradient(inputs)
        if activation.dim() == 3:
            return on_grid(activation, grid), on_grid(gradient, grid)
        return activation, gradient

    return activation_and_gradient


def _maps(method: str, attribution: Attribution) -> Tensor:
    values = at_least_float32(attribution.values)
    return saliency_maps(values, is_signed=METHODS[method].is_signed)
