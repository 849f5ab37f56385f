"""Bursts: their snapshots are kept on the device and looked at, in their order, at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Callback, LightningModule
from tests.tiny import NUM_STEPS, Threes, tiny_fit, tiny_loader, tiny_module, tiny_trainer
from tests.writers.stand_ins import Recorder
from torch import nn

from vis_callbacks import (
    AlertRaisedError,
    Finding,
    Monitor,
    Probe,
    Report,
    RuleMetrics,
    Snapshot,
)
from vis_callbacks.engine.schedule import EveryNSteps, RunFacts


class Keeps(Monitor):
    """Reads how many samples a batch had, and keeps when it was asked what of which snapshot."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.schedule = Threes(1)
        self.seen: list[Snapshot] = []
        self.asked_at: list[int] = []
        self.now = -1

    def probes(self) -> Sequence[Probe]:
        return [Probe(name="p", reduce=_mean, merge={"mean": "sum"}, layers=["relu"])]

    def observe(self, snapshot: Snapshot) -> Report:
        self.seen.append(snapshot)
        self.asked_at.append(self.now)
        mean = snapshot.values["p"]["relu"]["mean"]
        reading = RuleMetrics(metrics=("mean",), layers=("relu",), values=mean)
        return Report(step=snapshot.step, items=(reading,))


def _mean(activation: Any, batch: Any) -> dict[str, torch.Tensor]:
    return {"mean": activation.values.mean()}


class Clock(Callback):
    """Tells monitors which step it is, before they act."""

    def __init__(self, *monitors: Keeps) -> None:
        self.monitors = monitors

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for monitor in self.monitors:
            monitor.now = trainer.global_step


class Always:
    """Finds something at each snapshot from a step on."""

    kind, severity = "always", "warning"

    def __init__(self, from_step: int = 0) -> None:
        self.from_step = from_step

    def check(self, history: Any) -> Finding | None:
        return Finding(message="It is so") if history.steps[-1] >= self.from_step else None


class OnceAt(Always):
    """Finds something at one snapshot alone."""

    def check(self, history: Any) -> Finding | None:
        return super().check(history) if history.steps[-1] == self.from_step else None


def fit(tmp_path: Path, monitor: Keeps, *callbacks: Callback, **options: Any) -> Any:
    options = {"max_epochs": 4, **options}  # eight steps
    return tiny_fit(tmp_path, [Clock(monitor), monitor, *callbacks], **options)


def test_the_snapshots_of_a_burst_are_looked_at_in_their_order_when_it_ends(tmp_path):
    monitor = Keeps()
    fit(tmp_path, monitor, max_epochs=2 * NUM_STEPS)
    assert [s.step for s in monitor.seen] == list(range(16))
    assert monitor.history.steps == tuple(range(16))
    # 13 and 14 wait for a 15 that comes; what were left would be looked at at the end.
    assert monitor.asked_at == [0, 3, 3, 3, 6, 6, 6, 9, 9, 9, 12, 12, 12, 15, 15, 15]


def test_each_has_its_own_values_loss_epoch_and_rate(tmp_path):
    class Falling(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.optimizers[0].param_groups[0]["lr"] = 0.1 / (1 + trainer.global_step)

    one_by_one, burst = Keeps(), Keeps()
    one_by_one.schedule = EveryNSteps(1)
    for monitor in (one_by_one, burst):
        trainer = fit(tmp_path, monitor, Falling())
    assert [s.step for s in burst.seen] == [s.step for s in one_by_one.seen] == list(range(8))
    for alone, kept in zip(one_by_one.seen, burst.seen, strict=True):
        assert alone.values["p"]["relu"]["mean"] == kept.values["p"]["relu"]["mean"]
        assert alone.num_samples == kept.num_samples == {"p": 4}
        assert (alone.epoch, alone.stage) == (kept.epoch, kept.stage)
        assert alone.optimizer[0].lr == kept.optimizer[0].lr == 0.1 / (1 + kept.step)
        assert {k: float(v) for k, v in alone.input_stats.items()} == {
            k: float(v) for k, v in kept.input_stats.items()
        }
    losses = [float(s.loss) for s in burst.seen]
    assert losses == pytest.approx(trainer.lightning_module.losses, rel=1e-6)  # float32


def test_the_weights_are_those_at_the_end_of_the_burst(tmp_path):
    norms: list[float] = []

    class Norms(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            norms.append(float(snapshot.weights["head.weight"].norm()))
            return super().observe(snapshot)

    fit(tmp_path, Norms())
    assert norms[1] == norms[2] == norms[3] != norms[4] == norms[6]


def test_what_depends_on_the_weights_alone_is_made_once_a_burst(tmp_path):
    made: list[int] = []

    class Once(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            snapshot.once("it", lambda: made.append(snapshot.step))
            return super().observe(snapshot)

    fit(tmp_path, Once())
    assert made == [0, 1, 4, 7]


@pytest.mark.parametrize("ends_at", [5, 8])
def test_a_burst_that_the_run_cuts_off_is_looked_at_at_its_end(tmp_path, ends_at):
    monitor = Keeps()
    fit(tmp_path, monitor, max_steps=ends_at, max_epochs=-1)
    assert monitor.history.steps == tuple(range(ends_at))


def test_a_burst_that_an_exception_cuts_off_is_looked_at_and_its_alert_told(tmp_path, caplog):
    class Fails(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 6:
                raise RuntimeError("the user's")

    monitor = Keeps()
    monitor.rules = (Always(from_step=4),)
    monitor.schedule = type("Rare", (EveryNSteps,), {"ends_burst": lambda *_: False})(1)
    with pytest.raises(RuntimeError, match="the user's"):
        fit(tmp_path, monitor, Fails())
    assert monitor.history.steps == tuple(range(6))
    assert [alert.step for alert in monitor.alerts] == [4]
    assert '"step":4' in (tmp_path / "vis_callbacks" / "alerts.jsonl").read_text()
    assert "It is so" in caplog.text


def test_a_checkpoint_within_a_burst_holds_what_was_read_so_far(tmp_path):
    states: list[dict[str, Any]] = []

    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 6:  # steps 0 to 5 are over
                states.append(monitor.state_dict())

    monitor = Keeps()
    fit(tmp_path, monitor, Saves())
    assert states[0]["history"]["steps"] == [0, 1, 2, 3, 4, 5]
    assert monitor.history.steps == tuple(range(8))


def test_an_alert_found_at_a_checkpoint_acts_when_the_burst_ends(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 6:
                monitor.state_dict()
                stopped.append(trainer.should_stop)

    stopped: list[bool] = []
    monitor = Keeps(on_alert="stop")
    monitor.rules = (Always(from_step=5),)
    trainer = fit(tmp_path, monitor, Saves(), max_epochs=8)
    assert stopped == [False]
    assert [alert.step for alert in monitor.alerts] == [5]
    assert trainer.global_step == 7  # the burst ends with step 6


@pytest.mark.parametrize("on_alert", ["stop", "raise", "function"])
def test_an_alert_found_at_a_checkpoint_acts_after_a_resume(tmp_path, caplog, on_alert):
    """The checkpoint's burst is over only after the run was interrupted."""

    class Interrupted(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 6:
                trainer.save_checkpoint(tmp_path / "now.ckpt")
                trainer.should_stop = True

    def watching() -> Keeps:
        called.clear()
        monitor = Keeps(on_alert=called.append if on_alert == "function" else on_alert)
        monitor.rules = (OnceAt(5),)
        monitor.schedule = type("Rare", (EveryNSteps,), {"ends_burst": lambda *_: False})(1)
        return monitor

    called: list[Any] = []
    with contextlib.suppress(AlertRaisedError):
        fit(tmp_path, watching(), Interrupted(), max_epochs=8)
    caplog.clear()
    monitor = watching()
    raises = pytest.raises(AlertRaisedError, match="It is so")
    with raises if on_alert == "raise" else contextlib.nullcontext():
        fit(tmp_path, monitor, max_epochs=8, ckpt_path=tmp_path / "now.ckpt")
    assert monitor.history.steps[-1] == (15 if on_alert == "function" else 5)
    begun = [m for m in caplog.messages if "It is so" in m and "[resolved]" not in m]
    assert len(begun) == 1
    told = [("firing", 5), ("resolved", 10)] if on_alert == "function" else []
    assert [(alert.state, alert.step) for alert in called] == told
    assert monitor.state_dict()["tracker"]["untold"] == []


@pytest.mark.parametrize("ends_by", ["raise", "stop"])
def test_all_alerts_of_a_run_are_told_written_and_acted_on_before_one_ends_it(
    tmp_path, caplog, ends_by
):
    class Ending(Keeps):
        rules = (Always(from_step=5),)

    class AmidABurst(Keeps):
        rules = (OnceAt(4),)

    called: list[Any] = []
    ending, amid = Ending(on_alert={"always": ends_by}), AmidABurst(on_alert=called.append)
    ending.schedule = EveryNSteps(1)
    raises = pytest.raises(AlertRaisedError, match="It is so")
    with raises if ends_by == "raise" else contextlib.nullcontext():
        fit(tmp_path, ending, amid, max_epochs=8)
    assert [alert.step for alert in called] == [4]
    assert sorted(m[:18] for m in caplog.messages if "It is so" in m) == [
        "[warning] step 4: ",
        "[warning] step 5: ",
    ]
    lines = (tmp_path / "vis_callbacks" / "alerts.jsonl").read_text()
    assert '"step":4' in lines
    assert '"step":5' in lines
    assert ending.history.steps[-1] == 5


def test_an_alert_of_the_last_burst_still_raises(tmp_path):
    monitor = Keeps(on_alert="raise")
    monitor.rules = (Always(from_step=7),)
    with pytest.raises(AlertRaisedError, match="It is so"):
        fit(tmp_path, monitor)


def test_alerts_carry_the_step_of_their_own_snapshot(tmp_path):
    monitor = Keeps()
    monitor.rules = (Always(from_step=4),)
    fit(tmp_path, monitor)
    assert [(alert.step, alert.epoch) for alert in monitor.alerts] == [(4, 2)]


@pytest.mark.contained
def test_a_burst_that_cannot_be_looked_at_counts_as_one_failure_in_the_row(tmp_path):
    class Broken(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            super().observe(snapshot)
            raise RuntimeError("broken on purpose")

    monitor = Broken()
    fit(tmp_path, monitor, max_epochs=8)
    # Steps 0, 3 and 6 are three in a row, then it rests.
    assert [s.step for s in monitor.seen] == list(range(7))


def test_within_a_burst_nothing_is_written_and_with_its_last_snapshot_how_many_alerts_fire(
    tmp_path,
):
    from vis_callbacks import Scalar

    class Says(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            return Report(step=snapshot.step, items=(Scalar(tag="a", value=1.0),))

    logger = Recorder()
    trainer = tiny_trainer(tmp_path, [Says(tag_prefix="mine/")], max_epochs=4, logger=logger)
    trainer.fit(tiny_module(), tiny_loader())
    ours = [(step, set(numbers)) for numbers, step in logger.metrics if "mine/a" in numbers]
    assert [step for step, _ in ours] == list(range(8))
    assert [step for step, names in ours if "alerts/active" in names] == [0, 1, 4, 7]


class OfModules(LightningModule):
    """Has nothing but modules for nonlinearities, so that a plan can be made; two heads."""

    def __init__(self, takes_turns: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)) for _ in range(2)
        )
        self.takes_turns = takes_turns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        head = self.heads[self.trainer.global_step % 2 if self.takes_turns else 0]
        return head(self.body(x))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Lbfgs(OfModules):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=3)


def test_heads_that_take_turns_are_both_read_for_the_whole_run(tmp_path):
    monitor = Counts()
    trainer = tiny_trainer(tmp_path, [monitor], max_epochs=12)
    trainer.fit(OfModules(takes_turns=True), tiny_loader())
    assert monitor.guard.counts == {}
    assert len(monitor.seen) == 23  # one is left out when it is found that steps differ
    read = [list(snapshot.values["p"])[1] for snapshot in monitor.seen]
    assert read.count("heads.0.1") >= 11
    assert read.count("heads.1.1") >= 11


@pytest.mark.parametrize("layers", [None, ["body.1"]], ids=["planned", "watched"])
def test_closures_that_an_optimizer_calls_again_are_not_read(tmp_path, layers):
    monitor = Counts(layers)
    trainer = tiny_trainer(tmp_path, [monitor], max_epochs=4)
    trainer.fit(Lbfgs(), tiny_loader())
    assert len(monitor.seen) == 8
    for snapshot in monitor.seen:
        assert {float(v["calls"]) for v in snapshot.values["p"].values()} == {1.0}


@pytest.mark.parametrize("layers", [None, ["body.1"]], ids=["planned", "watched"])
def test_a_validation_between_two_micro_batches_is_not_read_into_the_step(tmp_path, layers):
    monitor = Counts(layers)
    trainer = tiny_trainer(
        tmp_path, [monitor], max_epochs=4, val_check_interval=1, accumulate_grad_batches=2
    )
    trainer.fit(OfModules(), tiny_loader(16), tiny_loader())
    assert [s.num_samples["p"] for s in monitor.seen] == [8] * 8
    for snapshot in monitor.seen:
        assert {float(v["calls"]) for v in snapshot.values["p"].values()} == {2.0}


class Counts(Keeps):
    """Counts how often layers are read in a step."""

    def __init__(self, layers: Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.layers = layers

    def probes(self) -> Sequence[Probe]:
        return [Probe(name="p", reduce=_call, merge={"calls": "sum"}, layers=self.layers)]

    def observe(self, snapshot: Snapshot) -> Report:
        self.seen.append(snapshot)
        return Report(step=snapshot.step)


def _call(activation: Any, batch: Any) -> dict[str, torch.Tensor]:
    return {"calls": torch.ones(())}


def test_a_burst_that_never_ends_is_looked_at_all_the_same(tmp_path):
    monitor = Keeps()
    monitor.schedule = type("Endless", (EveryNSteps,), {"ends_burst": lambda *_: False})(1)
    fit(tmp_path, monitor, max_epochs=20)
    assert monitor.history.steps == tuple(range(40))
    assert monitor.asked_at[1] == monitor.asked_at[33] == 33


@pytest.mark.contained
def test_where_a_schedule_cannot_say_whether_a_burst_ends_it_does(tmp_path):
    def fails(*args: Any) -> bool:
        raise RuntimeError("broken on purpose")

    monitor = Keeps()
    monitor.schedule = type("Broken", (EveryNSteps,), {"ends_burst": fails})(1)
    fit(tmp_path, monitor)
    assert monitor.asked_at == [0, 1, 2]  # then it rests
    assert monitor.guard.is_resting


@pytest.mark.contained
def test_a_schedule_that_fails_once_loses_one_step(tmp_path):
    class Once(EveryNSteps):
        failed: ClassVar[list[int]] = []

        def next_due(self, step: int, facts: RunFacts) -> int:
            if step == 4 and not self.failed:
                self.failed.append(step)
                raise RuntimeError("broken on purpose")
            return step + 1

    monitor = Keeps()
    monitor.schedule = Once(1)
    trainer = tiny_trainer(tmp_path, [monitor], max_epochs=1)
    trainer.fit(tiny_module(), tiny_loader(32))
    assert Once.failed
    assert [s.step for s in monitor.seen] == [0, 1, 2, 3, 4, 6, 7]
