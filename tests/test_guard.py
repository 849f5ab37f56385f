from __future__ import annotations

import copy
import gc
import logging
import pickle
import weakref
from dataclasses import dataclass

import pytest

from vis_callbacks.guard import (
    Catch,
    Guard,
    IntendedError,
    LeftOutError,
    NothingToShow,
    log,
    log_summary,
)

pytestmark = pytest.mark.contained


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words either")


@dataclass(frozen=True)
class FrozenError(Exception):
    words: str = "frozen"


@pytest.fixture
def guard() -> Guard:
    return Guard("TheMonitor")


def fail(guard: Guard, error: Exception, stage: str = "observe") -> None:
    with guard.catch(stage):
        raise error


def test_a_failure_is_contained_counted_and_said(guard, contained):
    fail(guard, ValueError("odd number."))
    assert guard.counts == {"observe: ValueError: odd number.": 1}
    (report,) = contained.reports
    assert report.startswith("TheMonitor failed in observe: ValueError: odd number (test_guard.py:")
    assert "Training goes on" in report


def test_what_succeeds_is_neither_counted_nor_said(guard, contained):
    with guard.catch("observe"):
        pass
    assert not guard.counts
    assert not contained.errors


def test_the_log_record_holds_the_error_itself(guard, contained):
    error = ValueError("odd")
    fail(guard, error)
    assert contained.errors[0] is error


def test_a_cause_is_said_once_and_counted_each_time(guard, contained):
    for _ in range(2):
        fail(guard, ValueError("odd"))
    assert guard.counts.total() == len(contained.errors) == 2
    assert len(contained.reports) == 1


def test_a_message_that_changes_at_one_place_is_one_cause(guard, contained):
    for step in range(5):
        fail(guard, ValueError(f"odd at step {step}"))
    assert guard.counts == {"observe: ValueError: odd at step 0": 5}
    assert len(contained.reports) == 1


def test_a_failure_seen_at_several_stages_is_one_cause(guard, contained):
    for stage in ("reading the batch", "observe"):
        fail(guard, ValueError("odd"), stage)
    assert len(contained.reports) == 1


def test_different_failures_are_several_causes(guard, contained):
    fail(guard, ValueError("odd"))
    fail(guard, ValueError("even"), "writing")
    fail(guard, TypeError("odd"))
    assert len(contained.reports) == 3


def test_errors_noted_without_a_place_are_told_apart_by_their_words(guard, contained):
    for glob in ("a", "b"):
        guard.record("finding layers", ValueError(f"no layer {glob}"))
    assert len(contained.reports) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, IntendedError])
def test_what_is_meant_for_the_run_passes_through(guard, error):
    raised = error()
    with pytest.raises(error) as caught, guard.catch("observe"):
        raise raised
    assert caught.value is raised
    assert not guard.counts


@pytest.mark.parametrize("error", [SpeechlessError(), FrozenError(), StopIteration(), Exception()])
def test_awkward_errors_are_contained(guard, contained, error):
    fail(guard, error)
    assert guard.counts.total() == len(contained.reports) == 1


def test_a_long_message_is_cut(guard, contained):
    fail(guard, ValueError("x" * 10_000))
    assert len(contained.reports[0]) < 2000


def test_a_kept_error_holds_no_frames(guard, contained):
    class Model:
        pass

    model = Model()
    reference = weakref.ref(model)

    def cause(model: Model) -> None:
        raise ValueError("inner")

    def outer(model: Model) -> None:
        try:
            cause(model)
        except ValueError as error:
            raise RuntimeError("outer") from error

    with guard.catch("observe"):
        outer(model)
    del model
    gc.collect()
    assert contained.errors
    assert reference() is None


def test_the_users_error_in_flight_keeps_its_frames(guard):
    user = ValueError("the user's")
    with pytest.raises(ValueError, match="the user's") as caught:  # noqa: PT012
        try:
            raise user
        except ValueError:
            fail(guard, RuntimeError("ours"))
            raise
    assert caught.value is user
    assert user.__traceback__ is not None
    assert guard.counts.total() == 1


def test_a_log_handler_that_fails_changes_nothing(guard):
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no disk")

    logger, handler = logging.getLogger("vis_callbacks"), Broken()
    logger.addHandler(handler)
    try:
        fail(guard, ValueError("odd"))
        log("a word")
    finally:
        logger.removeHandler(handler)
    assert guard.counts.total() == 1


# -- resting


def snapshots(guard: Guard, outcomes: str) -> None:
    """Takes a snapshot for each letter: ``x`` fails (twice), ``.`` succeeds."""
    for outcome in outcomes:
        guard.begin_snapshot()
        if outcome == "x":
            fail(guard, ValueError("odd"))
            fail(guard, ValueError("odd"), "writing")


@pytest.mark.parametrize(
    ("outcomes", "rests"),
    [("", False), ("xx", False), ("xxx", True), ("xx.xx", False), ("xx.xxx", True), ("xxx.", True)],
)
def test_three_failing_snapshots_running_make_the_owner_rest(guard, outcomes, rests):
    snapshots(guard, outcomes)
    assert guard.is_resting is rests


def test_that_it_rests_is_said_once(guard, caplog):
    snapshots(guard, "xxxxx")
    assert sum("is paused" in message for message in caplog.messages) == 1


def test_another_run_wakes_it(guard):
    snapshots(guard, "xxx")
    guard.begin_run()
    assert not guard.is_resting
    snapshots(guard, "xx")
    assert not guard.is_resting
    snapshots(guard, "x")
    assert guard.is_resting


def test_the_summary_tells_how_often(guard, caplog):
    snapshots(guard, "xx")
    other = Guard("TheOther")
    fail(other, TypeError("even"))
    log_summary([guard, Guard("Healthy"), other])
    assert caplog.messages[-1] == (
        "5 contained failures in TheMonitor, TheOther "
        "(4 x observe: ValueError: odd; 1 x observe: TypeError: even)."
    )


def test_guards_that_share_causes_say_each_once(guard, contained):
    other = Guard("TheOther")
    fail(other, ValueError("odd"))
    other.share_causes(guard)
    for owner in (guard, other):
        fail(owner, ValueError("odd"))
    assert len(contained.reports) == 1
    assert (guard.counts.total(), other.counts.total()) == (1, 2)


def test_nothing_to_sum_up_is_not_said(guard, caplog):
    log_summary([guard])
    assert not caplog.messages


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_remembers_what_was_said(guard, contained, copied):
    fail(guard, ValueError("odd"))
    fail(copied(guard), ValueError("odd"))
    assert len(contained.reports) == 1


def test_a_catch_keeps_the_error():
    error = ValueError("odd")
    with Catch() as caught:
        raise error
    assert caught.error is error


def test_nothing_to_show_is_a_remark_and_no_failure(guard, contained, caplog):
    caplog.set_level(logging.INFO, "vis_callbacks")
    for _ in range(5):
        guard.begin_snapshot()
        fail(guard, NothingToShow("the model has no images"))
    assert caplog.messages == ["TheMonitor has nothing to show: the model has no images"]
    assert not guard.counts
    assert not guard.is_resting
    assert not contained.errors


# -- what can be done without


def test_an_extra_that_fails_is_left_out_and_that_is_logged_once_with_its_remedy(guard, caplog):
    caplog.set_level(logging.DEBUG, "vis_callbacks")
    for _ in range(3):
        with guard.optional("the maps", "Write map_layers=[]."):
            raise ValueError("no sample.")
    with guard.optional("the rest"):
        raise SpeechlessError
    first, second = caplog.records
    assert first.levelno == second.levelno == logging.INFO
    assert first.getMessage() == (
        "TheMonitor leaves out the maps and goes on: ValueError: no sample. Write map_layers=[]."
    )
    assert "TheMonitor leaves out the rest" in second.getMessage()
    assert not guard.counts
    assert not guard.is_resting


def test_the_frames_of_an_extra_that_fails_are_let_go_of(guard):
    class Model:
        pass

    def fail_with_a_model() -> weakref.ref[Model]:
        model = Model()
        with guard.optional("the maps"):
            raise ValueError(f"of {model}")
        return weakref.ref(model)

    gc.disable()
    try:
        assert fail_with_a_model()() is None
    finally:
        gc.enable()


# -- a writer's way out, which is tried at every item


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


def test_an_attempt_tells_whether_it_succeeded(guard, contained):
    done: list[int] = []
    assert guard.attempt("writing", lambda: done.append(1))
    assert not guard.attempt("writing", raising(OSError("full")))
    assert done == [1]
    assert guard.counts == {"writing: OSError: full": 1}
    assert len(contained.reports) == 1


def test_after_three_failing_attempts_it_rests_until_it_is_woken_and_then_tries_once(guard):
    tried: list[int] = []

    def action() -> None:
        tried.append(1)
        raise OSError("full")

    for num_tried in (3, 4, 5):
        for _ in range(10):
            guard.attempt("writing", action)
        assert len(tried) == num_tried
        assert guard.is_resting
        guard.wake()
    assert guard.left_out["resting"] == 25
    assert guard.attempt("writing", lambda: None)
    guard.attempt("writing", action)
    assert not guard.is_resting


def test_a_success_ends_the_row_of_failing_attempts(guard):
    for _ in range(5):
        guard.attempt("writing", raising(OSError("full")))
        guard.attempt("writing", raising(OSError("full")))
        assert guard.attempt("writing", lambda: None)


def test_what_is_rightly_left_out_is_logged_once_and_is_no_failure(guard, caplog):
    for _ in range(5):
        assert not guard.attempt("writing", raising(LeftOutError("room", "there is no room")))
    assert caplog.messages == ["TheMonitor: there is no room. Training goes on."]
    assert guard.left_out == {"room": 5}
    assert not guard.counts
    assert not guard.is_resting


@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit("stop")])
def test_an_attempt_swallows_no_exit(guard, error):
    with pytest.raises(type(error), match="stop"):
        guard.attempt("writing", raising(error))


def test_a_silent_guard_counts_and_logs_nothing(caplog):
    guard = Guard("TheWriter", is_silent=True)
    guard.attempt("writing", raising(OSError("full")))
    guard.attempt("writing", raising(LeftOutError("room", "no room")))
    assert (guard.counts.total(), guard.left_out.total()) == (1, 1)
    assert not caplog.messages
