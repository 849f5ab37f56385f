"""Occlusion: what the network says while a square hides a part of the image.

A window in time hides a part of a signal, a cube hides a part of a volume or a video: an input
has any number of axes of places.

Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014, figure 7).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.engine.capture import Capture, CapturedActivation
from vis_callbacks.engine.maps import blurred
from vis_callbacks.engine.score_functions import run_with_layers
from vis_callbacks.engine.scores import (
    MethodUnsuitedError,
    Target,
    Targets,
    at_least_float32,
    find_scores,
    per_output,
    resolve_targets,
    select_scores,
)
from vis_callbacks.engine.unit_axis import samples_units_positions

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputLayout
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.outputs import Outputs
    from vis_callbacks.monitors.occlusion.plan import OcclusionPlan

Baseline = Literal["mean", "blur"] | float | Sequence[float]
Measure = Callable[[Tensor, Tensor], Tensor]


class OcclusionMaps(NamedTuple):
    """What was measured. Places that were not hold the value of the nearest coarse one."""

    values: Tensor  # (images, *positions, quantities), with the square at each position
    whole: Tensor  # (images, quantities), of the images without a square
    is_measured: Tensor  # (images, *positions)


def baseline_images(images: Tensor, baseline: Baseline, window_size: int) -> Tensor:
    """Returns what the square shows instead of the images (samples, channels, *places).

    ``"mean"`` is that of each channel, over all these images: the grey of Zeiler and Fergus.
    ``"blur"`` is the image itself without its details, which leaves no edge of a square for the
    network to see. Else it is a number, or one for each channel. It can be broadcast to the images.
    """
    if baseline == "mean":
        axes = [0, *range(2, images.dim())]
        return images.double().mean(axes, keepdim=True).to(images.dtype)
    if baseline == "blur":
        return blurred(images, window_size / 2)
    colour = torch.tensor(baseline, dtype=torch.float64, device=images.device).to(images.dtype)
    if colour.dim() and len(colour) != images.shape[1]:
        raise ValueError(
            f"baseline={baseline!r} has {len(colour)} numbers, but the inputs have "
            f"{images.shape[1]} channels. Give one number for each, or one for all of them."
        )
    return colour.view(1, -1, *[1] * (images.dim() - 2))


@torch.no_grad()
def occlude(
    measure: Measure,
    images: Tensor,
    plan: OcclusionPlan,
    baseline: Baseline = "mean",
    *,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda count: None,
) -> OcclusionMaps:
    """Returns what is measured while a square hides a part of each image.

    Where a probability falls, the network needed what was hidden; where it rises, that had
    misled it. One square cannot show evidence that stands in two places, either of which is
    enough.

    Args:
        measure: (rows, ...) images with a square and (rows,) indices of the images they were
            made of, to (rows, quantities): any numbers, such as the probability of each
            image's own class. A refinement looks where the first of them changes most.
        images: (images, channels, *places); of more than the plan has, the first ones.
        plan: From `plan_occlusion`, for the sizes of these places.
        baseline: See `baseline_images`.
        batch_size: Images with a square are made as they are needed: this bounds the memory.
        progress: Told the number of forward passes after each of these batches.

    Example:
        >>> from vis_callbacks.monitors.occlusion.plan import plan_occlusion
        >>> def probability(inputs, owners):
        ...     return inputs.mean((1, 2, 3))[:, None]
        >>> plan = plan_occlusion((8, 8), num_images=1, window_size=4, stride=4)
        >>> occlude(probability, torch.ones(1, 3, 8, 8), plan, 0.0).values[0, :, :, 0]
        tensor([[0.7500, 0.7500],
                [0.7500, 0.7500]])
    """
    images, device = images[: plan.num_images], images.device
    hidden = baseline_images(images, baseline, plan.window_size).expand_as(images)
    offsets = [torch.tensor(starts, device=device) for starts in plan.offsets]

    def measured(owners: Tensor, *indices: Tensor) -> Tensor:
        """Returns (rows, quantities), the square of each row at its indices along each axis."""
        starts = [along[index] for along, index in zip(offsets, indices, strict=False)]
        parts = []
        batches = [torch.split(part, batch_size) for part in (owners, *starts)]
        for rows, *corner in zip(*batches, strict=True):
            inputs = images[rows]
            if corner:
                inputs = torch.where(_square(plan, corner), hidden[rows], inputs)
            parts.append(measure(inputs, rows))
            progress(len(rows))
        return torch.cat(parts)

    everyone = torch.arange(len(images), device=device)
    whole = measured(everyone)
    coarse = [torch.tensor(along, device=device) for along in plan.coarse]
    places = [axis.flatten() for axis in torch.meshgrid(everyone, *coarse, indexing="ij")]
    values = measured(*places).view(len(images), *map(len, coarse), -1)
    is_measured = torch.zeros(len(images), *plan.num_along, dtype=torch.bool, device=device)
    is_measured[tuple(places)] = True
    if plan.num_refined:
        change = values[..., 0] - whole[:, 0].view(-1, *[1] * len(coarse))
        for axis, (length, along) in enumerate(zip(plan.num_along, plan.coarse, strict=True), 1):
            nearest, weights = _from_coarse(length, along)
            values = values.index_select(axis, nearest.to(device))
            change = torch.tensordot(change, weights.to(change), ([axis], [1])).movedim(-1, axis)
        promised = change.abs().masked_fill(is_measured, -math.inf).flatten(1)
        best = promised.topk(plan.num_refined, dim=1).indices.flatten()
        owners = everyone.repeat_interleave(plan.num_refined)
        refined = (owners, *torch.unravel_index(best, plan.num_along))
        values[refined] = measured(*refined)
        is_measured[refined] = True
    return OcclusionMaps(values, whole, is_measured)


def _square(plan: OcclusionPlan, corner: Sequence[Tensor]) -> Tensor:
    """Returns (rows, 1, *places), True where the square of each row lies."""
    square = torch.ones((), dtype=torch.bool, device=corner[0].device)
    for axis, starts in enumerate(corner):
        places = torch.arange(plan.image_size[axis], device=starts.device) - starts[:, None]
        inside = (places >= 0) & (places < plan.window[axis])
        shape = [len(starts), *[1] * (1 + len(corner))]
        shape[2 + axis] = -1
        square = square & inside.view(shape)
    return square


def _from_coarse(length: int, coarse: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns of each place the nearest coarse one, and the weights that interpolate there."""
    places = np.arange(length)
    nearest = np.abs(np.subtract.outer(places, coarse)).argmin(1)
    weights = [np.interp(places, coarse, one) for one in np.eye(len(coarse))]
    return torch.from_numpy(nearest), torch.from_numpy(np.stack(weights, axis=1))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of the network with the square at a position."""

    measure: Measure  # gives the value, the highest output and, where there are maps, the activity
    targets: Tensor  # (images,) the class or output explained
    note: str  # what must be said about that choice
    is_share: bool  # whether probabilities are asked for, and not the values of outputs
    num_outputs: int
    layer: str | None  # whose map is followed: the one that is strongest without a square


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

    While it is not known whether the outputs are scores of classes, the share after a softmax
    is followed, as of classes. A single output is followed as a value.
    """
    parts = [layout.restored(part) for part in torch.split(images, batch_size)]
    looks = [_look(forward, part, layer) for part in parts]
    scores = torch.cat([scores for scores, _ in looks])
    labels = None if labels is None else labels[: len(images)]
    are_classes = outputs.learn(scores, labels)
    is_share = are_classes or (may_be_classes and scores.shape[1] > 1)
    met = [name for name in looks[0][1] if all(name in sums for _, sums in looks)]
    if layer is not None and not met:
        with suppress(MethodUnsuitedError):  # the layer is there, and no sample reached it
            run_with_layers(forward, parts[0][:1], [layer])  # raises where there is no such layer
    followed = met[-1] if met else None
    activities = [sums[followed] for _, sums in looks] if followed else [scores[:, :1]]
    strongest = torch.cat(activities).argmax(1)
    targets = _targets(scores, labels, outputs, target, is_share=is_share)

    def measure(images: Tensor, owners: Tensor) -> Tensor:
        inputs = layout.restored(images)
        scores, sums = _look(forward, inputs, followed) if followed else (forward(inputs), {})
        rows = outputs.probabilities(scores) if is_share else scores
        own = select_scores(rows, targets.indices[owners])
        every = per_output(rows)
        highest = torch.where(every.isfinite().all(1), every.argmax(1), -1)
        columns = [own, highest]
        if followed in sums:
            columns.append(sums[followed].gather(1, strongest[owners, None])[:, 0])
        elif followed:  # what is hidden may send an image elsewhere
            columns.append(torch.full_like(own, torch.nan))
        return torch.stack([column.to(own.dtype) for column in columns], dim=1)

    return Question(
        measure=measure,
        targets=targets.indices,
        note=targets.note,
        is_share=is_share,
        num_outputs=(outputs.class_scores(scores) if are_classes else scores).shape[1],
        layer=followed,
    )


def _targets(
    scores: Tensor, labels: Tensor | None, outputs: Outputs, target: Target, *, is_share: bool
) -> Targets:
    """Returns what is explained of each image; labels do not name values."""
    if outputs.are_classes:
        return resolve_targets(outputs.class_scores(scores), target, labels)
    if target == "label" and (labels is None or not is_share):
        target = "predicted"
    found = resolve_targets(scores, target, labels)
    odd = "some labels are not outputs: the highest output is used instead"
    return Targets(found.indices, odd if found.note else "")


def _look(
    forward: IsolatedForward, inputs: Tensor, layer: str | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns scores, and by layer the sum of each of its maps (samples, units), of one pass.

    Without ``layer`` these are all nonlinearities whose units have several positions. A layer
    that not all samples reach, or whose rows are not samples, is left out.
    """
    sums: dict[str, Tensor] = {}

    def keep(seen: CapturedActivation) -> None:
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
