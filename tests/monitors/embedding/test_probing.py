from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.engine.probe import LayerInfo
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitors.embedding import probing
from vis_callbacks.monitors.embedding.probing import ProbeCurves, probe_accuracy
from vis_callbacks.monitors.embedding.samples import Samples
from vis_callbacks.observer import require_plain
from vis_callbacks.report import Picture, Report, Scalar, transfer

pytestmark = pytest.mark.filterwarnings("ignore:lbfgs failed to converge")

# -- one layer


def gaussian(num_samples: int, num_dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_samples, num_dimensions))


def digits(num_samples: int = 500) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.data[:num_samples] / 16, data.target[:num_samples]


def iris() -> tuple[np.ndarray, np.ndarray]:
    data = load_iris()
    return data.data, data.target


def in_a_row() -> tuple[np.ndarray, np.ndarray]:
    """Returns three classes that lie one behind the other along one feature."""
    labels = np.arange(300) % 3
    return labels[:, None] + 0.1 * gaussian(300, 1), labels


@cache
def narrow_network() -> tuple[np.ndarray, np.ndarray, float]:
    """Returns two units after a ReLU, the labels, and what the network's last layer reaches."""
    images, labels = (torch.from_numpy(part) for part in digits(1_700))
    images = images.float()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2), nn.ReLU())
        head = nn.Linear(2, 10)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-2)
        for _ in range(30):
            for batch in torch.randperm(1_200).split(64):
                optimizer.zero_grad()
                F.cross_entropy(head(body(images[batch])), labels[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        features = body(images[1_200:1_700])
        own = (head(features).argmax(1) == labels[1_200:1_700]).double().mean()
    return features.numpy(), labels[1_200:1_700].numpy(), float(own)


def of_scikit_learn(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the best accuracy of its cross-validated logistic regressions."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return max(
        cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)),
            features,
            labels,
            cv=folds,
        ).mean()
        for c in (1.0, 100.0)
    )


@pytest.mark.parametrize(
    "data",
    [iris, in_a_row, digits, lambda: narrow_network()[:2]],
    ids=["iris", "three classes in a row", "digits", "digits through two units"],
)
def test_the_accuracy_is_that_of_the_best_cross_validated_logistic_regression(data):
    assert probe_accuracy(*data()) == pytest.approx(of_scikit_learn(*data()), abs=0.02)


def test_a_narrow_layer_is_not_slandered_against_the_network_s_own_last_layer():
    features, labels, own = narrow_network()
    error = (own * (1 - own) / len(labels)) ** 0.5
    assert 0.5 < own < 0.9
    assert probe_accuracy(features, labels) > own - error


def test_the_middle_one_of_three_classes_in_a_row_is_named():
    assert probe_accuracy(*in_a_row()) == 1.0


def test_classes_on_separate_axes_are_told_apart_and_noise_is_not():
    labels = np.arange(300) % 3
    apart = 8 * np.eye(20)[labels] + gaussian(300, 20)
    assert probe_accuracy(apart, labels) == 1.0
    assert probe_accuracy(gaussian(300, 20), labels) == pytest.approx(1 / 3, abs=0.1)


def test_more_dimensions_than_samples_are_no_way_to_learn_by_heart():
    assert probe_accuracy(gaussian(100, 500), np.arange(100) % 2) < 0.7


@pytest.mark.parametrize("rounding", [0.0, 1e-8])
def test_features_without_variance_give_the_most_frequent_class(rounding):
    labels = np.array([0] * 70 + [1] * 30)
    features = 1 + rounding * labels[:, None] * np.ones((100, 8))
    assert probe_accuracy(features, labels) == pytest.approx(0.7)


def test_a_class_of_one_sample_is_never_named():
    labels = np.array([0] * 10 + [1] * 10 + [2])
    assert probe_accuracy(10 * np.eye(3)[labels], labels) == pytest.approx(20 / 21)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_features_does_not_matter(scale):
    features, labels = digits(200)
    expected = probe_accuracy(features, labels)
    assert 0.85 < expected < 1
    assert probe_accuracy(scale * features, labels) == pytest.approx(expected, abs=0.01)


# -- by depth

N = 30
LABELS = np.arange(N) % 3


def separable() -> Tensor:
    """Returns features from which a linear probe tells the classes."""
    return torch.cat([10.0 * torch.eye(3)[LABELS], 0.1 * noise(0)], 1)


def noise(seed: int = 1) -> Tensor:
    return torch.randn(N, 4, generator=torch.Generator().manual_seed(seed))


def samples(labels: np.ndarray = LABELS, **of_layers: Tensor) -> Samples:
    return Samples(
        fingerprints=np.arange(len(labels)),
        labels=labels,
        predictions=np.full(len(labels), -1),
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
    (picture,) = report.of(Picture)
    return picture.draw.keywords


def test_each_depth_has_the_accuracy_of_its_own_probe():
    report = seen(ProbeCurves(writes_all=True), samples(first=noise(), last=separable()))
    assert scalars(report)["last"] == 1.0
    assert scalars(report)["first"] < 0.7
    (picture,) = report.of(Picture)
    assert picture.arrays["accuracies"][0] == pytest.approx(list(scalars(report).values()))
    assert picture.draw(**picture.arrays).dtype == np.uint8


def test_the_last_layer_alone_is_written_where_nobody_named_layers():
    report = seen(ProbeCurves(writes_all=False), samples(first=noise(), last=separable()))
    assert scalars(report) == {"last": 1.0}
    assert facts(report)["layers"] == ["first", "last"]


def test_guessing_is_the_share_of_the_largest_class():
    labels = np.where(np.arange(N) < 18, 5, LABELS)  # classes 0, 1 and 2: four each
    assert facts(seen(ProbeCurves(writes_all=True), samples(labels, fc=noise())))["chance"] == 0.6


def test_samples_without_a_class_are_left_out():
    is_known = np.arange(N) % 2 == 0
    labels = np.where(is_known, LABELS, -1)
    features = torch.where(
        torch.from_numpy(is_known)[:, None], separable(), 1_000.0
    )  # which would spoil any fit
    report = seen(ProbeCurves(writes_all=True), samples(labels, fc=features))
    assert scalars(report) == {"fc": 1.0}
    assert facts(report)["num_samples"] == 15


@pytest.mark.parametrize(
    "given",
    [
        samples(),  # no layer
        samples(LABELS[:7], fc=separable()[:7]),
        samples(np.where(np.arange(N) < 7, LABELS, -1), fc=separable()),
        samples(np.full(N, 4), fc=separable()),
        samples(np.full(N, -1), fc=separable()),
        samples(np.where(np.arange(N) == 3, 1, 0), fc=separable()),  # a class of one sample
    ],
)
def test_too_few_samples_and_a_single_class_fit_nothing(given):
    curves = ProbeCurves(writes_all=True)
    assert seen(curves, given).items == ()
    assert curves.state_dict()["curves"]["steps"] == []


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
    for step in range(0, 30, 5):
        report = seen(curves, samples(fc=noise(step)), step)
    steps = facts(report)["steps"]
    assert len(steps) == 4
    assert (steps[0], steps[-1]) == (0, 25)


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
    assert curves.state_dict()["curves"]["steps"] == [0]


def test_a_snapshot_for_numbers_only_keeps_its_curve_for_the_next_picture():
    curves = ProbeCurves(writes_all=True)
    assert not seen(curves, samples(fc=noise()), 0, wants_pictures=False).of(Picture)
    assert facts(seen(curves, samples(fc=noise()), 5))["steps"] == [0, 5]


def test_its_state_is_plain_and_goes_on_where_it_was():
    curves, other = ProbeCurves(writes_all=True), ProbeCurves(writes_all=True)
    for step in (0, 5):
        seen(curves, samples(fc=noise(step)), step)
    require_plain(curves.state_dict(), "state")
    other.load_state_dict(curves.state_dict())
    one, two = (seen(each, samples(fc=separable()), 10) for each in (curves, other))
    assert facts(two)["steps"] == [0, 5, 10]
    for arrays in zip(
        *(report.of(Picture)[0].arrays.values() for report in (one, two)), strict=True
    ):
        assert np.array_equal(*arrays, equal_nan=True)


def numbers_of_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info()}


def test_probes_are_fitted_by_one_thread_and_the_run_keeps_its_own(monkeypatch):
    meanwhile = []

    def watching(*args):
        meanwhile.append(numbers_of_threads())
        return probe_accuracy(*args)

    monkeypatch.setattr(probing, "probe_accuracy", watching)
    before = torch.get_num_threads()
    with threadpool_limits(2):
        seen(ProbeCurves(writes_all=True), samples(fc=noise()))
        assert meanwhile == [{1}]
        assert numbers_of_threads() == {2}
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


# -- the network itself


def own_accuracy(**changes) -> float:
    given = replace(samples(fc=noise()), **changes)
    (picture,) = seen(ProbeCurves(writes_all=True), given).of(Picture)
    assert picture.draw(**picture.arrays).dtype == np.uint8
    return picture.draw.keywords["network"]


def test_the_networks_own_accuracy_is_that_on_the_samples_whose_class_is_known():
    predictions = LABELS.copy()
    predictions[:6] = (LABELS[:6] + 1) % 3
    labels = LABELS.copy()
    labels[:3] = -1
    assert own_accuracy(predictions=predictions) == pytest.approx(24 / 30)
    known = own_accuracy(predictions=predictions, labels=labels, probed_labels=labels)
    assert known == pytest.approx(24 / 27)


@pytest.mark.parametrize(
    "changes",
    [
        {"predictions": np.full(N, -1)},
        {"predictions": np.zeros(N + 1), "labels": np.zeros(N + 1)},  # others were probed
    ],
)
def test_what_is_not_known_of_the_network_is_nan(changes):
    assert math.isnan(own_accuracy(**changes))
