import io

import numpy as np
import pytest
from PIL import Image

from vis_callbacks.writers.png import encode_png


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def ramp(num_colours: int, size: int = 96) -> np.ndarray:
    codes = np.arange(size * size) % num_colours * 7919 % (1 << 24)
    pixels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)
    return pixels.reshape(size, size, 3).astype(np.uint8)


@pytest.mark.parametrize("num_colours", [1, 2, 17, 255, 256])
def test_a_picture_of_up_to_256_colours_is_kept_exactly(num_colours):
    pixels = ramp(num_colours)
    np.testing.assert_array_equal(decoded(encode_png(pixels)), pixels)


def test_frequent_colours_of_a_plot_are_kept_exactly_and_a_thin_line_keeps_its_hue():
    greys = np.arange(64).repeat(64).reshape(64, 64, 1).repeat(3, axis=2).astype(np.uint8)
    pixels = np.concatenate([greys, ramp(1500, 64) // 3 + 100], axis=1)
    pixels[5, :3] = 255, 0, 0
    result = decoded(encode_png(pixels))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 256
    np.testing.assert_array_equal(result[6:, :64], pixels[6:, :64])
    assert np.abs(result[5, :3].astype(int) - (255, 0, 0)).max() < 32


def test_a_small_photograph_keeps_its_true_colours():
    pixels = np.random.default_rng(0).integers(0, 256, (70, 70, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decoded(encode_png(pixels)), pixels)


def test_a_large_photograph_gets_a_palette_and_a_third_of_the_bytes():
    rows, columns = np.mgrid[:400, :400]
    noise = np.random.default_rng(0).normal(0, 6, (400, 400, 3))
    pixels = np.stack([rows * 0.6, columns * 0.6, (rows + columns) * 0.3], axis=-1) + noise
    pixels = pixels.clip(0, 255).astype(np.uint8)
    png = encode_png(pixels)
    true_colour = io.BytesIO()
    Image.fromarray(pixels).save(true_colour, "PNG")
    assert len(png) < len(true_colour.getvalue()) / 2.5
    # 256 colours over such a cube lie about 16 levels apart.
    assert np.abs(decoded(png).astype(int) - pixels).mean() < 16


def test_a_slice_of_an_array_is_taken():
    pixels = ramp(200)[::2, ::3]
    np.testing.assert_array_equal(decoded(encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\)"):
        encode_png(pixels)
