from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vis_callbacks.pictures.colours import NOT_MEASURED, Scale, colour_map
from vis_callbacks.pictures.time_plots import heat_map

UNIT = Scale(low=0.0, high=1.0)


def drawn(values: np.ndarray, names: Sequence[object], steps: Sequence[int]) -> np.ndarray:
    return heat_map(values, [str(name) for name in names], steps, [], "dead fraction")


def count(picture: np.ndarray, colour: object) -> int:
    return int((picture == np.asarray(colour, dtype=np.uint8)).all(axis=2).sum())


@pytest.mark.parametrize("rows", [1, 120, 700])
@pytest.mark.parametrize("columns", [1, 8, 128])
def test_any_size_gives_a_frame_that_fits_a_card(rows: int, columns: int) -> None:
    values = np.random.default_rng(0).random((rows, columns))
    picture = drawn(values, [f"layer{row}.relu" for row in range(rows)], range(columns))
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 400
    assert picture.shape[0] < 640


def test_rows_and_columns_keep_their_places() -> None:
    values = np.array([[0.1, 0.3], [0.5, 0.7]])
    picture = drawn(values, ["first", "second"], [0, 5])
    places = {}
    for value in values.flat:
        colour = colour_map(np.array(value), scale=UNIT)
        rows, columns = np.nonzero((picture == colour).all(axis=2))
        # The colour bar has each colour too, in a few pixels.
        places[value] = np.median(rows), np.median(columns)
    top, bottom = places[0.1][0], places[0.7][0]
    left, right = places[0.1][1], places[0.7][1]
    assert bottom - top > 15
    assert right - left > 100
    assert places[0.3] == pytest.approx((top, right), abs=1)
    assert places[0.5] == pytest.approx((bottom, left), abs=1)


def test_what_was_not_measured_is_grey() -> None:
    values = np.full((3, 4), 0.5)
    whole = drawn(values, "abc", range(4))
    values[1] = np.nan
    picture = drawn(values, "abc", range(4))
    # The edges of letters are grey in a few pixels.
    assert count(whole, NOT_MEASURED) < 50
    assert count(picture, NOT_MEASURED) > 1_000


def test_one_dead_layer_among_many_is_not_averaged_away() -> None:
    values = np.zeros((1_000, 128))
    values[777, 33] = 1.0
    picture = drawn(values, range(1_000), range(128))
    bar_pixels = count(drawn(np.zeros((1_000, 128)), range(1_000), range(128)), (253, 231, 36))
    assert count(picture, (253, 231, 36)) > bar_pixels


def test_nothing_measured_is_a_picture_too() -> None:
    assert drawn(np.full((2, 2), np.nan), "ab", [0, 1]).shape[1] == 400


@pytest.mark.parametrize("name", ["\ud800", "", "x" * 5_000, "a\nb", "日本"])
def test_odd_names_are_drawn(name: str) -> None:
    assert drawn(np.zeros((2, 1)), [name, name + "."], [0]).shape[1] == 400


def test_uneven_steps_are_said_to_be_in_the_caption() -> None:
    even, uneven = (drawn(np.zeros((3, 4)), "abc", s) for s in ([0, 5, 10, 15], [0, 5, 10, 60]))
    assert uneven.shape[0] > even.shape[0]
