from __future__ import annotations

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, run_entry

from vis_callbacks.alerts.alert import Finding, Verdict
from vis_callbacks.alerts.rules.weights import CollapsingWeights


def entry(norm: float, loss: float = 2.0, decay: float = 0.3) -> Entry:
    return joined_entries(
        {"weight_norm": {"fc1": 4.0, "fc2": norm}}, run_entry(loss=loss, weight_decay=decay)
    )


@pytest.mark.parametrize(
    ("norm", "severity"), [(2.0, None), (1.99, "warning"), (0.4, "warning"), (0.39, "critical")]
)
def test_weights_below_half_of_their_start_are_an_alert(norm: float, severity: str | None) -> None:
    outcome = CollapsingWeights().check(history_of(entry(4.0), entry(norm)))
    assert (outcome.severity if isinstance(outcome, Finding) else outcome) == severity


def test_only_the_layers_that_shrank_are_named() -> None:
    finding = CollapsingWeights().check(history_of(entry(4.0), entry(1.0)))
    assert isinstance(finding, Finding)
    assert finding.layers == ("fc2",)
    assert "25 %" in finding.message


def test_the_remedy_is_a_tenth_of_the_decay_in_numbers() -> None:
    finding = CollapsingWeights().check(history_of(entry(4.0), entry(1.0)))
    assert isinstance(finding, Finding)
    assert "from 0.3 to 0.03" in finding.remedy


def test_without_weight_decay_it_is_not_blamed() -> None:
    finding = CollapsingWeights().check(history_of(entry(4.0, decay=0.0), entry(1.0, decay=0.0)))
    assert isinstance(finding, Finding)
    assert "weight decay." not in finding.message
    assert "has no weight decay" in finding.remedy


def test_while_the_loss_falls_it_is_a_remark() -> None:
    history = history_of(entry(4.0), *[entry(1.0, loss=0.1)] * 20)
    finding = CollapsingWeights().check(history)
    assert isinstance(finding, Finding)
    assert finding.severity == "info"


def test_weights_that_began_at_0_are_not_judged() -> None:
    assert CollapsingWeights().check(history_of(entry(0.0), entry(0.0))) is None


def test_weights_are_not_judged_after_a_nan() -> None:
    broken = {"non_finite": {"fc1": 1.0}}
    outcome = CollapsingWeights().check(history_of(entry(4.0), broken, entry(0.1)))
    assert outcome is Verdict.UNDECIDED


def of_weights(norm: float, num_weights: float) -> Entry:
    return joined_entries(
        {"weight_norm": {"fc": norm}, "num_weights": {"fc": num_weights}}, run_entry(loss=2.0)
    )


@pytest.mark.parametrize(
    ("norm", "num_weights", "is_found"),
    [
        (0.316, 100.0, False),  # nine tenths pruned at random
        (1.0, 250.0, False),  # three quarters of the units were taken away
        (0.14, 100.0, True),  # pruned, and what is left has shrunk as well
        (0.4, 1000.0, True),
        (0.4, 4000.0, True),  # more weights than at first: some began at 0, or have joined
        (0.0, 0.0, False),  # nothing is left
        (0.4, float("nan"), True),
    ],
)
def test_pruned_weights_have_not_shrunk(norm: float, num_weights: float, is_found: bool) -> None:
    history = history_of(of_weights(1.0, 1000.0), of_weights(norm, num_weights))
    outcome = CollapsingWeights().check(history)
    assert isinstance(outcome, Finding) == is_found
