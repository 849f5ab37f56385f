"""Hooks over every call of a module, none of which hangs on a module.

A hook on a module is copied and pickled with it: a checkpoint callback that saves the model, or
an average of weights that copies it, would carry ours away, or fail on them. It also switches
off the fused path of ``nn.TransformerEncoderLayer``. PyTorch's hooks on all modules do neither.
They see the modules of the whole process, so whoever listens must know its own.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

from torch import nn
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

Before = Callable[[nn.Module, tuple[Any, ...]], None]
After = Callable[[nn.Module, tuple[Any, ...], Any], None]


class ModuleHooks:
    """Calls two functions around each call of a module in the thread that opened it.

    Opening or closing twice is harmless. What goes wrong in the functions is given to ``fail``
    and never reaches the module's caller.

    Args:
        before: Is given the module and its positional arguments.
        after: Is given the output too; None where the module raised.
        fail: Takes exceptions of both.
        interrupt: Called when the compiler begins to build a graph. It must take off what would
            become part of the graph, by `mute`: `close` would shorten a list that the compiler
            is just going through.

    Attributes:
        seconds: What the two functions have taken.
    """

    def __init__(
        self, before: Before, after: After, fail: Fail, interrupt: Callable[[], None]
    ) -> None:
        self._before = Contained(before, fail)
        self._after = Contained(after, fail)
        self._interrupt = Contained(interrupt, fail)
        self._handles: list[RemovableHandle] = []
        self.seconds = 0.0
        self._thread = 0
        self._compiler: Any = None

    @property
    def is_open(self) -> bool:
        """Whether modules are being listened to."""
        return bool(self._handles)

    def open(self) -> None:
        """Begins to listen."""
        if self.is_open:
            return
        self._thread = threading.get_ident()
        try:
            self._handles.append(register_module_forward_pre_hook(self._on_call))
            # always_call: a forward that raises ends as well.
            self._handles.append(register_module_forward_hook(self._on_return, always_call=True))
            self._listen_to_compiler()
            warnings.filters.insert(0, _ABOUT_OUR_HOOKS)  # type: ignore[attr-defined]
        except BaseException:
            self.close()
            raise

    def mute(self) -> None:
        """Takes the hooks off."""
        while self._handles:
            self._handles.pop().remove()
        if any(item is _ABOUT_OUR_HOOKS for item in warnings.filters):
            warnings.filters.remove(_ABOUT_OUR_HOOKS)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Takes everything off."""
        self.mute()
        compiler, self._compiler = self._compiler, None
        if compiler is not None and self._on_compile in compiler.start_callbacks:
            compiler.remove_start_callback(self._on_compile)

    def _listen_to_compiler(self) -> None:
        dynamo = sys.modules.get("torch._dynamo.callback")  # an optimizer has imported it
        self._compiler = getattr(dynamo, "callback_handler", None)
        if self._compiler is not None:
            self._compiler.register_start_callback(self._on_compile)

    # PyTorch calls these three.

    def _on_call(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            started = perf_counter()
            self._before(module, args)
            self.seconds += perf_counter() - started

    def _on_return(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == self._thread:
            started = perf_counter()
            self._after(module, args, output)
            self.seconds += perf_counter() - started

    def _on_compile(self, *args: Any) -> None:
        if threading.get_ident() == self._thread:
            self._interrupt()
