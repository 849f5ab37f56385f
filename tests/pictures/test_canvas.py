from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vis_callbacks.pictures.canvas import (
    blank,
    colour_bar,
    crossed,
    enlarge,
    factor_for,
    fitted,
    outlined,
    shrink,
    side_by_side,
    stacked,
    with_caption,
)
from vis_callbacks.pictures.colours import Scale, colour_map

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
RED = (255, 0, 0)


def test_enlarging_repeats_each_pixel() -> None:
    assert enlarge(np.array([[1, 2]]), 2, 3).tolist() == [[1, 1, 1, 2, 2, 2]] * 2


@pytest.mark.parametrize(("size", "factor"), [(1, 100), (32, 3), (96, 1), (500, 1), (150, 1)])
def test_a_factor_reaches_the_least_size_and_not_more_than_the_most(size: int, factor: int) -> None:
    assert factor_for(size, 96, 100 if size == 1 else 400) in (factor, 96)


def test_shrinking_averages() -> None:
    image = np.zeros((2, 800, 3), dtype=np.uint8)
    image[:, ::2] = 200

    assert shrink(image).shape == (1, 400, 3)
    assert (shrink(image) == 100).all()


def test_a_crossed_tile_shows_both_diagonals() -> None:
    marked = (crossed(blank(9, 9, (0, 0, 0))) > 0).all(axis=2)

    assert marked.diagonal().all()
    assert marked[:, ::-1].diagonal().all()
    assert marked.sum() == 17


def test_pictures_side_by_side_keep_their_places() -> None:
    row = side_by_side([blank(2, 3, (1, 1, 1)), blank(4, 2, (2, 2, 2))], gap=1)

    assert row.shape == (4, 6, 3)
    assert row[0, :, 0].tolist() == [1, 1, 1, 255, 2, 2]
    assert row[3, :, 0].tolist() == [255] * 4 + [2, 2]


def test_pictures_stacked_keep_their_places() -> None:
    column = stacked([blank(1, 2, (1, 1, 1)), blank(2, 1, (2, 2, 2))], gap=1)

    assert column[..., 0].tolist() == [[1, 1], [255, 255], [2, 255], [2, 255]]


@pytest.mark.parametrize("width", [1, 8, 28, 50, 100, 224, 1_000])
def test_an_input_is_brought_to_a_size_at_which_it_is_seen(width: int) -> None:
    assert 96 <= fitted(blank(width, width)).shape[1] <= 160


def test_what_is_legible_is_left_as_it_is() -> None:
    once = fitted(blank(50, 32))
    np.testing.assert_array_equal(fitted(once), once)


def test_an_outline_is_seen_on_any_ground_and_cut_off_at_the_border() -> None:
    picture = outlined(blank(20, 20, (255, 255, 255)), (5, 5, 40, 12), (255, 255, 255))

    black = (picture == 0).all(axis=2)
    assert black.any()
    rows, columns = black.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 18, 6, 10)


def is_ink(picture: np.ndarray) -> np.ndarray:
    return (picture < 200).all(axis=2)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=3), st.integers(1, 500))
def test_no_caption_raises_or_changes_the_picture(lines: list[str], width: int) -> None:
    image = blank(5, width, RED)

    picture = with_caption(image, lines)

    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[-5:, :width], image)


def test_a_caption_is_wrapped_and_not_clipped() -> None:
    words = " ".join(["layer1.0.relu"] * 12)

    picture = with_caption(blank(5, 300, RED), [words])

    assert picture.shape[1] == 300
    assert not is_ink(picture)[:, -1].any()
    assert picture.shape[0] > with_caption(blank(5, 300, RED), ["one line"]).shape[0]


def test_all_but_the_first_line_of_a_caption_are_one_paragraph() -> None:
    picture = with_caption(blank(5, 300, RED), ["what it is", "a", "b", "c"])
    assert picture.shape == with_caption(blank(5, 300, RED), ["what it is", "a; b; c"]).shape


@pytest.mark.parametrize(("height", "width"), [(800, 1_000), (450, 400), (300, 1_100)])
def test_the_first_line_is_still_read_in_a_card_of_time_series(height: int, width: int) -> None:
    picture = with_caption(blank(height, width), ["head", "a detail"])
    shrunk = max(picture.shape[1] / 374, picture.shape[0] / 215)

    ink = np.flatnonzero(is_ink(picture)[: picture.shape[0] - height].any(axis=1))
    first_line = ink[: np.flatnonzero(np.diff(np.append(ink, 9_999)) > 1)[0] + 1]
    assert len(first_line) / shrunk >= 6  # from the foot of a letter to its top


def test_a_narrow_picture_gets_room_for_its_caption() -> None:
    assert with_caption(blank(5, 10, RED), ["step 5"]).shape[1] >= 200


def test_empty_lines_take_no_room() -> None:
    image = blank(5, 300, RED)

    assert with_caption(image, ["a", "", "b"]).shape == with_caption(image, ["a", "b"]).shape
    np.testing.assert_array_equal(with_caption(image, ["", ""]), image)


def test_an_endless_name_does_not_bury_the_picture() -> None:
    assert with_caption(blank(5, 240, RED), ["x" * 100_000]).shape[0] < 200


@pytest.mark.parametrize("signed", [False, True])
def test_a_colour_bar_runs_from_the_first_colour_to_the_last(signed: bool) -> None:
    scale = Scale(low=-2, high=2, signed=signed)

    bar = colour_bar(scale, "activation")

    row = bar[3].tolist()
    first, last = colour_map(np.array([-2.0, 2.0]), scale=scale).tolist()
    assert row.index(first) < row.index(last)


def test_a_colour_bar_has_room_for_odd_units() -> None:
    assert colour_bar(Scale(low=0, high=1), "\ud800" * 50).shape[1] > 500


def test_a_clipped_end_is_written_otherwise() -> None:
    whole = colour_bar(Scale(low=0, high=1))

    assert colour_bar(Scale(low=0, high=1, is_clipped=True)).shape[1] > whole.shape[1]
