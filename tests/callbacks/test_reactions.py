from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from tests.identity import assert_identical, fingerprint
from torch import nn

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.callbacks.reactions import AlertRaisedError, act, begun, tell, words_of
from vis_callbacks.guard import Guard, IntendedError


class FakeRun:
    """What the reactions need of a run; records."""

    def __init__(self, is_global_zero: bool = True) -> None:
        self.is_global_zero = is_global_zero
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


def test_only_alerts_that_fire_cause_anything():
    firing = alert()
    others = [alert(state="resolved"), alert(severity="info"), alert(state="pending")]
    assert begun([*others, firing]) == [firing]


def test_an_alert_is_one_line_of_the_log(caplog):
    tell([alert()], "warn", FakeRun(), Guard("m"))
    assert caplog.messages == ["[critical] step 30: Units are dying."]


def test_only_one_rank_logs(caplog):
    tell([alert()], "warn", FakeRun(is_global_zero=False), Guard("m"))
    assert not caplog.messages


def test_the_line_tells_where_since_when_and_what_to_do():
    found = alert(layers=("a", "b"), since_step=20, remedy="Lower the rate.")
    assert words_of(found) == (
        "[critical] step 30: Units are dying (a, b) since step 20. Lower the rate."
    )


def test_the_users_function_is_called_with_each_alert_on_every_rank():
    got: list[Alert] = []
    alerts = [alert(), alert(kind="other")]
    tell(alerts, got.append, FakeRun(is_global_zero=False), Guard("m"))
    assert got == alerts


def test_the_users_function_may_draw_random_numbers_and_write_into_the_alert():
    def careless(found: Alert) -> None:
        found.evidence["share"] = torch.rand(()) + np.random.random() + random.random()

    found, before = alert(evidence={"share": 0.5}), fingerprint(nn.Identity())
    tell([found], careless, FakeRun(), Guard("m"))
    assert found.evidence == {"share": 0.5}
    assert_identical(before, fingerprint(nn.Identity()))


@pytest.mark.contained
def test_a_function_that_fails_at_one_alert_is_called_with_the_next():
    got: list[Alert] = []
    guard = Guard("m")

    def failing(found: Alert) -> None:
        got.append(found)
        raise RuntimeError("no mail server")

    tell([alert(), alert(kind="other")], failing, FakeRun(), guard)
    assert len(got) == guard.counts.total() == 2


def test_a_function_may_end_the_run_on_purpose():
    with pytest.raises(AlertRaisedError, match="Units are dying"):
        tell([found := alert()], lambda a: act([("raise", [a])], FakeRun()), FakeRun(), Guard("m"))
    assert found.state == "firing"


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
    ],
)
def test_a_run_is_stopped_where_an_alert_of_a_monitor_asks_for_it(asked, num_stops):
    run = FakeRun()
    act(asked, run)
    assert run.num_stops == num_stops


def test_raise_ends_the_run_with_the_first_alert():
    first = alert(message="The first", remedy="Do this.")
    with pytest.raises(AlertRaisedError, match=r"^The first Do this\.$") as caught:
        act([("raise", []), ("raise", [first, alert()])], FakeRun())
    assert caught.value.alert is first


def test_stop_comes_before_raise():
    run = FakeRun()
    with pytest.raises(AlertRaisedError, match="dying"):
        act([("raise", [alert()]), ("stop", [alert()])], run)
    assert run.num_stops == 1


def test_the_error_passes_every_guard():
    assert issubclass(AlertRaisedError, IntendedError)
    assert "another rank" in str(AlertRaisedError(None))
