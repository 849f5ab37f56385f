from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.outputs import Outputs
from vis_callbacks.engine.score_functions import (
    class_score,
    layer_gradient,
    run_with_layers,
    unit_score,
)
from vis_callbacks.engine.scores import MethodUnsuitedError, Unit


class Net(nn.Module):
    """Functions, a ReLU that is overwritten afterwards, a gate and a module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.gate = nn.Conv2d(4, 4, 1)
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        a = self.relu(self.first(x))
        b = self.second(a).clamp(min=0)
        b += 0.5 * a  # overwrites what the clamp gave
        b = b * torch.sigmoid(self.gate(b.mean((2, 3), keepdim=True)))
        return self.head(F.relu(self.hidden(self.hidden(b.mean((2, 3))))))


def images(num_samples: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_samples, 3, 6, 6, dtype=torch.float64, generator=generator)


@pytest.fixture
def forward():
    with isolated(Net()) as live:
        yield live


def second_relu(model: Net, x: Tensor) -> Tensor:
    return F.relu(model.second(F.relu(model.first(x))))


def test_a_layer_is_what_it_was_when_it_was_seen(forward):
    _, layers = run_with_layers(forward, images(), ["Net/relu"])
    assert torch.equal(layers["Net/relu"].values, second_relu(forward.module, images()))


def test_gradients_flow_through_a_layer_that_is_overwritten_later(forward):
    x = images().requires_grad_()
    _, layers = run_with_layers(forward, x, ["Net/relu"])
    (found,) = torch.autograd.grad(layers["Net/relu"].values[:, 1].sum(), x)
    other = images().requires_grad_()
    (expected,) = torch.autograd.grad(second_relu(forward.module, other)[:, 1].sum(), other)
    torch.testing.assert_close(found, expected)


def test_the_gradient_at_a_layer_is_that_of_the_rest_of_the_network(forward):
    model, targets = forward.module, torch.tensor([2, 0])
    values, gradient = layer_gradient(forward, class_score(forward, targets), "Net/relu")(
        images().requires_grad_()
    )
    at_layer = values.clone().requires_grad_()
    b = at_layer + 0.5 * F.relu(model.first(images()))
    b = b * torch.sigmoid(model.gate(b.mean((2, 3), keepdim=True)))
    scores = model.head(F.relu(model.hidden(model.hidden(b.mean((2, 3))))))
    (expected,) = torch.autograd.grad(scores.gather(1, targets[:, None]).sum(), at_layer)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0


def test_a_unit_has_a_gradient_at_a_layer_before_it_and_at_its_own(forward):
    x = images().requires_grad_()
    unit = Unit("Net/relu", 2, (1, 1))
    values, gradient = layer_gradient(forward, unit_score(forward, unit), "Net/relu")(x)
    expected = torch.zeros_like(values)
    expected[:, 2, 1, 1] = 1  # the layer's gradient is 0 but for a 1 at the neuron
    assert torch.equal(gradient, expected)
    _, before = layer_gradient(forward, unit_score(forward, unit), "relu")(x)
    assert before.abs().max() > 0


def test_a_layer_behind_what_is_explained_is_refused(forward):
    asked = layer_gradient(forward, unit_score(forward, Unit("relu", 0)), "Net/relu")
    with pytest.raises(ValueError, match=r"does not depend on this layer\. Use one"):
        asked(images().requires_grad_())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("relu", (2, 4, 6, 6)),
        ("Net/relu", (2, 4, 6, 6)),
        ("Net/relu-1", (2, 4)),
        ("Net/sigmoid", (2, 4, 1, 1)),
        ("second", (2, 4, 6, 6)),
        ("hidden", (2, 4)),
        ("hidden-1", (2, 4)),
    ],
)
def test_every_layer_can_be_named(forward, name, shape):
    output, layers = run_with_layers(forward, images(), [name])
    assert layers[name].values.shape == shape
    assert output.shape == (2, 3)


def test_the_second_call_of_a_module_is_another_layer(forward):
    _, layers = run_with_layers(forward, images(), ["hidden", "hidden-1"])
    again = forward.module.hidden(layers["hidden"].values)
    assert torch.equal(layers["hidden-1"].values, again)


def test_a_layer_that_is_not_met_is_told_with_its_neighbours(forward):
    with pytest.raises(ValueError, match=r'layer="Net/relu-2" matches none .* Use "Net/relu'):
        run_with_layers(forward, images(), ["Net/relu-2"])


def test_tokens_have_their_units_last_and_get_them_second():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    with isolated(nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3))) as forward:
        _, layers = run_with_layers(forward, torch.randn(2, 5, 8), ["0/relu"])
    assert layers["0/relu"].values.shape == (2, 16, 5)


# -- scores


def test_a_class_score_takes_whole_copies_of_the_samples(forward):
    targets = torch.tensor([2, 0])
    score = class_score(forward, targets)
    once = score(images())
    assert torch.equal(once, forward(images()).gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(score(images().repeat(3, 1, 1, 1)), once.repeat(3))


def test_a_class_score_can_be_read_from_other_scores(forward):
    targets = torch.tensor([0, 1])
    score = class_score(lambda x: forward(x)[:, :1] - 5, targets, read=Outputs().class_scores)
    sign = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(score(images()), sign * (forward(images())[:, 0] - 5))


@pytest.mark.parametrize(
    ("unit", "positions", "expected"),
    [
        ("Net/relu:2", "strongest", lambda v: v[:, 2].amax((1, 2))),
        ("Net/relu:2", "sum", lambda v: v[:, 2].sum((1, 2))),
        ("Net/relu:2@3,4", "strongest", lambda v: v[:, 2, 3, 4]),
        ("Net/relu:2@3,4", "sum", lambda v: v[:, 2, 3, 4]),
    ],
)
def test_a_unit_is_asked_at_its_strongest_position_at_one_or_at_all(
    forward, unit, positions, expected
):
    found = unit_score(forward, Unit.parse(unit), positions=positions)(images())
    torch.testing.assert_close(found, expected(second_relu(forward.module, images())))


# -- layers that cannot be read


class Experts(nn.Module):
    """Sends each sample to one of two experts; the second one gets what is asked for."""

    def __init__(self, num_to_second: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 3), nn.ReLU()) for _ in range(2))
        self.num_to_second = num_to_second

    def forward(self, x: Tensor) -> Tensor:
        first = self.experts[0](x[self.num_to_second :])
        return torch.cat([self.experts[1](x[: self.num_to_second]), first])


@pytest.mark.parametrize("num_rows", [0, 3])
def test_a_layer_whose_rows_are_no_samples_is_refused(num_rows):
    words = rf'layer "experts.1.1" gives {num_rows} rows for 8 samples'
    with isolated(Experts(num_rows)) as forward, pytest.raises(MethodUnsuitedError, match=words):
        unit_score(forward, Unit("experts.1.1", 0))(torch.randn(8, 4))


class Swapped(nn.Module):
    """A linear layer over channels that come second, as many as there are columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 6, 1), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.conv(x).movedim(1, 3)).movedim(3, 1)


def test_a_module_whose_units_may_be_two_axes_is_refused():
    with isolated(nn.Sequential(Swapped()).double()) as forward:
        with pytest.raises(MethodUnsuitedError, match=r'layer "0" gives \(2, 6, 6, 6\), and what'):
            run_with_layers(forward, images(), ["0"])
        _, layers = run_with_layers(forward, images()[..., :5], ["0"])
    assert layers["0"].values.shape == (2, 6, 6, 5)


@pytest.mark.parametrize("unit", ["features.1.0:5", "features.1.0.mlp.1:5", "features.0:5"])
def test_a_block_with_channels_last_is_asked_for_a_channel(unit):
    torch.manual_seed(0)
    swin = models.SwinTransformer([4, 4], 12, [2], [2], [4, 4], num_classes=3)
    asked = Unit.parse(unit)
    with isolated(swin) as forward:
        _, layers = run_with_layers(forward, torch.randn(2, 3, 32, 32), [asked.layer])
        kept = dict(swin.named_modules())[asked.layer]
        outputs: list[Tensor] = []
        kept.register_forward_hook(lambda m, a, output: outputs.append(output))
        forward(torch.randn(2, 3, 32, 32))
    values = layers[asked.layer].values
    assert values.shape == (2, outputs[0].shape[-1], 8, 8)


def test_nothing_stays_attached(forward):
    run_with_layers(forward, images(), ["relu", "second"])
    hooks = [module._forward_hooks for module in forward.module.modules()]
    assert not any(hooks)
