from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.models
from tests.identity import num_hooks, num_hooks_on
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from vis_callbacks.engine.capture import Capture, CapturedActivation, Plan
from vis_callbacks.engine.planned_capture import PlannedCapture


def whole(model: nn.Module, *inputs: Tensor, run: Callable[..., object] | None = None):
    """Returns what a whole capture sees of a pass, and the plan that it makes."""
    seen: list[CapturedActivation] = []
    with Capture(model, seen.append, is_users_pass=True) as capture:
        (run or model)(*inputs)
    return seen, capture.plan()


def planned(plan: Plan, model: nn.Module, *inputs: Tensor) -> list[CapturedActivation]:
    seen: list[CapturedActivation] = []
    with PlannedCapture(model, plan, seen.append, fail=_raise):
        model(*inputs)
    return seen


def _raise(error: Exception) -> None:
    raise error


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.relu = nn.ReLU()
        self.last = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.relu(self.fc(self.relu(self.fc(x)))))


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "reused and in-place": lambda: (Reused(), torch.randn(3, 4)),
    "gelu, tanh, relu6": lambda: (
        nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Tanh(), nn.Linear(4, 4), nn.ReLU6()),
        torch.randn(3, 4),
    ),
    "resnet18": lambda: (torchvision.models.resnet18(), torch.randn(2, 3, 32, 32)),
    "mobilenet_v3_small": lambda: (
        torchvision.models.mobilenet_v3_small(),
        torch.randn(2, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_planned_capture_sees_what_a_whole_one_sees(name):
    model, x = MODELS[name]()
    model.eval()  # batch statistics and dropout would make two passes differ
    with torch.no_grad():
        expected, plan = whole(model, x)
        got = planned(plan, model, x)
    assert len(expected) > 1
    assert [s.name for s in got] == [s.name for s in expected]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one.values, other.values)
        assert (one.inputs is None) == (other.inputs is None)
        assert one.inputs is None or torch.equal(one.inputs, other.inputs)
        assert (one.kind, one.unit_axis, one.is_gate, one.weighted) == (
            other.kind, other.unit_axis, other.is_gate, other.weighted,
        )  # fmt: skip


def test_the_calls_of_two_forward_passes_in_a_step_have_the_same_names():
    model, x = Reused(), torch.randn(3, 4)
    _, plan = whole(model, x)
    seen: list[CapturedActivation] = []
    with PlannedCapture(model, plan, seen.append, fail=_raise):
        model(x)
        model(x)
    assert [s.name for s in seen] == ["relu", "relu-1", "last.1"] * 2


def test_nothing_but_its_own_hooks_is_attached_and_no_function_mode():
    model, x = Reused(), torch.randn(3, 4)
    _, plan = whole(model, x)
    capture = PlannedCapture(model, plan, lambda seen: None, fail=_raise)
    assert not capture.is_open
    for _ in range(2):  # entering twice is harmless
        capture.__enter__()
    assert capture.is_open
    assert num_hooks() == 3  # before and after every module, and before the compiler's work
    assert num_hooks_on(model) == 0
    assert _get_current_function_mode_stack() == []
    for _ in range(2):
        capture.close()
    assert num_hooks() == 0


def test_a_failing_sink_is_handed_over_and_the_pass_goes_on():
    def sink(seen: CapturedActivation) -> None:
        raise RuntimeError("ours")

    model, x, failures = Reused(), torch.randn(3, 4), []
    _, plan = whole(model, x)
    with PlannedCapture(model, plan, sink, fail=failures.append):
        assert model(x).shape == (3, 4)
    assert [str(error) for error in failures] == ["ours"] * 3


def test_a_pass_that_was_broken_off_does_not_shift_the_names_of_the_next():
    model, x = Reused(), torch.randn(3, 4)
    _, plan = whole(model, x)
    seen: list[CapturedActivation] = []
    broken = model.last.register_forward_pre_hook(lambda *args: 1 / 0)
    with PlannedCapture(model, plan, seen.append, fail=_raise):
        with pytest.raises(ZeroDivisionError):
            model(x)
        broken.remove()
        seen.clear()
        model(x)
    assert [s.name for s in seen] == ["relu", "relu-1", "last.1"]


def test_what_the_users_hook_makes_of_an_output_is_not_taken_for_the_activation():
    model, x = Reused(), torch.randn(3, 4)
    _, plan = whole(model, x)
    model.relu.register_forward_hook(lambda module, args, output: output - 1)
    assert all((s.values >= 0).all() for s in planned(plan, model, x))


class Functional(Reused):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Own(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


@pytest.mark.parametrize(
    "model",
    [Functional(), nn.Sequential(nn.Linear(4, 4), Own()), nn.Linear(4, 4)],
    ids=["a function is among them", "a class of the user's own", "no nonlinearity"],
)
def test_there_is_no_plan_where_hooks_would_not_see_the_same(model):
    assert whole(model, torch.randn(3, 4))[1] is None


def test_there_is_no_plan_for_a_recurrent_layer():
    model = nn.Sequential(nn.LSTM(4, 5))
    assert whole(model, torch.randn(3, 2, 4))[1] is None


def test_there_is_no_plan_where_the_training_step_calls_a_nonlinearity_itself():
    model = Reused()
    assert whole(model, torch.randn(3, 4), run=lambda x: model.relu(model(x)))[1] is None


def test_there_is_no_plan_where_what_begins_a_pass_also_runs_within_one():
    model = Reused()
    assert whole(model, torch.randn(3, 4), run=lambda x: model(model.last(x)))[1] is None


def test_what_runs_while_it_is_paused_is_not_seen():
    model, x = Reused(), torch.randn(3, 4)
    _, plan = whole(model, x)
    seen: list[CapturedActivation] = []
    with PlannedCapture(model, plan, seen.append, fail=_raise) as capture:
        model(x)
        capture.pause()
        model(x)  # an optimizer that calls its closure again
        assert len(seen) == 3
        capture.start_batch()
        model(x)
    assert len(seen) == 6


def test_a_call_that_cannot_be_read_takes_no_ones_place():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x) + self.relu(x[:, 0])[:, None]

    model, x = Mixed(), torch.randn(3, 4)
    flipped = type(
        "Flipped", (Mixed,), {"forward": lambda m, x: m.relu(x[:, 0])[:, None] + m.relu(x)}
    )()
    for net in (model, flipped):
        expected, plan = whole(net, x)
        assert [s.name for s in planned(plan, net, x)] == [s.name for s in expected] == ["relu"]


class Turns(nn.Module):
    """Heads that take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2))
        self.turn = "a"

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.turn)(x) if self.turn != "both" else self.b(self.a(x))


@pytest.mark.parametrize(
    ("planned_turn", "turn", "fits"),
    [("a", "a", True), ("a", "b", False), ("a", "both", False), ("both", "a", False)],
)
def test_a_step_that_is_not_the_planned_one_is_noticed(planned_turn, turn, fits):
    model, x = Turns(), torch.randn(3, 4)
    model.turn = planned_turn
    _, plan = whole(model, x)
    model.turn = turn
    with PlannedCapture(model, plan, lambda seen: None, fail=_raise) as capture:
        model(x)
    assert capture.fits is fits
