from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.alerts import metric_names
from vis_callbacks.monitors.filters.numbers import MEASURED
from vis_callbacks.monitors.filters.pictures import (
    NOISE_FRAME,
    channels_note,
    draw_grid,
    draw_strip,
    filter_pictures,
    filter_scales,
)
from vis_callbacks.pictures.canvas import MAX_WIDTH
from vis_callbacks.pictures.colours import NOT_FINITE
from vis_callbacks.pictures.text import FAINT_INK

NUMBERS = dict.fromkeys(
    (*MEASURED, metric_names.KERNEL_SIZE, metric_names.FIRST_STEP, metric_names.ROUGHNESS_ERROR),
    0.5,
) | {metric_names.LEARNING_RATE: 0.1, metric_names.NUM_FILTERS: 4, metric_names.DECAY_LEFT: np.nan}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def grid(filters: np.ndarray, **changed) -> np.ndarray:
    nothing = np.zeros(len(filters), dtype=bool)
    arrays = {
        "filters": filters,
        "learned": filters,
        "learned_share": np.ones(len(filters)),
        "norms": np.ones(len(filters)),
        "rough": np.ones(len(filters)),
        "noise_like": nothing,
        "is_dead": nothing,
    }
    facts = {"layer": "conv", "step": 5, "num_filters": len(filters)}
    options = {"max_filters": 256, "scale": "filter", "order": "index"}
    return draw_grid(**(arrays | facts | options | changed), numbers=NUMBERS)


def strip(frames: np.ndarray, steps: list[int]) -> np.ndarray:
    return draw_strip(
        frames,
        np.ones(frames.shape[1]),
        layer="conv",
        steps=steps,
        num_filters=frames.shape[1],
        first_step=0,
        scale="filter",
        order="index",
    )


def only(filters: np.ndarray) -> np.ndarray:
    (picture,) = filter_pictures(filters, "filter", 42, 390, 780)
    return picture


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
    picture = only(filters)
    white, grey, black = ((value,) * 3 for value in (255, 128, 0))
    assert {white, grey, black} <= colours_in(picture)
    # Each number is a square of 14 x 14 pixels, with hard edges.
    assert len(places_of(picture, black)) == 14 * 14
    assert len(places_of(picture, grey)) == 7 * 14 * 14


def test_three_channels_are_a_colour():
    filters = np.zeros((1, 3, 5, 5))
    filters[0, 0] = 1.0
    picture = only(filters)
    assert len(places_of(picture, (255, 128, 128))) == 45 * 45


@pytest.mark.parametrize("channels", [2, 5, 12])
def test_other_channels_are_maps_around_zero_side_by_side(channels):
    filters = np.ones((1, channels, 3, 3))
    filters[0, 1] = -1.0
    picture = only(filters)
    red, blue = (103, 0, 31), (5, 48, 97)
    assert len(places_of(picture, red)) == (channels - 1) * len(places_of(picture, blue))
    first, second = places_of(picture, red), places_of(picture, blue)
    assert first[:, 1].min() < second[:, 1].min()


def test_of_many_channels_the_largest_are_shown_and_it_is_said():
    assert "the 16 largest of 64" in channels_note(64, 2)
    assert grid(noise(4, 64, 3, 3)).shape[1] <= MAX_WIDTH


def test_what_is_not_finite_is_magenta_and_nothing_else():
    filters = np.zeros((1, 3, 5, 5))
    filters[0, 1, 0, 0] = np.inf
    assert len(places_of(only(filters), NOT_FINITE)) == 9 * 9


def test_noise_like_filters_have_a_frame():
    noise_like = np.array([False, True, False, False])
    rows, _ = places_of(grid(noise(4, 1, 7, 7), noise_like=noise_like), NOISE_FRAME).T
    assert len(rows) == (42 + 2 * 2) ** 2 - 42**2
    assert not len(places_of(grid(noise(4, 1, 7, 7)), NOISE_FRAME))


def test_what_was_learned_lies_beside_the_filters():
    picture = grid(noise(6, 3, 7, 7))
    halves = picture[-100:, : picture.shape[1] // 2], picture[-100:, -(picture.shape[1] // 2) :]
    assert all(half.std() > 20 for half in halves)


def test_filters_of_nothing_are_hatched_and_those_near_zero_crossed():
    filters, one = np.zeros((2, 1, 7, 7)), np.array([True, False])
    plain, crossed = grid(filters), grid(filters, is_dead=one)
    hatched = grid(filters, learned_share=np.array([0.0, 1.0]))
    assert plain.shape == crossed.shape
    assert not np.array_equal(plain, crossed)
    assert len(places_of(hatched, FAINT_INK)) > len(places_of(plain, FAINT_INK))


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (256, 3, 16, 16),
        (64, 12, 7, 7),
        (40, 6, 9),
        (30, 1, 3_000),
        (16, 2, 3, 3, 3),
        (20, 3, 224, 224),
        (7, 3, 1, 9),
    ],
)
def test_any_shape_of_filters_fits_two_panels_and_a_strip(shape):
    picture = grid(noise(*shape))
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= MAX_WIDTH
    assert picture.std() > 10
    assert strip(np.stack([noise(*shape)[:36]] * 8), list(range(8))).shape[1] <= MAX_WIDTH


def test_a_strip_shows_each_filter_at_one_scale_and_below_what_changed():
    before = np.zeros((4, 1, 5, 5))
    before[:, :, 0] = 1.0
    after = before.copy()
    after[3, :, 4] = -2.0
    both = strip(np.stack([before, after]), [0, 50])
    alone = strip(before[None], [0])
    assert both.shape[0] > alone.shape[0]
    # In the first frame the first row of filter 3 is half as strong as in the scale of all.
    assert {(255, 255, 255), (191, 191, 191), (0, 0, 0)} <= colours_in(both)
