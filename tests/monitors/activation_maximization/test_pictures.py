from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.monitors.activation_maximization.pictures import (
    MaximizationFacts,
    deviation_pictures,
    draw_images,
    draw_over_time,
)
from vis_callbacks.pictures.colours import NOT_FINITE, NOT_MEASURED


def has(picture: np.ndarray, colour) -> bool:
    """Tells whether there is more of a colour than letters have."""
    return bool((picture == np.array(colour)).all(-1).sum() > 500)


def test_no_deviation_is_the_mean_image():
    pictures = deviation_pictures(np.zeros((2, 3, 4, 4)), np.array([0.2, 0.4, 0.6]))
    assert pictures.shape == (2, 4, 4, 3)
    assert (pictures == np.array([51, 102, 153])).all()


def test_the_contrast_of_each_picture_is_its_own():
    small, large = np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 4))
    small[..., 0], large[..., 0] = 1e-3, 1e3
    pictures = deviation_pictures(np.concatenate([small, large]))
    assert np.array_equal(*pictures)
    assert pictures.max() == round(0.95 * 255)


def test_channels_keep_their_balance():
    deviations = np.zeros((1, 3, 4, 4))
    deviations[0, 0] = 1.0
    deviations[0, 1] = -0.5
    red, green, blue = deviation_pictures(deviations, std=[1.0, 1.0, 1.0])[0, 0, 0] / 255 - 0.5
    assert (red, green, blue) == pytest.approx((0.45, -0.225, 0.0), abs=0.003)
    red, green, _ = deviation_pictures(deviations, std=[1.0, 2.0, 1.0])[0, 0, 0] / 255 - 0.5
    assert green == pytest.approx(-red, abs=0.005)


def test_other_numbers_of_channels_are_averaged():
    assert deviation_pictures(np.ones((1, 5, 4, 4)), np.full(5, 0.5)).shape == (1, 4, 4, 3)


def test_what_is_not_finite_is_magenta():
    deviations = np.zeros((1, 3, 4, 4))
    deviations[0, 1, 2, 2] = np.nan
    assert tuple(deviation_pictures(deviations)[0, 2, 2]) == NOT_FINITE


def facts(num_rows: int, name: str = "dog") -> MaximizationFacts:
    return MaximizationFacts(
        step=0,
        kind="image",
        names=(name,) * num_rows,
        name="class {}".format,
        num_real=32,
        source="a test",
        preset="smooth",
        num_steps=32,
        has_classes=False,
        mean=None,
        std=None,
    )


RED = (204, 0, 51)


def grid(num_rows: int = 1, *, side: int = 16, is_best: bool = True, **changes) -> np.ndarray:
    real = np.broadcast_to(np.reshape(RED, (3, 1, 1)) / 255, (num_rows, 3, side, side))
    ones = np.ones(num_rows)
    known = {
        "deviations": np.zeros(real.shape),
        "real": real,
        "best": real,
        "centre": np.array([0.2, 0.4, 0.6]),
        "scores": 3 * ones,
        "best_scores": ones,
        "real_scores": ones,
        "is_best": np.full(num_rows, is_best),
        "is_silent": 0 * ones,
        "is_real": 0 * ones,
        "labels": -ones,
    }
    return draw_images(**known | changes, facts=facts(num_rows))


def test_a_silent_target_is_hatched_and_its_real_image_shown():
    active, silent = grid(), grid(is_silent=np.ones(1))
    assert has(active, (51, 102, 153))
    assert not has(silent, (51, 102, 153))
    assert has(silent, NOT_MEASURED)
    assert has(silent, RED)


def test_sixteen_targets_fit_a_screen():
    picture = grid(16)
    assert picture.shape[1] <= 1_000
    assert picture.shape[0] <= 750


def test_large_inputs_are_made_small():
    assert grid(side=448).shape[1] <= 450


def test_the_best_of_any_class_has_a_place_of_its_own():
    one, two = grid(), grid(is_best=False)
    assert two.shape[1] > one.shape[1]
    mixed = grid(2, is_best=np.array([True, False]))
    assert mixed.shape[1] == two.shape[1]


def strip(silent: np.ndarray, side: int = 32) -> np.ndarray:
    num_frames, num_rows = silent.shape
    frames = np.zeros((num_frames, num_rows, 1, side, side), dtype=np.float16)
    return draw_over_time(
        frames,
        silent,
        frames[0],
        np.zeros(1),
        facts=facts(num_rows, "a very long name of a class"),
        rows=range(num_rows),
        steps=range(num_frames),
    )


def test_eight_targets_and_steps_fit_a_screen():
    assert strip(np.zeros((8, 8), dtype=bool)).shape[1] <= 1_000


def test_a_silent_frame_is_hatched():
    for is_silent in (False, True):
        assert has(strip(np.array([[is_silent], [False]])), NOT_MEASURED) == is_silent
