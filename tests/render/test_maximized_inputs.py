from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import NOT_FINITE, NOT_MEASURED
from vis_callbacks.render.maximized_inputs import (
    MaximizedInput,
    deviation_pictures,
    maximized_inputs,
    maximized_over_time,
)


def has(picture: np.ndarray, colour) -> bool:
    return bool((picture == np.array(colour)).all(-1).any())


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


def target(**changes) -> MaximizedInput:
    colour = np.full((16, 16, 3), (10, 200, 30), dtype=np.uint8)
    real = np.full((16, 16, 3), (200, 10, 30), dtype=np.uint8)
    known = {"name": "dog", "picture": colour, "real": (real,), "lines": ("score 3",)}
    return MaximizedInput(**known | changes)


def test_a_silent_target_is_hatched_and_its_real_image_shown():
    picture = maximized_inputs([target(picture=None)])
    assert has(picture, NOT_MEASURED)
    assert has(picture, (200, 10, 30))
    assert not has(picture, (10, 200, 30))


def test_sixteen_targets_fit_a_screen():
    picture = maximized_inputs([target()] * 16, ["a caption"])
    assert picture.shape[1] <= 1_000
    assert picture.shape[0] <= 700


def test_long_words_are_wrapped_to_the_tile():
    words = "silent: no gradient at the mean image, nor at the best real one"
    short = maximized_inputs([target()])
    long = maximized_inputs([target(lines=(words,))])
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0]


def test_large_inputs_are_made_small():
    real = np.zeros((448, 448, 3), dtype=np.uint8)
    assert maximized_inputs([target(picture=real, real=(real,))]).shape[1] <= 400


def test_tiles_are_of_one_width_whether_or_not_another_real_image_is_shown():
    real = target().real[0]
    one, two = target(), target(real=(real, real))
    assert (
        maximized_inputs([one, two], columns=1).shape
        == maximized_inputs([two, two], columns=1).shape
    )


def test_no_target_is_an_error():
    with pytest.raises(ValueError, match="got no target"):
        maximized_inputs([])


def test_eight_targets_and_steps_fit_a_screen():
    pictures = np.zeros((8, 8, 32, 32, 3), dtype=np.uint8)
    silent = np.zeros((8, 8), dtype=bool)
    picture = maximized_over_time(pictures, ["a very long name of a class"] * 8, range(8), silent)
    assert picture.shape[1] <= 1_000


def test_a_silent_frame_is_hatched():
    pictures = np.zeros((2, 1, 32, 32, 3), dtype=np.uint8)
    for is_silent in (False, True):
        silent = np.array([[is_silent], [False]])
        picture = maximized_over_time(pictures, ["dog"], [0, 9], silent)
        assert has(picture, NOT_MEASURED) == is_silent


def test_frames_that_do_not_fit_are_an_error():
    with pytest.raises(ValueError, match="do not fit 1 steps and 1 names"):
        maximized_over_time(
            np.zeros((2, 1, 4, 4, 3), np.uint8), ["dog"], [0], np.zeros((2, 1), bool)
        )
