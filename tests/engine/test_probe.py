"""What a reduction is given, as `Probe`, `Batch` and `Activation` promise it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Activation, Batch, Probe
from vis_callbacks.guard import Guard


class Net(nn.Module):
    """A convolution, tokens and a vector, each behind a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        tokens = torch.sigmoid(x.flatten(2).transpose(1, 2))
        return torch.tanh(self.fc(tokens.mean(1)))


class Seen:
    """Keeps copies of what its reduction is given."""

    def __init__(self) -> None:
        self.activations: dict[str, Activation] = {}
        self.batches: list[Batch] = []

    def reduce(self, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        self.activations[activation.layer] = dataclasses.replace(
            activation, values=activation.values.clone()
        )
        self.batches.append(batch)
        return {"index": torch.arange(batch.num_samples) + batch.first_index}


def read(*batches: Tensor, live: bool = True, **options: Any) -> tuple[Seen, Any]:
    """Has a network read over these batches by one probe."""
    torch.manual_seed(0)
    seen, engine = Seen(), Engine(Net())
    probe = Probe(name="seen", reduce=seen.reduce, merge={"index": "concat"}, **options)
    subscription = engine.subscribe(
        probe,
        guard=Guard("tester"),
        batch_of=lambda x: Batch(inputs=x, labels=None, num_samples=len(x)),
    )
    engine.begin([subscription], live=live)
    for batch in batches:
        engine.start_batch(batch)
        engine.model(batch) if live else engine.read_isolated(training=True)
        engine.count_batch()
    engine.end_capture()
    return seen, subscription


def images(num_samples: int = 5) -> Tensor:
    return torch.randn(num_samples, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("live", [True, False])
def test_without_layers_the_output_of_every_nonlinearity_is_read(live):
    seen, _ = read(images(), live=live)
    assert list(seen.activations) == ["relu", "Net/sigmoid", "Net/tanh"]
    assert seen.activations["relu"].values.min() == 0
    assert seen.activations["Net/tanh"].values.abs().max() < 1


def test_values_have_units_second_and_the_shape_is_the_models_own():
    seen, _ = read(images())
    assert {name: (tuple(a.values.shape), a.shape) for name, a in seen.activations.items()} == {
        "relu": ((5, 4, 16), (5, 4, 4, 4)),
        "Net/sigmoid": ((5, 4, 16), (5, 16, 4)),  # tokens, whose units the model has last
        "Net/tanh": ((5, 6, 1), (5, 6)),
    }


def test_what_went_in_is_there_unless_it_was_overwritten():
    seen, _ = read(images())
    found = seen.activations
    assert found["relu"].inputs is None
    torch.testing.assert_close(found["Net/tanh"].inputs.tanh(), found["Net/tanh"].values)


def test_a_module_read_by_its_name_has_no_nonlinearity():
    seen, _ = read(images(), layers=["conv", "relu"])
    assert seen.activations["conv"].nonlinearity is None
    assert seen.activations["relu"].nonlinearity.kind == "relu"


def test_the_input_of_a_module_is_read_in_place_of_its_output():
    seen, _ = read(images(), layers=["fc"], site="input")
    assert seen.activations["fc"].values.shape == (5, 4, 1)  # and not 6 units


def test_batches_are_numbered_on_over_the_occasion():
    seen, subscription = read(images(5), images(3), images(2), layers=["fc"])
    assert [(batch.first_index, batch.num_samples) for batch in seen.batches] == [
        (0, 5),
        (5, 3),
        (8, 2),
    ]
    assert subscription.values["fc"]["index"].tolist() == list(range(10))


@pytest.mark.parametrize("cls", [Probe, Batch, Activation])
def test_its_fields_cannot_be_mixed_up_or_changed(cls):
    values = {field.name: () for field in dataclasses.fields(cls)}
    with pytest.raises(TypeError, match="positional argument"):
        cls(*values.values())
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        cls(**values).layer = ()
