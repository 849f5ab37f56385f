"""The first samples of an evaluation, collected as its batches pass by, the same for all layers."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.engine.labels import whole_labels
from vis_callbacks.engine.layers import matches
from vis_callbacks.engine.nonlinearities import NONLINEARITIES
from vis_callbacks.engine.probe import Activation, Batch
from vis_callbacks.engine.ranks import merge_two
from vis_callbacks.engine.sample_numbers import sample_numbers
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.embedding.reductions import (
    fingerprints,
    has_class_token,
    pooled,
    predicted_classes,
    projected,
    shrunk_inputs,
    target_values,
    to_bytes,
)

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import Probe, Values
    from vis_callbacks.engine.snapshot import Snapshot

Kind = Literal["features", "predictions", "probes"]
Key = tuple[Kind, str]

FACTS = ("fact_index", "fingerprint", "label", "target", "pixels", "range")
MERGE: Mapping[str, Literal["concat", "max"]] = {
    **dict.fromkeys(("rows", "index", *FACTS), "concat"),
    "num_units": "max",
    "standing": "max",
}

_OF_A_SAMPLE = ("fingerprints", "labels", "predictions", "targets", "pixels", "ranges")

# A layer that was met, one that is kept of all those, and one that has no row a sample.
MET, CHOSEN, MISFIT = range(3)

MAX_FEATURES = 2_048  # of a layer that is mapped: 4 MB for 500 samples
MAX_PROBE_FEATURES = 512
_NUM_CANDIDATES = 4
_FIRST_BATCH_BYTES = 8 * 2**20
_NO_CLASS = -1
_MANY_CLASSES = 20
_CHUNK = 16  # reference samples a pass: whole activations of several layers lie side by side
_KINDS = frozenset(nonlinearity.kind for nonlinearity in NONLINEARITIES)


class SampleCollector:
    """Makes the rows of activations that pass by; one lives as long as a run.

    Each row has the running number of its sample, so the rows of layers, batches and ranks find
    together. What belongs to a sample and to no layer (label, fingerprint, pixels) comes with the
    layer that an evaluation meets first. Layers without one row a sample (the tokens that an expert
    is sent, packed sequences, boxes, tables of positions) are marked as misfits.

    Which linear layer is the last, and which nonlinearities are evenly spaced, is known once the
    first batch of a run has passed. Until then the rows of few layers are kept: of the linear
    layers that the model registers last, among which the last one nearly always is, and of as
    many nonlinearities as 8 MB hold. What is missed is missing in the first map alone.
    """

    def __init__(
        self, num_samples: int, linear_names: Sequence[str], *, maps_last: bool, max_probed: int
    ) -> None:
        self._num_samples = num_samples
        self._linear_names = tuple(linear_names)
        self._max_kept = {"predictions": 1, "probes": max_probed}
        if maps_last:
            self._max_kept["features"] = 1
        self._batch: weakref.ref[Batch] | None = None
        self._in_batch: list[Key] = []
        self._misfits: set[Key] = set()
        self._kept: set[Key] | None = None
        self._carrier: Key | None = None
        self._num_bytes = 0
        self._pixel_size: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_batch": None}  # a weak reference cannot be pickled

    def read(self, kind: Kind, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        """Returns the rows of a layer that may be mapped, that predicts, or that may be probed."""
        self._turn_to(batch)
        key = (kind, activation.layer)
        if key in self._in_batch:
            return {}  # the step runs the model twice over a batch: the first pass counts
        self._in_batch.append(key)
        if batch.first_index == 0 and len(self._in_batch) == 1:
            self._carrier = key
        index = sample_numbers(batch, activation.values.device, self._num_samples)
        if not len(index):
            return {}
        if len(activation.values) != batch.num_samples:
            self._misfits.add(key)
        is_kept = self._kept is None or key in self._kept
        standing = MISFIT if key in self._misfits else int(self._kept is not None and is_kept)
        values = {"standing": index.new_full((), standing)}
        if is_kept:
            may_keep = standing != MISFIT and self._may_keep(key, activation, len(index))
            count = len(index) if may_keep else 0
            values |= {
                "rows": _rows(kind, activation, batch, count),
                "index": index[:count],
                "num_units": index.new_full((), activation.values.shape[1]),
            }
        if key == self._carrier:
            values |= {"fact_index": index, **self._facts(batch, index)}
        return values

    def _turn_to(self, batch: Batch) -> None:
        """Begins a batch, if this is another one; after the first of a run, chooses layers."""
        if self._batch is not None and self._batch() is batch:
            return
        if self._in_batch and self._kept is None:
            names: dict[Kind, list[str]] = {}
            for kind, name in self._in_batch:
                if (kind, name) not in self._misfits:
                    names.setdefault(kind, []).append(name)
            self._kept = {
                (kind, name)
                for kind, of_kind in names.items()
                for name in evenly_spaced(of_kind, self._max_kept.get(kind))
            }
        self._batch, self._in_batch = weakref.ref(batch), []

    def _may_keep(self, key: Key, activation: Activation, num_rows: int) -> bool:
        kind, name = key
        if self._kept is not None or kind not in self._max_kept or kind == "predictions":
            return True
        if kind == "features":
            return own_name(name, self._linear_names) in self._linear_names[-_NUM_CANDIDATES:]
        self._num_bytes += 4 * num_rows * min(activation.values.shape[1], MAX_PROBE_FEATURES)
        return self._num_bytes <= _FIRST_BATCH_BYTES

    def _facts(self, batch: Batch, index: Tensor) -> dict[str, Tensor]:
        """Returns what belongs to the samples of these numbers themselves."""
        count, device = len(index), index.device
        inputs = batch.inputs
        classes = whole_labels(batch.labels, batch.num_samples)
        known = torch.full((count,), _NO_CLASS, device=device)
        if classes is not None:
            known = classes[:count].to(device).clamp_min(_NO_CLASS)
        # A sample without inputs that can be read is known again by its place alone.
        identity = index[:, None] if inputs is None else inputs[:count].to(device)
        facts = {
            "fingerprint": fingerprints(identity, known),
            "label": known,
            "target": target_values(batch.labels, batch.num_samples, device)[:count],
        }
        pixels = None if inputs is None else shrunk_inputs(inputs[:count])
        if pixels is not None:
            self._pixel_size = self._pixel_size or (pixels.shape[2], pixels.shape[3])
            kept, ranges = to_bytes(F.adaptive_avg_pool2d(pixels, self._pixel_size))
            facts |= {"pixels": kept, "range": ranges}
        return facts


def evenly_spaced(names: Sequence[str], count: int | None) -> list[str]:
    """Returns at most so many names, evenly spaced, always with the last; None: all of them."""
    last = len(names) - 1
    if count is None or count > last:
        return list(names)
    if count == 1:
        return list(names[-1:])
    return [names[round(place * last / (count - 1))] for place in range(count)]


def own_name(name: str, names: Sequence[str]) -> str:
    """Returns a layer's name without the number that tells it from another reading of it."""
    # A layer whose input and output are both read stands in the trace twice.
    return name if name in names else re.sub(r"-\d+$", "", name)


def _rows(kind: Kind, activation: Activation, batch: Batch, count: int) -> Tensor:
    """Returns the rows of the first ``count`` samples of a batch."""
    values = activation.values[:count]
    if kind == "predictions":
        return predicted_classes(values)
    input_axes = 0 if batch.inputs is None else batch.inputs.dim()
    is_token = has_class_token(activation.shape, values.shape[1], input_axes)
    limit = MAX_FEATURES if kind == "features" else MAX_PROBE_FEATURES
    return projected(pooled(values, class_token=is_token), limit)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The collected samples in their order: features on the device, single numbers on the host.

    Attributes:
        fingerprints: (samples,).
        labels: (samples,); -1: no class.
        predictions: (samples,) classes; -1: not known, or the outputs are not scores of classes.
        targets: (samples,) of a regression, NaN: not known; None where there are classes.
        num_outputs: Of the layer that gave the predictions.
        features: By layer (samples, dimensions): what is mapped.
        num_units: By mapped layer, before random sums were taken.
        probed: By layer (probed samples, dimensions), in the order of the forward pass.
        probed_labels: (probed samples,); fewer than samples where not all layers of a run's
            first batch could be kept.
        pixels: (samples, channels, height, width) uint8, small; None: inputs without pixels.
        ranges: (samples, 2) float32, what 0 and 255 of each sample stand for.
    """

    fingerprints: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    features: Mapping[str, Tensor]
    targets: NDArray[np.float32] | None = None
    num_outputs: int = 0
    num_units: Mapping[str, int] = field(default_factory=dict)
    probed: Mapping[str, Tensor] = field(default_factory=dict)
    probed_labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    pixels: Tensor | None = None
    ranges: Tensor | None = None

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """(samples,) whether the class predicted is known to be another than the label."""
        known = (self.labels >= 0) & (self.predictions >= 0)
        return np.asarray(known & (self.labels != self.predictions))

    @property
    def marks(self) -> dict[str, NDArray[Any]]:
        """What colours the samples on a map: their labels, and the targets of a regression."""
        return {"labels": self.labels} | ({} if self.targets is None else {"targets": self.targets})

    def at(self, places: NDArray[np.intp]) -> Samples:
        """Returns some of the samples; the features stay those of all."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _OF_A_SAMPLE}
        own = {name: rows if rows is None else rows[places] for name, rows in own.items()}
        return replace(self, **own)


def samples_of(values: Mapping[str, Values], *, maps_last: bool, max_probed: int) -> Samples | None:
    """Returns the samples of an evaluation; None where nothing was collected.

    With ``maps_last`` only the last layer of the probe "features" is mapped.
    """
    carriers = [n for of_probe in values.values() for n in of_probe.values() if FACTS[0] in n]
    if not carriers:
        return None
    facts = {name: torch.cat([n[name] for n in carriers]) for name in FACTS if name in carriers[0]}
    mapped = _chosen(values.get("features", {}), 1 if maps_last else None)
    probed = _chosen(values.get("probes", {}), max_probed)
    if not mapped and maps_last:  # no linear layer: the last nonlinearity comes nearest
        mapped = dict(list(probed.items())[-1:])
    predicted = list(_chosen(values.get("predictions", {}), 1).values())
    index = facts.pop("fact_index")
    common = _common([index, *(n["index"] for n in mapped.values())])
    common_probed = _common([common, *(n["index"] for n in probed.values())])
    kept = {name: _picked(fact, index, common) for name, fact in facts.items()}
    num_outputs = int(predicted[0]["num_units"]) if predicted else 0
    found, targets = classes_or_values(
        kept["label"].cpu().numpy(), kept["target"].cpu().numpy(), num_outputs
    )
    is_probed = torch.isin(common, common_probed).cpu().numpy()
    predictions = np.full(len(found), -1)
    if predicted:
        of_all = _picked(predicted[0]["rows"], predicted[0]["index"], common)
        predictions = of_all.cpu().numpy()
    return Samples(
        fingerprints=kept["fingerprint"].cpu().numpy(),
        labels=found,
        predictions=predictions,
        targets=targets,
        num_outputs=num_outputs,
        features={k: _picked(n["rows"], n["index"], common) for k, n in mapped.items()},
        num_units={k: int(n["num_units"]) for k, n in mapped.items()},
        probed={k: _picked(n["rows"], n["index"], common_probed) for k, n in probed.items()},
        probed_labels=found[is_probed],
        pixels=kept.get("pixels"),
        ranges=kept.get("range"),
    )


def classes_or_values(
    labels: NDArray[np.int64], targets: NDArray[np.float32], num_outputs: int
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Returns labels as classes (-1: none), and as values of a regression or None."""
    is_known = np.isfinite(targets)
    if is_known.any():
        if np.isin(targets[is_known], (0, 1)).all():  # two classes, for `BCEWithLogitsLoss`
            return np.where(is_known, targets, -1).astype(np.int64), None
        return np.full_like(labels, -1), targets
    # A single output that has to meet many different whole numbers, such as ages.
    if num_outputs == 1 and len(np.unique(labels)) > _MANY_CLASSES:
        return np.full_like(labels, -1), np.where(labels >= 0, labels, np.nan).astype(np.float32)
    return labels, None


def _chosen(read: Values, count: int | None) -> dict[str, Mapping[str, Any]]:
    """Returns the layers that the collector keeps; in a run's first batch, those that it will."""
    standing = {name: int(named.get("standing", MET)) for name, named in read.items()}
    names = [name for name, found in standing.items() if found == CHOSEN]
    if not names:
        names = evenly_spaced([n for n, found in standing.items() if found == MET], count)
    return {name: read[name] for name in names if "rows" in read[name]}


def _common(indices: Sequence[Tensor]) -> Tensor:
    """Returns the numbers that all have, ascending."""
    common = indices[0].sort().values
    for index in indices[1:]:
        if len(index) != len(common):  # else they are the same: batches are read whole
            common = common[torch.isin(common, index)]
    return common


def _picked(rows: Tensor, index: Tensor, wanted: Tensor) -> Tensor:
    """Returns the rows of the wanted numbers, in their order."""
    ordered, order = index.sort()
    return rows[order[torch.searchsorted(ordered, wanted)]]


def values_of_references(
    snapshot: Snapshot, probes: Sequence[Probe], module_names: Sequence[str]
) -> dict[str, Values]:
    """Returns what the probes would have read if the reference samples were an evaluation.

    By isolated passes, a few samples at a time. Raises `NothingToShow` if there are no samples.
    """
    references, read_layers = snapshot.references, snapshot.read_layers
    if references is None or read_layers is None:
        raise NothingToShow(
            "there is neither an evaluation nor a reference sample to look at. Give the Trainer "
            "validation data."
        )
    values: dict[str, dict[str, dict[str, Tensor]]] = {probe.name: {} for probe in probes}
    for start in range(0, len(references.inputs), _CHUNK):
        part = slice(start, start + _CHUNK)
        labels = None if references.labels is None else references.labels[part]
        inputs = references.inputs[part]
        batch = Batch(inputs=inputs, labels=labels, num_samples=len(inputs), first_index=start)
        for probe in probes:
            names = _names_for(probe, snapshot, module_names)
            read = read_layers(names, inputs, site=probe.site) if names else {}
            for name, activation in read.items():
                made = probe.reduce(_as_activation(name, activation), batch)
                known = values[probe.name].setdefault(name, {})
                for key, value in made.items():
                    how = probe.merge[key]
                    known[key] = merge_two(known[key], value, how) if key in known else value
    return dict(values)


def _names_for(probe: Probe, snapshot: Snapshot, module_names: Sequence[str]) -> list[str]:
    met = [info for info in snapshot.trace if info.kind in _KINDS]
    if probe.layers is None:
        return [info.name for info in met if not info.is_gate]
    names = dict.fromkeys([*(info.name for info in met), *module_names])
    return [name for name in names if matches(name, probe.layers)]


def _as_activation(name: str, values: Tensor) -> Activation:
    """Returns what a hook would have been given, of an activation (samples, units, ...)."""
    # Three axes are read as tokens, whose units the model has last.
    shape = values.movedim(1, -1).shape if values.dim() == 3 else values.shape
    return Activation(
        layer=name,
        values=values.flatten(2) if values.dim() > 2 else values.unsqueeze(2),
        nonlinearity=None,
        inputs=None,
        shape=tuple(shape),
    )
