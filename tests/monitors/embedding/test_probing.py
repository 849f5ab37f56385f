from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.callbacks.embedding.collected_samples import Samples
from vis_callbacks.callbacks.embedding.probe_curves import ProbeCurves
from vis_callbacks.callbacks.plain import require_plain
from vis_callbacks.engine.probe import LayerInfo
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.report import Image, Report, Scalar, transfer

N = 30
LABELS = torch.arange(N) % 3


def separable() -> Tensor:
    """Returns features from which a linear probe tells the classes."""
    noise = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    return torch.cat([10.0 * F.one_hot(LABELS, 3), 0.1 * noise], 1)


def noise(seed: int = 1) -> Tensor:
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(seed))


def samples(labels: Tensor = LABELS, **of_layers: Tensor) -> Samples:
    return Samples(
        fingerprints=torch.arange(len(labels)),
        labels=labels,
        predictions=None,
        pixels=None,
        ranges=None,
        features={},
        probed=of_layers,
        probed_labels=labels,
    )


def seen(curves: ProbeCurves, given: Samples, step: int = 0, **known) -> Report:
    items = tuple(curves.items(Snapshot(step=step, **known), given))
    (report,) = transfer([Report(step=step, items=items)])
    return report


def scalars(report: Report) -> dict[str, float]:
    return {item.tag.removeprefix("probe_accuracy/"): item.value for item in report.of(Scalar)}


def facts(report: Report) -> dict:
    (picture,) = report.of(Image)
    return picture.draw.keywords


def test_each_depth_has_the_accuracy_of_its_own_probe():
    report = seen(ProbeCurves(writes_all=True), samples(first=noise(), last=separable()))
    assert scalars(report)["last"] == 1.0
    assert scalars(report)["first"] < 0.7
    (picture,) = report.of(Image)
    assert picture.arrays["accuracies"].tolist() == [list(scalars(report).values())]
    assert picture.draw(**picture.arrays).dtype == np.uint8


def test_the_last_layer_alone_is_written_where_nobody_named_layers():
    report = seen(ProbeCurves(writes_all=False), samples(first=noise(), last=separable()))
    assert scalars(report) == {"last": 1.0}
    assert facts(report)["layers"] == ["first", "last"]


def test_guessing_is_the_share_of_the_largest_class():
    labels = torch.where(torch.arange(N) < 18, 5, LABELS)  # classes 0, 1 and 2: four each
    assert facts(seen(ProbeCurves(writes_all=True), samples(labels, fc=noise())))["chance"] == 0.6


def test_samples_without_a_class_are_left_out():
    is_known = torch.arange(N) % 2 == 0
    labels = torch.where(is_known, LABELS, -1)
    features = torch.where(is_known[:, None], separable(), 1_000.0)  # which would spoil any fit
    report = seen(ProbeCurves(writes_all=True), samples(labels, fc=features))
    assert scalars(report) == {"fc": 1.0}
    assert facts(report)["num_samples"] == 15


@pytest.mark.parametrize(
    "given",
    [
        samples(),  # no layer
        samples(LABELS[:7], fc=separable()[:7]),
        samples(torch.where(torch.arange(N) < 7, LABELS, -1), fc=separable()),
        samples(torch.full((N,), 4), fc=separable()),
        samples(torch.full((N,), -1), fc=separable()),
    ],
)
def test_too_few_samples_and_a_single_class_fit_nothing(given):
    curves = ProbeCurves(writes_all=True)
    assert seen(curves, given).items == ()
    assert curves.state()["curves"] == []


def test_features_that_are_not_finite_cost_their_own_layer_its_probe():
    broken = separable()
    broken[3, 2] = float("inf")
    report = seen(ProbeCurves(writes_all=True), samples(broken=broken, whole=separable()))
    assert math.isnan(scalars(report)["broken"])
    assert scalars(report)["whole"] == 1.0


def test_a_layer_is_described_by_its_units():
    trace = tuple(
        LayerInfo(name=name, kind="relu", shape=(1, units), num_units=units)
        for name, units in (("wide", 1_000), ("narrow", 64))
    )
    given = samples(wide=noise(), narrow=noise(), unknown=noise())
    report = seen(ProbeCurves(writes_all=True), given, trace=trace)
    assert facts(report)["layers"] == [
        "wide (512 random sums of 1,000 units)",
        "narrow (64 units)",
        "unknown",
    ]


# -- over the training


def test_the_first_curve_and_the_latest_stay_and_four_at_most():
    curves = ProbeCurves(writes_all=True)
    for step in range(0, 100, 5):
        report = seen(curves, samples(fc=noise(step)), step)
    steps = facts(report)["steps"]
    assert len(steps) == 4
    assert (steps[0], steps[-1]) == (0, 95)


def test_other_layers_begin_anew():
    curves = ProbeCurves(writes_all=True)
    seen(curves, samples(a=noise()), 0)
    report = seen(curves, samples(a=noise(), b=noise()), 5)
    assert facts(report)["steps"] == [5]


def test_an_evaluation_beside_the_training_stands_alone_and_leaves_no_curve():
    curves = ProbeCurves(writes_all=True)
    seen(curves, samples(fc=noise()), 0)
    report = seen(curves, samples(fc=separable()), 5, stage="test")
    assert facts(report)["steps"] == [5]
    assert [step for step, _ in curves.state()["curves"]] == [0]


def test_a_snapshot_for_numbers_only_keeps_its_curve_for_the_next_picture():
    curves = ProbeCurves(writes_all=True)
    assert not seen(curves, samples(fc=noise()), 0, wants_pictures=False).of(Image)
    assert facts(seen(curves, samples(fc=noise()), 5))["steps"] == [0, 5]


def test_its_state_is_plain_and_goes_on_where_it_was():
    curves, other = ProbeCurves(writes_all=True), ProbeCurves(writes_all=True)
    for step in (0, 5):
        seen(curves, samples(fc=noise(step)), step)
    require_plain(curves.state(), "state")
    other.restore(curves.state())
    one, two = (seen(each, samples(fc=separable()), 10) for each in (curves, other))
    assert facts(two)["steps"] == [0, 5, 10]
    for arrays in zip(*(report.of(Image)[0].arrays.values() for report in (one, two)), strict=True):
        assert np.array_equal(*arrays, equal_nan=True)


# -- the network itself


def own_accuracy(**changes) -> float:
    given = replace(samples(fc=noise()), **changes)
    (picture,) = seen(ProbeCurves(writes_all=True), given).of(Image)
    assert picture.draw(**picture.arrays).dtype == np.uint8
    return float(picture.arrays["network"])


def test_the_networks_own_accuracy_is_that_on_the_samples_whose_class_is_known():
    predictions = LABELS.clone()
    predictions[:6] = (LABELS[:6] + 1) % 3
    labels = LABELS.clone()
    labels[:3] = -1
    assert own_accuracy(predictions=predictions) == pytest.approx(24 / 30)
    known = own_accuracy(predictions=predictions, labels=labels, probed_labels=labels)
    assert known == pytest.approx(24 / 27)


@pytest.mark.parametrize(
    "changes",
    [
        {"predictions": None},
        {"predictions": torch.full((N,), -1)},
        {"predictions": torch.zeros(N + 1), "labels": torch.zeros(N + 1)},  # others were probed
    ],
)
def test_what_is_not_known_of_the_network_is_nan(changes):
    assert math.isnan(own_accuracy(**changes))
