"""What `OcclusionMonitor` draws, and what its pictures say of how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.colours import scale_of
from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.occlusion_maps import (
    FALL,
    LEAST_CHANGE,
    RISE,
    SHARE,
    OcclusionView,
    Places,
    occlusion_over_time,
    occlusion_views,
    places_that_matter,
)
from vis_callbacks.render.signals import SIGNAL_HEIGHT, SIGNAL_WIDTH, signal_pictures
from vis_callbacks.render.text import Picture, number, printable

if TYPE_CHECKING:
    from vis_callbacks.analysis.occlusion_plan import OcclusionPlan
    from vis_callbacks.engine.input_layout import InputKind

# What is measured with the square at a position, in this order.
VALUE, CLASS, ACTIVITY = 0, 1, 2
_LEAST_SPREADS = 0.05  # a value matters that changes by so much of its spread over the images


@dataclass(frozen=True, kw_only=True)
class OcclusionFacts:
    """What the pictures say of how they were made."""

    step: int
    plan: OcclusionPlan
    kind: InputKind
    baseline: str | float | Sequence[float]
    target: str | int
    source: str
    layer: str | None
    notes: tuple[str, ...]
    is_share: bool
    are_classes: bool
    names: tuple[str, ...]
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def occluder(self) -> str:
        """What hides a part, in one word."""
        return {"signal": "window", "image": "square", "volume": "cube"}[self.kind]

    @property
    def explained(self) -> str:
        """Whose probability, share or value it is."""
        if not self.are_classes:
            words = {"label": "the output of the label's number", "predicted": "the highest output"}
            what = "share after a softmax" if self.is_share else "value"
            whose = words.get(str(self.target), "the output chosen")
            if not self.is_share and self.target == "label":
                whose = "the output" if len(self.names) == 1 else words["predicted"]
            return f"{what} of {whose}"
        words = {"label": "true class", "predicted": f"class predicted without a {self.occluder}"}
        named = self.names[self.target] if isinstance(self.target, int) else ""
        return f"probability of the {words.get(str(self.target), printable(named))}"

    @property
    def square(self) -> str:
        """What the square is."""
        fillings = {"mean": "mean colour", "blur": "a blurred copy"}
        if isinstance(self.baseline, str):
            filling = fillings[self.baseline]
        elif isinstance(self.baseline, Sequence):
            filling = f"the colour {', '.join(number(float(value)) for value in self.baseline)}"
        else:
            filling = f"the value {self.baseline}"
        sides = [side for side in self.plan.window if side > 1] or [1]
        size = " x ".join(map(str, sides))
        unit = "samples" if self.kind == "signal" else "px"
        return f"a {self.occluder} of {size} {unit} ({filling})"

    @property
    def places(self) -> str:
        """How many positions there are and how many of them were measured."""
        plan = self.plan
        shape = " x ".join(str(number) for number in plan.num_along if number > 1)
        shape = f"{shape or 1} positions"
        if plan.num_measured == plan.num_positions:
            return shape
        return f"{shape}, {plan.num_measured} measured, the large blocks coarsely"


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Inputs and their maps as planes that can be drawn over each other.

    Attributes:
        images: (images, height, width, 3) uint8.
        maps: (images, rows, columns, ...).
        centres: (rows, columns) of the occluder, in pixels of the picture.
        window: (height, width) of the occluder, in pixels of the picture.
        slices: Of a volume which slice is shown of each image.
        note: What had to be done to the inputs.
    """

    images: Picture
    maps: NDArray[Any]
    centres: tuple[list[float], list[float]]
    window: tuple[float, float]
    slices: tuple[int, ...] | None
    note: str


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
    changes = values[..., VALUE] - whole[:, VALUE].reshape(-1, *[1] * (values.ndim - 2))
    shown = _planes(images, values, changes, facts)
    least = _least_change(whole[:, VALUE], facts)
    has_activity = _has_activity(values)
    is_single = len(facts.names) == 1
    views = []
    for index, plane in enumerate(shown.maps):
        places = places_that_matter(plane[..., VALUE], float(whole[index, VALUE]), least)
        change = plane[..., VALUE] - whole[index, VALUE]
        views.append(
            OcclusionView(
                image=shown.images[index],
                probability=plane[..., VALUE] if facts.is_share else change,
                activity=_share(plane, whole[index]) if has_activity else None,
                classes=None if is_single else plane[..., CLASS].astype(np.int64),
                places=places,
                lines=_words(places, plane, whole[index], int(targets[index]), facts, shown, index),
            )
        )
    caption = [
        f"what {facts.square} changes, by where its centre is; step {facts.step:,}",
        _reading(facts),
        f"{facts.places}, {facts.plan.num_forward_passes:,} forward passes; "
        f"{len(images)} reference samples from {facts.source}",
        _activity_note(facts, has_activity=has_activity),
        *facts.notes,
        shown.note,
    ]
    return occlusion_views(
        views,
        shown.centres,
        shown.window,
        caption,
        class_names=facts.names,
        scale=SHARE if facts.is_share else scale_of(changes, signed=True),
        titles=_titles(facts),
        noun=_noun(facts),
    )


def _titles(facts: OcclusionFacts) -> tuple[str, str]:
    """Returns what the maps of values and of the highest output are called."""
    if facts.are_classes:
        return "probability", "most probable"
    return "share" if facts.is_share else "change", "highest output"


def _noun(facts: OcclusionFacts) -> str:
    return "slice" if facts.kind == "volume" else facts.kind


def _reading(facts: OcclusionFacts) -> str:
    """Returns how the map of values is to be read, and when a place is outlined."""
    if facts.is_share:
        return (
            f"dark: the {facts.explained} is lost; outlined: where it falls and where it rises "
            f"most, if by {LEAST_CHANGE} or more"
        )
    return (
        f"change of the {facts.explained}: blue where it falls, red where it rises; outlined: "
        f"where most, if by {_LEAST_SPREADS:.0%} or more of its spread over these samples"
    )


def _least_change(whole: np.ndarray, facts: OcclusionFacts) -> float:
    """Returns the change from which on a place is pointed at."""
    if facts.is_share:
        return LEAST_CHANGE
    finite = whole[np.isfinite(whole)]
    return max(_LEAST_SPREADS * float(finite.std()) if finite.size else 0.0, 1e-9)


def _planes(
    images: np.ndarray, maps: np.ndarray, changes: np.ndarray, facts: OcclusionFacts
) -> _Shown:
    """Returns what can be drawn: of a volume the slice where most changes, of a signal curves.

    Args:
        images: (images, channels, *places).
        maps: (images, *positions, ...).
        changes: (images, *positions).
        facts: For the plan and the kind of the inputs.
    """
    plan, slices = facts.plan, None
    centres = [
        [start + side / 2 for start in starts]
        for starts, side in zip(plan.offsets, plan.window, strict=True)
    ]
    if facts.kind == "signal":
        factor = SIGNAL_WIDTH / plan.image_size[-1]
        along = [centre * factor for centre in centres[-1]]
        flat = images.reshape(*images.shape[:2], -1)
        return _Shown(
            images=signal_pictures(flat),
            maps=maps[:, None],
            centres=([SIGNAL_HEIGHT / 2], along),
            window=(float(SIGNAL_HEIGHT), plan.window[-1] * factor),
            slices=None,
            note="",
        )
    if facts.kind == "volume":
        sizes = np.abs(np.nan_to_num(changes)).reshape(*changes.shape[:2], -1).max(axis=2)
        chosen = sizes.argmax(axis=1)
        slices = tuple(int(centres[0][place]) for place in chosen)
        rows = range(len(images))
        images = np.stack([images[row][:, slices[row]] for row in rows])
        maps = np.stack([maps[row][chosen[row]] for row in rows])
    shown = to_uint8(images, facts.mean, facts.std)
    return _Shown(
        images=shown.images,
        maps=maps,
        centres=(centres[-2], centres[-1]),
        window=(float(plan.window[-2]), float(plan.window[-1])),
        slices=slices,
        note=shown.note,
    )


def _has_activity(values: np.ndarray) -> bool:
    """Whether every image reached the layer wherever the square was."""
    if values.shape[-1] <= ACTIVITY:
        return False
    is_known = np.isfinite(values[..., ACTIVITY]) | ~np.isfinite(values[..., VALUE])
    return bool(is_known.all())


def _activity_note(facts: OcclusionFacts, *, has_activity: bool) -> str:
    if facts.layer is None:
        return "no activity: no layer with maps is known (name one with layer=)"
    if not has_activity:
        return f"no activity: with some places hidden not all images reach {facts.layer}"
    return (
        f"activity: sum of the map of {facts.layer} that is strongest without a "
        f"{facts.occluder}, as a share of that"
    )


def _share(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns the activity as a share of that without a square; NaN where that is 0."""
    reference = whole[ACTIVITY] if whole[ACTIVITY] > 0 else np.nan
    share: np.ndarray = values[..., ACTIVITY] / reference
    return share


def _words(
    places: Places,
    plane: np.ndarray,
    whole: np.ndarray,
    target: int,
    facts: OcclusionFacts,
    shown: _Shown,
    index: int,
) -> tuple[str, ...]:
    """Returns what to say under one image."""
    name = printable(facts.names[target])
    if not np.isfinite(plane[..., VALUE]).any():
        return (f"{name}: no finite {'probability' if facts.is_share else 'value'}",)
    how = (lambda value: f"{value:.2f}") if facts.is_share else number
    own = f"{name}: {how(float(whole[VALUE]))} without a {facts.occluder}"
    changes = [
        f"{verb} to {how(float(plane[(*place, VALUE)]))} ({outline.name} outline)"
        for verb, place, outline in (("falls", places.fall, FALL), ("rises", places.rise, RISE))
        if place is not None
    ]
    lines = [f"{own}; no position matters"] if not changes else [own, *changes]
    highest = int(whole[CLASS])
    if facts.are_classes and highest not in (target, -1):
        lines.append(f"predicted: {printable(facts.names[highest])}")
    if shown.slices is not None:
        lines.append(f"slice {shown.slices[index]}, where most changes")
    return tuple(lines)


def draw_over_time(
    images: np.ndarray,
    frames: np.ndarray,
    whole: np.ndarray,
    targets: np.ndarray,
    *,
    facts: OcclusionFacts,
    steps: Sequence[int],
) -> np.ndarray:
    """Returns the maps of the first images at several steps."""
    num_rows = frames.shape[1]
    latest = frames[-1].astype(np.float32)
    known = whole[:num_rows, VALUE].reshape(-1, *[1] * (latest.ndim - 1))
    stacked = np.moveaxis(frames.astype(np.float32), 0, -1)  # (images, *positions, frames)
    shown = _planes(images[:num_rows], stacked, latest - known if facts.is_share else latest, facts)
    names = [
        f"{printable(facts.names[int(target)])}: {number(float(now))} without a {facts.occluder} "
        f"at step {facts.step:,}"
        for target, now in zip(targets[:num_rows], whole[:num_rows, VALUE], strict=True)
    ]
    dark = "dark all over: not recognised, with or without" if facts.is_share else ""
    sliced = "" if shown.slices is None else "slices where most changes at the latest step"
    caption = [
        f"{'' if facts.is_share else 'change of the '}{facts.explained}, by where the "
        f"{facts.occluder}'s centre is",
        f"{facts.square}; the same {num_rows} reference samples at each step",
        dark,
        sliced,
        *facts.notes,
        shown.note,
    ]
    maps = np.moveaxis(shown.maps, -1, 0)
    return occlusion_over_time(
        list(shown.images),
        maps,
        steps,
        shown.centres,
        caption,
        names=names,
        scale=SHARE if facts.is_share else scale_of(maps, signed=True),
        units=_titles(facts)[0],
        noun=_noun(facts),
    )
