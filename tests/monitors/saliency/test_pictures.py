from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.monitors.saliency.pictures import map_table, map_tile, overlay, relative
from vis_callbacks.pictures.colours import Scale, colour_map
from vis_callbacks.pictures.tiles import Tile, TileRow

IMAGE = np.full((32, 32, 3), 90, dtype=np.uint8)
MAP = np.random.default_rng(0).random((32, 32))
YELLOW = tuple(colour_map(np.ones(1), scale=Scale(low=0.0, high=1.0))[0].tolist())


def grid(*maps, image: np.ndarray = IMAGE, **options) -> np.ndarray:
    """Returns the picture of some maps, each beside its image."""
    rows = [
        TileRow(
            tiles=[Tile(picture=image, title="image"), map_tile(values, image, "label", **options)]
        )
        for values in maps
    ]
    return map_table(rows, maps, **options)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_maps_are_shown_as_multiples_of_their_own_mean():
    maps = relative(np.array([[[1.0, 3.0]], [[-4e-30, 4e-30]], [[0.0, 0.0]]]))
    np.testing.assert_allclose(maps, [[[0.5, 1.5]], [[-1.0, 1.0]], [[0.0, 0.0]]])


def test_what_is_not_finite_does_not_spoil_the_rest():
    found = relative(np.array([[1.0, 3.0, np.nan]]))
    np.testing.assert_allclose(found, [[0.75, 2.25, np.nan]])  # of three places, one counts as 0


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_the_picture_does_not_depend_on_the_size_of_the_gradients(factor):
    assert np.array_equal(grid(MAP), grid(factor * MAP))


def test_the_brightest_place_stands_out():
    assert not has_colour(grid(np.ones((32, 32)))[20:], YELLOW)
    point = np.full((32, 32), 0.1)
    point[20, 4] = 9
    assert has_colour(grid(point)[40:], YELLOW)


def test_signed_maps_are_red_and_blue_around_zero():
    values = np.ones((32, 32))
    values[16:] = -1
    tile = map_tile(values, IMAGE, is_signed=True).picture.astype(int)
    assert (tile[:16, :, 0] > tile[:16, :, 2]).all()
    assert (tile[16:, :, 2] > tile[16:, :, 0]).all()


def test_a_map_of_zeros_is_crossed_and_counted():
    silent = grid(np.zeros((32, 32)), MAP)
    assert silent.shape[0] > grid(MAP, MAP).shape[0]  # by the caption's line
    assert has_colour(silent, (235, 235, 235))


def test_a_value_that_is_not_finite_is_magenta():
    values = MAP.copy()
    values[0, 0] = np.nan
    assert has_colour(grid(values), (255, 0, 255))
    assert not has_colour(grid(MAP), (255, 0, 255))


@pytest.mark.parametrize("size", [(1, 40), (8, 8), (64, 48), (300, 500)])
def test_images_of_any_size_get_a_tile_that_fits_the_map(size):
    image = np.full((*size, 3), 60, dtype=np.uint8)
    assert map_tile(np.ones((5, 5)), image).picture.shape == image.shape
    picture = grid(np.ones(size), image=image)
    assert picture.shape[1] <= 2 * 128 + 4 + 240
    assert has_colour(picture, (60, 60, 60))


def test_eight_images_fit_a_screen():
    height, width = grid(*[MAP] * 8).shape[:2]
    assert height <= 800
    assert width <= 1_600


def test_an_overlay_is_the_grey_image_where_the_map_is_0_and_tinted_where_it_is_bright():
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[..., 0] = 200
    point = np.zeros((32, 32))
    point[16:20, 16:20] = 1
    shown = overlay(point, image, is_signed=False)
    grey = shown[4, 4]
    assert len({*grey.tolist()}) == 1
    expected = 0.65 * np.array(YELLOW) + 0.35 * grey  # the image is seen through the colour
    np.testing.assert_allclose(shown[18, 18], expected, atol=1)
