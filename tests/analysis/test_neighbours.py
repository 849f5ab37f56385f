from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness as of_scikit_learn
from torch import Tensor

from vis_callbacks.analysis import neighbours as module
from vis_callbacks.analysis.neighbours import (
    class_agreement,
    nearest,
    neighbour_recall,
    squared_distances,
    trustworthiness,
)


def gaussian(num_points: int, num_dimensions: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_points, num_dimensions, generator=generator, dtype=torch.float64)


def test_squared_distances_are_those_of_the_differences():
    points = 1e3 + gaussian(30)
    expected = (points[:, None] - points).square().sum(2)
    torch.testing.assert_close(squared_distances(points.float()), expected, rtol=1e-3, atol=1e-6)
    # Far from 0 the products cancel, unless the mean is taken off first.
    torch.testing.assert_close(squared_distances(points), expected, rtol=1e-9, atol=1e-9)


def test_no_point_is_its_own_neighbour_even_among_equals():
    points = torch.zeros(6, 2)
    assert (nearest(squared_distances(points), 5) != torch.arange(6)[:, None]).all()


@pytest.mark.parametrize("num_neighbours", [1, 5, 20])
def test_trustworthiness_is_that_of_scikit_learn(num_neighbours):
    features, points = gaussian(80, 10), gaussian(80, 2, seed=1)
    found = trustworthiness(squared_distances(features), points, num_neighbours)
    expected = of_scikit_learn(features.numpy(), points.numpy(), n_neighbors=num_neighbours)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_trustworthiness_does_not_depend_on_the_size_of_a_chunk(monkeypatch):
    features, points = gaussian(50, 10), gaussian(50, 2, seed=1)
    whole = trustworthiness(squared_distances(features), points)
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 1_000)
    assert trustworthiness(squared_distances(features), points) == whole


def test_a_map_that_is_the_features_is_fully_trusted():
    points = gaussian(30, 2)
    distances = squared_distances(points)
    assert trustworthiness(distances, points) == 1.0
    assert neighbour_recall(distances, points) == 1.0


def test_classes_that_lie_apart_agree_fully_even_where_they_are_small():
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 2)
    points = gaussian(25) + 100 * labels[:, None]
    assert class_agreement(squared_distances(points), labels) == 1.0


def test_a_class_of_one_sample_does_not_count():
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    points = gaussian(21) + 100 * labels[:, None]
    assert class_agreement(squared_distances(points), labels) == 1.0
    assert class_agreement(squared_distances(gaussian(4)), torch.arange(4)).isnan()


def test_random_classes_agree_as_often_as_chance_has_it():
    labels = torch.arange(2000) % 4
    agreement = class_agreement(squared_distances(gaussian(2000)), labels)
    # 20,000 neighbours: a standard deviation of about .003, and some more as they are shared.
    assert float(agreement) == pytest.approx(499 / 1999, abs=0.015)


def test_agreement_is_that_of_a_loop_over_the_samples():
    points, labels = gaussian(60), torch.arange(60) % 7 % 4
    shares = []
    order = squared_distances(points).fill_diagonal_(np.inf).argsort(1)
    for place, label in enumerate(labels.tolist()):
        count = min(10, int((labels == label).sum()) - 1)
        found = labels[order[place, :count]] == label
        shares.append(found.double().mean().item())
    agreement = class_agreement(squared_distances(points), labels)
    assert float(agreement) == pytest.approx(np.mean(shares), abs=1e-12)


def test_recall_counts_the_true_neighbours_that_are_found():
    line = torch.arange(12.0)[:, None]
    shifted = torch.cat([line, torch.zeros(12, 1)], 1)
    shifted[6:] += 1000  # six points each: two thirds of the nearest ten are of the other side
    assert neighbour_recall(squared_distances(line), shifted, 5) > 0.5
    assert neighbour_recall(squared_distances(line), gaussian(12, 2), 11) == 1.0
