"""What TensorBoard's own reader finds in a folder."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

with warnings.catch_warnings():  # html5lib, inside TensorBoard's copy of bleach, is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

__all__ = ["images", "markdown_to_safe_html", "read", "scalars", "texts"]


EVERYTHING = {"scalars": 0, "images": 0, "tensors": 0, "histograms": 0}


def read(folder: Path):
    accumulator = EventAccumulator(str(folder), size_guidance=EVERYTHING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        accumulator.Reload()
    return accumulator


def scalars(folder: Path, tag: str) -> dict[int, float]:
    accumulator = read(folder)
    if tag not in accumulator.Tags()["scalars"]:
        return {}
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def images(folder: Path, tag: str) -> dict[int, np.ndarray]:
    accumulator = read(folder)
    if tag not in accumulator.Tags()["images"]:
        return {}
    return {
        event.step: np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))
        for event in accumulator.Images(tag)
    }


def texts(folder: Path, tag: str) -> dict[int, str]:
    accumulator = read(folder)
    name = f"{tag}/text_summary"
    if name not in accumulator.Tags()["tensors"]:
        return {}
    return {
        event.step: event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(name)
    }


def num_torn_bytes(path: Path) -> int:
    """How many bytes stand behind the last whole record of an event file."""
    data, position = path.read_bytes(), 0
    while position < len(data):
        end = position + 16 + int.from_bytes(data[position : position + 8], "little")
        if end > len(data):
            break
        position = end
    return len(data) - position
