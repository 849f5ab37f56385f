"""The pictures of activations: maps of one sample over time, and the life of the units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.monitors.activations.dead_units import MIN_SAMPLES
from vis_callbacks.pictures.canvas import colour_bar, enlarge, side_by_side, with_caption
from vis_callbacks.pictures.colours import NOT_MEASURED, Scale, colour_map, missing_note, scale_of
from vis_callbacks.pictures.inputs import input_pictures
from vis_callbacks.pictures.text import FAINT_INK, Rgb, line_height, text_width
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table
from vis_callbacks.pictures.time_plots import (
    DEAD,
    NEVER_FIRED,
    STATE_COLOURS,
    heat_map,
    largest_of_neighbours,
    raster,
    time_plot,
)

if TYPE_CHECKING:
    pass

MAX_MAP = 48  # larger maps would not be shown larger: eight columns of 16 are read at a glance
_MAX_HEIGHT = 400  # of the lines of units that have no positions
_STATE_NAMES = {DEAD: "dead", NEVER_FIRED: "never fired"}


def draw_maps(
    maps: NDArray[Any],
    sample: NDArray[Any],
    states: NDArray[Any] | None = None,
    counts_rows: NDArray[Any] | None = None,
    *,
    caption: Sequence[str],
    steps: Sequence[int],
    units: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Rgb:
    """Returns a table of maps: a unit a row, a step a column, the input beside it.

    All maps share one scale, which leaves out the largest half percent: one strong unit would
    leave all others dark. A map that is zero everywhere is crossed and counted in the caption:
    silent on one input is not yet dead. Units that are dead are called so.

    Args:
        maps: (frames, units, height, width), or (frames, units) for a layer without positions:
            then a line a unit, and grey where it is exactly 0.
        sample: The input, shown where it is an image.
        states: (units of the layer,) what is remembered of them; None: not known.
        counts_rows: Whether this rests on rows and not on samples.
        caption: Which layer this is, and of which sample.
        steps: One for each frame, oldest first.
        units: Which of the layer's units these are.
        mean: What the inputs were normalised with.
        std: Likewise.
    """
    maps = maps.astype(np.float32)
    scale = scale_of(maps, quantile=0.995)
    is_zero = (maps == 0).reshape(*maps.shape[:2], -1).all(axis=2)  # (frames, units)
    known = np.full(len(units), -1) if states is None else states[list(units)]
    if maps.ndim == 4:
        body, mark = _table(maps, units, known, steps, scale), "crossed"
    else:
        body, mark = _lines(maps.T, known, steps, scale), "grey"
    lines = [*caption]
    if sample.ndim == 3:
        shown = input_pictures(sample[None], mean, std)
        row = TileRow(tiles=[Tile(picture=shown.images[0], title="input")])
        body = side_by_side([tile_table([row], tile=(96, 128)), body], 8)
        lines.append(shown.note)
    if is_zero.any():
        lines.append(
            f"{mark}: 0 on this input{'' if is_zero[-1].all() else ', as usual for some units'} "
            f"({np.count_nonzero(is_zero[-1]):,} of {len(units):,} at step {steps[-1]:,})"
        )
    if states is not None:
        lines.append(_state_note(known, "rows" if counts_rows else "samples"))
    return with_caption(body, [*lines, missing_note(maps)], bar=colour_bar(scale, "activation"))


def _state_note(states: NDArray[Any], counted: str) -> str:
    """Returns how many units are dead and what that means."""
    meaning = f"0 on all of the latest {MIN_SAMPLES:,} {counted} or more"
    num_dead, num_never = (int(np.count_nonzero(states == state)) for state in (DEAD, NEVER_FIRED))
    notes = [f"orange: dead, {meaning} ({num_dead:,} of {len(states):,})"] if num_dead else []
    if num_never:
        notes.append(f"dark: never fired so far ({num_never:,} of {len(states):,})")
    return "; ".join(notes) or f"none of these units is known to be dead ({meaning})"


def _table(
    maps: NDArray[Any],
    units: Sequence[int],
    states: NDArray[Any],
    steps: Sequence[int],
    scale: Scale,
) -> Rgb:
    """Returns rows of units, columns of steps, with names to the left and steps on top."""
    rows = []
    for index, (unit, state) in enumerate(zip(units, states.tolist(), strict=True)):
        tiles = [
            Tile(picture=colour_map(map_, scale=scale), is_crossed=not map_.any())
            for map_ in maps[:, index]
        ]
        notes = [_STATE_NAMES[state]] if state in _STATE_NAMES else []
        colour = STATE_COLOURS[state] if notes else FAINT_INK
        rows.append(TileRow(tiles=tiles, name=f"unit {unit}", notes=notes, colour=colour))
    columns = [f"{step:,}" for step in steps]
    return tile_table(rows, columns=columns, corner="step", tile=(MAX_MAP, 2 * MAX_MAP))


def _lines(values: NDArray[Any], states: NDArray[Any], steps: Sequence[int], scale: Scale) -> Rgb:
    """Returns (units, frames) as a line a unit, time to the right; neighbours share a line.

    A line all of whose units are in a state that has a name begins in its colour.
    """
    shared = largest_of_neighbours(values, _MAX_HEIGHT)
    row_height = min(12, _MAX_HEIGHT // len(shared))
    column_width = max(40, *(text_width(f"{step:,}") + 10 for step in steps))
    cells = colour_map(shared, scale=scale)
    cells[shared == 0] = NOT_MEASURED
    plot = enlarge(cells, row_height, column_width)
    for state in _STATE_NAMES:
        is_other = largest_of_neighbours(states != state, _MAX_HEIGHT)
        plot[np.repeat(~is_other, row_height), :3] = STATE_COLOURS[state]
    texts = [f"{len(values):,}", "units"]
    if len(shared) < len(values):
        texts += ["largest of", f"{-(-len(values) // len(shared))} per row"]
    names = {line_height() * (2 * row + 1) // 2: text for row, text in enumerate(texts)}
    return time_plot(plot, steps, len(plot), names, width=plot.shape[1])


def draw_unit_life(
    percents: NDArray[Any],
    counts_rows: NDArray[Any],
    was_reached: NDArray[Any],
    *,
    rows: Sequence[str],
    steps: Sequence[int],
    what: str,
    num_samples: int,
) -> Rgb:
    """Returns the share of dead, or dormant, units by layer and step.

    Args:
        percents: (layers, steps), below 0 where it is not known.
        counts_rows: (layers,) whether samples are rows that cannot be told apart by sample.
        was_reached: (layers,) whether there was any.
        rows: Names of the layers.
        steps: Of the columns.
        what: "dead" or "dormant".
        num_samples: Of the latest snapshot.
    """
    shares = np.where(percents < 0, np.nan, percents / 100.0)
    meaning = {
        "dead": "dead: 0 for each of the latest 160 samples or more",
        "dormant": "dormant: on average below a tenth of the layer's mean",
    }[what]
    caption = [
        f"{what} units, first layer on top; step {steps[-1]:,}, {num_samples} samples each",
        meaning,
        _note("rows, not samples, are counted in", rows, counts_rows),
        _note("no sample has reached", rows, ~was_reached),
    ]
    return heat_map(shares, rows, steps, caption, units=f"{what} fraction")


def _note(words: str, rows: Sequence[str], is_so: NDArray[Any]) -> str:
    """Returns of which layers something holds, in words for a caption; "" where of none."""
    names = [name for name, holds in zip(rows, is_so, strict=True) if holds]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{words} {', '.join(names[:2])}{more}" if names else ""


def draw_raster(
    states: NDArray[Any],
    percents: NDArray[Any],
    counts_rows: NDArray[Any],
    *,
    widths: Mapping[str, int],
    steps: Sequence[int],
) -> Rgb:
    """Returns the life of the units of the layer with most dead ones.

    Args:
        states: (units of all layers, steps)
        percents: (layers,) of dead units.
        counts_rows: (layers,) whether samples are rows that cannot be told apart by sample.
        widths: Layers and how many units they have.
        steps: Of the columns.
    """
    layers = list(widths)
    by_layer = np.split(states, np.cumsum(list(widths.values()))[:-1])
    # Whole percents: of a wide layer a few units are 0 %.
    died = [np.count_nonzero(rows[:, -1] == DEAD) for rows in by_layer]
    worst = max(range(len(layers)), key=lambda layer: (percents[layer], died[layer]))
    if percents[worst] > 0:
        why = f"the layer with the most dead units ({percents[worst]} %)"
    elif died[worst]:
        why = f"{died[worst]} of them dead"
    else:
        # A unit that never fired is dead, too, but for how many samples is not known here.
        has_silent = any((rows[:, -1] == NEVER_FIRED).any() for rows in by_layer)
        why = "no unit of any layer " + ("has died" if has_silent else "is dead")
    counted = "rows" if counts_rows[worst] else "samples"
    caption = [
        f"life of the units of {layers[worst]}; {why}",
        f"dead: 0 on all of the latest {MIN_SAMPLES} {counted} or more",
    ]
    return raster(by_layer[worst], steps, caption)
