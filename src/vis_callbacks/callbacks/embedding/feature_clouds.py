"""The features of each layer as a cloud of points, and what is known of its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.embedding import CloudShape, cloud_numbers, finite_rows
from vis_callbacks.analysis.neighbours import class_agreement, squared_distances
from vis_callbacks.callbacks.embedding.collected_samples import Samples
from vis_callbacks.report import Item, Readings, ReadingsTable, Scalar, tag


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the samples, on the host.

    Attributes:
        predictions: (samples,); -1: not known, or the outputs are no scores of classes.
        targets: (samples,), of a regression; None where there are classes.
        is_finite: By layer (samples,), whether all features of a sample are finite.
    """

    fingerprints: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    is_finite: Mapping[str, NDArray[np.bool_]]
    targets: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, samples: Samples) -> Facts:
        """Returns the facts, by one transfer."""
        predictions = samples.predictions
        if predictions is None:
            predictions = torch.full_like(samples.labels, -1)
        finite = [finite_rows(features).long() for features in samples.features.values()]
        rows = [samples.fingerprints, samples.labels, predictions, *finite]
        fingerprints, labels, predicted, *masks = torch.stack(rows).cpu().numpy()
        return cls(
            fingerprints=fingerprints,
            labels=labels,
            predictions=predicted,
            targets=None if samples.targets is None else samples.targets.cpu().numpy(),
            is_finite={
                layer: mask > 0 for layer, mask in zip(samples.features, masks, strict=True)
            },
        )

    def targets_at(self, places: NDArray[np.intp]) -> NDArray[np.float32] | None:
        """Returns the targets of these samples; None where there are classes."""
        return None if self.targets is None else self.targets[places]

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """(samples,) whether the class predicted is known to be another than the label."""
        known = (self.labels >= 0) & (self.predictions >= 0)
        return np.asarray(known & (self.labels != self.predictions))


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """One layer's finite features.

    Attributes:
        places: Which of the samples these are.
        features: (points, dimensions).
        distances: (points, points), squared.
        agreement: Share of nearest neighbours of one class, on the device; NaN: no classes.
    """

    layer: str
    places: NDArray[np.intp]
    features: Tensor
    distances: Tensor
    shape: CloudShape
    agreement: Tensor


def clouds_of(samples: Samples, facts: Facts) -> list[Cloud]:
    """Returns the clouds of all mapped layers; what must be known on the host comes at once."""
    parts = []
    for layer, features in samples.features.items():
        places = np.flatnonzero(facts.is_finite[layer])
        if len(places) < len(features):
            features = features[torch.from_numpy(places).to(features.device)]
        parts.append((layer, places, features, squared_distances(features)))
    numbers = torch.stack([cloud_numbers(features, d) for _, _, features, d in parts])
    return [
        Cloud(
            layer=layer,
            places=places,
            features=features,
            distances=distances,
            shape=CloudShape.of_numbers(row),
            agreement=agreement_of(distances, facts.labels[places]),
        )
        for (layer, places, features, distances), row in zip(parts, numbers.tolist(), strict=True)
    ]


def agreement_of(distances: Tensor, labels: NDArray[np.int64]) -> Tensor:
    """Returns the `class_agreement` over samples that have a class; NaN where that says nothing.

    With one class alone it would be 1, with no class of two samples there is none.
    """
    labelled = np.flatnonzero(labels >= 0)
    num_classes = len(np.unique(labels[labelled]))
    if num_classes < 2 or num_classes == len(labelled):
        return distances.new_full((), torch.nan)
    index = torch.from_numpy(labelled).to(distances.device)
    if len(labelled) < len(labels):
        distances = distances[index][:, index]
    return class_agreement(distances, torch.from_numpy(labels).to(distances.device)[index])


def cloud_items(clouds: Sequence[Cloud], facts: Facts) -> Iterator[Item]:
    """Yields the numbers of the clouds, for loggers and for rules."""
    layers = tuple(cloud.layer for cloud in clouds)
    ranks = tuple(cloud.shape.effective_rank for cloud in clouds)
    spreads = tuple(cloud.shape.spread for cloud in clouds)
    yield ReadingsTable(
        metrics=(readings.EFFECTIVE_RANK, readings.FEATURE_SPREAD),
        layers=layers,
        values=(ranks, spreads),
    )
    agreements = torch.stack([cloud.agreement for cloud in clouds])
    yield Readings(metric=readings.CLASS_AGREEMENT, layers=layers, values=agreements)
    classes = np.unique(facts.labels[facts.labels >= 0])
    num_embedded = min(len(cloud.places) for cloud in clouds)
    yield ReadingsTable(
        metrics=(readings.NUM_EMBEDDED, readings.NUM_CLASSES),
        layers=("",),
        values=((float(num_embedded),), (float(len(classes)),)),
    )
    has_classes = len(classes) > 1
    for cloud in clouds:
        yield Scalar(tag=tag("effective_rank", cloud.layer), value=cloud.shape.effective_rank)
        if has_classes:
            yield Scalar(tag=tag("class_agreement", cloud.layer), value=cloud.agreement)
