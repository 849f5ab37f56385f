"""Linear probes: how well one linear layer could tell the classes, at each depth over the training.

The step from layer to layer tells more than the height: a wide layer helps any probe.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from vis_callbacks.monitors.embedding.pictures import draw_probes
from vis_callbacks.monitors.embedding.samples import MAX_PROBE_FEATURES
from vis_callbacks.pictures.film_strip import FilmStrip
from vis_callbacks.report import Item, Picture, Scalar, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.embedding.samples import Samples

_NUM_FOLDS = 5
# Penalties on the squared weights, for a sum over samples: 1 / C of scikit-learn.
_STRENGTHS = (3.0, 0.03)  # four between 10 and 0.01 moved no accuracy by .02, at twice the time
_WORTHWHILE = 0.98  # a weaker penalty must bring the loss to this share of the last one
_NUM_ITERATIONS = 20  # from where the stronger penalty ended: more move no accuracy by .02
_TOLERANCE = 1e-3
_ROUNDING = 1e-6  # what float32 leaves of a constant feature, in units of its size
_MIN_SAMPLES = 8
_MAX_CURVES = 4


def probe_accuracy(features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Returns the cross-validated accuracy of scikit-learn's multinomial logistic regression.

    Each fifth of the samples, with as much of each class as of the others, is judged by the
    probe fitted to the other four. Of two strengths of the penalty the one with the least loss
    on samples left out counts. `RidgeClassifierCV` would be no cheaper, and it masks classes
    that lie between others: of three in a row on one feature it never names the middle one
    (Hastie, Tibshirani and Friedman 2009, "The elements of statistical learning", section 4.2).

    Args:
        features: (samples, dimensions).
        labels: (samples,), of two classes or more with two samples at least.
    """
    from sklearn.linear_model import LogisticRegression

    rows = _standardised(features)
    folds = np.empty(len(labels), dtype=np.intp)
    folds[labels.argsort(kind="stable")] = np.arange(len(labels)) % _NUM_FOLDS
    options = {"warm_start": True, "max_iter": _NUM_ITERATIONS, "tol": _TOLERANCE}
    probes = [LogisticRegression(**options) for _ in range(_NUM_FOLDS)]
    least, accuracy = math.inf, math.nan
    for strength in _STRENGTHS:
        shares = np.zeros(len(labels))  # that a sample's own class was given
        is_right = np.zeros(len(labels), dtype=bool)
        for fold, probe in enumerate(probes):
            is_out = folds == fold
            probe.set_params(C=1 / strength).fit(rows[~is_out], labels[~is_out])
            given = probe.predict_proba(rows[is_out])
            is_own = probe.classes_ == labels[is_out, None]
            shares[is_out] = np.where(is_own, given, 0).sum(1)
            is_right[is_out] = probe.classes_[given.argmax(1)] == labels[is_out]
        loss = -np.log(shares.clip(np.finfo(np.float32).tiny)).mean()
        if loss < least:
            accuracy = float(is_right.mean())
        if not loss < _WORTHWHILE * least:
            break
        least = loss
    return accuracy


def _standardised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns features of mean 0 and variance 1; those that are constant become 0."""
    centred = features - features.mean(0, dtype=np.float64)
    deviation = np.sqrt(np.square(centred).mean(0))
    varies = deviation > _ROUNDING * np.abs(features).max(0)
    scaled = centred / np.where(varies, deviation, np.inf)
    return np.asarray(scaled, dtype=np.float32)


def _accuracies(of_layers: list[NDArray[np.float32]], labels: NDArray[np.int64]) -> list[float]:
    """The accuracy of each layer's probe, NaN where its features are not all finite.

    It takes one thread: the matrices are small, and two that wait for each other in each
    iteration took eight times as long on idle cores and eighteen times on busy ones.
    """
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1),
        warnings.catch_warnings(action="ignore"),  # that 20 iterations are not all there are
    ):
        return [
            probe_accuracy(rows, labels) if np.isfinite(rows).all() else math.nan
            for rows in of_layers
        ]


class ProbeCurves:
    """Fits probes at each snapshot and keeps the curves of a few: first, log-spaced, latest.

    Each layer gets a scalar of its own with ``writes_all``, else the last one alone.
    """

    def __init__(self, *, writes_all: bool) -> None:
        self._writes_all = writes_all
        self._layers: list[str] = []
        self._curves = FilmStrip(_MAX_CURVES)

    def items(self, snapshot: Snapshot, samples: Samples) -> Iterator[Item]:
        """Yields the accuracies of this moment, and the picture where pictures are due."""
        is_labelled = samples.probed_labels >= 0
        labels = samples.probed_labels[is_labelled]
        classes, counts = np.unique(labels, return_counts=True)
        if not samples.probed or len(labels) < _MIN_SAMPLES or np.count_nonzero(counts > 1) < 2:
            return
        layers = list(samples.probed)
        of_layers = [features.cpu().numpy()[is_labelled] for features in samples.probed.values()]
        accuracies = _accuracies(of_layers, labels)
        for layer, accuracy in zip(layers, accuracies, strict=True):
            if self._writes_all or layer == layers[-1]:
                yield Scalar(tag=tag("probe_accuracy", layer), value=accuracy)
        curves = FilmStrip()  # of an evaluation outside of a training
        if snapshot.stage == "fit":
            curves = self._curves
            if layers != self._layers:
                self._layers = layers
                curves.clear()
        curves.add(snapshot.step, accuracies=torch.tensor(accuracies))
        if snapshot.wants_pictures:
            units = {info.name: info.num_units for info in snapshot.trace}
            draw = partial(
                draw_probes,
                layers=[_described(layer, units.get(layer)) for layer in layers],
                steps=list(curves.steps),
                num_samples=len(labels),
                num_classes=len(classes),
                epoch=snapshot.epoch,
                chance=float(counts.max() / len(labels)),
                network=_own_accuracy(samples),
            )
            yield Picture(tag="embedding/probes", draw=draw, arrays=curves.stacked())

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {"layers": list(self._layers), "curves": self._curves.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned."""
        self._layers = [str(layer) for layer in state["layers"]]
        self._curves.load_state_dict(state["curves"])


def _own_accuracy(samples: Samples) -> float:
    """Returns how many of the probed samples the network itself gets right; NaN: not known."""
    is_known = (samples.labels >= 0) & (samples.predictions >= 0)
    # Fewer samples may have been probed, and which ones is not known here.
    if not is_known.any() or len(samples.labels) != len(samples.probed_labels):
        return math.nan
    return float(np.mean(samples.predictions[is_known] == samples.labels[is_known]))


def _described(layer: str, num_units: int | None) -> str:
    if num_units is None:
        return layer
    sums = f"{MAX_PROBE_FEATURES} random sums of " if num_units > MAX_PROBE_FEATURES else ""
    return f"{layer} ({sums}{num_units:,} units)"
