"""Pictures as arrays: their sizes, how they are put together, and their captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.pictures.colours import NOT_MEASURED, WHITE, Scale, colour_map
from vis_callbacks.pictures.text import (
    CAPTION_SIZE,
    FAINT_INK,
    INK,
    Colour,
    Rgb,
    broken,
    line_height,
    number,
    printable,
    text_width,
    wrapped,
    write,
)

MAX_WIDTH = 1_600  # of a picture
MAX_FRAME_WIDTH = 400  # of a plot, or of one frame of a strip

Box = tuple[float, float, float, float]  # top, left, bottom, right

_MIN_CAPTION_WIDTH = 240  # a narrower picture gets white beside it
_MAX_CAPTION_ROWS = 8  # of one entry: a name of a thousand letters must not bury the picture
_CARD = (374, 215)  # what Time Series shrinks a picture to, in pixels across and down
_LEAST_SIZE = 9  # of a caption's first line when shrunk
_MAX_HEADING_SIZE = 32
_MARGIN = 3
_BAR_WIDTH = 120


def blank(height: int, width: int, colour: Colour = WHITE) -> Rgb:
    """Returns a picture of one colour."""
    # A grey is one number: NumPy fills with it many times faster than with three.
    value = colour[0] if colour[0] == colour[1] == colour[2] else colour
    return np.full((height, width, 3), value, dtype=np.uint8)


def enlarge(image: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Returns (height, width, ...) with each pixel repeated in so many rows and columns."""
    return np.repeat(np.repeat(image, rows, axis=0), columns, axis=1)


def factor_for(size: int, least: int, most: int) -> int:
    """Returns the factor that brings ``size`` to ``least`` pixels without passing ``most``."""
    return max(1, min(math.ceil(least / size), most // size))


def shrink(image: Rgb, most: int = MAX_FRAME_WIDTH) -> Rgb:
    """Returns the picture averaged down until no side is above ``most`` pixels."""
    height, width = image.shape[:2]
    ratio = most / max(height, width)
    if ratio >= 1:
        return image
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def fitted(image: Rgb, least: int = 96, most: int = 160) -> Rgb:
    """Returns a picture at a size at which its details are seen: its longer side within a range.

    It is enlarged without smoothing, or averaged down. A picture of one or a few rows, such as a
    row of features, is stretched to a sixth of its width.
    """
    image = shrink(image, most)
    height, width = image.shape[:2]
    factor = factor_for(max(height, width), least, most)
    rows = max(factor, math.ceil(factor * width / 6 / height)) if height < width / 6 else factor
    result: Rgb = enlarge(image, rows, factor)
    return result


def crossed(tile: Rgb, colour: Colour = (235, 235, 235)) -> Rgb:
    """Returns the tile with its diagonals drawn: what it stands for is silent."""
    image, (height, width) = Image.fromarray(tile), tile.shape[:2]
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, width - 1, height - 1), fill=colour)
    draw.line((0, height - 1, width - 1, 0), fill=colour)
    return np.asarray(image)


def hatched(height: int, width: int) -> Rgb:
    """Returns grey with diagonal stripes: nothing is known here."""
    tile = blank(height, width, NOT_MEASURED)
    tile[np.add.outer(np.arange(height), np.arange(width)) % 6 == 0] = FAINT_INK
    return tile


def outlined(picture: Rgb, box: Box, colour: Colour) -> Rgb:
    """Returns the picture with the outline of a box, and a thin black one inside it.

    The two lines are seen on any ground. A box that reaches beyond the picture is cut off.
    """
    height, width = picture.shape[:2]
    top, left = (max(0, round(end)) for end in box[:2])
    bottom, right = min(round(box[2]), height) - 1, min(round(box[3]), width) - 1
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for inset, ink in enumerate((colour, (0, 0, 0))):
        if bottom - inset >= top + inset and right - inset >= left + inset:
            draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=ink)
    return np.asarray(image)


def side_by_side(pictures: Sequence[Rgb], gap: int = 4) -> Rgb:
    """Returns the pictures in a row on white, their tops at one height."""
    height = max(picture.shape[0] for picture in pictures)
    canvas = blank(height, sum(picture.shape[1] + gap for picture in pictures) - gap)
    x = 0
    for picture in pictures:
        canvas[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + gap
    return canvas


def stacked(pictures: Sequence[Rgb], gap: int = 4) -> Rgb:
    """Returns the pictures one under the other on white, their left sides in one line."""
    width = max(picture.shape[1] for picture in pictures)
    canvas = blank(sum(picture.shape[0] + gap for picture in pictures) - gap, width)
    y = 0
    for picture in pictures:
        canvas[y : y + picture.shape[0], : picture.shape[1]] = picture
        y += picture.shape[0] + gap
    return canvas


def line(text: object, width: int = 0, colour: Colour = FAINT_INK) -> Rgb:
    """Returns one line of text as a picture, at least ``width`` pixels wide."""
    string = printable(text)
    canvas = blank(line_height(), max(width, text_width(string) + 2))
    write(canvas, string, 1, 0, colour=colour)
    return canvas


def with_caption(image: Rgb, lines: Sequence[object], *, bar: Rgb | None = None) -> Rgb:
    """Returns the picture under a caption, which is wrapped to its width and never clipped.

    The first line is drawn darker than the rest, and larger where TensorBoard's Time Series will
    shrink the picture. The others are one paragraph, so that they take few rows. Empty ones are
    left out, and a `colour_bar` stands between the caption and the picture.
    """
    width = max(image.shape[1], _MIN_CAPTION_WIDTH, 0 if bar is None else bar.shape[1])
    room = width - 2 * _MARGIN
    entries = [str(entry) for entry in lines if str(entry)]
    below = [image] if bar is None else [bar, image]
    if not entries:
        return stacked(below)
    head, *rest = entries
    paragraph = "; ".join(" ".join(_few(wrapped(entry, room))) for entry in rest)
    rows = [row for row in broken(paragraph, room) if row]
    details = [_text_block(rows, width, CAPTION_SIZE, FAINT_INK)] if rows else []
    size = _heading_size(head, sum(map(len, [*details, *below])), width)
    heading = _text_block(_few(wrapped(head, room, size)), width, size, INK)
    return stacked([stacked([heading, *details, blank(_MARGIN, width)], gap=0), *below])


def _heading_size(text: str, height: int, width: int) -> int:
    """Returns the size at which two lines of text are still read in a card of Time Series."""
    shrunk = max(1.0, width / _CARD[0], height / _CARD[1])
    size = min(round(_LEAST_SIZE * shrunk), _MAX_HEADING_SIZE)
    while size > CAPTION_SIZE and len(wrapped(text, width - 2 * _MARGIN, size)) > 2:
        size -= 1
    return max(size, CAPTION_SIZE)


def _text_block(rows: Sequence[str], width: int, size: int, ink: Colour) -> Rgb:
    """Returns rows of text, one under the other."""
    height = line_height(size)
    block = blank(height * len(rows), width)
    for index, row in enumerate(rows):
        write(block, row, _MARGIN, index * height, size=size, colour=ink)
    return block


def _few(rows: list[str]) -> list[str]:
    """Returns the first rows and the last, with "…" for the others."""
    if len(rows) <= _MAX_CAPTION_ROWS:
        return rows
    return [*rows[: _MAX_CAPTION_ROWS - 2], "…", rows[-1]]


def colour_bar(scale: Scale, units: str = "") -> Rgb:
    """Returns a bar of the scale's colours between its two ends, with the units after it.

    An end beyond which values were cut off carries a sign: ``≥ 3.2``.
    """
    left, right = number(scale.low), number(scale.high)
    if scale.is_clipped:
        left, right = left if scale.low == 0 else f"≤ {left}", f"≥ {right}"
    right = f"{right} {printable(units)}".rstrip()
    start = text_width(left) + 2 * _MARGIN
    end = start + _BAR_WIDTH
    canvas = blank(line_height(), end + 2 * _MARGIN + text_width(right))
    write(canvas, left, _MARGIN, 0)
    write(canvas, right, end + _MARGIN, 0)
    ramp = np.linspace(0, 1, _BAR_WIDTH)
    canvas[2:-2, start:end] = colour_map(ramp, scale=Scale(low=0, high=1, signed=scale.signed))
    if scale.signed:
        write(canvas, "0", (start + end) // 2, 0, align="centre")
    return canvas
