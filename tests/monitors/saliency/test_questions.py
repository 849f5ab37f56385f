from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.identity import digest
from torch import Tensor, nn

from vis_callbacks.callbacks.saliency.questions import Answer, Question, answer_to
from vis_callbacks.engine.cam_layer import CamLayer
from vis_callbacks.engine.isolation import IsolatedForward, isolated
from vis_callbacks.engine.scores import Unit

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


@pytest.fixture(params=[Net, Linear])
def any_model(request) -> nn.Module:
    return request.param()


@pytest.fixture
def model() -> Net:
    return Net()


@pytest.fixture
def forward(model) -> Iterator[IsolatedForward]:
    with isolated(model) as forward:
        yield forward


def images() -> Tensor:
    return torch.randn(N, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def asked(forward: IsolatedForward, classes: list[int], column: str = "label") -> Question:
    values = torch.zeros(N)
    return Question(forward, column, torch.tensor(classes), values, num_classes=CLASSES)


def of_unit(forward: IsolatedForward, unit: Unit, **options) -> Question:
    nobody = torch.full((N,), -1)
    return Question(forward, "unit", nobody, torch.zeros(N), unit=unit, **options)


def test_the_gradient_of_a_linear_network_is_each_samples_row_of_weights():
    network, classes = Linear(), [0, 2, 1, 1, 0, 2]
    with isolated(network) as forward:
        answer = answer_to("gradient", [asked(forward, classes)], images(), None)
    expected = network.head.weight.detach()[classes].view(N, 6, 6).abs()
    torch.testing.assert_close(answer.maps[0], expected)
    torch.testing.assert_close(answer.first.values.abs().squeeze(1), expected)


def test_of_a_second_question_only_what_differs_is_computed(model, forward):
    first, second = [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 1, 0]
    questions = [asked(forward, first), asked(forward, second, "predicted")]
    answer_to("gradient", questions[:1], images(), None)
    alone = model.num_samples
    answer = answer_to("gradient", questions, images(), None)
    assert alone == N
    assert model.num_samples - alone == N + 2
    same, others = [0, 1, 2, 4], [3, 5]
    expected = answer_to("gradient", questions[1:], images(), None).maps[0]
    assert torch.equal(answer.maps[1][same], answer.maps[0][same])
    torch.testing.assert_close(answer.maps[1], expected)
    assert not torch.equal(answer.maps[1][others], answer.maps[0][others])


def test_equal_questions_cost_one_answer_and_share_no_memory(model, forward):
    questions = [asked(forward, [1] * N), asked(forward, [1] * N, "predicted")]
    answer = answer_to("gradient", questions, images(), None)
    assert model.num_samples == N
    assert torch.equal(*answer.maps)
    assert answer.maps[0].data_ptr() != answer.maps[1].data_ptr()


def test_a_unit_at_a_position_is_asked_in_its_receptive_field(model, forward):
    question = of_unit(forward, Unit("conv", 1, (0, 2)))
    (maps,) = answer_to("gradient", [question], images(), None).maps
    expected = torch.zeros(6, 6)
    expected[:3, 2:5] = model.conv.weight.detach()[1, 0].abs()
    torch.testing.assert_close(maps, expected.expand(N, 6, 6))


def test_the_sum_over_positions_is_another_question_than_the_strongest_one(forward):
    unit = Unit("conv", 0)
    strongest, summed = (
        answer_to("gradient", [of_unit(forward, unit, positions=p)], images(), None).maps[0]
        for p in ("strongest", "sum")
    )
    assert ((strongest > 0).flatten(1).sum(1) == 9).all()
    assert (summed > 0).all()


@pytest.mark.parametrize(("method", "layer"), [("grad_cam", CamLayer("conv")), ("gradient", None)])
def test_only_a_method_that_looks_at_a_layer_is_given_one(forward, method, layer):
    answer = answer_to(method, [asked(forward, [0] * N)], images(), CamLayer("conv"))
    assert answer.cam_layer == layer
    assert answer.maps[0].shape == (N, 6, 6)


def test_a_question_without_a_layer_has_no_gradient_there(forward):
    assert asked(forward, [0] * N).layer_gradient(None, slice(None)) is None


# -- the sanity check


def sanity(network: nn.Module, method: str = "gradient") -> tuple[Answer, Tensor]:
    with isolated(network) as forward:
        answer = answer_to(method, [asked(forward, [0, 1, 2] * 2)], images(), None)
        return answer, answer.sanity(images())


def test_a_map_of_the_top_layers_weights_does_not_stand_the_sanity_check():
    _, found = sanity(Linear())
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

    _, found = sanity(OneWay())
    assert found.tolist() == pytest.approx([1.0] * N, abs=1e-4)


def test_the_sanity_check_touches_no_weight_and_no_map(any_model):
    before = digest(any_model.state_dict())
    answer, found = sanity(any_model)
    with isolated(any_model) as forward:
        again = answer_to("gradient", [asked(forward, [0, 1, 2] * 2)], images(), None)
    assert found.isfinite().all()
    assert digest(any_model.state_dict()) == before
    assert torch.equal(answer.maps[0], again.maps[0])
