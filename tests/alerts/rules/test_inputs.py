from __future__ import annotations

import pytest
from tests.alerts.rules.histories import history_of, run_entry

from vis_callbacks.alerts.alert import Finding
from vis_callbacks.alerts.rules.inputs import ConstantInputs, RawInputs


@pytest.mark.parametrize(("share", "is_found"), [(0.4, False), (0.5, False), (0.51, True)])
def test_constant_inputs_are_an_alert_above_one_half(share: float, is_found: bool) -> None:
    outcome = ConstantInputs().check(history_of(run_entry(constant_inputs=share)))
    assert isinstance(outcome, Finding) == is_found


def test_the_finding_says_since_when_and_on_how_many_samples() -> None:
    shares = [1.0, 0.0, 0.0, 1.0, 1.0]
    history = history_of(*(run_entry(constant_inputs=s, num_samples=32.0) for s in shares))
    finding = ConstantInputs().check(history)
    assert isinstance(finding, Finding)
    assert (finding.since_step, finding.sample_size) == (15, 32)


def test_inputs_that_are_not_known_are_not_judged() -> None:
    assert ConstantInputs().check(history_of({})) is None
    assert RawInputs().check(history_of({})) is None


@pytest.mark.parametrize(
    ("mean", "std", "is_found"),
    [(0.0, 1.0, False), (0.45, 0.25, False), (90.0, 80.0, True), (-20.0, 1.0, True)],
)
def test_raw_inputs_are_remarked_on(mean: float, std: float, is_found: bool) -> None:
    outcome = RawInputs().check(history_of(run_entry(input_mean=mean, input_std=std)))
    assert isinstance(outcome, Finding) == is_found
    assert RawInputs.severity == "info"
