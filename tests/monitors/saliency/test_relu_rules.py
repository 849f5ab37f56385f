from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_callbacks.monitors.saliency.relu_rules import relu_rule


def in_place(call):
    """Uses an in-place form as a statement: what it returns is thrown away."""

    def statement(x: Tensor) -> Tensor:
        y = x * 1
        call(y)
        return y

    return statement


FORMS = {
    "module": nn.ReLU(),
    "in-place module": lambda x: nn.ReLU(inplace=True)(x * 1),
    "F.relu": F.relu,
    "F.relu, by keyword": lambda x: F.relu(input=x),
    "F.relu, in place": in_place(lambda x: F.relu(x, inplace=True)),
    "torch.relu": torch.relu,
    "torch.relu_": in_place(torch.relu_),
    "method": lambda x: x.relu(),
    "method, in place": in_place(lambda x: x.relu_()),
    "a view, in place": in_place(lambda x: x.view(-1).relu_()),
    "clamp": lambda x: x.clamp(min=0),
    "clamp, in place": in_place(lambda x: x.clamp_(min=0)),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "relu6": F.relu6,
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

# Springenberg et al. 2015, figure 1.
INPUT = torch.tensor([[1.0, -1, 5], [2, -5, -7], [-3, 2, 4]])
ABOVE = torch.tensor([[-2.0, 3, -1], [6, -3, 1], [2, -1, 3]])
PASSED = {
    "gradient": torch.tensor([[-2.0, 0, -1], [6, 0, 0], [0, -1, 3]]),
    "deconvnet": torch.tensor([[0.0, 3, 0], [6, 0, 1], [2, 0, 3]]),
    "guided": torch.tensor([[0.0, 0, 0], [6, 0, 0], [0, 0, 3]]),
}


def passed(form, rule: str, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor, int]:
    x = x.clone().requires_grad_()
    with relu_rule(rule) as used:
        y = form(x)
        (gradient,) = torch.autograd.grad(y, x, above)
    return y.detach(), gradient, used.num_relus


@every_form
@pytest.mark.parametrize("rule", PASSED)
def test_figure_1_of_springenberg_holds_for_every_form(form, rule):
    _, gradient, num_relus = passed(form, rule, INPUT, ABOVE)
    assert torch.equal(gradient, PASSED[rule])
    assert num_relus == (0 if rule == "gradient" else 1)


@every_form
@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_the_forward_pass_is_the_same_to_the_bit(form, rule):
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    x[0] = float("nan")
    result, _, _ = passed(form, rule, x, torch.ones(50))
    assert result[0].isnan()
    assert torch.equal(result[1:], form(x.clone())[1:])


class Net(nn.Module):
    """Two convolutions, with one form of the ReLU behind each; the second input is used twice."""

    def __init__(self, form) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        h = self.form(self.first(x))
        before = self.second(h)
        return (self.form(before * 1) + 0.5 * before).mean((2, 3))


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_a_network_has_the_same_gradient_whichever_form_it_uses(rule):
    torch.manual_seed(0)
    weights = Net(nn.ReLU()).double().state_dict()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    found = {}
    for name, form in FORMS.items():
        model = Net(form).double()
        model.load_state_dict(weights)
        found[name] = passed(model, rule, x, torch.randn(2, 6, generator=seeded()).double())
    _, expected, _ = found["module"]
    assert expected.abs().max() > 0
    assert expected.abs().max() < 6  # so that ReLU6 is a ReLU here
    for name, (_, gradient, num_relus) in found.items():
        assert torch.equal(gradient, expected), name
        assert num_relus == 2, name


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_what_else_uses_the_relus_input_keeps_its_gradient():
    x = torch.tensor([2.0, -3.0], requires_grad=True)
    with relu_rule("guided"):
        (gradient,) = torch.autograd.grad(-F.relu(x).sum() - 5 * x.sum(), x)
    assert gradient.tolist() == [-5.0, -5.0]


def test_relu6_passes_nothing_above_six():
    x = torch.tensor([-1.0, 3.0, 7.0])
    above = torch.tensor([1.0, 1.0, 1.0])
    assert passed(F.relu6, "guided", x, above)[1].tolist() == [0.0, 1.0, 0.0]
    assert passed(F.relu6, "deconvnet", x, above)[1].tolist() == [1.0, 1.0, 1.0]


BOUNDED = {
    "module": nn.Hardtanh(0, 2.5),
    "in-place module": lambda x: nn.Hardtanh(0, 2.5, inplace=True)(x * 1),
    "by keyword": lambda x: F.hardtanh(x, max_val=2.5, min_val=0.0),
    "in place": in_place(lambda x: F.hardtanh_(x, 0.0, 2.5)),
}


@pytest.mark.parametrize("form", BOUNDED.values(), ids=BOUNDED)
def test_a_hardtanh_from_0_on_is_a_relu_up_to_its_own_end(form):
    x, above = torch.tensor([-1.0, 2.0, 3.0, 7.0]), torch.tensor([1.0, 1.0, 1.0, -1.0])
    assert passed(form, "guided", x, above)[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert passed(form, "gradient", x, above)[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert passed(form, "deconvnet", x, above)[1].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_hardtanh_without_numbers_ends_at_one():
    x, above = torch.tensor([0.5, 2.0]), torch.ones(2)
    assert passed(lambda x: F.hardtanh(x, min_val=0.0), "guided", x, above)[1].tolist() == [1, 0]


@pytest.mark.parametrize("other", [F.leaky_relu, F.gelu, torch.tanh, lambda x: x.clamp(min=-1)])
def test_no_other_nonlinearity_is_touched(other):
    x = torch.randn(20, generator=seeded())
    above = torch.randn(20, generator=seeded())
    _, expected, _ = passed(other, "gradient", x, above)
    _, gradient, num_relus = passed(other, "guided", x, above)
    assert torch.equal(gradient, expected)
    assert num_relus == 0


@every_form
def test_gradient_checkpointing_changes_neither_the_rule_nor_the_count(form):
    torch.manual_seed(0)
    first, second = nn.Linear(4, 8), nn.Linear(8, 8)

    def net(x: Tensor) -> Tensor:
        return form(second(form(first(x))))

    x, above = torch.randn(3, 4), torch.randn(3, 8)
    _, expected, _ = passed(net, "guided", x, above)
    again = passed(lambda x: checkpoint(net, x, use_reentrant=False), "guided", x, above)
    assert expected.abs().max() > 0
    assert torch.equal(again[1], expected)
    assert again[2] == 2


def test_nonlinearities_without_a_rule_are_counted_by_their_kind():
    x = torch.randn(4, generator=seeded()).requires_grad_()
    with relu_rule("guided") as used:
        y = F.hardswish(F.relu(F.hardswish(x))) * torch.sigmoid(x)
        torch.autograd.grad(y.sum(), x)
    assert used.num_relus == 1
    assert used.left_out == {"hardswish": 2, "sigmoid": 1}


def test_what_lies_behind_the_unit_that_is_explained_is_not_counted():
    x = torch.randn(4, generator=seeded()).requires_grad_()
    with relu_rule("guided") as used:
        unit = F.relu(torch.tanh(x))
        F.relu(F.gelu(unit))
        torch.autograd.grad(unit.sum(), x)
    assert (used.num_relus, used.left_out) == (1, {"tanh": 1})


def test_a_recurrent_layer_is_a_nonlinearity_without_a_rule():
    x = torch.randn(2, 3, 4, generator=seeded()).requires_grad_()
    with relu_rule("guided") as used:
        torch.autograd.grad(nn.LSTM(4, 5)(x)[0].sum(), x)
    assert used.left_out == {"lstm": 1}


def test_a_relu_that_no_gradient_goes_through_is_not_counted():
    with relu_rule("guided") as used, torch.no_grad():
        F.relu(torch.ones(2, requires_grad=True))
    F.relu(torch.ones(2))
    assert used.num_relus == 0


def test_the_rule_ends_with_its_context_even_after_an_error():
    x = torch.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="on purpose"), relu_rule("guided"):
        raise RuntimeError("on purpose")
    (gradient,) = torch.autograd.grad(F.relu(x), x, torch.tensor([-1.0]))
    assert gradient.item() == -1.0
