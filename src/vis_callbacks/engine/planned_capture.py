"""Seeing again what a whole capture has seen, by hooks on these modules alone.

Where every nonlinearity of a model is a module, nothing but a hook on each is needed to read
the next step. That spares the function mode (under which each of torch's functions goes
through Python) and the stack of running modules: two thirds of what a snapshot within a burst
cost on small networks. A step that does not do what was planned (heads that take turns) is
noticed: another nonlinearity is called, or a planned one is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from vis_callbacks.engine.capture import (
    OPEN_CAPTURES,
    Seen,
    Sink,
    WeightedCall,
    can_be_read,
    in_backward,
)
from vis_callbacks.engine.module_hooks import ModuleHooks
from vis_callbacks.engine.nonlinearities import MODULE_TYPES, Nonlinearity
from vis_callbacks.engine.plain_tensors import plain
from vis_callbacks.guard import Fail


class PlannedCall(NamedTuple):
    """What is known of one call of a module before it is made."""

    name: str
    nonlinearity: Nonlinearity
    weighted: WeightedCall | None


@dataclass(frozen=True)
class Plan:
    """Which modules are read. Modules are told apart by their ids.

    Attributes:
        calls: By module, its calls in one forward pass, in their order.
        outermost: The modules whose call begins a forward pass.
        modules: Those of ``calls``, so that no id is given to another.
    """

    calls: Mapping[int, tuple[PlannedCall, ...]]
    outermost: frozenset[int]
    modules: tuple[nn.Module, ...]


class Planner:
    """Learns a plan from what a whole capture tells of one step."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, PlannedCall]] = {}
        self._modules: list[nn.Module] = []
        self._is_possible = True

    def note(self, seen: Seen) -> None:
        """Takes one activation. Of a later forward pass in the step it is known already."""
        module, nonlinearity = seen.module, seen.nonlinearity
        if seen.is_outside:
            return
        if nonlinearity is None or not _is_one_call(module):
            self._is_possible = False
            return
        call = PlannedCall(seen.name, nonlinearity, seen.weighted)
        self._calls.setdefault(id(module), {}).setdefault(seen.name, call)
        self._modules.append(module)

    def plan(self, outermost: Collection[int], inner: Collection[int]) -> Plan | None:
        """Returns the plan, or None where hooks on single modules would not see the same.

        Args:
            outermost: The ids of modules that were called by no other.
            inner: The ids of modules that were called by another.
        """
        begins = frozenset(outermost)
        is_clear = begins.isdisjoint(inner) and begins.isdisjoint(self._calls)
        if not self._is_possible or not self._calls or not is_clear:
            return None
        calls = {key: tuple(by_name.values()) for key, by_name in self._calls.items()}
        return Plan(calls, begins, tuple(self._modules))


class PlannedCapture:
    """Reads what a plan names. It is opened and closed as a `Capture` is.

    Args:
        model: Of whose steps the plan was made.
        plan: Names what is read.
        sink: See `Capture`.
        fail: See `Capture`.
    """

    def __init__(self, model: nn.Module, plan: Plan, sink: Sink, fail: Fail) -> None:
        self._plan = plan
        self._sink = sink
        self.hooks = ModuleHooks(self._before, self._after, fail, self._interrupt)
        self._others = frozenset(
            id(module)
            for module in model.modules()
            if isinstance(module, MODULE_TYPES) and id(module) not in plan.calls
        )
        self._num_calls: Counter[int] = Counter()
        self._met: set[str] = set()
        self._all = {call.name for calls in plan.calls.values() for call in calls}
        self._has_met_others = False
        self._is_paused = False
        self.was_interrupted = False

    def __enter__(self) -> Self:
        self.hooks.open()
        OPEN_CAPTURES.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether anything is attached."""
        return self.hooks.is_open

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
        self.hooks.close()
        self._num_calls.clear()
        OPEN_CAPTURES.discard(self)

    def _interrupt(self) -> None:
        """Takes the hooks off: the compiler would guard on them."""
        # What is compiled in backward or update leaves what was read of the forward pass.
        self.was_interrupted = not self._is_paused
        self.hooks.mute()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in self._plan.outermost and not self._is_paused and not in_backward():
            self._num_calls.clear()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        key = id(module)
        planned = self._plan.calls.get(key)
        if (planned is None and key not in self._others) or self._is_paused or in_backward():
            return
        if planned is None:
            self._has_met_others = True
        elif can_be_read(output):
            number = self._num_calls[key]
            self._num_calls[key] = number + 1
            if number < len(planned):
                self._tell(module, planned[number], args[0] if args else None, output)
            else:
                self._has_met_others = True

    def _tell(self, module: nn.Module, call: PlannedCall, given: Any, output: Tensor) -> None:
        self._met.add(call.name)
        is_kept = given is not output and can_be_read(given)
        with torch.no_grad():
            self._sink(
                Seen(
                    name=call.name,
                    site="output",
                    values=plain(output),
                    inputs=plain(given) if is_kept else None,
                    nonlinearity=call.nonlinearity,
                    module=module,
                    weighted=call.weighted,
                    attached=output,
                )
            )


def _is_one_call(module: nn.Module) -> bool:
    """Whether a call of the module is one call of its nonlinearity: torch's own, not recurrent."""
    is_nonlinearity = isinstance(module, MODULE_TYPES) and not isinstance(module, nn.RNNBase)
    return is_nonlinearity and type(module).__module__.startswith("torch.nn.modules.")
