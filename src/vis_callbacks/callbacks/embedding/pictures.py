"""What `EmbeddingMonitor` draws: its pictures and the words over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vis_callbacks.analysis.embedding import CloudShape
from vis_callbacks.render.embedding_map import map_strip, no_map, probe_curve
from vis_callbacks.render.images import Shown, to_uint8
from vis_callbacks.render.markers import Marks
from vis_callbacks.render.scatter import scatter
from vis_callbacks.render.text import Picture
from vis_callbacks.render.thumbnails import thumbnail_map

_ROUNDING = 0.01
_MUCH = 0.1  # of the samples
_FEW_A_CLASS = 10
_NAMES = {"tsne": "t-SNE", "pca": "principal components"}


@dataclass(frozen=True, kw_only=True)
class MapFacts:
    """What the words over a map need, beside its numbers.

    Attributes:
        what: The layer, and which side of it: "input of fc".
        num_samples: That are on the map.
        num_twins: Those among them whose features another one has, too.
        notes: What else must be said, each a line.
    """

    what: str
    method: str
    num_samples: int
    epoch: int
    step: int
    num_twins: int = 0
    class_names: Sequence[str] = ()
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The first line."""
        return (
            f"{self.what}: {_NAMES[self.method]}, {self.num_samples:,} samples; "
            f"epoch {self.epoch}, step {self.step:,}"
        )

    @property
    def has_lost_much(self) -> bool:
        """Whether so many features are identical that a true map of them is no good sign."""
        return self.num_twins > _MUCH * self.num_samples


def draw_map(
    points: NDArray[Any],
    labels: NDArray[Any],
    wrong: NDArray[Any],
    numbers: NDArray[Any],
    before: NDArray[Any] | None = None,
    targets: NDArray[Any] | None = None,
    *,
    facts: MapFacts,
    has_predictions: bool,
) -> Picture:
    """Draws the map by class or target, with the way that each sample has come."""
    return scatter(
        points,
        labels if (labels >= 0).any() else None,
        facts.class_names,
        targets,
        wrong=wrong if has_predictions else None,
        trails=before,
        caption=[facts.title, *_figures(numbers, facts), *facts.notes],
    )


def draw_thumbnails(
    points: NDArray[Any],
    labels: NDArray[Any],
    pixels: NDArray[Any],
    ranges: NDArray[Any],
    numbers: NDArray[Any],
    targets: NDArray[Any] | None = None,
    *,
    facts: MapFacts,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Picture:
    """Draws the samples themselves, placed by the map."""
    shown = visible(pixels, ranges, mean, std)
    caption = [facts.title, "; ".join(_figures(numbers, facts)), *facts.notes, shown.note]
    known = labels if (labels >= 0).any() else None
    return thumbnail_map(points, shown.images, known, caption, facts.class_names, targets)


def draw_strip(
    numbers: NDArray[Any], *, steps: Sequence[int], facts: MapFacts, **arrays: NDArray[Any]
) -> Picture:
    """Draws the maps of several steps; ``points_0``, ``labels_0``, maybe ``targets_0``, ..."""
    frames = [
        (
            arrays[f"points_{i}"],
            Marks(
                labels=arrays[f"labels_{i}"],
                class_names=facts.class_names,
                values=arrays.get(f"targets_{i}"),
            ),
        )
        for i in range(len(steps))
    ]
    caption = [
        f"{facts.title}, and the maps before it: one scale, each aligned to the one before",
        "; ".join(_figures(numbers, facts)),
    ]
    return map_strip(frames, steps, caption)


def draw_probes(
    accuracies: NDArray[Any],
    *,
    layers: Sequence[str],
    steps: Sequence[int],
    num_samples: int,
    num_classes: int,
    epoch: int,
    chance: float,
    network: NDArray[Any],
) -> Picture:
    """Draws what linear probes reach at each depth, now and before; ``network``: it itself."""
    curves = {f"step {step:,}": row for step, row in zip(steps, accuracies.tolist(), strict=True)}
    best = int(np.nanargmax(accuracies[-1])) if np.isfinite(accuracies[-1]).any() else 0
    caption = [
        f"linear probes by depth, {num_samples:,} samples; epoch {epoch}, step {steps[-1]:,}",
        f"logistic regression, cross-validated; best at layer {best + 1}: "
        f"{100 * accuracies[-1, best]:.1f} %, guessing {100 * chance:.1f} %",
    ]
    if np.isfinite(network):
        caption.append(f"the network itself, on the same samples now: {100 * network:.1f} %")
    if num_samples < _FEW_A_CLASS * num_classes:
        caption.append(
            f"{num_samples / num_classes:.1f} samples a class: a probe fitted to so few falls "
            "short of what the layers hold"
        )
    levels = {"network itself": float(network), "guessing": chance}
    return probe_curve(curves, layers, levels, caption)


def draw_no_map(*, facts: MapFacts, shape: CloudShape) -> Picture:
    """Draws the reason why there is no map."""
    reasons = {
        "too few": f"no map: {shape.num_samples:,} samples have finite features, 4 are the least",
        "equal": f"no map: the features of all {shape.num_samples:,} samples are equal",
        "few places": f"no map: {shape.num_samples:,} samples, but only {shape.num_places} "
        "different features",
    }
    reason = reasons[shape.obstacle] if shape.obstacle is not None else ""
    return no_map([facts.title, reason, *facts.notes])


def visible(
    pixels: NDArray[Any],
    ranges: NDArray[Any],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Shown:
    """Returns kept images as pictures; what rounding to bytes put beyond 0 and 1 is cut off.

    Args:
        pixels: (samples, channels, height, width) uint8.
        ranges: (samples, 2), what 0 and 255 of each sample stand for.
        mean: As for `to_uint8`.
        std: Likewise.
    """
    low, high = np.moveaxis(ranges.astype(np.float64), 1, 0)[:, :, None, None, None]
    images = pixels / 255 * (high - low) + low
    if mean is not None and std is not None and images.shape[1] == len(mean):
        images = images * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    is_nearly = images.min() >= -_ROUNDING and images.max() <= 1 + _ROUNDING
    return to_uint8(images.clip(0, 1) if is_nearly else images)


def _figures(numbers: NDArray[Any], facts: MapFacts) -> list[str]:
    """Returns the map's numbers in words: trustworthiness, class agreement, displacement."""
    trust, agreement, of_pixels, moved = numbers.tolist()
    lines = [f"trustworthiness {trust:.3f}" + (" of what is left" if facts.has_lost_much else "")]
    if not math.isnan(moved):
        lines[0] += f"; moved by {moved:.2f} of its spread (median)"
    if not math.isnan(agreement):
        pixels = "" if math.isnan(of_pixels) else f" (in pixels {100 * of_pixels:.0f} %)"
        lines.append(f"nearest of the same class: {100 * agreement:.0f} %{pixels}")
    return lines
