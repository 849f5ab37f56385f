from __future__ import annotations

from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from vis_callbacks.analysis.linear_probe import NUM_FOLDS, _Fits, probe_accuracy


def gaussian(num_samples: int, num_dimensions: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, num_dimensions, generator=generator, dtype=torch.float64)


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.data) / 16, torch.from_numpy(data.target)


def iris() -> tuple[Tensor, Tensor]:
    data = load_iris()
    return torch.from_numpy(data.data), torch.from_numpy(data.target)


def in_a_row() -> tuple[Tensor, Tensor]:
    """Returns three classes that lie one behind the other along one feature."""
    labels = torch.arange(300) % 3
    return labels[:, None] + 0.1 * gaussian(300, 1), labels


@cache
def narrow_network() -> tuple[Tensor, Tensor, float]:
    """Returns two units after a ReLU, the labels, and what the network's last layer reaches."""
    images, labels = digits()[0].float(), digits()[1]
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
    return features, labels[1_200:1_700], float(own)


def of_scikit_learn(features: Tensor, labels: Tensor) -> float:
    """Returns the best accuracy of its cross-validated logistic regressions."""
    return max(
        cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2_000)),
            features.numpy(),
            labels.numpy(),
            cv=StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0),
        ).mean()
        for c in (1.0, 100.0)
    )


@pytest.mark.parametrize(
    "data",
    [iris, in_a_row, lambda: [part[:500] for part in digits()], lambda: narrow_network()[:2]],
    ids=["iris", "three classes in a row", "digits", "digits through two units"],
)
def test_the_accuracy_is_that_of_a_cross_validated_logistic_regression(data):
    features, labels = data()
    ours = float(probe_accuracy(features, labels, int(labels.max()) + 1))
    assert ours == pytest.approx(of_scikit_learn(features, labels), abs=0.02)


def test_a_narrow_layer_is_not_slandered_against_the_network_s_own_last_layer():
    features, labels, own = narrow_network()
    error = (own * (1 - own) / len(labels)) ** 0.5
    assert 0.5 < own < 0.9
    assert probe_accuracy(features, labels, 10) > own - error


def test_the_middle_one_of_three_classes_in_a_row_is_named():
    features, labels = in_a_row()
    assert probe_accuracy(features, labels, 3) == 1.0


@pytest.mark.parametrize("num_dimensions", [5, 60])  # fewer and more than samples
def test_each_sample_is_judged_by_a_probe_that_has_not_seen_it(num_dimensions):
    labels = torch.arange(40) % 3
    features = gaussian(40, num_dimensions) + 0.8 * F.one_hot(labels, num_dimensions)
    fits = _Fits(features, labels, 3)
    scores = fits.left_out(1.0)
    centred = features - features.mean(0)
    standardised = centred / centred.square().mean(0).sqrt()
    for fold in range(NUM_FOLDS):
        is_out = fits._fold == fold
        model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1_000)
        model.fit(standardised[~is_out], labels[~is_out])
        expected = torch.from_numpy(model.decision_function(standardised[is_out]))
        found = scores[is_out].double()
        # Adding one number to all scores of a sample changes nothing.
        centre = found.mean(1, keepdim=True)
        torch.testing.assert_close(found - centre, expected, atol=0.02, rtol=0.02)


def test_every_class_is_dealt_out_over_all_folds():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2] * 20)
    fits = _Fits(gaussian(35, 2), labels, 3)
    for kind, count in ((0, 2), (1, 1), (2, 4)):
        assert torch.bincount(fits._fold[labels == kind]).tolist() == [count] * NUM_FOLDS


def test_classes_on_separate_axes_are_told_apart_and_noise_is_not():
    labels = torch.arange(300) % 3
    apart = 5 * F.one_hot(labels, 20) + gaussian(300, 20)
    assert probe_accuracy(apart, labels, 3) == 1.0
    assert float(probe_accuracy(gaussian(300, 20), labels, 3)) == pytest.approx(1 / 3, abs=0.1)


def test_more_dimensions_than_samples_are_no_way_to_learn_by_heart():
    labels = torch.arange(100) % 2
    assert float(probe_accuracy(gaussian(100, 500), labels, 2)) < 0.7


def test_features_without_variance_give_the_most_frequent_class():
    labels = torch.tensor([0] * 70 + [1] * 30)
    assert probe_accuracy(torch.ones(100, 8), labels, 2) == pytest.approx(0.7)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_features_does_not_matter(scale):
    features, labels = (part[:200] for part in digits())
    expected = probe_accuracy(features, labels, 10)
    assert 0.85 < expected < 1
    assert probe_accuracy(scale * features, labels, 10) == pytest.approx(float(expected), abs=0.01)


def test_a_probe_is_fitted_under_inference_mode_too():
    features, labels = in_a_row()
    with torch.inference_mode():
        assert probe_accuracy(1 * features, 1 * labels, 3) == 1.0
