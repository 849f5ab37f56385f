"""What linear probes reach at each depth, kept over the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.analysis.linear_probe import probe_accuracy
from vis_callbacks.callbacks.embedding.pictures import draw_probes
from vis_callbacks.callbacks.embedding.sample_collector import MAX_PROBE_FEATURES
from vis_callbacks.render.film_strip import with_frame
from vis_callbacks.report import Image, Item, Scalar, tag

if TYPE_CHECKING:
    from vis_callbacks.callbacks.embedding.collected_samples import Samples
    from vis_callbacks.engine.snapshot import Snapshot

_MIN_SAMPLES = 8
_MAX_CURVES = 4


class ProbeCurves:
    """Fits probes at each snapshot and keeps the curves of a few: first, log-spaced, latest.

    Args:
        writes_all: Whether each layer gets a scalar of its own, or the last one alone.
    """

    def __init__(self, *, writes_all: bool) -> None:
        self._writes_all = writes_all
        self._layers: list[str] = []
        self._curves: list[tuple[int, Tensor]] = []

    def items(self, snapshot: Snapshot, samples: Samples) -> Iterator[Item]:
        """Yields the accuracies of this moment, and the picture where pictures are due."""
        fitted = self._fit(samples)
        if fitted is None:
            return
        accuracies, chance, num_samples, num_classes = fitted
        layers = list(samples.probed)
        for place, layer in enumerate(layers):
            if self._writes_all or place == len(layers) - 1:
                yield Scalar(tag=tag("probe_accuracy", layer), value=accuracies[place])
        curves = self._with(snapshot, layers, accuracies)
        if snapshot.wants_pictures:
            units = {info.name: info.num_units for info in snapshot.trace}
            yield Image(
                tag="embedding/probes",
                draw=partial(
                    draw_probes,
                    layers=[_described(layer, units.get(layer)) for layer in layers],
                    steps=[step for step, _ in curves],
                    num_samples=num_samples,
                    num_classes=num_classes,
                    epoch=snapshot.epoch,
                    chance=chance,
                ),
                arrays={
                    "accuracies": torch.stack([row for _, row in curves]),
                    "network": _own_accuracy(samples),
                },
            )

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "layers": list(self._layers),
            "curves": [[step, row.cpu()] for step, row in self._curves],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._layers = [str(layer) for layer in state["layers"]]
        self._curves = [(int(step), row) for step, row in state["curves"]]

    def _fit(self, samples: Samples) -> tuple[Tensor, float, int, int] | None:
        """Returns accuracy by layer, that of guessing, samples and classes; None: no fit."""
        labels = samples.probed_labels
        if not samples.probed or len(labels) < _MIN_SAMPLES:
            return None
        on_host = labels.cpu().numpy()
        labelled = np.flatnonzero(on_host >= 0)
        classes, dense, counts = np.unique(
            on_host[labelled], return_inverse=True, return_counts=True
        )
        if len(classes) < 2 or len(dense) < _MIN_SAMPLES:
            return None
        index, targets = (torch.from_numpy(part).to(labels.device) for part in (labelled, dense))
        accuracies = torch.stack(
            [
                _accuracy(features[index], targets, len(classes))
                for features in samples.probed.values()
            ]
        )
        return accuracies, float(counts.max() / len(dense)), len(dense), len(classes)

    def _with(
        self, snapshot: Snapshot, layers: list[str], accuracies: Tensor
    ) -> Sequence[tuple[int, Tensor]]:
        """Returns the curves of the past and this one; outside of a training this one alone."""
        if snapshot.stage != "fit":
            return [(snapshot.step, accuracies)]
        if layers != self._layers:
            self._layers, self._curves = layers, []
        curves = [(step, row.to(accuracies.device)) for step, row in self._curves]
        self._curves = with_frame(
            curves, (snapshot.step, accuracies), _MAX_CURVES, key=lambda kept: (kept[0], None)
        )
        return self._curves


def _accuracy(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the probe's accuracy, NaN where features are not finite."""
    finite = features.isfinite().all()
    accuracy = probe_accuracy(torch.where(finite, features, 0), labels, num_classes)
    return torch.where(finite, accuracy, torch.nan)


def _own_accuracy(samples: Samples) -> Tensor:
    """Returns how many of the probed samples the network itself gets right, NaN: not known."""
    labels, predictions = samples.labels, samples.predictions
    # Fewer samples may have been probed, and which they are is not known here.
    if predictions is None or len(labels) != len(samples.probed_labels):
        return torch.full((), torch.nan, device=labels.device)
    is_known = (labels >= 0) & (predictions >= 0)
    return ((predictions == labels) & is_known).sum() / is_known.sum()  # 0 / 0 is NaN


def _described(layer: str, num_units: int | None) -> str:
    if num_units is None:
        return layer
    if num_units > MAX_PROBE_FEATURES:
        return f"{layer} ({MAX_PROBE_FEATURES} random sums of {num_units:,} units)"
    return f"{layer} ({num_units:,} units)"
