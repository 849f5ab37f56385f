"""How a gradient passes a ReLU: the rules of guided backpropagation and of the deconvnet.

With f the sign of what went in and R the gradient from above, a ReLU passes

- the gradient: R where f > 0;
- the deconvnet (Zeiler and Fergus 2014): R where R > 0;
- guided backpropagation (Springenberg et al. 2015): R where f > 0 and R > 0.

A rule replaces the *calls*: modules, reused modules, functions, in-place forms, ``clamp(min=0)``
and ``threshold(0, 0)`` all come by here, and no module is hooked or exchanged. A hook on a
module would miss the functions, and would change the gradient of whatever else uses what went
into the ReLU. Max-pooling needs nothing: autograd sends a gradient to the maximum's place, which
is what the deconvnet's switches are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vis_callbacks.analysis.nonlinearities import RELU, RELU6, classify

ReluRule = Literal["gradient", "guided", "deconvnet"]
RELU_RULES: tuple[ReluRule, ...] = ("gradient", "guided", "deconvnet")


class RuleInUse:
    """What a rule has met so far.

    Attributes:
        num_relus: Calls of ReLU and ReLU6 that the rule was applied to, over all passes.
    """

    num_relus = 0


@contextmanager
def relu_rule(rule: ReluRule) -> Iterator[RuleInUse]:
    """Makes gradients of passes inside the context go through every ReLU by this rule.

    Forward passes give what they give without, to the bit. The backward pass may run inside or
    outside. ReLU6 is a ReLU whose slope is also 0 above 6. Other nonlinearities have no such
    rule and pass their gradient.

    Args:
        rule: "gradient" leaves everything as it is.

    Yields:
        The count of the ReLUs met; with "gradient" it stays 0.

    Raises:
        ValueError: There is no such rule.

    Example:
        >>> x = torch.tensor([1.0, -1.0], requires_grad=True)
        >>> with relu_rule("deconvnet") as used:
        ...     y = torch.relu(x)
        ...     (gradient,) = torch.autograd.grad(y, x, torch.tensor([-2.0, 3.0]))
        >>> gradient, used.num_relus
        (tensor([0., 3.]), 1)

    References:
        Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks";
        Springenberg et al. 2015, "Striving for simplicity: the all convolutional net", figure 1.
    """
    if rule not in RELU_RULES:
        raise ValueError(f'rule="{rule}" is no rule. Use {", ".join(RELU_RULES)}.')
    used = RuleInUse()
    if rule == "gradient":
        yield used
        return
    with _RuleMode(rule, used):
        yield used


class _RuleMode(TorchFunctionMode):
    """Gives each call of a ReLU the backward pass of a rule."""

    def __init__(self, rule: ReluRule, used: RuleInUse) -> None:
        super().__init__()
        self._follows_input = rule == "guided"
        self._used = used

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = classify(func, args, kwargs)
        given = args[0] if args else kwargs.get("input")
        if found not in (RELU, RELU6) or not _is_differentiated(given) or "out" in kwargs:
            return func(*args, **kwargs)
        self._used.num_relus += 1
        others = args[1:]
        named = {name: value for name, value in kwargs.items() if name != "input"}
        is_relu = func in RELU.functions
        slope = _SLOPES[found.kind] if self._follows_input else None
        return _Ruled.apply(given, lambda x: func(x, *others, **named), slope, is_relu)


def _is_differentiated(given: object) -> bool:
    return isinstance(given, Tensor) and given.requires_grad and torch.is_grad_enabled()


# Told from what went in as well as from what came out: both lie on the same side of 0 and 6.
_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x > 0,
    "relu6": lambda x: (x > 0) & (x < 6),
}


class _Ruled(torch.autograd.Function):
    """A call as the model wrote it, with the backward pass of a rule.

    It saves the one tensor that the call itself would save: non-reentrant checkpointing, which
    runs the call again without the rule, hands that one back, and it takes no memory of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        call: Callable[[Tensor], Tensor],
        slope: Callable[[Tensor], Tensor] | None,
        saves_result: bool,
    ) -> Tensor:
        """Runs the call; ``slope`` says where the input lets a gradient pass, None: anywhere."""
        result = call(given)
        is_in_place = result is given
        if is_in_place:
            ctx.mark_dirty(given)
        ctx.slope = slope
        ctx.save_for_backward(result if saves_result or is_in_place else given)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Passes the positive part of what comes from above."""
        passed = gradient.clamp(min=0)
        if ctx.slope is not None:
            passed = passed * ctx.slope(*ctx.saved_tensors)
        return passed, None, None, None
