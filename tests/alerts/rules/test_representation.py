from __future__ import annotations

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, run_entry

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding, Outcome, Verdict
from vis_callbacks.alerts.rules.representation import RepresentationCollapse


def entry(
    rank: float = 8.0,
    spread: float = 0.7,
    layer: str = "fc",
    num_samples: float = 500.0,
    num_classes: float = 10.0,
) -> Entry:
    return joined_entries(
        {
            metric_names.EFFECTIVE_RANK: {layer: rank},
            metric_names.FEATURE_SPREAD: {layer: spread},
            metric_names.CLASS_AGREEMENT: {layer: 0.31},
        },
        run_entry(num_embedded=num_samples, num_classes=num_classes),
    )


def check(*entries: Entry) -> Outcome:
    return RepresentationCollapse().check(history_of(*entries, every=50))


def finding(*entries: Entry) -> Finding:
    found = check(*entries)
    assert isinstance(found, Finding)
    return found


def test_features_that_are_all_equal_are_found_at_once():
    found = finding(entry(), entry(), entry(rank=0.0, spread=0.0))
    assert (found.severity, found.cause, found.min_snapshots) == ("critical", "equal", 1)
    assert "'fc' are equal for all 500 samples" in found.message
    assert (found.sample_size, found.since_step) == (500, 100)


def test_features_that_differ_by_rounding_alone_are_equal():
    assert finding(entry(spread=1e-7)).cause == "equal"
    assert check(entry(spread=1e-5)) is None


def test_a_rank_that_has_fallen_to_one_is_found_with_its_evidence():
    found = finding(entry(8.0), entry(1.9), entry(1.1), entry(1.05))
    assert (found.cause, found.min_snapshots, found.severity) == ("one direction", 2, None)
    assert "effective rank is 1.05 (it was 8.0), with 10 classes" in found.message
    assert "31 % of nearest neighbours are of the same class" in found.message
    assert found.since_step == 100
    assert found.evidence["highest_effective_rank"] == 8.0
    assert RepresentationCollapse.severity == "warning"


@pytest.mark.parametrize("rank", [1.3, 2.0, 9.0])
def test_a_higher_rank_is_healthy(rank: float):
    assert check(entry(8.0), entry(rank), entry(rank)) is None


def test_two_classes_need_one_direction_only():
    assert check(entry(8.0, num_classes=2.0), *[entry(1.0, num_classes=2.0)] * 3) is None
    assert check(entry(8.0, num_classes=0.0), *[entry(1.0, num_classes=0.0)] * 3) is None


def test_a_layer_that_never_had_more_than_one_direction_has_not_fallen():
    assert check(*[entry(1.1)] * 4) is None


def test_few_samples_are_not_judged():
    outcome = check(entry(), *[entry(0.0, 0.0, num_samples=31.0)] * 2)
    assert outcome is Verdict.UNDECIDED


def test_nothing_is_judged_after_a_nan():
    assert check({"non_finite": {"act": 1.0}}, entry(0.0, 0.0)) is Verdict.UNDECIDED


def test_all_sick_layers_are_named_and_the_worst_one_gives_the_evidence():
    healthy = joined_entries(entry(8.0, layer="a"), entry(6.0, layer="b"))
    sick = joined_entries(entry(1.15, layer="a"), entry(1.02, layer="b"))
    found = finding(healthy, sick)
    assert found.layers == ("a", "b")
    assert found.evidence["layer"] == "b"
