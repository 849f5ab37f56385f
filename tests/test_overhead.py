from __future__ import annotations

import pytest
from pytorch_lightning import Callback
from tests.contracts import dummies
from tests.contracts.dummies import ActivationsDummy, EmbeddingDummy, SaliencyDummy
from tests.tiny import (
    NUM_STEPS,
    TinyModule,
    tiny_fit,
    tiny_loader,
    tiny_module,
    tiny_trainer,
)

from vis_callbacks import Monitor, Report, pipeline, run_state, session
from vis_callbacks import overhead as module
from vis_callbacks.alerts.tracker import AlertTracker
from vis_callbacks.engine import capture, function_mode, module_hooks
from vis_callbacks.engine import engine as engine_module
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.schedule import EveryNEpochs, EveryNSteps
from vis_callbacks.overhead import Budget, Overhead, divided
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


def budget_of(clock: list[float], **seconds: float) -> tuple[Budget, Overhead]:
    """Returns the budget of a run of 100 seconds, and the only monitor's overhead."""
    one = Overhead(limit=0.1, _started=clock[0] - 100.0)
    for name, value in seconds.items():
        setattr(one, name, value)
    return Budget([one]), one


@pytest.mark.parametrize(
    ("spent", "drawing", "has_room"),
    [(8.0, 2.0, True), (8.0, 2.1, False), (10.1, 0.0, False)],
    ids=["they just fit", "they do not", "there is nothing left"],
)
def test_pictures_are_drawn_where_what_the_last_ones_took_is_left(clock, spent, drawing, has_room):
    budget, one = budget_of(clock, seconds=spent, drawing=drawing)
    assert budget.claim(one) is has_room


def test_there_is_room_again_once_time_has_gone_by(clock):
    budget, one = budget_of(clock, seconds=11.0, drawing=1.0)
    assert not budget.claim(one)
    clock[0] += 20.0
    budget.learn(budget.numbers())
    assert budget.claim(one)


def test_room_is_given_to_one_monitor_alone(clock):
    first, second = (
        Overhead(limit=0.1, seconds=3.0, drawing=3.0, _started=clock[0] - 100.0) for _ in range(2)
    )
    budget = Budget([first, second])
    assert budget.claim(first)
    assert not budget.claim(second)


def test_pictures_that_were_never_drawn_are_taken_to_cost_as_much_as_the_dearest(clock):
    first, second = (Overhead(limit=0.1, _started=clock[0] - 100.0) for _ in range(2))
    first.drawing = 11.0
    assert not Budget([first, second]).claim(second)


@pytest.mark.parametrize(("first", "has_room"), [(9.9, True), (10.1, False)])
def test_the_first_pictures_wait_until_there_is_room_for_what_they_are_known_to_take(
    clock, first, has_room
):
    budget, one = budget_of(clock, first_drawing=first)
    assert budget.claim(one) is has_room
    one.drawing = 5.0  # from now on what they did take counts
    budget.learn(budget.numbers())
    assert budget.claim(one)


def test_without_a_limit_there_is_always_room(clock):
    budget, one = budget_of(clock, seconds=99.0, drawing=99.0, limit=None)
    assert budget.claim(one)
    assert one.may_show


def test_what_is_drawn_in_any_case_has_a_second_of_its_own(clock):
    budget, one = budget_of(clock)
    with budget.drawing_in_any_case():
        spend(one, clock, 0.5)
    assert budget.numbers()[2:4] == [0.5, 0.5]
    spend(one, clock, 10.0)
    budget.learn(budget.numbers())
    assert budget.claim(one)  # 10 of 110 seconds
    with budget.drawing_in_any_case():
        spend(one, clock, 3.0)
    budget.learn(budget.numbers())
    assert not budget.claim(one)  # 12.5 of 114


@pytest.mark.parametrize(("spent", "may_show"), [(10.5, True), (10.7, False)])
def test_what_is_only_shown_may_take_what_the_ends_pictures_leave_of_it(clock, spent, may_show):
    budget, one = budget_of(clock)
    one._started += 0.2  # so that the run is 100 seconds old in the end
    with budget.drawing_in_any_case():
        spend(one, clock, 0.2)
    one.spend(spent)
    budget.learn(budget.numbers())
    assert one.may_show is may_show  # 10 of 100 seconds, and 1 - 2 x .2


def test_what_is_drawn_beside_the_training_is_counted_too(clock):
    budget, one = budget_of(clock, drawing=1.0)
    budget.spend_drawing(one, 4.0, in_any_case=False)
    budget.spend_drawing(one, 2.0, in_any_case=True)
    assert budget.numbers()[2:] == [6.0, 2.0, 7.0]


def test_ranks_come_to_the_same_decision_from_the_sum_of_their_numbers(clock):
    (idle, one), (busy, other) = (budget_of(clock, seconds=s, drawing=1.0) for s in (0.0, 17.0))
    assert idle.claim(one)
    assert not busy.claim(other)
    both = [a + b for a, b in zip(idle.numbers(), busy.numbers(), strict=True)]
    for budget in (idle, busy):
        budget.learn(both)
    assert idle.claim(one)
    assert busy.claim(other)  # 8.5 of 100 seconds, and 1 more


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


# -- the budget over a whole run


class Draws(Monitor):
    """Runs the model for a picture, at each step, and takes some seconds for it."""

    default_schedule = EveryNSteps(1)
    picture_schedule = None
    needs = frozenset({"forward", "references"})
    seconds = 30.0

    def __init__(self, clock, **options):
        super().__init__(**options)
        self.clock, self.drew_at = clock, []

    def probes(self):
        return ()

    def observe(self, snapshot):
        if snapshot.wants_pictures:
            self.drew_at.append(snapshot.step)
            self.clock[0] += self.seconds
        return Report(step=snapshot.step)


class AlertsToo(Draws):
    """The same, but alerts rest on its numbers."""

    rules = (Never(),)

    def __init__(self, clock, **options):
        super().__init__(clock, **options)
        self.seen = []

    def observe(self, snapshot):
        self.seen.append(snapshot.step)
        return super().observe(snapshot)


class Passes(Callback):
    """Lets 100 seconds go by at each step."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_start(self, *args):
        self.clock[0] += 100.0


def fit_for(num_steps, tmp_path, clock, *callbacks):
    trainer = tiny_trainer(tmp_path, [Passes(clock), *callbacks], max_epochs=1)
    trainer.fit(tiny_module(), tiny_loader(4 * num_steps))


@pytest.mark.budget
@pytest.mark.parametrize("kind", [Draws, AlertsToo])
def test_pictures_wait_for_room_and_come_back_and_the_last_is_drawn(kind, clock, tmp_path):
    monitor = kind(clock, max_overhead=0.1)
    fit_for(12, tmp_path, clock, monitor)
    # 29 seconds of step 0 count, and 30 more are a tenth of 590: at step 5 it is 630. Then 89 are
    # a tenth of 890: at step 8 it is 960. Step 11 is the last.
    assert monitor.drew_at == [0, 5, 8, 11]


@pytest.mark.budget
def test_what_alerts_rest_on_never_waits(clock, tmp_path):
    monitor = AlertsToo(clock, max_overhead=0.0001)
    fit_for(5, tmp_path, clock, monitor)
    assert monitor.drew_at == [0, 4]
    assert monitor.seen == list(monitor.history.steps) == [0, 1, 2, 3, 4]


class Evaluates(EmbeddingDummy):
    """Reads each validation, and takes 30 seconds to look at it."""

    def __init__(self, clock, **options):
        super().__init__(**options)
        self.schedule = EveryNEpochs(1)
        self.clock, self.looked_at = clock, []

    def observe(self, snapshot):
        self.looked_at.append(snapshot.step)
        self.clock[0] += 30.0
        return Report(step=snapshot.step)


@pytest.mark.budget
def test_an_evaluation_that_no_alert_rests_on_waits_for_room_too(clock, tmp_path):
    monitor = Evaluates(clock, max_overhead=0.1)
    trainer = tiny_trainer(tmp_path, [Passes(clock), monitor], max_epochs=10)
    trainer.fit(tiny_module(), tiny_loader(4), tiny_loader(4))
    # 30 seconds, and 30 more, are a tenth of 600: it is 630 at step 5. Then 960, of 900, at 8.
    assert monitor.looked_at == [0, 5, 8, 9]


@pytest.mark.budget
def test_what_waits_at_an_early_end_is_drawn_then(clock, tmp_path):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    monitor = Draws(clock, max_overhead=0.0001)
    fit_for(9, tmp_path, clock, monitor, Stops())
    assert monitor.drew_at == [0, 2]


@pytest.mark.budget
def test_a_fixed_schedule_is_kept_and_told_of_once_where_it_is_dear(clock, tmp_path, caplog):
    caplog.set_level("INFO", logger="vis_callbacks")
    monitor = Draws(clock, every_n_train_steps=2)
    fit_for(7, tmp_path, clock, monitor)
    assert monitor.drew_at == [0, 2, 4, 6]
    (told,) = [r.getMessage() for r in caplog.records if "training time" in r.getMessage()]
    assert "15 % of the training time so far" in told
    assert "every_n_train_steps=2" in told
