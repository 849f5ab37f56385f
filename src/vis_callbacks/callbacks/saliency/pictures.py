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
    "gradient": "gradient: how strongly {what} answers to a small change of each {part}",
    "guided_backprop": "guided backpropagation: the gradient by which only positive evidence "
    "passes the ReLUs; much of it is the {whole}'s edges, whatever the network has learned",
    "deconvnet": "deconvnet: {what} projected back through the ReLUs; much of it is the {whole}'s "
    "edges, whatever the network has learned",
    "input_x_gradient": "gradient x input: red speaks for {what}, blue against it, to first order",
    "smoothgrad": "SmoothGrad: the mean gradient of {what} over noisy copies of the {whole}",
    "integrated_gradients": "integrated gradients: red speaks for {what}, blue against it; all "
    "of a map adds up to what the {whole} makes of it",
    "grad_cam": "Grad-CAM: where the units of the layer {layer} speak for {what}",
    "guided_grad_cam": "guided Grad-CAM: guided backpropagation where the units of the layer "
    "{layer} speak for {what}",
}


@dataclass(frozen=True, kw_only=True)
class SaliencyFacts:
    """What the pictures say of how they were made.

    Attributes:
        is_image: And not a series or a row of features.
        columns: What is explained: "label", "predicted", "class 3", "output 3" or "unit".
        are_classes: Whether the outputs are known to be scores of classes.
        unit: Its name and what is taken of it, where a unit is explained.
        num_relus: That a rule was applied to, in one pass; None for the gradient's own.
        left_out: Calls of other nonlinearities in one pass, by kind.
        cam_layer: Grad-CAM's.
        is_cam_layer_chosen: Not by the user.
    """

    method: str
    is_signed: bool
    step: int
    is_image: bool
    columns: tuple[str, ...]
    are_classes: bool
    unit: str | None
    num_relus: int | None
    left_out: Mapping[str, int]
    cam_layer: str | None
    is_cam_layer_chosen: bool
    source: str
    notes: tuple[str, ...]
    class_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def explanation(self) -> str:
        """What the method shows."""
        what = "the class's score" if self.are_classes else "the output"
        text = _EXPLANATIONS.get(self.method, self.method)
        return text.format(
            what=what if self.unit is None else "the unit",
            layer=self.cam_layer,
            part="pixel" if self.is_image else "value",
            whole=self.whole,
        )

    @property
    def whole(self) -> str:
        """What an input is called."""
        return "image" if self.is_image else "input"

    @property
    def rule(self) -> str:
        """What followed the method's rule, and what did not."""
        if self.num_relus is None:
            return ""
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(self.left_out.items()))
        left = f", {others} did not" if others else ""
        return f"{self.num_relus} ReLUs a pass followed the rule{left}"

    @property
    def choice(self) -> str:
        """Why Grad-CAM looks at its layer."""
        if not self.is_cam_layer_chosen:
            return ""
        to = "the score" if self.unit is None else "the unit"
        return f"the layer was chosen as the last that all paths from the input to {to} pass"

    @property
    def subject(self) -> str:
        """What the first column explains."""
        title = self.title(self.columns[0])
        return self.unit or _IN_A_SENTENCE.get(title, title)

    @property
    def others(self) -> str:
        """What maps are compared over, beside epochs."""
        if self.unit is not None:
            return "images"
        return "classes" if self.are_classes else "outputs"

    def name(self, index: int, *, are_classes: bool | None = None) -> str:
        """Returns what an output is called."""
        if self.are_classes if are_classes is None else are_classes:
            return class_name(index, self.class_names)
        return f"output {index}"

    def title(self, column: str) -> str:
        """Returns what stands over a column."""
        return column if self.are_classes else _NEUTRAL_TITLES.get(column, column)


_NEUTRAL_TITLES = {"label": "output = label", "predicted": "highest output"}
_IN_A_SENTENCE = {
    "label": "the label",
    "predicted": "the predicted class",
    "output = label": "the output that the label is the number of",
    "highest output": "the highest output",
}


def draw_grid(
    images: np.ndarray,
    maps: np.ndarray,
    classes: np.ndarray,
    values: np.ndarray,
    strengths: np.ndarray,
    labels: np.ndarray | None = None,
    completeness: np.ndarray | None = None,
    without_gradient: np.ndarray | None = None,
    *,
    facts: SaliencyFacts,
) -> np.ndarray:
    """Returns every image with its maps.

    Args:
        images: (samples, channels, height, width), as the network sees them.
        maps: (columns, samples, height, width).
        classes: (columns, samples), -1 for a unit.
        values: (columns, samples) the probability, or the output's or the unit's value.
        strengths: (columns, samples) the maps' mean magnitudes.
        labels: (samples,), -1 for those that name no class.
        completeness: (samples,) the error.
        without_gradient: (samples,) the share of the positions of Grad-CAM's layer.
        facts: What to say.
    """
    shown = to_uint8(images, facts.mean, facts.std)
    rows = [
        SaliencyRow(
            image=image,
            title=facts.whole,
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
        f"{facts.others}{_range_of(strengths)}",
        facts.rule,
        facts.choice,
        _without_gradient(without_gradient),
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
    were_classes: Sequence[bool],
    facts: SaliencyFacts,
) -> np.ndarray:
    """Returns the first images' maps over the training.

    Args:
        images: (samples, channels, height, width).
        maps: (frames, samples, height, width).
        classes: (frames, samples).
        values: (frames, samples).
        steps: One for each frame.
        were_classes: One for each frame: whether the outputs were known to be classes then.
        facts: What to say.
    """
    shown = to_uint8(images, facts.mean, facts.std)
    words = [
        [
            _lines(int(c), _value(float(v), facts, were), facts, were)
            for c, v in zip(*of_frame, strict=True)
        ]
        for *of_frame, were in zip(classes, values, were_classes, strict=True)
    ]
    caption = [
        facts.explanation,
        f"over the training, for {facts.subject}; each map is divided by its own mean",
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
        index_of_output = int(classes[column, index])
        repeats = column > 0 and index_of_output == classes[0, index]
        text = _value(float(values[column, index]), facts, facts.are_classes)
        if title == "predicted" and facts.are_classes and labels is not None and labels[index] >= 0:
            text += ", right" if index_of_output == labels[index] else ", wrong"
        found.append(
            SaliencyMap(
                title=facts.title(title),
                values=None if repeats else maps[column, index],
                lines=_lines(index_of_output, text, facts, facts.are_classes),
            )
        )
    return found


def _image_lines(index: int, labels: np.ndarray | None, facts: SaliencyFacts) -> tuple[str, ...]:
    if labels is None or labels[index] < 0 or ("label" in facts.columns and facts.are_classes):
        return (f"sample {index}",)
    label = int(labels[index])
    named = class_name(label, facts.class_names) if facts.are_classes else label
    return (f"sample {index}", f"label: {named}")


def _lines(
    index_of_output: int, text: str, facts: SaliencyFacts, are_classes: bool
) -> tuple[str, ...]:
    if index_of_output < 0:
        return (text,)
    return (facts.name(index_of_output, are_classes=are_classes), text)


def _value(value: float, facts: SaliencyFacts, are_classes: bool) -> str:
    if facts.unit is not None or not are_classes:
        return f"value {number(value)}"
    return f"p = {value:.2f}"


def _range_of(strengths: np.ndarray) -> str:
    known = strengths[np.isfinite(strengths)]
    if not known.size:
        return ""
    return f" (means from {number(float(known.min()))} to {number(float(known.max()))})"


def _without_gradient(shares: np.ndarray | None) -> str:
    """Returns what must be said of maps that most of a layer's positions have no part in."""
    if shares is None or np.median(shares) <= 0.5:
        return ""
    return (
        f"the gradient is 0 at {np.median(shares):.0%} of the layer's positions (median), which "
        "have no part in the map"
    )


def _completeness(errors: np.ndarray | None) -> str:
    if errors is None or not np.isfinite(errors).any():
        return ""
    return (
        f"completeness error: {np.nanmedian(errors):.1%} (median), at most {np.nanmax(errors):.1%}"
    )
