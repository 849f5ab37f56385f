from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from tests.identity import digest
from torch import Tensor, nn

from vis_callbacks.engine.cam_layer import CamLayer
from vis_callbacks.engine.isolation import IsolatedForward, isolated
from vis_callbacks.engine.score_functions import class_score
from vis_callbacks.monitors.saliency.questions import Question, answer_to, sanity_score

N, CLASSES = 6, 3


class Net(nn.Module):
    """Counts the samples that go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2 * 16, CLASSES)
        self.num_samples = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_samples += len(x)
        return self.head(torch.relu(self.conv(x)).flatten(1))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def forward(model) -> Iterator[IsolatedForward]:
    with isolated(model) as forward:
        yield forward


IMAGES = torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def asked(forward: IsolatedForward, classes: list[int]) -> Question:
    return Question("label", partial(class_score, forward), torch.tensor(classes), torch.zeros(N))


def test_the_gradient_of_a_linear_network_is_each_samples_row_of_weights():
    network, classes = Linear(), [0, 2, 1, 1, 0, 2]
    with isolated(network) as forward:
        answer = answer_to("gradient", [asked(forward, classes)], forward, IMAGES)
    expected = network.head.weight.detach()[classes].view(N, 6, 6).abs()
    torch.testing.assert_close(answer.maps[0], expected)
    torch.testing.assert_close(answer.first.values.abs().squeeze(1), expected)


def test_of_a_second_question_only_what_differs_is_computed(model, forward):
    questions = [asked(forward, [0, 1, 2, 0, 1, 2]), asked(forward, [0, 1, 2, 1, 1, 0])]
    answer = answer_to("gradient", questions, forward, IMAGES)
    assert model.num_samples == N + 2
    same, others = [0, 1, 2, 4], [3, 5]
    expected = answer_to("gradient", questions[1:], forward, IMAGES).maps[0]
    assert torch.equal(answer.maps[1][same], answer.maps[0][same])
    torch.testing.assert_close(answer.maps[1], expected)
    assert not torch.equal(answer.maps[1][others], answer.maps[0][others])


def test_equal_questions_cost_one_answer_and_share_no_memory(model, forward):
    answer = answer_to("gradient", [asked(forward, [1] * N)] * 2, forward, IMAGES)
    assert model.num_samples == N
    assert torch.equal(*answer.maps)
    assert answer.maps[0].data_ptr() != answer.maps[1].data_ptr()


def test_a_method_is_given_the_layer_that_it_looks_at(forward):
    layer = CamLayer("conv")
    answer = answer_to("grad_cam", [asked(forward, [0] * N)], forward, IMAGES, layer)
    assert answer.cam_layer == layer
    assert answer.maps[0].shape == (N, 6, 6)


# -- the sanity check


def sanity(network: nn.Module) -> Tensor:
    with isolated(network) as forward:
        answer = answer_to("gradient", [asked(forward, [0, 1, 2] * 2)], forward, IMAGES)
        return sanity_score(answer, forward, IMAGES)


def test_a_map_of_the_top_layers_weights_does_not_stand_the_sanity_check():
    found = sanity(Linear())
    assert found.shape == (N,)
    assert found.abs().mean() < 0.4  # 36 random numbers


def test_a_map_that_does_not_depend_on_the_top_layers_weights_stands_it():
    class OneWay(nn.Module):
        """Any weights of its top layer scale the same map."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(36, 1), nn.Linear(1, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x.flatten(1)))

    assert sanity(OneWay()).tolist() == pytest.approx([1.0] * N, abs=1e-4)


@pytest.mark.parametrize("make", [Net, Linear])
def test_the_sanity_check_touches_no_weight(make):
    network = make()
    before = digest(network.state_dict())
    assert sanity(network).isfinite().all()
    assert digest(network.state_dict()) == before


def test_a_network_without_weights_has_no_top_layer():
    with pytest.raises(ValueError, match=r"no top layer to randomise\. Leave the sanity check"):
        sanity(nn.Flatten())
