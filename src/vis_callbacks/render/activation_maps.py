"""Activation maps: what the units of one layer answer to one input, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.render.axes import bounds, largest_of_neighbours, step_axis
from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import NOT_MEASURED, Scale, colour_map, missing_note, scale_of
from vis_callbacks.render.images import (
    blank,
    crossed,
    enlarge,
    factor_for,
    shrink,
    shrink_values,
    side_by_side,
    stacked,
)
from vis_callbacks.render.raster import DEAD, NEVER_FIRED, STATE_COLOURS
from vis_callbacks.render.text import (
    FAINT_INK,
    INK,
    Picture,
    line_height,
    shortened,
    text_width,
    write,
)

_STATE_NAMES = {DEAD: "dead", NEVER_FIRED: "never fired"}
_LEAST_MAP = 48  # pixels of the longer side
_MOST_MAP = 96
_MAX_COLUMNS = 12  # of 96 px and their names within 1,600 px, the input beside them
_INPUT_WIDTH = 128
_MAX_UNIT_HEIGHT = 400
_MOST_ROW_HEIGHT = 12
_GAP = 3


def activation_maps(
    maps: NDArray[Any],
    steps: Sequence[int],
    caption: Sequence[object] = (),
    *,
    unit_names: Sequence[object] | None = None,
    reference: Picture | None = None,
    states: NDArray[Any] | None = None,
    min_samples: int = 0,
    samples: str = "samples",
    signed: bool = False,
    units: str = "activation",
    quantile: float = 0.995,
) -> Picture:
    """Returns a table of maps: a unit a row, a step a column, the input beside it.

    One reads along a row how the answer of a unit to the same input forms. All maps of the
    layer share one scale. A map that is zero everywhere is crossed, and such maps are counted
    in the caption: silent on one input is not yet dead. Units that are dead are called so.

    Args:
        maps: (frames, units, height, width), or (frames, units) for a layer without
            positions: then a line a unit, and grey where it is exactly 0.
        steps: One for each frame, oldest first; at most 12.
        caption: Lines over the picture.
        unit_names: By default the units are numbered from 0.
        reference: The input, (height, width, 3) uint8.
        states: (units,) what their life so far says, as for `raster`; None: not known.
        min_samples: So many samples at least a dead unit was 0 for.
        samples: What these are, if they are none: "rows".
        signed: Whether the activations have a sign worth a colour (tanh; not GELU's dip).
        units: What the numbers are, for the colour bar.
        quantile: The share of the values that the scale covers: one strong unit would
            otherwise leave all others dark.

    Raises:
        ValueError: The shape is another, something is empty, or the frames outnumber 12.
    """
    maps = np.asarray(maps)
    if maps.ndim not in (2, 4) or not maps.size or len(maps) != len(steps):
        raise ValueError(
            f"maps of shape {maps.shape} do not fit {len(steps)} steps; give (frames, units, "
            "height, width) or (frames, units), one frame for each step"
        )
    if len(steps) > _MAX_COLUMNS:
        raise ValueError(f"got {len(steps)} frames; choose at most {_MAX_COLUMNS} (kept_frames)")
    num_units = maps.shape[1]
    names = [f"unit {unit}" for unit in range(num_units)] if unit_names is None else unit_names
    if len(names) != num_units:
        raise ValueError(f"got {len(names)} unit names for {num_units} units; give one for each")
    if states is not None and len(states) != num_units:
        raise ValueError(f"got {len(states)} states for {num_units} units; give one for each")
    known = np.full(num_units, -1) if states is None else np.asarray(states)
    scale = scale_of(maps, signed=signed, quantile=quantile)
    is_zero = (maps == 0).reshape(*maps.shape[:2], -1).all(axis=2)  # (frames, units)
    if maps.ndim == 4:
        body, mark = _table(maps, is_zero, names, known, steps, scale), "crossed"
    else:
        body, mark = _lines(maps, known, steps, scale), "grey"
    if reference is not None:
        body = side_by_side([_input(reference), body], 2 * _GAP)
    lines = [
        *caption,
        _silent_note(is_zero, steps, mark),
        _life_note(known, f"{min_samples:,} {samples}") if states is not None else "",
        missing_note(maps),
    ]
    return with_caption(body, lines, bar=colour_bar(scale, units))


def _silent_note(is_zero: NDArray[np.bool_], steps: Sequence[int], mark: str) -> str:
    """Returns what the mark means and how many units bear it at the latest step."""
    if not is_zero.any():
        return ""
    return (
        f"{mark}: 0 on this input, as usual for some units ({np.count_nonzero(is_zero[-1]):,} of "
        f"{is_zero.shape[1]:,} at step {steps[-1]:,})"
    )


def _life_note(states: NDArray[Any], window: str) -> str:
    """Returns how many units are dead and what that means."""
    meaning = f"0 for all of the last {window} or more"
    num_dead, num_never = (int(np.count_nonzero(states == state)) for state in (DEAD, NEVER_FIRED))
    notes = [f"orange: dead, {meaning} ({num_dead:,} of {len(states):,})"] if num_dead else []
    if num_never:
        notes.append(f"dark: never fired so far ({num_never:,} of {len(states):,})")
    return "; ".join(notes) or f"none of these units is known to be dead ({meaning})"


def _input(reference: Picture) -> Picture:
    """Returns the input with its title."""
    reference = shrink(reference, _INPUT_WIDTH)
    factor = factor_for(reference.shape[1], 3 * _INPUT_WIDTH // 4, _INPUT_WIDTH)
    reference = enlarge(reference, factor)
    title = blank(line_height(), max(reference.shape[1], text_width("input")))
    write(title, "input", 0, 0, colour=FAINT_INK)
    return stacked([title, reference], gap=1)


def _table(
    maps: NDArray[Any],
    is_zero: NDArray[np.bool_],
    names: Sequence[object],
    states: NDArray[Any],
    steps: Sequence[int],
    scale: Scale,
) -> Picture:
    """Returns rows of units, columns of steps, with names to the left and steps on top."""
    rows = [
        [_cell(map_, silent, scale) for map_, silent in zip(unit, is_silent, strict=True)]
        for unit, is_silent in zip(maps.swapaxes(0, 1), is_zero.T, strict=True)
    ]
    height, width = rows[0][0].shape[:2]
    steps_as_text = [f"{step:,}" for step in steps]
    column_width = max(width, *(text_width(text) + _GAP for text in steps_as_text))
    texts = [shortened(name, 110) for name in names]
    words = [_STATE_NAMES.get(int(state), "") for state in states]
    left = max(text_width(text) for text in (*texts, *words, "step")) + 3 * _GAP
    top = line_height() + 1
    row_height = max(height, line_height() * (2 if any(words) else 1)) + _GAP
    canvas = blank(top + row_height * len(rows), left + (column_width + _GAP) * len(steps))
    write(canvas, "step", left - 2 * _GAP, 0, align="right", colour=FAINT_INK)
    for column, text in enumerate(steps_as_text):
        write(canvas, text, left + column * (column_width + _GAP), 0)
    for row, (cells, text, word) in enumerate(zip(rows, texts, words, strict=True)):
        y = top + row * row_height
        labels = [(text, INK)]
        if word:
            labels.append((word, STATE_COLOURS[int(states[row])]))
        label_top = y + max(0, height - len(labels) * line_height()) // 2
        for line, (label, colour) in enumerate(labels):
            label_y = label_top + line * line_height()
            write(canvas, label, left - 2 * _GAP, label_y, align="right", colour=colour)
        for column, cell in enumerate(cells):
            x = left + column * (column_width + _GAP)
            canvas[y : y + height, x : x + width] = cell
    return canvas


def _cell(values: NDArray[Any], is_silent: bool, scale: Scale) -> Picture:
    """Returns one map, enlarged or averaged down to a legible size."""
    values = shrink_values(values, _MOST_MAP)
    height, width = values.shape
    factor = factor_for(max(height, width), _LEAST_MAP, _MOST_MAP)
    # Tokens lie in one row: a line of one pixel could not be seen.
    rows = max(factor, min(12, _LEAST_MAP // height))
    cell: Picture = enlarge(colour_map(values, scale=scale), (rows, factor))
    return crossed(cell) if is_silent else cell


def _lines(
    values: NDArray[Any], states: NDArray[Any], steps: Sequence[int], scale: Scale
) -> Picture:
    """Returns (frames, units) as a line a unit, time to the right; neighbours share a line.

    A line all of whose units are in a state that has a name bears its colour at the left.
    """
    values = np.asarray(values, dtype=np.float64)  # bytes and booleans have no negatives
    num_units = values.shape[1]
    shared = largest_of_neighbours(values, _MAX_UNIT_HEIGHT, axis=1)
    if scale.signed:
        least = -largest_of_neighbours(-values, _MAX_UNIT_HEIGHT, axis=1)
        shared = np.where(np.abs(least) > np.abs(shared), least, shared)
    row_height = min(_MOST_ROW_HEIGHT, _MAX_UNIT_HEIGHT // shared.shape[1])
    column_width = max(40, *(text_width(f"{step:,}") + 10 for step in steps))
    cells = colour_map(shared.T, scale=scale)
    cells[shared.T == 0] = NOT_MEASURED
    plot = enlarge(cells, (row_height, column_width))
    axis = step_axis(steps, plot.shape[1])
    texts = [f"{num_units:,}", "units"]
    if shared.shape[1] < num_units:
        texts += [
            "largest of",
            f"{-(-num_units // len(bounds(num_units, _MAX_UNIT_HEIGHT)))} a row",
        ]
    left = max(text_width(text) for text in (*texts, "step")) + 3 * _GAP
    canvas = blank(max(len(plot), len(texts) * line_height()) + len(axis), left + plot.shape[1])
    canvas[: len(plot), left:] = plot
    for state in _STATE_NAMES:
        is_other = largest_of_neighbours(states != state, _MAX_UNIT_HEIGHT, axis=0)
        rows = np.repeat(~is_other, row_height)
        canvas[: len(plot), left - _GAP : left][rows] = STATE_COLOURS[state]
    canvas[len(plot) : len(plot) + len(axis), left:] = axis
    for row, text in enumerate(texts):
        y = row * line_height()
        write(canvas, text, left - 2 * _GAP, y, align="right", colour=FAINT_INK)
    write(canvas, "step", left - 2 * _GAP, len(plot) + 4, align="right", colour=FAINT_INK)
    return canvas
