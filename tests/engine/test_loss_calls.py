from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks.engine.capture import Capture
from vis_callbacks.engine.loss_calls import LossInputs

CALLS = {
    "cross_entropy": lambda x, y: F.cross_entropy(x, y),
    "nll_loss": lambda x, y: F.nll_loss(input=x, target=y),
    "mse_loss": lambda x, y: nn.MSELoss()(x, F.one_hot(y, 3).float()),
    "binary_cross_entropy_with_logits": lambda x, y: nn.BCEWithLogitsLoss()(
        x, F.one_hot(y, 3).float()
    ),
}


def inputs_of(loss: object) -> tuple[Tensor, LossInputs]:
    net = nn.Linear(4, 3)
    with Capture(net, lambda captured: None) as capture:
        outputs = net(torch.randn(5, 4))
        if callable(loss):
            loss(outputs, torch.arange(5) % 3)
        return outputs, capture.take_loss_inputs()


@pytest.mark.parametrize("kind", CALLS)
def test_a_capture_sees_what_a_loss_is_given(kind: str) -> None:
    outputs, inputs = inputs_of(CALLS[kind])
    (call,) = inputs.calls
    assert call.kind == kind
    assert call.outputs is outputs
    assert len(call.targets) == 5


def test_without_a_loss_there_is_what_the_model_returned() -> None:
    outputs, inputs = inputs_of(None)
    assert inputs.calls == []
    assert inputs.returned == (outputs,)


def test_each_call_is_given_once() -> None:
    net = nn.Linear(4, 3)
    with Capture(net, lambda captured: None) as capture:
        F.l1_loss(net(torch.randn(5, 4)), torch.zeros(5, 3))
        assert len(capture.take_loss_inputs().calls) == 1
        assert capture.take_loss_inputs().calls == []


@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (lambda x, y: F.cross_entropy(x, y), -100),
        (lambda x, y: F.cross_entropy(x, y, ignore_index=0), 0),
        (lambda x, y: F.nll_loss(x, y, None, None, 1), 1),
        (lambda x, y: nn.CrossEntropyLoss(ignore_index=2)(x, y), 2),
    ],
)
def test_the_class_that_is_left_out_is_known(loss: object, ignored: int) -> None:
    (call,) = inputs_of(loss)[1].calls
    assert call.ignored == ignored


def test_a_metric_that_the_step_logs_is_not_taken_for_the_loss() -> None:
    net = nn.Linear(4, 3)
    labels = torch.arange(5) % 3
    with Capture(net, lambda captured: None, is_users_pass=True) as capture:
        outputs = net(torch.randn(5, 4))
        with torch.no_grad():
            F.mse_loss(outputs, torch.zeros(5, 3))
        F.l1_loss(outputs.detach(), torch.zeros(5, 3))
        F.cross_entropy(outputs, labels)
        assert [call.kind for call in capture.take_loss_inputs().calls] == ["cross_entropy"]
