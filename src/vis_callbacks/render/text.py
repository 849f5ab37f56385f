"""Text in pictures: any string made printable, then measured, shortened, wrapped and written."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # (height, width, 3)
Colour = tuple[int, int, int]

CAPTION_SIZE = 12  # pixels; both stay above 9 when TensorBoard shrinks 400 px to a card of 350
LABEL_SIZE = 11
INK: Colour = (30, 30, 30)
FAINT_INK: Colour = (110, 110, 110)

_MAX_CHARACTERS = 1_000
_ELLIPSIS = "…"
_NUMBER = re.compile(r"[(\[]?[-+]?\d(?:[\d.,]*\d)?")
_HEAD_SHARES = (0.4, 0.2, 0.6, 0.0, 0.8)


def _font_path() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The basic layout: the other one depends on a library that not every Pillow brings.
    return ImageFont.truetype(_font_path(), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _drawable_characters() -> frozenset[int]:
    return frozenset(FT2Font(str(_font_path())).get_charmap())


def printable(text: object) -> str:
    r"""Returns the text on one line, with what cannot be drawn written as an escape.

    Newlines, NUL, lone surrogates, direction marks and characters the font lacks become
    ``\n``, ``\x00``, ``\ud800``: the empty boxes a font draws instead would make different
    names look alike. Very long texts lose their middle.
    """
    string = _without_middle(str(text), _MAX_CHARACTERS, 0.5)
    if string.isascii() and string.isprintable():
        return string
    glyphs = _drawable_characters()
    return "".join(
        character
        if character.isprintable() and ord(character) in glyphs
        else character.encode("unicode_escape").decode("ascii")
        for character in unicodedata.normalize("NFC", string)
    )


def _without_middle(text: str, num_kept: int, head_share: float) -> str:
    """Returns the text, with an ellipsis for its middle where it is longer than ``num_kept``."""
    if len(text) <= num_kept:
        return text
    head = int(num_kept * head_share)
    return text[:head] + _ELLIPSIS + text[len(text) - (num_kept - head) :]


@lru_cache(maxsize=4096)
def text_width(text: str, size: int = LABEL_SIZE) -> int:
    """Returns the pixels that a printable text takes."""
    return math.ceil(_font(size).getlength(text))


def line_height(size: int = LABEL_SIZE) -> int:
    """Returns the pixels of one line, from the top of an accent to the foot of a ``g``."""
    ascent, descent = _font(size).getmetrics()
    return int(ascent + descent)


def shortened(text: object, width: int, size: int = LABEL_SIZE, head_share: float = 0.4) -> str:
    """Returns the text cut in its middle to ``width`` pixels, printable.

    The end of a layer's name tells more than its beginning, so it gets the larger share.
    """
    string = printable(text)
    if text_width(string, size) <= width:
        return string
    fitting, too_many = 0, len(string)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if text_width(_without_middle(string, middle, head_share), size) <= width:
            fitting = middle
        else:
            too_many = middle
    return _without_middle(string, fitting, head_share)


def shortened_names(names: Sequence[object], width: int, size: int = LABEL_SIZE) -> list[str]:
    """Returns the names cut to ``width`` pixels so that different names stay different.

    The cut moves until it hides no difference; where no place will do, names are numbered.
    """
    num_different = len({str(name) for name in names})
    for head_share in _HEAD_SHARES:
        results = [shortened(name, width, size, head_share) for name in names]
        if len(set(results)) == num_different:
            return results
    numbers = [f"{index}: " for index in range(len(names))]
    return [
        number + shortened(name, width - text_width(number, size), size)
        for number, name in zip(numbers, names, strict=True)
    ]


def wrapped(text: object, width: int, size: int = CAPTION_SIZE) -> list[str]:
    """Returns the text in lines of at most ``width`` pixels, broken at spaces where possible.

    A number stays with the word after it, mostly its unit: ``94 %``, ``64 samples``.
    """
    lines: list[str] = []
    line = ""
    for word in _words(printable(text), width, size):
        longer = f"{line} {word}" if line else word
        if text_width(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = _pieces(word, width, size)
        lines += full
    return [*lines, line]


def _words(text: str, width: int, size: int) -> list[str]:
    """Returns what a line may be broken between: words, numbers together with the next word."""
    words: list[str] = []
    for word in text.split(" "):
        if words and _NUMBER.fullmatch(words[-1]):
            pair = f"{words[-1]} {word}"
            if text_width(pair, size) <= width:
                words[-1] = pair
                continue
        words.append(word)
    return words


def _pieces(word: str, width: int, size: int) -> list[str]:
    """Returns a word cut into parts that each fit, one character at the least."""
    parts = [""]
    for character in word:
        if parts[-1] and text_width(parts[-1] + character, size) > width:
            parts.append("")
        parts[-1] += character
    return parts


def write(
    canvas: Picture,
    text: object,
    x: int,
    y: int,
    *,
    size: int = LABEL_SIZE,
    colour: Colour = INK,
    align: Literal["left", "centre", "right"] = "left",
) -> None:
    """Writes one line into the canvas, its top at ``y``; what lies outside is not drawn.

    ``x`` is the line's left end, its centre or its right end.
    """
    string = printable(text)
    width, height = text_width(string, size), line_height(size)
    if not width:
        return
    x -= {"left": 0, "centre": width // 2, "right": width}[align]
    ink = Image.new("L", (width, height))
    ImageDraw.Draw(ink).text((0, 0), string, fill=255, font=_font(size))
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, canvas.shape[1]), min(y + height, canvas.shape[0])
    if left >= right or top >= bottom:
        return
    opacity = np.asarray(ink)[top - y : bottom - y, left - x : right - x, None] / 255
    under = canvas[top:bottom, left:right]
    canvas[top:bottom, left:right] = np.rint(under + (np.array(colour) - under) * opacity)


def number(value: float) -> str:
    """Returns a number with three digits, as a label: ``0.25``, ``12,300``, ``1.2e-07``."""
    if not math.isfinite(value):
        return str(value)
    if 1_000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def class_name(number: int, names: Sequence[str] | None) -> str:
    """Returns the name of a class, or its number where it has none."""
    if names is not None and 0 <= number < len(names):
        return printable(names[number])
    return f"class {number}"
