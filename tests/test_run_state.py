from __future__ import annotations

import gc
import math
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.contracts.dummies import ActivationsDummy, EmbeddingDummy, SaliencyDummy
from tests.tiny import tiny_module

from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.references import References
from vis_callbacks.engine.schedule import BurstEnds, Bursts, EveryNSteps, RunFacts, Schedule
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.guard import Guard
from vis_callbacks.overhead import Overhead
from vis_callbacks.run_state import (
    Reading,
    RunState,
    StepContext,
    find_parts,
    keep_references,
    settle_references,
)

FACTS = RunFacts(planned_steps=2000, batch_size=64)


def state_of(monitor: Any, *schedules: Schedule | None) -> RunState:
    """Returns a state with a subscription for each schedule, None for the monitor's own."""
    (probe,) = monitor.probes()
    subscriptions = tuple(
        Subscription(
            probe=type(probe)(**vars(probe) | {"schedule": schedule}),
            guard=monitor.guard,
            batch_of=lambda batch: batch,
            forward=lambda model, inputs: model(inputs),
        )
        for schedule in schedules
    )
    return RunState(
        number=0,
        monitor=monitor,
        subscriptions=subscriptions,
        batch_of=lambda batch: batch,
        forward=lambda model, inputs: model(inputs),
        overhead=Overhead(),
    )


def in_bursts() -> ActivationsDummy:
    monitor = ActivationsDummy()
    monitor.schedule = Bursts()
    return monitor


def test_each_probe_is_due_by_its_own_schedule():
    state = state_of(in_bursts(), None, BurstEnds(Bursts()))
    due = {}
    for step in range(70):
        state.look_ahead(step, FACTS)
        due[step] = [state.subscriptions.index(s) for s in state.due_at(step, FACTS)]
    assert {step: which for step, which in due.items() if which} == {
        0: [0, 1], 5: [0], 10: [0], 15: [0], 20: [0, 1], 50: [0], 55: [0], 60: [0, 1],
    }  # fmt: skip


def test_it_need_not_be_asked_before_the_first_of_them():
    state = state_of(in_bursts(), None, EveryNSteps(30))
    for step, ask_at in ((0, 0), (1, 5), (21, 30), (31, 50)):
        state.look_ahead(step, FACTS)
        assert state.ask_at == ask_at


def test_what_collects_an_evaluation_is_never_due_in_a_training_step():
    state = state_of(EmbeddingDummy(), None)
    state.look_ahead(0, FACTS)
    assert (state.due_steps, state.ask_at) == ((), math.inf)


@pytest.mark.contained
def test_a_schedule_that_fails_is_asked_again_at_the_next_step():
    class Broken(EveryNSteps):
        def next_due(self, step: int, facts: RunFacts) -> int:
            raise RuntimeError("broken on purpose")

    state = state_of(ActivationsDummy(), Broken(1))
    state.look_ahead(7, FACTS)
    assert (state.due_steps, state.ask_at) == ((), 8)
    assert state.guard.counts.total() == 1


def test_what_is_only_shown_waits_for_room_but_not_in_the_first_steps_nor_at_the_end():
    state, facts = state_of(in_bursts(), None, BurstEnds(Bursts())), RunFacts(planned_steps=111)
    state.overhead.may_show = False
    due = {}
    for step in range(111):
        state.look_ahead(step, facts)
        due[step] = [state.subscriptions.index(s) for s in state.due_at(step, facts)]
    assert [step for step, which in due.items() if 1 in which] == [0, 20, 110]
    assert [step for step, which in due.items() if 0 in which] == [
        0, 5, 10, 15, 20, 50, 55, 60, 65, 70, 100, 105, 110,
    ]  # fmt: skip


def test_a_snapshot_is_lean_where_nothing_is_read_of_what_is_shown():
    state = state_of(in_bursts(), None, BurstEnds(Bursts()))
    numbers, shown = state.subscriptions
    assert state.is_lean([numbers])
    assert not state.is_lean([numbers, shown])
    assert not state_of(in_bursts(), None).is_lean([])  # it shows all that it reads


def test_only_what_no_alert_rests_on_can_wait():
    saliency, evaluation = SaliencyDummy(), EmbeddingDummy()
    for monitor in (saliency, evaluation):
        assert RunState.begin(0, monitor, Engine(tiny_module()), [], monitor.guard).can_wait
    saliency.rules = (SimpleNamespace(kind="never"),)
    assert not RunState.begin(0, saliency, Engine(tiny_module()), [], saliency.guard).can_wait
    monitor = ActivationsDummy()  # reads the user's own pass: it has next to nothing to save
    assert not RunState.begin(0, monitor, Engine(tiny_module()), [], monitor.guard).can_wait


def test_a_snapshot_is_whole_at_step_0_and_where_its_burst_ends():
    state = state_of(in_bursts(), None)
    whole = [s for s in (0, 5, 10, 15, 20, 50, 55, 60) if state.is_whole(s, FACTS)]
    assert whole == [0, 20, 60]


def test_a_monitor_that_runs_the_model_itself_waits_for_no_burst():
    monitor = SaliencyDummy()
    monitor.schedule = Bursts()
    state = RunState(number=0, monitor=monitor, batch_of=id, forward=id, overhead=Overhead())
    assert state.is_whole(5, FACTS)


def test_not_more_is_kept_than_fits():
    state = state_of(in_bursts(), None)
    view = SimpleNamespace(epoch=0, stage="fit")
    context = StepContext(view, FACTS, step=5, due=[state], whole=[], read=[])
    assert not state.is_whole(5, FACTS)
    state.kept = [Reading(context, {}, {})] * 32
    assert state.is_whole(5, FACTS)


def with_references(**changes: Any) -> SaliencyDummy:
    monitor = SaliencyDummy()
    inputs, labels = torch.arange(6.0).reshape(2, 3), torch.tensor([0, 1])
    monitor.references = References(
        **{"inputs": inputs, "labels": labels, "source": "the first batch"} | changes
    )
    return monitor


def test_restored_samples_are_moved_to_the_device_of_the_run():
    monitor, without = with_references(masks=torch.ones(2, 3)), SaliencyDummy()
    settle_references([monitor, without], torch.device("meta"))
    kept = monitor.references
    assert {kept.inputs.device, kept.labels.device, kept.masks.device} == {torch.device("meta")}
    assert kept.source == "the first batch"
    assert without.references is None


def test_equal_samples_are_shared_again_and_others_are_not():
    first, second = with_references(), with_references()
    others = [
        with_references(source="another batch"),
        with_references(labels=None),
        with_references(labels=torch.tensor([1, 1])),
        with_references(masks=torch.ones(2)),
        with_references(inputs=torch.arange(6).reshape(2, 3)),
    ]
    settle_references([first, second, *others], torch.device("cpu"))
    assert second.references.inputs is first.references.inputs
    inputs = {monitor.references.inputs.data_ptr() for monitor in (first, *others)}
    assert len(inputs) == 1 + len(others)


def test_fewer_samples_are_shared_with_those_who_keep_more():
    fewer, more = (SaliencyDummy(num_samples=n) for n in (1, 8))
    batch = [torch.randn(12, 5), torch.arange(12) % 3]
    keep_references([fewer, more], batch, "the first batch")
    assert len(fewer.references.inputs) == len(fewer.references.labels) == 1
    for name in ("inputs", "labels"):
        kept = [getattr(m.references, name) for m in (fewer, more)]
        assert kept[0].data_ptr() == kept[1].data_ptr()


def test_what_is_kept_for_long_holds_no_hundreds_of_samples():
    fewer, more = (SaliencyDummy(num_samples=n) for n in (1, 500))
    keep_references([fewer, more], [torch.randn(64, 5), torch.arange(64) % 3], "the first batch")
    assert fewer.references.inputs.untyped_storage().nbytes() == 5 * 4


def test_a_batch_that_is_not_understood_is_let_go_of_at_once():
    batch = {"x": torch.zeros(2, dtype=torch.complex64)}
    reference = weakref.ref(batch["x"])
    gc.disable()
    try:
        assert find_parts(batch, ActivationsDummy(), Guard("tester")).inputs is None
        del batch
        assert reference() is None
    finally:
        gc.enable()
