from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from tests.identity import num_hooks, num_hooks_on
from torch import nn
from torch._dynamo.callback import callback_handler

from vis_callbacks.engine import module_hooks
from vis_callbacks.engine.module_hooks import ModuleHooks


class Listening:
    """Notes what the hooks are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.failures: list[Exception] = []
        self.hooks = ModuleHooks(
            lambda module, args: self.told.append(("before", module)),
            lambda module, args, output: self.told.append(("after", module, output is None)),
            self.failures.append,
            lambda: self.told.append(("compile",)),
        )


def test_each_call_is_told_before_and_after_and_nothing_hangs_on_the_module():
    model, listening = nn.ReLU(), Listening()
    listening.hooks.open()
    model(torch.ones(1))
    assert num_hooks_on(model) == 0
    listening.hooks.close()
    model(torch.ones(1))
    assert listening.told == [("before", model), ("after", model, False)]


def test_a_module_that_raises_is_told_to_have_ended():
    model, listening = nn.Linear(2, 2), Listening()
    listening.hooks.open()
    with pytest.raises(RuntimeError):
        model(torch.ones(1, 3))
    listening.hooks.close()
    assert listening.told == [("before", model), ("after", model, True)]


def test_other_threads_are_not_heard():
    model, listening = nn.ReLU(), Listening()
    listening.hooks.open()
    thread = threading.Thread(target=model, args=(torch.ones(1),))
    thread.start()
    thread.join()
    listening.hooks.close()
    assert listening.told == []


def test_opening_and_closing_twice_is_harmless_and_leaves_nothing():
    hooks, filters = Listening().hooks, list(warnings.filters)
    for _ in range(2):
        hooks.open()
    assert num_hooks() == 3
    for _ in range(2):
        hooks.close()
    assert num_hooks() == 0
    assert warnings.filters == filters


def test_a_failure_half_way_leaves_nothing(monkeypatch):
    monkeypatch.setattr(module_hooks, "register_module_forward_hook", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Listening().hooks.open()
    assert num_hooks() == 0


def test_what_mutes_in_the_midst_of_the_compilers_list_keeps_the_others_of_it():
    told: list[str] = []
    first, second = Listening(), Listening()
    first.hooks = ModuleHooks(print, print, told.append, lambda: first.hooks.mute())
    first.hooks.open()
    second.hooks.open()
    callback_handler.run_start_callbacks(None)
    assert not first.hooks.is_open
    assert second.told == [("compile",)]
    for listening in (first, second):
        listening.hooks.close()
    assert num_hooks() == 0


def test_a_compiled_module_warns_of_no_hooks_of_ours():
    compiled = torch.compile(nn.ReLU(), backend="eager")
    hooks = Listening().hooks
    hooks._interrupt.function = hooks.mute
    hooks.open()
    assert compiled(torch.ones(1)) == 1  # warnings are errors in the tests
    hooks.close()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def test_the_time_of_the_functions_is_counted(monkeypatch):
    now = [0.0]

    def slow(*args: Any) -> None:
        now[0] += 1.0

    monkeypatch.setattr(module_hooks, "perf_counter", lambda: now[0])
    hooks = ModuleHooks(slow, slow, print, print)
    hooks.open()
    nn.ReLU()(torch.ones(1))
    hooks.close()
    assert hooks.seconds == 2.0
