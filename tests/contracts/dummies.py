"""The monitors as dummies: each uses the shapes of the house as the real one must.

They do no science. That they pass every contract shows that probes, snapshots and reports can
carry all seven.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vis_callbacks import (
    Activation,
    Batch,
    Monitor,
    Picture,
    Probe,
    Report,
    RuleMetrics,
    Scalar,
    Snapshot,
)
from vis_callbacks.engine.schedule import EveryNSteps
from vis_callbacks.report import Embedding, Item, tag

TOP_K = 2


def as_picture(values: np.ndarray) -> np.ndarray:
    """Draws (samples, channels, height, width) side by side."""
    grey = np.abs(values).mean(1)
    grey = np.concatenate(list(grey / max(grey.max(), 1e-9)), axis=1)
    return np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)


class DummyMonitor(Monitor):
    default_schedule = EveryNSteps(1)


class ActivationsDummy(DummyMonitor):
    """Sums of a training step, over reused calls, micro-batches and ranks."""

    tags: ClassVar[Sequence[str]] = ("positive/<layer>",)

    def probes(self) -> Sequence[Probe]:
        return [Probe(name="sums", reduce=_positive, merge={"positive": "sum", "count": "sum"})]

    def observe(self, snapshot: Snapshot) -> Report:
        sums = snapshot.values["sums"]
        assert snapshot.num_samples["sums"] > 0
        assert list(sums) == [info.name for info in snapshot.trace if info.name in sums]
        shares = {name: part["positive"] / part["count"] for name, part in sums.items()}
        items: list[Item] = [
            Scalar(tag=tag("positive", name), value=share) for name, share in shares.items()
        ]
        values = torch.stack(list(shares.values()))
        items.append(RuleMetrics(metrics=("positive",), layers=tuple(shares), values=values))
        return Report(step=snapshot.step, items=tuple(items))


def _positive(activation: Activation, batch: Batch) -> dict[str, Tensor]:
    positive = (activation.values > 0).sum()
    return {"positive": positive, "count": torch.full_like(positive, activation.values.numel())}


class FiltersDummy(DummyMonitor):
    """No probe at all: weights, layers, optimizer and metrics."""

    tags: ClassVar[Sequence[str]] = ("first_layer/picture", "first_layer/norm", "rate/<group>")

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        first = next(info for info in snapshot.trace if info.touches_input)
        assert first.weight_name is not None
        weight = snapshot.weights[first.weight_name]
        assert snapshot.step == 0 or "loss" in snapshot.metrics
        items: list[Item] = [
            Picture(tag="first_layer/picture", draw=_draw_filters, arrays={"filters": weight}),
            Scalar(tag="first_layer/norm", value=weight.norm()),
        ]
        for group in snapshot.optimizer:
            assert group.update_norm is not None
            items.append(Scalar(tag=tag("rate", group.name), value=group.lr))
        return Report(step=snapshot.step, items=tuple(items))


def _draw_filters(filters: np.ndarray) -> np.ndarray:
    return as_picture(filters)


class EmbeddingDummy(DummyMonitor):
    """Features of a whole evaluation, with labels: the inputs of the last linear layer."""

    tags: ClassVar[Sequence[str]] = ("features/projector", "features/spread")

    def probes(self) -> Sequence[Probe]:
        return [
            Probe(
                name="features",
                layers=["head"],
                site="input",
                occasion="evaluation",
                reduce=_features,
                merge={"features": "concat", "labels": "concat"},
            )
        ]

    def observe(self, snapshot: Snapshot) -> Report:
        values = snapshot.values["features"]["head"]
        features, labels = values["features"], values["labels"]
        assert len(features) == len(labels) == snapshot.num_samples["features"]
        embedding = Embedding(
            tag="features/projector",
            features=features,
            metadata=tuple(str(label) for label in labels.tolist()),
        )
        spread = Scalar(tag="features/spread", value=features.std())
        return Report(step=snapshot.step, items=(embedding, spread))


def _features(activation: Activation, batch: Batch) -> dict[str, Tensor]:
    assert batch.labels is not None
    return {"features": activation.values.flatten(1), "labels": batch.labels}


class SaliencyDummy(DummyMonitor):
    """Gradients of scores with respect to the reference samples."""

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    tags: ClassVar[Sequence[str]] = ("gradients/picture",)

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        assert snapshot.references is not None
        assert snapshot.forward is not None
        assert snapshot.references.labels is not None
        inputs = snapshot.references.inputs.clone().requires_grad_()
        scores = snapshot.forward(inputs)
        chosen = scores.gather(1, snapshot.references.labels.unsqueeze(1))
        (gradients,) = torch.autograd.grad(chosen.sum(), inputs)
        picture = Picture(tag="gradients/picture", draw=_draw_maps, arrays={"maps": gradients})
        return Report(step=snapshot.step, items=(picture,))


def _draw_maps(maps: np.ndarray) -> np.ndarray:
    return as_picture(maps)


class OcclusionDummy(DummyMonitor):
    """Many changed copies of one reference sample, a few at a time."""

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    tags: ClassVar[Sequence[str]] = ("occluded/drop",)

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        assert snapshot.references is not None
        assert snapshot.forward is not None
        sample = snapshot.references.inputs[:1]
        occluded = sample.repeat(sample.shape[-1], 1, 1, 1)
        for column in range(len(occluded)):
            occluded[column, :, :, column] = 0
        with torch.no_grad():
            drop = snapshot.forward(sample) - snapshot.forward(occluded, chunk=4)
        return Report(step=snapshot.step, items=(Scalar(tag="occluded/drop", value=drop.max()),))


class TopPatchesDummy(DummyMonitor):
    """The images at which each unit is largest: images beside activations, a merge of its own.

    A merge sees one name only, so what belongs together travels in one tensor
    (units, k, 2 + values of a patch): the value, the sample's running index, the patch.
    """

    tags: ClassVar[Sequence[str]] = ("top_patches/picture", "top_patches/first_index")

    def probes(self) -> Sequence[Probe]:
        return [
            Probe(
                name="top",
                layers=["relu"],
                occasion="evaluation",
                reduce=_top_patches,
                merge={"top": _larger_ones},
            )
        ]

    def observe(self, snapshot: Snapshot) -> Report:
        top = snapshot.values["top"]["relu"]["top"]
        patches = top[:, 0, 2:].reshape(len(top), 3, 3, 3)
        items = (
            Picture(tag="top_patches/picture", draw=_draw_maps, arrays={"maps": patches}),
            Scalar(tag="top_patches/first_index", value=top[:, :, 1].max()),
        )
        return Report(step=snapshot.step, items=items)


def _top_patches(activation: Activation, batch: Batch) -> dict[str, Tensor]:
    assert batch.inputs is not None
    largest = activation.values.amax(2)  # (samples, units)
    k = min(TOP_K, len(largest))
    values, samples = largest.topk(k, dim=0)  # (k, units)
    patches = batch.inputs[:, :, :3, :3].flatten(1)[samples]
    index = (samples + batch.first_index).to(values.dtype)
    rows = torch.cat([values.unsqueeze(2), index.unsqueeze(2), patches], dim=2)
    return {"top": rows.transpose(0, 1)}


def _larger_ones(old: Tensor, new: Tensor) -> Tensor:
    rows = torch.cat([old, new], dim=1)
    order = rows[:, :, 0].topk(min(TOP_K, rows.shape[1]), dim=1).indices
    return torch.take_along_dim(rows, order.unsqueeze(2), dim=1)


class ActivationMaximizationDummy(DummyMonitor):
    """Gradient ascent from an image of zeros, with no gradient left in the parameters."""

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    tags: ClassVar[Sequence[str]] = ("maximized/picture", "maximized/score")

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        assert snapshot.references is not None
        assert snapshot.forward is not None
        image = torch.zeros_like(snapshot.references.inputs[:1])
        for _ in range(3):
            image.requires_grad_()
            score = snapshot.forward(image)[:, 0].sum()
            (gradient,) = torch.autograd.grad(score, image)
            image = (image + gradient).detach()
        items = (
            Picture(tag="maximized/picture", draw=_draw_maps, arrays={"maps": image}),
            Scalar(tag="maximized/score", value=score.detach()),
        )
        return Report(step=snapshot.step, items=items)


DUMMIES = (
    ActivationsDummy,
    FiltersDummy,
    EmbeddingDummy,
    SaliencyDummy,
    OcclusionDummy,
    TopPatchesDummy,
    ActivationMaximizationDummy,
)
