from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks.engine.capture import Capture
from vis_callbacks.engine.nonlinearities import MODULE_TYPES, NONLINEARITIES, classify

X = torch.tensor([[-1.0, 2.0]])


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "kind"),
    [
        (F.relu, (X,), {}, "relu"),
        (torch.relu_, (X,), {}, "relu"),
        (Tensor.relu, (X,), {}, "relu"),
        (torch.clamp, (X, 0), {}, "relu"),
        (Tensor.clamp, (X,), {"min": 0.0}, "relu"),
        (Tensor.clamp_min, (X, 0), {}, "relu"),
        (torch.clamp, (X, 0, 6), {}, None),
        (torch.clamp, (X, torch.zeros(1)), {}, None),
        (torch.clamp, (X, 1), {}, None),
        (F.hardtanh, (X, 0.0, 6.0), {}, "relu6"),
        (F.hardtanh, (X,), {"min_val": 0, "max_val": 6}, "relu6"),
        (F.hardtanh, (X,), {}, "hardtanh"),
        (F.threshold, (X, 0, 0), {}, "relu"),
        (F.threshold, (X, 1, 0), {}, "threshold"),
        (F.gelu, (X,), {}, "gelu"),
        (torch.special.expit, (X,), {}, "sigmoid"),
        (torch.sum, (X,), {}, None),
    ],
)
def test_a_call_is_classified_by_function_and_arguments(function, args, kwargs, kind):
    found = classify(function, args, kwargs)
    assert (found.kind if found else None) == kind


@pytest.mark.parametrize("kind", [t for t in MODULE_TYPES if t is not nn.RNNBase])
def test_each_module_type_is_seen_as_one_nonlinearity_under_its_own_name(kind):
    module = kind(0.0, 0.0) if kind is nn.Threshold else kind()
    model, seen = nn.Sequential(module), []
    with Capture(model, seen.append), torch.no_grad():
        model(torch.randn(2, 3))
    assert [s.name for s in seen] == ["0"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_hidden_states_of_a_recurrent_layer_are_seen(kind):
    model, seen = nn.Sequential(kind(3, 5, batch_first=True)), []
    with Capture(model, seen.append), torch.no_grad():
        model(torch.randn(2, 4, 3))
    assert [(s.name, tuple(s.values.shape), s.unit_axis) for s in seen] == [("0", (2, 4, 5), -1)]


# Recurrent layers are no elementwise functions; hardtanh and threshold depend on their arguments.
ELEMENTWISE = [
    n
    for n in NONLINEARITIES
    if not n.kind.startswith(("lstm", "gru", "rnn", "hardtanh", "threshold"))
]


@pytest.mark.parametrize("nonlinearity", ELEMENTWISE, ids=lambda n: n.kind)
def test_the_table_tells_the_truth_about_zeros_and_signs(nonlinearity):
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    weight = (torch.tensor([0.25], dtype=torch.float64),) if nonlinearity.kind == "prelu" else ()
    y = nonlinearity.functions[0](x.clone(), *weight)
    assert bool((y[x < -0.5] == 0).all()) == nonlinearity.has_flat_zero
    assert bool((y >= 0).all()) == nonlinearity.is_nonnegative
