"""The acceptance scenarios with statistics, rules and ledger alone."""

from __future__ import annotations

from typing import Any

import pytest
from tests.scenarios import SCENARIOS, Scenario, run_offline

from vis_callbacks.engine.schedule import Bursts


def _slow_or_not(scenario: Scenario) -> Any:
    # A convolutional network takes some ten seconds on one core.
    marks = pytest.mark.slow if scenario.task == "patches" else ()
    return pytest.param(scenario, id=f"{scenario.number}", marks=marks)


@pytest.mark.parametrize("scenario", [_slow_or_not(scenario) for scenario in SCENARIOS])
def test_a_scenario_is_judged_rightly_at_the_default_schedule(scenario: Scenario) -> None:
    monitor = run_offline(scenario, seed=2, schedule=Bursts())
    assert len(monitor.history) > 20
    assert scenario.complaint(monitor.changes) == ""
