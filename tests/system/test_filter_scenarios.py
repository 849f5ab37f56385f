"""First layers that learn and that do not: a user is told what each deserves, and when.

`python -m benchmarks.filter_alerts --scenarios` tries the same with other seeds.
"""

from __future__ import annotations

import pytest
from tests.system.filter_scenarios import SCENARIOS, STEPS, outcome


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_first_layer_is_judged_as_it_deserves(name):
    result = outcome(name)
    assert len(result.monitor.history) == STEPS // 20
    assert result.complaint() == ""
