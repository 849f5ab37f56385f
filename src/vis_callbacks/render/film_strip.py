"""Film strips: one thing at several steps, in one picture.

TensorBoard keeps ten pictures of a tag, drawn at random, so what must be compared over time
goes into one picture (Zeiler and Fergus, 2014, figure 4, show their features so).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import Scale
from vis_callbacks.render.images import (
    MAX_FRAME_WIDTH,
    MAX_WIDTH,
    blank,
    enlarge,
    factor_for,
    shrink,
    side_by_side,
    stacked,
)
from vis_callbacks.render.text import Picture, line_height, text_width, write

Frame = TypeVar("Frame")

_LEAST_FRAME_WIDTH = 96
_GAP = 6


def kept_frames(steps: Sequence[int], max_frames: int) -> list[int]:
    """Returns the indexes of at most ``max_frames`` steps, spaced by their logarithm.

    The first and the latest always stay. May be asked again and again: thinned, with a new
    step appended and thinned once more, a strip stays log-spaced, so that nothing but the
    kept frames need be remembered.

    Args:
        steps: Increasing.
        max_frames: Two or more.

    Raises:
        ValueError: ``max_frames`` is below two.
    """
    if max_frames < 2:
        raise ValueError(
            f"max_frames={max_frames} cannot hold the first and the latest frame; give 2 or more"
        )
    kept = list(range(len(steps)))
    times = [math.log1p(max(0, step - steps[0])) for step in steps]
    while len(kept) > max_frames:
        # The frame whose absence leaves the smallest gap; of equals the later, since early
        # frames cannot be had again.
        gaps = [
            (times[kept[place + 1]] - times[kept[place - 1]], -place)
            for place in range(1, len(kept) - 1)
        ]
        del kept[-min(gaps)[1]]
    return kept


def with_frame(
    frames: Sequence[Frame],
    frame: Frame,
    max_frames: int,
    *,
    key: Callable[[Frame], tuple[int, Any]],
) -> list[Frame]:
    """Returns the frames with one more, thinned by `kept_frames`.

    Frames of another shape, or at this step and behind it, belong to a run that began anew:
    then the new one stands alone.

    Args:
        frames: Oldest first.
        frame: The new one.
        max_frames: Two or more.
        key: Step and shape of a frame.
    """
    step, shape = key(frame)
    if frames and (key(frames[-1])[1] != shape or key(frames[-1])[0] >= step):
        frames = ()
    frames = [*frames, frame]
    return [frames[place] for place in kept_frames([key(f)[0] for f in frames], max_frames)]


def film_strip(
    frames: Sequence[Picture],
    steps: Sequence[int],
    caption: Sequence[object] = (),
    *,
    scale: Scale | None = None,
    units: str = "",
) -> Picture:
    """Returns the frames side by side, each under its step, in rows of at most 1,600 px.

    Args:
        frames: (height, width, 3) each, oldest first. Small ones are enlarged, the wide
            averaged down to 400 px.
        steps: One for each frame.
        caption: Lines over the strip.
        scale: The one scale all frames were coloured by, drawn as a colour bar.
        units: Of the scale.

    Raises:
        ValueError: There is no frame, or not one step for each.
    """
    if not len(frames) or len(frames) != len(steps):
        raise ValueError(f"got {len(frames)} frames for {len(steps)} steps; give one for each")
    cells = [_frame(frame, f"step {step:,}") for frame, step in zip(frames, steps, strict=True)]
    widest = max(cell.shape[1] for cell in cells)
    per_row = max(1, (MAX_WIDTH + _GAP) // (widest + _GAP))
    rows = [
        side_by_side(cells[start : start + per_row], _GAP)
        for start in range(0, len(cells), per_row)
    ]
    bar = None if scale is None else colour_bar(scale, units)
    return with_caption(stacked(rows, _GAP), caption, bar=bar)


def _frame(frame: Picture, label: str) -> Picture:
    """Returns one frame at a legible size, its label over it."""
    frame = shrink(frame)
    factor = factor_for(frame.shape[1], _LEAST_FRAME_WIDTH, MAX_FRAME_WIDTH)
    frame = enlarge(frame, factor)
    title = blank(line_height(), max(frame.shape[1], text_width(label) + 2))
    write(title, label, 1, 0)
    return stacked([title, frame], gap=1)
