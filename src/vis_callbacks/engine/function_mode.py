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

from vis_callbacks.analysis.nonlinearities import FUNCTIONS
from vis_callbacks.analysis.weighted_calls import CONVOLUTIONS, LINEAR, TRANSPOSED
from vis_callbacks.engine.module_hooks import ModuleHooks
from vis_callbacks.guard import Contained

WEIGHTED = LINEAR | CONVOLUTIONS | TRANSPOSED
_CAPTURED = WEIGHTED | FUNCTIONS
_CAPTURED_TYPES = frozenset(map(type, _CAPTURED))  # of these no hash is the user's


class FunctionMode(TorchFunctionMode):
    """Passes each call on, and then shows it to a capture.

    Args:
        look_at: Is given function, positional and keyword arguments, and the result.
        followed: While this holds anything, every function is looked at.
        hooks: Are told of the seconds that looking takes.
    """

    def __init__(
        self, look_at: Contained, followed: Mapping[int, Tensor], hooks: ModuleHooks
    ) -> None:
        super().__init__()
        self._look_at: Contained | None = look_at
        self._followed = followed
        self._hooks = hooks
        self._below: Any = None

    def __enter__(self) -> Self:
        self._below = _top_mode()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        look_at = self._look_at
        # Most calls are of no interest: a whole step makes some hundred of them.
        is_captured = type(func) in _CAPTURED_TYPES and func in _CAPTURED
        if look_at is not None and (is_captured or self._followed):
            started = perf_counter()
            look_at(func, args, kwargs or {}, result)
            self._hooks.seconds += perf_counter() - started
        return result

    def leave(self) -> None:
        """Takes the mode off the stack, or makes it inert where another lies above it.

        A mode that the user opened in between and has not closed yet is on top; our exit
        would pop theirs. The other way round, the exit of a mode that they had opened before
        popped ours, and theirs is still there.
        """
        self._look_at = None
        below, self._below = self._below, None
        stack = _modes()
        if stack and stack[-1] is self:
            self.__exit__(None, None, None)
        elif any(mode is self for mode in stack):
            _INERT.append(self)
        elif stack and stack[-1] is below:
            _pop_mode()  # type: ignore[no-untyped-call]


# Modes that only wait to be taken off.
_INERT: list[FunctionMode] = []


def remove_inert_modes() -> None:
    """Takes off modes of ours that could not be closed in their turn and have surfaced."""
    while _INERT and any(_top_mode() is mode for mode in _INERT):
        top = _top_mode()
        top.__exit__(None, None, None)
        _INERT.remove(top)


def _modes() -> list[Any]:
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _top_mode() -> Any:
    modes = _modes()
    return modes[-1] if modes else None
