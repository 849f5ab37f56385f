"""Maps of the layers' features that are followed over a training, so that they stay put."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vis_callbacks.engine.schedule import LogSpaced, RunFacts
from vis_callbacks.monitors.embedding.pictures import (
    draw_map,
    draw_no_map,
    draw_strip,
    draw_thumbnails,
    shown_inputs,
)
from vis_callbacks.monitors.embedding.samples import MAX_FEATURES
from vis_callbacks.monitors.embedding.science import (
    Cloud,
    Obstacle,
    Points,
    aligned,
    displacement,
    principal_components,
    trustworthiness,
)
from vis_callbacks.monitors.embedding.tsne import (
    Backend,
    as_start,
    fitting_perplexity,
    laid_out_by_tsne,
)
from vis_callbacks.pictures.film_strip import FilmStrip
from vis_callbacks.pictures.text import number
from vis_callbacks.report import Embedding, Item, Picture, Scalar, Values, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.embedding.samples import Samples
    from vis_callbacks.options import Options

Method = Literal["tsne", "pca"]

# With fewer of the samples known, their places say nothing of where the others belong.
_MIN_KNOWN_SHARE = 0.5
_MUCH = 0.1  # of the samples
_REASONS: Mapping[Obstacle, str] = {
    "too few": "{:,} samples have finite features; at least 4 are needed",
    "equal": "the features of all {:,} samples are equal",
    "few places": "{:,} samples, but only {} different features",
}
_NUM_GUIDES = 3  # known neighbours between which a sample that is new begins
# Thumbnails of photographs are the largest picture by far: each doubling of the steps has one.
_THUMBNAILS = LogSpaced(first=20, per_doubling=1)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How maps are laid out."""

    method: Method = "tsne"
    backend: Backend = "auto"
    perplexity: float = 30.0


@dataclass(frozen=True, kw_only=True)
class FollowedMap:
    """A map, and how it came from the one before.

    ``before`` (samples, 2) is where its samples lay on the last map, NaN for those that are new;
    ``moved`` is their displacement since then. Both are None for a map that begins afresh.
    """

    points: Points
    fingerprints: NDArray[np.int64]
    before: Points | None = None
    moved: float | None = None
    note: str = ""


def followed(
    last: FollowedMap | None, cloud: Cloud, fingerprints: NDArray[np.int64], layout: Layout
) -> FollowedMap:
    """Returns the map of a cloud without an obstacle, from the last one on where that helps."""
    if last is None:
        return FollowedMap(points=_laid_out(cloud, None, layout), fingerprints=fingerprints)
    places = matched(last.fingerprints, fingerprints)
    is_known = places >= 0
    num_known, num_samples = int(np.count_nonzero(is_known)), len(places)
    if num_known < _MIN_KNOWN_SHARE * num_samples:
        return FollowedMap(
            points=_laid_out(cloud, None, layout),
            fingerprints=fingerprints,
            note=f"started afresh: only {num_known:,} of {num_samples:,} samples are those of "
            "the previous map",
        )
    before = last.points[places]
    before[~is_known] = np.nan
    start = before.copy()
    if num_known < num_samples:  # the new ones begin in the middle of their known neighbours
        to_known = cloud.distances.cpu().numpy()[~is_known][:, is_known]
        guides = to_known.argsort(1)[:, :_NUM_GUIDES]
        start[~is_known] = before[is_known][guides].mean(1)
    points = aligned(_laid_out(cloud, start, layout), before, is_known)
    return FollowedMap(
        points=points,
        fingerprints=fingerprints,
        before=before,
        moved=displacement(points[is_known], before[is_known]),
        note="" if num_known == num_samples else f"{num_samples - num_known:,} samples are new",
    )


def matched(before: NDArray[np.int64], now: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns for each fingerprint the place where it stood before; -1: it is new.

    Equal samples have equal fingerprints; the k-th of them now is the k-th of them before.
    """
    places: dict[int, deque[int]] = defaultdict(deque)
    for place, key in enumerate(before.tolist()):
        places[key].append(place)
    found = [places[key].popleft() if places[key] else -1 for key in now.tolist()]
    return np.array(found, dtype=np.int64)


def _laid_out(cloud: Cloud, last: Points | None, layout: Layout) -> Points:
    """Returns a map (samples, 2), by itself or beginning where the last one ended."""
    features = cloud.features
    if layout.method == "pca":
        points = principal_components(features).float()
    else:
        if last is None:
            start = as_start(principal_components(features))
        else:
            start = torch.from_numpy(last).to(features.device)
        points = laid_out_by_tsne(
            features,
            cloud.distances,
            start,
            perplexity=fitting_perplexity(layout.perplexity, len(features)),
            is_warm=last is not None,
            backend=layout.backend,
        )
    return np.asarray(points.cpu().numpy())


class EmbeddingMaps:
    """Follows the map of each layer, and makes its numbers and pictures.

    ``side`` says in words which side of a layer is mapped; with ``projector`` the data of the
    Embedding Projector are made as well.
    """

    def __init__(self, layout: Layout, options: Options, *, side: str, projector: bool) -> None:
        self._layout = layout
        self._options = options
        self._side = side
        self._projector = projector
        self._followed: dict[str, FollowedMap] = {}
        self._strips: dict[str, FilmStrip] = defaultdict(FilmStrip)
        self._next_thumbnails = 0

    def items(
        self, snapshot: Snapshot, samples: Samples, clouds: Sequence[Cloud], of_pixels: float
    ) -> Iterator[Item]:
        """Yields every layer's map: its numbers, and its pictures or why there are none.

        ``of_pixels`` is the class agreement of the nearest in pixels; NaN: not known.
        """
        is_training, step = snapshot.stage == "fit", snapshot.step
        shows_samples = not is_training or step >= self._next_thumbnails
        for cloud in clouds:
            notes = list(self._remarks(samples, cloud))
            method = "t-SNE" if self._layout.method == "tsne" else "principal components"
            title = f"{self._side} {cloud.layer}: {method}, {len(cloud.places):,} samples; "
            title = f"{title.lstrip()}epoch {snapshot.epoch}, step {step:,}"
            if cloud.obstacle is not None:
                draw = partial(draw_no_map, caption=(title, *notes))
                yield Picture(tag=tag("embedding/map", cloud.layer), draw=draw)
                continue
            own = samples.at(cloud.places)
            last = self._followed.get(cloud.layer)
            made = followed(last, cloud, own.fingerprints, self._layout)
            if is_training:
                self._keep(step, cloud.layer, made, own)
            trust = trustworthiness(cloud.distances, made.points)
            yield Scalar(tag=tag("trustworthiness", cloud.layer), value=trust)
            if made.moved is not None:
                yield Scalar(tag=tag("displacement", cloud.layer), value=made.moved)
            caption = (title, *_figures(cloud, trust, made.moved, of_pixels), made.note, *notes)
            pictures = partial(self._pictures, has_strip=is_training, shows_samples=shows_samples)
            yield from pictures(cloud, made, own, caption)
        if shows_samples and is_training:
            facts = RunFacts(planned_steps=snapshot.planned_steps)
            following = _THUMBNAILS.next_due(step, facts)
            self._next_thumbnails = step if following is None else following

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        maps = {
            layer: {
                "points": torch.from_numpy(kept.points),
                "fingerprints": torch.from_numpy(kept.fingerprints),
                "strip": self._strips[layer].state_dict(),
            }
            for layer, kept in self._followed.items()
        }
        return {"followed": maps, "next_thumbnails": self._next_thumbnails}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._next_thumbnails = int(state["next_thumbnails"])
        for layer, kept in state["followed"].items():
            points, fingerprints = kept["points"].numpy(), kept["fingerprints"].numpy()
            self._followed[layer] = FollowedMap(points=points, fingerprints=fingerprints)
            self._strips[layer].load_state_dict(kept["strip"])

    def _keep(self, step: int, layer: str, made: FollowedMap, own: Samples) -> None:
        """Makes this map the last one, and a frame of the strip."""
        self._followed[layer] = made
        if made.before is None:
            self._strips[layer].clear()
        # Frames have one shape, so that a step with fewer samples begins no strip anew.
        room = max(0, self._options.num_samples - len(made.points))
        frame = {"points": made.points, **own.marks}
        self._strips[layer].add(step, **{name: _padded(rows, room) for name, rows in frame.items()})

    def _pictures(
        self,
        cloud: Cloud,
        made: FollowedMap,
        own: Samples,
        caption: tuple[str, ...],
        *,
        has_strip: bool,
        shows_samples: bool,
    ) -> Iterator[Item]:
        """Yields the map, its film strip, the samples themselves, and the projector's data."""
        names = self._options.class_names or ()
        words: dict[str, Any] = {"caption": caption, "class_names": names}
        statistics: dict[str, Any] = {"mean": self._options.mean, "std": self._options.std}
        points: dict[str, Values] = {"points": made.points, **own.marks}
        arrays = dict(points)
        if (own.predictions >= 0).any():
            arrays["wrong"] = own.is_wrong
        if made.before is not None:
            arrays["before"] = made.before
        draw = partial(draw_map, **words)
        yield Picture(tag=tag("embedding/map", cloud.layer), draw=draw, arrays=arrays)
        if has_strip:
            strip = self._strips[cloud.layer]
            draw = partial(draw_strip, steps=tuple(strip.steps), **words)
            yield Picture(
                tag=tag("embedding/strip", cloud.layer), draw=draw, arrays=strip.stacked()
            )
        if not shows_samples:
            return
        thumbnails = None
        # Rows of numbers are no pictures.
        if own.pixels is not None and own.ranges is not None and min(own.pixels.shape[2:]) > 1:
            arrays = {**points, "pixels": own.pixels, "ranges": own.ranges}
            draw = partial(draw_thumbnails, **words, **statistics)
            yield Picture(tag=tag("embedding/thumbnails", cloud.layer), draw=draw, arrays=arrays)
            if self._projector:
                host = own.pixels.cpu().numpy(), own.ranges.cpu().numpy()
                shown = shown_inputs(*host, **statistics).images
                thumbnails = (shown / 255).astype(np.float32).transpose(0, 3, 1, 2)
        if self._projector:
            yield Embedding(
                tag=tag("embedding/projector", cloud.layer),
                features=cloud.features,
                metadata=tuple(_described(own, place, names) for place in range(len(own.labels))),
                thumbnails=thumbnails,
            )

    def _remarks(self, samples: Samples, cloud: Cloud) -> Iterator[str]:
        """Yields what is out of the ordinary."""
        num_samples, num_points = len(samples.labels), len(cloud.places)
        num_places = int(cloud.num_places)
        if cloud.obstacle is not None:
            yield "no map: " + _REASONS[cloud.obstacle].format(num_points, num_places)
        if num_points < num_samples:
            num_left_out = num_samples - num_points
            yield f"left out: {num_left_out:,} of {num_samples:,} samples, features not finite"
        if num_places < num_points:
            yield (
                f"{num_points - num_places:,} of {num_points:,} samples have the features of "
                "another one: the network does not tell them apart"
            )
        if cloud.num_directions == 1:
            yield "all features lie on one line"
        wanted = self._layout.perplexity
        fitting = fitting_perplexity(wanted, num_points)
        if self._layout.method == "tsne" and cloud.obstacle is None and fitting < wanted:
            yield f"perplexity {fitting:.3g} instead of {wanted:g}: few samples"
        num_units = samples.num_units.get(cloud.layer, 0)
        if num_units > cloud.features.shape[1]:
            yield f"{MAX_FEATURES:,} random sums of its {num_units:,} features"
        classes = np.unique(samples.labels)
        if len(classes) == 1 and samples.targets is None:
            yield "no classes are known" if classes[0] < 0 else "all samples are of one class"


def _figures(cloud: Cloud, trust: float, moved: float | None, of_pixels: float) -> Iterator[str]:
    """Yields the map's numbers in words: trustworthiness, displacement, class agreement."""
    num_twins = len(cloud.places) - cloud.num_places
    # A true map of features that are mostly identical is no good sign.
    is_little = " of the different ones" if num_twins > _MUCH * len(cloud.places) else ""
    way = "" if moved is None else f"; moved by {moved:.2f} of its spread (median)"
    yield f"trustworthiness {trust:.3f}{is_little}{way}"
    if not math.isnan(cloud.agreement):
        pixels = "" if math.isnan(of_pixels) else f" (in pixels {100 * of_pixels:.0f} %)"
        yield f"nearest neighbours of the same class: {100 * cloud.agreement:.0f} %{pixels}"


def _described(samples: Samples, place: int, names: Sequence[str]) -> str:
    """Returns a sample's label or target, and the class predicted if that is wrong."""
    if samples.targets is not None:
        return number(float(samples.targets[place]))
    own, predicted = (
        "not known" if kind < 0 else names[kind] if kind < len(names) else str(kind)
        for kind in (samples.labels[place], samples.predictions[place])
    )
    return f"{own}, predicted {predicted}" if samples.is_wrong[place] else own


def _padded(array: NDArray[Any], room: int) -> Tensor:
    """Returns the rows with so many more after them, of NaN or -1: there is no sample."""
    nothing = np.nan if array.dtype.kind == "f" else -1
    filling = np.full((room, *array.shape[1:]), nothing, array.dtype)
    return torch.from_numpy(np.concatenate([array, filling]))
