from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from vis_callbacks.monitors.embedding.science import (
    Cloud,
    aligned,
    class_agreement,
    clouds_of,
    displacement,
    principal_components,
    spread,
    squared_distances,
    trustworthiness,
)


def gaussian(num_samples: int, num_dimensions: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, num_dimensions, generator=generator, dtype=torch.float64)


def cloud_of(features: Tensor, labels: np.ndarray | None = None) -> Cloud:
    labels = np.full(len(features), -1) if labels is None else labels
    (cloud,) = clouds_of({"fc": features}, labels)
    return cloud


# -- the shape of a cloud


@pytest.mark.parametrize("num_directions", [1, 3, 7])
@pytest.mark.parametrize("num_dimensions", [8, 500])
def test_k_equal_directions_have_the_effective_rank_k(num_directions, num_dimensions):
    basis = torch.linalg.qr(gaussian(num_dimensions, num_directions)).Q
    axes = torch.linalg.qr(gaussian(100, num_directions, seed=1)).Q
    axes = torch.linalg.qr(axes - axes.mean(0)).Q  # centred, so that none is lost
    features = 5 + axes @ basis.T
    assert cloud_of(features).effective_rank == pytest.approx(num_directions, rel=1e-6)


def test_classes_that_have_become_points_leave_one_direction_less_than_classes():
    corners = torch.eye(6, dtype=torch.float64)[torch.arange(60) % 6]
    assert cloud_of(corners).effective_rank == pytest.approx(5, rel=1e-9)


def test_a_cloud_without_an_obstacle_has_none():
    cloud = cloud_of(gaussian(50, 8).float())
    assert (cloud.obstacle, len(cloud.places), cloud.num_places) == (None, 50, 50)
    assert cloud.num_directions == 8


def test_the_spread_is_that_around_the_mean_over_the_size():
    features = 2 + gaussian(30)
    expected = (features - features.mean(0)).square().sum().sqrt() / features.square().sum().sqrt()
    assert cloud_of(features).spread == pytest.approx(float(expected))


@pytest.mark.parametrize("value", [0.0, 1e-30, 3e7])
def test_equal_features_are_an_obstacle_whatever_their_value(value):
    cloud = cloud_of(torch.full((60, 9), value) * torch.linspace(1, 2, 9))
    assert cloud.obstacle == "equal"
    assert cloud.effective_rank == 0


def test_features_that_differ_by_rounding_alone_are_equal():
    features = torch.full((60, 9), 0.1)
    features += 1e-8 * gaussian(60, 9).float()
    assert features.unique().numel() > 1
    assert cloud_of(features).obstacle == "equal"


def test_few_different_features_are_an_obstacle():
    cloud = cloud_of(gaussian(3, 8).float()[torch.arange(60) % 3])
    assert (cloud.obstacle, cloud.num_places) == ("few places", 3)
    assert cloud_of(gaussian(4, 8).float()[torch.arange(60) % 4]).obstacle is None


@pytest.mark.parametrize("num_samples", [0, 1, 3])
def test_fewer_than_four_samples_are_an_obstacle(num_samples):
    assert cloud_of(gaussian(num_samples)).obstacle == "too few"


def test_features_on_a_line_are_recognised():
    line = torch.linspace(-1, 1, 40)[:, None] * torch.arange(1.0, 6.0) + 3
    assert cloud_of(line.double()).num_directions == 1
    assert cloud_of(torch.linspace(0, 1, 40)[:, None]).num_directions == 1
    assert cloud_of(gaussian(40, 2)).num_directions == 2


def test_the_same_sample_in_two_places_of_a_batch_is_one_place():
    features = gaussian(40, 64).float()
    features[17] = features[3]
    assert cloud_of(features).num_places == 39


def test_each_layer_has_its_own_samples_that_are_not_finite():
    first, second = gaussian(12), gaussian(12)
    first[[0, 7], 1], second[5, 0] = torch.nan, torch.inf
    one, two = clouds_of({"first": first, "second": second}, np.arange(12) % 3)
    assert (one.layer, two.layer) == ("first", "second")
    kept = [place for place in range(12) if place not in (0, 7)]
    assert one.places.tolist() == kept
    assert torch.equal(one.features, first[kept])
    torch.testing.assert_close(one.distances, squared_distances(first[kept]))
    assert one.agreement == float(class_agreement(one.distances, (np.arange(12) % 3)[kept]))
    assert len(two.places) == 11


def test_squared_distances_are_those_of_the_differences():
    points = 1e3 + gaussian(30)
    expected = (points[:, None] - points).square().sum(2)
    torch.testing.assert_close(squared_distances(points.float()), expected, rtol=1e-3, atol=1e-6)
    # Far from 0 the products cancel, unless the mean is taken off first.
    torch.testing.assert_close(squared_distances(points), expected, rtol=1e-9, atol=1e-9)


# -- principal components


@pytest.mark.parametrize("num_dimensions", [6, 90])
def test_principal_components_are_those_of_scikit_learn_but_for_their_sign(num_dimensions):
    features = gaussian(40, num_dimensions) * torch.linspace(3, 1, num_dimensions) + 7
    found = principal_components(features)
    expected = torch.from_numpy(PCA(2, svd_solver="full").fit_transform(features.numpy()).copy())
    expected *= (found * expected).sum(0).sign()
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_the_longest_coordinate_of_a_component_is_positive():
    features = gaussian(40, 6)
    for points in (principal_components(features), principal_components(-features)):
        assert (points.gather(0, points.abs().argmax(0, keepdim=True)) > 0).all()


def test_a_direction_that_is_not_there_is_0():
    line = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    assert principal_components(line)[:, 1].abs().max() == 0
    assert principal_components(line * torch.ones(5, dtype=torch.float64))[:, 1].abs().max() == 0


# -- neighbours


def test_a_map_that_is_the_features_is_fully_trusted_and_another_one_is_not():
    points = gaussian(30, 2)
    assert trustworthiness(squared_distances(points), points.numpy()) == 1.0
    assert trustworthiness(squared_distances(gaussian(30, 2, seed=1)), points.numpy()) < 0.7


@pytest.mark.parametrize("num_points", [4, 5, 9])
def test_a_handful_of_points_has_a_trustworthiness(num_points):
    points = gaussian(num_points, 2)
    assert trustworthiness(squared_distances(points), points.numpy()) == 1.0


def two_groups() -> Tensor:
    return squared_distances(torch.tensor([0.0, 0.1, 0.2, 9.0, 9.1, 9.2])[:, None])


def test_classes_that_lie_apart_agree_fully_even_where_they_are_small():
    labels = np.array([0] * 20 + [1] * 3 + [2] * 2 + [3])  # and a class of one does not count
    points = gaussian(26) + 100 * torch.from_numpy(labels)[:, None]
    assert class_agreement(squared_distances(points), labels) == 1.0
    assert class_agreement(two_groups(), np.array([0, 1, 0, 1, 0, 1])) < 0.5


def test_samples_without_a_class_are_no_neighbours():
    assert class_agreement(two_groups(), np.array([0, -1, 0, 1, -1, 1])) == 1


@pytest.mark.parametrize("labels", [[3] * 6, [-1] * 6, [0, 1, 2, 3, 4, 5], [0, -1, 1, -1, 2, -1]])
def test_one_class_and_classes_of_one_have_no_agreement(labels):
    assert class_agreement(two_groups(), np.array(labels)).isnan()


def test_random_classes_agree_as_often_as_chance_has_it():
    agreement = class_agreement(squared_distances(gaussian(2000)), np.arange(2000) % 4)
    # 20,000 neighbours: a standard deviation of about .003, and some more as they are shared.
    assert float(agreement) == pytest.approx(499 / 1999, abs=0.015)


def test_agreement_is_that_of_a_loop_over_the_samples():
    points, labels = gaussian(60), np.arange(60) % 7 % 4
    shares = []
    order = squared_distances(points).fill_diagonal_(np.inf).argsort(1)
    for place, label in enumerate(labels):
        count = min(10, int((labels == label).sum()) - 1)
        shares.append((labels[order[place, :count]] == label).mean())
    agreement = class_agreement(squared_distances(points), labels)
    assert float(agreement) == pytest.approx(np.mean(shares), abs=1e-12)


# -- a map laid on another one


def turn_by(angle: float, *, mirrored: bool = False) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])


EVERYWHERE = np.full(40, True)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0.7, math.pi, 5.0])
def test_a_copy_that_was_turned_mirrored_and_moved_comes_back(angle, mirrored):
    before = gaussian(40, 2).numpy()
    copy = before @ turn_by(angle, mirrored=mirrored) + (3.0, -8.0)
    assert displacement(copy, before) > 0.1
    assert displacement(aligned(copy, before, EVERYWHERE), before) < 1e-12


def test_nothing_is_scaled():
    before = gaussian(40, 2).numpy()
    assert spread(aligned(2 * before, before, EVERYWHERE)) == pytest.approx(2 * spread(before))


def test_only_shared_points_decide_and_all_are_turned():
    before = gaussian(40, 2).numpy()
    unknown = before.copy()
    unknown[30:] = np.nan
    found = aligned(before @ turn_by(1.0), unknown, np.arange(40) < 30)
    np.testing.assert_allclose(found, before, rtol=1e-10, atol=1e-10)


def test_points_in_one_place_stay_there():
    nowhere = np.ones((40, 2), np.float32)
    assert np.array_equal(aligned(nowhere, nowhere, EVERYWHERE), nowhere)
    assert displacement(nowhere, nowhere) == 0


def test_displacement_is_in_units_of_the_spread():
    circle = np.array([[math.cos(angle), math.sin(angle)] for angle in range(100)])
    circle -= circle.mean(0)
    assert displacement(circle + np.array([0.3, 0.4]), circle) == pytest.approx(
        0.5 / spread(circle)
    )
