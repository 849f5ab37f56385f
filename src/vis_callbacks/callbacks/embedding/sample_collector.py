"""Rows of the first samples of an evaluation, collected as its batches pass by."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from vis_callbacks.analysis.samples import (
    fingerprints,
    has_class_token,
    numeric,
    pooled,
    predicted_classes,
    projected,
    resized,
    shrunk_inputs,
    target_values,
    to_bytes,
)
from vis_callbacks.engine.labels import class_labels

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import Activation, Batch

Kind = Literal["features", "predictions", "probes"]

FACTS = ("fact_index", "fingerprint", "label", "target", "pixels", "range")
MERGE: Mapping[str, Literal["concat", "max"]] = {
    **dict.fromkeys(("rows", "index", *FACTS), "concat"),
    "num_units": "max",
    "standing": "max",
}
# A layer that was met, one that is kept of all those, and one that has no row a sample.
MET, CHOSEN, MISFIT = range(3)

MAX_FEATURES = 2_048  # of a layer that is mapped: 4 MB for 500 samples
MAX_PROBE_FEATURES = 512
_NUM_CANDIDATES = 4
_FIRST_BATCH_BYTES = 8 * 2**20
_NO_CLASS = -1


class SampleCollector:
    """Makes the rows of activations that pass by; one lives as long as a run.

    Each row bears the running number of its sample, over all ranks in the order in which a
    sampler deals samples out to them: so the rows of layers, batches and ranks find together.
    What belongs to a sample and to no layer (label, fingerprint, pixels) comes with the layer
    that an evaluation meets first.

    Only layers with one row a sample come into question. What else there is (the tokens that an
    expert is sent, packed sequences, boxes, tables of positions) is marked as a misfit.

    Which linear layer is the last, and which nonlinearities are evenly spaced, is known once
    the first batch of a run has passed. Until then the rows of few layers are kept: of the
    linear layers that the model registers last, among which the last nearly always is, and of
    as many nonlinearities as 8 MB hold. What is missed is missing in the first map alone.

    Args:
        num_samples: How many samples of an evaluation are collected, over all ranks.
        linear_names: Names of the linear layers, in the order in which the model has them.
        maps_last: Whether it is the last linear layer that is mapped, or all that are read.
        max_probed: How many nonlinearities are probed.
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
        self._in_batch: list[tuple[Kind, str]] = []
        self._misfits: set[tuple[Kind, str]] = set()
        self._kept: set[tuple[Kind, str]] | None = None
        self._carrier: tuple[Kind, str] | None = None
        self._num_bytes = 0
        self._pixel_size: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_batch": None}  # a weak reference goes into no pickle

    def features(self, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        """Returns the rows of a layer that is to be mapped."""
        return self._read("features", activation, batch)

    def predictions(self, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        """Returns the classes that a linear layer predicts, if it is the last one."""
        return self._read("predictions", activation, batch)

    def probes(self, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        """Returns the rows of a layer that a linear probe is to be fitted to."""
        return self._read("probes", activation, batch)

    def _read(self, kind: Kind, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        self._turn_to(batch)
        key = (kind, activation.layer)
        if key in self._in_batch:
            return {}  # the step runs the model twice over a batch: the first pass counts
        self._in_batch.append(key)
        if batch.first_index == 0 and len(self._in_batch) == 1:
            self._carrier = key
        index = self._index_of(batch, activation.values.device)
        if index is None:
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
                for name in evenly_spaced(of_kind, self._max_kept.get(kind, len(of_kind)))
            }
        self._batch, self._in_batch = weakref.ref(batch), []

    def _index_of(self, batch: Batch, device: torch.device) -> Tensor | None:
        """Returns the numbers of the batch's samples among those of all ranks; None: enough."""
        rank, num_ranks = _rank()
        first = batch.first_index * num_ranks + rank
        stop = min(first + batch.num_samples * num_ranks, self._num_samples)
        if first >= stop:
            return None
        return torch.arange(first, stop, num_ranks, device=device)

    def _may_keep(self, key: tuple[Kind, str], activation: Activation, num_rows: int) -> bool:
        kind, name = key
        if self._kept is not None or kind not in self._max_kept or kind == "predictions":
            return True
        if kind == "features":
            return own_name(name, self._linear_names) in self._linear_names[-_NUM_CANDIDATES:]
        self._num_bytes += 4 * num_rows * min(activation.values.shape[1], MAX_PROBE_FEATURES)
        return self._num_bytes <= _FIRST_BATCH_BYTES

    def _facts(self, batch: Batch, index: Tensor) -> dict[str, Tensor]:
        """Returns what belongs to the samples of these numbers themselves."""
        count, inputs = len(index), numeric(batch.inputs)
        labels, _ = class_labels(numeric(batch.labels), batch.num_samples)
        known = torch.full((count,), _NO_CLASS, device=index.device)
        if labels is not None:
            known = labels[:count].to(index.device).clamp_min(_NO_CLASS)
        # Without inputs that can be read a sample is known again by its place alone.
        identity = index[:, None] if inputs is None else inputs[:count].to(index.device)
        targets = target_values(numeric(batch.labels), batch.num_samples)[:count]
        facts = {
            "fingerprint": fingerprints(identity, known),
            "label": known,
            "target": targets.to(index.device),
        }
        pixels = None if inputs is None else shrunk_inputs(inputs[:count])
        if pixels is not None:
            self._pixel_size = self._pixel_size or (pixels.shape[2], pixels.shape[3])
            kept, ranges = to_bytes(resized(pixels, *self._pixel_size))
            facts |= {"pixels": kept, "range": ranges}
        return facts


def evenly_spaced(names: Sequence[str], count: int) -> list[str]:
    """Returns so many names at most, evenly spaced; the last always, of two or more the first."""
    last = len(names) - 1
    if count == 1 or last < 1:
        return list(names[-1:])
    count = min(count, last + 1)
    return [names[round(place * last / (count - 1))] for place in range(count)]


def own_name(name: str, names: Sequence[str]) -> str:
    """Returns a layer's name without the number that tells it from another reading of it.

    A layer of which one monitor reads the input and another the output stands in the trace
    twice, the second time numbered.
    """
    return name if name in names else re.sub(r"-\d+$", "", name)


def _rows(kind: Kind, activation: Activation, batch: Batch, count: int) -> Tensor:
    """Returns the rows of the first ``count`` samples of a batch."""
    values = activation.values[:count].as_subclass(Tensor)
    if kind == "predictions":
        return predicted_classes(values)
    input_axes = 0 if batch.inputs is None else batch.inputs.dim()
    is_token = has_class_token(activation.shape, values.shape[1], input_axes)
    limit = MAX_FEATURES if kind == "features" else MAX_PROBE_FEATURES
    return projected(pooled(values, class_token=is_token), limit)


def _rank() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
