"""The pictures of all layers, and what their captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vis_callbacks.render.heat_map import heat_map
from vis_callbacks.render.raster import DEAD, NEVER_FIRED, raster


def draw_unit_life(
    percents: np.ndarray,
    counts_rows: np.ndarray,
    was_reached: np.ndarray,
    *,
    rows: Sequence[str],
    steps: Sequence[int],
    what: str,
    num_samples: int,
) -> np.ndarray:
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
        "dead": "dead: 0 for every one of 160 samples or more, over 3 snapshots or more",
        "dormant": "dormant: on average below a tenth of the layer's mean (no flat zero here)",
    }[what]
    caption = [
        f"{what} units by layer and step, first layer on top; step {steps[-1]:,}, "
        f"{num_samples} samples a snapshot",
        meaning,
        _note("rows, not samples, are counted of", rows, counts_rows),
        _note("no sample has reached", rows, ~was_reached),
    ]
    return heat_map(shares, rows, steps, caption, units=f"{what} fraction")


def _note(words: str, rows: Sequence[str], is_so: np.ndarray) -> str:
    """Returns of which layers something holds, in words for a caption; "" where of none."""
    names = [name for name, holds in zip(rows, is_so, strict=True) if holds]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"{words} {', '.join(names[:2])}{more}" if names else ""


def draw_raster(
    states: np.ndarray,
    percents: np.ndarray,
    counts_rows: np.ndarray,
    *,
    widths: Mapping[str, int],
    steps: Sequence[int],
    min_samples: int,
) -> np.ndarray:
    """Returns the life of the units of the layer with most dead ones.

    Args:
        states: (units of all layers, steps)
        percents: (layers,) of dead units.
        counts_rows: (layers,) whether samples are rows that cannot be told apart by sample.
        widths: Layers and how many units they have.
        steps: Of the columns.
        min_samples: That a dead unit was 0 for.
    """
    layers = list(widths)
    by_layer = np.split(states, np.cumsum(list(widths.values()))[:-1])
    # Whole percents: of a wide layer a few units are 0 %.
    died = [np.count_nonzero(rows[:, -1] == DEAD) for rows in by_layer]
    worst = max(range(len(layers)), key=lambda layer: (percents[layer], died[layer]))
    if percents[worst] > 0:
        why = f"the layer with most dead units ({percents[worst]} %)"
    elif died[worst]:
        why = f"{died[worst]} of them dead"
    else:
        # A unit that never fired is dead, too, but for how many samples is not known here.
        has_silent = any((rows[:, -1] == NEVER_FIRED).any() for rows in by_layer)
        why = "no unit of any layer " + ("has died" if has_silent else "is dead")
    rows = by_layer[worst]
    caption = [
        f"life of the units of {layers[worst]}; {why}",
        f"dead: 0 for every one of {min_samples} {'rows' if counts_rows[worst] else 'samples'} "
        "or more",
    ]
    return raster(rows, steps, caption)
