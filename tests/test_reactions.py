from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from tests.identity import assert_identical, fingerprint
from torch import nn

from vis_callbacks import reactions
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.tracker import AlertTracker
from vis_callbacks.guard import Guard, IntendedError
from vis_callbacks.on_alert import reaction_to
from vis_callbacks.reactions import AlertRaisedError, Told, act, tell, text_of


class FakeRun:
    """What the reactions need of a run; records."""

    def __init__(self, is_global_zero: bool = True, is_stopping: bool = False) -> None:
        self.is_global_zero = is_global_zero
        self.is_stopping = is_stopping
        self.num_stops = 0

    def stop(self) -> None:
        self.num_stops += 1


def alert(**changes: Any) -> Alert:
    defaults = {
        "kind": "dying_units",
        "severity": "critical",
        "state": "firing",
        "step": 30,
        "epoch": 0,
        "stage": "fit",
        "message": "Units are dying",
    }
    return Alert(**defaults | changes)


def untold(*alerts: Alert) -> AlertTracker:
    tracker = AlertTracker()
    tracker.untold = list(alerts)
    return tracker


def test_an_alert_is_one_line_of_the_log(caplog):
    tell(untold(alert()), "warn", FakeRun(), Guard("m"))
    assert caplog.messages == ["[critical] step 30: Units are dying."]


def test_only_one_rank_logs(caplog):
    tell(untold(alert()), "warn", FakeRun(is_global_zero=False), Guard("m"))
    assert not caplog.messages


def test_the_line_tells_where_since_when_and_what_to_do():
    found = alert(layers=("a", "b"), since_step=20, remedy="Lower the rate.")
    assert text_of(found) == (
        "[critical] step 30: Units are dying (in a, b, since step 20). Lower the rate."
    )


def test_a_layer_that_the_message_names_is_not_named_again():
    found = alert(message="Units of 'a' are dying.", layers=("a", "b"))
    assert text_of(found) == "[critical] step 30: Units of 'a' are dying (in b)."
    found = alert(message="Units of 'a' are dying.", layers=("a",))
    assert text_of(found) == "[critical] step 30: Units of 'a' are dying."


def test_that_an_alert_is_over_is_told_and_changes_nothing(caplog):
    got: list[Alert] = []
    over = alert(state="resolved", step=80, since_step=20, remedy="Lower the rate.")
    for on_alert in ("stop", "raise", got.append):
        run, told = FakeRun(), tell(untold(over), on_alert, FakeRun(), Guard("m"))
        assert act([told], run, has_ranks=False) is None
        assert run.num_stops == 0
    assert got == [over]
    assert set(caplog.messages) == {
        "[resolved] step 80: dying_units is over: it was not found at the latest 5 snapshots. "
        "It said: Units are dying (since step 20)."
    }


BY_KIND = {"dying_units": "raise", "warning": "stop", "default": "warn"}


@pytest.mark.parametrize(
    ("kind", "severity", "expected"),
    [
        ("dying_units", "critical", "raise"),
        ("dying_units", "warning", "raise"),
        ("other", "warning", "stop"),
        ("other", "critical", "warn"),
    ],
)
def test_the_kind_of_an_alert_decides_before_its_severity(kind, severity, expected):
    found, run = alert(kind=kind, severity=severity), FakeRun()
    assert reaction_to(found, BY_KIND) == expected
    error = act([tell(untold(found), BY_KIND, run, Guard("m"))], run, has_ranks=False)
    assert run.num_stops == (expected == "stop")
    assert isinstance(error, AlertRaisedError) == (expected == "raise")


def test_an_alert_that_a_dictionary_does_not_name_is_only_warned_of():
    assert reaction_to(alert(), {"other": "stop"}) == "warn"


def test_each_kind_may_have_a_function_of_its_own():
    got: list[Alert] = []
    tracker = untold(alert(), alert(kind="other"))
    tell(tracker, {"other": got.append}, FakeRun(), Guard("m"))
    assert [found.kind for found in got] == ["other"]


def test_all_alerts_are_told_of_and_those_to_stop_act_beside_one_to_raise(caplog):
    tracker, run = untold(alert(message="A"), alert(kind="other", message="B")), FakeRun()
    told = tell(tracker, {"dying_units": "raise", "other": "stop"}, run, Guard("m"))
    with pytest.raises(AlertRaisedError, match="A"):
        raise act([told], run, has_ranks=False)
    assert run.num_stops == 1
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("is_rank_0", [True, False])
def test_the_users_function_is_called_with_each_alert_on_rank_0_alone(is_rank_0):
    got: list[Alert] = []
    alerts = [alert(), alert(kind="other")]
    told = tell(untold(*alerts), got.append, FakeRun(is_global_zero=is_rank_0), Guard("m"))
    assert got == (alerts if is_rank_0 else [])
    assert told.alerts == alerts


def test_the_users_function_may_draw_random_numbers_and_write_into_the_alert():
    def careless(found: Alert) -> None:
        found.evidence["share"] = torch.rand(()) + np.random.random() + random.random()

    found, before = alert(evidence={"share": 0.5}), fingerprint(nn.Identity())
    tell(untold(found), careless, FakeRun(), Guard("m"))
    assert found.evidence == {"share": 0.5}
    assert_identical(before, fingerprint(nn.Identity()))


@pytest.mark.contained
def test_a_function_that_fails_at_one_alert_is_called_with_the_next():
    got: list[Alert] = []
    guard = Guard("m")

    def failing(found: Alert) -> None:
        got.append(found)
        raise RuntimeError("no mail server")

    tell(untold(alert(), alert(kind="other")), failing, FakeRun(), guard)
    assert len(got) == guard.counts.total() == 2


def test_a_function_may_end_the_run_on_purpose():
    def ending(found: Alert) -> None:
        raise AlertRaisedError(found)

    told = tell(untold(alert()), ending, FakeRun(), Guard("m"))
    error = act([told], FakeRun(), has_ranks=False)
    assert isinstance(error, AlertRaisedError)
    assert "Units are dying" in str(error)


@pytest.mark.parametrize("error", [AlertRaisedError(None), KeyboardInterrupt()])
def test_no_alert_is_lost_where_a_function_ends_the_run_at_the_first(error, caplog):
    def ending(found: Alert) -> None:
        raise error

    tracker = untold(alert(message="The first"), alert(message="The second"))
    with pytest.raises(type(error)):
        raise act([tell(tracker, ending, FakeRun(), Guard("m"))], FakeRun(), has_ranks=False)
    tell(tracker, "warn", FakeRun(), Guard("m"))  # of what is left, when the run breaks off
    assert [message.split(": ")[1] for message in caplog.messages] == ["The first.", "The second."]
    assert tracker.untold == []


def test_a_function_that_stops_rank_0_stops_all_ranks(monkeypatch):
    said: list[bool] = []
    monkeypatch.setattr(reactions, "any_rank", lambda flag: said.append(flag) or True)
    for is_stopping in (True, False):  # rank 0, and one on which the function is not called
        run = FakeRun(is_stopping=is_stopping)
        assert "another rank" in str(act([Told(print)], run, has_ranks=True))
        assert run.num_stops == 1
    assert said == [True, False, False, False]


@pytest.mark.parametrize(
    ("asked", "num_stops"),
    [
        ([], 0),
        ([("stop", [])], 0),
        ([("warn", [alert()])], 0),
        ([(print, [alert()])], 0),
        ([("stop", [alert()])], 1),
        ([("stop", [alert()]), ("stop", [alert()])], 1),
        ([("warn", [alert()]), ("stop", [])], 0),
        ([(print, []), ("stop", [alert()])], 1),
    ],
)
def test_a_run_is_stopped_where_an_alert_of_a_monitor_asks_for_it(asked, num_stops):
    run = FakeRun()
    act([Told(*one) for one in asked], run, has_ranks=False)
    assert run.num_stops == num_stops


def test_raise_ends_the_run_with_the_first_alert():
    first = alert(message="The first", remedy="Do this.")
    told = [Told("raise"), Told("raise", [first, alert()])]
    error = act(told, FakeRun(), has_ranks=False)
    assert str(error) == "The first Do this."
    assert error.alert is first


def test_stop_comes_before_raise():
    run = FakeRun()
    assert act([Told("raise", [alert()]), Told("stop", [alert()])], run, has_ranks=False)
    assert run.num_stops == 1


def test_the_error_passes_every_guard():
    assert issubclass(AlertRaisedError, IntendedError)
    assert "another rank" in str(AlertRaisedError(None))
