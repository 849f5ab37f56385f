"""Capturing again what a whole capture has captured, by hooks on these modules alone.

Where every nonlinearity of a model is a module, nothing but a hook on each is needed to read
the next step. That spares the function mode (under which each of torch's functions goes
through Python) and the stack of running modules: two thirds of what a snapshot within a burst
cost on small networks. A step that does not do what was planned (heads that take turns) is
noticed: another nonlinearity is called, or a planned one is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor, nn

from vis_callbacks.engine.capture import CapturedActivation, Plan, can_be_read
from vis_callbacks.engine.module_hooks import ModuleHooks
from vis_callbacks.engine.nonlinearities import MODULE_TYPES
from vis_callbacks.engine.plain_tensors import plain
from vis_callbacks.guard import Fail


@final
class PlannedCapture(ModuleHooks):
    """Captures what a plan of earlier steps names. It is opened and closed as a `Capture` is."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        callback: Callable[[CapturedActivation], object],
        fail: Fail,
    ) -> None:
        nonlinearities = {id(m) for m in model.modules() if isinstance(m, MODULE_TYPES)}
        super().__init__(fail, before=plan.outermost, after=nonlinearities | plan.calls.keys())
        self._plan = plan
        self._callback = callback
        self._num_calls: Counter[int] = Counter()
        self._met: set[str] = set()
        self._has_met_others = False

    @property
    def fits(self) -> bool:
        """Whether the step has called all that was planned, and no other nonlinearity."""
        planned = {call.name for calls in self._plan.calls.values() for call in calls}
        return not self._has_met_others and self._met == planned

    def start_batch(self, follow: Iterable[Tensor] = ()) -> None:
        """Begins the count of calls anew; nothing is followed."""
        super().start_batch()
        self._num_calls.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._num_calls.clear()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        planned = self._plan.calls.get(id(module), ())
        if planned and not can_be_read(output):
            return
        number = self._num_calls[id(module)]
        if number >= len(planned):
            self._has_met_others = True
            return
        self._num_calls[id(module)] = number + 1
        self._met.add(planned[number].name)
        given = args[0] if args and args[0] is not output else None
        inputs = plain(given) if can_be_read(given) else None
        captured = planned[number]._replace(values=plain(output), inputs=inputs, attached=output)
        with torch.no_grad():
            self._callback(captured)
