from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from vis_callbacks.alerts.alert import Alert, Finding, Severity
from vis_callbacks.alerts.causes import explained
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.tracker import AlertTracker


def alert(kind: str, severity: Severity = "warning") -> Alert:
    return Alert(
        kind=kind, severity=severity, state="firing", step=3, epoch=0, stage="fit", message="Bad."
    )


def rule(name: str) -> object:
    class Said:
        kind: ClassVar[str] = name
        severity: ClassVar[Severity] = "warning"

        def check(self, history: History) -> Finding:
            return Finding(message="Bad.")

    return Said()


def test_a_symptom_becomes_a_remark_that_names_the_deepest_cause() -> None:
    causes = [alert("dying_units"), alert("loss_misfit")]
    found = explained(alert("constant_outputs"), causes)
    assert (found.severity, found.explained_by) == ("info", "loss_misfit")
    assert "'loss_misfit' explains this" in found.message


def test_a_remark_leaves_the_remedy_to_its_cause() -> None:
    symptom = replace(alert("hardly_learned"), remedy="Use ten times the rate.")
    assert explained(symptom, [alert("dying_units")]).remedy == ""
    assert explained(symptom, []).remedy == "Use ten times the rate."


def test_a_cause_is_not_explained_by_its_symptom_nor_by_its_like() -> None:
    cause = alert("loss_misfit")
    assert explained(cause, [alert("constant_outputs"), alert("wrong_sign")]) is cause


def test_kinds_of_which_nothing_is_known_explain_nothing_and_stay() -> None:
    own = alert("a kind of the user's")
    assert explained(own, [alert("loss_misfit")]) is own
    symptom = alert("constant_outputs")
    assert explained(symptom, [own]) is symptom


def test_cause_and_symptom_of_one_snapshot_are_one_alert() -> None:
    tracker = AlertTracker()
    judged = [(r, r.check(History())) for r in map(rule, ("constant_outputs", "loss_misfit"))]
    changes = tracker.update(judged, step=0, stage="fit")
    assert {a.kind: a.severity for a in changes} == {
        "constant_outputs": "info",
        "loss_misfit": "warning",
    }
    assert [a.kind for a in tracker.untold] == ["loss_misfit"]
    assert tracker.update(judged, step=5, stage="fit") == []  # and is said once


def test_a_cause_that_another_monitor_has_found_explains_as_well() -> None:
    tracker, symptom = AlertTracker(), rule("representation_collapse")
    judged = [(symptom, symptom.check(History()))]
    tracker.update(judged, step=0, stage="fit", causes=[alert("unscaled_inputs")])
    assert tracker.untold == []


def test_nan_is_explained_by_nothing_but_nan() -> None:
    """A softmax too many is no reason to pass over `on_alert={"critical": "stop"}`."""
    end = alert("non_finite_loss", "critical")
    assert explained(end, [alert("loss_misfit"), alert("unscaled_inputs")]) is end
    found = explained(alert("non_finite", "critical"), [alert("loss_misfit"), end])
    assert found.explained_by == "non_finite_loss"
