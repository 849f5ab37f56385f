from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from vis_callbacks.analysis.embedding import (
    CloudShape,
    cloud_numbers,
    effective_rank,
    finite_rows,
    principal_components,
)
from vis_callbacks.analysis.neighbours import squared_distances


def gaussian(num_samples: int, num_dimensions: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, num_dimensions, generator=generator, dtype=torch.float64)


def shape_of(features: Tensor) -> CloudShape:
    return CloudShape.of_numbers(cloud_numbers(features, squared_distances(features)).tolist())


@pytest.mark.parametrize("num_directions", [1, 3, 7])
@pytest.mark.parametrize("num_dimensions", [8, 500])
def test_k_equal_directions_have_the_effective_rank_k(num_directions, num_dimensions):
    basis = torch.linalg.qr(gaussian(num_dimensions, num_directions)).Q
    axes = torch.linalg.qr(gaussian(100, num_directions, seed=1)).Q
    axes = torch.linalg.qr(axes - axes.mean(0)).Q  # centred, so that none is lost
    features = 5 + axes @ basis.T
    assert float(effective_rank(features)) == pytest.approx(num_directions, rel=1e-6)


def test_classes_that_have_become_points_leave_one_direction_less_than_classes():
    corners = torch.eye(6, dtype=torch.float64)[torch.arange(60) % 6]
    assert float(effective_rank(corners)) == pytest.approx(5, rel=1e-9)


def test_a_cloud_without_an_obstacle_has_none():
    shape = shape_of(gaussian(50, 8).float())
    assert (shape.obstacle, shape.num_samples, shape.num_places) == (None, 50, 50)
    assert not shape.is_line
    assert shape.effective_rank == pytest.approx(float(effective_rank(gaussian(50, 8).float())))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 3e7])
def test_equal_features_are_an_obstacle_whatever_their_value(value):
    features = torch.full((60, 9), value) * torch.linspace(1, 2, 9)
    shape = shape_of(features)
    assert shape.obstacle == "equal"
    assert shape.effective_rank == 0


def test_features_that_differ_by_rounding_alone_are_equal():
    features = torch.full((60, 9), 0.1)
    features += 1e-8 * gaussian(60, 9).float()
    assert features.unique().numel() > 1
    assert shape_of(features).obstacle == "equal"


def test_few_different_features_are_an_obstacle():
    shape = shape_of(gaussian(3, 8).float()[torch.arange(60) % 3])
    assert (shape.obstacle, shape.num_places) == ("few places", 3)
    assert shape_of(gaussian(4, 8).float()[torch.arange(60) % 4]).obstacle is None


@pytest.mark.parametrize("num_samples", [0, 1, 2, 3])
def test_fewer_than_four_samples_are_an_obstacle(num_samples):
    assert shape_of(gaussian(num_samples, 5)).obstacle == "too few"


def test_features_on_a_line_are_recognised():
    line = torch.linspace(-1, 1, 40)[:, None] * torch.arange(1.0, 6.0) + 3
    assert shape_of(line.double()).is_line
    assert shape_of(torch.linspace(0, 1, 40)[:, None]).is_line
    assert not shape_of(gaussian(40, 2)).is_line


def test_the_same_sample_in_two_places_of_a_batch_is_one_place():
    features = gaussian(40, 64).float()
    features[17] = features[3]
    assert shape_of(features).num_places == 39


def test_rows_with_a_nan_or_an_infinity_are_told():
    features = torch.zeros(4, 3)
    features[1, 2], features[3, 0] = torch.nan, torch.inf
    assert finite_rows(features).tolist() == [True, False, True, False]


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
