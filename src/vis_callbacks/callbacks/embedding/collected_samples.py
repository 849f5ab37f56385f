"""What a `SampleCollector` has collected, put together: the same samples for every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks.callbacks.embedding.sample_collector import CHOSEN, FACTS, MET, evenly_spaced
from vis_callbacks.engine.layers import matches
from vis_callbacks.engine.nonlinearities import NONLINEARITIES
from vis_callbacks.engine.probe import Activation, Batch
from vis_callbacks.engine.ranks import merge_two
from vis_callbacks.guard import NothingToShow

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import Probe, Values
    from vis_callbacks.engine.snapshot import Snapshot

_MANY_CLASSES = 20
_CHUNK = 16  # reference samples a pass: whole activations of several layers lie side by side
_KINDS = frozenset(nonlinearity.kind for nonlinearity in NONLINEARITIES)

Named = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The collected samples in their order, on the device.

    Attributes:
        fingerprints: (samples,) int64.
        labels: (samples,) int64; -1: no class.
        predictions: (samples,) int64, or None: the model has no linear layer.
        pixels: (samples, channels, height, width) uint8, small; None: inputs without pixels.
        ranges: (samples, 2) float32, what 0 and 255 of each sample stand for.
        features: By layer (samples, dimensions): what is mapped.
        probed: By layer (probed samples, dimensions), in the order of the forward pass.
        probed_labels: (probed samples,); fewer than samples where of a run's first batch not
            all layers could be kept.
        targets: (samples,) float32, what a regression is to reach; None where there are classes.
        num_outputs: Of the layer that gave the predictions.
        num_units: By mapped layer, before random sums were taken.
    """

    fingerprints: Tensor
    labels: Tensor
    predictions: Tensor | None
    pixels: Tensor | None
    ranges: Tensor | None
    features: Mapping[str, Tensor]
    probed: Mapping[str, Tensor]
    probed_labels: Tensor
    targets: Tensor | None = None
    num_outputs: int = 0
    num_units: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_pictures(self) -> bool:
        """Whether the inputs are images, and not rows of numbers."""
        return self.pixels is not None and min(self.pixels.shape[2:]) > 1


def samples_of(values: Mapping[str, Values], *, maps_last: bool, max_probed: int) -> Samples | None:
    """Returns the samples of an evaluation; None where nothing was collected.

    Args:
        values: Of the probes "features", "predictions" and "probes".
        maps_last: Whether only the last layer of "features" is mapped.
        max_probed: How many layers of "probes" are.
    """
    carriers = [n for of_probe in values.values() for n in of_probe.values() if FACTS[0] in n]
    if not carriers:
        return None
    facts = {name: torch.cat([n[name] for n in carriers]) for name in FACTS if name in carriers[0]}
    mapped = _chosen(values.get("features", {}), 1 if maps_last else None)
    probed = _chosen(values.get("probes", {}), max_probed)
    if not mapped and maps_last:  # no linear layer: the last nonlinearity comes nearest
        mapped = dict(list(probed.items())[-1:])
    predicted = _chosen(values.get("predictions", {}), 1)
    index = facts.pop("fact_index")
    common = _common([index, *(n["index"] for n in mapped.values())])
    common_probed = _common([common, *(n["index"] for n in probed.values())])
    num_outputs = max(_num_units(predicted).values(), default=0)
    labels, targets = classes_or_values(facts.pop("label"), facts.pop("target", None), num_outputs)
    kept = {name: _picked(fact, index, common) for name, fact in facts.items()}
    predictions = [_picked(n["rows"], n["index"], common) for n in predicted.values()]
    return Samples(
        fingerprints=kept["fingerprint"],
        labels=_picked(labels, index, common),
        targets=None if targets is None else _picked(targets, index, common),
        predictions=predictions[0] if predictions else None,
        num_outputs=num_outputs,
        pixels=kept.get("pixels"),
        ranges=kept.get("range"),
        features={k: _picked(n["rows"], n["index"], common) for k, n in mapped.items()},
        num_units=_num_units(mapped),
        probed={k: _picked(n["rows"], n["index"], common_probed) for k, n in probed.items()},
        probed_labels=_picked(labels, index, common_probed),
    )


def classes_or_values(
    labels: Tensor, targets: Tensor | None, num_outputs: int
) -> tuple[Tensor, Tensor | None]:
    """Returns labels as classes (-1: none) and as values to reach; these or None.

    Floating labels that are 0 and 1 alone name two classes, as `BCEWithLogitsLoss` wants them.
    Whole numbers are values where a single output is to meet many different ones, such as ages.
    """
    no_class = torch.full_like(labels, -1)
    if targets is not None and bool(targets.isfinite().any()):
        known = targets[targets.isfinite()]
        if bool(((known == 0) | (known == 1)).all()):
            return torch.where(targets.isfinite(), targets, -1).long(), None
        return no_class, targets
    if num_outputs == 1 and len(set(labels.tolist())) > _MANY_CLASSES:
        return no_class, torch.where(labels >= 0, labels.float(), torch.nan)
    return labels, None


def _num_units(read: Mapping[str, Named]) -> dict[str, int]:
    return {name: int(named["num_units"]) for name, named in read.items() if "num_units" in named}


def _chosen(read: Mapping[str, Named], count: int | None) -> dict[str, Named]:
    """Returns the layers that the collector keeps; in a run's first batch, those that it will."""
    standing = {name: int(named.get("standing", MET)) for name, named in read.items()}
    names = [name for name, found in standing.items() if found == CHOSEN]
    if not names:
        names = [name for name, found in standing.items() if found == MET]
        names = names if count is None else evenly_spaced(names, count)
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
    """Returns what the probes would have read had the reference samples been an evaluation.

    By isolated passes in evaluation mode, a few samples at a time.

    Raises:
        NothingToShow: There are no reference samples.
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
    if probe.layers is None:
        return [i.name for i in snapshot.trace if i.kind in _KINDS and not i.is_gate]
    met = [info.name for info in snapshot.trace if info.kind in _KINDS]
    return [name for name in dict.fromkeys([*met, *module_names]) if matches(name, probe.layers)]


def _as_activation(name: str, values: Tensor) -> Activation:
    """Returns what a hook would have been given, of an activation (samples, units, ...)."""
    # Units came second; three axes are read as tokens, whose units the model has last.
    shape = values.movedim(1, -1).shape if values.dim() == 3 else values.shape
    return Activation(
        layer=name,
        values=values.flatten(2) if values.dim() > 2 else values.unsqueeze(2),
        nonlinearity=None,
        inputs=None,
        shape=tuple(shape),
    )
