from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import (
    CLASS_COLOURS,
    NOT_FINITE,
    NOT_MEASURED,
    colour_map,
    scale_of,
)
from vis_callbacks.render.occlusion_maps import (
    FALL,
    RISE,
    SHARE,
    OcclusionView,
    Places,
    occlusion_over_time,
    occlusion_views,
    places_that_matter,
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


def map_of(classes: np.ndarray) -> np.ndarray:
    """Returns the map of the most probable class alone, 64 x 96 px."""
    probability = np.full(classes.shape, 0.5)
    rows, columns = classes.shape
    centres = (np.arange(rows) + 0.5) * 16 / rows, (np.arange(columns) + 0.5) * 24 / columns
    seen = view(classes=classes, probability=probability, activity=None)
    picture = occlusion_views([seen], centres, 4)
    rows, columns = (picture == GREEN).all(-1).nonzero()
    left = columns.min() + 2 * (96 + 4)
    return picture[rows.min() : rows.min() + 64, left : left + 96]


def test_a_class_has_the_same_colour_whatever_else_is_there():
    alone = map_of(np.full((2, 3), 13))
    many = map_of(np.array([*range(12), *[13] * 12]).reshape(4, 6))
    assert count(alone, CLASS_COLOURS[3]) > 0.9 * 64 * 96
    assert count(many[32:], CLASS_COLOURS[3]) > 0.9 * 32 * 96


def test_classes_that_share_a_colour_differ_in_a_shape():
    first, eleventh, other = (map_of(np.full((2, 3), number)) for number in (1, 11, 21))
    assert count(first, CLASS_COLOURS[1]) == 64 * 96
    assert all(count(each, CLASS_COLOURS[1]) > 0.9 * 64 * 96 for each in (eleventh, other))
    assert not np.array_equal(first, eleventh)
    assert not np.array_equal(eleventh, other)


def test_each_area_of_a_class_bears_its_shape():
    apart = map_of(np.array([[11, 0, 11], [11, 0, 11]]))
    for place in (slice(0, 32), slice(64, 96)):
        assert count(apart[:, place], (255, 255, 255)) > 10
    assert count(apart[:, 32:64], (255, 255, 255)) == 0


def test_an_area_too_small_for_a_shape_has_its_colour():
    small = map_of(np.where(np.arange(16 * 24).reshape(16, 24) == 100, 11, 0))
    assert count(small, CLASS_COLOURS[1]) == 16
    assert count(small, (255, 255, 255)) == 0


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
    whole = occlusion_views([view(probability=np.full((2, 3), 0.5), activity=None)], CENTRES, 8)
    assert picture.shape[0] > whole.shape[0]  # one more line in the caption


def test_a_silent_map_is_hatched():
    silent = view(activity=np.full((2, 3), np.nan))
    picture = occlusion_views([silent], CENTRES, 8)
    assert NOT_FINITE not in colours_in(picture)
    assert NOT_MEASURED in colours_in(picture)


def test_a_network_that_gave_nothing_finite_has_no_outline_and_no_class():
    broken = view(probability=np.full((2, 3), np.nan), activity=None, classes=np.full((2, 3), -1))
    picture = occlusion_views([broken], CENTRES, 8)
    assert count(picture, GREEN) == 64 * 96  # the whole image, nothing drawn on it
    assert count(picture, NOT_FINITE) >= 2 * 64 * 96  # both maps


def test_the_legend_names_the_most_common_of_very_many_classes():
    heights = []
    for num_classes in (2, 30, 300):
        classes = np.arange(600).reshape(20, 30) % num_classes
        centres = [(np.arange(n) + 0.5) * side / n for side, n in ((16, 20), (24, 30))]
        seen = view(classes=classes, probability=np.full((20, 30), 0.5), activity=None)
        heights.append(occlusion_views([seen], tuple(centres), 4).shape[0])
    assert heights[0] < heights[1] < heights[2] < heights[0] + 250


@pytest.mark.parametrize(
    ("value", "whole", "fall", "rise"),
    [
        (0.1, 0.9, (0, 2), None),
        (0.84, 0.9, (0, 2), None),
        (0.86, 0.9, None, None),
        (0.86, None, None, None),
        (0.86, 0.95, (0, 2), None),
        (0.98, 0.9, None, (0, 2)),
        (0.5, 0.52, None, (0, 0)),  # it rises where the square hides something, and falls nowhere
        (0.2, 0.5, (0, 2), (0, 0)),
        (0.1, np.nan, (0, 2), None),
        (np.nan, 0.9, None, None),
    ],
)
def test_places_matter_where_the_probability_falls_or_rises(value, whole, fall, rise):
    probability = np.array([[0.9, 0.9, value], [0.9, 0.9, 0.9]])
    assert places_that_matter(probability, whole) == Places(fall, rise)
    assert places_that_matter(np.full((2, 3), np.nan), whole) == Places(None, None)


def test_what_a_change_must_reach_can_be_given():
    values = np.array([[10.0, 12.0, 7.0]])
    assert places_that_matter(values, 10.0, least=2.5) == Places((0, 2), None)
    assert places_that_matter(values, 10.0, least=1.5) == Places((0, 2), (0, 1))


def test_no_outline_is_drawn_where_no_position_matters():
    flat = view(places=Places(None, None), activity=None)
    picture = occlusion_views([flat], CENTRES, 8)
    assert count(picture, GREEN) == 64 * 96


def test_a_fall_and_a_rise_have_outlines_of_their_own_and_a_legend():
    none, one, two = (
        occlusion_views([view(places=Places(*places), activity=None)], CENTRES, 8)
        for places in ((None, None), (None, (1, 0)), ((0, 2), (1, 0)))
    )
    assert count(none, RISE.colour) == 0
    assert count(one, RISE.colour) == count(two, RISE.colour) > 4 * 31
    rows, columns = (one == RISE.colour).all(-1).nonzero()
    assert columns[rows < rows.min() + 32].max() == 31  # in the lower left
    assert count(two, FALL.colour) > count(one, FALL.colour)
    assert one.shape[0] > none.shape[0]  # a line says what the outline means


def test_a_single_output_has_no_map_of_classes():
    with_classes, without = (
        occlusion_views([view(classes=classes, activity=None)], CENTRES, 8)
        for classes in (view().classes, None)
    )
    assert colours_in(without).isdisjoint(CLASS_COLOURS)
    assert without.shape[1] < with_classes.shape[1]


def test_changes_of_a_value_have_a_scale_around_zero():
    scale = scale_of(np.array([-2.0, 3.0]), signed=True)
    values = np.array([[-2.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    flat = view(probability=values, activity=None, places=Places(None, None))
    picture = occlusion_views([flat], CENTRES, 8, scale=scale, titles=("change", "highest output"))
    for value in (-2.0, 3.0):
        assert count(picture, colour_map(np.array(value), scale=scale)) >= 32 * 32


def test_the_caption_says_what_silent_means():
    silent = view(activity=np.full((2, 3), np.nan))
    heights = [occlusion_views([each], CENTRES, 8).shape[0] for each in (view(), silent)]
    assert heights[1] > heights[0]


def test_an_image_is_shown_large_enough_and_not_larger_than_needed():
    sizes = {}
    for side in (8, 100, 300):
        image = np.full((side, side, 3), GREEN, dtype=np.uint8)
        places = [side / 4, 3 * side / 4]
        broken = view(
            image=image,
            probability=np.full((2, 2), np.nan),
            activity=None,
            classes=np.full((2, 2), 3),
        )
        sizes[side] = count(occlusion_views([broken], (places, places), side // 2), GREEN) ** 0.5
    assert min(sizes.values()) >= 96
    assert max(sizes.values()) <= 160


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


def test_a_step_that_gave_nothing_finite_is_magenta_and_counted():
    maps = np.full((2, 1, 2, 3), 0.5)
    images = [np.full((16, 24, 3), 60, dtype=np.uint8)]
    whole = occlusion_over_time(images, maps, [0, 1], CENTRES)
    maps[1] = np.nan
    broken = occlusion_over_time(images, maps, [0, 1], CENTRES)
    assert count(broken, NOT_FINITE) >= 64 * 96
    assert NOT_FINITE not in colours_in(whole)
    assert broken.shape[0] > whole.shape[0]  # one more line in the caption
