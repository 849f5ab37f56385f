from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from vis_callbacks.engine.top_layer import WeightedCalls
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import attribute, rank_correlation, saliency_maps


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_linear_layers_and_convolutions_are_counted():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    with WeightedCalls() as calls:
        model(torch.ones(1, 1, 4, 4))
    assert calls.count == 2


def test_the_last_layer_alone_gets_other_weights_and_keeps_its_bias():
    model, x = two_layers(), torch.randn(5, 4)
    hidden = model[1](model[0](x))
    with WeightedCalls(2):
        scores = model(x)
    found = torch.linalg.lstsq(hidden, scores - model[2].bias).solution.T
    assert (found - model[2].weight).abs().max() > 0.1
    with WeightedCalls(2, seed=1):
        assert not torch.equal(model(x), scores)


def test_the_random_weights_have_the_mean_and_spread_of_the_layers_own():
    model = nn.Linear(500, 400, bias=False)
    nn.init.normal_(model.weight, mean=0.3, std=0.2)
    with WeightedCalls(1):
        found = model(torch.eye(500))
    # Of 200,000 numbers: five standard errors.
    assert found.mean().item() == pytest.approx(0.3, abs=0.003)
    assert found.std().item() == pytest.approx(0.2, abs=0.003)


def test_every_pass_gets_the_same_random_weights_and_no_parameter_or_generator_is_touched():
    model, x = two_layers(), torch.randn(5, 4)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    expected, state = model(x), torch.get_rng_state()
    with WeightedCalls(2):
        assert torch.equal(model(x), model(x))
    assert all(map(torch.equal, before, model.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(x), expected)


def test_keyword_arguments_are_understood():
    weight, x = torch.randn(3, 4), torch.randn(2, 4)
    with WeightedCalls(1):
        found = F.linear(input=x, weight=weight)
        assert torch.equal(found, F.linear(x, weight, None))
    assert not torch.equal(found, F.linear(x, weight))


# -- the pattern of Adebayo et al. 2018


class DigitsCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@pytest.fixture(scope="module")
def digits() -> tuple[DigitsCNN, Tensor, Tensor]:
    """A network trained on 1,500 digits, and 100 others."""
    torch.manual_seed(1)
    data = load_digits()
    order = torch.randperm(1797)
    images = torch.tensor(data.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(data.target)[order]
    model = DigitsCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(12):
        for index in torch.randperm(1500).split(50):
            loss = F.cross_entropy(model(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images, labels = images[1500:1600], labels[1500:1600]
    assert (model(images).argmax(1) == labels).float().mean() > 0.6
    return model, images, labels


@pytest.fixture(scope="module")
def sanity_scores(digits) -> dict[str, float]:
    """The mean over 100 images and four random top layers: one alone scatters by 0.1."""
    model, images, labels = digits

    def score(x: Tensor) -> Tensor:
        return model(x).gather(1, labels[:, None])[:, 0]

    def layer_gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(x)
        chosen = model.head(features.mean((2, 3))).gather(1, labels[:, None])
        return features.detach(), torch.autograd.grad(chosen.sum(), features)[0]

    def maps(name: str) -> Tensor:
        found = attribute(name, score, images, layer_gradient=layer_gradient)
        return saliency_maps(found.values, is_signed=METHODS[name].times_input)

    scores = {}
    for name in ("gradient", "guided_backprop", "grad_cam"):
        learned, found = maps(name), []
        for seed in range(4):
            with WeightedCalls(3, seed):
                found.append(rank_correlation(learned, maps(name)).nanmean())
        scores[name] = torch.stack(found).mean().item()
    return scores


def test_the_gradient_depends_on_what_was_learned(sanity_scores):
    assert sanity_scores["gradient"] < 0.5


def test_guided_backpropagation_depends_on_it_far_less(sanity_scores):
    assert (
        sanity_scores["guided_backprop"] - sanity_scores["gradient"] > 0.1
    )  # 11 seeds: .21 at least


def test_grad_cam_depends_on_it_wholly(sanity_scores):
    assert abs(sanity_scores["grad_cam"]) < 0.3  # 11 seeds: .16 at most
