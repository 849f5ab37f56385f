from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.manifold import _utils as sklearn_utils
from torch import Tensor

from vis_callbacks.analysis import tsne as module
from vis_callbacks.analysis.embedding import principal_components
from vis_callbacks.analysis.neighbours import neighbour_recall, squared_distances, trustworthiness
from vis_callbacks.analysis.tsne import (
    COLD,
    WARM,
    Descent,
    as_start,
    conditional_probabilities,
    fitting_perplexity,
    joint_probabilities,
    kl_divergence,
    kl_gradient,
    tsne,
)

A_FEW = Descent(num_exaggerated=5, num_plain=10)


def digits(num_samples: int) -> Tensor:
    return torch.from_numpy(load_digits().data[:num_samples])


def gaussian(num_points: int, num_dimensions: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_points, num_dimensions, generator=generator, dtype=torch.float64)


def entropies(conditional: Tensor) -> Tensor:
    return torch.special.entr(conditional).sum(1)


def test_the_gradient_is_that_of_autograd():
    similarities = joint_probabilities(squared_distances(gaussian(40)), 5.0).double()
    similarities /= similarities.sum()  # float32 left 1e-9 of it
    points = gaussian(40, 2, seed=1).requires_grad_()
    (expected,) = torch.autograd.grad(kl_divergence(similarities, points), points)
    found = kl_gradient(similarities, points.detach())
    # float64; what is left comes from adding up in another order.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_the_exaggerated_gradient_is_that_of_the_exaggerated_similarities():
    similarities = joint_probabilities(squared_distances(gaussian(30)), 5.0).double()
    points = gaussian(30, 2, seed=1)
    difference = kl_gradient(12 * similarities, points) - kl_gradient(similarities, points, 12.0)
    assert difference.abs().max() < 1e-14


def test_the_gradient_does_not_depend_on_the_size_of_a_block(monkeypatch):
    similarities = joint_probabilities(squared_distances(gaussian(50)), 5.0).double()
    points = gaussian(50, 2, seed=1)
    whole = kl_gradient(similarities, points)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 350)  # seven rows: the last block is shorter
    torch.testing.assert_close(kl_gradient(similarities, points), whole, rtol=1e-12, atol=1e-16)


def test_the_divergence_of_a_map_that_has_its_own_similarities_is_0():
    points = gaussian(20, 2)
    weights = 1 / (1 + squared_distances(points))
    weights.fill_diagonal_(0)
    assert abs(kl_divergence(weights / weights.sum(), points)) < 1e-12


@pytest.mark.parametrize("perplexity", [2.0, 5.0, 30.0, 100.0])
def test_every_row_has_the_perplexity_asked_for(perplexity):
    conditional = conditional_probabilities(squared_distances(digits(300)), perplexity)
    # Found in float32: 2 ** -24 for each of the sums and logarithms that make an entropy.
    assert (entropies(conditional).exp() / perplexity - 1).abs().max() < 1e-5
    assert conditional.diagonal().abs().max() == 0


def heavy_tails() -> Tensor:
    return gaussian(300, 2).exp() ** 4


def tight_clusters() -> Tensor:
    centres = gaussian(10, 16)
    return centres[torch.arange(300) % 10] + 1e-6 * gaussian(300, 16, seed=1)


@pytest.mark.parametrize("make", [lambda: gaussian(300, 512), heavy_tails, tight_clusters])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_perplexities_are_found_in_any_cloud_on_any_scale(make, scale):
    conditional = conditional_probabilities(squared_distances(scale * make()), 20.0)
    assert (entropies(conditional).exp() / 20 - 1).abs().max() < 1e-5


def test_the_conditional_probabilities_are_those_of_scikit_learn():
    distances = squared_distances(digits(200))
    expected = sklearn_utils._binary_search_perplexity(
        distances.numpy().astype(np.float32), 30.0, 0
    )
    found = conditional_probabilities(distances, 30.0).numpy()
    # scikit-learn stops where the entropy is right to 1e-5, and computes in float32.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_the_similarities_are_symmetric_and_add_up_to_1():
    similarities = joint_probabilities(squared_distances(digits(100)), 30.0)
    assert similarities.dtype == torch.float32
    assert torch.equal(similarities, similarities.T)
    assert similarities.double().sum() == pytest.approx(1, abs=1e-6)


def test_duplicates_share_a_row_evenly_where_they_outnumber_the_perplexity():
    points = gaussian(60)
    points[:40] = points[0]
    conditional = conditional_probabilities(squared_distances(points), 10.0)
    expected = torch.zeros(60)
    expected[1:40] = 1 / 39
    assert conditional.isfinite().all()
    torch.testing.assert_close(conditional[0], expected, rtol=0, atol=1e-8)


def test_digits_become_a_map_that_can_be_trusted():
    features = digits(400)
    distances = squared_distances(features)
    start = as_start(principal_components(features))
    points = tsne(distances, start)
    # The start alone is no such map: the claim is not one that anything would pass.
    assert trustworthiness(distances, start) < 0.9
    assert trustworthiness(distances, points) >= 0.99
    assert neighbour_recall(distances, points) >= 0.70


def test_the_same_points_give_the_same_map():
    features = digits(150)
    start = as_start(principal_components(features))
    first, second = (tsne(squared_distances(features), start, descent=A_FEW) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("num_points", [60, 90, 200])
def test_a_map_that_has_settled_hardly_moves_when_it_goes_on(num_points):
    features = digits(num_points)
    distances = squared_distances(features)
    perplexity = fitting_perplexity(30.0, num_points)
    start = as_start(principal_components(features))
    points = tsne(distances, start, perplexity=perplexity, descent=COLD)
    later = tsne(distances, points, perplexity=perplexity, descent=WARM)
    moved = torch.linalg.vector_norm(later - points, dim=1).median()
    # Rounding decides which of several resting places it comes to: on one processor 200 points
    # moved by .03 of their spread, on another by .09.
    assert moved / points.std() < 0.15


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    tsne(squared_distances(digits(50)), gaussian(50, 2), perplexity=5.0, descent=A_FEW)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_the_users_matrix_products_is_of_no_consequence(precision):
    features = digits(100)
    start = as_start(principal_components(features))
    expected = tsne(squared_distances(features), start, descent=A_FEW)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        found = tsne(squared_distances(features), start, descent=A_FEW)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("num_points", [4, 5, 9])
def test_a_handful_of_points_has_a_map(num_points):
    points = gaussian(num_points)
    perplexity = fitting_perplexity(30.0, num_points)
    start = as_start(principal_components(points))
    assert tsne(squared_distances(points), start, perplexity=perplexity).isfinite().all()


def test_points_on_a_line_and_among_many_duplicates_have_a_map():
    line = torch.arange(50.0, dtype=torch.float64)[:, None] * torch.ones(1, 8)
    twins = gaussian(50)
    twins[:40] = twins[0]
    for points in (line, twins):
        start = as_start(principal_components(points))
        made = tsne(squared_distances(points), start, perplexity=10.0)
        assert made.isfinite().all()
        assert made.std() > 0


def test_the_perplexity_is_lowered_where_there_are_too_few_points():
    assert fitting_perplexity(30.0, 500) == 30.0
    assert fitting_perplexity(30.0, 61) == 20.0
    assert fitting_perplexity(30.0, 4) == 2.0


@pytest.mark.parametrize("num_points", [3, 5_001])
def test_too_few_and_too_many_points_are_refused(num_points):
    distances = torch.zeros(num_points, 1).expand(num_points, num_points)
    with pytest.raises(ValueError, match=f"{num_points:,} points are no case"):
        tsne(distances, torch.zeros(num_points, 2))


@pytest.mark.parametrize("perplexity", [1.0, 20.0, math.nan])
def test_a_perplexity_beyond_the_points_is_refused(perplexity):
    with pytest.raises(ValueError, match=r"does not fit 20 points\. Use more than 1"):
        tsne(squared_distances(gaussian(20)), gaussian(20, 2), perplexity=perplexity)
