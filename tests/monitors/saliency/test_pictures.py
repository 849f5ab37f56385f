from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import Scale, colour_map
from vis_callbacks.render.saliency_maps import (
    SaliencyMap,
    SaliencyRow,
    relative,
    saliency_grid,
    saliency_strip,
)

IMAGE = np.full((32, 32, 3), 90, dtype=np.uint8)
MAP = np.random.default_rng(0).random((32, 32))
YELLOW = tuple(colour_map(np.ones(1), scale=Scale(low=0.0, high=1.0))[0].tolist())


def row(values, title: str = "label", image: np.ndarray = IMAGE) -> SaliencyRow:
    shown = SaliencyMap(title=title, values=values, lines=("brick", "p = 0.96"))
    return SaliencyRow(image=image, maps=(shown,), lines=("sample 0",))


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(-1).any())


def test_maps_are_shown_as_multiples_of_their_own_mean():
    maps = relative(np.array([[[1.0, 3.0]], [[-4e-30, 4e-30]]]))
    np.testing.assert_allclose(maps, [[[0.5, 1.5]], [[-1.0, 1.0]]])


def test_a_map_of_zeros_stays_one():
    assert not relative(np.zeros((2, 3, 3))).any()


def test_what_is_not_finite_does_not_spoil_the_rest():
    found = relative(np.array([[1.0, 3.0, np.nan]]))
    np.testing.assert_allclose(found, [[0.75, 2.25, np.nan]])  # of three places, one counts as 0


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_the_picture_does_not_depend_on_the_size_of_the_gradients(factor):
    assert np.array_equal(saliency_grid([row(MAP)]), saliency_grid([row(factor * MAP)]))


def test_one_row_of_values_is_tall_enough_to_be_seen():
    image = np.arange(0, 250, 5, dtype=np.uint8)[None, :, None].repeat(3, 2)
    flat = row(np.arange(50.0)[None], image=image)
    picture = saliency_grid([SaliencyRow(image=image, maps=flat.maps, title="input")])
    assert (picture == 245).all(2)[:, :100].any(1).sum() >= 32


def test_the_brightest_place_stands_out():
    assert not has_colour(saliency_grid([row(np.ones((32, 32)))])[20:], YELLOW)
    point = np.full((32, 32), 0.1)
    point[20, 4] = 9
    picture = saliency_grid([row(point)])
    assert has_colour(picture[40:], YELLOW)


def test_signed_maps_are_red_and_blue_around_zero():
    values = np.zeros((32, 32))
    values[:16], values[16:] = 1, -1
    picture = saliency_grid([row(values)], is_signed=True).astype(int)
    tile = picture[-130:, 102:190]
    assert (tile[..., 0] - tile[..., 2]).max() > 8
    assert (tile[..., 2] - tile[..., 0]).max() > 8


def test_a_map_of_zeros_is_crossed_and_counted():
    silent = saliency_grid([row(np.zeros((32, 32))), row(MAP)])
    assert silent.shape[0] > saliency_grid([row(MAP), row(MAP)]).shape[0]  # by the caption's line
    assert has_colour(silent, (235, 235, 235))


def test_a_value_that_is_not_finite_is_magenta():
    values = MAP.copy()
    values[0, 0] = np.nan
    assert has_colour(saliency_grid([row(values)]), (255, 0, 255))
    assert not has_colour(saliency_grid([row(MAP)]), (255, 0, 255))


def test_a_map_that_would_repeat_another_is_left_out():
    repeated = SaliencyRow(
        image=IMAGE,
        maps=(SaliencyMap(title="label", values=MAP), SaliencyMap(title="predicted", values=None)),
    )
    tile = saliency_grid([repeated])[-96:, 200:296]
    assert has_colour(tile, (244, 244, 244))


@pytest.mark.parametrize("size", [(1, 40), (8, 8), (28, 28), (64, 48), (224, 224), (300, 500)])
def test_images_of_any_size_get_a_tile_that_fits_the_map(size):
    image = np.full((*size, 3), 60, dtype=np.uint8)
    picture = saliency_grid([row(np.ones(size), image=image)])
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= 2 * 128 + 4 + 240
    assert has_colour(picture, (60, 60, 60))


def test_eight_images_fit_a_screen():
    picture = saliency_grid([row(MAP)] * 8)
    assert picture.shape[0] <= 800
    assert picture.shape[1] <= 1_600


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="got no row"):
        saliency_grid([])


# -- over the training


def strip(num_frames: int = 3, num_images: int = 2, **changes) -> np.ndarray:
    given = {
        "images": [IMAGE] * num_images,
        "maps": np.random.default_rng(0).random((num_frames, num_images, 32, 32)),
        "steps": list(range(num_frames)),
        "words": [[("brick",)] * num_images] * num_frames,
    }
    return saliency_strip(**given | changes)


def test_a_strip_grows_to_the_right_with_each_frame():
    assert strip(8).shape[0] == strip(3).shape[0]
    assert strip(8).shape[1] - strip(3).shape[1] == 5 * 100
    assert strip(8).shape[1] <= 1_600


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": [1]},
        {"images": [IMAGE]},
        {"words": [[("a",)]] * 3},
        {"maps": np.ones((3, 32, 32))},
    ],
)
def test_a_strip_of_parts_that_do_not_fit_is_refused(changes):
    with pytest.raises(ValueError, match="do not fit"):
        strip(**changes)
