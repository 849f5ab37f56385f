"""The functions that a user has given, tried on the very first batch of a run.

A wrong one would cost the whole run in silence, for each of its failures is caught. So it fails
at once, before anything is trained, as any wrong option does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from vis_callbacks._lightning import RunView
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.scores import describe
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Catch, IntendedError
from vis_callbacks.observer import Observer

_WRITE = {
    "input_fn": "Write input_fn=lambda batch: ... that returns the input tensor (samples, ...).",
    "label_fn": "Write label_fn=lambda batch: ... that returns the labels (samples,), or None.",
    "forward_fn": "Write forward_fn=lambda model, inputs: ... that returns the scores.",
}


class GivenFunctionError(IntendedError, ValueError):
    """A function that was given to a monitor fails on the first batch."""


def try_given_functions(
    monitors: Sequence[Observer], batch: Any, source: str, run: RunView
) -> None:
    """Calls each function that the user has given once, on the first batch that there is.

    Raises:
        GivenFunctionError: One has raised; the message says what to write.
    """
    has_batch = f"{source}, which looks like {describe(batch)}"
    # One rank may not make a pass by itself, and a lazy module's first one makes its weights.
    can_run = run.world_size == 1 and not any(map(is_lazy, run.model.parameters()))
    tried: set[int] = set()  # by identity: one of the user's may have no hash
    for monitor in monitors:
        for option, function in zip(_WRITE, monitor.functions, strict=True):
            if function is None or id(function) in tried:
                continue
            if option != "forward_fn":
                tried.add(id(function))
                _try(option, partial(harmless(function), batch), has_batch)
            elif can_run:
                inputs = None
                with Catch():  # that there are none is told elsewhere
                    inputs = monitor.reader.inputs(batch)
                if isinstance(inputs, Tensor):
                    tried.add(id(function))
                    has_inputs = f"the inputs {describe(inputs)} of {source}"
                    _try(option, partial(_run_forward, function, inputs, run), has_inputs)


def _try(option: str, call: Callable[[], Any], looks_like: str) -> None:
    with Catch() as caught:
        call()
    error = caught.error
    if error is not None and not isinstance(error, torch.OutOfMemoryError | MemoryError):
        words = f"{option} raised {error!r} on {looks_like}. {_WRITE[option]}"
        raise GivenFunctionError(words) from error


def _run_forward(forward: Callable[..., Any], inputs: Tensor, run: RunView) -> None:
    """Raises what the user's function raises; what our own pass fails with is told elsewhere."""
    raised: list[Exception] = []

    def watched(module: Any, given: Any) -> Any:
        with Catch() as caught:
            return forward(module, given)
        if caught.error is not None:
            raised.append(caught.error)
            raise caught.error
        return None

    context = run.forward_context
    with (
        Catch(),
        isolated(run.model, forward=watched, forward_context=context, grad=False) as passed,
    ):
        passed.run(inputs)
    if raised:
        raise raised[0]
