from __future__ import annotations

import math

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, run_entry

from vis_callbacks.alerts.alert import Finding, Verdict
from vis_callbacks.alerts.rules.layers import Saturation, UnreachedLayers


def entry(kind: str, share: float, num_samples: float = 64.0) -> Entry:
    return joined_entries(
        {f"flat_share_{kind}": {"act": share}},
        run_entry(num_samples=num_samples, learning_rate=0.03),
    )


@pytest.mark.parametrize(
    ("kind", "most"),
    [("gelu", 0.85), ("silu", 0.85), ("tanh", 0.75), ("elu", 0.60), ("leaky_relu", 0.95)],
)
def test_a_mostly_flat_layer_is_remarked_on(kind: str, most: float) -> None:
    assert Saturation().check(history_of(*[entry(kind, most - 0.01)] * 3)) is None
    finding = Saturation().check(history_of(*[entry(kind, most + 0.01)] * 3))
    assert isinstance(finding, Finding)
    assert finding.layers == ("act",)
    assert "0.003 instead of 0.03" in finding.remedy
    assert Saturation.severity == "info"


def test_no_threshold_works_for_the_sigmoid() -> None:
    assert Saturation().check(history_of(*[entry("sigmoid", 1.0)] * 5)) is None


@pytest.mark.parametrize(("num_snapshots", "num_samples"), [(2, 500.0), (4, 32.0)])
def test_a_short_window_is_not_judged(num_snapshots: int, num_samples: float) -> None:
    history = history_of(*[entry("tanh", 1.0, num_samples)] * num_snapshots)
    assert Saturation().check(history) is None


def test_the_window_is_the_latest_and_its_mean_counts() -> None:
    shares = [1.0, 1.0, 1.0, 0.7, 0.7, 0.8]
    assert Saturation().check(history_of(*(entry("tanh", share) for share in shares))) is None
    assert Saturation().check(history_of(*(entry("tanh", share) for share in shares[:5])))


def test_saturation_is_not_judged_after_a_nan() -> None:
    broken = {"non_finite": {"act": 1.0}}
    outcome = Saturation().check(history_of(broken, *[entry("tanh", 1.0)] * 5))
    assert outcome is Verdict.UNDECIDED


def test_a_layer_is_judged_by_the_samples_that_have_reached_it() -> None:
    def reached(number: float, share: float = 1.0) -> Entry:
        flat = {"flat_share_tanh": {"act": share if number else float("nan")}}
        return joined_entries({"reached": {"act": number}, **flat}, run_entry(num_samples=64.0))

    assert Saturation().check(history_of(*[reached(20.0)] * 7)) is None
    finding = Saturation().check(history_of(*[reached(20.0), reached(0.0)] * 8, reached(20.0)))
    assert isinstance(finding, Finding)
    assert finding.sample_size == 160


def passed_by(reached: float, num_samples: float = 64.0) -> Entry:
    return joined_entries(
        {"reached": {"a": reached, "b": num_samples}}, run_entry(num_samples=num_samples)
    )


def test_a_layer_that_nothing_reaches_for_three_snapshots_is_remarked_on() -> None:
    history = history_of(passed_by(1.0), passed_by(0.0), passed_by(0.0), passed_by(0.0))
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
    assert UnreachedLayers().check(history_of(*map(passed_by, reached))) is None


def test_few_samples_are_no_window() -> None:
    assert UnreachedLayers().check(history_of(*[passed_by(0.0, num_samples=32.0)] * 4)) is None
    assert UnreachedLayers().check(history_of(*[passed_by(0.0, num_samples=32.0)] * 5)) is not None
