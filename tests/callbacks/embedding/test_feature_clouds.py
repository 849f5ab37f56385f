from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.neighbours import squared_distances
from vis_callbacks.callbacks.embedding.collected_samples import Samples
from vis_callbacks.callbacks.embedding.feature_clouds import (
    Facts,
    agreement_of,
    cloud_items,
    clouds_of,
)
from vis_callbacks.report import Report, Scalar, transfer

N = 12


def features(seed: int = 0, num_samples: int = N) -> Tensor:
    return torch.randn(num_samples, 5, generator=torch.Generator().manual_seed(seed))


def samples(
    labels: list[int] | None = None, predictions: list[int] | None = None, **of_layers: Tensor
) -> Samples:
    layers = of_layers or {"fc": features()}
    count = len(next(iter(layers.values())))
    known = torch.tensor([i % 3 for i in range(count)] if labels is None else labels)
    return Samples(
        fingerprints=torch.arange(count) + 7,
        labels=known,
        predictions=None if predictions is None else torch.tensor(predictions),
        pixels=None,
        ranges=None,
        features=layers,
        probed={},
        probed_labels=known,
    )


def report_of(given: Samples) -> Report:
    facts = Facts.of(given)
    items = tuple(cloud_items(clouds_of(given, facts), facts))
    (report,) = transfer([Report(step=0, items=items)])
    return report


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


# -- what is known of the samples


def test_a_sample_is_wrong_where_label_and_prediction_are_known_and_differ():
    facts = Facts.of(samples([0, 0, -1, 1], [0, 1, 1, -1], fc=features(num_samples=4)))
    assert facts.is_wrong.tolist() == [False, True, False, False]


def test_without_predictions_nothing_is_wrong():
    facts = Facts.of(samples())
    assert facts.predictions.tolist() == [-1] * N
    assert not facts.is_wrong.any()
    assert facts.fingerprints.tolist() == list(range(7, 7 + N))


def test_each_layer_has_its_own_samples_that_are_not_finite():
    first, second = features(), features()
    first[2, 1], second[5, 0] = float("nan"), float("inf")
    facts = Facts.of(samples(first=first, second=second))
    assert np.flatnonzero(~facts.is_finite["first"]).tolist() == [2]
    assert np.flatnonzero(~facts.is_finite["second"]).tolist() == [5]


# -- clouds


def test_a_cloud_holds_the_finite_rows_and_knows_their_places():
    broken = features()
    broken[[0, 7]] = float("nan")
    given = samples(fc=broken)
    (cloud,) = clouds_of(given, Facts.of(given))
    kept = [place for place in range(N) if place not in (0, 7)]
    assert cloud.places.tolist() == kept
    assert torch.equal(cloud.features, broken[kept])
    torch.testing.assert_close(cloud.distances, squared_distances(broken[kept]))
    assert cloud.shape.num_samples == N - 2


def test_the_shape_is_that_of_each_layer_in_its_order():
    line = torch.linspace(0, 1, N)[:, None] * torch.ones(5)
    given = samples(wide=10 * torch.eye(N), line=line, equal=torch.ones(N, 3))
    wide, flat, equal = clouds_of(given, Facts.of(given))
    assert (wide.layer, flat.layer, equal.layer) == ("wide", "line", "equal")
    assert wide.shape.effective_rank == pytest.approx(N - 1)  # N equal directions, centred
    assert flat.shape.is_line
    assert flat.shape.effective_rank == pytest.approx(1)
    assert equal.shape.obstacle == "equal"


# -- agreement


def two_groups() -> Tensor:
    return squared_distances(torch.tensor([0.0, 0.1, 0.2, 9.0, 9.1, 9.2])[:, None])


def test_classes_that_lie_apart_agree_and_mixed_ones_do_not():
    assert float(agreement_of(two_groups(), np.array([0, 0, 0, 1, 1, 1]))) == 1
    assert float(agreement_of(two_groups(), np.array([0, 1, 0, 1, 0, 1]))) < 0.5


def test_samples_without_a_class_are_nobodys_neighbours():
    labels = np.array([0, -1, 0, 1, -1, 1])
    assert float(agreement_of(two_groups(), labels)) == 1


@pytest.mark.parametrize("labels", [[3] * 6, [-1] * 6, [0, 1, 2, 3, 4, 5], [0, -1, 1, -1, 2, -1]])
def test_one_class_and_classes_of_one_have_no_agreement(labels):
    assert math.isnan(agreement_of(two_groups(), np.array(labels)))


# -- numbers


def test_the_rules_learn_of_every_layer_and_loggers_of_what_can_be_said():
    broken = features(1)
    broken[0] = float("nan")
    report = report_of(samples(first=features(), second=broken))
    found = report.readings()
    assert list(found[readings.EFFECTIVE_RANK]) == ["first", "second"]
    assert found[readings.NUM_EMBEDDED] == {"": N - 1}  # of the layer that has fewest
    assert found[readings.NUM_CLASSES] == {"": 3}
    centred = features() - features().mean(0)
    spread = float(centred.square().sum().sqrt() / features().square().sum().sqrt())
    assert found[readings.FEATURE_SPREAD]["first"] == pytest.approx(spread)
    assert list(scalars(report)) == [
        "effective_rank/first",
        "class_agreement/first",
        "effective_rank/second",
        "class_agreement/second",
    ]
    assert scalars(report)["effective_rank/first"] == found[readings.EFFECTIVE_RANK]["first"]


def test_with_one_class_no_agreement_is_written():
    report = report_of(samples([1] * N))
    assert list(scalars(report)) == ["effective_rank/fc"]
    assert math.isnan(report.readings()[readings.CLASS_AGREEMENT]["fc"])
