"""What `SaliencyMonitor` draws: images with their maps, at one step and over the training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import shrunk
from vis_callbacks.pictures.canvas import blank, fitted
from vis_callbacks.pictures.colours import Scale, colour_map, missing_note
from vis_callbacks.pictures.inputs import input_pictures
from vis_callbacks.pictures.text import FAINT_INK, Rgb, class_name, line_height, number, write
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table
from vis_callbacks.report import Picture

if TYPE_CHECKING:
    from vis_callbacks.engine.cam_layer import CamLayer
    from vis_callbacks.engine.references import References
    from vis_callbacks.monitors.saliency.questions import Answer, Question
    from vis_callbacks.monitors.saliency.relu_rules import RuleInUse
    from vis_callbacks.options import Options
    from vis_callbacks.pictures.film_strip import FilmStrip

MAX_TILE = 128  # pixels of the longer side
_TILE = (96, MAX_TILE)
# A map of noise hardly reaches 3 times its mean, one blob on a tenth of the image 10 times: at 6
# noise looks dull, what stands out is bright, and only the brightest places are cut off.
_LARGEST = 6.0
_MOST_COVERED = 0.65  # of the image under an overlay: what the map lies on must be seen through it

Values = NDArray[Any]


def pictures_of(
    answer: Answer,
    references: References,
    film: FilmStrip | None,
    *,
    step: int,
    unit: str,
    notes: Sequence[str],
    has_overlay: bool | None,
    options: Options,
) -> Iterator[Picture]:
    """Yields the pictures of a method: all samples at this step, and the film's.

    ``unit`` is the unit that is explained and what is taken of it, or ""; ``notes`` are on the
    targets; ``has_overlay`` is None where colour images alone have one.
    """
    method, questions, first = answer.method, answer.questions, answer.questions[0]
    inputs, source = references.inputs, f"reference samples from {references.source}"
    whole, images = "image" if inputs.dim() > 3 else "input", _small_images(inputs)
    what = "unit" if unit else "class's score" if first.num_classes else "output"
    explanation = METHODS[method].explanation.format(
        what=f"the {what}",
        whole=whole,
        part="pixel" if whole == "image" else "value",
        layer=answer.cam_layer and answer.cam_layer.name,
    )
    draw = partial(draw_maps, whole=whole, is_signed=METHODS[method].times_input, options=options)
    caption = [
        explanation,
        unit,
        f"step {step:,}; {len(images)} {source}",
        "each map is divided by its own mean, so that all maps have one scale",
        _rule(answer.first.used),
        _choice(answer.cam_layer, what),
        *notes,
    ]
    if has_overlay is None:
        has_overlay = inputs.dim() == 4 and inputs.shape[1] == 3
    titles = [question.column for question in questions]
    yield Picture(
        tag=f"saliency/{method}",
        draw=partial(draw, titles=titles, caption=caption, has_overlay=has_overlay),
        arrays={"images": images, **_arrays(answer, references)},
    )
    if film is None or len(film) < 2:
        return
    over_time, subject = film.stacked(), unit or f'"{first.column}"'
    num_samples = over_time["maps"].shape[1]
    caption = [
        explanation,
        f"{subject} over the training; each map is divided by its own mean",
        f"{num_samples} {source}",
        *notes,
    ]
    titles = [f"step {step:,}" for step in film.steps]
    yield Picture(
        tag=f"saliency/over_time/{method}",
        draw=partial(draw, titles=titles, caption=caption, is_over_time=True),
        arrays={"images": images[:num_samples], **over_time},
    )


def _arrays(answer: Answer, references: References) -> dict[str, Tensor]:
    """Returns what is drawn of an answer, as `draw_maps` takes it."""
    arrays = {
        "maps": torch.stack([shrunk(maps, MAX_TILE) for maps in answer.maps]),
        "strengths": torch.stack([maps.abs().flatten(1).mean(1) for maps in answer.maps]),
        "labels": _known_labels(references.labels, answer.questions[0]),
        "completeness": answer.first.completeness_error,
        "without_gradient": answer.first.without_gradient,
    }
    for name in ("indices", "values", "are_classes"):
        arrays[name] = torch.stack([getattr(question, name) for question in answer.questions])
    return {name: array for name, array in arrays.items() if array is not None}


def draw_maps(
    images: Values,
    maps: Values,
    indices: Values,
    values: Values,
    are_classes: Values,
    labels: Values | None = None,
    strengths: Values | None = None,
    completeness: Values | None = None,
    without_gradient: Values | None = None,
    *,
    titles: Sequence[str],
    caption: Sequence[str],
    whole: str,
    is_signed: bool,
    options: Options,
    is_over_time: bool = False,
    has_overlay: bool = False,
) -> Rgb:
    """Returns each image with its maps: of several targets, or of several steps.

    Shapes are (samples, ...) or (columns, samples, ...). ``indices`` are of classes or outputs,
    or -1 for a unit; ``values`` are the probability, or the output's or the unit's value;
    ``labels`` are -1 where they name no class; ``strengths`` are the maps' mean magnitudes.
    """

    def name(index: int, is_class: bool) -> str:
        return class_name(index, options.class_names) if is_class else f"output {index}"

    shown = input_pictures(images, options.mean, options.std)
    # Where every prediction is right, one map a sample says all.
    all_right = [*titles] == ["label", "predicted"] and bool((indices[0] == indices[1]).all())
    columns = range(1 if all_right else len(titles))
    rows, drawn = [], []
    for sample, image in enumerate(shown.images):
        label = -1 if labels is None else int(labels[sample])
        words = [] if is_over_time else [f"sample {sample}"]
        if label >= 0 and "label" not in titles:
            words.append(f"label: {name(label, True) if are_classes[0] else label}")
        tiles = [Tile(picture=image, title=whole, lines=words)]
        for column in columns:
            title = titles[column]
            index, value = int(indices[column, sample]), float(values[column, sample])
            lines = [name(index, are_classes[column])] if index >= 0 else []
            lines.append(f"p = {value:.2f}" if are_classes[column] else f"value {number(value)}")
            if label >= 0 and (all_right or title == "predicted"):
                lines[-1] += ", right" if index == label else ", wrong"
            if column and not is_over_time and index == indices[0, sample]:
                tiles.append(Tile(picture=_same_as_before(image), title=title, lines=lines))
                continue
            drawn.append(maps[column, sample])
            tiles.append(map_tile(drawn[-1], image, title, lines, is_signed=is_signed))
            if has_overlay and not column:
                tiles.append(Tile(picture=overlay(drawn[-1], image, is_signed), title="on it"))
        rows.append(TileRow(tiles=tiles))
    measured = [_range_of(strengths), _without(without_gradient), _completeness(completeness)]
    lines = [*caption, *measured, shown.note]
    across = 1 if is_over_time else 2
    return map_table(rows, drawn, lines, is_signed=is_signed, rows_across=across)


def map_tile(
    values: Values,
    image: Rgb,
    title: str = "",
    lines: Sequence[str] = (),
    *,
    is_signed: bool = False,
) -> Tile:
    """Returns a map in colours, in the size of its image.

    ``values`` are (height, width), see `saliency_maps`. Where they are signed, red speaks for
    what is explained and blue against it; otherwise the colours are viridis.
    """
    picture = _coloured(values, image, is_signed)
    return Tile(picture=picture, title=title, lines=lines, is_crossed=not values.any())


def _coloured(values: Values, image: Rgb, is_signed: bool) -> Rgb:
    """Returns a map in its colours and in the size of its image."""
    colours = Image.fromarray(colour_map(relative(values), scale=_scale(is_signed)))
    return np.asarray(colours.resize(image.shape[1::-1], Image.Resampling.NEAREST))


def overlay(values: Values, image: Rgb, is_signed: bool) -> Rgb:
    """Returns the image in grey, tinted by the map's colours where the map is bright."""
    height, width = image.shape[:2]
    bright = np.nan_to_num(np.abs(relative(values)) / _LARGEST).clip(0, 1)
    weights = Image.fromarray(_MOST_COVERED * bright)
    shares = np.asarray(weights.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    blended: Rgb = (1 - shares) * grey + shares * _coloured(values, image, is_signed)
    return blended.round().astype(np.uint8)


def map_table(
    rows: Sequence[TileRow],
    maps: Sequence[Values],
    caption: Sequence[object] = (),
    *,
    is_signed: bool = False,
    rows_across: int = 2,
) -> Rgb:
    """Returns rows of `map_tile`, with what all ``maps`` have in common said over them."""
    num_silent = sum(not values.any() for values in maps)
    lines = [
        *caption,
        f"crossed: 0 everywhere ({num_silent:,} of {len(maps):,} maps)" if num_silent else "",
        missing_note(np.concatenate([np.ravel(values) for values in maps])),
    ]
    return tile_table(
        rows,
        lines,
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
    means = sizes.mean(axis=(-2, -1), keepdims=True)
    return values / np.where(means > 0, means, 1)


def _scale(is_signed: bool) -> Scale:
    low = -_LARGEST if is_signed else 0.0
    return Scale(low=low, high=_LARGEST, signed=is_signed, is_clipped=True)


def _same_as_before(image: Rgb) -> Rgb:
    """Returns a tile that says that the map before it is this one's as well."""
    height, width = fitted(image, *_TILE).shape[:2]
    tile = blank(height, width, (244, 244, 244))
    y = max(0, (height - line_height()) // 2)
    write(tile, "the same map", width // 2, y, align="centre", colour=FAINT_INK)
    return tile


def _small_images(inputs: Tensor) -> Tensor:
    """Returns what is shown of the inputs, averaged to the size they are shown at."""
    if inputs.dim() > 4:
        return inputs
    channels = inputs if inputs.dim() > 2 else inputs.unsqueeze(1)
    small = shrunk(channels.float().reshape(-1, *channels.shape[-2:]), MAX_TILE)
    return small.view(*channels.shape[:-2], *small.shape[1:])


def _known_labels(labels: Tensor | None, question: Question) -> Tensor | None:
    """Returns the labels, -1 for those that name none of the classes."""
    if labels is None:
        return None
    labels, count = labels.to(question.indices.device), question.num_classes
    is_class = (labels >= 0) & ((labels < count) | (count == 0))
    return torch.where(is_class, labels, -1)


def _rule(used: RuleInUse | None) -> str:
    """Returns what followed the method's rule, and what did not."""
    if used is None:
        return ""
    others = ", ".join(f"{count} {kind}" for kind, count in sorted(used.left_out.items()))
    left = f", {others} did not" if others else ""
    return f"{used.num_relus} ReLUs per pass followed the rule{left}"


def _choice(layer: CamLayer | None, what: str) -> str:
    """Returns why Grad-CAM looks at its layer."""
    if layer is None or not layer.is_chosen:
        return ""
    return (
        f"the layer was chosen as the last that all paths from the input to the {what} pass through"
    )


def _range_of(strengths: Values | None) -> str:
    known = np.empty(0) if strengths is None else strengths[np.isfinite(strengths)]
    if not known.size:
        return ""
    return (
        f"the maps' means range from {number(float(known.min()))} to {number(float(known.max()))}"
    )


def _without(shares: Values | None) -> str:
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
