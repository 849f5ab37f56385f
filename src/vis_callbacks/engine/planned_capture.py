"""Seeing again what a whole capture has seen, by hooks on these modules alone.

Where every nonlinearity of a model is a module, nothing but a hook on each is needed to read
the next step. That spares the function mode (under which each of torch's functions goes
through Python) and the stack of running modules: two thirds of what a snapshot within a burst
cost on small networks. A step that does not do what was planned (heads that take turns) is
noticed: another nonlinearity is called, or a planned one is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vis_callbacks.analysis.nonlinearities import MODULE_TYPES, Nonlinearity
from vis_callbacks.engine.capture import Seen, Sink, WeightedCall, can_be_read, in_backward
from vis_callbacks.guard import Attempt


class PlannedCall(NamedTuple):
    """What is known of one call of a module before it is made."""

    name: str
    nonlinearity: Nonlinearity
    weighted: WeightedCall | None


@dataclass(frozen=True)
class Plan:
    """Which modules are read.

    Attributes:
        calls: By module, its calls in one forward pass, in their order.
        outermost: The modules whose call begins a forward pass.
    """

    calls: Mapping[nn.Module, tuple[PlannedCall, ...]]
    outermost: frozenset[nn.Module]


class Planner:
    """Learns a plan from what a whole capture tells of one step."""

    def __init__(self) -> None:
        self._calls: dict[nn.Module, dict[str, PlannedCall]] = {}
        self._is_possible = True

    def note(self, seen: Seen) -> None:
        """Takes one activation. Of a later forward pass in the step it is known already."""
        module, nonlinearity = seen.module, seen.nonlinearity
        if nonlinearity is None or not _is_one_call(module):
            self._is_possible = False
            return
        call = PlannedCall(seen.name, nonlinearity, seen.weighted)
        self._calls.setdefault(module, {}).setdefault(seen.name, call)

    def plan(self, outermost: Collection[nn.Module], inner: Collection[nn.Module]) -> Plan | None:
        """Returns the plan, or None where hooks on single modules would not see the same.

        Args:
            outermost: Modules that were called by no other.
            inner: Modules that were called by another.
        """
        begins = frozenset(outermost)
        is_clear = begins.isdisjoint(inner) and begins.isdisjoint(self._calls)
        if not self._is_possible or not self._calls or not is_clear:
            return None
        return Plan({m: tuple(calls.values()) for m, calls in self._calls.items()}, begins)


class PlannedCapture:
    """Reads what a plan names. It is opened and closed as a `Capture` is.

    Args:
        model: Of whose steps the plan was made.
        plan: Names what is read.
        sink: See `Capture`.
        fail: See `Capture`.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, sink: Sink, fail: Callable[[Exception], object]
    ) -> None:
        self._model = model
        self._plan = plan
        self._sink = sink
        self._fail = fail
        self._handles: list[RemovableHandle] = []
        self._num_calls: Counter[nn.Module] = Counter()
        self._met: set[str] = set()
        self._all = {call.name for calls in plan.calls.values() for call in calls}
        self._has_met_others = False
        self._is_paused = False

    def __enter__(self) -> Self:
        if self.is_open:
            return self
        try:
            for module in self._plan.outermost:
                self._handles.append(module.register_forward_pre_hook(self._begin))
            for module in self._plan.calls:
                # First of all hooks: a user's own may change what the others are given.
                self._handles.append(module.register_forward_hook(self._after, prepend=True))
            for module in self._model.modules():
                if isinstance(module, MODULE_TYPES) and module not in self._plan.calls:
                    self._handles.append(module.register_forward_hook(self._meet_other))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether anything is attached."""
        return bool(self._handles)

    @property
    def fits(self) -> bool:
        """Whether the step has called all that was planned, and no other nonlinearity."""
        return not self._has_met_others and self._met == self._all

    def start_batch(self) -> None:
        """Begins the count of calls anew."""
        self._num_calls.clear()
        self._is_paused = False

    def pause(self) -> None:
        """Sees nothing until the next `start_batch`."""
        self._is_paused = True

    def close(self) -> None:
        """Takes everything off again, in whatever state it is."""
        while self._handles:
            self._handles.pop().remove()
        self._num_calls.clear()

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._is_paused and not in_backward():
            self._num_calls.clear()

    def _meet_other(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._is_paused and not in_backward():
            self._has_met_others = True

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._is_paused or in_backward() or not can_be_read(output):
            return
        number = self._num_calls[module]
        self._num_calls[module] = number + 1
        planned = self._plan.calls[module]
        if number >= len(planned):
            self._has_met_others = True
            return
        with Attempt() as attempt, torch.no_grad():
            call = planned[number]
            self._met.add(call.name)
            given = args[0] if args and args[0] is not output else None
            self._sink(
                Seen(
                    name=call.name,
                    site="output",
                    values=output.detach(),
                    inputs=given.detach() if isinstance(given, Tensor) else None,
                    nonlinearity=call.nonlinearity,
                    module=module,
                    weighted=call.weighted,
                    attached=output,
                )
            )
        if attempt.error is not None:
            self._fail(attempt.error)


def _is_one_call(module: nn.Module) -> bool:
    """Whether a call of the module is one call of its nonlinearity: torch's own, not recurrent."""
    is_nonlinearity = isinstance(module, MODULE_TYPES) and not isinstance(module, nn.RNNBase)
    return is_nonlinearity and type(module).__module__.startswith("torch.nn.modules.")
