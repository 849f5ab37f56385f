"""Signals as pictures: each channel a curve over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vis_callbacks.render.colours import CLASS_COLOURS, NOT_FINITE, NOT_MEASURED
from vis_callbacks.render.images import blank
from vis_callbacks.render.text import Picture

SIGNAL_WIDTH, SIGNAL_HEIGHT = 160, 64  # the width at which inputs are shown


def signal_pictures(signals: NDArray[Any]) -> Picture:
    """Returns (samples, 64, 160, 3) uint8: all on one scale, the line of 0 in grey.

    A sample with a value that is not finite has a magenta frame.

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
        for channel, line in enumerate(sample):
            colour = CLASS_COLOURS[channel % len(CLASS_COLOURS)]
            draw.line(list(zip(places.tolist(), line.tolist(), strict=True)), fill=colour)
        if not finite.all():
            draw.rectangle((0, 0, SIGNAL_WIDTH - 1, SIGNAL_HEIGHT - 1), outline=NOT_FINITE)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)
