"""However a run ends, nothing of a monitor is left on the model, nor the model in a monitor."""

from __future__ import annotations

import gc
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from tests.identity import HOOK_DICTIONARIES
from tests.system.models import (
    LIGHTNING_CHATTER,
    NUM_STEPS,
    STEPS_AN_EPOCH,
    Cnn,
    CountingData,
    EvaluationMonitor,
    ForwardMonitor,
    Net,
    loaders_of,
    mlp,
    pictures,
    trainer_of,
    vectors,
    watchers,
)
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.data import DataLoader, IterableDataset

from vis_callbacks.alerts.alert import Finding, Outcome, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.report import Report

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:Detected KeyboardInterrupt"),
    pytest.mark.filterwarnings("ignore:Found .* module.* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:You requested to overfit"),
]

FAULT_STEP = 7  # read live, in the middle of an epoch


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    """Lightning ignores a second Ctrl-C for good; the next test must not."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def hooks_on(module: nn.Module) -> dict[str, int]:
    counts = {
        f"{name}{dictionary}": len(getattr(child, dictionary))
        for name, child in module.named_modules()
        for dictionary in HOOK_DICTIONARIES
    }
    return {name: count for name, count in counts.items() if count}


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: child.training for name, child in module.named_modules()}


def assert_clean(module: nn.Module) -> None:
    assert hooks_on(module) == {}
    assert _get_current_function_mode_stack() == []
    logging_methods = [name for name in ("log", "log_dict") if name in vars(module)]
    assert logging_methods == []


class FrozenPart(Net):
    """Its batch norm stays in evaluation mode: a blunt ``train()`` would show."""

    def __init__(self) -> None:
        super().__init__(Cnn())
        self.network.norm.eval()


def fit(
    module: pl.LightningModule,
    folder: Path,
    callbacks: Sequence[pl.Callback],
    make_data: Callable[[], Any] = pictures,
    **options: Any,
) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = trainer_of(folder, callbacks, **options)
    trainer.fit(module, *loaders_of(make_data()))
    return trainer


# -- how a run may end


class UserError(RuntimeError):
    """What the user's own code raises."""


class Ending(pl.Callback):
    """Ends the run in one hook, at a step in the middle of it."""

    def __init__(self, hook: str, ending: BaseException | None) -> None:
        self.ending = ending
        if hook:
            setattr(self, hook, self.end)

    def end(self, trainer: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step >= FAULT_STEP and not trainer.sanity_checking:
            if self.ending is None:
                trainer.should_stop = True
            else:
                raise self.ending


class EndingModule(FrozenPart):
    def __init__(self, ending: BaseException) -> None:
        super().__init__()
        self.ending: BaseException | None = ending

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.trainer.global_step >= FAULT_STEP:
            ending, self.ending = self.ending, None
            raise ending
        return loss


class EndingInForward(Cnn):
    """Ends the run in the middle of a forward pass, with modules still on the stack."""

    def __init__(self, ending: BaseException, after: int) -> None:
        super().__init__()
        self.after, self.num_calls = after, 0
        self.second.register_forward_pre_hook(self.end)
        self.ending = ending

    def end(self, *args: Any) -> None:
        self.num_calls += 1
        if self.num_calls > self.after:
            raise self.ending


HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)


@pytest.fixture(scope="module")
def modes_of_a_plain_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Returns the modes in which a run without monitors leaves its modules."""
    folder = tmp_path_factory.mktemp("plain")
    known: dict[str, dict[str, bool]] = {}

    def of(hook: str) -> dict[str, bool]:
        if hook not in known:
            module = FrozenPart()
            with pytest.raises(UserError, match="mine"):
                fit(module, folder / hook, [Ending(hook, UserError("mine"))])
            known[hook] = modes(module)
        return known[hook]

    return of


def test_a_fit_leaves_nothing(tmp_path: Path) -> None:
    module, plain = FrozenPart(), FrozenPart()
    fit(plain, tmp_path / "plain", [])
    monitors = watchers()
    fit(module, tmp_path / "watched", monitors)
    assert len(monitors[0].history) == NUM_STEPS
    assert_clean(module)
    assert modes(module) == modes(plain)
    assert not module.network.norm.training


# To end before our hook is to end after the one before it: a few of those are enough.
ENDINGS = [("after", hook) for hook in HOOKS] + [("before", hook) for hook in HOOKS[::4]]


@pytest.mark.parametrize(("place", "hook"), ENDINGS)
def test_the_users_exception_in_a_hook_arrives_and_nothing_is_left(
    tmp_path: Path, hook: str, place: str, modes_of_a_plain_run: Callable[[str], Any]
) -> None:
    module, error = FrozenPart(), UserError("mine")
    ending, monitors = Ending(hook, error), watchers()
    callbacks = [ending, *monitors] if place == "before" else [*monitors, ending]
    with pytest.raises(UserError, match="mine") as caught:
        fit(module, tmp_path, callbacks)
    assert caught.value is error
    assert len(monitors[0].history) >= FAULT_STEP - 1
    assert_clean(module)
    assert modes(module) == modes_of_a_plain_run(hook)


def test_the_users_exception_in_training_step_arrives_and_nothing_is_left(tmp_path: Path) -> None:
    error = UserError("mine")
    module, monitors = EndingModule(error), watchers()
    with pytest.raises(UserError, match="mine") as caught:
        fit(module, tmp_path, monitors)
    assert caught.value is error
    assert len(monitors[0].history) == FAULT_STEP
    assert_clean(module)


@pytest.mark.parametrize(
    "ending", [UserError("mine"), KeyboardInterrupt()], ids=["error", "ctrl-c"]
)
def test_an_end_in_the_middle_of_a_forward_pass_leaves_only_the_users_hook(
    tmp_path: Path, ending: BaseException
) -> None:
    network = EndingInForward(ending, after=5)
    with pytest.raises((UserError, SystemExit), match=r"mine|1"):
        fit(Net(network), tmp_path, [ActivationMonitor(every_n_train_steps=1)])
    assert hooks_on(network) == {"second_forward_pre_hooks": 1}
    assert _get_current_function_mode_stack() == []


def test_ctrl_c_in_training_step_passes_and_nothing_is_left(tmp_path: Path) -> None:
    module, monitors = EndingModule(KeyboardInterrupt()), watchers()
    with pytest.raises(SystemExit, match="1"):
        fit(module, tmp_path, monitors)
    assert len(monitors[0].history) == FAULT_STEP
    assert_clean(module)


class FromStep:
    kind: ClassVar[str] = "from_step"
    severity: ClassVar[str] = "warning"

    def check(self, history: History) -> Outcome:
        return Finding(message="Found.") if history.steps[-1] >= FAULT_STEP else None


class Alerting(ActivationMonitor):
    """The activation monitor, with an alert at a known step."""

    stem = "activations"
    rules: ClassVar[Sequence[Rule]] = (FromStep(),)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_on_alert_passes_and_nothing_is_left(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    def leave(alert: Any) -> None:
        raise ending(1)

    module = FrozenPart()
    monitor = Alerting(every_n_train_steps=1, on_alert=leave)
    with pytest.raises(SystemExit, match="1"):
        fit(module, tmp_path, [monitor])
    assert [alert.step for alert in monitor.alerts] == [FAULT_STEP]
    assert_clean(module)


class LeavingInObserve(ForwardMonitor):
    """Is interrupted inside an extra pass, with modes, buffers and gradients swapped."""

    stem = "leaving"

    def observe(self, snapshot: Snapshot) -> Report:
        report = super().observe(snapshot)
        if snapshot.step >= FAULT_STEP:
            raise KeyboardInterrupt
        return report


def test_ctrl_c_in_an_extra_pass_passes_and_puts_everything_back(tmp_path: Path) -> None:
    module = FrozenPart()
    buffers = {name: id(buffer) for name, buffer in module.named_buffers()}
    monitor = LeavingInObserve(every_n_train_steps=1)
    with pytest.raises(SystemExit, match="1"):
        fit(module, tmp_path, [monitor])
    assert len(monitor.history) == FAULT_STEP
    assert_clean(module)
    assert modes(module) == modes(FrozenPart())
    assert {name: id(buffer) for name, buffer in module.named_buffers()} == buffers
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("reaction", ["stop", "raise"])
def test_an_alert_that_ends_the_run_leaves_nothing(tmp_path: Path, reaction: str) -> None:
    from vis_callbacks.reactions import AlertRaisedError

    module, monitor = FrozenPart(), Alerting(every_n_train_steps=1, on_alert=reaction)
    if reaction == "raise":
        with pytest.raises(AlertRaisedError, match="Found") as caught:
            fit(module, tmp_path, [monitor])
        assert caught.value.alert is monitor.alerts[0]
    else:
        assert fit(module, tmp_path, [monitor]).global_step == FAULT_STEP + 1
    assert_clean(module)


def test_should_stop_leaves_nothing(tmp_path: Path) -> None:
    module, monitors = FrozenPart(), watchers()
    trainer = fit(module, tmp_path, [*monitors, Ending("on_train_batch_end", None)])
    assert trainer.global_step == FAULT_STEP
    assert len(monitors[0].history) == FAULT_STEP
    assert_clean(module)


# -- what a monitor holds on to


def _ends_well(folder: Path, monitors: Sequence[Monitor]) -> weakref.ref[Any]:
    module = FrozenPart()
    fit(module, folder, monitors)
    return weakref.ref(module)


def _ends_badly(folder: Path, monitors: Sequence[Monitor]) -> weakref.ref[Any]:
    module = EndingModule(UserError("mine"))
    with pytest.raises(UserError, match="mine"):
        fit(module, folder, monitors)
    return weakref.ref(module)


def _is_interrupted(folder: Path, monitors: Sequence[Monitor]) -> weakref.ref[Any]:
    module = EndingModule(KeyboardInterrupt())
    with pytest.raises(SystemExit, match="1"):
        fit(module, folder, monitors)
    return weakref.ref(module)


def _is_validated(folder: Path, monitors: Sequence[Monitor]) -> weakref.ref[Any]:
    module = FrozenPart()
    trainer_of(folder, monitors).validate(module, loaders_of(pictures())[1], verbose=False)
    return weakref.ref(module)


@pytest.mark.parametrize("run", [_ends_well, _ends_badly, _is_interrupted, _is_validated])
def test_a_model_is_freed_while_its_monitors_are_kept(
    tmp_path: Path, run: Callable[..., weakref.ref[Any]]
) -> None:
    assert _freed(run(tmp_path / "plain", []))  # else the test proves nothing
    monitors = [*watchers(), Alerting(every_n_train_steps=1, tag_prefix="second/")]
    reference = run(tmp_path / "watched", monitors)
    kept = [(monitor, monitor.last_report, monitor.alerts) for monitor in monitors]
    assert _freed(reference)
    assert any(report is not None for _, report, _ in kept)


class Clumsy(ForwardMonitor):
    """Fails within a frame that holds the model."""

    stem = "clumsy"

    def observe(self, snapshot: Snapshot) -> Report:
        scores = snapshot.forward(snapshot.references.inputs)
        raise ValueError(f"cannot read {tuple(scores.shape)}")


@pytest.mark.contained
def test_a_model_is_freed_after_contained_failures(tmp_path: Path, contained: Any) -> None:
    monitor = Clumsy(every_n_train_steps=1)
    reference = _ends_well(tmp_path, [monitor])
    assert monitor.guard.counts.total() == len(contained.errors) == 3
    assert _freed(reference)


def _freed(reference: weakref.ref[Any]) -> bool:
    gc.collect()
    return reference() is None


# -- function modes of the user's


class Counting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_calls += 1
        return func(*args, **(kwargs or {}))


class OwnMode(pl.Callback):
    """Opens a mode in one hook and closes it in another, at each step."""

    def __init__(self) -> None:
        self.mode = Counting()
        self.tops: list[bool] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.mode.__enter__()

    def on_after_backward(self, *args: Any) -> None:
        self.tops.append(self.mode in _get_current_function_mode_stack())

    def on_train_batch_end(self, *args: Any) -> None:
        self.mode.__exit__(None, None, None)


class StackAtEachStep(pl.Callback):
    def __init__(self) -> None:
        self.stacks: list[list[str]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        modes = _get_current_function_mode_stack()
        self.stacks.append([type(mode).__name__ for mode in modes])


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("every", [1, 4])
def test_a_mode_of_the_users_that_crosses_ours_survives(
    tmp_path: Path, place: str, every: int
) -> None:
    look, user = StackAtEachStep(), OwnMode()
    monitor = ActivationMonitor(every_n_train_steps=every)
    callbacks = [user, monitor] if place == "before" else [monitor, user]
    module = Net(mlp())
    fit(module, tmp_path, [look, *callbacks], vectors)
    assert user.tops == [True] * NUM_STEPS
    assert len(monitor.history) == -(-NUM_STEPS // every)
    # What is inert may stay until we are asked the next time, never the user's.
    assert not any("Counting" in stack for stack in look.stacks)
    assert all(len(stack) <= 1 for stack in look.stacks)
    assert_clean(module)


# -- several runs, one after the other


def _shifted() -> CountingData:
    data = vectors()
    return CountingData(data.inputs + 100, data.labels)


def test_a_monitor_that_sees_another_model_forgets_the_first(tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_train_steps=1)
    first, second = Net(mlp()), Net(mlp(width=24))
    fit(first, tmp_path / "first", [monitor], vectors)
    fit(second, tmp_path / "second", [monitor], _shifted, max_epochs=1)
    assert monitor.history.steps == tuple(range(STEPS_AN_EPOCH))
    assert monitor.history.latest("num_units", "network.1") == 24
    assert monitor.references.inputs.mean() > 50
    assert monitor.state_dict()["monitor"]["layers"]["steps"] == list(range(STEPS_AN_EPOCH))
    assert_clean(first)
    assert_clean(second)


STAGES = ("fit", "validate", "test", "predict")


@pytest.mark.parametrize("stages", [*[(s,) for s in STAGES], STAGES, STAGES[::-1], ("fit", "fit")])
def test_stages_alone_and_in_turn_leave_nothing(tmp_path: Path, stages: Sequence[str]) -> None:
    module, plain = FrozenPart(), FrozenPart()
    for subject, monitors in ((plain, []), (module, watchers())):
        pl.seed_everything(3, verbose=False)
        trainer = trainer_of(tmp_path / str(len(monitors)), monitors, max_epochs=1)
        train, evaluation = loaders_of(pictures())
        for stage in stages:
            if stage == "fit":
                trainer.fit(subject, train, evaluation)
            elif stage == "predict":
                trainer.predict(subject, evaluation)
            else:
                getattr(trainer, stage)(subject, evaluation, verbose=False)
            assert_clean(subject)
            assert not subject.network.norm.training
    assert modes(module) == modes(plain)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_alone_is_read(tmp_path: Path, stage: str) -> None:
    monitor = EvaluationMonitor()
    trainer = trainer_of(tmp_path, [monitor])
    getattr(trainer, stage)(FrozenPart(), loaders_of(pictures())[1], verbose=False)
    assert len(monitor.history) == 1


# -- unusual Trainers


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 0},
        {"limit_val_batches": 0},
        {"num_sanity_val_steps": 0},
        {"overfit_batches": 2},
        {"val_check_interval": 0.2},
        {"check_val_every_n_epoch": 2},
        {"max_steps": 0},
        {"max_time": "00:00:10:00", "max_epochs": 1},
        {"logger": False},
        {"accumulate_grad_batches": 4},
        {"detect_anomaly": True, "max_epochs": 1},
    ],
    ids=str,
)
def test_an_unusual_trainer_runs_as_without_monitors(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    steps = []
    for monitors in ([], watchers()):
        module = FrozenPart()
        trainer = fit(module, tmp_path / str(len(monitors)), monitors, **options)
        steps.append((trainer.global_step, trainer.current_epoch, modes(module)))
        assert_clean(module)
    assert steps[0] == steps[1]
    assert len(monitors[0].history) == trainer.global_step


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    module, monitors = FrozenPart(), watchers()
    fit(module, tmp_path, monitors, fast_dev_run=True, logger=False)
    assert len(monitors[0].history) == 1
    assert list(tmp_path.rglob("*")) == []
    assert_clean(module)


@pytest.mark.filterwarnings("ignore:.*barebones.*")
def test_barebones_writes_nothing(tmp_path: Path) -> None:
    module, monitors = FrozenPart(), watchers()
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, barebones=True, default_root_dir=tmp_path,
        callbacks=monitors,
    )  # fmt: skip
    trainer.fit(module, *loaders_of(pictures()))
    assert len(monitors[0].history) == STEPS_AN_EPOCH
    assert list(tmp_path.rglob("*")) == []
    assert_clean(module)


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = pictures()
        index = 0
        while True:
            yield data[index % len(data)]
            index += 1


def test_an_endless_stream_with_max_steps_is_read(tmp_path: Path) -> None:
    module, monitors = FrozenPart(), watchers()
    trainer = trainer_of(tmp_path, monitors, max_epochs=-1, max_steps=12)
    trainer.fit(module, DataLoader(Endless(), batch_size=8))
    assert trainer.global_step == 12
    assert monitors[0].history.steps == tuple(range(12))
    assert_clean(module)


def test_a_run_that_never_trains_keeps_no_session_alive(tmp_path: Path) -> None:
    monitor = ActivationMonitor()
    trainer = trainer_of(tmp_path, [monitor])
    trainer.predict(FrozenPart(), loaders_of(pictures())[1])
    reference = weakref.ref(trainer)
    del trainer
    assert _freed(reference)
    assert monitor.last_report is None


def test_the_state_of_modes_is_seen_by_these_tests() -> None:
    module = FrozenPart()
    handle = module.network.relu.register_forward_hook(lambda *args: None)
    with pytest.raises(AssertionError, match="relu"):
        assert_clean(module)
    handle.remove()
    assert_clean(module)
    assert modes(module) != modes(torch.nn.Module.train(module))
