from __future__ import annotations

import math

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, run_entry

from vis_callbacks.alerts.alert import Finding
from vis_callbacks.alerts.rules.unreached import UnreachedLayers


def entry(reached: float, num_samples: float = 64.0) -> Entry:
    return joined_entries(
        {"reached": {"a": reached, "b": num_samples}}, run_entry(num_samples=num_samples)
    )


def test_a_layer_that_nothing_reaches_for_three_snapshots_is_remarked_on() -> None:
    history = history_of(entry(1.0), entry(0.0), entry(0.0), entry(0.0))
    finding = UnreachedLayers().check(history)
    assert isinstance(finding, Finding)
    assert finding.layers == ("a",)
    assert finding.message.startswith(
        "No sample reached 'a' at the latest 3 snapshots (192 samples)"
    )
    assert (finding.since_step, finding.sample_size) == (5, 192)
    assert UnreachedLayers.severity == "info"


@pytest.mark.parametrize(
    "reached", [[0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, math.nan]]
)
def test_a_layer_that_is_reached_now_and_then_is_not(reached: list[float]) -> None:
    assert UnreachedLayers().check(history_of(*map(entry, reached))) is None


def test_few_samples_are_no_window() -> None:
    assert UnreachedLayers().check(history_of(*[entry(0.0, num_samples=32.0)] * 4)) is None
    assert UnreachedLayers().check(history_of(*[entry(0.0, num_samples=32.0)] * 5)) is not None
