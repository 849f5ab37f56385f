"""What `OcclusionMonitor` draws: each image beside its maps, and the maps over the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.canvas import Box, blank, colour_bar, fitted, hatched, line, stacked
from vis_callbacks.pictures.colours import (
    NOT_FINITE,
    WHITE,
    Scale,
    class_colour,
    colour_map,
    missing_note,
    scale_of,
    shares_its_colour,
)
from vis_callbacks.pictures.inputs import (
    SIGNAL_HEIGHT,
    SIGNAL_WIDTH,
    input_pictures,
    signal_pictures,
)
from vis_callbacks.pictures.markers import class_legend, marked
from vis_callbacks.pictures.text import Colour, Rgb, number
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputKind
    from vis_callbacks.monitors.occlusion.plan import OcclusionPlan

# What is measured with the square at a position, in this order.
VALUE, CLASS, ACTIVITY = 0, 1, 2
FALL: Colour = WHITE  # outlines of the places where a value falls and where it rises most
RISE: Colour = (255, 140, 0)
# Both kinds of amounts are shares: of the class's probability 1, of the unhidden activity.
SHARE = Scale(low=0.0, high=1.0)
_LEAST_CHANGE = 0.05  # of the probability: less is not worth pointing at
_LEAST_SPREADS = 0.05  # a value matters that changes by so much of its spread over the images
_LEAST_SPOT, _MOST_SPOT = 2.5, 4.0  # radius of a class's shape, in pixels


@dataclass(frozen=True, kw_only=True)
class OcclusionFacts:
    """What the pictures say of how they were made."""

    plan: OcclusionPlan
    names: Sequence[str]  # of the classes or outputs
    source: str
    step: int | None = None
    kind: InputKind = "image"
    baseline: str | float | Sequence[float] = "mean"
    target: str | int = "label"
    layer: str | None = None
    notes: tuple[str, ...] = ()
    is_share: bool = True
    are_classes: bool = True
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    @property
    def occluder(self) -> str:
        """What hides a part, in one word."""
        return {"signal": "window", "image": "square", "volume": "cube"}[self.kind]

    @property
    def explained(self) -> str:
        """Whose probability, share or value it is."""
        target = str(self.target)
        if self.are_classes:
            words = {
                "label": "true class",
                "predicted": f"class predicted without a {self.occluder}",
            }
            named = self.names[self.target] if isinstance(self.target, int) else ""
            return f"probability of the {words.get(target, named)}"
        words = {"label": "output with the label's index", "predicted": "highest output"}
        if target == "label" and not self.is_share:
            words["label"] = "output" if len(self.names) == 1 else words["predicted"]
        what = "share after a softmax" if self.is_share else "value"
        return f"{what} of the {words.get(target, 'output chosen')}"

    @property
    def square(self) -> str:
        """What the square is."""
        if isinstance(self.baseline, str):
            filling = {"mean": "mean colour", "blur": "a blurred copy"}[self.baseline]
        elif isinstance(self.baseline, Sequence):
            filling = f"the colour {', '.join(number(float(value)) for value in self.baseline)}"
        else:
            filling = f"the value {self.baseline}"
        sides = [side for side in self.plan.window if side > 1] or [1]
        unit = "samples" if self.kind == "signal" else "px"
        return f"a {self.occluder} of {' x '.join(map(str, sides))} {unit} ({filling})"

    @property
    def places(self) -> str:
        """How many positions there are and how many of them were measured."""
        shape = " x ".join(str(count) for count in self.plan.num_along if count > 1)
        coarsely = f", {self.plan.num_measured} measured, the large blocks coarsely"
        is_whole = self.plan.num_measured == self.plan.num_positions
        return f"{shape or 1} positions{'' if is_whole else coarsely}"

    @property
    def titles(self) -> tuple[str, str, str]:
        """What the inputs, the maps of values and those of the highest output are called."""
        noun = "slice" if self.kind == "volume" else self.kind
        if self.are_classes:
            return noun, "probability", "most probable"
        return noun, "share" if self.is_share else "change", "highest output"

    @property
    def how_to_read(self) -> str:
        """What the colours of the maps of values say, and which places are outlined."""
        ends = "the largest fall (white) and rise (orange)"
        if self.is_share:
            words, least = f"dark: the {self.explained} is low", str(_LEAST_CHANGE)
        else:
            words = f"change of the {self.explained}: blue where it falls, red where it rises"
            least = f"{_LEAST_SPREADS:.0%} of its spread over these samples"
        return f"{words}; outlined: {ends}, from {least} on"


# The position (row, column) where a value falls most and that where it rises most; None: nowhere.
Places = tuple[tuple[int, int] | None, tuple[int, int] | None]


class _Planes(NamedTuple):
    """Inputs and their maps as planes that can be drawn over each other."""

    images: Rgb  # (images, height, width, 3)
    maps: NDArray[Any]  # (images, rows, columns, ...)
    centres: tuple[Sequence[float], ...]  # of the square, in rows and columns of the picture
    window: tuple[float, ...]  # its height and width there
    slices: tuple[int, ...] = ()  # of a volume, which slice is shown of each image
    note: str = ""  # what had to be done to the inputs

    def boxes(self, places: Places) -> list[tuple[Box, Colour]]:
        """Returns the outlines of the square at the places that matter."""
        outlines = list[tuple[Box, Colour]]()
        for place, colour in zip(reversed(places), (RISE, FALL), strict=True):
            if place is not None:
                along = zip(self.centres, place, self.window, strict=True)
                top, left = (centres[index] - side / 2 for centres, index, side in along)
                outlines.append(((top, left, top + self.window[0], left + self.window[1]), colour))
        return outlines

    def spread(self, values: NDArray[Any], image: Rgb) -> NDArray[Any]:
        """Returns values or colours of positions, each where the square's centre was nearest."""
        nearest = []
        for axis, along in enumerate(self.centres):
            length, size = image.shape[axis], fitted(image).shape[axis]
            pixels = (np.arange(size) + 0.5) * length / size  # where they lie on the image itself
            nearest.append(np.abs(np.subtract.outer(pixels, along)).argmin(axis=1))
        spread: NDArray[Any] = values[np.ix_(*nearest)]
        return spread


def draw_views(
    images: np.ndarray,
    values: np.ndarray,
    whole: np.ndarray,
    targets: np.ndarray,
    *,
    facts: OcclusionFacts,
) -> np.ndarray:
    """Returns each image (images, channels, *places) beside its maps: activity, value, output.

    A place of a map shows what was measured with the square's centre nearest to it, so maps and
    image lie over each other. A class has one colour in all runs; from the eleventh on colours
    repeat, and a shape tells classes apart. ``values`` are (images, *positions, 2 or 3): the value
    explained, the highest output (below 0 none) and, where a layer has maps, the activity of the
    strongest one; ``whole`` (images, 2 or 3) is the same without a square.
    """
    changes = (values[..., VALUE].T - whole[:, VALUE]).T
    planes, (noun, what, highest) = _planes(images, values, changes, facts), facts.titles
    scale = SHARE if facts.is_share else scale_of(changes, signed=True)
    activity, note = _activity(values, whole, planes, facts)
    classes = planes.maps[..., CLASS].astype(np.int64) if len(facts.names) > 1 else None
    least, rows, has_silent = _least_that_matters(whole[:, VALUE], facts), [], False
    num_helped = 0
    for index, image in enumerate(planes.images):
        value, own = planes.maps[index, ..., VALUE], whole[index]
        places = places_that_matter(value, float(own[VALUE]), least)
        num_helped += places[1] is not None
        tiles = [Tile(picture=image, title=noun, boxes=planes.boxes(places))]
        if activity is not None:
            tiles.append(_activity_tile(activity[index], planes, image))
            has_silent |= tiles[-1].title == "silent"
        shown = colour_map(value if facts.is_share else value - own[VALUE], scale=scale)
        tiles.append(Tile(picture=planes.spread(shown, image), title=what))
        if classes is not None:
            shown = _painted(planes.spread(classes[index], image))
            tiles.append(Tile(picture=shown, title=highest))
        lines = _words(places, value, own, int(targets[index]), facts)
        if planes.slices:
            lines.append(f"slice {planes.slices[index]}, with the largest change")
        rows.append(TileRow(tiles=tiles, lines=lines))
    when = "" if facts.step is None else f"; step {facts.step:,}"
    caption = [
        f"effect of {facts.square}, by the position of its centre{when}",
        _helped(num_helped, len(images), facts),
        facts.how_to_read,
        f"{len(images)} samples of {facts.source}, {facts.places}",
        note,
        *facts.notes,
        planes.note,
        "silent: this map is 0 for the whole image" if has_silent else "",
        missing_note(planes.maps[..., VALUE], "probabilities" if facts.is_share else "values"),
    ]
    legend = list[Rgb]()
    if activity is not None:
        share = replace(SHARE, is_clipped=bool((activity > 1).any()))
        if facts.is_share:
            scale, what = share, f"{what}, or share of the activity"
        else:
            legend.append(colour_bar(share, "share of the activity"))
    if classes is not None:
        width = min(2, len(rows)) * len(rows[0].tiles) * fitted(planes.images[0]).shape[1]
        legend += [line(f"{highest}:"), *class_legend(classes[classes >= 0], facts.names, width)]
    below = stacked(legend, 1) if legend else None
    return tile_table(rows, caption, scale=scale, units=what, rows_across=2, legend=below)


def _helped(num_helped: int, num_images: int, facts: OcclusionFacts) -> str:
    """Returns in how many images hiding a place raises what is explained, or "" for none."""
    if not num_helped:
        return ""
    noun = f"{facts.titles[0]}{'' if num_images == 1 else 's'}"
    return (
        f"hiding a place raises the {facts.explained} in {num_helped} of {num_images} {noun} "
        "(orange)"
    )


def _least_that_matters(whole: NDArray[Any], facts: OcclusionFacts) -> float:
    """Returns the least change worth pointing at, of values that are these without a square."""
    finite = whole[np.isfinite(whole)]
    if facts.is_share:
        return _LEAST_CHANGE
    return max(_LEAST_SPREADS * float(finite.std()) if finite.size else 0.0, 1e-9)


def _activity_tile(activity: NDArray[Any], planes: _Planes, image: Rgb) -> Tile:
    """Returns the map of activities of one image; hatched where it is silent without a square."""
    shown = planes.spread(colour_map(activity, scale=SHARE), image)
    if np.isfinite(activity).any():
        return Tile(picture=shown, title="activity")
    return Tile(picture=hatched(*shown.shape[:2]), title="silent")


def draw_over_time(
    images: np.ndarray,
    frames: np.ndarray,
    whole: np.ndarray,
    targets: np.ndarray,
    *,
    facts: OcclusionFacts,
    steps: Sequence[int],
) -> np.ndarray:
    """Returns a table of maps on one scale: one of the first images a row, a step a column."""
    num_rows = frames.shape[1]
    frames = frames.astype(np.float32)
    now = whole[:num_rows, VALUE]
    changes = (frames[-1].T - now).T if facts.is_share else frames[-1]
    planes = _planes(images[:num_rows], np.moveaxis(frames, 0, -1), changes, facts)
    scale = SHARE if facts.is_share else scale_of(planes.maps, signed=True)
    rows = []
    for image, maps, target, value in zip(planes.images, planes.maps, targets, now, strict=False):
        drawn = [colour_map(maps[..., frame], scale=scale) for frame in range(len(steps))]
        tiles = [image, *(planes.spread(one, image) for one in drawn)]
        name = facts.names[int(target)]
        label = f"{name}: {number(float(value))} without a {facts.occluder} at step {steps[-1]:,}"
        rows.append(TileRow(tiles=[Tile(picture=tile) for tile in tiles], lines=[label]))
    caption = [
        f"{'' if facts.is_share else 'change of the '}{facts.explained}, by the position of "
        f"the {facts.occluder}'s centre",
        f"{facts.square}; the same {num_rows} reference samples at each step",
        "dark everywhere: not recognised, even with nothing hidden" if facts.is_share else "",
        "slices with the largest change at the latest step" if planes.slices else "",
        *facts.notes,
        planes.note,
        missing_note(planes.maps, "probabilities" if facts.is_share else "values"),
    ]
    noun, units, _ = facts.titles
    columns = [noun, *(f"step {step:,}" for step in steps)]
    return tile_table(rows, caption, columns=columns, scale=scale, units=units)


def places_that_matter(values: NDArray[Any], whole: float, least: float) -> Places:
    """Returns where (rows, columns) of values fall most and where they rise most.

    A change below ``least`` is not worth pointing at. Where the value ``whole`` without a square
    is not finite, the highest of the values stands in for it.
    """
    if not np.isfinite(values).any():
        return None, None
    usual = whole if math.isfinite(whole) else np.nanmax(values)

    def place(changes: NDArray[Any]) -> tuple[int, int] | None:
        if np.nanmax(changes) < least:
            return None
        row, column = np.unravel_index(np.nanargmax(changes), changes.shape)
        return int(row), int(column)

    return place(usual - values), place(values - usual)


def _activity(
    values: np.ndarray, whole: np.ndarray, planes: _Planes, facts: OcclusionFacts
) -> tuple[np.ndarray | None, str]:
    """Returns the share of the unhidden activity (NaN: silent) or None, and what is said of it."""
    if facts.layer is None:
        return None, "no activity: no layer with maps is known (name one with layer=)"
    is_known = np.isfinite(values[..., ACTIVITY]) | ~np.isfinite(values[..., VALUE])
    if not is_known.all():
        return None, f"no activity: with some places hidden not all images reach {facts.layer}"
    usual = np.where(whole[:, ACTIVITY] > 0, whole[:, ACTIVITY], np.nan)
    activity: np.ndarray = planes.maps[..., ACTIVITY] / usual[:, None, None]
    return activity, (
        f"activity: of the map of {facts.layer} that is strongest without a {facts.occluder}"
    )


def _planes(
    images: np.ndarray, maps: np.ndarray, changes: np.ndarray, facts: OcclusionFacts
) -> _Planes:
    """Returns what can be drawn: of a volume the slice where most changes, of a signal curves."""
    centres, window = facts.plan.centres, facts.plan.window
    slices: tuple[int, ...] = ()
    if facts.kind == "signal":
        factor = SIGNAL_WIDTH / facts.plan.image_size[-1]
        curves = signal_pictures(images.reshape(*images.shape[:2], -1))
        along = [centre * factor for centre in centres[-1]]
        size = (float(SIGNAL_HEIGHT), window[-1] * factor)
        return _Planes(curves, maps[:, None], ([SIGNAL_HEIGHT / 2], along), size)
    if facts.kind == "volume":
        sizes = np.abs(np.nan_to_num(changes)).reshape(*changes.shape[:2], -1).max(axis=2)
        chosen, everyone = sizes.argmax(axis=1), np.arange(len(images))
        slices = tuple(int(centres[0][place]) for place in chosen)
        images, maps = images[everyone, :, slices], maps[everyone, chosen]
    shown = input_pictures(images, facts.mean, facts.std)
    return _Planes(shown.images, maps, centres[-2:], window[-2:], slices, shown.note)


def _words(
    places: Places, values: np.ndarray, whole: np.ndarray, target: int, facts: OcclusionFacts
) -> list[str]:
    """Returns what to say under one image."""
    name = facts.names[target]
    if not np.isfinite(values).any():
        return [f"{name}: no finite {'probability' if facts.is_share else 'value'}"]
    how = (lambda value: f"{value:.2f}") if facts.is_share else number
    lines = [f"{name}: {how(float(whole[VALUE]))} without a {facts.occluder}"]
    if places == (None, None):
        lines[0] += "; no position matters"
    for place, verb, colour in zip(places, ("falls", "rises"), ("white", "orange"), strict=True):
        if place is not None:
            lines.append(f"{verb} to {how(float(values[place]))} ({colour} outline)")
    highest = int(whole[CLASS])
    if facts.are_classes and highest not in (target, -1):
        lines.append(f"predicted: {facts.names[highest]}")
    return lines


def _painted(classes: NDArray[Any]) -> Rgb:
    """Returns pixels of classes in their colours, and the shapes of those that share a colour."""
    picture = blank(classes.shape[0], classes.shape[1], NOT_FINITE)
    marks = list[tuple[int, float, float, float]]()
    for kind in np.unique(classes[classes >= 0]).tolist():
        is_here = classes == kind
        picture[is_here] = class_colour(kind)
        if shares_its_colour(kind):
            marks += [(kind, *spot) for spot in _spots(is_here)]
    return marked(picture, marks, WHITE) if marks else picture


def _spots(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, float]]:
    """Yields where a shape fits into each area of the mask: centre x and y, and its radius."""
    from scipy import ndimage  # takes a while, and few pictures have so many classes

    areas, num_areas = ndimage.label(np.pad(mask, 1))
    distances = ndimage.distance_transform_edt(areas)
    for y, x in ndimage.maximum_position(distances, areas, range(1, num_areas + 1)):
        radius = min(_MOST_SPOT, float(distances[y, x]) - 1.5)
        if radius >= _LEAST_SPOT:
            yield int(x) - 1, int(y) - 1, radius
