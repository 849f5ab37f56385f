"""Each function of ours that PyTorch calls during a snapshot may fail, and the run goes on.

The functions are found by looking at what is registered while a step is read: hooks on all
modules, the function mode, the compiler's callbacks. Each of them must go through `Contained`.
Lightning's hooks have a test of their own, in `test_hooks.py`.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pytorch_lightning import Callback
from tests.contracts.dummies import ActivationsDummy
from tests.identity import assert_identical, fingerprint
from tests.tiny import NUM_STEPS, Threes, tiny_fit
from torch import nn
from torch._dynamo.callback import callback_handler
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack

from vis_callbacks.engine import capture, module_hooks
from vis_callbacks.guard import Contained


def registered() -> list[Any]:
    """Returns the functions of ours that PyTorch would call now."""
    found = [
        *torch_module._global_forward_pre_hooks.values(),
        *torch_module._global_forward_hooks.values(),
        *callback_handler.start_callbacks,
        *_get_current_function_mode_stack(),
    ]
    return [f for f in found if type(getattr(f, "__self__", f)).__module__.startswith("vis_")]


class Registered(Callback):
    """Notes what is registered in each step that is read."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def on_before_backward(self, trainer, pl_module, loss):
        self.found.update(type(f).__name__ for f in registered())
        self.found.update(getattr(f, "__name__", "") for f in registered())

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.on_before_backward(trainer, pl_module, None)


ENTRANCES = {"_on_call", "_on_return", "_on_compile", "FunctionMode"}


def test_what_pytorch_calls_of_ours_is_known(tmp_path):
    monitor, look = ActivationsDummy(every_n_train_steps=1), Registered()
    tiny_fit(tmp_path, [monitor, look])
    assert set(look.found) - {"method", ""} == ENTRANCES


class Broken(Contained):
    """A contained function that fails whenever it is called."""

    num_failed: ClassVar[Counter[str]] = Counter()
    which: ClassVar[str] = ""

    def __init__(self, function: Any, fail: Any) -> None:
        name = getattr(function, "func", function).__name__

        def breaks(*args: Any) -> None:
            Broken.num_failed[name] += 1
            raise KeyError(f"{name} is broken on purpose")

        super().__init__(breaks if name == Broken.which else function, fail)


@pytest.mark.contained
@pytest.mark.parametrize("in_bursts", [False, True])
@pytest.mark.parametrize("which", ["_before", "_after", "_look_at"])
def test_each_of_them_may_fail_and_the_run_is_the_same(
    which: str, in_bursts: bool, tmp_path: Path, monkeypatch, contained
):
    plain = fingerprint(tiny_fit(tmp_path))
    monitor = ActivationsDummy(every_n_train_steps=1)
    if in_bursts:
        monitor.schedule = Threes(1)
    monkeypatch.setattr(module_hooks, "Contained", Broken)
    monkeypatch.setattr(capture, "Contained", Broken)
    monkeypatch.setattr(Broken, "which", which)
    Broken.num_failed.clear()
    trainer = tiny_fit(tmp_path, [monitor])
    assert Broken.num_failed[which] > 0
    assert trainer.global_step == NUM_STEPS
    assert_identical(plain, fingerprint(trainer))
    assert len(contained.reports) == 1
    assert monitor.guard.counts == {}


@pytest.mark.contained
def test_the_compilers_callback_may_fail(tmp_path, monkeypatch, contained):
    fails: list[Exception] = []
    monkeypatch.setattr(module_hooks, "Contained", Broken)
    monkeypatch.setattr(Broken, "which", "_interrupt")
    with capture.Capture(nn.ReLU(), print, fail=fails.append):
        callback_handler.run_start_callbacks(None)
    assert [type(error) for error in fails] == [KeyError]
