from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import vis_callbacks


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.drop = nn.Linear(4, 3), nn.Tanh(), nn.Dropout()

    def forward(self, x):
        return self.drop(F.relu(self.act(self.fc(x))))


def test_the_table_names_layers_as_options_understand_them(capsys):
    text = vis_callbacks.summary(Net(), torch.randn(2, 4))
    assert capsys.readouterr().out == ""
    assert repr(text) == text  # as a notebook shows it
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["name", "kind", "shape", "units", "weight"]
    assert rows[1][:2] == ["act", "tanh"]
    assert rows[2][:2] == ["Net/relu", "relu"]
    assert rows[1][-1] == "fc.weight"
    assert text.splitlines()[-1] == "2 layers"


def test_gates_are_told_apart():
    class Gated(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x.mean((2, 3), keepdim=True))

    text = vis_callbacks.summary(Gated(), torch.randn(2, 4, 3, 3))
    assert "sigmoid (gate)" in text
    assert text.splitlines()[-1].startswith("0 layers and 1 gate,")


def test_one_layer_is_one():
    text = vis_callbacks.summary(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(2, 4))
    assert text.splitlines()[-1] == "1 layer"


def test_the_model_is_left_as_it_was():
    model = Net()
    state = torch.random.get_rng_state()
    vis_callbacks.summary(model, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert model.drop.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_model_without_forward_is_run_as_forward_fn_says():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2)

    text = vis_callbacks.summary(
        Holder(), torch.randn(2, 4), forward_fn=lambda model, x: model.b(model.a(x))
    )
    assert "a.1" in text


def test_it_can_be_called_twice_by_its_public_name():
    for _ in range(2):
        assert "act" in vis_callbacks.summary(Net(), torch.randn(2, 4))
