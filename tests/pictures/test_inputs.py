from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.pictures.colours import NOT_FINITE
from vis_callbacks.pictures.inputs import input_pictures, signal_pictures


def test_undoing_the_normalisation_gives_the_pixels_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5)).astype(np.float64) / 255
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))

    shown = input_pictures(normalised, mean, std)

    np.testing.assert_array_equal(shown.images, np.rint(pixels * 255).transpose(0, 2, 3, 1))
    assert shown.note == ""


def test_bytes_stay_as_they_are() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)

    np.testing.assert_array_equal(input_pictures(pixels).images[0], pixels[0].transpose(1, 2, 0))


def test_values_outside_zero_to_one_are_stretched_by_one_scale_and_it_is_said() -> None:
    images = np.zeros((2, 1, 1, 2))
    images[0, 0, 0] = (-1, 3)

    shown = input_pictures(images)

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
    assert input_pictures(np.zeros(shape)).images.shape == expected


def test_another_number_of_channels_is_averaged_and_it_is_said() -> None:
    images = np.zeros((1, 2, 1, 1))
    images[0, 1] = 1

    shown = input_pictures(images)

    assert shown.images.tolist() == [[[[128] * 3]]]
    assert shown.note == "mean of 2 channels"


def test_pixels_that_are_not_finite_are_marked_and_counted() -> None:
    images = np.zeros((1, 3, 2, 2), dtype=np.float32)
    images[0, 1, 0, 0] = np.inf

    shown = input_pictures(images)

    assert tuple(shown.images[0, 0, 0].tolist()) == NOT_FINITE
    assert (shown.images[0, 1] == 0).all()
    assert shown.note == "magenta: not finite (1 of 4 pixels)"


def test_a_single_axis_is_no_image() -> None:
    with pytest.raises(ValueError, match="two axes at least"):
        input_pictures(np.zeros(3))


def test_each_channel_of_a_signal_is_a_curve_of_its_own_colour_on_one_scale() -> None:
    signals = np.zeros((2, 2, 50))
    signals[0, 1] = 1.0

    pictures = signal_pictures(signals)

    assert pictures.shape == (2, 64, 160, 3)
    orange = (pictures == (230, 159, 0)).all(axis=-1)
    rows = [np.flatnonzero(of.any(axis=1)).mean() for of in orange]
    assert rows[0] < 5 < 55 < rows[1]  # 1 lies at the top, 0 at the bottom


def test_a_signal_that_is_not_finite_has_a_magenta_frame() -> None:
    signals = np.zeros((2, 1, 50))
    signals[1, 0, 7] = np.nan

    is_framed = [(picture[0] == NOT_FINITE).all() for picture in signal_pictures(signals)]

    assert is_framed == [False, True]
