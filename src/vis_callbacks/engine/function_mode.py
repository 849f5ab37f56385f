"""Seeing each of torch's functions where it is called, by a mode that harms no mode of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Self

from torch import Tensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,  # no public way to see whose mode is on top
    _pop_mode,
)

from vis_callbacks.engine.loss_calls import LOSSES
from vis_callbacks.engine.module_hooks import ModuleHooks
from vis_callbacks.engine.nonlinearities import FUNCTIONS
from vis_callbacks.engine.weight_search import CONVOLUTIONS, LINEAR, TRANSPOSED
from vis_callbacks.guard import Contained

WEIGHTED = LINEAR | CONVOLUTIONS | TRANSPOSED
_CAPTURED = WEIGHTED | FUNCTIONS | LOSSES
_CAPTURED_TYPES = frozenset(map(type, _CAPTURED))  # of these no hash is the user's


class FunctionMode(TorchFunctionMode):
    """Passes each call on, and then shows it to a capture.

    While ``followed`` holds anything, every function is looked at; ``hooks`` count the seconds.
    """

    def __init__(
        self, look_at: Contained, followed: Mapping[int, Tensor], hooks: ModuleHooks
    ) -> None:
        super().__init__()
        self._look_at: Contained | None = look_at
        self._followed = followed
        self._hooks = hooks
        self._below: Any = None  # the mode under it, if there is one

    def __enter__(self) -> Self:
        self._below = [None, *_modes()][-1]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Most calls are of no interest: a whole step makes some hundred of them.
        is_captured = type(func) in _CAPTURED_TYPES and func in _CAPTURED
        if self._look_at is not None and (is_captured or self._followed):
            started = perf_counter()
            self._look_at(func, args, kwargs or {}, result)
            self._hooks.seconds += perf_counter() - started
        return result

    def leave(self) -> None:
        """Takes the mode off the stack, or makes it inert where another lies above it.

        A mode that the user opened in between and has not closed yet is on top; our exit
        would pop theirs. The other way round, the exit of a mode that they had opened before
        popped ours, and theirs is still there.
        """
        self._look_at = None
        stack, below = [None, *_modes()], self._below
        self._below = None
        if stack[-1] is self:
            self.__exit__(None, None, None)
        elif any(mode is self for mode in stack):
            _INERT.append(self)
        elif below is not None and stack[-1] is below:
            _pop_mode()  # type: ignore[no-untyped-call]


# Modes that only wait to be taken off.
_INERT: list[FunctionMode] = []


def remove_inert_modes() -> None:
    """Takes off modes of ours that could not be closed in their turn and have surfaced."""
    while (modes := _modes()) and any(modes[-1] is mode for mode in _INERT):
        modes[-1].__exit__(None, None, None)
        _INERT.remove(modes[-1])


def _modes() -> list[Any]:
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]
