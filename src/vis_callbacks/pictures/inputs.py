"""A model's inputs as RGB pictures: images, volumes, rows of features, and signals as curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.pictures.canvas import blank
from vis_callbacks.pictures.colours import NOT_FINITE, NOT_MEASURED, class_colour, rgb_of
from vis_callbacks.pictures.text import Rgb, number

SIGNAL_WIDTH, SIGNAL_HEIGHT = 160, 64  # the width at which inputs are shown

_ROUNDING = 1e-3  # a normalisation undone in float16 misses 0 and 1 by this much


class Shown(NamedTuple):
    """Inputs made visible, and in words what had to be done to them ("" for nothing)."""

    images: Rgb  # (samples, height, width, 3)
    note: str


def as_image_planes(images: NDArray[Any]) -> tuple[NDArray[Any], str]:
    """Returns inputs as (samples, channels, height, width), and in words what was left out.

    A row of features becomes a picture one pixel high. Of a volume the middle slice is taken.

    Raises:
        ValueError: There are fewer than two axes.
    """
    if images.ndim == 2:
        return images[:, None, None, :], ""
    if images.ndim == 3:
        return images[:, None], ""
    if images.ndim < 2:
        raise ValueError(f"images have two axes at least, samples first; got {images.shape}")
    notes = []
    while images.ndim > 4:
        middle = images.shape[2] // 2
        notes.append(f"slice {middle} of {images.shape[2]}")
        images = images[:, :, middle]
    return images, "; ".join(notes)


def input_pictures(
    images: NDArray[Any],
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Shown:
    """Returns a model's inputs as RGB pictures, and in words what had to be done to them.

    Args:
        images: (samples, channels, height, width), or what `as_image_planes` takes. One channel
            is grey, three are RGB. Of any other number the mean is shown.
        mean: What the user's pipeline subtracted, one number or one for each channel.
        std: What it divided by afterwards.

    Returns:
        Values between 0 and 1 as they are (uint8: between 0 and 255). Others are stretched from
        black to white, all by one scale. What is not finite is magenta.
    """
    array, note = as_image_planes(np.asarray(images))
    notes = [note]
    is_bytes = array.dtype == np.uint8 and mean is None and std is None
    values = array.astype(np.float64) / (255 if is_bytes else 1)
    values = values * _per_channel(std, 1.0) + _per_channel(mean, 0.0)
    if values.shape[1] not in (1, 3):
        notes.append(f"mean of {values.shape[1]} channels")
        with np.errstate(invalid="ignore"):  # of infinities
            values = values.mean(axis=1, keepdims=True)
    is_finite = np.isfinite(values).all(axis=1)
    if is_finite.any():
        known = np.moveaxis(values, 1, -1)[is_finite]
        low, high = float(known.min()), float(known.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            notes.append(f"black is {number(low)}, white is {number(high)}")
            # Halves, because the distance between the ends may be too large for a float.
            span = high / 2 - low / 2
            shifted = values / 2 - low / 2
            values = shifted / span if span > 0 else np.where(np.isfinite(values), 0.5, np.nan)
    if num_missing := int(np.count_nonzero(~is_finite)):
        notes.append(f"magenta: not finite ({number(num_missing)} of {is_finite.size:,} pixels)")
    return Shown(rgb_of(values), "; ".join(filter(None, notes)))


def _per_channel(value: Sequence[float] | float | None, default: float) -> NDArray[np.float64]:
    """Returns the numbers so that they meet the channels of (samples, channels, ...)."""
    numbers = np.asarray(default if value is None else value, dtype=np.float64)
    return numbers.reshape(-1, 1, 1)


def signal_pictures(signals: NDArray[Any]) -> Rgb:
    """Returns (samples, 64, 160, 3): each channel a curve over time, the line of 0 in grey.

    All samples have one scale. A sample with a value that is not finite has a magenta frame.

    Args:
        signals: (samples, channels, time).
    """
    values = np.asarray(signals, dtype=np.float64)
    is_finite = np.isfinite(values)
    values = np.where(is_finite, values, 0)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    span = (high - low) or 1.0
    heights = (SIGNAL_HEIGHT - 3) * (1 - (values - low) / span) + 1
    zero = (SIGNAL_HEIGHT - 3) * (1 - (0 - low) / span) + 1
    places = (np.arange(values.shape[2]) + 0.5) * SIGNAL_WIDTH / values.shape[2]
    pictures = []
    for sample, finite in zip(heights, is_finite, strict=True):
        picture = Image.fromarray(blank(SIGNAL_HEIGHT, SIGNAL_WIDTH))
        draw = ImageDraw.Draw(picture)
        draw.line((0, zero, SIGNAL_WIDTH, zero), fill=NOT_MEASURED)
        for channel, curve in enumerate(sample):
            corners = list(zip(places.tolist(), curve.tolist(), strict=True))
            draw.line(corners, fill=class_colour(channel))
        if not finite.all():
            draw.rectangle((0, 0, SIGNAL_WIDTH - 1, SIGNAL_HEIGHT - 1), outline=NOT_FINITE)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
