from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.probe import LayerInfo
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.guard import NothingToShow


def test_weights_are_read_by_name_and_without_their_gradient():
    model = nn.Sequential(nn.Linear(3, 2))
    weights = Weights(model)
    assert set(weights) == {"0.weight", "0.bias"}
    assert torch.equal(weights["0.weight"], model[0].weight)
    assert not weights["0.weight"].requires_grad


def test_a_parametrised_weight_is_read_as_its_effective_value():
    normed, pruned = nn.Linear(3, 2), nn.Linear(3, 2)
    parametrizations.weight_norm(normed)
    prune.l1_unstructured(pruned, "weight", amount=3)
    weights = Weights(nn.Sequential(normed, pruned))
    assert torch.equal(weights["0.weight"], normed.weight)
    assert int((weights["1.weight"] == 0).sum()) == 3


def test_names_of_a_compiled_model_are_those_without_compilation():
    model = nn.Sequential(torch.compile(nn.Linear(3, 2), backend="eager"))
    assert "0.weight" in Weights(model)


@pytest.mark.parametrize("name", ["1.weight", "0.nothing", "0", ""])
def test_an_unknown_weight_is_a_key_error(name):
    with pytest.raises(KeyError):
        Weights(nn.Sequential(nn.Linear(3, 2)))[name]


def test_a_layer_is_found_by_name():
    info = LayerInfo(name="a", kind="relu", shape=(1, 2), num_units=2)
    assert Snapshot(step=0, trace=(info,)).layer("a") is info
    with pytest.raises(KeyError, match="b"):
        Snapshot(step=0, trace=(info,)).layer("b")


REFERENCES = References(inputs=torch.zeros(2, 3), labels=None, source="a test")


def test_a_monitor_with_passes_of_its_own_gets_the_samples_and_the_forward_pass():
    with isolated(nn.Linear(3, 2)) as forward:
        snapshot = Snapshot(step=0, references=REFERENCES, forward=forward)
        assert snapshot.own_passes("to explain") == (REFERENCES, forward)


def test_without_reference_samples_it_is_said_what_they_are_for():
    with (
        isolated(nn.Linear(3, 2)) as forward,
        pytest.raises(NothingToShow, match=r"no reference samples to explain: .* Write input_fn="),
    ):
        Snapshot(step=0, forward=forward).own_passes("to explain")


def test_a_forward_pass_whose_layers_cannot_be_read_is_refused():
    snapshot = Snapshot(step=0, references=REFERENCES, forward=lambda inputs, chunk=None: inputs)
    with pytest.raises(TypeError, match=r"forward is a function, whose layers .* `isolated"):
        snapshot.own_passes("to explain")
