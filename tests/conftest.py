"""What holds for every test: nothing stays attached, and no failure is swallowed unseen."""

from __future__ import annotations

import logging
import random
import threading
import warnings
from collections.abc import Iterator

# Imported before any test: what they do to the warnings filters is then none of a test's doing.
import matplotlib.figure  # noqa: F401
import numpy as np
import pytest
import pytorch_lightning  # noqa: F401
import torch
from tests.identity import fingerprint, num_hooks
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import tensorboard  # noqa: F401

from vis_callbacks import options
from vis_callbacks.engine.module_hooks import was_compiled


class ContainedFailures(logging.Handler):
    """Collects the failures that were contained: ``errors`` all, ``reports`` what was said."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.errors: list[Exception] = []
        self.reports: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        error = getattr(record, "contained", None)
        if error is not None:
            self.errors.append(error)
            if record.levelno >= logging.WARNING:
                self.reports.append(message)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Starts each test with the same random numbers, whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_was_compiled() -> None:
    """Starts each test as a process in which nothing was compiled: such are read differently."""
    if was_compiled():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()


@pytest.fixture(autouse=True)
def nothing_waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches the budget off that is on by default: which pictures wait depends on the clock.

    Not with ``@pytest.mark.budget``, nor where a test gives ``max_overhead`` itself.
    """
    if request.node.get_closest_marker("budget") is None:
        monkeypatch.setattr(options, "DEFAULT_SHARE", None)


@pytest.fixture(autouse=True)
def contained(request: pytest.FixtureRequest) -> Iterator[ContainedFailures]:
    """Fails a test in which a monitor failed, unless ``@pytest.mark.contained`` expects it."""
    logger, handler = logging.getLogger("vis_callbacks"), ContainedFailures()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
    if request.node.get_closest_marker("contained") is None and handler.errors:
        pytest.fail(f"{len(handler.errors)} contained failures, the first: {handler.errors[0]!r}")


@pytest.fixture(autouse=True)
def nothing_left_attached() -> Iterator[None]:
    """Fails a test that leaves a mode, a global flag, a filter or a thread behind."""
    before = _process_state()
    yield
    left = [f"the function mode {type(mode).__name__}" for mode in _modes_taken_off()]
    after = _process_state()
    left += [name for name in before if before[name] != after[name]]
    torch.set_grad_enabled(True)  # the next test is to begin as if this one had left nothing
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    if left:
        pytest.fail(f"left behind: {', '.join(left)}")


def _process_state() -> dict[str, object]:
    flags = fingerprint(nn.Identity())
    return {
        "a hook on all modules": num_hooks(),
        "a warnings filter": list(warnings.filters),
        "a thread": sorted(
            thread.name
            for thread in threading.enumerate()
            if not thread.daemon and not _is_of_the_compiler(thread)
        ),
        **{name: value for name, value in flags.items() if name.startswith("flag")},
    }


def _is_of_the_compiler(thread: threading.Thread) -> bool:
    """Whether it belongs to the pool that torch's inductor keeps for the whole process."""
    return thread.name.startswith("ThreadPoolExecutor")


def _modes_taken_off() -> list[TorchFunctionMode]:
    """Takes off every function mode, and returns them: the comparison is not to run in one."""
    taken_off = []
    while modes := _get_current_function_mode_stack():
        taken_off.append(modes[-1])
        modes[-1].__exit__(None, None, None)
    return taken_off
