"""What `SaliencyMonitor` draws: maps beside their image, and over the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.pictures.canvas import blank
from vis_callbacks.pictures.colours import Scale, colour_map, missing_note
from vis_callbacks.pictures.inputs import input_pictures
from vis_callbacks.pictures.text import FAINT_INK, Rgb, class_name, line_height, number, write
from vis_callbacks.pictures.tiles import Tile, TileRow, fitted_tile, tile_table

if TYPE_CHECKING:
    from vis_callbacks.callbacks.options import CheckedOptions
    from vis_callbacks.engine.cam_layer import CamLayer
    from vis_callbacks.monitors.saliency.relu_rules import RuleInUse

MAX_TILE = 128  # pixels of the longer side
_TILE = (96, MAX_TILE)
# A map of noise hardly reaches 3 times its mean, one blob on a tenth of the image 10 times: at 6
# noise looks dull, what stands out is bright, and only the brightest places are cut off.
_LARGEST = 6.0

_SUBJECTS = {  # of a picture over the training, by the title of a column
    "label": "the label",
    "predicted": "the predicted class",
    "output = label": "the output that the label is the number of",
    "highest output": "the highest output",
}

Values = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the pictures say of how they were made.

    Attributes:
        columns: The titles of what is explained, see `Question.column`.
        are_classes: Whether the outputs are known to be scores of classes.
        unit: The unit that is explained and what is taken of it, or "".
        whole: What an input is called: an "image", or an "input".
        used: What gradients came through; None for the gradient's own rule.
    """

    method: str
    step: int
    source: str
    columns: tuple[str, ...]
    are_classes: bool
    unit: str
    whole: str
    used: RuleInUse | None
    cam_layer: CamLayer | None
    notes: tuple[str, ...]
    options: CheckedOptions

    @property
    def is_signed(self) -> bool:
        """Whether a sign says for or against."""
        return METHODS[self.method].times_input

    @property
    def explanation(self) -> str:
        """What the method shows."""
        what = "the class's score" if self.are_classes else "the output"
        return METHODS[self.method].explanation.format(
            what="the unit" if self.unit else what,
            layer=self.cam_layer and self.cam_layer.name,
            part="pixel" if self.whole == "image" else "value",
            whole=self.whole,
        )

    @property
    def rule(self) -> str:
        """What followed the method's rule, and what did not."""
        if self.used is None:
            return ""
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(self.used.left_out.items()))
        left = f", {others} did not" if others else ""
        return f"{self.used.num_relus} ReLUs a pass followed the rule{left}"

    @property
    def choice(self) -> str:
        """Why Grad-CAM looks at its layer."""
        if self.cam_layer is None or not self.cam_layer.is_chosen:
            return ""
        to = "the unit" if self.unit else "the score"
        return f"the layer was chosen as the last that all paths from the input to {to} pass"


def draw_grid(
    images: Values,
    maps: Values,
    indices: Values,
    values: Values,
    strengths: Values,
    labels: Values | None = None,
    completeness: Values | None = None,
    without_gradient: Values | None = None,
    *,
    facts: Facts,
) -> Rgb:
    """Returns every image with its maps.

    Args:
        images: (samples, channels, height, width), as the network sees them.
        maps: (columns, samples, height, width).
        indices: (columns, samples) of the classes or outputs, -1 for a unit.
        values: (columns, samples) the probability, or the output's or the unit's value.
        strengths: (columns, samples) the maps' mean magnitudes.
        labels: (samples,), -1 for those that name no class.
        completeness: (samples,) the error.
        without_gradient: (samples,) the share of the positions of Grad-CAM's layer.
        facts: What to say.
    """
    shown = input_pictures(images, facts.options.mean, facts.options.std)
    rows, drawn = [], []
    for sample, image in enumerate(shown.images):
        label = -1 if labels is None else int(labels[sample])
        words = [f"sample {sample}"]
        if label >= 0 and "label" not in facts.columns:
            names = facts.options.class_names
            words.append(f"label: {class_name(label, names) if facts.are_classes else label}")
        tiles = [Tile(picture=image, title=facts.whole, lines=words)]
        for column, title in enumerate(facts.columns):
            index = int(indices[column, sample])
            lines = _lines(index, values[column, sample], facts, facts.are_classes)
            if title == "predicted" and label >= 0:
                lines[-1] += ", right" if index == label else ", wrong"
            if column > 0 and index == indices[0, sample]:
                tiles.append(Tile(picture=_same_as_before(image), title=title, lines=lines))
                continue
            drawn.append(maps[column, sample])
            tiles.append(
                map_tile(drawn[-1], image, title=title, lines=lines, is_signed=facts.is_signed)
            )
        rows.append(TileRow(tiles=tiles))
    kind = "images" if facts.unit else "classes" if facts.are_classes else "outputs"
    caption = [
        facts.explanation,
        facts.unit,
        f"step {facts.step:,}; {len(rows)} reference samples from {facts.source}",
        "each map is divided by its own mean, so that the scale is the same for all epochs and "
        f"{kind}{_range_of(strengths)}",
        facts.rule,
        facts.choice,
        _without_gradient(without_gradient),
        _completeness(completeness),
        *facts.notes,
        shown.note,
    ]
    return map_table(rows, drawn, caption, is_signed=facts.is_signed, rows_across=2)


def draw_strip(
    images: Values,
    maps: Values,
    indices: Values,
    values: Values,
    are_classes: Values,
    *,
    steps: Sequence[int],
    facts: Facts,
) -> Rgb:
    """Returns the first images' maps over the training, an image a row, a step a column.

    Args:
        images: (samples, channels, height, width).
        maps: (frames, samples, height, width).
        indices: (frames, samples).
        values: (frames, samples).
        are_classes: (frames,) whether the outputs were known to be classes then.
        steps: One for each frame.
        facts: What to say.
    """
    shown = input_pictures(images, facts.options.mean, facts.options.std)
    rows = []
    for sample, image in enumerate(shown.images):
        tiles = [Tile(picture=image)]
        for frame, were_classes in enumerate(are_classes):
            lines = _lines(int(indices[frame, sample]), values[frame, sample], facts, were_classes)
            tiles.append(
                map_tile(maps[frame, sample], image, lines=lines, is_signed=facts.is_signed)
            )
        rows.append(TileRow(tiles=tiles))
    subject = facts.unit or _SUBJECTS.get(facts.columns[0], facts.columns[0])
    caption = [
        facts.explanation,
        f"over the training, for {subject}; each map is divided by its own mean",
        f"{len(images)} reference samples from {facts.source}",
        *facts.notes,
        shown.note,
    ]
    columns = [facts.whole, *(f"step {step:,}" for step in steps)]
    every_map = list(maps.reshape(-1, *maps.shape[2:]))
    return map_table(rows, every_map, caption, is_signed=facts.is_signed, columns=columns)


def map_tile(
    values: Values,
    image: Rgb,
    *,
    title: str = "",
    lines: Sequence[str] = (),
    is_signed: bool = False,
) -> Tile:
    """Returns a map (height, width) in colours, in the size of its image.

    Args:
        values: See `saliency_maps`.
        image: (height, width, 3).
        title: Over the map.
        lines: Under it.
        is_signed: Red speaks for what is explained and blue against it, instead of viridis.
    """
    colours = Image.fromarray(colour_map(relative(values), scale=_scale(is_signed)))
    picture = np.asarray(colours.resize(image.shape[1::-1], Image.Resampling.NEAREST))
    return Tile(picture=picture, title=title, lines=lines, is_crossed=not values.any())


def map_table(
    rows: Sequence[TileRow],
    maps: Sequence[Values],
    caption: Sequence[object] = (),
    *,
    is_signed: bool = False,
    columns: Sequence[str] = (),
    rows_across: int = 1,
) -> Rgb:
    """Returns rows of `map_tile`, with what all maps have in common said over them.

    ``maps`` are all that are drawn; see `map_tile` and `tile_table` for the other arguments.
    """
    num_silent = sum(not values.any() for values in maps)
    lines = [
        *caption,
        f"crossed: 0 everywhere ({num_silent:,} of {len(maps):,} maps)" if num_silent else "",
        missing_note(np.concatenate([np.ravel(values) for values in maps])),
    ]
    return tile_table(
        rows,
        lines,
        columns=columns,
        scale=_scale(is_signed),
        units="x the map's own mean",
        tile=_TILE,
        min_width=_TILE[0],
        rows_across=rows_across,
    )


def relative(maps: Values) -> NDArray[np.float64]:
    """Returns each map (..., height, width) divided by its own mean magnitude.

    Gradients grow and shrink by orders of magnitude while a network trains. What remains says
    how many times the mean a place has, on a scale that does not depend on the run, so that
    epochs, images, classes and runs can be compared. A map of zeros stays one.
    """
    values = np.asarray(maps, dtype=np.float64)
    sizes = np.where(np.isfinite(values), np.abs(values), 0)
    largest = sizes.max(axis=(-2, -1), keepdims=True)
    largest = np.where(largest > 0, largest, 1)
    means = (sizes / largest).mean(axis=(-2, -1), keepdims=True)  # of tiny numbers it would be 0
    with np.errstate(over="ignore", invalid="ignore"):
        return values / largest / np.where(means > 0, means, 1)


def _scale(is_signed: bool) -> Scale:
    low = -_LARGEST if is_signed else 0.0
    return Scale(low=low, high=_LARGEST, signed=is_signed, is_clipped=True)


def _same_as_before(image: Rgb) -> Rgb:
    """Returns a tile that says that the map before it is this one's as well."""
    height, width = fitted_tile(image, _TILE).shape[:2]
    tile = blank(height, width, (244, 244, 244))
    for index, text in enumerate(("the same", "map")):
        y = max(0, height // 2 - line_height()) + index * line_height()
        write(tile, text, width // 2, y, align="centre", colour=FAINT_INK)
    return tile


def _lines(index: int, value: float, facts: Facts, are_classes: bool) -> list[str]:
    """Returns what is explained by a map, and its value."""
    text = f"p = {value:.2f}" if are_classes else f"value {number(float(value))}"
    if index < 0:
        return [text]
    names = facts.options.class_names
    return [class_name(index, names) if are_classes else f"output {index}", text]


def _range_of(strengths: Values) -> str:
    known = strengths[np.isfinite(strengths)]
    if not known.size:
        return ""
    return f" (means from {number(float(known.min()))} to {number(float(known.max()))})"


def _without_gradient(shares: Values | None) -> str:
    """Returns what must be said of maps that most of a layer's positions have no part in."""
    if shares is None or np.median(shares) <= 0.5:
        return ""
    return (
        f"the gradient is 0 at {np.median(shares):.0%} of the layer's positions (median), which "
        "have no part in the map"
    )


def _completeness(errors: Values | None) -> str:
    if errors is None or not np.isfinite(errors).any():
        return ""
    return (
        f"completeness error: {np.nanmedian(errors):.1%} (median), at most {np.nanmax(errors):.1%}"
    )
