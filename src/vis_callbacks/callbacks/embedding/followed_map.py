"""A map of one layer's features that is followed over a training, so that it stays put."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vis_callbacks.analysis.barnes_hut import barnes_hut_tsne
from vis_callbacks.analysis.embedding import principal_components
from vis_callbacks.analysis.procrustes import aligned, displacement
from vis_callbacks.analysis.tsne import COLD, WARM, as_start, fitting_perplexity, tsne
from vis_callbacks.render.film_strip import with_frame

Method = Literal["tsne", "pca"]
Backend = Literal["torch", "sklearn"]

# With fewer of the samples known, their places say nothing of where the others belong.
_MIN_KNOWN_SHARE = 0.5
_NUM_GUIDES = 3  # known neighbours between which a sample that is new begins
_MAX_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How maps are laid out."""

    method: Method = "tsne"
    backend: Backend = "torch"
    perplexity: float = 30.0


@dataclass(frozen=True, kw_only=True)
class MapStep:
    """A map, and how it came from the last one.

    Attributes:
        points: (samples, 2), in the place and turn of the last map.
        before: (samples, 2), where they lay on it, NaN for samples that are new; None on a
            map that begins afresh.
        displacement: Median over the known samples, in units of the map's spread; or None.
        note: What must be said of it, or "".
    """

    points: Tensor
    before: Tensor | None = None
    displacement: Tensor | None = None
    note: str = ""


@dataclass(frozen=True)
class Frame:
    """What a film strip keeps of a map."""

    step: int
    points: Tensor  # (samples, 2)
    labels: NDArray[np.int64]  # (samples,)
    targets: NDArray[np.float32] | None = None  # (samples,), of a regression


@dataclass
class FollowedMap:
    """The last map, its samples, and a few frames of the past: first, log-spaced, latest."""

    points: Tensor | None = None
    fingerprints: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    frames: list[Frame] = field(default_factory=list)

    def follow(
        self,
        features: Tensor,
        distances: Tensor,
        fingerprints: NDArray[np.int64],
        layout: Layout,
    ) -> MapStep:
        """Returns the map of these features, beginning from the last one where that helps.

        Args:
            features: (samples, dimensions), without an obstacle to a map.
            distances: (samples, samples), squared, between them.
            fingerprints: (samples,), to know the samples again by.
            layout: How to lay it out.
        """
        if self.points is None:
            return MapStep(points=_laid_out(features, distances, None, layout))
        places = matched(self.fingerprints, fingerprints)
        num_known, num_samples = int(np.count_nonzero(places >= 0)), len(places)
        if num_known < _MIN_KNOWN_SHARE * num_samples:
            return MapStep(
                points=_laid_out(features, distances, None, layout),
                note=f"begun afresh: only {num_known:,} of {num_samples:,} samples are those of "
                "the last map",
            )
        index = torch.from_numpy(places).to(features.device)
        is_known = index >= 0
        before = self.points.to(features.device)[index.clamp_min(0)]
        start = (
            _among_neighbours(before, is_known, distances) if num_known < num_samples else before
        )
        points = _laid_out(features, distances, start, layout)
        before = torch.where(is_known[:, None], before, torch.nan)
        points = aligned(points, before, is_known)
        known = torch.from_numpy(np.flatnonzero(places >= 0)).to(features.device)
        return MapStep(
            points=points,
            before=before,
            displacement=displacement(points[known], before[known]),
            note="" if num_known == num_samples else f"{num_samples - num_known:,} samples are new",
        )

    def keep(
        self,
        step: int,
        made: MapStep,
        fingerprints: NDArray[np.int64],
        labels: NDArray[np.int64],
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        """Makes this map the last one, and a frame of the strip."""
        if made.before is None:
            self.frames = []
        self.points, self.fingerprints = made.points, fingerprints
        self.frames = with_frame(
            self.frames,
            Frame(step, made.points, labels, targets),
            _MAX_FRAMES,
            key=lambda kept: (kept.step, None),
        )

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "points": None if self.points is None else self.points.cpu(),
            "fingerprints": torch.from_numpy(self.fingerprints),
            "frames": [
                [
                    frame.step,
                    frame.points.cpu(),
                    *(
                        torch.from_numpy(known)
                        for known in (frame.labels, frame.targets)
                        if known is not None
                    ),
                ]
                for frame in self.frames
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FollowedMap:
        """Returns the map whose `state` this is."""
        return cls(
            points=state["points"],
            fingerprints=state["fingerprints"].numpy(),
            frames=[
                Frame(int(step), points, *(known.numpy() for known in marks))
                for step, points, *marks in state["frames"]
            ],
        )


def matched(before: NDArray[np.int64], now: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns for each fingerprint where it stood before, -1 for none.

    Equal samples have equal fingerprints; the k-th of them now is the k-th of them before.
    """
    places = {key: place for place, key in enumerate(_numbered(before))}
    return np.array([places.get(key, -1) for key in _numbered(now)], dtype=np.int64)


def _numbered(fingerprints: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns each fingerprint with the number of times that it came before."""
    counts: dict[int, int] = {}
    keys = []
    for fingerprint in fingerprints.tolist():
        count = counts.get(fingerprint, 0)
        counts[fingerprint] = count + 1
        keys.append((fingerprint, count))
    return keys


def _among_neighbours(before: Tensor, is_known: Tensor, distances: Tensor) -> Tensor:
    """Returns where each sample begins: the new ones in the middle of their known neighbours."""
    to_known = distances.masked_fill(~is_known, torch.inf)
    count = min(_NUM_GUIDES, len(before))
    guides = to_known.topk(count, dim=1, largest=False).indices
    return torch.where(is_known[:, None], before, before[guides].mean(1))


def _laid_out(features: Tensor, distances: Tensor, start: Tensor | None, layout: Layout) -> Tensor:
    """Returns a map (samples, 2) in float32; ``start`` is the last one, or None."""
    if layout.method == "pca":
        return principal_components(features).float()
    is_warm = start is not None
    if start is None:
        start = as_start(principal_components(features))
    start = start.float()
    perplexity = fitting_perplexity(layout.perplexity, len(features))
    if layout.backend == "sklearn":
        return barnes_hut_tsne(features, start, perplexity=perplexity, is_warm=is_warm)
    descent = WARM if is_warm else COLD
    return tsne(distances, start, perplexity=perplexity, descent=descent)
