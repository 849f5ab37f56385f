from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import NOT_FINITE
from vis_callbacks.render.filter_grid import (
    NOISE_FRAME,
    FilterPanel,
    channels_note,
    filter_grid,
    filter_scales,
    filter_strip,
    percent,
)
from vis_callbacks.render.images import MAX_WIDTH


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def colours_in(picture: np.ndarray) -> set[tuple[int, int, int]]:
    return set(map(tuple, picture.reshape(-1, 3).tolist()))


def places_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=2))


def test_the_scale_of_a_filter_is_the_99_percent_quantile_of_its_sizes():
    filters = np.linspace(-1, 1, 1001).reshape(1, 1, 7, 143) * np.array([1, 50]).reshape(2, 1, 1, 1)
    assert filter_scales(filters) == pytest.approx([0.99, 49.5], rel=1e-3)


def test_the_scale_of_the_layer_is_one():
    filters = np.ones((2, 1, 10, 10)) * np.array([1, 50]).reshape(2, 1, 1, 1)
    assert filter_scales(filters, "layer").tolist() == [50, 50]


def test_a_filter_with_a_single_number_and_one_of_zeros_have_a_scale():
    filters = np.zeros((2, 1, 20, 20))
    filters[0, 0, 3, 3] = 4.0
    assert filter_scales(filters).tolist() == [4.0, 1.0]
    filters[1, 0, 0, 0] = np.nan
    assert filter_scales(filters).tolist() == [4.0, 1.0]


def test_zero_is_grey_and_opposite_values_are_black_and_white():
    filters = np.zeros((1, 1, 3, 3))
    filters[0, 0, 0, 0], filters[0, 0, 2, 2] = 1.0, -1.0
    picture = filter_grid([FilterPanel(filters=filters)])
    white, grey, black = ((value,) * 3 for value in (255, 128, 0))
    assert {white, grey, black} <= colours_in(picture)
    # Each number is a square of 14 x 14 pixels, with hard edges.
    assert len(places_of(picture, black)) == 14 * 14
    assert len(places_of(picture, grey)) == 7 * 14 * 14


def test_three_channels_are_a_colour():
    filters = np.zeros((1, 3, 5, 5))
    filters[0, 0] = 1.0
    picture = filter_grid([FilterPanel(filters=filters)])
    assert len(places_of(picture, (255, 128, 128))) == 40 * 40


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_other_channels_are_maps_around_zero_side_by_side(channels):
    filters = np.ones((1, channels, 3, 3))
    filters[0, 1] = -1.0
    picture = filter_grid([FilterPanel(filters=filters)])
    red, blue = (103, 0, 31), (5, 48, 97)
    assert len(places_of(picture, red)) == (channels - 1) * len(places_of(picture, blue))
    first, second = places_of(picture, red), places_of(picture, blue)
    assert first[:, 1].min() < second[:, 1].min()


def test_of_many_channels_the_largest_are_shown_and_it_is_said():
    assert "the 16 largest of 64" in channels_note(64, 2)
    filters = noise(4, 64, 3, 3)
    picture = filter_grid([FilterPanel(filters=filters)])
    assert picture.shape[1] <= MAX_WIDTH


def test_what_is_not_finite_is_magenta_and_nothing_else():
    filters = np.zeros((4, 3, 5, 5))
    filters[2, 1, 0, 0] = np.inf
    picture = filter_grid([FilterPanel(filters=filters)])
    assert len(places_of(picture, NOT_FINITE)) == 8 * 8


def test_noise_like_filters_have_a_frame():
    framed = np.array([False, True, False, False])
    picture = filter_grid([FilterPanel(filters=noise(4, 1, 7, 7), framed=framed)])
    rows, columns = places_of(picture, NOISE_FRAME).T
    side = 42 + 2 * 2
    assert len(rows) == side**2 - 42**2
    assert columns.min() > side  # the second of two columns
    assert not len(places_of(filter_grid([FilterPanel(filters=noise(4, 1, 7, 7))]), NOISE_FRAME))


def test_panels_lie_side_by_side_with_equal_places():
    filters = noise(6, 3, 7, 7)
    one = filter_grid([FilterPanel(filters=filters, title="the filters")])
    two = filter_grid([FilterPanel(filters=filters), FilterPanel(filters=-filters)])
    assert two.shape[1] > 1.8 * one.shape[1] - 240
    left, right = two[:, : two.shape[1] // 2], two[:, -(two.shape[1] // 2) :]
    assert left.std() > 20
    assert right.std() > 20


def test_filters_of_nothing_are_hatched_and_those_near_zero_crossed():
    filters = np.zeros((2, 1, 7, 7))
    plain = filter_grid([FilterPanel(filters=filters)])
    crossed = filter_grid([FilterPanel(filters=filters, crossed=np.array([True, False]))])
    missing = filter_grid([FilterPanel(filters=filters, missing=np.array([True, False]))])
    assert not np.array_equal(plain, crossed)
    assert len(colours_in(missing)) > len(colours_in(plain))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (256, 3, 16, 16),
        (64, 12, 7, 7),
        (40, 1, 9),
        (40, 6, 9),
        (30, 1, 3_000),
        (16, 3, 5, 5, 5),
        (16, 2, 3, 3, 3),
        (20, 3, 224, 224),
        (7, 3, 1, 9),
    ],
)
def test_any_shape_of_filters_fits_two_panels_and_a_strip(shape):
    filters = noise(*shape)
    labels = [f"{index} .99" for index in range(shape[0])]
    panel = FilterPanel(filters=filters, labels=labels, title="what training added")
    picture = filter_grid([panel, panel], ["caption"])
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= MAX_WIDTH
    assert picture.std() > 10
    strip = filter_strip(np.stack([filters[:36]] * 8), list(range(8)))
    assert strip.shape[1] <= MAX_WIDTH


def test_panels_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="give one shape"):
        filter_grid(
            [FilterPanel(filters=noise(2, 1, 3, 3)), FilterPanel(filters=noise(3, 1, 3, 3))]
        )
    with pytest.raises(ValueError, match="give one shape"):
        filter_grid([FilterPanel(filters=noise(0, 1, 3, 3))])


def test_a_strip_shows_each_filter_at_one_scale_and_below_what_changed():
    before = np.zeros((4, 1, 5, 5))
    before[:, :, 0] = 1.0
    after = before.copy()
    after[3, :, 4] = -2.0
    strip = filter_strip(np.stack([before, after]), [0, 50])
    alone = filter_strip(before[None], [0])
    assert strip.shape[0] > alone.shape[0]
    # In the first frame the first row of filter 3 is half as strong as in the scale of all.
    assert {(255, 255, 255), (191, 191, 191), (0, 0, 0)} <= colours_in(strip)


def test_a_share_is_said_with_its_first_digits():
    assert [percent(v) for v in (0.0, 0.00013, 0.031, 0.5, 1.82, float("nan"))] == [
        "0 %",
        "0.013 %",
        "3.1 %",
        "50 %",
        "182 %",
        "?",
    ]
