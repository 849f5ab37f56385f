"""What `ActivationMaximizationMonitor` draws, and what its pictures say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vis_callbacks.render.images import to_uint8
from vis_callbacks.render.maximized_inputs import (
    MaximizedInput,
    deviation_pictures,
    maximized_inputs,
    maximized_over_time,
)
from vis_callbacks.render.signals import signal_pictures
from vis_callbacks.render.text import number, printable

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputKind


@dataclass(frozen=True, kw_only=True)
class MaximizationFacts:
    """What the pictures say of how they were made."""

    step: int
    kind: InputKind
    names: tuple[str, ...]
    name: Callable[[int], str]
    num_real: int
    source: str
    preset: str
    num_steps: int
    has_classes: bool
    mean: Sequence[float] | None
    std: Sequence[float] | None

    @property
    def how(self) -> str:
        """How the inputs were made."""
        contrast = f"; each at a contrast of its own around the mean {self.noun}"
        return (
            f'preset "{self.preset}", {self.num_steps} steps from the mean {self.noun} or the last '
            f"result{'' if self.kind == 'signal' else contrast}"
        )

    @property
    def beside(self) -> str:
        """Which real inputs stand beside what was made."""
        real = f"of {self.num_real} real {self.noun}s (from {self.source})"
        if not self.has_classes:
            return f"left: made by gradient ascent; right: the best {real}"
        return (
            f"left: made by gradient ascent; right: the best of its class {real}, and the best of "
            "any where that is another"
        )

    @property
    def noun(self) -> str:
        """What an input is called."""
        return self.kind

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
    best: np.ndarray,
    centre: np.ndarray,
    scores: np.ndarray,
    best_scores: np.ndarray,
    real_scores: np.ndarray,
    is_best: np.ndarray,
    is_silent: np.ndarray,
    is_real: np.ndarray,
    labels: np.ndarray,
    *,
    facts: MaximizationFacts,
) -> np.ndarray:
    """Returns the grid of inputs, each beside the best real ones."""
    made, (real_shown, best_shown), notes = _shown(deviations, (real, best), centre, facts)
    targets = []
    for row, name in enumerate(facts.names):
        others = [] if is_best[row] else [best_shown[row]]
        lines = ["the score is not finite"]
        if np.isfinite(best_scores[row]):
            lines = _made_words(
                float(scores[row]),
                float(best_scores[row]),
                is_silent=bool(is_silent[row]),
                is_real=bool(is_real[row]),
                noun=facts.noun,
            )
            lines += _real_words(
                float(real_scores[row]),
                float(best_scores[row]),
                int(labels[row]),
                facts,
                is_best=bool(is_best[row]),
            )
        targets.append(
            MaximizedInput(
                name=name,
                picture=None if is_silent[row] else made[row],
                real=(real_shown[row], *others),
                lines=tuple(lines),
            )
        )
    caption = [
        f"what gradient ascent makes to raise each score; step {facts.step:,}",
        facts.beside,
        facts.how,
        *notes,
    ]
    return maximized_inputs(targets, caption)


def _shown(
    deviations: np.ndarray,
    real: tuple[np.ndarray, np.ndarray],
    centre: np.ndarray,
    facts: MaximizationFacts,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], list[str]]:
    """Returns pictures of what was made and of both real inputs, and what was done to them."""
    if facts.kind == "signal":
        made = deviations + centre[None, :, None]
        rows = [signal_pictures(np.stack(row)) for row in zip(made, *real, strict=True)]
        drawn = np.stack(rows, axis=1)  # (3, rows, ...): each row on a scale of its own
        return drawn[0], (drawn[1], drawn[2]), ["both signals of a row are on one scale"]
    notes = []
    if facts.kind == "volume":
        middle = deviations.shape[2] // 2
        deviations, real = deviations[:, :, middle], (real[0][:, :, middle], real[1][:, :, middle])
        notes.append(f"slice {middle} of each volume")
    base = facts.base(centre, real[0])
    shown = to_uint8(np.concatenate(real), facts.mean, facts.std)
    notes += ["" if base is not None else f"grey stands for the mean {facts.noun}", shown.note]
    halves = shown.images[: len(real[0])], shown.images[len(real[0]) :]
    return deviation_pictures(deviations, base, facts.std), halves, notes


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
    """Returns what was made of some targets at several steps."""
    num_frames, num_rows = frames.shape[:2]
    values = frames.astype(np.float64)
    if facts.kind == "signal":
        pictures = np.stack([signal_pictures(values[:, row]) for row in range(num_rows)], axis=1)
    else:
        flat = values.reshape(-1, *frames.shape[2:])
        pictures = deviation_pictures(flat, facts.base(centre, real), facts.std)
        pictures = pictures.reshape(num_frames, num_rows, *pictures.shape[1:])
    caption = [
        "what gradient ascent makes to raise each score, over the training",
        facts.how,
        "hatched: silent, no gradient to follow" if silent.any() else "",
        "" if num_rows == len(facts.names) else f"{num_rows} of {len(facts.names)} targets",
    ]
    names = [facts.names[row] for row in rows]
    return maximized_over_time(pictures, names, steps, silent.astype(bool), caption)


def _made_words(
    score: float, best_score: float, *, is_silent: bool, is_real: bool, noun: str
) -> list[str]:
    """Returns what to say of what was made."""
    if is_silent:
        return [f"silent: no gradient at the mean {noun}, nor at the best real one"]
    words = [f"score {number(score)}"]
    if is_real:
        words.append(f"made from the best real {noun}")
    if score < best_score:
        words.append(f"the best real {noun} scores higher")
    return words


def _real_words(
    score: float, best_score: float, label: int, facts: MaximizationFacts, *, is_best: bool
) -> list[str]:
    """Returns the scores of the real inputs and, where it is known, of which class the best is."""
    of_class = "" if label < 0 else f" ({printable(facts.name(label))})"
    if is_best:
        return [f"best real {number(score)}{of_class}"]
    return [f"best of its class {number(score)}", f"best of any {number(best_score)}{of_class}"]
