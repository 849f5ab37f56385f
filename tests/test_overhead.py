from __future__ import annotations

import pytest
from pytorch_lightning import Callback
from tests.contracts import dummies
from tests.contracts.dummies import ActivationsDummy, EmbeddingDummy, SaliencyDummy
from tests.tiny import NUM_STEPS, TinyModule, tiny_fit

from vis_callbacks import overhead as module
from vis_callbacks import pipeline, run_state, session
from vis_callbacks.alerts.tracker import AlertTracker
from vis_callbacks.engine import capture, function_mode, module_hooks
from vis_callbacks.engine import engine as engine_module
from vis_callbacks.engine.engine import Engine
from vis_callbacks.overhead import Overhead, divided
from vis_callbacks.step_facts import GroupTable
from vis_callbacks.writers.writer import Writer


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: ``clock[0]`` is the time."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def stop_clocks(monkeypatch, clock: list[float]) -> None:
    for place in (engine_module, module_hooks, function_mode):
        monkeypatch.setattr(place, "perf_counter", lambda: clock[0])


def spend(overhead: Overhead, clock: list[float], seconds: float) -> None:
    with overhead.measured():
        clock[0] += seconds


def test_the_share_is_that_of_the_measured_blocks(clock):
    overhead = Overhead(_started=clock[0])
    spend(overhead, clock, 1.0)
    clock[0] += 2.0
    spend(overhead, clock, 1.0)
    assert overhead.seconds == 2.0
    assert overhead.run_seconds == 4.0
    assert overhead.percent == 50.0


def test_a_block_that_fails_is_counted_too(clock):
    overhead = Overhead(_started=clock[0])
    with pytest.raises(ValueError, match="odd"), overhead.measured():  # noqa: PT012
        clock[0] += 3.0
        raise ValueError("odd")
    assert overhead.seconds == 3.0


def test_a_run_that_has_just_begun_divides_by_no_zero(clock):
    assert Overhead(_started=clock[0]).percent == 0.0


def test_pictures_are_given_up_before_statistics_become_rarer():
    overhead = Overhead(limit=0.1)
    assert overhead.keep_within_limit(11.0, 60.0) == "pictures"
    assert overhead.gives_up_pictures
    assert overhead.thinning == 1
    for thinning in (2, 4, 8):
        assert f"now {thinning} times rarer" in overhead.keep_within_limit(11.0, 60.0)
        assert overhead.thinning == thinning


@pytest.mark.parametrize(
    ("limit", "percent", "run_seconds"),
    [(None, 99.0, 60.0), (0.1, 10.0, 60.0), (0.1, 99.0, 4.9)],
    ids=["no limit", "within it", "hardly begun"],
)
def test_nothing_is_given_up_without_need(limit, percent, run_seconds):
    overhead = Overhead(limit=limit)
    assert overhead.keep_within_limit(percent, run_seconds) is None
    assert not overhead.gives_up_pictures
    assert overhead.thinning == 1


def test_what_serves_several_is_divided_among_those_who_asked(clock):
    first, second, other = (Overhead(_started=clock[0]) for _ in range(3))
    with divided(lambda: [first, second, other], lambda: [first, second]):
        spend(first, clock, 4.0)
        clock[0] += 3.0
        spend(other, clock, 1.0)
    assert [o.seconds for o in (first, second, other)] == [5.5, 1.5, 1.0]


def test_who_asks_may_be_known_only_afterwards(clock):
    first, second = (Overhead(_started=clock[0]) for _ in range(2))
    asking: list[Overhead] = []
    with divided(lambda: [first, second], lambda: list(asking)):
        clock[0] += 3.0
        asking.append(second)
    assert [first.seconds, second.seconds] == [0.0, 3.0]
    with divided(lambda: [first, second], list):
        clock[0] += 2.0
    assert [first.seconds, second.seconds] == [1.0, 4.0]


# -- every stage of a run

STAGES = {
    "references": (run_state, "take_references"),
    "opening a capture": (Engine, "begin"),
    "finding the batch's parts": (Engine, "start_batch"),
    "watching the update": (session, "UpdateWatch"),
    "an extra pass": (Engine, "read_isolated"),
    "hooks around modules": (capture.Capture, "_before"),
    "looking at functions": (capture.Capture, "_look_at"),
    "closing a capture": (Engine, "end_capture"),
    "counting": (Engine, "count_batch"),
    "optimizer groups": (GroupTable, "now"),
    "a monitor's own passes": (Engine, "isolated_forward"),
    "the transfer": (pipeline, "transfer"),
    "rules": (AlertTracker, "update"),
    "writing": (Writer, "write"),
    "flushing": (Writer, "flush"),
    "reductions": (dummies, "_positive"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_time_of_every_stage_is_counted(stage, clock, monkeypatch, tmp_path):
    holder, name = STAGES[stage]
    original, num_calls, states, is_running = getattr(holder, name), [0], [], [False]

    def slow(*args, **kwargs):
        num_calls[0] += is_running[0]
        clock[0] += 1.0
        return original(*args, **kwargs)

    class Sees(Callback):
        def on_train_start(self, trainer, pl_module):
            states.extend(monitors[0]._session.run.states)
            is_running[0] = True

        def on_train_end(self, trainer, pl_module):
            is_running[0] = False

    monkeypatch.setattr(holder, name, slow)
    stop_clocks(monkeypatch, clock)
    monkeypatch.setattr(engine_module, "_was_compiled", lambda: stage == "an extra pass")
    monitors = [ActivationsDummy(), EmbeddingDummy(), SaliencyDummy()]
    monitors[0].rules = (Never(),)
    tiny_fit(tmp_path, [*monitors, Sees()], num_sanity_val_steps=0)
    assert num_calls[0] > 0
    assert sum(state.overhead.seconds for state in states) == pytest.approx(num_calls[0])


def test_the_users_own_forward_is_not_counted(clock, monkeypatch, tmp_path):
    states = []
    original = TinyModule.training_step

    def slow(self, batch, batch_idx):
        clock[0] += 1.0
        states[:] = monitor._session.run.states
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TinyModule, "training_step", slow)
    stop_clocks(monkeypatch, clock)
    monitor = ActivationsDummy()
    tiny_fit(tmp_path, [monitor])
    assert [state.overhead.seconds for state in states] == [0.0]
    assert clock[0] == 100.0 + NUM_STEPS


class Never:
    kind, severity = "never", "warning"

    def check(self, history):
        return None
