"""How a gradient passes a ReLU: the rules of guided backpropagation and of the deconvnet.

With f what went into the ReLU and R the gradient from above, a ReLU passes

- the gradient: R where f > 0;
- the deconvnet (Zeiler and Fergus 2014): R where R > 0;
- guided backpropagation (Springenberg et al. 2015): R where f > 0 and R > 0.

A rule replaces the *calls*, of modules, functions, in-place forms, ``clamp(min=0)`` and
``threshold(0, 0)``. A hook on a module would miss the functions, and would change the gradient of
everything else that uses what went into the ReLU. Max-pooling needs nothing: autograd sends a
gradient to the maximum's place, which is what the deconvnet's switches are for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vis_callbacks.engine.nonlinearities import RELU, RELU6, classify

ReluRule = Literal["gradient", "guided", "deconvnet"]


@dataclass
class RuleInUse:
    """What the gradients under a rule have come through so far, over all passes.

    Attributes:
        num_relus: Calls of a ReLU that the rule was applied to.
        left_out: By kind, calls of other nonlinearities, which passed their own gradient.
    """

    num_relus: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def per_pass(self, num_passes: int) -> RuleInUse:
        """Returns the same of one pass."""
        left_out = {kind: count // num_passes for kind, count in self.left_out.items()}
        return RuleInUse(self.num_relus // num_passes, Counter(left_out))


@contextmanager
def relu_rule(rule: ReluRule) -> Iterator[RuleInUse]:
    """Makes gradients of passes inside the context go through every ReLU by this rule.

    Forward passes give bit for bit what they give without it, and the backward pass may run
    inside or outside. ReLU6, and a hardtanh that begins at 0, are ReLUs whose slope is also 0
    above their upper end. Other nonlinearities pass their own gradient. "gradient" leaves
    everything as it is and counts nothing.

    Example:
        >>> x = torch.tensor([1.0, -1.0], requires_grad=True)
        >>> with relu_rule("deconvnet") as used:
        ...     y = torch.relu(x)
        ...     (gradient,) = torch.autograd.grad(y, x, torch.tensor([-2.0, 3.0]))
        >>> gradient, used.num_relus
        (tensor([0., 3.]), 1)
    """
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
        is_differentiated = (
            isinstance(given, Tensor) and given.requires_grad and torch.is_grad_enabled()
        )
        if found is None or not is_differentiated or "out" in kwargs:
            return func(*args, **kwargs)
        if found not in (RELU, RELU6):
            result = func(*args, **kwargs)
            self._count(found.kind, result)
            return result
        end = _upper_end(func, args, kwargs) if found is RELU6 else math.inf
        named = {name: value for name, value in kwargs.items() if name != "input"}
        return _Ruled.apply(
            given,
            lambda x: func(x, *args[1:], **named),
            end if self._follows_input else None,
            func in RELU.functions,
            self._used,
        )

    def _count(self, kind: str, result: Any) -> None:
        """Counts a call when a gradient comes through it, which some calls never see."""
        first = result[0] if isinstance(result, tuple) else result
        left_out = self._used.left_out
        if isinstance(first, Tensor) and first.grad_fn is not None:
            first.grad_fn.register_prehook(lambda _: left_out.update([kind]))


def _upper_end(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Returns where a bounded ReLU becomes flat."""
    if func in RELU6.functions:
        return 6.0
    return float(args[2] if len(args) > 2 else kwargs.get("max_val", 1.0))  # a hardtanh's


class _Ruled(torch.autograd.Function):
    """A call as the model wrote it, with the backward pass of a rule.

    It saves the one tensor that the call itself would save. Non-reentrant checkpointing, which
    runs the call again without the rule, hands that one back, and no more memory is needed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        call: Callable[[Tensor], Tensor],
        end: float | None,
        saves_result: bool,
        used: RuleInUse,
    ) -> Tensor:
        """Runs the call. A gradient passes where the input is between 0 and ``end``.

        ``end`` is None where a gradient passes anywhere. What came out lies on the same side of
        both ends as what went in, so either may be saved.
        """
        result = call(given)
        if is_in_place := result is given:
            ctx.mark_dirty(given)
        ctx.end, ctx.used = end, used
        ctx.save_for_backward(result if saves_result or is_in_place else given)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Passes the positive part of what comes from above."""
        ctx.used.num_relus += 1
        passed = gradient.clamp(min=0)
        if ctx.end is not None:
            (saved,) = ctx.saved_tensors
            passed = passed * (saved > 0)
            if ctx.end < math.inf:
                passed = passed * (saved < ctx.end)
        return passed, None, None, None, None
