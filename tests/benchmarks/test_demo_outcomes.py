from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.demo_outcomes import Outcome, outcomes_in, train

from benchmarks import demo_outcomes
from things import load_data

HEALTHY = Outcome("healthy", seed=0, threads=1, num_steps=468, accuracy=0.98, alerts=[])
SICK = replace(HEALTHY, run="sick", accuracy=0.1, alerts=[("dying_units", 15)])


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (HEALTHY, True),
        (replace(HEALTHY, accuracy=0.94), False),
        (replace(HEALTHY, alerts=[("dying_units", 60)]), False),
        (SICK, True),
        (replace(SICK, accuracy=0.31), False),
        (replace(SICK, alerts=[("dying_units", 94)]), False),
        (replace(SICK, run="shortcut"), None),
    ],
)
def test_what_the_demo_has_to_show_is_judged(outcome: Outcome, expected: bool | None) -> None:
    assert outcome.is_as_demanded is expected


def test_a_training_comes_to_an_accuracy_and_its_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_outcomes, "EPOCHS", 1)
    outcome = train("sick", 0, 1, load_data(64 * 20, 20))
    assert outcome.num_steps == 20
    assert 0 <= outcome.accuracy <= 0.5
    assert outcome.alerts[0][0] == "dying_units"


def test_what_the_file_holds_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trained = tmp_path / "outcomes.jsonl", []

    def trained_at_once(name: str, seed: int, threads: int, data: object) -> Outcome:
        trained.append((name, seed, threads))
        return replace(SICK, run=name, seed=seed, threads=threads)

    monkeypatch.setattr(demo_outcomes, "train", trained_at_once)
    monkeypatch.setattr(demo_outcomes, "load_data", lambda: None)
    for seeds in (["3"], ["3", "4"]):
        arguments = [str(file), "--runs", "sick", "--threads", "1", "2", "--seeds", *seeds]
        monkeypatch.setattr(sys, "argv", ["demo_outcomes", *arguments])
        demo_outcomes.main()
    assert trained == [("sick", 3, 1), ("sick", 3, 2), ("sick", 4, 1), ("sick", 4, 2)]
    assert len(outcomes_in(file)) == 4
    assert "4 of 4 are as demanded." in capsys.readouterr().out
