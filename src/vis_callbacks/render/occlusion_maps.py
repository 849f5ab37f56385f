"""Occlusion maps beside their image, and over the training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
_SQUARE: Colour = (255, 255, 255)
_SQUARE_EDGE: Colour = (0, 0, 0)
# Both kinds of amounts are shares: of the class's probability 1, of the unhidden activity.
SHARE = Scale(low=0.0, high=1.0)
LEAST_FALL = 0.05  # of the probability: less is not worth pointing at


@dataclass(frozen=True, kw_only=True)
class OcclusionView:
    """What is drawn of one image.

    Attributes:
        image: (height, width, 3) uint8.
        probability: (rows, columns) of the explained class, the square at each position.
        whole: The same without a square; None: not known, the highest of ``probability``.
        activity: (rows, columns), the activity of the strongest feature map as a share of that
            without a square; None where the network has no maps.
        classes: (rows, columns), the most probable class.
        lines: What to say under the image.
    """

    image: Picture
    probability: NDArray[Any]
    activity: NDArray[Any] | None
    classes: NDArray[Any]
    whole: float | None = None
    lines: tuple[str, ...] = ()


def place_that_matters(
    probability: NDArray[Any], whole: float | None = None
) -> tuple[int, int] | None:
    """Returns the position (row, column) where the probability falls most; None: none matters.

    Where the largest fall is below 0.05, the lowest place is one of many that are as low.

    Args:
        probability: (rows, columns) of the explained class, the square at each position.
        whole: The same without a square; by default the highest of ``probability``.
    """
    if not np.isfinite(probability).any():
        return None
    highest = whole if whole is not None and math.isfinite(whole) else np.nanmax(probability)
    if highest - np.nanmin(probability) < LEAST_FALL:
        return None
    row, column = np.unravel_index(np.nanargmin(probability), probability.shape)
    return int(row), int(column)


def occlusion_views(
    views: Sequence[OcclusionView],
    centres: tuple[Sequence[float], Sequence[float]],
    window_size: int,
    caption: Sequence[object] = (),
    *,
    class_names: Sequence[str] | None = None,
) -> Picture:
    """Returns the images with their maps: activity, probability and most probable class.

    A place of a map shows what was measured with the square's centre nearest to it, so maps and
    image lie over each other. The outline on the image is the square where the probability was
    lowest; there is none where that is hardly lower than without a square. A class has one
    colour in all runs; from the eleventh on, colours repeat and a shape tells classes apart.

    Args:
        views: One for each image, at most as many as fit into 1,600 px beside and under
            each other.
        centres: (rows, columns), the square's centre at each position in pixels of the image.
        window_size: Side of the square in pixels.
        caption: Lines over the picture.
        class_names: By index; a class beyond them is called by its number.

    Raises:
        ValueError: There is no view.
    """
    if not views:
        raise ValueError("got no view; give one for each image, one at least")
    blocks = [_block(view, centres, window_size) for view in views]
    num_columns = max(1, min(2, len(blocks), (MAX_WIDTH + _BLOCK_GAP) // blocks[0].shape[1]))
    rows = [
        side_by_side(blocks[start : start + num_columns], _BLOCK_GAP)
        for start in range(0, len(blocks), num_columns)
    ]
    legend = _legend([view.classes for view in views], class_names, rows[0].shape[1])
    body = stacked([*rows, legend], 2 * _GAP)
    numbers = np.concatenate([view.probability.ravel() for view in views])
    activities = [view.activity for view in views if view.activity is not None]
    scale = replace(SHARE, is_clipped=any(bool((a > 1).any()) for a in activities))
    units = "probability, or share of the activity" if activities else "probability"
    has_silent = any(not np.isfinite(activity).any() for activity in activities)
    silent = "silent: this map is 0 for the whole image" if has_silent else ""
    lines = [*caption, silent, missing_note(numbers, "probabilities")]
    return with_caption(body, lines, bar=colour_bar(scale, units))


def occlusion_over_time(
    images: Sequence[Picture],
    maps: NDArray[Any],
    steps: Sequence[int],
    centres: tuple[Sequence[float], Sequence[float]],
    caption: Sequence[object] = (),
    *,
    names: Sequence[str] | None = None,
) -> Picture:
    """Returns a table of probability maps: an image a row, a step a column.

    All maps share the scale 0 to 1, so that steps can be compared.

    Args:
        images: (height, width, 3) uint8 each.
        maps: (frames, images, rows, columns).
        steps: One for each frame, oldest first.
        centres: As for `occlusion_views`.
        caption: Lines over the picture.
        names: What each image's map is the probability of, written under the image.

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
        cells += [_map(colour_map(frame[index], scale=SHARE), centres, image) for frame in maps]
        titles = ["image", *(f"step {step:,}" for step in steps)] if index == 0 else None
        rows.append(_row(cells, titles, [label] if label else []))
    lines = [*caption, missing_note(maps, "probabilities")]
    return with_caption(stacked(rows, _GAP), lines, bar=colour_bar(SHARE, "probability"))


def _legend(classes: Sequence[NDArray[Any]], names: Sequence[str] | None, width: int) -> Picture:
    """Returns the classes of some maps beside how they look there, in rows of this width."""
    counts = Counter(int(c) for array in classes for c in array.ravel() if c >= 0)
    listed = sorted(number for number, _ in counts.most_common(_MAX_LISTED))
    height = line_height()
    entries: list[tuple[str, int | None]] = [("most probable class:", None)]
    entries += [(shortened(class_name(number, names), 140), number) for number in listed]
    if hidden := len(counts) - len(listed):
        entries.append((f"and {hidden:,} more", None))
    spots, x, y = [], 0, 0
    for text, number in entries:
        size = text_width(text) + (0 if number is None else height) + 3 * _GAP
        if x + size > width and x:
            x, y = 0, y + height + 1
        spots.append((x, y, text, number))
        x += size
    canvas = blank(y + height, width)
    for x, y, text, number in spots:
        if number is not None:
            swatch = _painted(np.full((height - 2, height - 2), number))
            canvas[y + 1 : y + height - 1, x : x + height - 2] = swatch[:, : width - x]
        write(canvas, text, x + (0 if number is None else height), y)
    return canvas


def _block(
    view: OcclusionView,
    centres: tuple[Sequence[float], Sequence[float]],
    window_size: int,
) -> Picture:
    """Returns one image and its maps, titles on top, words under them."""
    image = view.image
    cells = [
        _outlined(view, centres, window_size),
        _map(colour_map(view.probability, scale=SHARE), centres, image),
        _painted(_map(view.classes, centres, image)),
    ]
    titles = ["image", "probability", "most probable"]
    if view.activity is not None:
        is_silent = not np.isfinite(view.activity).any()
        activity = _map(colour_map(view.activity, scale=SHARE), centres, image)
        cells.insert(1, hatched(*activity.shape[:2]) if is_silent else activity)
        titles.insert(1, "silent" if is_silent else "activity")
    return _row(cells, titles, view.lines)


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


def _outlined(
    view: OcclusionView, centres: tuple[Sequence[float], Sequence[float]], window_size: int
) -> Picture:
    """Returns the image, at its cell's size, with the square that cost most drawn in outline."""
    image = legible(view.image)
    place = place_that_matters(view.probability, view.whole)
    if place is None:
        return image
    row, column = place
    down, across = (image.shape[axis] / view.image.shape[axis] for axis in (0, 1))
    left, top = centres[1][column] - window_size / 2, centres[0][row] - window_size / 2
    right, bottom = left + window_size, top + window_size
    box = (left * across, top * down, right * across - 1, bottom * down - 1)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline=_SQUARE)
    draw.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=_SQUARE_EDGE)
    return np.asarray(picture)
