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


class Listening(ModuleHooks):
    """Notes what its hooks are told of some modules."""

    def __init__(self, *modules: nn.Module) -> None:
        ids = {id(module) for module in modules}
        self.told: list[tuple[Any, ...]] = []
        super().__init__(lambda error: self.told.append((error,)), before=ids, after=ids)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.told.append(("before", module))

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.told.append(("after", module, output is None))


def test_each_call_of_its_modules_is_told_and_nothing_hangs_on_the_module():
    model = nn.ReLU()
    with Listening(model) as listening:
        model(torch.ones(1))
        nn.ReLU()(torch.ones(1))
        assert num_hooks_on(model) == 0
    model(torch.ones(1))
    assert listening.told == [("before", model), ("after", model, False)]


def test_a_module_that_raises_is_told_to_have_ended():
    model = nn.Linear(2, 2)
    with Listening(model) as listening, pytest.raises(RuntimeError, match="mat1"):
        model(torch.ones(1, 3))
    assert listening.told == [("before", model), ("after", model, True)]


def test_other_threads_are_not_heard():
    model = nn.ReLU()
    with Listening(model) as listening:
        thread = threading.Thread(target=model, args=(torch.ones(1),))
        thread.start()
        thread.join()
    assert listening.told == []


def test_opening_and_closing_twice_is_harmless_and_leaves_nothing():
    hooks, filters = Listening(), list(warnings.filters)
    with hooks, hooks:
        assert num_hooks() == 3
    hooks.close()
    assert num_hooks() == 0
    assert warnings.filters == filters


def test_a_failure_half_way_leaves_nothing(monkeypatch):
    monkeypatch.setattr(module_hooks, "register_module_forward_hook", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Listening().__enter__()
    assert num_hooks() == 0


def test_what_gives_way_in_the_midst_of_the_compilers_list_keeps_the_others_of_it():
    with Listening() as first, Listening() as second:
        callback_handler.run_start_callbacks(None)
        assert not first.is_open
        assert second.was_interrupted
    assert num_hooks() == 0


def test_a_compiled_module_warns_of_no_hooks_of_ours():
    compiled = torch.compile(nn.ReLU(), backend="eager")
    with Listening():
        assert compiled(torch.ones(1)) == 1  # warnings are errors in the tests
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def test_the_time_of_the_functions_is_counted(monkeypatch):
    times = iter(range(10))
    monkeypatch.setattr(module_hooks, "perf_counter", lambda: float(next(times)))
    model = nn.ReLU()
    with Listening(model) as hooks:
        model(torch.ones(1))
    assert hooks.seconds == 2.0
