"""What `SaliencyMonitor` draws, and what its pictures say of how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.saliency_maps import (
    SaliencyMap,
    SaliencyRow,
    saliency_grid,
    saliency_strip,
)
from vis_callbacks.render.text import class_name, number

_EXPLANATIONS: Mapping[str, str] = {
    "gradient": "gradient: how strongly {what} answers to a small change of each pixel",
    "guided_backprop": "guided backpropagation: the gradient by which only positive evidence "
    "passes the ReLUs; much of it is the image's edges, whatever the network has learned",
    "deconvnet": "deconvnet: {what} projected back through the ReLUs; much of it is the image's "
    "edges, whatever the network has learned",
    "input_x_gradient": "gradient x input: red speaks for {what}, blue against it, to first order",
    "smoothgrad": "SmoothGrad: the mean gradient of {what} over noisy copies of the image",
    "integrated_gradients": "integrated gradients: red speaks for {what}, blue against it; all "
    "of a map adds up to what the image makes of it",
    "grad_cam": "Grad-CAM: where the units of the layer {layer} speak for {what}",
    "guided_grad_cam": "guided Grad-CAM: guided backpropagation where the units of the layer "
    "{layer} speak for {what}",
}


@dataclass(frozen=True, kw_only=True)
class SaliencyFacts:
    """What the pictures say of how they were made.

    Attributes:
        columns: What is explained: "label", "predicted", "class 3" or "unit".
        unit: Its name and what is taken of it, where a unit is explained.
        num_relus: That a rule was applied to, in one pass; None for the gradient's own.
        cam_layer: Grad-CAM's.
    """

    method: str
    is_signed: bool
    step: int
    columns: tuple[str, ...]
    unit: str | None
    num_relus: int | None
    cam_layer: str | None
    source: str
    notes: tuple[str, ...]
    class_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def explanation(self) -> str:
        """What the method shows."""
        what = "the class's score" if self.unit is None else "the unit"
        text = _EXPLANATIONS.get(self.method, self.method)
        return text.format(what=what, layer=self.cam_layer)

    @property
    def rule(self) -> str:
        """How many ReLUs the method's rule was applied to."""
        if self.num_relus is None:
            return ""
        return f"{self.num_relus} ReLUs a pass followed the rule"


def draw_grid(
    images: np.ndarray,
    maps: np.ndarray,
    classes: np.ndarray,
    values: np.ndarray,
    strengths: np.ndarray,
    labels: np.ndarray | None = None,
    completeness: np.ndarray | None = None,
    *,
    facts: SaliencyFacts,
) -> np.ndarray:
    """Returns every image with its maps.

    Args:
        images: (samples, channels, height, width), as the network sees them.
        maps: (columns, samples, height, width).
        classes: (columns, samples), -1 for a unit.
        values: (columns, samples) the probability, or the unit's value.
        strengths: (columns, samples) the maps' mean magnitudes.
        labels: (samples,), -1 for those that name no class.
        completeness: (samples,) the error.
        facts: What to say.
    """
    shown = to_uint8(images, facts.mean, facts.std)
    rows = [
        SaliencyRow(
            image=image,
            lines=_image_lines(index, labels, facts),
            maps=tuple(_maps_of(index, maps, classes, values, labels, facts)),
        )
        for index, image in enumerate(shown.images)
    ]
    caption = [
        facts.explanation,
        facts.unit or "",
        f"step {facts.step:,}; {len(rows)} reference samples from {facts.source}",
        "each map is divided by its own mean, so that the scale is the same for all epochs and "
        f"classes{_range_of(strengths)}",
        facts.rule,
        _completeness(completeness),
        *facts.notes,
        shown.note,
    ]
    return saliency_grid(rows, caption, is_signed=facts.is_signed)


def draw_strip(
    images: np.ndarray,
    maps: np.ndarray,
    classes: np.ndarray,
    values: np.ndarray,
    *,
    steps: Sequence[int],
    facts: SaliencyFacts,
) -> np.ndarray:
    """Returns the first images' maps over the training.

    Args:
        images: (samples, channels, height, width).
        maps: (frames, samples, height, width).
        classes: (frames, samples).
        values: (frames, samples).
        steps: One for each frame.
        facts: What to say.
    """
    shown = to_uint8(images, facts.mean, facts.std)
    words = [
        [_lines(int(c), _value(float(v), facts), facts) for c, v in zip(*of_frame, strict=True)]
        for of_frame in zip(classes, values, strict=True)
    ]
    caption = [
        facts.explanation,
        f"over the training, for {facts.unit or _column(facts.columns[0])}; each map is divided "
        "by its own mean",
        f"{len(images)} reference samples from {facts.source}",
        *facts.notes,
        shown.note,
    ]
    return saliency_strip(
        list(shown.images), maps, steps, words, caption, is_signed=facts.is_signed
    )


def _maps_of(
    index: int,
    maps: np.ndarray,
    classes: np.ndarray,
    values: np.ndarray,
    labels: np.ndarray | None,
    facts: SaliencyFacts,
) -> list[SaliencyMap]:
    """Returns one sample's maps; what would only repeat the first one is said to."""
    found = []
    for column, title in enumerate(facts.columns):
        number_of_class = int(classes[column, index])
        repeats = column > 0 and number_of_class == classes[0, index]
        text = _value(float(values[column, index]), facts)
        if title == "predicted" and labels is not None and labels[index] >= 0:
            text += ", right" if number_of_class == labels[index] else ", wrong"
        found.append(
            SaliencyMap(
                title=title,
                values=None if repeats else maps[column, index],
                lines=_lines(number_of_class, text, facts),
            )
        )
    return found


def _image_lines(index: int, labels: np.ndarray | None, facts: SaliencyFacts) -> tuple[str, ...]:
    if labels is None or labels[index] < 0 or "label" in facts.columns:
        return (f"sample {index}",)
    return (f"sample {index}", f"label: {class_name(int(labels[index]), facts.class_names)}")


def _lines(number_of_class: int, text: str, facts: SaliencyFacts) -> tuple[str, ...]:
    if number_of_class < 0:
        return (text,)
    return (class_name(number_of_class, facts.class_names), text)


def _value(value: float, facts: SaliencyFacts) -> str:
    if facts.unit is not None:
        return f"value {number(value)}"
    return f"p = {value:.2f}"


def _range_of(strengths: np.ndarray) -> str:
    known = strengths[np.isfinite(strengths)]
    if not known.size:
        return ""
    return f" (means from {number(float(known.min()))} to {number(float(known.max()))})"


def _column(title: str) -> str:
    return {"label": "the label", "predicted": "the predicted class"}.get(title, title)


def _completeness(errors: np.ndarray | None) -> str:
    if errors is None or not np.isfinite(errors).any():
        return ""
    return (
        f"completeness error: {np.nanmedian(errors):.1%} (median), at most {np.nanmax(errors):.1%}"
    )
