from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.alerts.alert import Alert, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.tracker import AlertTracker


@dataclass(frozen=True)
class Always:
    """A rule that says what it is told."""

    outcome: Outcome
    kind: ClassVar[str] = "always"
    severity: ClassVar[Severity] = "warning"

    def check(self, history: History) -> Outcome:
        return self.outcome


SICK = Finding(message="sick", layers=("fc1",), since_step=3, evidence={"share": 0.4})
REMARK = replace(SICK, severity="info")


def run(tracker: AlertTracker, *outcomes: Outcome, first_step: int = 0) -> list[tuple[Alert, ...]]:
    """Takes in one snapshot for each outcome and returns what changed at each."""
    return [
        tuple(tracker.update([(Always(outcome), outcome)], step=step, epoch=1, stage="fit"))
        for step, outcome in enumerate(outcomes, start=first_step)
    ]


def test_a_cause_is_raised_once_however_often_it_is_found() -> None:
    changes = run(AlertTracker("Mine"), *[SICK] * 10)
    (alert,) = changes[0]
    assert (alert.kind, alert.state, alert.severity, alert.step) == (
        "always",
        "firing",
        "warning",
        0,
    )
    assert (alert.monitor, alert.epoch, alert.stage) == ("Mine", 1, "fit")
    assert changes[1:] == [()] * 9


def test_nothing_found_is_nothing_said() -> None:
    tracker = AlertTracker()
    assert run(tracker, None, None) == [(), ()]
    assert tracker.active == ()


def test_an_alert_is_resolved_after_five_silent_snapshots() -> None:
    tracker = AlertTracker()
    changes = run(tracker, SICK, *[None] * 5)
    assert changes[1:5] == [()] * 4
    (resolved,) = changes[5]
    assert (resolved.state, resolved.step, resolved.since_step) == ("resolved", 5, 3)
    assert tracker.active == ()


def test_a_flickering_verdict_is_one_alert() -> None:
    changes = run(AlertTracker(), SICK, *([None] * 4 + [SICK]) * 5)
    assert sum(map(len, changes)) == 1


def test_what_was_resolved_may_fire_again() -> None:
    changes = run(AlertTracker(), SICK, *[None] * 5, SICK)
    assert [alert.state for change in changes for alert in change] == [
        "firing",
        "resolved",
        "firing",
    ]


def test_a_graver_severity_is_news_and_a_milder_one_is_not() -> None:
    tracker = AlertTracker()
    critical = replace(SICK, severity="critical")
    changes = run(tracker, SICK, critical, SICK)
    assert [alert.severity for alert in changes[1]] == ["critical"]
    assert changes[2] == ()
    assert [(alert.severity, alert.step) for alert in tracker.active] == [("critical", 1)]


def test_layers_that_join_are_added_to_the_alert() -> None:
    tracker = AlertTracker()
    changes = run(tracker, SICK, replace(SICK, layers=("fc0", "fc1"), since_step=1))
    assert changes[1] == ()
    (alert,) = tracker.active
    assert alert.layers == ("fc1", "fc0")
    assert (alert.since_step, alert.step) == (1, 0)


def test_a_finding_is_pending_until_it_has_come_often_enough() -> None:
    tracker = AlertTracker()
    slow = replace(SICK, min_snapshots=3)
    changes = run(tracker, slow, slow, slow)
    assert changes[:2] == [(), ()]
    assert [alert.step for alert in changes[2]] == [2]


def test_a_pending_finding_that_stays_away_once_begins_anew() -> None:
    slow = replace(SICK, min_snapshots=2)
    assert run(AlertTracker(), slow, None, slow, None) == [(), (), (), ()]


def test_an_undecided_rule_leaves_its_alert_as_it_is() -> None:
    tracker = AlertTracker()
    changes = run(tracker, SICK, *[Verdict.UNDECIDED] * 20)
    assert changes[1:] == [()] * 20
    assert len(tracker.active) == 1


def test_a_rule_that_is_not_asked_leaves_its_alert_as_it_is() -> None:
    tracker = AlertTracker()
    run(tracker, SICK)
    for step in range(1, 20):
        assert tracker.update([], step=step, stage="fit") == []
    assert len(tracker.active) == 1


def test_two_causes_of_one_rule_are_two_alerts() -> None:
    tracker = AlertTracker()
    run(tracker, replace(SICK, cause="a"), replace(SICK, cause="b"))
    assert [alert.cause for alert in tracker.active] == ["a", "b"]


def test_a_remark_is_passed_through_once_and_is_never_active() -> None:
    tracker = AlertTracker()
    changes = run(tracker, REMARK, REMARK, replace(REMARK, evidence={"share": 0.5}))
    assert [alert.severity for alert in changes[0]] == ["info"]
    assert changes[1:] == [(), ()]
    assert tracker.active == ()


def test_a_remark_is_made_again_when_its_layers_change() -> None:
    changes = run(AlertTracker(), REMARK, replace(REMARK, layers=("fc1", "fc2")))
    assert [alert.layers for alert in changes[1]] == [("fc1", "fc2")]


def test_a_remark_is_not_resolved() -> None:
    assert run(AlertTracker(), REMARK, *[None] * 10)[1:] == [()] * 10


def test_a_remark_that_grows_into_an_alert_is_raised() -> None:
    tracker = AlertTracker()
    changes = run(tracker, REMARK, SICK)
    assert [alert.severity for alert in changes[1]] == ["warning"]
    assert len(tracker.active) == 1


def test_an_alert_that_shrinks_to_a_remark_is_resolved() -> None:
    tracker = AlertTracker()
    changes = run(tracker, SICK, *[REMARK] * 6)
    assert [alert.state for alert in changes[5]] == ["resolved"]
    assert [alert.severity for alert in changes[6]] == ["info"]


def test_a_restored_tracker_does_not_raise_again_what_was_firing() -> None:
    tracker = AlertTracker("Mine")
    run(tracker, SICK, None, None)
    buffer = io.BytesIO()
    torch.save(tracker.state_dict(), buffer)
    buffer.seek(0)
    resumed = AlertTracker("Mine")
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.active == tracker.active
    assert run(resumed, SICK, first_step=3) == [()]


def test_what_begins_is_untold_until_it_is_taken() -> None:
    tracker = AlertTracker()
    run(tracker, REMARK, SICK, SICK, replace(SICK, severity="critical"))
    assert [alert.severity for alert in tracker.untold] == ["warning", "critical"]
    assert tracker.alerts == tracker.untold


def test_an_alert_that_nobody_was_told_of_is_still_untold_after_a_checkpoint() -> None:
    first, second = AlertTracker(), AlertTracker()
    run(first, SICK)
    second.load_state_dict(first.state_dict())
    assert second.untold == first.untold != []
    assert second.alerts == list(first.active)


def test_silent_snapshots_before_a_checkpoint_count_after_it() -> None:
    tracker = AlertTracker()
    run(tracker, SICK, None, None, None)
    resumed = AlertTracker()
    resumed.load_state_dict(tracker.state_dict())
    changes = run(resumed, None, None, first_step=4)
    assert [len(change) for change in changes] == [0, 1]


@pytest.mark.parametrize(
    "broken",
    [{}, {"entries": []}, {"entries": [[{}, 1, 0]], "untold": []}, None, [], {"entries": 1}],
)
def test_a_state_that_is_not_ours_is_refused(broken: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        AlertTracker().load_state_dict(broken)  # type: ignore[arg-type]


OUTCOMES = st.sampled_from(
    [None, Verdict.UNDECIDED, SICK, REMARK, replace(SICK, severity="critical")]
)


@given(outcomes=st.lists(OUTCOMES, max_size=60), cut=st.integers(0, 60))
def test_a_checkpoint_anywhere_changes_nothing(outcomes: list[Outcome], cut: int) -> None:
    cut = min(cut, len(outcomes))
    whole, first, second = AlertTracker(), AlertTracker(), AlertTracker()
    expected = run(whole, *outcomes)
    got = run(first, *outcomes[:cut])
    second.load_state_dict(first.state_dict())
    got += run(second, *outcomes[cut:], first_step=cut)
    assert got == expected


@given(outcomes=st.lists(OUTCOMES, max_size=60))
def test_firing_and_resolved_alternate(outcomes: list[Outcome]) -> None:
    tracker = AlertTracker()
    is_firing = False
    for alert in (alert for change in run(tracker, *outcomes) for alert in change):
        if alert.severity == "info":
            continue
        is_new = not is_firing
        assert alert.state == "firing" if is_new else alert.state in ("firing", "resolved")
        if not is_new and alert.state == "firing":
            assert alert.severity == "critical"
        is_firing = alert.state == "firing"
    assert is_firing == bool(tracker.active)


def test_an_alert_is_not_over_because_a_later_one_explains_it() -> None:
    class Symptom(Always):
        kind = "non_finite"

    class Cause(Always):
        kind = "non_finite_loss"

    tracker, symptom = AlertTracker(), Symptom(SICK)
    (later,) = AlertTracker().certain([(Cause(SICK), SICK)], step=1)
    changes = [
        tracker.update([(symptom, SICK)], step=step, stage="fit", causes=[later] if step else [])
        for step in range(9)
    ]
    assert [alert.state for alert in changes[0]] == ["firing"]
    assert changes[1:] == [[]] * 8
    assert [alert.kind for alert in tracker.active] == ["non_finite"]
