from __future__ import annotations

import numpy as np
import openTSNE
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.manifold import _utils as sklearn_utils
from torch import Tensor

from vis_callbacks.monitors.embedding import tsne as module
from vis_callbacks.monitors.embedding.science import (
    principal_components,
    squared_distances,
    trustworthiness,
)
from vis_callbacks.monitors.embedding.tsne import (
    COLD,
    COLD_OF_MANY,
    WARM,
    Descent,
    as_start,
    barnes_hut_tsne,
    conditional_probabilities,
    fitting_perplexity,
    is_exact_faster,
    tsne,
)

A_FEW = Descent(5, 10)


def digits(num_samples: int) -> Tensor:
    return torch.from_numpy(load_digits().data[:num_samples])


def gaussian(num_points: int, num_dimensions: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_points, num_dimensions, generator=generator, dtype=torch.float64)


def entropies(conditional: Tensor) -> Tensor:
    return torch.special.entr(conditional).sum(1)


def kl_divergence(distances: Tensor, points: Tensor, perplexity: float) -> float:
    """Returns what t-SNE makes small, by its definition."""
    conditional = conditional_probabilities(distances, perplexity).double()
    p = conditional + conditional.T
    weights = (1 / (1 + squared_distances(points))).fill_diagonal_(0)
    q = weights / weights.sum()
    are_two = ~torch.eye(len(points), dtype=torch.bool)
    p, q = (p / p.sum())[are_two], q[are_two]
    return float((torch.xlogy(p, p) - p * q.log()).sum())


@pytest.mark.parametrize("where", ["host", "device"])
def test_one_step_goes_down_the_gradient_of_the_divergence(monkeypatch, where):
    monkeypatch.setattr(module, "_host_gradient", getattr(module, f"_{where}_gradient"))
    distances, start = squared_distances(gaussian(40)), gaussian(40, 2, seed=1).float()
    points = start.double().requires_grad_()
    conditional = conditional_probabilities(distances, 5.0).double()
    p = (conditional + conditional.T) / (2 * len(points))
    weights = (1 / (1 + (points[:, None] - points).square().sum(2))) * (1 - torch.eye(40))
    (-(p * (weights / weights.sum() + torch.eye(40)).log()).sum()).backward()
    moved = tsne(distances, start, perplexity=5.0, descent=Descent(0, 1)) - start
    # Of both the mean is 0; gains of 1.2 and a rate of a quarter of the points.
    expected = -1.2 * 40 / 4 * points.grad - start.mean(0)
    torch.testing.assert_close(moved, expected.float(), rtol=1e-4, atol=1e-6)


def test_the_divergence_is_no_larger_than_that_of_scikit_learn_and_open_tsne():
    features = digits(90)
    distances = squared_distances(features)
    ours = tsne(distances, as_start(principal_components(features)), perplexity=20.0)
    theirs = [
        TSNE(perplexity=20.0, method="exact", random_state=0).fit_transform(features.numpy()),
        np.asarray(openTSNE.TSNE(perplexity=20.0, random_state=0, n_jobs=1).fit(features.numpy())),
    ]
    found = kl_divergence(distances, ours, 20.0)
    expected = [kl_divergence(distances, torch.from_numpy(points), 20.0) for points in theirs]
    assert found < 1.05 * min(expected), (found, expected)


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
@pytest.mark.parametrize("scale", [1e-12, 1e12])
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
    assert trustworthiness(distances, start.numpy()) < 0.9
    assert trustworthiness(distances, points.numpy()) >= 0.99


def test_the_same_points_give_the_same_map():
    features = digits(150)
    start = as_start(principal_components(features))
    first, second = (tsne(squared_distances(features), start, descent=A_FEW) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("num_points", [60, 200])
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


def test_more_points_are_given_more_iterations(monkeypatch):
    taken = []
    monkeypatch.setattr(module, "_descended", lambda p, start, descent: taken.append(descent))
    monkeypatch.setattr(module, "_MANY", 60)
    for count in (60, 61):
        tsne(squared_distances(digits(count)), gaussian(count, 2), perplexity=5.0)
    assert taken == [COLD, COLD_OF_MANY]


def test_no_random_number_is_drawn():
    before = torch.get_rng_state()
    tsne(squared_distances(digits(50)), gaussian(50, 2), perplexity=5.0, descent=A_FEW)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_precision_of_the_users_matrix_products_is_of_no_consequence(
    monkeypatch, where, precision
):
    monkeypatch.setattr(module, "_host_gradient", getattr(module, f"_{where}_gradient"))
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


def test_barnes_hut_draws_nothing_gives_the_same_map_twice_and_leaves_the_threads_alone():
    features = digits(150)
    start = as_start(principal_components(features))
    before, num_threads = (torch.get_rng_state(), np.random.get_state()[1].copy()), 3
    used = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        first, second = (
            barnes_hut_tsne(features, start, perplexity=20.0, is_warm=False) for _ in range(2)
        )
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(used)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.parametrize(("device", "most"), [("cpu", 4_000), ("cuda", 5_000)])
def test_all_pairs_are_taken_where_that_is_faster(device, most):
    assert is_exact_faster(torch.device(device), most)
    assert not is_exact_faster(torch.device(device), most + 1)


@pytest.mark.parametrize("num_points", [4, 9])
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
