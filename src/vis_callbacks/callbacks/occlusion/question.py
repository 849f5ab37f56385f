"""What is asked of the network while a part of an image is hidden."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks.engine.capture import Capture, Seen
from vis_callbacks.engine.engine import samples_units_positions
from vis_callbacks.engine.score_functions import run_with_layers
from vis_callbacks.engine.scores import (
    MethodUnsuitedError,
    Target,
    Targets,
    at_least_float32,
    find_scores,
    resolve_targets,
    select_scores,
)

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputLayout
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.outputs import Outputs


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the network with the square at a position.

    Attributes:
        forward: Runs the network.
        layout: How the inputs lie in what is hidden.
        outputs: What is known of the network's outputs.
        is_share: Whether probabilities are asked for, and not the values of outputs.
        targets: The class or output explained, one for each image.
        num_outputs: How many classes or outputs there are.
        layer: Whose map is followed; None where none has maps.
        strongest: (images,) index of the map that is strongest without a square.
    """

    forward: IsolatedForward
    layout: InputLayout
    outputs: Outputs
    is_share: bool
    targets: Targets
    num_outputs: int
    layer: str | None
    strongest: Tensor

    def measure(self, images: Tensor, owners: Tensor) -> Tensor:
        """Returns probability or value, highest output and, where there are maps, activity."""
        inputs = self.layout.restored(images)
        sums: dict[str, Tensor] = {}
        if self.layer is None:
            scores = self.forward(inputs)
        else:
            scores, sums = _look(self.forward, inputs, self.layer)
        rows = self.outputs.probabilities(scores) if self.is_share else scores
        own = select_scores(rows, self.targets.indices[owners])
        per_output = rows.flatten(2).mean(2) if rows.dim() > 2 else rows
        highest = torch.where(per_output.isfinite().all(1), per_output.argmax(1), -1)
        columns = [own, highest.to(own.dtype)]
        if self.layer is not None:
            followed = torch.full_like(own, torch.nan)
            if self.layer in sums:  # what is hidden may send an image elsewhere
                followed = sums[self.layer].gather(1, self.strongest[owners, None])[:, 0]
            columns.append(followed.to(own.dtype))
        return torch.stack(columns, dim=1)


@torch.no_grad()
def ask(
    forward: IsolatedForward,
    layout: InputLayout,
    images: Tensor,
    labels: Tensor | None,
    outputs: Outputs,
    *,
    target: Target,
    layer: str | None,
    may_be_classes: bool,
    batch_size: int,
) -> Question:
    """Looks at the images as they are: which class or output, which map is to be followed.

    Of outputs of which it is not yet known whether they are scores of classes, the share after
    a softmax is followed, as of classes, but for a single one: that is a value.

    Args:
        forward: Runs the network.
        layout: Of the inputs.
        images: (images, channels, *places).
        labels: Of the images; None where they have none.
        outputs: Learns from the images.
        target: What is explained.
        layer: Whose maps are followed; None for the last one that has maps.
        may_be_classes: Whether the user left open what the outputs are.
        batch_size: Images that go through the network at a time.
    """
    parts = [layout.restored(part) for part in torch.split(images, batch_size)]
    looks = [_look(forward, part, layer) for part in parts]
    scores = torch.cat([scores for scores, _ in looks])
    labels = None if labels is None else labels[: len(images)]
    are_classes = outputs.learn(scores, labels)
    is_share = are_classes or (may_be_classes and scores.shape[1] > 1)
    met = [name for name in looks[0][1] if all(name in found for _, found in looks)]
    if layer is not None and not met:
        with suppress(MethodUnsuitedError):  # the layer is there, and no sample reached it
            run_with_layers(forward, parts[0][:1], [layer])  # raises where there is no such layer
    followed = met[-1] if met else None
    activities = [found[followed] for _, found in looks] if followed else [scores[:, :1]]
    return Question(
        forward=forward,
        layout=layout,
        outputs=outputs,
        is_share=is_share,
        targets=_targets(scores, labels, outputs, target, is_share=is_share),
        num_outputs=(outputs.class_scores(scores) if are_classes else scores).shape[1],
        layer=followed,
        strongest=torch.cat(activities).argmax(1),
    )


def _targets(
    scores: Tensor, labels: Tensor | None, outputs: Outputs, target: Target, *, is_share: bool
) -> Targets:
    """Returns what is explained of each image; labels name no values."""
    if outputs.are_classes:
        return resolve_targets(outputs.class_scores(scores), target, labels)
    if target == "label" and (labels is None or not is_share):
        target = "predicted"
    found = resolve_targets(scores, target, labels)
    odd = "some labels are no outputs: the highest output instead"
    return Targets(found.indices, odd if found.note else "")


def _look(
    forward: IsolatedForward, inputs: Tensor, layer: str | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns scores, and by layer the sum of each of its maps (samples, units), of one pass.

    Without ``layer`` those of all nonlinearities whose units have several positions. Left out
    is what not all samples reach, or whose rows are no samples.
    """
    sums: dict[str, Tensor] = {}

    def keep(seen: Seen) -> None:
        """Adds up the maps of a layer's first call."""
        is_wanted = seen.name == layer if layer else seen.nonlinearity and not seen.is_gate
        if not is_wanted or seen.name in sums or not seen.values.numel():
            return
        if seen.values.dim() < (2 if layer else 3):
            return
        values = samples_units_positions(seen.values.detach(), seen.unit_axis, len(inputs))
        if len(values) == len(inputs) and (layer or values.shape[2] > 1):
            sums[seen.name] = at_least_float32(values).sum(2)

    # A layer's name may be that of a module's further call: "relu-1".
    watched = {layer, re.sub(r"-\d+$", "", layer)} if layer else set()
    with Capture(forward.module, keep, watched={"output": watched}):
        output = forward.run(inputs)
    return at_least_float32(find_scores(output, len(inputs))), sums
