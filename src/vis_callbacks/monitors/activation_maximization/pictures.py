"""What `ActivationMaximizationMonitor` draws: inputs that were made, beside the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.pictures.canvas import blank, fitted, hatched
from vis_callbacks.pictures.colours import rgb_of
from vis_callbacks.pictures.inputs import input_pictures, signal_pictures
from vis_callbacks.pictures.text import Rgb, number
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputKind

_CONTRAST = 0.45  # the strongest hundredth of a picture's deviations ends this far from grey


@dataclass(frozen=True, kw_only=True)
class MaximizationFacts:
    """What the pictures say of how they were made."""

    step: int
    kind: InputKind
    names: tuple[str, ...]  # of the targets
    name: Callable[[int], str]  # of a class
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
        start = f"from the mean {self.kind} or the last result"
        contrast = f"; each at a contrast of its own around the mean {self.kind}"
        ending = "" if self.kind == "signal" else contrast
        return f'preset "{self.preset}", {self.num_steps} steps {start}{ending}'

    @property
    def beside(self) -> str:
        """Which real inputs stand beside what was made."""
        of_class = " of its class" if self.has_classes else ""
        other = ", and the best of any where that is another" if self.has_classes else ""
        return (
            f"left: made by gradient ascent; right: the best{of_class} of {self.num_real} real "
            f"{self.kind}s (from {self.source}){other}"
        )

    def base(self, centre: np.ndarray, real: np.ndarray) -> np.ndarray | None:
        """Returns the mean image's colour in 0-1, or None where that cannot be known."""
        if self.mean is not None and self.std is not None:
            colour: np.ndarray = centre * np.asarray(self.std) + np.asarray(self.mean)
            return colour.clip(0.0, 1.0)
        return centre if bool(np.all((real >= 0) & (real <= 1))) else None


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
    """Returns of each target what was made and, to its right, the best real inputs.

    ``real`` is the best of the row's class, ``best`` the best of any class, and ``labels`` the
    class of that one, below 0 where it is not known. All arrays have a row for each target, but
    for the mean input ``centre`` (channels,).
    """
    made, real, best, notes = _shown(deviations, real, best, centre, facts)
    has_others = not is_best.all()
    rows = []
    for row, name in enumerate(facts.names):
        size = fitted(real[row]).shape[:2]
        pictures = [hatched(*size) if is_silent[row] else made[row], real[row]]
        if has_others:
            pictures.append(blank(*size) if is_best[row] else best[row])
        lines = ["the score is not finite"]
        if np.isfinite(best_scores[row]):
            of_class = "" if labels[row] < 0 else f" ({facts.name(int(labels[row]))})"
            score, own, highest = (float(of[row]) for of in (scores, real_scores, best_scores))
            lines = [
                f"score {number(score)}",
                f"made from the best real {facts.kind}" if is_real[row] else "",
                f"the best real {facts.kind} scores higher" if score < highest else "",
            ]
            if is_silent[row]:
                lines = [f"silent: no gradient at the mean {facts.kind}, nor at the best real one"]
            if is_best[row]:
                lines.append(f"best real {number(highest)}{of_class}")
            else:
                lines += [f"best of its class {number(own)}"]
                lines += [f"best of any {number(highest)}{of_class}"]
        tiles = [Tile(picture=picture) for picture in pictures]
        rows.append(TileRow(tiles=tiles, name=name, notes=[line for line in lines if line]))
    caption = [
        f"made by gradient ascent to raise each score; step {facts.step:,}",
        facts.beside,
        facts.how,
        *notes,
    ]
    return tile_table(rows, caption, rows_across=max(1, round((len(rows) / 2) ** 0.5)))


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
    """Returns what was made of some targets at several steps: a target a row, a step a column."""
    table = []
    for index, row in enumerate(rows):
        deviations = frames[:, index].astype(np.float64)
        if facts.kind == "signal":
            pictures = signal_pictures(deviations)
        else:
            pictures = deviation_pictures(deviations, facts.base(centre, real), facts.std)
        size = fitted(pictures[0]).shape[:2]
        tiles = [
            Tile(picture=hatched(*size) if is_silent else picture)
            for picture, is_silent in zip(pictures, silent[:, index], strict=True)
        ]
        table.append(TileRow(tiles=tiles, name=facts.names[row]))
    caption = [
        "made by gradient ascent to raise each score, over the training",
        facts.how,
        "hatched: silent, no gradient to follow" if silent.any() else "",
        "" if len(rows) == len(facts.names) else f"{len(rows)} of {len(facts.names)} targets",
    ]
    return tile_table(table, caption, columns=[f"step {step:,}" for step in steps])


def deviation_pictures(
    deviations: NDArray[Any], mean: NDArray[Any] | None = None, std: Sequence[float] | None = None
) -> Rgb:
    """Returns deviations from the mean input as pictures: it lies under them, in the middle.

    Each picture has a contrast of its own, for what maximizes a score may deviate much more or
    less than real inputs do. Colours keep their balance.

    ``deviations`` are (rows, channels, height, width), ``mean`` is the mean input (channels,) in
    0-1, by default grey, and ``std`` what the user's pipeline divided each channel by. Of other
    numbers of channels than 1 and 3 the mean is shown.
    """
    values = np.asarray(deviations, dtype=np.float64)
    values = values * np.reshape(1.0 if std is None else std, (-1, 1, 1))
    base = np.broadcast_to(0.5 if mean is None else mean, values.shape[1:2])[:, None, None]
    if values.shape[1] not in (1, 3):
        values, base = values.mean(axis=1, keepdims=True), base.mean(axis=0, keepdims=True)
    flat = np.abs(np.where(np.isfinite(values), values, 0)).reshape(len(values), -1)
    sizes, largest = np.quantile(flat, 0.99, axis=1), flat.max(axis=1)
    sizes = np.where(sizes > 0, sizes, np.where(largest > 0, largest, 1.0))
    return rgb_of(base + _CONTRAST * values / sizes[:, None, None, None])


def _shown(
    deviations: np.ndarray,
    real: np.ndarray,
    best: np.ndarray,
    centre: np.ndarray,
    facts: MaximizationFacts,
) -> tuple[Rgb, Rgb, Rgb, list[str]]:
    """Returns pictures of what was made and of both real inputs, and what was done to them."""
    if facts.kind == "signal":
        made = deviations + centre[None, :, None]
        rows = [signal_pictures(np.stack(row)) for row in zip(made, real, best, strict=True)]
        drawn = np.stack(rows, axis=1)  # (3, rows, ...): each row on a scale of its own
        return drawn[0], drawn[1], drawn[2], ["both signals of a row are on one scale"]
    notes = []
    if facts.kind == "volume":
        middle = deviations.shape[2] // 2
        deviations, real, best = (part[:, :, middle] for part in (deviations, real, best))
        notes.append(f"slice {middle} of each volume")
    base = facts.base(centre, real)
    shown = input_pictures(np.concatenate([real, best]), facts.mean, facts.std)
    notes += ["" if base is not None else f"grey stands for the mean {facts.kind}", shown.note]
    made = deviation_pictures(deviations, base, facts.std)
    return made, shown.images[: len(real)], shown.images[len(real) :], notes
