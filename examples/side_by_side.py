"""Puts the same picture of several runs side by side, as one PNG file.

Called by ``gallery.py``. What is shown of each monitor, of which runs and how much of it, is in
`FIGURES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from things import RUNS
from vis_callbacks.pictures.canvas import side_by_side

Pixels = NDArray[np.uint8]

MAX_WIDTH = 1600  # of a figure in pixels
GAP = 20
TITLE_HEIGHT = 30
TITLE_COLOURS = {
    "healthy": (207, 226, 243),
    "sick": (249, 203, 156),
    "shortcut": (255, 242, 204),
}


@dataclass(frozen=True)
class Card:
    """One picture of a run, and how much of it is shown.

    Attributes:
        tag: Of the picture in TensorBoard.
        max_height: Above this row it is cut, where nothing is cut through. None: all.
    """

    tag: str
    max_height: int | None = None


@dataclass(frozen=True)
class Figure:
    """The same cards of several runs.

    Attributes:
        cards: From top to bottom.
        runs: From left to right.
    """

    cards: tuple[Card, ...]
    runs: tuple[str, ...]


SICK = ("healthy", "sick")
CHEAT = ("healthy", "shortcut")
# The limits are those of the demo's pictures.
FIGURES = {
    "three_runs": Figure(
        (Card("activations/unit_life"), Card("saliency/gradient", max_height=488)),
        (*TITLE_COLOURS,),
    ),
    "activations": Figure((Card("activations/unit_life"), Card("activations/raster")), SICK),
    "maps": Figure((Card("activations/maps/features.6", max_height=520),), SICK),
    "filters": Figure((Card("filters/over_time/features.0"),), SICK),
    "filters_at_the_end": Figure((Card("filters/features.0"),), SICK),
    "embedding": Figure((Card("embedding/map/classifier"),), SICK),
    "probes": Figure((Card("embedding/probes"),), SICK),
    "saliency": Figure((Card("saliency/gradient"),), CHEAT),
    "occlusion": Figure((Card("occlusion/views"),), CHEAT),
    "top_patches": Figure((Card("top_patches/features.9", max_height=618),), CHEAT),
    "activation_maximization": Figure((Card("activation_maximization/images"),), CHEAT),
}


def compose(figure: Figure, pictures: Mapping[str, Mapping[str, bytes]]) -> Pixels:
    """Returns the panels of the runs beside each other, each below its title.

    Args:
        figure: What is shown.
        pictures: Run to tag to PNG file.
    """
    max_width = (MAX_WIDTH - GAP * (len(figure.runs) - 1)) // len(figure.runs)
    panels = [
        [_shown(card, pictures[run][card.tag], max_width) for card in figure.cards]
        for run in figure.runs
    ]
    width = max(picture.shape[1] for panel in panels for picture in panel)
    heights = [max(one.shape[0] for one in row) for row in zip(*panels, strict=True)]
    columns = []
    for run, panel in zip(figure.runs, panels, strict=True):
        body = [_padded(*item, width) for item in zip(panel, heights, strict=True)]
        columns.append(np.concatenate([_title(run, width), *body]))
    return side_by_side(columns, GAP)


def save_figures(pictures: Mapping[str, Mapping[str, bytes]], folder: Path) -> list[Path]:
    """Writes every figure into the folder; `pictures` is as for `compose`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in FIGURES.items():
        paths.append(folder / f"{name}.png")
        _with_few_colours(Image.fromarray(compose(figure, pictures))).save(paths[-1], optimize=True)
    return paths


def cut(pixels: Pixels, size: int, axis: int) -> Pixels:
    """Returns the part before the last line of one colour at or before ``size``."""
    lines = np.moveaxis(pixels, axis, 0)
    is_plain = (lines == lines[:, :1]).all(axis=(1, 2))
    if size >= len(lines) or not is_plain[: size + 1].any():
        return pixels
    return pixels.take(range(np.flatnonzero(is_plain[: size + 1])[-1]), axis=axis)


def _with_few_colours(picture: Image.Image) -> Image.Image:
    """Returns the picture with 256 colours, none of them far from what it was.

    Pillow's own choice goes by area, which gives colour bars and legends other colours.
    """
    return picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=5, dither=Image.Dither.NONE)


def _shown(card: Card, png: bytes, max_width: int) -> Pixels:
    """Returns the part of a picture that is shown, no wider than a panel."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"))
    if card.max_height is not None:
        pixels = cut(pixels, card.max_height, axis=0)
    height, width = pixels.shape[:2]
    if width <= max_width:
        return pixels
    size = (max_width, round(height * max_width / width))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _padded(pixels: Pixels, height: int, width: int) -> Pixels:
    """Returns the picture on white, at the upper left."""
    rest = ((0, height - pixels.shape[0] + GAP // 2), (0, width - pixels.shape[1]), (0, 0))
    return np.pad(pixels, rest, constant_values=255)


def _title(run: str, width: int) -> Pixels:
    """Returns the strip that says which run this is."""
    strip = Image.new("RGB", (width, TITLE_HEIGHT), TITLE_COLOURS[run])
    text = f"{run}, learning rate {RUNS[run].learning_rate:g}"
    ImageDraw.Draw(strip).text((6, TITLE_HEIGHT // 2), text, "black", font=_font(), anchor="lm")
    below = np.full((GAP // 2, width, 3), 255, np.uint8)
    return np.concatenate([np.asarray(strip), below])


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), 15
    )
