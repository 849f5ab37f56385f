"""What `SaliencyMonitor` asks of the network, and what a method answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks.engine.score_functions import layer_gradient
from vis_callbacks.engine.scores import at_least_float32
from vis_callbacks.engine.top_layer import WeightedCalls
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import attribute, rank_correlation, saliency_maps

if TYPE_CHECKING:
    from vis_callbacks.engine.cam_layer import CamLayer
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.score_functions import Score
    from vis_callbacks.monitors.saliency.science import Attribution

Rows = Tensor | slice  # some of the samples


@dataclass(frozen=True)
class Question:
    """What is explained on each reference sample.

    Attributes:
        column: Its title: "label", "predicted", "class 3", "output 3" or "unit".
        score: Indices of some of the samples -> the function that is differentiated.
        indices: (samples,) of the classes or outputs; -1 where a unit is explained.
        values: (samples,) the class's probability, or the output's or the unit's value.
        note: What must be said about the choice.
        num_classes: Of the scores; 0 where they are not known to be of classes.
    """

    column: str
    score: Callable[[Tensor], Score]
    indices: Tensor
    values: Tensor
    note: str = ""
    num_classes: int = 0

    @property
    def are_classes(self) -> Tensor:
        """Whether the outputs are known to be scores of classes, on the device."""
        return torch.full((), self.num_classes > 0, device=self.indices.device)


@dataclass(frozen=True)
class Answer:
    """What one method says to the questions."""

    method: str
    questions: Sequence[Question]
    maps: Sequence[Tensor]  # for each question (samples, height, width)
    first: Attribution  # to the first question
    cam_layer: CamLayer | None


def answer_to(
    method: str,
    questions: Sequence[Question],
    forward: IsolatedForward,
    inputs: Tensor,
    cam_layer: CamLayer | None = None,
) -> Answer:
    """Asks a method; of later questions only what differs from the first one is computed."""
    first = _attribution(method, questions[0], forward, inputs, cam_layer)
    maps = [_maps(method, first)]
    for question in questions[1:]:
        others = (question.indices != questions[0].indices).nonzero().squeeze(1)
        both = maps[0].clone()
        if len(others):
            found = _attribution(method, question, forward, inputs, cam_layer, others)
            both[others] = _maps(method, found)
        maps.append(both)
    return Answer(method, questions, maps, first, cam_layer)


def sanity_score(answer: Answer, forward: IsolatedForward, inputs: Tensor) -> Tensor:
    """Returns (samples,) how much the first maps are like those with a random top layer.

    Raises:
        ValueError: There is no layer with weights.
    """
    with torch.no_grad(), WeightedCalls() as calls:
        forward(inputs[:1])
    if not calls.count:
        raise ValueError(
            "the forward pass calls no linear layer and no convolution, so there is no top layer "
            "to randomise. Leave the sanity check off."
        )
    with WeightedCalls(calls.count):
        other = _attribution(answer.method, answer.questions[0], forward, inputs, answer.cam_layer)
    return rank_correlation(answer.maps[0], _maps(answer.method, other))


def _attribution(
    method: str,
    question: Question,
    forward: IsolatedForward,
    inputs: Tensor,
    layer: CamLayer | None,
    rows: Rows = slice(None),
) -> Attribution:
    score = question.score(question.indices[rows])
    at_layer = None if layer is None else layer_gradient(forward, score, layer.name, layer.grid)
    return attribute(method, score, inputs[rows], layer_gradient=at_layer)


def _maps(method: str, attribution: Attribution) -> Tensor:
    is_signed = METHODS[method].times_input
    return saliency_maps(at_least_float32(attribution.values), is_signed=is_signed)
