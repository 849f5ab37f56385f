from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.pictures.canvas import MAX_WIDTH, blank
from vis_callbacks.pictures.colours import Scale
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_grid, tile_table

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
COLOURS = (RED, GREEN, BLUE)


def tile(colour: tuple[int, int, int], side: int = 32, **known) -> Tile:
    return Tile(picture=blank(side, side, colour), **known)


def extent(picture: np.ndarray, colour: tuple[int, int, int]) -> list[int]:
    """Returns top, bottom, left and right of what has this colour."""
    rows, columns = (picture == colour).all(axis=2).nonzero()
    return [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]


def is_ink(picture: np.ndarray) -> np.ndarray:
    return (picture < 140).all(axis=2)


def test_tiles_lie_in_rows_and_columns_at_one_size():
    rows = [TileRow(tiles=[tile(c) for c in COLOURS[:2]]), TileRow(tiles=[tile(BLUE)])]
    picture = tile_table(rows)
    red, green, blue = (extent(picture, colour) for colour in COLOURS)
    for top, bottom, left, right in (red, green, blue):
        assert (bottom - top, right - left) == (96, 96)
    assert red[:2] == green[:2]
    assert red[2:] == blue[2:]
    assert red[3] < green[2]
    assert red[1] < blue[0]


def test_a_name_stands_left_of_its_row_and_its_notes_under_it():
    bare = tile_table([TileRow(tiles=[tile(RED)])])
    named = tile_table([TileRow(tiles=[tile(RED)], name="unit 7", notes=["dead"])])
    left = extent(named, RED)[2]
    assert extent(bare, RED)[2] == 0
    assert is_ink(named[:14, :left]).any()
    assert is_ink(named[14:28, :left]).any()


def test_titles_of_columns_stand_once_over_the_table():
    rows = [TileRow(tiles=[tile(RED), tile(GREEN)]), TileRow(tiles=[tile(BLUE)] * 2)]
    picture = tile_table(rows, columns=["step 0", "step 50"], corner="step")
    top = extent(picture, RED)[0]
    for colour in (RED, GREEN):
        left, right = extent(picture, colour)[2:]
        assert is_ink(picture[:top, left:right]).any()


def test_title_and_lines_lie_over_and_under_their_tile():
    picture = tile_table([TileRow(tiles=[tile(RED, title="image", lines=["cat", ".93"])])])
    top, bottom = extent(picture, RED)[:2]
    assert is_ink(picture[:top]).any()
    assert is_ink(picture[bottom : bottom + 14]).any()
    assert picture.shape[0] >= bottom + 28


def test_a_row_with_fewer_tiles_ends_in_crossed_places_and_an_empty_one_says_why():
    rows = [
        TileRow(tiles=[tile(RED)] * 3),
        TileRow(tiles=[tile(GREEN)]),
        TileRow(tiles=[], name="unit 3", missing="it never fired"),
    ]
    picture = tile_table(rows)
    top, bottom, _, right = extent(picture, GREEN)
    beside = picture[top:bottom, right + 8 :]
    assert len(np.unique(beside.reshape(-1, 3), axis=0)) >= 2
    assert is_ink(picture[bottom + 8 :]).any()


def test_a_table_without_any_tile_is_wide_enough_for_its_caption_and_its_reasons():
    rows = [TileRow(tiles=[], name="unit 3", missing="dead: 0 everywhere in all 1,000 images")] * 3
    assert tile_table(rows, ["a caption of a line"]).shape[1] >= 400


def test_a_border_a_box_and_a_cross_are_drawn():
    plain = tile_table([TileRow(tiles=[tile(RED)])])
    bordered = tile_table([TileRow(tiles=[tile(RED, border=GREEN)])])
    boxed = tile_table([TileRow(tiles=[tile(RED, boxes=[((8, 8, 24, 24), BLUE)])])])
    crossed = tile_table([TileRow(tiles=[tile(RED, is_crossed=True)])])
    assert extent(bordered, GREEN) == [0, 100, 0, 100]
    assert extent(boxed, BLUE) == [24, 72, 24, 72]  # three times as large as in the picture
    assert (crossed != plain).any(axis=2).sum() == 2 * 96


def test_what_is_not_known_is_hatched():
    picture = tile_table([TileRow(tiles=[Tile(picture=None), tile(RED)])])
    assert len(np.unique(picture[:96, :96].reshape(-1, 3), axis=0)) == 2


def test_rows_stand_side_by_side_as_far_as_they_fit():
    rows = [TileRow(tiles=[tile(RED)] * 3)] * 4
    one, two = (tile_table(rows, rows_across=across) for across in (1, 2))
    assert two.shape[1] > 1.9 * one.shape[1]
    assert two.shape[0] < 0.6 * one.shape[0]
    assert tile_table(rows, rows_across=50).shape[1] <= MAX_WIDTH


def test_the_scale_is_drawn_as_a_colour_bar():
    rows = [TileRow(tiles=[tile(RED)])]
    plain = tile_table(rows, ["caption"])
    with_bar = tile_table(rows, ["caption"], scale=Scale(low=0, high=1), units="activation")
    assert with_bar.shape[0] > plain.shape[0]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (7, 3)])
def test_a_grid_is_about_as_wide_as_high(count, columns):
    picture = tile_grid([tile(RED)] * count)
    assert picture.shape[1] == columns * 100 - 4


def test_a_grid_never_passes_the_greatest_width():
    assert tile_grid([tile(RED, 160)] * 40, columns=40).shape[1] <= MAX_WIDTH


def test_a_name_of_any_length_fits():
    rows = [TileRow(tiles=[tile(RED, lines=["x" * 500])], name="\ud800" * 300, notes=["y" * 900])]
    assert tile_table(rows, ["z" * 5_000]).shape[1] <= 400
