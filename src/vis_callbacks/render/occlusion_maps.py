"""Occlusion maps beside their image, and over the training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import (
    NOT_FINITE,
    WHITE,
    Scale,
    colour_map,
    missing_note,
)
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    hatched,
    legible,
    side_by_side,
    stacked,
)
from vis_callbacks.render.markers import class_colour, marked, shares_its_colour
from vis_callbacks.render.text import (
    FAINT_INK,
    Colour,
    Picture,
    class_name,
    line_height,
    shortened,
    text_width,
    write,
)

_GAP = 4
_BLOCK_GAP = 18
_MAX_LISTED = 40
_LEAST_SPOT, _MOST_SPOT = 2.5, 4.0  # radius of a class's shape, in pixels
_EDGE: Colour = (0, 0, 0)  # inside an outline, so that it is seen on any image
# Both kinds of amounts are shares: of the class's probability 1, of the unhidden activity.
SHARE = Scale(low=0.0, high=1.0)
LEAST_CHANGE = 0.05  # of the probability: less is not worth pointing at


class Outline(NamedTuple):
    """How a place is outlined, in words and as a colour."""

    name: str
    colour: Colour


FALL = Outline("white", (255, 255, 255))
RISE = Outline("orange", (255, 140, 0))


class Places(NamedTuple):
    """The positions (row, column) where a value falls and where it rises most; None: nowhere."""

    fall: tuple[int, int] | None
    rise: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class OcclusionView:
    """What is drawn of one image.

    Attributes:
        image: (height, width, 3) uint8.
        probability: (rows, columns) of the explained class, the square at each position; or
            what else the scale is of.
        activity: (rows, columns), the activity of the strongest feature map as a share of that
            without a square; None where the network has no maps.
        classes: (rows, columns), the most probable class; None where there is one output only.
        places: What is outlined; None: where ``probability`` is lowest.
        lines: What to say under the image.
    """

    image: Picture
    probability: NDArray[Any]
    activity: NDArray[Any] | None
    classes: NDArray[Any] | None
    places: Places | None = None
    lines: tuple[str, ...] = ()


def places_that_matter(
    values: NDArray[Any], whole: float | None = None, least: float = LEAST_CHANGE
) -> Places:
    """Returns where the value falls most and where it rises most, the square at each position.

    Where the largest change is below ``least``, the place is one of many that are as good.

    Args:
        values: (rows, columns), such as the probability of the explained class.
        whole: The same without a square; by default the highest of ``values``.
        least: What a change must reach.
    """
    if not np.isfinite(values).any():
        return Places(None, None)
    usual = float(whole) if whole is not None and math.isfinite(whole) else np.nanmax(values)

    def place(changes: NDArray[Any]) -> tuple[int, int] | None:
        if np.nanmax(changes) < least:
            return None
        row, column = np.unravel_index(np.nanargmax(changes), changes.shape)
        return int(row), int(column)

    return Places(fall=place(usual - values), rise=place(values - usual))


def occlusion_views(
    views: Sequence[OcclusionView],
    centres: tuple[Sequence[float], Sequence[float]],
    window: float | tuple[float, float],
    caption: Sequence[object] = (),
    *,
    class_names: Sequence[str] | None = None,
    scale: Scale = SHARE,
    titles: tuple[str, str] = ("probability", "most probable"),
    noun: str = "image",
) -> Picture:
    """Returns the images with their maps: activity, probability and most probable class.

    A place of a map shows what was measured with the square's centre nearest to it, so maps and
    image lie over each other. The outlines on the image are the square where the probability
    fell most (white) and where it rose most (orange). A class has one colour in all runs; from
    the eleventh on, colours repeat and a shape tells classes apart.

    Args:
        views: One for each image, at most as many as fit into 1,600 px beside and under
            each other.
        centres: (rows, columns), the square's centre at each position in pixels of the image.
        window: Side of the square in pixels, or (height, width).
        caption: Lines over the picture.
        class_names: By index; a class beyond them is called by its number.
        scale: Of the probabilities.
        titles: Of the maps of probability and of the most probable class.
        noun: What an image is called.

    Raises:
        ValueError: There is no view.
    """
    if not views:
        raise ValueError("got no view; give one for each image, one at least")
    sides = window if isinstance(window, tuple) else (window, window)
    views = [
        view if view.places else replace(view, places=places_that_matter(view.probability))
        for view in views
    ]
    blocks = [_block(view, centres, sides, scale, (noun, *titles)) for view in views]
    num_columns = max(1, min(2, len(blocks), (MAX_WIDTH + _BLOCK_GAP) // blocks[0].shape[1]))
    rows = [
        side_by_side(blocks[start : start + num_columns], _BLOCK_GAP)
        for start in range(0, len(blocks), num_columns)
    ]
    legend = _legend(views, class_names, titles, rows[0].shape[1])
    body = stacked([*rows, *legend], 2 * _GAP)
    numbers = np.concatenate([view.probability.ravel() for view in views])
    activities = [view.activity for view in views if view.activity is not None]
    bars = [colour_bar(scale, titles[0])]
    if activities:
        is_clipped = any(bool((activity > 1).any()) for activity in activities)
        share = replace(SHARE, is_clipped=is_clipped)
        if scale == SHARE:
            bars = [colour_bar(share, f"{titles[0]}, or share of the activity")]
        else:
            bars.append(colour_bar(share, "share of the activity"))
    has_silent = any(not np.isfinite(activity).any() for activity in activities)
    silent = "silent: this map is 0 for the whole image" if has_silent else ""
    lines = [*caption, silent, missing_note(numbers, "probabilities")]
    return with_caption(body, lines, bar=stacked(bars, 1))


def occlusion_over_time(
    images: Sequence[Picture],
    maps: NDArray[Any],
    steps: Sequence[int],
    centres: tuple[Sequence[float], Sequence[float]],
    caption: Sequence[object] = (),
    *,
    names: Sequence[str] | None = None,
    scale: Scale = SHARE,
    units: str = "probability",
    noun: str = "image",
) -> Picture:
    """Returns a table of probability maps: an image a row, a step a column.

    All maps share one scale, so that steps can be compared.

    Args:
        images: (height, width, 3) uint8 each.
        maps: (frames, images, rows, columns).
        steps: One for each frame, oldest first.
        centres: As for `occlusion_views`.
        caption: Lines over the picture.
        names: What each image's map is the probability of, written under the image.
        scale: Of the maps.
        units: Of the scale.
        noun: What an image is called.

    Raises:
        ValueError: The numbers of frames, steps, images and names do not fit.
    """
    maps = np.asarray(maps)
    labels = [""] * len(images) if names is None else list(names)
    if maps.ndim != 4 or maps.shape[:2] != (len(steps), len(images)) or not maps.size:
        raise ValueError(
            f"maps of shape {maps.shape} do not fit {len(steps)} steps and {len(images)} images; "
            "give (frames, images, rows, columns)"
        )
    if len(labels) != len(images):
        raise ValueError(f"got {len(labels)} names for {len(images)} images; give one for each")
    rows = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        cells = [legible(image)]
        cells += [_map(colour_map(frame[index], scale=scale), centres, image) for frame in maps]
        titles = [noun, *(f"step {step:,}" for step in steps)] if index == 0 else None
        rows.append(_row(cells, titles, [label] if label else []))
    lines = [*caption, missing_note(maps, "probabilities")]
    return with_caption(stacked(rows, _GAP), lines, bar=colour_bar(scale, units))


def _legend(
    views: Sequence[OcclusionView],
    names: Sequence[str] | None,
    titles: tuple[str, str],
    width: int,
) -> list[Picture]:
    """Returns what the outlines mean, and the classes beside how they look in the maps."""
    size = line_height() - 2
    lines = []
    verbs = ((FALL, "falls", "fall"), (RISE, "rises", "rise"))
    outlines: list[tuple[str, Picture | None]] = [
        (f"where it {verb} most", _outlined(np.full((size, size, 3), 120, np.uint8), box, colour))
        for (_, colour), verb, side in verbs
        for box in [(0, 0, size - 1, size - 1)]
        if any(getattr(view.places, side) for view in views)
    ]
    if outlines:
        lines.append(_entries([(f"{titles[0]}:", None), *outlines], width))
    classes = [view.classes for view in views if view.classes is not None]
    if classes:
        counts = Counter(int(c) for array in classes for c in array.ravel() if c >= 0)
        listed = sorted(number for number, _ in counts.most_common(_MAX_LISTED))
        entries: list[tuple[str, Picture | None]] = [(f"{titles[1]}:", None)]
        entries += [
            (shortened(class_name(number, names), 140), _painted(np.full((size, size), number)))
            for number in listed
        ]
        if hidden := len(counts) - len(listed):
            entries.append((f"and {hidden:,} more", None))
        lines.append(_entries(entries, width))
    return lines


def _entries(entries: Sequence[tuple[str, Picture | None]], width: int) -> Picture:
    """Returns words, each behind its swatch, in rows of this width."""
    height = line_height()
    spots, x, y = [], 0, 0
    for text, swatch in entries:
        size = text_width(text) + (0 if swatch is None else height) + 3 * _GAP
        if x + size > width and x:
            x, y = 0, y + height + 1
        spots.append((x, y, text, swatch))
        x += size
    canvas = blank(y + height, width)
    for x, y, text, swatch in spots:
        if swatch is not None:
            canvas[y + 1 : y + height - 1, x : x + height - 2] = swatch[:, : width - x]
        write(canvas, text, x + (0 if swatch is None else height), y)
    return canvas


def _block(
    view: OcclusionView,
    centres: tuple[Sequence[float], Sequence[float]],
    window: tuple[float, float],
    scale: Scale,
    titles: tuple[str, str, str],
) -> Picture:
    """Returns one image and its maps, titles on top, words under them."""
    image = view.image
    shown = [titles[0]]
    cells = [_with_outlines(view, centres, window)]
    if view.activity is not None:
        is_silent = not np.isfinite(view.activity).any()
        activity = _map(colour_map(view.activity, scale=SHARE), centres, image)
        cells.append(hatched(*activity.shape[:2]) if is_silent else activity)
        shown.append("silent" if is_silent else "activity")
    cells.append(_map(colour_map(view.probability, scale=scale), centres, image))
    shown.append(titles[1])
    if view.classes is not None:
        cells.append(_painted(_map(view.classes, centres, image)))
        shown.append(titles[2])
    return _row(cells, shown, view.lines)


def _row(cells: Sequence[Picture], titles: Sequence[str] | None, lines: Sequence[str]) -> Picture:
    """Returns cells side by side, each under its title, and lines under all of them."""
    width = max(cell.shape[1] for cell in cells)
    if titles is not None:
        width = max(width, *(text_width(title) + 2 for title in titles))
    names = [None] * len(cells) if titles is None else titles
    padded = [_titled(cell, name, width) for cell, name in zip(cells, names, strict=True)]
    row = side_by_side(padded, _GAP)
    words = blank(len(lines) * line_height(), row.shape[1])
    for index, line in enumerate(lines):
        text = shortened(line, row.shape[1], head_share=0.7)
        write(words, text, 0, index * line_height(), colour=FAINT_INK)
    return stacked([row, words], 1) if lines else row


def _titled(cell: Picture, title: str | None, width: int) -> Picture:
    top = 0 if title is None else line_height() + 1
    canvas = blank(top + cell.shape[0], width)
    canvas[top:, : cell.shape[1]] = cell
    if title:
        write(canvas, title, 0, 0, colour=FAINT_INK)
    return canvas


def _map(
    values: NDArray[Any], centres: tuple[Sequence[float], Sequence[float]], image: Picture
) -> NDArray[Any]:
    """Returns the positions' values or colours, each where the square's centre was nearest."""
    height, width = legible(image).shape[:2]
    rows = _nearest(centres[0], _pixel_centres(height, image.shape[0]))
    columns = _nearest(centres[1], _pixel_centres(width, image.shape[1]))
    return np.asarray(values[rows[:, None], columns[None, :]])


def _painted(classes: NDArray[Any]) -> Picture:
    """Returns pixels of classes in their colours; below 0 no class was found.

    Areas of classes whose colour is another one's, too, bear their shape where they are widest.
    """
    picture = blank(classes.shape[0], classes.shape[1], NOT_FINITE)
    present = [int(number) for number in np.unique(classes) if number >= 0]
    for number in present:
        picture[classes == number] = class_colour(number)
    marks = [
        (number, *spot)
        for number in filter(shares_its_colour, present)
        for spot in _spots(classes == number)
    ]
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


def _pixel_centres(num_pixels: int, length: int) -> NDArray[np.float64]:
    """Returns where the pixels of an enlarged or shrunk side lie on the side itself."""
    return (np.arange(num_pixels) + 0.5) * length / num_pixels


def _nearest(centres: Sequence[float], places: NDArray[np.float64]) -> NDArray[np.intp]:
    distances = np.abs(places[:, None] - np.asarray(centres, dtype=np.float64))
    nearest: NDArray[np.intp] = np.argmin(distances, axis=1)
    return nearest


def _with_outlines(
    view: OcclusionView,
    centres: tuple[Sequence[float], Sequence[float]],
    window: tuple[float, float],
) -> Picture:
    """Returns the image, at its cell's size, with the squares that change most in outline."""
    picture = legible(view.image)
    down, across = (picture.shape[axis] / view.image.shape[axis] for axis in (0, 1))
    places = view.places or Places(None, None)
    for place, outline in ((places.rise, RISE), (places.fall, FALL)):
        if place is None:
            continue
        top, left = centres[0][place[0]] - window[0] / 2, centres[1][place[1]] - window[1] / 2
        right, bottom = (left + window[1]) * across - 1, (top + window[0]) * down - 1
        box = (left * across, top * down, right, bottom)
        picture = _outlined(picture, box, outline.colour)
    return picture


def _outlined(picture: Picture, box: tuple[float, float, float, float], colour: Colour) -> Picture:
    """Returns the picture with a box (left, top, right, bottom) drawn on it."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = box
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour)
    if right - left > 2 and bottom - top > 2:
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=_EDGE)
    return np.asarray(image)
