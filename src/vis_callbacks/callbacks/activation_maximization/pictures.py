"""What `ActivationMaximizationMonitor` draws, and what its pictures say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.maximized_inputs import (
    MaximizedInput,
    deviation_pictures,
    maximized_inputs,
    maximized_over_time,
)
from vis_callbacks.render.text import class_name, number


@dataclass(frozen=True, kw_only=True)
class MaximizationFacts:
    """What the pictures say of how they were made."""

    step: int
    names: tuple[str, ...]
    class_names: Sequence[str] | None
    num_real: int
    source: str
    preset: str
    num_steps: int
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def how(self) -> str:
        """How the inputs were made."""
        return (
            f'preset "{self.preset}", {self.num_steps} steps from the mean image or the last '
            "result; each at a contrast of its own around the mean image"
        )

    def base(self, centre: np.ndarray, real: np.ndarray) -> np.ndarray | None:
        """Returns the mean image's colour in 0-1, or None where that cannot be known."""
        if self.mean is not None and self.std is not None:
            colour: np.ndarray = centre * np.asarray(self.std) + np.asarray(self.mean)
            return colour.clip(0.0, 1.0)
        has_plain_range = bool(np.all((real >= 0) & (real <= 1)))
        return centre if has_plain_range else None


def draw_images(
    deviations: np.ndarray,
    real: np.ndarray,
    centre: np.ndarray,
    scores: np.ndarray,
    best_scores: np.ndarray,
    is_silent: np.ndarray,
    is_real: np.ndarray,
    labels: np.ndarray,
    *,
    facts: MaximizationFacts,
) -> np.ndarray:
    """Returns the grid of inputs, each beside the best real one."""
    base = facts.base(centre, real)
    pictures = deviation_pictures(deviations, base, facts.std)
    shown = to_uint8(real, facts.mean, facts.std)
    targets = [
        MaximizedInput(
            name=name,
            picture=None if is_silent[row] else pictures[row],
            real=shown.images[row],
            lines=_words(
                float(scores[row]),
                _real_words(float(best_scores[row]), int(labels[row]), facts),
                is_finite=bool(np.isfinite(best_scores[row])),
                is_silent=bool(is_silent[row]),
                is_real=bool(is_real[row]),
            ),
        )
        for row, name in enumerate(facts.names)
    ]
    caption = [
        f"what makes each score highest; step {facts.step:,}",
        f"left: made by gradient ascent; right: the best of {facts.num_real} real images (from "
        f"{facts.source})",
        facts.how,
        "" if base is not None else "grey stands for the mean image",
        shown.note,
    ]
    return maximized_inputs(targets, caption)


def draw_over_time(
    frames: np.ndarray,
    silent: np.ndarray,
    real: np.ndarray,
    centre: np.ndarray,
    *,
    facts: MaximizationFacts,
    rows: Sequence[int],
    steps: Sequence[int],
) -> np.ndarray:
    """Returns what maximized some targets at several steps."""
    base = facts.base(centre, real)
    num_frames, num_rows = frames.shape[:2]
    flat = frames.astype(np.float64).reshape(-1, *frames.shape[2:])
    pictures = deviation_pictures(flat, base, facts.std)
    pictures = pictures.reshape(num_frames, num_rows, *pictures.shape[1:])
    caption = [
        "what makes each score highest, over the training",
        facts.how,
        "hatched: silent, no gradient to follow" if silent.any() else "",
        "" if num_rows == len(facts.names) else f"{num_rows} of {len(facts.names)} targets",
    ]
    names = [facts.names[row] for row in rows]
    return maximized_over_time(pictures, names, steps, silent.astype(bool), caption)


def _real_words(score: float, label: int, facts: MaximizationFacts) -> str:
    """Returns the score of the best real image and, where it is known, which class it is of."""
    of_class = "" if label < 0 else f" ({class_name(label, facts.class_names)})"
    return f"best real {number(score)}{of_class}"


def _words(
    score: float, best_real: str, *, is_finite: bool, is_silent: bool, is_real: bool
) -> tuple[str, ...]:
    """Returns what to say of one target."""
    if not is_finite:
        return ("the score is not finite",)
    if is_silent:
        return ("silent: no gradient at the mean image, nor at the best real one", best_real)
    words = (f"score {number(score)}", best_real)
    return (*words, "began at a real image") if is_real else words
