"""Occlusion maps beside their image, and over the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import (
    CLASS_COLOURS,
    NOT_FINITE,
    NOT_MEASURED,
    Scale,
    colour_map,
    missing_note,
)
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    enlarge,
    factor_for,
    hatched,
    shrink,
    side_by_side,
    stacked,
)
from vis_callbacks.render.text import (
    FAINT_INK,
    Colour,
    Picture,
    line_height,
    printable,
    shortened,
    text_width,
    write,
)

_LEAST_CELL = 96  # pixels of a cell's width
_MOST_CELL = 160
_GAP = 4
_BLOCK_GAP = 18
_MAX_CLASSES = len(CLASS_COLOURS)
_SQUARE: Colour = (255, 255, 255)
_SQUARE_EDGE: Colour = (0, 0, 0)
# Both kinds of amounts are shares: of the class's probability 1, of the unhidden activity.
SHARE = Scale(low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class OcclusionView:
    """What is drawn of one image.

    Attributes:
        image: (height, width, 3) uint8.
        probability: (rows, columns) of the explained class, the square at each position.
        activity: (rows, columns), the activity of the strongest feature map as a share of that
            without a square; None where the network has no maps.
        classes: (rows, columns), the most probable class.
        lines: What to say under the image.
    """

    image: Picture
    probability: NDArray[Any]
    activity: NDArray[Any] | None
    classes: NDArray[Any]
    lines: tuple[str, ...] = ()


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
    lowest.

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
    legend = _Legend.of([view.classes for view in views], class_names)
    blocks = [_block(view, centres, window_size, legend) for view in views]
    num_columns = max(1, min(2, len(blocks), (MAX_WIDTH + _BLOCK_GAP) // blocks[0].shape[1]))
    rows = [
        side_by_side(blocks[start : start + num_columns], _BLOCK_GAP)
        for start in range(0, len(blocks), num_columns)
    ]
    body = stacked([*rows, legend.drawn(rows[0].shape[1])], 2 * _GAP)
    numbers = np.concatenate([view.probability.ravel() for view in views])
    activities = [view.activity for view in views if view.activity is not None]
    scale = replace(SHARE, is_clipped=any(bool((a > 1).any()) for a in activities))
    units = "probability, or share of the activity" if activities else "probability"
    lines = [*caption, missing_note(numbers, "probabilities")]
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
        cells = [_cell(image)]
        cells += [_map(colour_map(frame[index], scale=SHARE), centres, image) for frame in maps]
        titles = ["image", *(f"step {step:,}" for step in steps)] if index == 0 else None
        rows.append(_row(cells, titles, [label] if label else []))
    lines = [*caption, missing_note(maps, "probabilities")]
    return with_caption(stacked(rows, _GAP), lines, bar=colour_bar(SHARE, "probability"))


@dataclass(frozen=True)
class _Legend:
    """Which colour each of the classes shown has; the rare ones beyond ten share grey."""

    colours: dict[int, Colour]
    names: Sequence[str] | None
    num_others: int

    @classmethod
    def of(cls, classes: Sequence[NDArray[Any]], names: Sequence[str] | None) -> _Legend:
        counts = Counter(int(c) for array in classes for c in array.ravel() if c >= 0)
        if max(counts, default=0) < _MAX_CLASSES:  # a class then keeps its colour over the steps
            return cls({number: CLASS_COLOURS[number] for number in sorted(counts)}, names, 0)
        chosen = [number for number, _ in counts.most_common(_MAX_CLASSES)]
        colours = dict(zip(sorted(chosen), CLASS_COLOURS, strict=False))
        return cls(colours, names, len(counts) - len(colours))

    def painted(self, classes: NDArray[Any]) -> Picture:
        """Returns the classes in their colours; below 0 no class was found."""
        height, width = classes.shape
        picture = blank(height, width, NOT_MEASURED)
        for number, colour in self.colours.items():
            picture[classes == number] = colour
        picture[classes < 0] = NOT_FINITE
        return picture

    def drawn(self, width: int) -> Picture:
        """Returns the names beside their colours, in rows of this width."""
        height = line_height()
        entries = [(class_name(number, self.names), c) for number, c in self.colours.items()]
        if self.num_others:
            entries.append((f"{self.num_others:,} others", NOT_MEASURED))
        texts = [("most probable class:", None), *((shortened(t, 140), c) for t, c in entries)]
        spots, x, y = [], 0, 0
        for text, colour in texts:
            size = text_width(text) + (height if colour else 0) + 3 * _GAP
            if x + size > width and x:
                x, y = 0, y + height + 1
            spots.append((x, y, text, colour))
            x += size
        canvas = blank(y + height, width)
        for x, y, text, colour in spots:
            if colour is not None:
                canvas[y + 2 : y + height - 1, x : x + height - 3] = colour
            write(canvas, text, x + (height if colour is not None else 0), y)
        return canvas


def class_name(number: int, names: Sequence[str] | None) -> str:
    """Returns the name of a class, or its number where it has none."""
    if names is not None and 0 <= number < len(names):
        return printable(names[number])
    return f"class {number}"


def _block(
    view: OcclusionView,
    centres: tuple[Sequence[float], Sequence[float]],
    window_size: int,
    legend: _Legend,
) -> Picture:
    """Returns one image and its maps, titles on top, words under them."""
    image = view.image
    maps = [colour_map(view.probability, scale=SHARE), legend.painted(view.classes)]
    titles = ["image", "probability", "most probable"]
    cells = [_cell(_outlined(view, centres, window_size)), *(_map(m, centres, image) for m in maps)]
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


def _cell(image: Picture) -> Picture:
    """Returns the image at a legible size."""
    image = shrink(image, _MOST_CELL)
    enlarged: Picture = enlarge(image, factor_for(image.shape[1], _LEAST_CELL, _MOST_CELL))
    return enlarged


def _map(
    colours: Picture, centres: tuple[Sequence[float], Sequence[float]], image: Picture
) -> Picture:
    """Returns the positions' colours, each where the square's centre was nearest."""
    height, width = _cell(image).shape[:2]
    rows = _nearest(centres[0], _pixel_centres(height, image.shape[0]))
    columns = _nearest(centres[1], _pixel_centres(width, image.shape[1]))
    picture: Picture = colours[rows[:, None], columns[None, :]]
    return picture


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
    image = _cell(view.image)
    if not np.isfinite(view.probability).any():
        return image
    lowest = np.nanargmin(view.probability)
    row, column = (int(i) for i in np.unravel_index(lowest, view.probability.shape))
    down, across = (image.shape[axis] / view.image.shape[axis] for axis in (0, 1))
    left, top = centres[1][column] - window_size / 2, centres[0][row] - window_size / 2
    right, bottom = left + window_size, top + window_size
    box = (left * across, top * down, right * across - 1, bottom * down - 1)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline=_SQUARE)
    draw.rectangle((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=_SQUARE_EDGE)
    return np.asarray(picture)
