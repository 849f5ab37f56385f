from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.runs.stand_ins import ALERT, CRITICAL, REMARK, RESOLVED

from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.runs.alert_cases import FILE_NAME, MAX_CASES, AlertCases


def cases_of(folder: Path, *alerts: object) -> AlertCases:
    append_alerts(folder / FILE_NAME, *alerts)  # type: ignore[arg-type]
    cases = AlertCases(folder)
    cases.refresh()
    return cases


def test_one_cause_is_one_case_from_its_first_step_to_its_end(tmp_path: Path) -> None:
    (case,) = cases_of(tmp_path, ALERT, CRITICAL).ranked()
    assert (case.first_step, case.since, case.alert) == (60, 20, CRITICAL)
    assert case.is_firing
    (case,) = cases_of(tmp_path, RESOLVED).ranked()
    assert not case.is_firing


def test_what_fires_again_after_it_was_resolved_is_a_case_of_its_own(tmp_path: Path) -> None:
    again = replace(ALERT, step=200, since_step=190)
    cases = cases_of(tmp_path, ALERT, RESOLVED, again).ranked()
    assert [(case.first_step, case.alert.state) for case in cases] == [
        (200, "firing"),
        (60, "resolved"),
    ]


def test_firing_stands_before_resolved_before_remarks_and_the_worst_first(tmp_path: Path) -> None:
    other = replace(ALERT, kind="other", step=99)
    raised = replace(other, kind="ended", severity="critical")
    ended = [raised, replace(raised, state="resolved")]
    cases = cases_of(tmp_path, REMARK, other, *ended, CRITICAL).ranked()
    assert [case.alert.kind for case in cases] == ["dying_units", "other", "ended", REMARK.kind]


def test_torn_lines_are_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b'{"kind": "dyi\n[1, 2]\nnull\n' + b"\xff\xfe\n")
    cases = cases_of(tmp_path, ALERT)
    assert len(cases.ranked()) == 1
    assert cases.problems() == ["4 lines of alerts.jsonl are torn or no alerts."]


def test_the_number_of_cases_is_bounded_and_firing_ones_stay_longest(tmp_path: Path) -> None:
    resolved = [
        replace(ALERT, cause=str(count), state=state)  # type: ignore[arg-type]
        for count in range(2 * MAX_CASES)
        for state in ("firing", "resolved")
    ]
    cases = cases_of(tmp_path, CRITICAL, *resolved)
    assert len(cases.ranked()) <= MAX_CASES
    assert cases.ranked()[0].alert == CRITICAL
    assert any("older alerts" in problem for problem in cases.problems())
