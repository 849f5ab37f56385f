from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from tests.contracts.dummies import ActivationsDummy
from tests.tiny import NUM_STEPS, TinyModule, tiny_fit, tiny_loader, tiny_module, tiny_trainer

from vis_callbacks import Finding, Monitor, Probe, Report, RuleMetrics, Snapshot
from vis_callbacks._lightning import SetUpError
from vis_callbacks.engine.schedule import Decaying, EveryNSteps
from vis_callbacks.monitor import _snake_case
from vis_callbacks.observer import STATE_VERSION


class Once:
    """Finds something at one step."""

    kind = "once"
    severity = "warning"

    def check(self, history: Any) -> Finding | None:
        return Finding(message="Something is odd") if history.latest("step") == 1 else None


class Other(Once):
    kind = "other"

    def check(self, history: Any) -> None:
        return None


class StepsMonitor(Monitor):
    """Remembers the steps that it has observed."""

    rules = (Once(), Other())

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[int] = []

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        self.seen.append(snapshot.step)
        return Report(
            step=snapshot.step, items=(RuleMetrics(metrics=("step",), values=snapshot.step),)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state_dict: Any) -> None:
        self.seen = list(state_dict.get("seen", ()))


@pytest.fixture
def monitor() -> StepsMonitor:
    return StepsMonitor(every_n_train_steps=1)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("ActivationMonitor", "activation"),
        ("TopPatchesMonitor", "top_patches"),
        ("HTTPLoadMonitor", "http_load"),
        ("Monitor", "monitor"),
    ],
)
def test_the_stem_is_made_of_the_class_name(name, stem):
    assert _snake_case(name) == stem


def test_a_monitor_has_the_stem_of_its_class_and_the_users_prefix():
    assert StepsMonitor(tag_prefix="a/").name == "a/steps"


def test_without_a_schedule_of_its_own_numbers_become_rarer():
    assert StepsMonitor().schedule == Decaying()
    assert StepsMonitor(every_n_train_steps=3).schedule == EveryNSteps(3)


def test_it_observes_every_step_it_is_asked_to(monitor, tmp_path):
    tiny_fit(tmp_path, [monitor])
    assert monitor.seen == list(range(NUM_STEPS))
    assert monitor.last_report.step == NUM_STEPS - 1


def test_what_a_rule_finds_is_an_alert(monitor, tmp_path):
    tiny_fit(tmp_path, [monitor])
    (alert,) = monitor.alerts
    assert (alert.kind, alert.step, alert.monitor) == ("once", 1, "steps")


def test_only_the_alerts_that_are_wanted_are_raised(tmp_path):
    monitor = StepsMonitor(every_n_train_steps=1, enabled_alerts=["other"])
    tiny_fit(tmp_path, [monitor])
    assert monitor.seen
    assert not monitor.alerts


def test_a_run_that_begins_anew_forgets_the_one_before(monitor, tmp_path):
    for _ in range(2):
        tiny_fit(tmp_path, [monitor])
        assert monitor.seen == list(monitor.history.steps) == list(range(NUM_STEPS))
        assert len(monitor.alerts) == 1


def test_a_new_run_of_the_same_model_begins_anew_too(monitor, tmp_path):
    module = tiny_module()
    for _ in range(2):
        tiny_trainer(tmp_path, [monitor]).fit(module, tiny_loader(), tiny_loader())
        assert monitor.seen == list(range(NUM_STEPS))


def test_a_trainer_that_goes_on_continues_the_history(monitor, tmp_path):
    trainer, module = tiny_trainer(tmp_path, [monitor]), tiny_module()
    trainer.fit(module, tiny_loader(), tiny_loader())
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, tiny_loader(), tiny_loader())
    assert monitor.seen == list(monitor.history.steps) == list(range(2 * NUM_STEPS))


def test_another_trainers_evaluation_leaves_the_history_of_the_fit(monitor, tmp_path):
    module = tiny_module()
    tiny_trainer(tmp_path, [monitor]).fit(module, tiny_loader(), tiny_loader())
    tiny_trainer(tmp_path, [monitor]).validate(module, tiny_loader(), verbose=False)
    assert list(monitor.history.steps) == list(range(NUM_STEPS))
    assert len(monitor.alerts) == 1


# -- its state


def test_a_state_comes_back(monitor, tmp_path):
    tiny_fit(tmp_path, [monitor])
    other = StepsMonitor()
    other.load_state_dict(monitor.state_dict())
    assert other.seen == monitor.seen
    assert other.history.steps == monitor.history.steps


@pytest.mark.contained
@pytest.mark.parametrize(
    "break_it",
    [
        lambda state: state.update(version=STATE_VERSION + 1),
        lambda state: state.pop("version"),
        lambda state: state.pop("history"),
        lambda state: state.update(history="odd"),
        lambda state: state.update(tracker=[1]),
        lambda state: state.update(monitor=5),
        lambda state: state.update(references={"odd": 1}),
    ],
)
def test_a_state_that_is_not_ours_is_reported_once_and_everything_starts_afresh(
    break_it, tmp_path, contained
):
    donor = StepsMonitor(every_n_train_steps=1)
    tiny_fit(tmp_path, [donor])
    state = donor.state_dict()
    break_it(state)
    monitor = StepsMonitor()
    monitor.load_state_dict(state)
    assert len(contained.reports) == 1
    assert monitor.seen == []
    assert monitor.history.steps == ()


def test_an_empty_state_begins_anew(monitor, tmp_path):
    tiny_fit(tmp_path, [monitor])
    monitor.load_state_dict({})
    assert (monitor.seen, monitor.history.steps, monitor.alerts) == ([], (), [])


class Further(StepsMonitor):
    """Adds to the state of the class above it, as one does in PyTorch."""

    more = 0

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"more": self.more}

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.more = state_dict.get("more", 0)


def test_a_subclass_may_add_to_the_state_of_its_base(tmp_path):
    monitor, other = Further(every_n_train_steps=1), Further()
    tiny_fit(tmp_path, [monitor])
    monitor.more = 5
    state = monitor.state_dict()
    assert state["monitor"] == {"seen": list(range(NUM_STEPS)), "more": 5}
    other.load_state_dict(state)
    assert (other.seen, other.more, other.history.steps) == (monitor.seen, 5, (0, 1, 2, 3))


class OddState(StepsMonitor):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.float64(1.0)}


@pytest.mark.contained
def test_an_own_state_that_cannot_be_resumed_is_left_out_and_the_history_goes_on(
    tmp_path, contained
):
    monitor, resumed = OddState(every_n_train_steps=1), OddState(every_n_train_steps=1)
    tiny_fit(tmp_path, [monitor]).save_checkpoint(tmp_path / "a.ckpt")
    (saved,) = torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"].values()
    assert "monitor" not in saved
    assert "state_dict()['seen'] is a numpy.float64" in contained.reports[0]
    resumed.load_state_dict(saved)
    assert resumed.history.steps == tuple(range(NUM_STEPS))
    assert [alert.kind for alert in resumed.alerts] == ["once"]
    assert resumed.seen == []


# -- several monitors


def test_monitors_that_differ_in_their_prefix_keep_states_of_their_own(tmp_path):
    monitors = [StepsMonitor(every_n_train_steps=1, tag_prefix=p) for p in ("", "b/")]
    trainer = tiny_fit(tmp_path, monitors)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert len(torch.load(tmp_path / "a.ckpt", weights_only=True)["callbacks"]) == 2


def test_a_checkpoint_names_a_monitor_as_it_names_itself_during_and_after_a_run(monitor, tmp_path):
    tiny_fit(tmp_path, [monitor]).save_checkpoint(tmp_path / "it.ckpt")
    content = torch.load(tmp_path / "it.ckpt", weights_only=True)
    assert list(content["callbacks"]) == [monitor.state_key]
    assert "@" not in monitor.state_key


@pytest.mark.parametrize(
    "options",
    [{}, {"every_n_epochs": 1}, {"tag_prefix": "a/"}],
    ids=["equal ones", "another schedule", "the same prefix"],
)
def test_two_monitors_of_a_class_are_refused_before_training_with_what_to_write(tmp_path, options):
    prefix = {"tag_prefix": "a/"} if "tag_prefix" in options else {}
    module = tiny_module()
    with pytest.raises(ValueError, match=r"two StepsMonitors.*tag_prefix=\"second/\"") as caught:
        tiny_trainer(tmp_path, [StepsMonitor(**prefix), StepsMonitor(**options)]).fit(
            module, tiny_loader(), tiny_loader()
        )
    assert isinstance(caught.value, SetUpError)
    assert module.losses == []


def test_monitors_of_two_classes_and_two_prefixes_go_together(tmp_path):
    monitors = [StepsMonitor(), StepsMonitor(tag_prefix="a/"), ActivationsDummy()]
    tiny_fit(tmp_path, monitors)
    assert all(len(monitor.history) for monitor in monitors)


def test_after_a_run_nothing_ties_a_monitor_to_the_model(monitor, tmp_path: Path):
    trainer = tiny_fit(tmp_path, [monitor])
    assert isinstance(trainer.lightning_module, TinyModule)
    assert monitor._session is None
    assert {"log", "log_dict"}.isdisjoint(vars(monitor))


@pytest.mark.parametrize(("old", "new"), [("state", "state_dict"), ("restore", "load_state_dict")])
def test_a_monitor_that_is_written_for_the_names_of_before_is_refused(old, new):
    with pytest.raises(TypeError, match=rf"defines {old}\(\), .* Use {new}\(\)"):
        type("OldMonitor", (Monitor,), {old: lambda self, *state: {}})


class WrapsHooks(Callback):
    """Wraps a hook of every other callback and calls another one, as a user's timer may."""

    def __init__(self) -> None:
        self.num_calls = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for callback in trainer.callbacks:
            if callback is not self:
                callback.on_train_batch_end = self.wrapped(callback.on_train_batch_end)
                callback.on_after_backward(trainer, pl_module)

    def wrapped(self, hook: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: Any) -> None:
            self.num_calls += 1
            hook(*args)

        return counted


def test_a_users_callback_may_wrap_and_call_the_hooks_of_all_monitors(tmp_path):
    monitors = [StepsMonitor(every_n_train_steps=1), ActivationsDummy(every_n_train_steps=1)]
    wraps = WrapsHooks()
    tiny_fit(tmp_path, [*monitors, wraps])
    assert wraps.num_calls == 2 * NUM_STEPS
    assert monitors[0].seen == list(range(NUM_STEPS))
    assert monitors[1].last_report.step == NUM_STEPS - 1
