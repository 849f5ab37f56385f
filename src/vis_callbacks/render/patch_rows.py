"""Rows of patches: what excites each unit most, the strongest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import NOT_MEASURED
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    crossed,
    enlarge,
    factor_for,
    shrink,
    stacked,
)
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Colour,
    Picture,
    line_height,
    shortened,
    wrapped,
    write,
)

_LEAST_TILE = 56  # pixels of the longer side
_MOST_TILE = 96
_LEAST_CELL = 62  # wide enough for a value and a few letters of a class
_BORDER = 2
_GAP = 4
_TITLE_WIDTH = 176
_SILENT_HEIGHT = 30
_EMPTY: Colour = (246, 246, 246)
_CROSS: Colour = (225, 225, 225)
_BOX: tuple[Colour, ...] = ((0, 0, 0), (255, 255, 255))  # from outside: seen on any ground

Box = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One patch of a row.

    Attributes:
        picture: (height, width, 3).
        labels: Lines under it.
        colour: Of its border: its class.
        box: Top, left, bottom and right of a frame within the picture; None: none.
    """

    picture: Picture
    labels: Sequence[str] = ()
    colour: Colour = NOT_MEASURED
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class PatchRow:
    """What is shown of one unit.

    Attributes:
        title: Its name.
        notes: Lines under the name.
        patches: The strongest first.
        missing: Where there is no patch at all: why.
    """

    title: str
    notes: Sequence[str] = ()
    patches: Sequence[Patch] = ()
    missing: str = ""


def patch_rows(
    rows: Sequence[PatchRow], num_columns: int, caption: Sequence[object] = ()
) -> Picture:
    """Returns the rows one under the other, the patches of all at one scale.

    A row with fewer patches than columns ends in crossed tiles; one without any says why over
    their whole length.

    Args:
        rows: At least one.
        num_columns: Patches a row. What does not fit into 1,600 px is left out, and said.
        caption: Lines over the picture.

    Raises:
        ValueError: There are no rows, or a row has more patches than columns.
    """
    if not rows:
        raise ValueError("got no rows; give one for each unit")
    if any(len(row.patches) > num_columns for row in rows):
        raise ValueError(f"a row has more than num_columns={num_columns} patches; give fewer")
    tile = _tile_of([patch.picture for row in rows for patch in row.patches])
    cell = max(_LEAST_CELL, tile + 2 * _BORDER) + _GAP
    shown = min(num_columns, max(1, (MAX_WIDTH - _TITLE_WIDTH) // cell))
    strips = [_strip(row, tile, cell, shown) for row in rows]
    rule = blank(1, _TITLE_WIDTH + cell * shown, NOT_MEASURED)
    parts = [part for strip in strips for part in (rule, strip)][1:]
    left_out = num_columns - shown
    note = f"{left_out} weaker patches of each unit do not fit" if left_out else ""
    return with_caption(stacked(parts, gap=_GAP), [*caption, note])


def _tile_of(pictures: Sequence[Picture]) -> int:
    """Returns the pixels of a tile that holds the largest picture, enlarged or averaged down."""
    largest = max((max(picture.shape[:2]) for picture in pictures), default=_LEAST_TILE)
    return min(_MOST_TILE, largest * factor_for(largest, _LEAST_TILE, _MOST_TILE))


def _notes_of(row: PatchRow) -> list[tuple[str, bool]]:
    """Returns the lines beside a row, and whether it is the title."""
    lines = [(shortened(row.title, _TITLE_WIDTH - 2 * _GAP), True)]
    for note in row.notes:
        lines += [(line, False) for line in wrapped(note, _TITLE_WIDTH - 2 * _GAP, 11)]
    return lines


def _strip(row: PatchRow, tile: int, cell: int, shown: int) -> Picture:
    """Returns one row."""
    notes = _notes_of(row)
    num_labels = max((len(patch.labels) for patch in row.patches), default=0)
    height = tile + 2 * _BORDER + num_labels * line_height() if row.patches else _SILENT_HEIGHT
    height = max(height, len(notes) * line_height())
    strip = blank(height, _TITLE_WIDTH + cell * shown)
    for line, (text, is_title) in enumerate(notes):
        write(strip, text, _GAP, line * line_height(), colour=INK if is_title else FAINT_INK)
    for column, patch in enumerate(row.patches[:shown]):
        _draw_patch(strip, patch, _TITLE_WIDTH + column * cell, tile, cell - _GAP)
    for column in range(len(row.patches) if row.patches else shown, shown):
        x = _TITLE_WIDTH + column * cell + _BORDER
        strip[_BORDER : _BORDER + tile, x : x + tile] = crossed(blank(tile, tile, _EMPTY), _CROSS)
    if not row.patches:
        right = strip.shape[1] - _GAP
        strip[:_SILENT_HEIGHT, _TITLE_WIDTH:right] = _EMPTY
        text, y = (
            shortened(row.missing, right - _TITLE_WIDTH),
            (_SILENT_HEIGHT - line_height()) // 2,
        )
        write(strip, text, (_TITLE_WIDTH + right) // 2, y, align="centre", colour=FAINT_INK)
    return strip


def _draw_patch(strip: Picture, patch: Patch, x: int, tile: int, width: int) -> None:
    """Draws one patch with its border, and what is said of it."""
    picture = _scaled(patch, tile)
    height = tile + 2 * _BORDER
    strip[:height, x : x + height] = patch.colour
    strip[_BORDER : height - _BORDER, x + _BORDER : x + height - _BORDER] = _EMPTY
    top = _BORDER + (tile - picture.shape[0]) // 2
    left = x + _BORDER + (tile - picture.shape[1]) // 2
    strip[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    for line, label in enumerate(patch.labels):
        write(strip, shortened(label, width), x, height + line * line_height())


def _scaled(patch: Patch, tile: int) -> Picture:
    """Returns the picture enlarged or averaged down into the tile, its box drawn."""
    picture = patch.picture
    before = picture.shape[0], picture.shape[1]
    largest = max(before)
    if largest > tile:
        picture = shrink(picture, max(1, round(before[1] * tile / largest)))[:tile]
    else:
        picture = enlarge(picture, tile // largest)
    if patch.box is not None:
        ratios = picture.shape[0] / before[0], picture.shape[1] / before[1]
        picture = _framed(picture, patch.box, ratios)
    return picture


def _framed(picture: Picture, box: Box, ratios: tuple[float, float]) -> Picture:
    """Returns the picture with a frame within the box."""
    picture = picture.copy()
    top, bottom = round(box[0] * ratios[0]), round(box[2] * ratios[0]) - 1
    left, right = round(box[1] * ratios[1]), round(box[3] * ratios[1]) - 1
    for inset, colour in enumerate(_BOX):
        y, x = top + inset, left + inset
        below, beside = (
            min(bottom - inset, len(picture) - 1),
            min(right - inset, picture.shape[1] - 1),
        )
        if below <= y or beside <= x:
            break
        picture[[y, below], x : beside + 1] = colour
        picture[y : below + 1, [x, beside]] = colour
    return picture
