"""Hooks around every call of a module, none of which hangs on a module.

A hook on a module is copied and pickled with it: a checkpoint callback that saves the model, or
an average of weights that copies it, would carry ours away, or fail on them. It also switches
off the fused path of ``nn.TransformerEncoderLayer``. PyTorch's hooks on all modules do neither.
They see the modules of the whole process, so each capture knows the ids of its own.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Set
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from vis_callbacks.guard import Contained, Fail

# What a module that the user has just compiled would warn of at its first call; under ``-W error``
# that ends the run. The list is changed without ``warnings``' own functions: they would have it
# show each of the user's warnings a second time.
_ABOUT_OUR_HOOKS: Any = (
    "ignore",
    re.compile(r"Using `torch\.compile\(module\)` when there are global hooks"),
    UserWarning,
    None,
    0,
)


class ModuleHooks(ABC):
    """What every capture is: hooks around modules, in the thread that has opened them.

    Opening or closing twice is harmless. What goes wrong in ``_before`` or ``_after`` is given to
    ``fail``. Calls that autograd makes are passed over: gradient checkpointing runs the forward a
    second time during the backward pass.

    Attributes:
        seconds: What looking has taken.
        was_interrupted: Whether it took itself off because the compiler began to build a graph.
    """

    def __init__(self, fail: Fail, before: Set[int], after: Set[int]) -> None:
        """Takes the ids of the modules before and after whose calls something is done."""
        self._fail = fail
        self._modules_before, self._modules_after = before, after
        self._contained_before = Contained(self._before, fail)
        self._contained_after = Contained(self._after, fail)
        self._contained_interrupt = Contained(self._interrupt, fail)
        self._handles: list[RemovableHandle] = []
        self._is_paused = False
        self._thread = 0
        self._compiler: Any = None
        self.seconds = 0.0
        self.was_interrupted = False

    @abstractmethod
    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Is called before a module runs, with its positional arguments."""

    @abstractmethod
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Is called after a module has run; the output is None where it raised."""

    @property
    def is_open(self) -> bool:
        """Whether anything is attached."""
        return bool(self._handles)

    def __enter__(self) -> Self:
        if not self.is_open:
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        self._thread = threading.get_ident()
        self._handles.append(register_module_forward_pre_hook(self._on_call))
        # always_call: a forward that raises ends as well.
        self._handles.append(register_module_forward_hook(self._on_return, always_call=True))
        dynamo = sys.modules.get("torch._dynamo.callback")  # an optimizer has imported it
        self._compiler = getattr(dynamo, "callback_handler", None)
        if self._compiler is not None:
            self._compiler.register_start_callback(self._on_compile)
        warnings.filters.insert(0, _ABOUT_OUR_HOOKS)  # type: ignore[attr-defined]
        _OPEN.add(self)

    def start_batch(self, follow: Iterable[Tensor] = ()) -> None:
        """Begins the next micro-batch of the step; see `Capture` for ``follow``."""
        self._is_paused = False

    def pause(self) -> None:
        """Sees nothing until the next `start_batch`; the hooks stay where they are."""
        self._is_paused = True

    def close(self) -> None:
        """Takes everything off again, in whatever state it is."""
        self._mute()
        compiler, self._compiler = self._compiler, None
        if compiler is not None and self._on_compile in compiler.start_callbacks:
            compiler.remove_start_callback(self._on_compile)
        _OPEN.discard(self)

    def _mute(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        if any(item is _ABOUT_OUR_HOOKS for item in warnings.filters):
            warnings.filters.remove(_ABOUT_OUR_HOOKS)  # type: ignore[attr-defined]

    def _interrupt(self) -> None:
        """Takes off what the compiler would trace or guard on.

        Not `close`: it would shorten a list that the compiler is just going through.
        """
        # What is compiled in backward or update leaves what was read of the forward pass.
        self.was_interrupted = not self._is_paused
        self._mute()
        self.pause()

    def _is_ours(self) -> bool:
        is_here = threading.get_ident() == self._thread
        return is_here and not self._is_paused and not in_backward()

    # PyTorch calls these three.

    def _on_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in self._modules_before and self._is_ours():
            started = perf_counter()
            self._contained_before(module, args)
            self.seconds += perf_counter() - started

    def _on_return(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if id(module) in self._modules_after and self._is_ours():
            started = perf_counter()
            self._contained_after(module, args, output)
            self.seconds += perf_counter() - started

    def _on_compile(self, *args: Any) -> None:
        if threading.get_ident() == self._thread:
            self._contained_interrupt()


def in_backward() -> bool:
    """Whether autograd is at work in this thread."""
    return torch._C._current_graph_task_id() != -1


def was_compiled() -> bool:
    """Whether torch.compile has made a graph in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["frames"]["total"] > 0


# A process that is forked during a captured step (a loader's worker) inherits what is open.
_OPEN: weakref.WeakSet[ModuleHooks] = weakref.WeakSet()


def _close_in_child() -> None:
    for capture in list(_OPEN):
        capture.close()


os.register_at_fork(after_in_child=Contained(_close_in_child, lambda error: None))
