"""The maps of the layers that `EmbeddingMonitor` follows, as numbers and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.analysis.neighbours import trustworthiness
from vis_callbacks.analysis.tsne import fitting_perplexity
from vis_callbacks.callbacks.embedding.followed_map import FollowedMap, Layout, MapStep
from vis_callbacks.callbacks.embedding.pictures import (
    MapFacts,
    draw_map,
    draw_no_map,
    draw_strip,
    draw_thumbnails,
    visible,
)
from vis_callbacks.callbacks.embedding.sample_collector import MAX_FEATURES
from vis_callbacks.engine.schedule import LogSpaced, RunFacts
from vis_callbacks.render.text import number
from vis_callbacks.report import Embedding, Image, Item, Scalar, Values, tag

if TYPE_CHECKING:
    from vis_callbacks.callbacks.embedding.collected_samples import Samples
    from vis_callbacks.callbacks.embedding.feature_clouds import Cloud, Facts
    from vis_callbacks.callbacks.options import CheckedOptions
    from vis_callbacks.engine.snapshot import Snapshot

# Thumbnails of photographs are the largest picture by far: each doubling of the steps has one.
_THUMBNAILS = LogSpaced(first=20, per_doubling=1)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What all maps of one snapshot share.

    Attributes:
        of_pixels: Class agreement of the nearest in pixels; NaN: not known.
    """

    snapshot: Snapshot
    samples: Samples
    facts: Facts
    of_pixels: Tensor
    options: CheckedOptions

    @property
    def is_training(self) -> bool:
        """Whether what is seen belongs to the training that is followed."""
        return self.snapshot.stage == "fit"


class EmbeddingMaps:
    """Follows the map of each layer.

    Args:
        layout: How maps are laid out.
        side: Which side of a layer is mapped, in words, or "".
        projector: Whether to write for the Embedding Projector as well.
    """

    def __init__(self, layout: Layout, *, side: str, projector: bool) -> None:
        self._layout = layout
        self._side = side
        self._projector = projector
        self._followed: dict[str, FollowedMap] = {}
        self._next_thumbnails = 0

    def items(self, look: Look, clouds: Sequence[Cloud]) -> Iterator[Item]:
        """Yields every layer's map: its numbers, and its pictures or why there are none."""
        step = look.snapshot.step
        shows_samples = not look.is_training or step >= self._next_thumbnails
        for cloud in clouds:
            yield from self._of_layer(look, cloud, shows_samples)
        if shows_samples and look.is_training:
            facts = RunFacts(planned_steps=look.snapshot.planned_steps)
            following = _THUMBNAILS.next_due(step, facts)
            self._next_thumbnails = step if following is None else following

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "followed": {layer: followed.state() for layer, followed in self._followed.items()},
            "next_thumbnails": self._next_thumbnails,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._followed = {
            str(layer): FollowedMap.from_state(kept) for layer, kept in state["followed"].items()
        }
        self._next_thumbnails = int(state["next_thumbnails"])

    def _of_layer(self, look: Look, cloud: Cloud, shows_samples: bool) -> Iterator[Item]:
        step = look.snapshot.step
        if cloud.shape.obstacle is not None:
            facts = self._facts(look, cloud, "")
            draw = partial(draw_no_map, facts=facts, shape=cloud.shape)
            yield Image(tag=tag("embedding/map", cloud.layer), draw=draw)
            return
        followed = self._followed.get(cloud.layer, FollowedMap())
        fingerprints = look.facts.fingerprints[cloud.places]
        made = followed.follow(cloud.features, cloud.distances, fingerprints, self._layout)
        if look.is_training:
            self._followed[cloud.layer] = followed
            labels, targets = look.facts.labels[cloud.places], look.facts.targets_at(cloud.places)
            followed.keep(step, made, fingerprints, labels, targets)
        trust = trustworthiness(cloud.distances, made.points)
        moved = made.displacement
        yield Scalar(tag=tag("trustworthiness", cloud.layer), value=trust)
        if moved is not None:
            yield Scalar(tag=tag("displacement", cloud.layer), value=moved)
        else:
            moved = trust.new_full((), torch.nan)
        numbers = torch.stack([n.double() for n in (trust, cloud.agreement, look.of_pixels, moved)])
        yield from self._pictures(look, cloud, followed, made, numbers, shows_samples)

    def _pictures(
        self,
        look: Look,
        cloud: Cloud,
        followed: FollowedMap,
        made: MapStep,
        numbers: Tensor,
        shows_samples: bool,
    ) -> Iterator[Item]:
        facts = self._facts(look, cloud, made.note)
        labels = look.facts.labels[cloud.places]
        has_predictions = bool((look.facts.predictions[cloud.places] >= 0).any())
        shared: dict[str, Values] = {"points": made.points, "labels": labels, "numbers": numbers}
        if (targets := look.facts.targets_at(cloud.places)) is not None:
            shared["targets"] = targets
        before: dict[str, Values] = {} if made.before is None else {"before": made.before}
        yield Image(
            tag=tag("embedding/map", cloud.layer),
            draw=partial(draw_map, facts=facts, has_predictions=has_predictions),
            arrays={**shared, **before, "wrong": look.facts.is_wrong[cloud.places]},
        )
        if look.is_training:
            frames: dict[str, Values] = {
                f"points_{i}": frame.points for i, frame in enumerate(followed.frames)
            }
            frames |= {f"labels_{i}": frame.labels for i, frame in enumerate(followed.frames)}
            frames |= {
                f"targets_{i}": frame.targets
                for i, frame in enumerate(followed.frames)
                if frame.targets is not None
            }
            steps = [frame.step for frame in followed.frames]
            yield Image(
                tag=tag("embedding/strip", cloud.layer),
                draw=partial(draw_strip, steps=steps, facts=facts),
                arrays={"numbers": numbers, **frames},
            )
        if not shows_samples:
            return
        pixels = _pixels_of(look, cloud)
        if pixels:
            mean, std = look.options.mean, look.options.std
            yield Image(
                tag=tag("embedding/thumbnails", cloud.layer),
                draw=partial(draw_thumbnails, facts=facts, mean=mean, std=std),
                arrays={**shared, **pixels},
            )
        if self._projector:
            yield _projected(look, cloud, pixels)

    def _facts(self, look: Look, cloud: Cloud, note: str) -> MapFacts:
        return MapFacts(
            what=f"{self._side} {cloud.layer}".strip(),
            method=self._layout.method,
            num_samples=len(cloud.places),
            num_twins=cloud.shape.num_samples - cloud.shape.num_places,
            epoch=look.snapshot.epoch,
            step=look.snapshot.step,
            class_names=look.options.class_names or (),
            notes=tuple(line for line in (note, *self._remarks(look, cloud)) if line),
        )

    def _remarks(self, look: Look, cloud: Cloud) -> Iterator[str]:
        """Yields what is out of the ordinary."""
        num_samples, shape = len(look.facts.labels), cloud.shape
        if shape.num_samples < num_samples:
            num_left_out = num_samples - shape.num_samples
            yield f"left out: {num_left_out:,} of {num_samples:,} samples, features not finite"
        if shape.num_places < shape.num_samples:
            num_twins = shape.num_samples - shape.num_places
            yield (
                f"{num_twins:,} of {shape.num_samples:,} samples have the features of another one: "
                "the network does not tell them apart"
            )
        if shape.is_line:
            yield "all features lie on one line"
        wanted = self._layout.perplexity
        if self._layout.method == "tsne" and num_samples:
            fitting = fitting_perplexity(wanted, max(shape.num_samples, 1))
            if fitting < wanted and shape.obstacle is None:
                yield f"perplexity {fitting:.3g} instead of {wanted:g}: few samples"
        num_units = look.samples.num_units.get(cloud.layer, 0)
        if num_units > cloud.features.shape[1]:
            yield f"{MAX_FEATURES:,} random sums of its {num_units:,} features"
        classes = np.unique(look.facts.labels)
        if len(classes) == 1 and look.facts.targets is None:
            yield "no classes are known" if classes[0] < 0 else "all samples are of one class"


def _pixels_of(look: Look, cloud: Cloud) -> dict[str, Tensor]:
    """Returns the cloud's images as they are kept, by name; nothing where there are none."""
    pixels, ranges = look.samples.pixels, look.samples.ranges
    if pixels is None or ranges is None or not look.samples.has_pictures:
        return {}
    index = torch.from_numpy(cloud.places).to(pixels.device)
    return {"pixels": pixels[index], "ranges": ranges[index]}


def _projected(look: Look, cloud: Cloud, pixels: Mapping[str, Tensor]) -> Embedding:
    """Returns the features with labels and thumbnails, for TensorBoard's projector."""
    names = look.options.class_names or ()

    def name_of(kind: int) -> str:
        if kind < 0:
            return "not known"
        return names[kind] if kind < len(names) else str(kind)

    rows = []
    for place in cloud.places:
        text = name_of(int(look.facts.labels[place]))
        if look.facts.targets is not None:
            text = number(float(look.facts.targets[place]))
        if look.facts.is_wrong[place]:
            text += f", predicted {name_of(int(look.facts.predictions[place]))}"
        rows.append(text)
    thumbnails = None
    if pixels:
        host = {name: value.cpu().numpy() for name, value in pixels.items()}
        shown = visible(**host, mean=look.options.mean, std=look.options.std).images
        thumbnails = shown.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return Embedding(
        tag=tag("embedding/projector", cloud.layer),
        features=cloud.features,
        metadata=tuple(rows),
        thumbnails=thumbnails,
    )
