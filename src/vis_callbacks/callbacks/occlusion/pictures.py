"""What `OcclusionMonitor` draws, and what its pictures say of how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.occlusion_maps import (
    LEAST_FALL,
    OcclusionView,
    occlusion_over_time,
    occlusion_views,
    place_that_matters,
)
from vis_callbacks.render.text import class_name

if TYPE_CHECKING:
    from vis_callbacks.analysis.occlusion_plan import OcclusionPlan

# What is measured with the square at a position, in this order.
PROBABILITY, CLASS, ACTIVITY = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class OcclusionFacts:
    """What the pictures say of how they were made."""

    step: int
    plan: OcclusionPlan
    baseline: str | float
    target: str | int
    source: str
    layer: str | None
    notes: tuple[str, ...]
    class_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def centres(self) -> tuple[list[float], list[float]]:
        """Where the square's centre is at each row and column of positions."""
        half = self.plan.window_size / 2
        return [top + half for top in self.plan.tops], [left + half for left in self.plan.lefts]

    @property
    def explained(self) -> str:
        """Whose probability it is."""
        words = {"label": "true class", "predicted": "class predicted without a square"}
        return words.get(str(self.target), f"class {self.target}")

    @property
    def square(self) -> str:
        """What the square is."""
        fillings = {"mean": "mean colour", "blur": "a blurred copy"}
        filling = fillings.get(str(self.baseline), f"the value {self.baseline}")
        size = self.plan.window_size
        return f"a square of {size} x {size} px ({filling})"

    @property
    def places(self) -> str:
        """How many positions there are and how many of them were measured."""
        plan = self.plan
        shape = f"{len(plan.tops)} x {len(plan.lefts)} positions"
        if plan.num_measured == plan.num_positions:
            return shape
        return f"{shape}, {plan.num_measured} measured, the large blocks coarsely"


def draw_views(
    images: np.ndarray,
    values: np.ndarray,
    whole: np.ndarray,
    targets: np.ndarray,
    units: np.ndarray,
    *,
    facts: OcclusionFacts,
) -> np.ndarray:
    """Returns the views of every image."""
    shown = to_uint8(images, facts.mean, facts.std)
    views = [
        OcclusionView(
            image=shown.images[index],
            probability=values[index, :, :, PROBABILITY],
            activity=_share(values[index], whole[index]),
            classes=values[index, :, :, CLASS].astype(np.int64),
            whole=float(whole[index, PROBABILITY]),
            lines=_words(values[index], whole[index], int(targets[index]), facts),
        )
        for index in range(len(images))
    ]
    num_passes = facts.plan.num_forward_passes
    caption = [
        f"what {facts.square} changes, by where its centre is; step {facts.step:,}",
        f"dark: the {facts.explained} is lost; outline: where most, if by {LEAST_FALL} or more "
        f"({facts.places}, {num_passes:,} forward passes)",
        _activity_note(facts),
        f"{len(images)} reference samples from {facts.source}",
        *facts.notes,
        shown.note,
    ]
    return occlusion_views(
        views, facts.centres, facts.plan.window_size, caption, class_names=facts.class_names
    )


def _activity_note(facts: OcclusionFacts) -> str:
    if facts.layer is None:
        return "no activity: no layer with maps is known (name one with layer=)"
    return (
        f"activity: sum of the map of {facts.layer} that is strongest without a square, as a "
        "share of that"
    )


def _share(values: np.ndarray, whole: np.ndarray) -> np.ndarray | None:
    """Returns the activity as a share of that without a square; NaN where that is 0."""
    if values.shape[-1] <= ACTIVITY:
        return None
    reference = whole[ACTIVITY] if whole[ACTIVITY] > 0 else np.nan
    share: np.ndarray = values[:, :, ACTIVITY] / reference
    return share


def _words(
    values: np.ndarray, whole: np.ndarray, target: int, facts: OcclusionFacts
) -> tuple[str, ...]:
    """Returns what to say under one image."""
    shares = values[:, :, PROBABILITY]
    if not np.isfinite(shares).any():
        return (f"{class_name(target, facts.class_names)}: no finite probability",)
    own = f"{class_name(target, facts.class_names)}: {whole[PROBABILITY]:.2f} without a square"
    if place_that_matters(shares, float(whole[PROBABILITY])) is None:
        own += "; no position matters"
    else:
        own += f", {np.nanmin(shares):.2f} at the outline"
    predicted = int(whole[CLASS])
    if predicted == target:
        return (own,)
    return (own, f"predicted: {class_name(predicted, facts.class_names)}")


def draw_over_time(
    images: np.ndarray,
    frames: np.ndarray,
    whole: np.ndarray,
    targets: np.ndarray,
    *,
    facts: OcclusionFacts,
    steps: Sequence[int],
) -> np.ndarray:
    """Returns the probability maps of the first images at several steps."""
    num_rows = frames.shape[1]
    shown = to_uint8(images, facts.mean, facts.std)
    names = [
        f"{class_name(int(target), facts.class_names)}: {now:.2f} without a square at step "
        f"{facts.step:,}"
        for target, now in zip(targets[:num_rows], whole[:num_rows, PROBABILITY], strict=True)
    ]
    caption = [
        f"probability of the {facts.explained}, by where the square's centre is",
        f"{facts.square}; the same {num_rows} reference samples at each step",
        "dark all over: the class is not recognised, with or without a square",
        *facts.notes,
        shown.note,
    ]
    return occlusion_over_time(
        list(shown.images[:num_rows]),
        frames.astype(np.float32),
        steps,
        facts.centres,
        caption,
        names=names,
    )
