"""Whatever fails inside or beneath a monitor, the run goes on as without it.

Every stage of a snapshot is made to fail, each with several classes of exception, and each class
at several stages. The run must end at its planned step with the same bits, the failure be
reported once, and the other monitor go on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from tests.contracts.dummies import ActivationsDummy, DummyMonitor
from tests.contracts.every_monitor import SHIPPED
from tests.contracts.test_contracts import state_of
from tests.identity import assert_identical
from tests.tiny import NUM_STEPS, smallest, tiny_fit
from tests.writers.stand_ins import ImageRecorder
from torch import Tensor

from vis_callbacks import (
    Finding,
    Monitor,
    Picture,
    Probe,
    Report,
    Scalar,
    Snapshot,
    pipeline,
    run_state,
    session,
)
from vis_callbacks.engine.schedule import Schedule
from vis_callbacks.writers import drawing
from vis_callbacks.writers.writer import Writer


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words either")


@dataclass(frozen=True)
class FrozenError(Exception):
    """Refuses to be changed, as a frozen dataclass does: also its traceback."""

    words: str = "frozen"


ERRORS: dict[str, Callable[[], Exception]] = {
    "RuntimeError": lambda: RuntimeError("broken on purpose"),
    "ValueError": lambda: ValueError("broken on purpose"),
    "KeyError": lambda: KeyError("broken on purpose"),
    "AssertionError": AssertionError,
    "MemoryError": MemoryError,
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "torch.OutOfMemoryError": lambda: torch.OutOfMemoryError("broken on purpose"),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "broken"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "StopIteration": StopIteration,
    "an error without words": SpeechlessError,
    "an error that cannot be changed": FrozenError,
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError("one"), OSError("other")]),
}


@dataclass
class Fault:
    """Raises at one stage; remembers how often, to prove that the stage was reached."""

    stage: str
    make: Callable[[], BaseException]
    num_raised: int = 0
    num_reached: int = 0

    def reach(self, stage: str) -> None:
        if stage == self.stage:
            self.num_reached += 1
            # Of the user's functions the very first call is the one that may end the run.
            if stage in GIVEN and self.num_reached == 1:
                return
            self.num_raised += 1
            raise self.make()


GIVEN = ("input_fn", "label_fn", "forward_fn")


@dataclass
class AlwaysFound:
    fault: Fault
    kind: str = "always"
    severity: str = "warning"

    def check(self, history: Any) -> Finding:
        self.fault.reach("rule.check")
        return Finding(message="It is always so")


@dataclass(frozen=True)
class FailingSchedule(Schedule):
    fault: Fault = field(hash=False, repr=False)  # the repr is part of a checkpoint's key

    def next_due(self, step, facts):
        self.fault.reach("schedule.due")
        return step + 1


class Evil(Tensor):
    """A tensor that cannot be moved."""

    fault: Fault

    def detach(self) -> Tensor:
        self.fault.reach("transfer")
        return super().detach()


class Victim(DummyMonitor):
    """Passes through every stage that a monitor can pass through."""

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})

    def __init__(self, fault: Fault, **options: Any) -> None:
        super().__init__(
            num_samples=3,
            tag_prefix="victim/",
            input_fn=self._input,
            label_fn=self._label,
            forward_fn=self._forward,
            on_alert=lambda alert: fault.reach("on_alert"),
            **options,
        )
        self.fault = fault
        self.rules = (AlwaysFound(fault),)
        self.schedule = FailingSchedule(fault)

    def probes(self) -> Sequence[Probe]:
        self.fault.reach("probes")
        merge = {"mean": self._merge}
        return [Probe(name="p", reduce=self._reduce, merge=merge, layers=["relu", "*/relu*"])]

    def observe(self, snapshot: Snapshot) -> Report:
        self.fault.reach("observe")
        if snapshot.references is None:  # they could not be taken, which has been reported
            return Report(step=snapshot.step)
        assert snapshot.forward is not None
        scores = snapshot.forward(snapshot.references.inputs)
        value = scores.mean().detach().as_subclass(Evil)
        value.fault = self.fault
        items = (Scalar(tag="victim", value=value), Picture(tag="picture", draw=self._draw))
        return Report(step=snapshot.step, items=items)

    def state_dict(self) -> dict[str, Any]:
        self.fault.reach("state_dict")
        return {"a": 1}

    def load_state_dict(self, state_dict: Any) -> None:
        if state_dict:
            self.fault.reach("load_state_dict")

    def _input(self, batch: Any) -> Tensor:
        self.fault.reach("input_fn")
        return batch[0]

    def _label(self, batch: Any) -> Tensor:
        self.fault.reach("label_fn")
        return batch[1]

    def _forward(self, module: Any, inputs: Tensor) -> Tensor:
        self.fault.reach("forward_fn")
        return module(inputs)

    def _reduce(self, activation: Any, batch: Any) -> dict[str, Tensor]:
        self.fault.reach("reduce")
        return {"mean": activation.values.mean()}

    def _merge(self, old: Tensor, new: Tensor) -> Tensor:
        self.fault.reach("merge")
        return old + new

    def _draw(self) -> np.ndarray:
        self.fault.reach("draw")
        return np.zeros((4, 4, 3), dtype=np.uint8)


STAGES = (
    "probes",
    "schedule.due",
    "input_fn",
    "label_fn",
    "references",
    "reduce",
    "merge",
    "forward_fn",
    "observe",
    "transfer",
    "rule.check",
    "draw",
    "write",
    "write_alerts",
    "on_alert",
    "state_dict",
    "load_state_dict",
)
# Stages after which the monitor's own history goes on: only what comes behind is lost.
HISTORY_GOES_ON = {
    "rule.check",
    "draw",
    "write",
    "write_alerts",
    "on_alert",
    "state_dict",
    "load_state_dict",
}


class SavesCheckpoint(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.path)


def fit(folder: Path, monitors: Sequence[Monitor], ckpt_path: Path | None = None) -> Trainer:
    """Returns the Trainer after a run with a logger, checkpoints and accumulated batches."""
    return tiny_fit(
        folder,
        [*monitors, SavesCheckpoint(folder / "now.ckpt")],
        ckpt_path=ckpt_path,
        logger=ImageRecorder(),
        max_epochs=NUM_STEPS,
        accumulate_grad_batches=2,
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A checkpoint of the first of the steps, with a healthy victim's state in it."""
    folder = tmp_path_factory.mktemp("begun")
    tiny_fit(
        folder,
        [Victim(Fault("", RuntimeError)), SavesCheckpoint(folder / "now.ckpt")],
        max_epochs=1,
        accumulate_grad_batches=2,
    )
    return folder / "now.ckpt"


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory, begun) -> dict[bool, dict[str, str]]:
    """States of runs without monitors, by whether they were resumed."""

    def twice(path: Path | None) -> dict[str, str]:
        first, second = (state_of(fit(tmp_path_factory.mktemp("plain"), [], path)) for _ in "12")
        assert_identical(first, second)
        return first

    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        resumed = twice(begun)
    return {False: twice(None), True: resumed}


@pytest.fixture
def beneath(monkeypatch) -> Callable[[Fault], None]:
    """Makes what lies beneath the monitors fail, for the victim alone."""

    def install(fault: Fault) -> None:
        write, write_alerts, take = Writer.write, Writer.write_alerts, run_state.take_references

        def failing_write(self, report, **options):
            if options.get("prefix") == "victim/":
                fault.reach("write")
            write(self, report, **options)

        def failing_write_alerts(self, transitions, active, **options):
            if any(alert.kind == "always" for alert in transitions):
                fault.reach("write_alerts")
            write_alerts(self, transitions, active, **options)

        def failing_take(batch, num_samples, **options):
            if num_samples == 3:
                fault.reach("references")
            return take(batch, num_samples, **options)

        monkeypatch.setattr(Writer, "write", failing_write)
        monkeypatch.setattr(Writer, "write_alerts", failing_write_alerts)
        monkeypatch.setattr(run_state, "take_references", failing_take)

    return install


# Each stage meets a plain error and two others, each other class two stages or three; and every
# class comes out of `observe`, which calls the user's network.
FAILURES = sorted(
    {(stage, "RuntimeError") for stage in STAGES}
    | {("observe", error) for error in ERRORS}
    | {
        (stage, list(ERRORS)[1 + (2 * place + i) % (len(ERRORS) - 1)])
        for place, stage in enumerate(STAGES)
        for i in range(2)
    }
)


@pytest.mark.contained
@pytest.mark.parametrize(("stage", "error"), FAILURES)
def test_a_run_goes_on_whatever_fails(stage, error, unwatched, begun, beneath, contained, tmp_path):
    fault = Fault(stage, ERRORS[error])
    beneath(fault)
    victim, other = Victim(fault), ActivationsDummy()
    path = begun if stage == "load_state_dict" else None
    trainer = fit(tmp_path, [victim, other], path)
    assert fault.num_raised > 0
    assert trainer.global_step == NUM_STEPS
    assert_identical(unwatched[stage == "load_state_dict"], state_of(trainer))
    assert len(contained.reports) == 1, contained.reports
    assert len(other.history) == NUM_STEPS - (stage == "load_state_dict")
    assert not other.guard.counts
    if stage in HISTORY_GOES_ON:
        assert len(victim.history) >= victim.guard.max_failures  # then it rests


def test_a_healthy_victim_passes_every_stage_and_changes_nothing(
    beneath, unwatched, begun, tmp_path
):
    reached: set[str] = set()

    class Recording(Fault):
        def reach(self, stage: str) -> None:
            reached.add(stage)

    fault = Recording("", RuntimeError)
    beneath(fault)
    for resumed, path in ((False, None), (True, begun)):
        assert_identical(unwatched[resumed], state_of(fit(tmp_path, [Victim(fault)], path)))
    assert reached == set(STAGES)


@pytest.fixture
def kept_signal_handler():
    """Lightning ignores SIGINT after a KeyboardInterrupt, for good."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("stage", "error"),
    [*((stage, KeyboardInterrupt) for stage in STAGES), ("observe", SystemExit)],
)
def test_ctrl_c_and_exit_are_never_swallowed(
    stage, error, begun, beneath, kept_signal_handler, tmp_path, monkeypatch
):
    # Ctrl-C comes to the main thread alone, which draws what the process has not drawn before.
    monkeypatch.setattr(drawing, "_DRAWN_BEFORE", set())
    fault = Fault(stage, error)
    beneath(fault)
    with pytest.raises(SystemExit, match="^$" if error is SystemExit else "^1$"):
        fit(
            tmp_path,
            [Victim(fault), ActivationsDummy()],
            begun if stage == "load_state_dict" else None,
        )
    assert fault.num_raised == 1


@pytest.mark.contained
@pytest.mark.parametrize("cls", SHIPPED, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("method", ["probes", "observe", "state_dict", "load_state_dict"])
def test_every_monitor_may_fail_in_each_of_its_methods(cls, method, unwatched, contained, tmp_path):
    calls: list[Any] = []

    def failing(*args: Any) -> Any:
        calls.append(args)
        raise RuntimeError("broken on purpose")

    failing_kind = type(cls.__name__, (cls,), {method: failing})
    monitor, other = smallest(failing_kind), ActivationsDummy(tag_prefix="other/")
    if method == "load_state_dict":
        monitor.forget()
    trainer = fit(tmp_path, [monitor, other])
    assert calls
    assert_identical(unwatched[False], state_of(trainer))
    assert len(contained.reports) == 1
    assert len(other.history) == NUM_STEPS


WIRING = [
    (part, name)
    for part in (session.Session, pipeline.Pipeline)
    for name, value in sorted(vars(part).items())
    if callable(value) and not name.startswith("_") and name not in ("catch_up", "break_off")
]


@pytest.mark.contained
@pytest.mark.parametrize(
    ("part", "stage"), WIRING, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_run_goes_on_if_the_wiring_itself_fails(
    part, stage, unwatched, contained, monkeypatch, tmp_path
):
    calls: list[Any] = []

    def failing(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(part, stage, failing)
    trainer = fit(tmp_path, [Victim(Fault("", RuntimeError)), ActivationsDummy()])
    assert calls
    monkeypatch.undo()
    assert_identical(unwatched[False], state_of(trainer))
    assert 1 <= len(contained.reports) <= 2  # `join` and `leave` fail for each of the monitors


@pytest.mark.contained
@pytest.mark.parametrize("part", [session.Session, pipeline.Pipeline])
@pytest.mark.parametrize("stage", ["catch_up", "break_off"])
def test_a_checkpoint_and_the_users_exception_pass_if_the_wiring_fails(
    part, stage, contained, monkeypatch, tmp_path
):
    calls: list[Any] = []

    def failing(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        raise RuntimeError("broken on purpose")

    class SavesAndFails(Callback):
        def on_train_batch_end(self, trainer, *args: Any) -> None:
            trainer.save_checkpoint(tmp_path / "saved.ckpt")
            raise ValueError("the user's")

    monkeypatch.setattr(part, stage, failing)
    with pytest.raises(ValueError, match="the user's"):
        fit(tmp_path, [ActivationsDummy(), SavesAndFails()])
    assert calls
    assert (tmp_path / "saved.ckpt").exists()
    assert len(contained.reports) == 1
