"""Inputs that were made to score high, beside the real ones that score highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.captions import with_caption
from vis_callbacks.render.colours import NOT_FINITE
from vis_callbacks.render.images import (
    MAX_WIDTH,
    blank,
    hatched,
    legible,
    side_by_side,
    stacked,
)
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Picture,
    line_height,
    shortened,
    text_width,
    wrapped,
    write,
)

_GAP = 4
_TILE_GAP = 14
_MAX_COLUMNS = 4
_CONTRAST = 0.45  # the strongest hundredth of a picture's deviations ends this far from grey


@dataclass(frozen=True, kw_only=True)
class MaximizedInput:
    """One target: what was made to raise it, and the real inputs that come nearest.

    Attributes:
        name: Of the class or the unit.
        picture: (height, width, 3) uint8; None where the target is silent.
        real: The real input that scores highest; more of them stand to its right.
        lines: Scores in words, and what else must be said.
    """

    name: str
    picture: Picture | None
    real: tuple[Picture, ...]
    lines: tuple[str, ...] = ()


def deviation_pictures(
    deviations: NDArray[Any], mean: NDArray[Any] | None = None, std: Sequence[float] | None = None
) -> Picture:
    """Returns deviations from the mean input as pictures: it lies under them, in the middle.

    Each picture's contrast is its own, for what maximizes a score may deviate much more or less
    than real inputs do; colours keep their balance.

    Args:
        deviations: (rows, channels, height, width), input less mean input.
        mean: (channels,) of the mean input, in 0-1; by default grey.
        std: What the user's pipeline divided each channel by.

    Returns:
        (rows, height, width, 3) uint8. Of other numbers of channels than 1 and 3 the mean.
    """
    values = np.asarray(deviations, dtype=np.float64)
    num_channels = values.shape[1]
    values = values * np.reshape(1.0 if std is None else std, (-1, 1, 1))
    base = np.full(num_channels, 0.5) if mean is None else np.asarray(mean, dtype=np.float64)
    base = np.broadcast_to(base, (num_channels,))
    if num_channels not in (1, 3):
        values, base = values.mean(axis=1, keepdims=True), base.mean(keepdims=True)
    is_finite = np.isfinite(values)
    values = np.where(is_finite, values, 0)
    sizes = np.quantile(np.abs(values).reshape(len(values), -1), 0.99, axis=1)
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    sizes = np.where(sizes > 0, sizes, np.where(largest > 0, largest, 1.0))
    shares = base[:, None, None] + _CONTRAST * values / sizes[:, None, None, None]
    shown = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    shown = np.repeat(shown, 3, axis=3) if shown.shape[3] == 1 else shown.copy()
    shown[~is_finite.all(axis=1)] = NOT_FINITE
    return shown


def maximized_inputs(
    targets: Sequence[MaximizedInput], caption: Sequence[object] = (), *, columns: int | None = None
) -> Picture:
    """Returns a grid: for each target what was made and, to its right, the best real inputs.

    A target that is silent has no picture: it is hatched, and its lines say so.

    Args:
        targets: One or more.
        caption: Lines over the grid.
        columns: At most four; by default as many as rows.

    Raises:
        ValueError: There is no target.
    """
    if not targets:
        raise ValueError("got no target; give one class or unit at least")
    most = max(len(target.real) for target in targets)
    tiles = _of_one_height([_tile(target, most) for target in targets])
    wanted = round(len(tiles) ** 0.5) if columns is None else columns
    fitting = (MAX_WIDTH + _TILE_GAP) // (max(t.shape[1] for t in tiles) + _TILE_GAP)
    columns = max(1, min(wanted, _MAX_COLUMNS, fitting))
    rows = [
        side_by_side(tiles[start : start + columns], _TILE_GAP)
        for start in range(0, len(tiles), columns)
    ]
    return with_caption(stacked(rows, _TILE_GAP // 2), caption)


def maximized_over_time(
    pictures: Picture,
    names: Sequence[str],
    steps: Sequence[int],
    is_silent: NDArray[np.bool_],
    caption: Sequence[object] = (),
) -> Picture:
    """Returns a table: a target a row, a step a column.

    Args:
        pictures: (frames, targets, height, width, 3) uint8.
        names: One for each target.
        steps: One for each frame, oldest first.
        is_silent: (frames, targets), drawn hatched.
        caption: Lines over the table.

    Raises:
        ValueError: The numbers do not fit.
    """
    if pictures.shape[:2] != (len(steps), len(names)) or is_silent.shape != pictures.shape[:2]:
        raise ValueError(
            f"pictures of shape {pictures.shape} do not fit {len(steps)} steps and {len(names)} "
            "names; give (frames, targets, height, width, 3)"
        )
    left = max(text_width(shortened(name, 150)) for name in names) + 2 * _GAP
    rows = []
    for row, name in enumerate(names):
        cells = [
            hatched(*legible(frame[row]).shape[:2]) if silent[row] else legible(frame[row])
            for frame, silent in zip(pictures, is_silent, strict=True)
        ]
        label = blank(cells[0].shape[0], left)
        middle = (label.shape[0] - line_height()) // 2
        write(label, shortened(name, 150), left - _GAP, middle, align="right")
        rows.append(side_by_side([label, *cells], _GAP))
    width = legible(pictures[0, 0]).shape[1]
    titles = blank(line_height(), rows[0].shape[1])
    for column, step in enumerate(steps):
        text = f"step {step:,}"
        write(titles, text, left + _GAP + column * (width + _GAP), 0, colour=FAINT_INK)
    return with_caption(stacked([titles, *rows], _GAP), caption)


def _tile(target: MaximizedInput, num_real: int) -> Picture:
    """Returns name, pictures and lines, one under the other, with room for so many real ones."""
    real = [legible(picture) for picture in target.real]
    height, width = real[0].shape[:2]
    picture = hatched(height, width) if target.picture is None else legible(target.picture)
    room = [blank(height, width)] * (num_real - len(real))
    pair = side_by_side([picture, *real, *room], _GAP)
    width = pair.shape[1]
    rows = [(shortened(target.name, width), INK)]
    rows += [(row, FAINT_INK) for line in target.lines for row in wrapped(line, width, 11)]
    words = []
    for text, colour in rows:
        strip = blank(line_height(), width)
        write(strip, text, 0, 0, colour=colour)
        words.append(strip)
    return stacked([words[0], pair, *words[1:]], 1)


def _of_one_height(tiles: Sequence[Picture]) -> list[Picture]:
    """Returns the tiles with white under the shorter ones."""
    height = max(tile.shape[0] for tile in tiles)
    return [
        np.pad(t, ((0, height - t.shape[0]), (0, 0), (0, 0)), constant_values=255) for t in tiles
    ]
