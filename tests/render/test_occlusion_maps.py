from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import CLASS_COLOURS, NOT_FINITE, NOT_MEASURED, colour_map
from vis_callbacks.render.occlusion_maps import (
    SHARE,
    OcclusionView,
    occlusion_over_time,
    occlusion_views,
)

GREEN = (10, 200, 30)
CENTRES = ([4.0, 12.0], [4.0, 12.0, 20.0])  # of a square of 8 px on 16 x 24 px


def view(**changes) -> OcclusionView:
    known = {
        "image": np.full((16, 24, 3), GREEN, dtype=np.uint8),
        "probability": np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.9]]),
        "activity": np.array([[1.0, 0.5, 0.2], [1.0, 1.0, 1.0]]),
        "classes": np.array([[3, 3, 5], [3, 3, 3]]),
        "lines": ("dog: 0.90 without a square",),
    }
    return OcclusionView(**known | changes)


def colours_in(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def count(picture: np.ndarray, colour) -> int:
    return int((picture == np.array(colour)).all(-1).sum())


def test_each_place_has_the_colour_of_the_nearest_centre():
    picture = occlusion_views([view()], CENTRES, 8)
    dark = colour_map(np.array(0.1), scale=SHARE)
    # The corner is 12 of 24 px: a third of the 96 x 64 cell's width and half of its height.
    assert 0 <= count(picture, dark) - 32 * 32 < 20  # the colour bar has some


def test_classes_have_colours_of_their_own_and_a_legend():
    picture = occlusion_views([view()], CENTRES, 8)
    cells = {number: 96 * 64 * share for number, share in ((3, 5 / 6), (5, 1 / 6))}
    for number, area in cells.items():
        in_legend = count(picture, CLASS_COLOURS[number]) - area
        assert 50 < in_legend < 300


def test_more_than_ten_classes_share_grey():
    classes = np.arange(24).reshape(4, 6)
    centres = ([2, 6, 10, 14], [2, 6, 10, 14, 18, 22])
    seen = view(classes=classes, probability=classes / 24, activity=None)
    assert NOT_MEASURED in colours_in(occlusion_views([seen], centres, 4))


def test_the_outline_lies_around_the_lowest_probability():
    picture = occlusion_views([view(activity=None)], CENTRES, 8)
    rows, columns = (picture == GREEN).all(-1).nonzero()
    cell = picture[rows.min() : rows.max() + 1, columns.min() : columns.min() + 96]
    rows, columns = (cell == 255).all(-1).nonzero()
    assert cell.shape[:2] == (64, 96)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 31, 64, 95)


def test_what_is_not_finite_is_magenta_and_counted():
    broken = view(probability=np.array([[np.nan, 0.5, 0.5], [0.5, 0.5, 0.5]]), activity=None)
    picture = occlusion_views([broken], CENTRES, 8)
    assert NOT_FINITE in colours_in(picture)
    whole = occlusion_views([view(activity=None)], CENTRES, 8)
    assert picture.shape[0] > whole.shape[0]  # one more line in the caption


def test_a_silent_map_is_hatched():
    silent = view(activity=np.full((2, 3), np.nan))
    picture = occlusion_views([silent], CENTRES, 8)
    assert NOT_FINITE not in colours_in(picture)
    assert NOT_MEASURED in colours_in(picture)


def test_eight_images_lie_in_two_columns_within_a_screen():
    picture = occlusion_views([view()] * 8, CENTRES, 8, ["a caption"])
    assert picture.shape[1] <= 1_000
    assert picture.shape[0] <= 700


def test_no_view_is_an_error():
    with pytest.raises(ValueError, match="got no view"):
        occlusion_views([], CENTRES, 8)


def strip(num_frames: int = 3, num_images: int = 2, **options) -> np.ndarray:
    maps = np.linspace(0, 1, num_frames)[:, None, None, None] * np.ones((1, num_images, 2, 3))
    images = [np.full((16, 24, 3), 60, dtype=np.uint8)] * num_images
    return occlusion_over_time(images, maps, range(num_frames), CENTRES, **options)


def test_steps_share_one_scale():
    picture = strip()
    for share in (0.0, 0.5, 1.0):
        assert count(picture, colour_map(np.array(share), scale=SHARE)) >= 2 * 96 * 64


def test_eight_frames_of_four_images_fit_a_screen():
    picture = strip(8, 4, names=["class 1"] * 4)
    assert picture.shape[1] <= 1_600


def test_frames_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="do not fit 2 steps and 1 images"):
        occlusion_over_time(
            [np.zeros((4, 4, 3), np.uint8)], np.zeros((3, 1, 2, 3)), [0, 1], CENTRES
        )
    with pytest.raises(ValueError, match="got 1 names for 2 images"):
        strip(names=["one"])
