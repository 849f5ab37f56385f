"""Tables of tiles: pictures in rows and columns with titles, names, lines and one colour bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vis_callbacks.pictures.canvas import (
    MAX_FRAME_WIDTH,
    MAX_WIDTH,
    Box,
    blank,
    colour_bar,
    crossed,
    fitted,
    hatched,
    outlined,
    side_by_side,
    stacked,
    with_caption,
)
from vis_callbacks.pictures.colours import Scale
from vis_callbacks.pictures.text import (
    FAINT_INK,
    INK,
    LABEL_SIZE,
    Colour,
    Rgb,
    line_height,
    shortened,
    text_width,
    wrapped,
    write,
)

_GAP = 4
_BLOCK_GAP = 16
_BORDER = 2
_MAX_NAME_WIDTH = 176
_EMPTY: Colour = (246, 246, 246)
_CROSS: Colour = (225, 225, 225)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a table.

    Attributes:
        picture: (height, width, 3); None is drawn hatched: nothing is known.
        title: Over it.
        lines: Under it, the first one darker. What does not fit is shortened.
        border: Colour of a border of 2 pixels.
        boxes: (top, left, bottom, right) in pixels of the picture, and a colour: outlines that
            are drawn once the picture has its size.
        is_crossed: Its diagonals are drawn: what it stands for is silent.
    """

    picture: Rgb | None
    title: str = ""
    lines: Sequence[str] = ()
    border: Colour | None = None
    boxes: Sequence[tuple[Box, Colour]] = ()
    is_crossed: bool = False


@dataclass(frozen=True, kw_only=True)
class TileRow:
    """One row of a table.

    Attributes:
        tiles: From left to right.
        name: To their left.
        notes: Lines under the name, fainter, wrapped.
        lines: Under the whole row.
        missing: Where there is no tile at all, the reason, written along the row.
        colour: Of the first note.
    """

    tiles: Sequence[Tile]
    name: str = ""
    notes: Sequence[str] = ()
    lines: Sequence[str] = ()
    missing: str = ""
    colour: Colour = FAINT_INK


def tile_table(
    rows: Sequence[TileRow],
    caption: Sequence[object] = (),
    *,
    columns: Sequence[str] = (),
    scale: Scale | None = None,
    units: str = "",
    tile: tuple[int, int] = (96, 160),
    min_width: int = 0,
    rows_across: int = 1,
    legend: Rgb | None = None,
    corner: str = "",
) -> Rgb:
    """Returns the rows one under the other, their tiles in columns.

    A row with fewer tiles than the longest one ends in crossed places, unless it has none.

    Args:
        rows: One at least.
        caption: Lines over the picture.
        columns: Titles of the columns.
        scale: The one scale of all tiles, drawn as a colour bar.
        units: Of the scale.
        tile: The least and the most pixels of a tile's longer side.
        min_width: Of a column: room for a few letters under a small tile.
        rows_across: So many rows side by side, as far as 1,600 px allow.
        legend: Drawn under the table.
        corner: What the columns' titles are, written left of them.
    """
    cells = [[_cell(one, tile, min_width) for one in row.tiles] for row in rows]
    names = [_name(row) for row in rows]
    name_width = max((name.shape[1] for name in names if name is not None), default=0)
    if corner:
        name_width = max(name_width, text_width(corner))
    num_columns = max((len(row) for row in cells), default=1) or 1
    width = max(
        [tile[0] if any(cells) else MAX_FRAME_WIDTH]  # room for what is missing, and the caption
        + [cell.shape[1] for row in cells for cell in row]
        + [text_width(title) + 2 for title in columns]
    )
    blocks = [
        _row(row, name, one, (name_width, num_columns, width))
        for row, name, one in zip(cells, names, rows, strict=True)
    ]
    across = min(rows_across, len(blocks), (MAX_WIDTH + _BLOCK_GAP) // blocks[0].shape[1])
    if across > 1:
        blocks = _in_rows(blocks, across, _BLOCK_GAP)
    start = name_width + (2 * _GAP if name_width else 0)
    if columns or corner:
        head = blank(line_height(), blocks[0].shape[1])
        write(head, corner, name_width, 0, align="right", colour=FAINT_INK)
        for column, title in enumerate(columns):
            write(head, title, start + column * (width + _GAP), 0, colour=FAINT_INK)
        blocks.insert(0, head)
    body = stacked([*blocks, *([] if legend is None else [legend])], 2 * _GAP)
    return with_caption(body, caption, bar=None if scale is None else colour_bar(scale, units))


def tile_grid(
    tiles: Sequence[Tile],
    caption: Sequence[object] = (),
    *,
    columns: int | None = None,
    tile: tuple[int, int] = (96, 160),
    min_width: int = 28,
    gap: int = _GAP,
) -> Rgb:
    """Returns the tiles row by row, as many columns as rows unless told, at most 1,600 px wide.

    The arguments are those of `tile_table`.
    """
    cells = [_cell(one, tile, min_width if one.title or one.lines else 0) for one in tiles]
    width = max(cell.shape[1] for cell in cells)
    wanted = math.ceil(math.sqrt(len(cells))) if columns is None else columns
    across = max(1, min(wanted, len(cells), (MAX_WIDTH + gap) // (width + gap)))
    body = stacked(_in_rows([_widened(cell, width) for cell in cells], across, gap), gap)
    return with_caption(body, caption)


def _cell(tile: Tile, sizes: tuple[int, int], min_width: int) -> Rgb:
    """Returns one tile with its title and its lines."""
    if tile.picture is None:
        picture = hatched(sizes[0], sizes[0])
    else:
        picture = fitted(tile.picture, *sizes)
        ratios = np.divide(picture.shape[:2], tile.picture.shape[:2])
        for box, colour in tile.boxes:
            picture = outlined(picture, tuple(np.multiply(box, [*ratios, *ratios])), colour)
    if tile.is_crossed:
        picture = crossed(picture, _CROSS if picture.min() > 200 else (235, 235, 235))
    if tile.border is not None:
        edge = blank(picture.shape[0] + 2 * _BORDER, picture.shape[1] + 2 * _BORDER, tile.border)
        edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = picture
        picture = edge
    if not tile.title and not tile.lines:
        return picture
    width, top = max(picture.shape[1], min_width), line_height() if tile.title else 0
    canvas = blank(top + len(picture) + len(tile.lines) * line_height(), width)
    canvas[top : top + len(picture), : picture.shape[1]] = picture
    if tile.title:
        write(canvas, shortened(tile.title, width), 0, 0, colour=FAINT_INK)
    for index, text in enumerate(tile.lines):
        y = top + len(picture) + index * line_height()
        write(canvas, shortened(text, width), 0, y, colour=FAINT_INK if index else INK)
    return canvas


def _name(row: TileRow) -> Rgb | None:
    """Returns what stands left of a row."""
    if not row.name and not row.notes:
        return None
    notes = [part for note in row.notes for part in wrapped(note, _MAX_NAME_WIDTH, LABEL_SIZE)]
    texts = [shortened(row.name, _MAX_NAME_WIDTH), *notes]
    canvas = blank(len(texts) * line_height(), max(map(text_width, texts)) + 1)
    inks = [INK, row.colour, *[FAINT_INK] * len(texts)]
    for index, (text, ink) in enumerate(zip(texts, inks, strict=False)):
        write(canvas, text, 0, index * line_height(), colour=ink)
    return canvas


def _row(cells: Sequence[Rgb], name: Rgb | None, row: TileRow, sizes: tuple[int, int, int]) -> Rgb:
    """Returns one row; sizes are the names' width, the number of columns and their width."""
    name_width, num_columns, width = sizes
    room = num_columns * (width + _GAP) - _GAP
    if cells:
        body = side_by_side([_widened(cell, width) for cell in cells], _GAP)
        empty = crossed(blank(min(len(body), width), width, _EMPTY), _CROSS)
        body = side_by_side([body, *[empty] * (num_columns - len(cells))], _GAP)
    else:
        body = blank(2 * line_height(), room, _EMPTY)
        text = shortened(row.missing, room)
        write(body, text, room // 2, line_height() // 2, align="centre", colour=FAINT_INK)
    if name_width:
        name = blank(1, 1) if name is None else name
        body = side_by_side([_widened(name, name_width), body], 2 * _GAP)
    if row.lines:
        words = blank(len(row.lines) * line_height(), body.shape[1])
        for index, text in enumerate(row.lines):
            text = shortened(text, body.shape[1], head_share=0.7)
            write(words, text, 0, index * line_height(), colour=FAINT_INK)
        body = stacked([body, words], 1)
    return body


def _widened(picture: Rgb, width: int) -> Rgb:
    """Returns the picture with white to its right."""
    if picture.shape[1] >= width:
        return picture
    canvas = blank(len(picture), width)
    canvas[:, : picture.shape[1]] = picture
    return canvas


def _in_rows(pictures: Sequence[Rgb], across: int, gap: int) -> list[Rgb]:
    starts = range(0, len(pictures), across)
    return [side_by_side(pictures[start : start + across], gap) for start in starts]
