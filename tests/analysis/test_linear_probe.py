from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from torch import Tensor

from vis_callbacks.analysis import linear_probe as module
from vis_callbacks.analysis.linear_probe import probe_accuracy


def gaussian(num_samples: int, num_dimensions: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, num_dimensions, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_dimensions", [5, 60])  # fewer and more than samples
def test_the_accuracy_is_that_of_leaving_out_each_sample_in_turn(monkeypatch, num_dimensions):
    strength = 0.01
    monkeypatch.setattr(module, "_STRENGTHS", (strength,))
    labels = torch.arange(40) % 3
    features = gaussian(40, num_dimensions) + 0.8 * torch.nn.functional.one_hot(
        labels, num_dimensions
    )
    centred = features - features.mean(0)
    alpha = strength * float(torch.linalg.matrix_norm(centred, 2) ** 2)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    num_right = 0
    for place in range(40):
        kept = torch.arange(40) != place
        model = Ridge(alpha=alpha).fit(features[kept], targets[kept])
        num_right += int(model.predict(features[place : place + 1]).argmax() == labels[place])
    assert 15 < num_right < 40
    assert probe_accuracy(features, labels, 3) == pytest.approx(num_right / 40)


def test_classes_on_separate_axes_are_told_apart_and_noise_is_not():
    labels = torch.arange(300) % 3
    apart = 5 * torch.nn.functional.one_hot(labels, 20) + gaussian(300, 20)
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
    data = load_digits()
    features, labels = torch.from_numpy(data.data[:200]), torch.from_numpy(data.target[:200])
    expected = probe_accuracy(features, labels, 10)
    assert 0.85 < expected < 1
    assert probe_accuracy(scale * features, labels, 10) == pytest.approx(float(expected), abs=0.01)
