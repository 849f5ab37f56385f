"""The pictures of learning: the loss beside a constant's, and what reaches the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.colours import CLASS_COLOURS, Scale
from vis_callbacks.pictures.plots import line_plot
from vis_callbacks.pictures.text import Rgb
from vis_callbacks.pictures.time_plots import heat_map

_MAX_STEPS = 128
_LARGEST = 1e290  # matplotlib's ticks overflow behind it
_LEAST = 1e-12  # of a norm, so that 0 has a logarithm


def draw_loss(
    latest: NDArray[Any], *, steps: Sequence[int], losses: Sequence[float], constant: float
) -> Rgb:
    """Returns the loss over the steps, with the level that a constant output reaches.

    Args:
        latest: (1,) mean loss since the snapshot before.
        steps: Of the snapshots, the latest included.
        losses: The same of the earlier snapshots.
        constant: Loss of the best constant output; NaN: not known.
    """
    caption = ["training loss: mean of all steps since the previous snapshot"]
    if math.isfinite(constant):
        caption.append(f"best constant output, which ignores the input: {constant:.4g}")
    levels = {"constant output": constant}
    return _over_steps(steps, [*losses, float(latest[0])], caption, "loss", levels)


def draw_spread(
    latest: NDArray[Any], *, steps: Sequence[int], spreads: Sequence[float], targets: float
) -> Rgb:
    """Returns how much outputs differ from sample to sample, beside how much the targets do.

    Args:
        latest: (1,) standard deviation of the outputs over the rows of a batch.
        steps: Of the snapshots, the latest included.
        spreads: The same of the earlier snapshots.
        targets: That of the targets; NaN where they are classes.
    """
    return _over_steps(
        steps,
        [*spreads, float(latest[0])],
        ["near 0: the output is the same for all samples"],
        "standard deviation of the outputs over samples",
        {"targets": targets},
    )


def draw_norms(
    latest: NDArray[Any],
    *,
    steps: Sequence[int],
    past: Sequence[Sequence[float]],
    layers: Sequence[str],
    what: str,
    note: str,
) -> Rgb:
    """Returns a heat map of weights by steps, in powers of ten; grey where it is 0 or not known.

    Args:
        latest: (weights,) what is shown, of the latest snapshot.
        steps: Of the snapshots, the latest included.
        past: By weight, the same of the earlier snapshots.
        layers: Names of the weights.
        what: What the numbers are.
        note: How to read them.
    """
    table = np.concatenate([np.asarray(past).reshape(len(layers), -1), latest[:, None]], axis=1)
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MAX_STEPS)).astype(int))
    table = np.where(table > 0, table, np.nan)[:, chosen].astype(np.float64)
    powers = np.log10(np.maximum(table, _LEAST))
    known = powers[np.isfinite(powers)]
    low, high = (int(np.floor(known.min())), int(np.ceil(known.max()))) if known.size else (0, 0)
    scale = Scale(low=low, high=max(high, low + 1))
    caption = [f"{what}, as a power of ten (-3: 0.001)", note]
    shown = [steps[i] for i in chosen]
    return heat_map(
        powers, layers, shown, caption, "power of ten", scale=scale, missing="0 or not known"
    )


def _over_steps(
    steps: Sequence[int],
    values: Sequence[float],
    caption: Sequence[str],
    label: str,
    levels: Mapping[str, float],
) -> Rgb:
    """Returns one curve over the steps, from 0 where it is an amount: zoomed in, noise is news."""
    clipped = np.clip(np.asarray(values, dtype=np.float64), -_LARGEST, _LARGEST)
    known = [x for x in (*clipped.tolist(), *levels.values()) if math.isfinite(x)] or [1.0]
    low, high = min(0.0, *known, 0.0), max(0.0, *known, 0.0)
    return line_plot(
        {label: (steps, clipped)},
        caption,
        y_label=label,
        x_label="step",
        y_range=(1.05 * low, 1.05 * high or 1.0),
        colours=CLASS_COLOURS[:1],
        levels=levels,
    )
