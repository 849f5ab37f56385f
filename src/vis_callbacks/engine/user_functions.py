"""Calling the user's functions so that the run goes on as if they had not been called."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from torch import Tensor

from vis_callbacks.engine.isolation import forked_rng
from vis_callbacks.engine.reached_state import ReachedState
from vis_callbacks.engine.state_kinds import detached_clone
from vis_callbacks.engine.state_watch import KeptState
from vis_callbacks.guard import Catch

P = ParamSpec("P")
R = TypeVar("R")


@overload
def harmless(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def harmless(function: None) -> None: ...
def harmless(function: Callable[P, R] | None) -> Callable[P, R] | None:
    """Returns a function that does what the user's does, and leaves no trace in the run.

    It works on a deep copy of what it is given, so it may write into a batch or take parts out
    of it; where a batch cannot be copied, it is put back as it was. All random streams come
    back to where they were. None stays None.
    """
    if function is None:
        return None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with forked_rng():
            with Catch() as caught:
                own_args, own_kwargs = own_copy((args, kwargs))
            if caught.error is None:
                return function(*own_args, **own_kwargs)
            kept = KeptState([("", (args, kwargs))])
            try:
                with kept.writes:
                    result = function(*args, **kwargs)
                if isinstance(result, Tensor) and kept.writes.was_written(result):
                    result = detached_clone(result)
                return result
            finally:
                kept.put_back()

    return call


def own_copy(value: Any) -> Any:
    """Returns a deep copy; its tensors, in a graph or not, are clones without a graph."""
    tensors = ReachedState([("", value)]).tensors
    return copy.deepcopy(value, {id(tensor): detached_clone(tensor) for tensor in tensors})
