"""Any unit of the usual networks can be asked which pixels drive it, and the answer is right."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from vis_callbacks.engine.capture import Capture
from vis_callbacks.engine.isolation import IsolatedForward, isolated
from vis_callbacks.engine.score_functions import run_with_layers, unit_score
from vis_callbacks.engine.scores import Unit, value_of_unit
from vis_callbacks.monitors.saliency.science import attribute

NUM_DIRECTIONS = 3
# In float64 the difference quotient is good to about 1e-9 of a layer's values where no ReLU and
# no maximum switches on the way; those that do move it by as little as they are many.
STEP = 1e-6
TOLERANCE = 1e-4

# By name a network of each family, and how many nonlinearities it has.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (models.resnet18, 17),
    "googlenet": (lambda: models.googlenet(aux_logits=False, init_weights=False), 57),
    "densenet": (lambda: models.DenseNet(8, (3, 2), 16, num_classes=5), 13),
    "vit": (lambda: models.VisionTransformer(64, 16, 2, 2, 24, 48, num_classes=5), 2),
    "convnext": (
        lambda: models.ConvNeXt(
            [CNBlockConfig(12, 24, 2), CNBlockConfig(24, None, 2)], num_classes=5
        ),
        4,
    ),
}


def random_units(forward: IsolatedForward, x: Tensor, name: str) -> list[Unit]:
    """Returns one unit of every captured layer, seeded by the network's name."""
    num_units: dict[str, int] = {}
    with (
        torch.no_grad(),
        Capture(
            forward.module,
            lambda seen: num_units.setdefault(seen.name, seen.values.shape[seen.unit_axis]),
        ),
    ):
        forward.run(x)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return [
        Unit(layer, int(torch.randint(count, (), generator=generator)))
        for layer, count in num_units.items()
    ]


def values_of(forward: IsolatedForward, x: Tensor, units: list[Unit]) -> Tensor:
    """Returns every unit's value at its strongest position, (units,), from one pass."""
    _, layers = run_with_layers(forward, x, [unit.layer for unit in units])
    return torch.cat([value_of_unit(layers[unit.layer].values, unit) for unit in units])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_a_unit_of_every_layer_is_its_difference_quotient(name):
    make, num_layers = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    directions = torch.randn(NUM_DIRECTIONS, *x.shape, dtype=torch.float64)
    with isolated(model) as forward:
        units = random_units(forward, x, name)
        assert len(units) == num_layers
        x.requires_grad_()
        values = values_of(forward, x, units)
        slopes = torch.empty(len(units), NUM_DIRECTIONS, dtype=torch.float64)
        for index, value in enumerate(values):
            (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
            assert gradient.isfinite().all(), units[index]
            is_active = value > 0 or name in ("vit", "convnext")
            assert not is_active or gradient.abs().max() > 0, units[index]
            slopes[index] = (directions * gradient).flatten(1).sum(1)
        with torch.no_grad():
            ahead, behind = (
                torch.stack([values_of(forward, x + s * STEP * d, units) for d in directions], 1)
                for s in (1, -1)
            )
    quotients = (ahead - behind) / (2 * STEP)
    scale = slopes.abs().amax(1, keepdim=True).clamp(min=1e-6)
    error = ((slopes - quotients) / scale).abs().amax(1)
    wrong = {str(unit): e for unit, e in zip(units, error.tolist(), strict=True) if e > TOLERANCE}
    assert wrong == {}
    assert (values > 0).double().mean() > 0.5  # else little would have been shown


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_a_unit_is_asked_alone_as_it_is_among_all(name):
    torch.manual_seed(0)
    model = NETWORKS[name][0]().double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with isolated(model) as forward:
        units = random_units(forward, x, name)
        unit = units[len(units) // 2]
        found = attribute("gradient", unit_score(forward, unit), x).values
        _, layers = run_with_layers(forward, x.requires_grad_(), [u.layer for u in units])
        value = value_of_unit(layers[unit.layer].values, unit)
        (expected,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        ("layer4.1.relu-2:0", r'matches none of .* layers; nearest: "layer4.1.relu-1"'),
        ("layer9.relu:0", r'layer="layer9.relu" matches none of the model\'s .* nearest: "layer'),
        ("layer4.1.relu:512", r"has 512 units. Use an index from 0 to 511"),
        ("layer4.1.relu:0@2,0", r"positions of size \(2, 2\). Use one index below each"),
    ],
)
def test_a_neuron_that_is_not_there_gives_an_error_that_lists_near_ones(unit, words):
    with isolated(models.resnet18()) as forward, pytest.raises(ValueError, match=words):
        attribute("gradient", unit_score(forward, Unit.parse(unit)), torch.randn(1, 3, 64, 64))
