"""Lightning's hooks belong to `Monitor`, and each of them is reached only through the guard."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest
from pytorch_lightning import Callback

from vis_callbacks import Monitor, Probe, Report, Snapshot
from vis_callbacks.engine.schedule import EveryNSteps
from vis_callbacks.monitor import _guarded, is_hook

HOOKS = sorted(name for name in dir(Callback) if is_hook(name))
GUARDED_CODE = _guarded(lambda self: None).__code__


def is_guarded(hook: Any) -> bool:
    """Whether a hook does nothing outside of the guard.

    Either it is made by the decorator, or all that it does but making and returning a local
    value stands in one ``with self.guard.catch(...)``.
    """
    if isinstance(hook, property):
        return False
    if hook.__code__ is GUARDED_CODE:
        return True
    tree = ast.parse(textwrap.dedent(inspect.getsource(hook))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    body = [s for s in tree.body if not _is_docstring(s) and not _is_harmless(s)]
    return len(body) == 1 and _is_guard(body[0])


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_harmless(statement: ast.stmt) -> bool:
    value = getattr(statement, "value", None)
    if isinstance(statement, ast.AnnAssign | ast.Assign | ast.Return):
        return isinstance(value, ast.Name | ast.Constant) or ast.unparse(value) == "{}"
    return False


def _is_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.With) and ast.unparse(statement.items[0]).startswith(
        "self.guard.catch("
    )


def unguarded(cls: type) -> list[str]:
    return [name for name, value in vars(cls).items() if is_hook(name) and not is_guarded(value)]


def test_every_hook_of_monitor_is_reached_only_through_the_guard():
    # A key of the checkpoint cannot be left out: it is made of options that have been checked.
    assert unguarded(Monitor) == ["state_key"]


def test_a_hook_without_the_guard_is_found():
    class Careless(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.model.train()

        def setup(self, trainer, pl_module, stage):
            with self.guard.catch("setup"):
                self.prepare()
            return self.begin()

        on_train_end = _guarded(on_train_start)

    assert unguarded(Careless) == ["on_train_start", "setup"]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_subclass_that_defines_a_hook_is_refused(hook):
    with pytest.raises(TypeError, match=rf"Eager defines {hook}.*probes\(\).*observe\(\)"):
        type("Eager", (Monitor,), {hook: lambda self, *args: None})


def test_all_hooks_of_lightning_are_known():
    assert {"setup", "teardown", "state_key"} < set(HOOKS)
    assert len(HOOKS) > 35


class Quiet(Monitor):
    default_schedule = EveryNSteps(1)

    def probes(self) -> list[Probe]:
        return []

    def observe(self, snapshot: Snapshot) -> Report:
        return Report(step=snapshot.step)


class Poison:
    """Raises whatever is done with it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("poison")

    def __bool__(self) -> bool:
        raise RuntimeError("poison")


@pytest.mark.contained
@pytest.mark.parametrize(
    "hook",
    [
        *(name for name in HOOKS if name in vars(Monitor) and name != "state_key"),
        "state_dict",
        "load_state_dict",
    ],
)
def test_a_hook_survives_arguments_and_a_session_that_fail_at_everything(hook):
    monitor = Quiet()
    monitor._session = Poison()
    method = getattr(monitor, hook)
    needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    assert method(*[Poison() for _ in needed]) in (None, monitor.state_dict())


@pytest.mark.parametrize("options", [{}, {"tag_prefix": "a/"}, {"every_n_epochs": 3}])
def test_two_monitors_that_differ_have_states_of_their_own(options):
    keys = [monitor._state_key for monitor in (Quiet(**options), Quiet())]
    assert (keys[0] == keys[1]) is (not options)


def test_a_subclass_without_observe_is_abstract_and_without_probes_reads_nothing():
    class Half(Monitor):
        pass

    class Whole(Half):
        def observe(self, snapshot: Snapshot) -> Report:
            return Report(step=snapshot.step)

    assert Whole().probes() == ()
    with pytest.raises(TypeError, match="abstract"):
        Half()
