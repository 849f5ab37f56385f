"""The acceptance scenarios with statistics, rules and ledger alone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.scenarios import SCENARIOS, Scenario, run_offline

from vis_callbacks.engine.schedule import Bursts, EveryNSteps


def scenarios(*, is_slow: bool) -> list[Any]:
    marks = {
        True: pytest.mark.slow,  # a convolutional network takes some ten seconds on one core
        False: (),
    }
    return [
        pytest.param(s, id=f"{s.number}", marks=marks[is_slow or s.task == "patches"])
        for s in SCENARIOS
    ]


@pytest.mark.parametrize("scenario", scenarios(is_slow=False))
def test_a_scenario_is_judged_rightly_at_the_default_schedule(scenario: Scenario) -> None:
    monitor = run_offline(scenario, seed=2, schedule=Bursts())
    assert len(monitor.history) > 20
    assert scenario.complaint(monitor.changes) == ""


@pytest.mark.parametrize("scenario", scenarios(is_slow=True))
def test_a_scenario_is_judged_rightly_every_five_steps(scenario: Scenario) -> None:
    monitor = run_offline(scenario, seed=2, schedule=EveryNSteps(5))
    assert len(monitor.history) == scenario.steps // 5
    assert scenario.complaint(monitor.changes) == ""
