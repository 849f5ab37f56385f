from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import NOT_FINITE
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    crossed,
    enlarge,
    factor_for,
    grid,
    hatched,
    legible,
    shrink,
    shrink_values,
    side_by_side,
    stacked,
    to_uint8,
)
from vis_callbacks.render.text import line_height


def numbered_tiles(count: int, height: int = 4, width: int = 5) -> np.ndarray:
    tiles = np.zeros((count, height, width, 3), dtype=np.uint8)
    tiles[:] = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return tiles


def test_enlarging_repeats_each_pixel() -> None:
    assert enlarge(np.array([[1, 2]]), (2, 3)).tolist() == [[1, 1, 1, 2, 2, 2]] * 2


@pytest.mark.parametrize(("size", "factor"), [(1, 100), (32, 3), (96, 1), (500, 1), (150, 1)])
def test_a_factor_reaches_the_least_size_and_not_more_than_the_most(size: int, factor: int) -> None:
    assert factor_for(size, 96, 100 if size == 1 else 400) in (factor, 96)


def test_shrinking_averages() -> None:
    image = np.zeros((2, 800, 3), dtype=np.uint8)
    image[:, ::2] = 200

    assert shrink(image).shape == (1, 400, 3)
    assert (shrink(image) == 100).all()


def test_shrinking_values_keeps_their_mean_and_what_is_not_finite() -> None:
    values = np.tile([0.0, 2.0], (8, 4))
    values[0, 0] = np.nan

    small = shrink_values(values, 4)

    assert small.shape == (4, 4)
    assert np.isnan(small[0, 0])
    assert (small[1:] == 1).all()


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


def test_a_grid_places_tiles_row_by_row() -> None:
    picture = grid(numbered_tiles(5), columns=3, padding=1)

    assert picture.shape == (2 * 5 + 1, 3 * 6 + 1, 3)
    assert [picture[2, 2 + 6 * column, 0] for column in range(3)] == [0, 1, 2]
    assert [picture[7, 2 + 6 * column, 0] for column in range(3)] == [3, 4, 255]


def test_a_grid_never_passes_the_greatest_width() -> None:
    assert grid(numbered_tiles(40, 8, 300), columns=40).shape[1] <= MAX_WIDTH


def test_a_tile_too_wide_for_a_frame_is_averaged_down() -> None:
    assert grid(numbered_tiles(1, 10, 3_000), padding=0).shape[1] == 400


def test_a_missing_tile_is_hatched() -> None:
    tiles = numbered_tiles(2, 20, 20)

    picture = grid(tiles, columns=2, padding=0, missing=np.array([False, True]))

    np.testing.assert_array_equal(picture[:, 20:], hatched(20, 20))
    assert (picture[:, :20] == 0).all()


def test_labels_lie_under_their_tiles() -> None:
    picture = grid(numbered_tiles(2, 30, 30), columns=2, padding=0, labels=["a", "b"])

    assert picture.shape == (30 + line_height(), 60, 3)
    assert (picture[30:, :30] < 128).any()
    assert (picture[30:, 30:] < 128).any()


def test_a_note_on_what_is_missing_stands_under_the_grid() -> None:
    plain = grid(numbered_tiles(4))

    noted = grid(numbered_tiles(4), missing_note="60 of 64 filters left out")

    np.testing.assert_array_equal(noted[: plain.shape[0], : plain.shape[1]], plain)
    assert (noted[plain.shape[0] :] < 128).any()


def test_a_grid_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one tile"):
        grid(numbered_tiles(0))


def test_labels_must_be_as_many_as_tiles() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 tiles"):
        grid(numbered_tiles(2), labels=["a"])


def test_undoing_the_normalisation_gives_the_pixels_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.float64) / 255
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))

    shown = to_uint8(normalised, mean, std)

    np.testing.assert_array_equal(shown.images, np.rint(pixels * 255).transpose(0, 2, 3, 1))
    assert shown.note == ""


def test_bytes_stay_as_they_are() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)

    np.testing.assert_array_equal(to_uint8(pixels).images[0], pixels[0].transpose(1, 2, 0))


def test_values_outside_zero_to_one_are_stretched_by_one_scale_and_it_is_said() -> None:
    images = np.zeros((2, 1, 1, 2))
    images[0, 0, 0] = (-1, 3)

    shown = to_uint8(images)

    assert shown.images[..., 0].tolist() == [[[0, 255]], [[64, 64]]]
    assert shown.note == "black is -1, white is 3"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 1, 4, 5), (2, 4, 5, 3)),
        ((2, 3, 4, 5), (2, 4, 5, 3)),
        ((2, 7, 4, 5), (2, 4, 5, 3)),
        ((2, 4, 5), (2, 4, 5, 3)),
        ((2, 5), (2, 1, 5, 3)),
        ((2, 1, 9, 4, 5), (2, 4, 5, 3)),
        ((2, 1, 1, 1), (2, 1, 1, 3)),
        ((0, 3, 4, 5), (0, 4, 5, 3)),
    ],
)
def test_inputs_of_any_shape_become_pictures(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert to_uint8(np.zeros(shape)).images.shape == expected


def test_another_number_of_channels_is_averaged_and_it_is_said() -> None:
    images = np.zeros((1, 2, 1, 1))
    images[0, 1] = 1

    shown = to_uint8(images)

    assert shown.images.tolist() == [[[[128] * 3]]]
    assert shown.note == "mean of 2 channels"


def test_pixels_that_are_not_finite_are_marked_and_counted() -> None:
    images = np.zeros((1, 3, 2, 2), dtype=np.float32)
    images[0, 1, 0, 0] = np.inf

    shown = to_uint8(images)

    assert tuple(shown.images[0, 0, 0].tolist()) == NOT_FINITE
    assert (shown.images[0, 1] == 0).all()
    assert shown.note == "magenta: not finite (1 of 4 pixels)"


def test_a_single_axis_is_no_image() -> None:
    with pytest.raises(ValueError, match="two axes at least"):
        to_uint8(np.zeros(3))


@pytest.mark.parametrize("width", [1, 8, 28, 50, 100, 224, 1_000])
def test_an_input_is_brought_to_a_size_at_which_it_is_seen(width: int) -> None:
    assert 96 <= legible(blank(width, width)).shape[1] <= 160


def test_what_is_legible_is_left_as_it_is() -> None:
    once = legible(blank(50, 32))
    np.testing.assert_array_equal(legible(once), once)
