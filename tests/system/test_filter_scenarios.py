"""First layers that learn and that do not: a user is told what each deserves, and when.

`python -m benchmarks.filter_alerts --scenarios` tries the same with other seeds, for longer.
"""

from __future__ import annotations

import pytest
from tests.system.filter_scenarios import SCENARIOS, outcome

STEPS = 220  # the latest alert is due at 200


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_first_layer_is_judged_as_it_deserves(name):
    result = outcome(name, 0, STEPS)
    assert len(result.monitor.history) == STEPS // 20
    assert result.complaint() == ""
