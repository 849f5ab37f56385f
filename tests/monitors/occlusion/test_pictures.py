from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.monitors.occlusion.pictures import (
    FALL,
    RISE,
    SHARE,
    OcclusionFacts,
    draw_over_time,
    draw_views,
    places_that_matter,
)
from vis_callbacks.monitors.occlusion.plan import OcclusionPlan
from vis_callbacks.pictures.colours import (
    CLASS_COLOURS,
    NOT_FINITE,
    NOT_MEASURED,
    colour_map,
    scale_of,
)

GREEN = (10, 200, 30)
PROBABILITY = np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.9]])
FLAT = np.full((2, 3), 0.5)
ACTIVITY = np.array([[1.0, 0.5, 0.2], [1.0, 1.0, 1.0]])
CLASSES = np.array([[3, 3, 5], [3, 3, 3]])


def facts(shape=(2, 3), size=(16, 24), **changes) -> OcclusionFacts:
    """Says that a square of 8 px stood at 2 x 3 places of 16 x 24 px, unless told."""
    side = size[0] // shape[0]
    plan = OcclusionPlan(image_size=size, num_images=1, window_size=side, stride=side)
    known = {"plan": plan, "names": [f"class {index}" for index in range(300)], "source": "a test"}
    return OcclusionFacts(**known | changes)


def green(num: int = 1, size=(16, 24)) -> np.ndarray:
    return np.broadcast_to(np.reshape(GREEN, (1, 3, 1, 1)) / 255, (num, 3, *size))


def drawn(
    probability=PROBABILITY, classes=CLASSES, activity=None, *, num=1, whole=0.9, **changes
) -> np.ndarray:
    columns = [probability, classes, *([] if activity is None else [activity])]
    values = np.stack([np.stack(columns, axis=-1)] * num).astype(float)
    known = {"layer": None if activity is None else "relu", "shape": probability.shape}
    said = facts(**known | changes)
    own = np.array([[whole, 3, 0 if activity is None else activity.max()]] * num)
    images, targets = green(num, said.plan.image_size), np.full(num, min(3, len(said.names) - 1))
    return draw_views(images, values, own, targets, facts=said)


def colours_in(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def count(picture: np.ndarray, colour) -> int:
    return int((picture == np.array(colour)).all(-1).sum())


def test_each_place_has_the_colour_of_the_nearest_centre():
    dark = colour_map(np.array(0.1), scale=SHARE)
    # The corner is 12 of 24 px: a third of the 96 x 64 cell's width and half of its height.
    assert 0 <= count(drawn(), dark) - 32 * 32 < 20  # the colour bar has some


def test_classes_have_colours_of_their_own_and_a_legend():
    picture = drawn()
    for number, share in ((3, 5 / 6), (5, 1 / 6)):
        in_legend = count(picture, CLASS_COLOURS[number]) - 96 * 64 * share
        assert 10 < in_legend < 300


def map_of(classes: np.ndarray) -> np.ndarray:
    """Returns the map of the most probable class alone, 64 x 96 px."""
    picture = drawn(np.full(classes.shape, 0.9), classes)
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


def test_each_area_of_a_class_bears_its_shape_unless_it_is_too_small():
    apart = map_of(np.array([[11, 0, 11], [11, 0, 11]]))
    for place in (slice(0, 32), slice(64, 96)):
        assert count(apart[:, place], (255, 255, 255)) > 10
    assert count(apart[:, 32:64], (255, 255, 255)) == 0
    small = map_of(np.where(np.arange(16 * 24).reshape(16, 24) == 100, 11, 0))
    assert count(small, CLASS_COLOURS[1]) == 16
    assert count(small, (255, 255, 255)) == 0


def test_the_outline_lies_around_the_lowest_probability():
    picture = drawn()
    rows, columns = (picture == GREEN).all(-1).nonzero()
    cell = picture[rows.min() : rows.max() + 1, columns.min() : columns.min() + 96]
    rows, columns = (cell == 255).all(-1).nonzero()
    assert cell.shape[:2] == (64, 96)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 31, 64, 95)


def test_a_fall_and_a_rise_have_outlines_of_their_own():
    rise = np.array([[0.5, 0.5, 0.5], [0.8, 0.5, 0.5]])
    none, one = drawn(FLAT, whole=0.5), drawn(rise, whole=0.5)
    two = drawn(np.where(PROBABILITY < 0.5, 0.1, rise), whole=0.5)
    assert count(none, GREEN) == 64 * 96  # the whole image, nothing drawn on it
    assert count(none, RISE) == 0
    assert count(one, RISE) == count(two, RISE) > 4 * 30
    rows, columns = (one == RISE).all(-1).nonzero()
    assert columns[rows < rows.min() + 32].max() == 31  # in the lower left
    assert count(two, FALL) > count(one, FALL)


def test_what_is_not_finite_is_magenta_and_counted():
    broken, whole = drawn(np.where(PROBABILITY < 0.5, np.nan, 0.9)), drawn(np.full((2, 3), 0.9))
    assert NOT_FINITE in colours_in(broken)
    assert broken.shape[0] > whole.shape[0]  # one more line in the caption


def test_a_network_that_gave_nothing_finite_has_no_outline_and_no_class():
    picture = drawn(np.full((2, 3), np.nan), np.full((2, 3), -1))
    assert count(picture, GREEN) == 64 * 96
    assert count(picture, NOT_FINITE) >= 2 * 64 * 96  # both maps


def test_a_silent_map_is_hatched_and_the_caption_says_what_that_means():
    silent, active = drawn(activity=np.zeros((2, 3))), drawn(activity=ACTIVITY)
    assert NOT_FINITE not in colours_in(silent)
    assert count(silent, NOT_MEASURED) > count(active, NOT_MEASURED) + 0.5 * 64 * 96
    assert silent.shape[0] > active.shape[0]


def test_a_single_output_has_no_map_of_classes():
    with_classes, without = (
        drawn(),
        drawn(names=["output 0"], are_classes=False, classes=np.zeros((2, 3))),
    )
    assert colours_in(without).isdisjoint(CLASS_COLOURS)
    assert without.shape[1] < with_classes.shape[1]


def test_changes_of_a_value_have_a_scale_around_zero():
    values = np.array([[-2.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    picture = drawn(values, whole=0.0, is_share=False, are_classes=False)
    scale = scale_of(values, signed=True)
    for value in (-2.0, 3.0):
        assert count(picture, colour_map(np.array(value), scale=scale)) >= 32 * 32


def test_an_image_is_shown_large_enough_and_not_larger_than_needed():
    sizes = []
    for side in (8, 100, 300):
        broken, size = np.full((2, 2), np.nan), (side, side)
        picture = drawn(broken, np.full((2, 2), 3), size=size)
        sizes.append(count(picture, GREEN) ** 0.5)
    assert min(sizes) >= 96
    assert max(sizes) <= 160


def test_eight_images_lie_in_two_columns_within_a_screen():
    picture = drawn(activity=ACTIVITY, num=8)
    assert picture.shape[1] <= 1_000
    assert picture.shape[0] <= 750


@pytest.mark.parametrize(
    ("value", "whole", "fall", "rise"),
    [
        (0.1, 0.9, (0, 2), None),
        (0.84, 0.9, (0, 2), None),
        (0.86, 0.9, None, None),
        (0.86, np.nan, None, None),
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
    assert places_that_matter(probability, whole, 0.05) == (fall, rise)
    assert places_that_matter(np.full((2, 3), np.nan), whole, 0.05) == (None, None)


def test_what_a_change_must_reach_can_be_given():
    values = np.array([[10.0, 12.0, 7.0]])
    assert places_that_matter(values, 10.0, 2.5) == ((0, 2), None)
    assert places_that_matter(values, 10.0, 1.5) == ((0, 2), (0, 1))


def strip(frames: np.ndarray) -> np.ndarray:
    """Draws (frames, images, rows, columns)."""
    num_frames, num_images = frames.shape[:2]
    whole, targets = np.full((num_images, 2), 0.5), np.zeros(num_images)
    said = facts(names=["a very long name of a class"] * 2)
    return draw_over_time(
        green(num_images), frames, whole, targets, facts=said, steps=range(num_frames)
    )


def test_steps_share_one_scale():
    picture = strip(np.linspace(0, 1, 3)[:, None, None, None] * np.ones((1, 2, 2, 3)))
    for share in (0.0, 0.5, 1.0):
        assert count(picture, colour_map(np.array(share), scale=SHARE)) >= 2 * 96 * 64


def test_eight_frames_of_four_images_fit_a_screen():
    assert strip(np.full((8, 4, 2, 3), 0.5)).shape[1] <= 1_600


def test_a_step_that_gave_nothing_finite_is_magenta_and_counted():
    maps = np.full((2, 1, 2, 3), 0.5)
    whole = strip(maps)
    maps[1] = np.nan
    broken = strip(maps)
    assert count(broken, NOT_FINITE) >= 64 * 96
    assert NOT_FINITE not in colours_in(whole)
    assert broken.shape[0] > whole.shape[0]  # one more line in the caption
