from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vis_callbacks.engine.schedule import (
    Bursts,
    Decaying,
    EveryNEpochs,
    EveryNSteps,
    LogSpaced,
    RunFacts,
    Schedule,
    schedule_from_options,
)

SCHEDULES = (
    EveryNSteps(7),
    EveryNEpochs(1),
    EveryNEpochs(5),
    EveryNEpochs(2),
    Bursts(),
    Decaying(),
    LogSpaced(),
    LogSpaced(first=1, per_doubling=1),
)
EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
FACTS = st.builds(
    RunFacts,
    planned_steps=st.none() | st.integers(0, 50_000),
    steps_per_epoch=st.none() | st.integers(1, 2_000),
    batch_size=st.none() | st.integers(1, 1_000),
)


def due_steps(schedule: Schedule, facts: RunFacts, until: int) -> list[int]:
    return [step for step in range(until) if schedule.due(step, facts)]


def due_epochs(schedule: Schedule, epochs: int, length: int = 3) -> list[int]:
    """Epochs, counted from 1, whose last step is due."""
    facts = RunFacts(planned_steps=epochs * length, steps_per_epoch=length)
    steps = due_steps(schedule, facts, epochs * length)[1:]  # without step 0
    assert all((step + 1) % length == 0 for step in steps)
    return [(step + 1) // length for step in steps]


# -- every schedule


@EVERY_SCHEDULE
@settings(max_examples=20, deadline=None)
@given(facts=FACTS)
def test_step_0_is_due_whatever_is_known(schedule, facts):
    assert schedule.due(0, facts)


@EVERY_SCHEDULE
@settings(max_examples=20, deadline=None)
@given(facts=FACTS, step=st.integers(0, 60_000))
def test_the_next_due_step_lies_ahead_and_is_due(schedule, facts, step):
    following = schedule.next_due(step, facts)
    if following is not None:
        assert following > step
        assert schedule.due(following, facts)


@EVERY_SCHEDULE
@settings(max_examples=20, deadline=None)
@given(facts=FACTS, step=st.integers(0, 30_000))
def test_no_due_step_is_jumped_over(schedule, facts, step):
    following = schedule.next_due(step, facts)
    until = step + 300 if following is None else min(following, step + 300)
    assert not any(schedule.due(between, facts) for between in range(step + 1, until))


@EVERY_SCHEDULE
def test_a_step_before_the_first_is_never_due(schedule):
    assert not schedule.due(-1, RunFacts())


@EVERY_SCHEDULE
def test_a_schedule_is_a_plain_value(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)


@EVERY_SCHEDULE
@settings(max_examples=20, deadline=None)
@given(facts=FACTS, step=st.integers(0, 20_000))
def test_only_a_due_step_ends_a_burst(schedule, facts, step):
    assert not schedule.ends_burst(step, facts) or schedule.due(step, facts)


def test_a_single_snapshot_ends_its_own_burst():
    assert EveryNSteps(5).ends_burst(10, RunFacts())
    assert not EveryNSteps(5).ends_burst(11, RunFacts())


# -- every n


def test_every_n_steps_starts_at_0():
    assert due_steps(EveryNSteps(5), RunFacts(), 16) == [0, 5, 10, 15]


def test_every_epoch_is_due_at_its_last_step():
    facts = RunFacts(planned_steps=12, steps_per_epoch=3)
    assert due_steps(EveryNEpochs(1), facts, 12) == [0, 2, 5, 8, 11]


def test_every_second_epoch():
    assert due_epochs(EveryNEpochs(2), 8) == [2, 4, 6, 8]


def test_the_last_planned_epoch_is_due_though_it_is_not_the_nth():
    assert due_epochs(EveryNEpochs(5), 8) == [5, 8]
    assert due_epochs(EveryNEpochs(5), 3) == [3]


def test_from_epoch_10_on_three_epochs_a_doubling_and_the_last():
    assert due_epochs(EveryNEpochs(1), 50) == [*range(1, 11), 13, 16, 20, 26, 32, 40, 50]


def test_log_spaced_epochs_are_multiples_of_n_but_for_the_last():
    assert due_epochs(EveryNEpochs(5), 58) == [5, 10, 15, 20, 30, 35, 40, 55, 58]


def test_an_epoch_of_one_step_is_due_at_that_step():
    facts = RunFacts(planned_steps=4, steps_per_epoch=1)
    assert due_steps(EveryNEpochs(1), facts, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("steps_per_epoch", [None, 1000, 501])
def test_fewer_than_two_epochs_are_divided_into_twenty(steps_per_epoch):
    facts = RunFacts(planned_steps=1000, steps_per_epoch=steps_per_epoch)
    assert due_steps(EveryNEpochs(1), facts, 1000) == [0, *range(49, 1000, 50)]


def test_two_epochs_are_epochs():
    facts = RunFacts(planned_steps=1000, steps_per_epoch=500)
    assert due_steps(EveryNEpochs(1), facts, 1000) == [0, 499, 999]


@settings(max_examples=20, deadline=None)
@given(planned=st.integers(20, 3000))
def test_twenty_parts_are_twenty_and_the_last_step_is_one(planned):
    facts = RunFacts(planned_steps=planned, steps_per_epoch=planned)
    steps = due_steps(EveryNEpochs(1), facts, planned)
    assert len(set(steps) - {0}) in (19, 20)  # the first part may be step 0 alone
    assert steps[-1] == planned - 1


def test_epochs_of_unknown_length_without_an_end_are_log_spaced_steps():
    assert due_steps(EveryNEpochs(1), RunFacts(), 500) == due_steps(LogSpaced(), RunFacts(), 500)


# -- bursts


@pytest.mark.parametrize(
    ("batch_size", "snapshots"),
    [(1, 8), (20, 8), (32, 5), (33, 5), (40, 4), (53, 4), (54, 3), (1000, 3), (None, 5), (0, 5)],
)
def test_a_burst_holds_160_samples_within_3_and_8_snapshots(batch_size, snapshots):
    facts = RunFacts(planned_steps=2000, batch_size=batch_size)
    burst = [step for step in due_steps(Bursts(), facts, 100) if step >= 50]
    assert burst == [50 + 5 * i for i in range(snapshots)]


def test_the_first_steps_are_due_whatever_the_batch_size():
    assert due_steps(Bursts(), RunFacts(batch_size=1000), 50) == [0, 5, 10, 15, 20]


def test_the_last_planned_step_ends_a_burst_of_its_own_or_cuts_one_short():
    facts = RunFacts(planned_steps=400, batch_size=64)
    assert due_steps(Bursts(), facts, 400)[-1] == 399
    assert Bursts().ends_burst(399, facts)
    facts = RunFacts(planned_steps=208, batch_size=64)
    assert due_steps(Bursts(), facts, 208)[-3:] == [200, 205, 207]
    assert not Bursts().ends_burst(205, facts)
    assert Bursts().ends_burst(207, facts)


def starts(schedule: Schedule, facts: RunFacts, until: int) -> list[int]:
    due = due_steps(schedule, facts, until)
    return [due[0]] + [later for earlier, later in pairwise(due) if later - earlier > 5]


@pytest.mark.parametrize(("planned", "interval"), [(400, 50), (2000, 100), (10_000, 500)])
def test_a_burst_every_50_steps_then_twenty_a_run(planned, interval):
    facts = RunFacts(planned_steps=planned, batch_size=64)
    expected = {*range(0, 501, 50), *range(500 + interval, 3000, interval)}
    beyond = {planned - 1} & {*range(3000)}  # the last step, then on as if there were no end
    assert {*starts(Bursts(), facts, 3000)} | {planned} == expected | beyond | {planned}


def test_without_a_planned_end_the_interval_doubles_up_to_1000():
    until = 20_000
    expected = [
        *range(0, 501, 50),
        *range(600, 1501, 100),
        *range(1700, 3501, 200),
        *range(3900, 7501, 400),
        *range(8300, 15_501, 800),
        *range(16_500, until, 1000),
    ]
    assert starts(Bursts(), RunFacts(), until) == expected
    assert due_steps(Decaying(), RunFacts(), until) == expected


def test_a_burst_ends_with_its_last_snapshot():
    facts = RunFacts(planned_steps=2000, batch_size=64)
    ends = [step for step in range(620) if Bursts().ends_burst(step, facts)]
    assert ends == [20, *range(60, 511, 50), 610]


# -- numbers of weights, pictures


def test_numbers_of_weights_every_50_steps_then_twenty_a_run():
    facts = RunFacts(planned_steps=2000)
    expected = [*range(0, 501, 50), *range(600, 2000, 100), 1999]
    assert due_steps(Decaying(), facts, 2000) == expected


def test_log_spaced_pictures_end_with_the_last_planned_step():
    facts = RunFacts(planned_steps=900)
    assert due_steps(LogSpaced(), facts, 900) == [0, 50, 71, 100, 142, 200, 283, 400, 566, 800, 899]


def test_one_picture_a_doubling():
    assert due_steps(LogSpaced(first=10, per_doubling=1), RunFacts(), 200) == [
        0,
        10,
        20,
        40,
        80,
        160,
    ]


# -- options


def test_without_options_the_default_is_taken():
    default = Bursts()
    assert schedule_from_options(None, None, default) is default


def test_options_make_schedules():
    assert schedule_from_options(5, None, Bursts()) == EveryNSteps(5)
    assert schedule_from_options(None, 2, Bursts()) == EveryNEpochs(2)


def test_both_options_exclude_each_other():
    with pytest.raises(
        ValueError, match=r"every_n_train_steps=5 and every_n_epochs=1 exclude each other"
    ):
        schedule_from_options(5, 1, Bursts())
