"""Text in pictures: any string is made printable, then measured, shortened, wrapped and written."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Rgb = NDArray[np.uint8]  # (height, width, 3)
Colour = tuple[int, int, int]

CAPTION_SIZE = 12  # pixels; both stay above 9 when TensorBoard shrinks 400 px to a card of 350
LABEL_SIZE = 11
INK: Colour = (30, 30, 30)
FAINT_INK: Colour = (110, 110, 110)

_MAX_CHARACTERS = 1_000
_ELLIPSIS = "…"
_NUMBER = re.compile(r"[(\[]?[-+]?\d(?:[\d.,]*\d)?")
_HEAD_SHARES = (0.4, 0.2, 0.6, 0.0, 0.8)
_SHARES_LEFT = {"left": 0.0, "centre": 0.5, "right": 1.0}  # of a text, that lie left of its place
_BEARING = 2  # pixels that a letter may reach beyond its own width


def _font_path() -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The other layout depends on a library that not every build of Pillow has.
    return ImageFont.truetype(_font_path(), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def _drawable_characters() -> frozenset[int]:
    return frozenset(FT2Font(str(_font_path())).get_charmap())


def printable(text: object) -> str:
    r"""Returns the text on one line, with escapes for what cannot be drawn.

    Newlines, NUL, lone surrogates, direction marks and characters that the font lacks become
    ``\n``, ``\x00``, ``\ud800``. A font draws the same empty box for all of them, and different
    names would look the same. A very long text loses its middle.
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
    """Returns the text, with an ellipsis for its middle if it is longer than ``num_kept``."""
    if len(text) <= num_kept:
        return text
    head = int(num_kept * head_share)
    return text[:head] + _ELLIPSIS + text[len(text) - (num_kept - head) :]


@lru_cache(maxsize=4096)
def text_width(text: str, size: int = LABEL_SIZE) -> int:
    """Returns how many pixels a printable text takes."""
    return math.ceil(_font(size).getlength(text))


def line_height(size: int = LABEL_SIZE) -> int:
    """Returns the pixels of one line, from the top of an accent to the foot of a ``g``."""
    return int(sum(_font(size).getmetrics()))


def shortened(text: object, width: int, head_share: float = 0.4) -> str:
    """Returns the text cut in its middle to ``width`` pixels, printable.

    The end of a layer's name tells more than its beginning, so it gets the larger share.
    """
    string = printable(text)
    if text_width(string) <= width:
        return string
    fitting, too_many = 0, len(string)
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        if text_width(_without_middle(string, middle, head_share)) <= width:
            fitting = middle
        else:
            too_many = middle
    return _without_middle(string, fitting, head_share)


def shortened_names(names: Sequence[object], width: int) -> list[str]:
    """Returns the names cut to ``width`` pixels so that different names stay different.

    The cut moves until it hides no difference. If no place will do, the names are numbered.
    """
    num_different = len({str(name) for name in names})
    for head_share in _HEAD_SHARES:
        results = [shortened(name, width, head_share) for name in names]
        if len(set(results)) == num_different:
            return results
    numbers = [f"{index}: " for index in range(len(names))]
    return [
        number + shortened(name, width - text_width(number))
        for number, name in zip(numbers, names, strict=True)
    ]


def wrapped(text: object, width: int, size: int = CAPTION_SIZE) -> list[str]:
    """Returns the text in lines of at most ``width`` pixels, broken at spaces where possible.

    A number stays with the word after it, which is mostly its unit: ``94 %``, ``64 samples``.
    """
    return broken(printable(text), width, size)


def broken(string: str, width: int, size: int = CAPTION_SIZE) -> list[str]:
    """Returns what `wrapped` does of a text of any length that is printable already."""
    lines, line = list[str](), ""
    for word in _words(string, width, size):
        longer = f"{line} {word}" if line else word
        if text_width(longer, size) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:  # a word wider than the line is cut
            if line and text_width(line + character, size) > width:
                lines.append(line)
                line = ""
            line += character
    return [*lines, line]


def _words(text: str, width: int, size: int) -> list[str]:
    """Returns the pieces between which a line may be broken."""
    words = list[str]()
    for word in text.split(" "):
        if words and _NUMBER.fullmatch(words[-1]):
            pair = f"{words[-1]} {word}"
            if text_width(pair, size) <= width:
                words[-1] = pair
                continue
        words.append(word)
    return words


def write(
    canvas: Rgb,
    text: object,
    x: int,
    y: int,
    *,
    size: int = LABEL_SIZE,
    colour: Colour = INK,
    align: Literal["left", "centre", "right"] = "left",
) -> None:
    """Writes one line into the canvas, its top at ``y``. What lies outside is not drawn.

    ``x`` is the line's left end, its centre or its right end.
    """
    ink = _ink(printable(text), size)
    x -= round(_SHARES_LEFT[align] * (ink.shape[1] - 2 * _BEARING)) + _BEARING
    top, bottom = max(y, 0), min(y + ink.shape[0], canvas.shape[0])
    left, right = max(x, 0), min(x + ink.shape[1], canvas.shape[1])
    if top < bottom and left < right:
        ground = canvas[top:bottom, left:right]
        covered = ink[top - y : bottom - y, left - x : right - x]
        if ground.min() == 255:  # nearly all text stands on white: one look-up is cheaper
            ground[:] = _shades_on_white(tuple(colour)).take(covered, axis=0)
        else:
            ground[:] = _blended(ground, covered[..., None], colour)


@lru_cache(maxsize=64)
def _shades_on_white(colour: Colour) -> Rgb:
    """Returns a colour's shades on white where it covers 0/255, 1/255, ... of a pixel."""
    covered = np.arange(256, dtype=np.uint8)[:, None]
    return _blended(np.float32(255), covered, colour).astype(np.uint8)


def _blended(ground: Any, covered: NDArray[Any], colour: Colour) -> NDArray[np.float32]:
    """Returns the ground blended with the colour, plus 0.5 so that truncation rounds."""
    share = covered / np.float32(255)
    blended: NDArray[np.float32] = ground + share * (np.asarray(colour, np.float32) - ground) + 0.5
    return blended


@lru_cache(maxsize=256)  # labels come again and again; a caption's 10 kB are soon let go
def _ink(text: str, size: int) -> NDArray[np.uint8]:
    """Returns how far a printable text covers each pixel, (a line's height, its width), to 255."""
    image = Image.new("L", (text_width(text, size) + 2 * _BEARING, line_height(size)))
    ImageDraw.Draw(image).text((_BEARING, 0), text, fill=255, font=_font(size))
    return np.asarray(image)


def number(value: float) -> str:
    """Returns a number with three digits, as a label: ``0.25``, ``12,300``, ``1.2e-07``."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if 1_000 <= abs(value) < 1e7 else f"{value:.3g}"


def percent(share: float) -> str:
    """Returns a share in percent, small ones with their first digits: ``"0.03 %"``."""
    if not math.isfinite(share):
        return "?"
    return f"{100 * share:.0f} %" if share >= 0.1 or share <= 0 else f"{100 * share:.2g} %"


def class_name(number: int, names: Sequence[str] | None) -> str:
    """Returns the name of a class, or its number if it has no name."""
    if names is not None and 0 <= number < len(names):
        return printable(names[number])
    return f"class {number}"
