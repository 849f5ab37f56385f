from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from tests.contracts.dummies import ActivationsDummy, EmbeddingDummy, FiltersDummy, SaliencyDummy
from tests.identity import num_hooks, num_hooks_on
from tests.tiny import NUM_STEPS, tiny_fit, tiny_loader, tiny_module, tiny_trainer
from tests.writers.stand_ins import Recorder
from torch import Tensor

from vis_callbacks import Monitor, Probe, Report, Scalar, Snapshot
from vis_callbacks.session import session_of


class Keeps(Monitor):
    """Keeps what it was shown."""

    def __init__(self, probes: Sequence[Probe] = (), **options: Any) -> None:
        super().__init__(every_n_train_steps=1, **options)
        self.asked = probes
        self.snapshots: list[Snapshot] = []

    def probes(self) -> Sequence[Probe]:
        return self.asked

    def observe(self, snapshot: Snapshot) -> Report:
        self.snapshots.append(snapshot)
        return Report(step=snapshot.step)


def count(name: str, **options: Any) -> Probe:
    def reduce(activation: Any, batch: Any) -> dict[str, Tensor]:
        return {"calls": torch.ones(()), "samples": torch.tensor(float(batch.num_samples))}

    merge = {"calls": "sum", "samples": "sum"}
    return Probe(name=name, reduce=reduce, merge=merge, **options)


def test_the_monitors_of_a_trainer_share_one_session(tmp_path):
    trainer, other = tiny_trainer(tmp_path), tiny_trainer(tmp_path)
    assert session_of(trainer) is session_of(trainer)
    assert session_of(trainer) is not session_of(other)


def test_a_session_dies_with_its_trainer(tmp_path):
    trainer = tiny_trainer(tmp_path)
    session = weakref.ref(session_of(trainer))
    del trainer
    gc.collect()
    assert session() is None


def test_joining_and_leaving_twice_is_harmless(tmp_path):
    session, monitor = session_of(tiny_trainer(tmp_path)), Keeps()
    for _ in range(2):
        session.join(monitor)
    assert session.driver is monitor
    for _ in range(2):
        session.leave(monitor)
    assert session.driver is None


def test_a_snapshot_has_the_facts_of_its_step(tmp_path):
    monitor = Keeps()
    trainer = tiny_fit(tmp_path, [monitor])
    assert [s.step for s in monitor.snapshots] == [0, 1, 2, 3]
    assert [s.epoch for s in monitor.snapshots] == [0, 0, 1, 1]
    assert {s.stage for s in monitor.snapshots} == {"fit"}
    assert {s.planned_steps for s in monitor.snapshots} == {NUM_STEPS}
    assert [s.is_reference for s in monitor.snapshots] == [True, False, False, False]
    losses = [float(s.loss) for s in monitor.snapshots]
    assert losses == pytest.approx(trainer.lightning_module.losses, rel=1e-6)  # float32


def test_the_layers_are_known_also_to_a_monitor_that_reads_none(tmp_path):
    monitor = Keeps()
    tiny_fit(tmp_path, [monitor])
    for snapshot in monitor.snapshots:
        assert [info.name for info in snapshot.trace] == ["relu", "TinyModule/relu"]
        assert snapshot.trace[0].touches_input
        assert snapshot.trace[0].weight_name == "conv.weight"
    assert not monitor.snapshots[0].values


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_micro_batches_of_a_step_are_merged(tmp_path, accumulate):
    monitor = Keeps([count("p", layers=["relu"])])
    tiny_fit(tmp_path, [monitor], accumulate_grad_batches=accumulate)
    assert len(monitor.snapshots) == NUM_STEPS // accumulate
    for snapshot in monitor.snapshots:
        assert snapshot.num_samples["p"] == 4 * accumulate
        assert snapshot.values["p"]["relu"]["calls"] == accumulate


def test_all_batches_of_an_evaluation_are_merged_and_the_sanity_check_is_none(tmp_path):
    monitor = Keeps([count("p", layers=["relu"], occasion="evaluation")])
    tiny_fit(tmp_path, [monitor], num_sanity_val_steps=2)
    assert [s.num_samples["p"] for s in monitor.snapshots] == [8, 8]
    assert [float(s.values["p"]["relu"]["calls"]) for s in monitor.snapshots] == [2.0, 2.0]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_by_itself_is_one_snapshot(tmp_path, stage):
    monitor = Keeps([count("p", layers=["relu"], occasion="evaluation")])
    trainer = tiny_trainer(tmp_path, [monitor])
    getattr(trainer, stage)(tiny_module(), tiny_loader(), verbose=False)
    (snapshot,) = monitor.snapshots
    assert snapshot.stage == stage
    assert snapshot.num_samples["p"] == 8


def test_evaluations_are_taken_as_seldom_as_the_schedule_says(tmp_path):
    class Seldom(EmbeddingDummy):
        pass

    monitor = Seldom(every_n_epochs=3)
    seen: list[int] = []
    observe = monitor.observe
    monitor.observe = lambda snapshot: (seen.append(snapshot.epoch), observe(snapshot))[1]
    tiny_fit(tmp_path, [monitor], max_epochs=8)
    assert seen == [0, 2, 5, 7]  # the first of all, the third, the sixth and the last


def test_one_report_that_cannot_be_moved_spares_the_others(tmp_path, request):
    request.applymarker(pytest.mark.contained)

    class Garbage(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            return Report(step=snapshot.step, items=("no item",))

    garbage, other = Garbage(), ActivationsDummy()
    tiny_fit(tmp_path, [garbage, other])
    assert len(other.history) == NUM_STEPS
    assert [cause.split(":")[0] for cause in garbage.guard.counts] == ["transfer"]


@pytest.mark.contained
def test_what_is_no_report_is_named(tmp_path, contained):
    class Forgetful(Keeps):
        def observe(self, snapshot: Snapshot) -> None:
            return None

    tiny_fit(tmp_path, [Forgetful()])
    (report,) = contained.reports
    assert "observe returned a NoneType. Return a Report" in report


@pytest.mark.contained
def test_a_rule_that_fails_leaves_the_other_rules_their_say(tmp_path):
    class Broken:
        kind, severity = "broken", "warning"

        def check(self, history):
            raise RuntimeError("broken")

    class Works:
        kind, severity = "works", "warning"

        def check(self, history):
            from vis_callbacks import Finding

            return Finding(message="It works")

    monitor = Keeps()
    monitor.rules = (Broken(), Works())
    tiny_fit(tmp_path, [monitor])
    assert [alert.kind for alert in monitor.alerts] == ["works"]


@pytest.mark.contained
def test_a_monitor_that_fails_at_three_evaluations_running_rests(tmp_path):
    calls = []

    class Broken(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            calls.append(snapshot.epoch)
            raise RuntimeError("broken")

    monitor = Broken([count("p", layers=["relu"], occasion="evaluation")])
    tiny_fit(tmp_path, [monitor], max_epochs=6)
    assert calls == [0, 1, 2]


def test_the_tags_carry_the_prefix_and_outside_fit_the_stage(tmp_path):
    class Says(Keeps):
        def observe(self, snapshot: Snapshot) -> Report:
            return Report(step=snapshot.step, items=(Scalar(tag="a", value=1.0),))

    monitor = Says([count("p", layers=["relu"], occasion="evaluation")], tag_prefix="mine/")
    for run, tag in (("fit", "mine/a"), ("validate", "validate/mine/a")):
        logger = Recorder()
        trainer = tiny_trainer(tmp_path, [monitor], logger=logger)
        loaders = (tiny_loader(), tiny_loader()) if run == "fit" else (tiny_loader(),)
        getattr(trainer, run)(tiny_module(), *loaders)
        written = {name for metrics, _ in logger.metrics for name in metrics}
        assert tag in written


def test_nothing_is_attached_at_a_step_without_a_snapshot(tmp_path):
    hooks: list[int] = []

    class CountsHooks(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            hooks.append(num_hooks())
            assert num_hooks_on(pl_module) == 0

    tiny_fit(tmp_path, [ActivationsDummy(every_n_train_steps=2), CountsHooks()], max_epochs=3)
    assert [bool(n) for n in hooks] == [True, False, True, False, True, False]


def test_monitors_of_all_kinds_work_side_by_side(tmp_path):
    monitors = [ActivationsDummy(), FiltersDummy(), EmbeddingDummy(), SaliencyDummy()]
    tiny_fit(tmp_path, monitors)
    assert [len(m.history) for m in monitors] == [NUM_STEPS, NUM_STEPS, 2, NUM_STEPS]


def test_the_last_validation_counts_though_training_goes_on_after_it(tmp_path):
    collects = Keeps([count("p", layers=["relu"], occasion="evaluation")])
    monitors = [ActivationsDummy(), collects]
    trainer = tiny_trainer(tmp_path, monitors, val_check_interval=3)  # of 8 batches
    trainer.fit(tiny_module(), tiny_loader(32), tiny_loader())
    assert [(s.step, s.num_samples) for s in collects.snapshots] == [(7, {"p": 8}), (15, {"p": 8})]
    assert len(monitors[0].history) == 16


def test_a_validation_between_two_micro_batches_of_a_step_leaves_them_one_snapshot(tmp_path):
    trains = Keeps([count("p", layers=["relu"])])
    collects = Keeps([count("p", layers=["relu"], occasion="evaluation")], tag_prefix="b/")
    trainer = tiny_trainer(
        tmp_path, [trains, collects], val_check_interval=1, accumulate_grad_batches=2
    )
    trainer.fit(tiny_module(), tiny_loader(16), tiny_loader())
    assert [s.step for s in trains.snapshots] == [0, 1, 2, 3]
    assert [s.num_samples["p"] for s in trains.snapshots] == [8] * 4
    assert [s.num_samples["p"] for s in collects.snapshots] == [8, 8]
