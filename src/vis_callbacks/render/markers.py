"""Markers of classes: ten shapes that differ without colour, and their legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vis_callbacks.render.colours import CLASS_COLOURS
from vis_callbacks.render.text import Colour, Picture, line_height, text_width, write

OVERSAMPLING = 3  # pictures are drawn this much larger and averaged: Pillow's edges are hard

_EDGE: Colour = (255, 255, 255)
_WRONG: Colour = (20, 20, 20)
_NO_CLASS: Colour = (150, 150, 150)


def _regular(corners: int, turn: float) -> tuple[tuple[float, float], ...]:
    """Returns the corners of a regular polygon around 0."""
    angles = [2 * math.pi * corner / corners + turn for corner in range(corners)]
    return tuple((math.sin(angle), -math.cos(angle)) for angle in angles)


def _plus(arm: float) -> tuple[tuple[float, float], ...]:
    """Returns the corners of an upright cross whose arms are ``2 * arm`` wide."""
    quarter = ((-arm, -1.0), (arm, -1.0), (arm, -arm))
    corners = list(quarter)
    for _ in range(3):
        quarter = tuple((-y, x) for x, y in quarter)  # type: ignore[assignment]
        corners += quarter
    return tuple(corners)


def _turned(corners: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    half = math.sqrt(0.5)
    return tuple((half * (x - y), half * (x + y)) for x, y in corners)


def _star() -> tuple[tuple[float, float], ...]:
    outer, inner = _regular(5, 0.0), _regular(5, math.pi / 5)
    return tuple(
        point
        for (x, y), (u, v) in zip(outer, inner, strict=True)
        for point in ((1.2 * x, 1.2 * y), (0.5 * u, 0.5 * v))
    )


_SQUARE = tuple((0.85 * x, 0.85 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)))
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    _regular(24, 0.0),  # a disc
    _SQUARE,
    _regular(3, 0.0),
    _regular(4, 0.0),
    _regular(3, math.pi),
    _plus(0.38),
    _star(),
    _turned(_plus(0.38)),
    _regular(3, math.pi / 2),
    _regular(3, -math.pi / 2),
)
NUM_SHAPES = len(_SHAPES)


def draw_marker(
    draw: ImageDraw.ImageDraw, x: float, y: float, kind: int, radius: float, is_wrong: bool
) -> None:
    """Draws the marker of one class; of a misclassified sample within a black ring.

    Ten classes differ in colour and in shape; further ones combine the two anew, so that a
    hundred classes still differ in one of them.

    Args:
        draw: Of a picture `OVERSAMPLING` times the size.
        x: Its centre, in pixels of that picture.
        y: Likewise.
        kind: Number of the class; below 0, a grey dot: no class known.
        radius: In pixels of that picture.
        is_wrong: Whether to draw the ring.
    """
    if kind < 0:
        radius, shape, colour = 0.6 * radius, _SHAPES[0], _NO_CLASS
    else:
        colour = CLASS_COLOURS[kind % len(CLASS_COLOURS)]
        shape = _SHAPES[(kind + kind // len(CLASS_COLOURS)) % NUM_SHAPES]
    if is_wrong:
        ring = 1.25 * radius + 1.5 * OVERSAMPLING
        draw.ellipse((x - ring, y - ring, x + ring, y + ring), outline=_WRONG, width=OVERSAMPLING)
    corners = [(x + radius * u, y + radius * v) for u, v in shape]
    draw.polygon(corners, fill=colour, outline=_EDGE, width=1)


def marker_legend(entries: Sequence[tuple[str, int]], width: int) -> Picture:
    """Returns (text, kind of marker) in columns, as many as fit, read downwards."""
    height = line_height()
    column_width = max(text_width(text) for text, _ in entries) + 2 * height
    num_columns = max(1, width // column_width)
    num_rows = -(-len(entries) // num_columns)
    spots = [
        (index // num_rows * (width // num_columns), index % num_rows * height)
        for index in range(len(entries))
    ]
    image = Image.new("RGB", (width * OVERSAMPLING, num_rows * height * OVERSAMPLING), "white")
    draw = ImageDraw.Draw(image)
    for (x, y), (_, kind) in zip(spots, entries, strict=True):
        centre = OVERSAMPLING * (x + height / 2), OVERSAMPLING * (y + height / 2)
        draw_marker(draw, *centre, kind, 4.5 * OVERSAMPLING, is_wrong=False)
    legend = np.array(image.reduce(OVERSAMPLING))
    for (x, y), (text, _) in zip(spots, entries, strict=True):
        write(legend, text, x + height + 2, y)
    return legend
