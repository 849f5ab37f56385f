from __future__ import annotations

import math

import pytest
from tests.alerts.rules.histories import history_of, joined_entries, layer_entry, run_entry

from vis_callbacks.alerts.alert import Finding, Outcome, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.rules.dead_units import DeadFromStart, DyingUnits, NewlyDeadUnits


def found(outcome: Outcome) -> Finding:
    assert isinstance(outcome, Finding)
    return outcome


def dying(layer: str = "fc", **numbers: float) -> dict[str, dict[str, float]]:
    sick = {
        "newly_dead": 0.4,
        "newly_dead_late": 0.4,
        "norm_at_death": 2.0,
        "first_death_step": 15.0,
    }
    return layer_entry(layer, **sick | numbers)


@pytest.mark.parametrize(
    ("late", "seen", "norm", "is_dying"),
    [
        (0.25, 0.25, 1.05, True),
        (0.24, 0.24, 1.05, False),
        (0.25, 0.25, 1.04, False),
        (0.00, 0.70, 1.00, True),
        (0.00, 0.69, 9.00, False),
        (0.00, 0.70, 0.99, False),
        (0.25, 0.25, math.nan, True),  # no weights known: the shares alone
        (0.00, 0.70, math.nan, True),
    ],
)
def test_dying_is_a_share_of_units_seen_alive_whose_weights_have_grown(
    late: float, seen: float, norm: float, is_dying: bool
) -> None:
    entry = layer_entry(newly_dead_late=late, newly_dead=seen, norm_at_death=norm)
    assert (DyingUnits().check(history_of(entry)) is not None) == is_dying


def test_one_layer_is_enough_and_all_dying_ones_are_listed() -> None:
    entry = joined_entries(dying("a"), layer_entry("b"), dying("c", newly_dead=0.6))
    finding = found(DyingUnits().check(history_of(entry)))
    assert finding.layers == ("a", "c")
    assert "'c', 60 % of 64 units" in finding.message
    assert finding.evidence["layer"] == "c"


def test_a_layer_of_few_units_is_not_alerted_on() -> None:
    assert DyingUnits().check(history_of(dying(num_units=7.0))) is None
    assert DyingUnits().check(history_of(dying(num_units=8.0))) is not None


def test_the_finding_names_its_window_its_start_and_its_evidence() -> None:
    history = history_of(
        joined_entries(layer_entry(), {"weight_norm": {"fc": 2.0}}),
        joined_entries(
            dying(window_samples=192.0), {"weight_norm": {"fc": 7.0}}, run_entry(learning_rate=0.5)
        ),
    )
    finding = found(DyingUnits().check(history))
    assert (finding.sample_size, finding.since_step) == (192, 15)
    assert "the latest 192 samples" in finding.message
    assert finding.evidence["fires_on_less_than"] == pytest.approx(3 / 192)
    assert finding.evidence["weight_norm_of_first"] == 3.5
    assert finding.evidence["norm_at_death"] == 2.0


def losses(*values: float, entry: dict[str, dict[str, float]]) -> History:
    return history_of(*(joined_entries(entry, run_entry(loss=value)) for value in values))


@pytest.mark.parametrize(
    ("num_snapshots", "severity"), [(1, "warning"), (9, "warning"), (10, "critical")]
)
def test_ten_snapshots_running_with_a_high_loss_are_critical(
    num_snapshots: int, severity: str
) -> None:
    history = losses(*[2.0] * num_snapshots, entry=dying())
    assert found(DyingUnits().check(history)).severity == severity


def test_a_low_loss_is_never_critical() -> None:
    history = losses(2.0, *[1.0] * 30, entry=dying())
    assert found(DyingUnits().check(history)).severity == "warning"


def test_where_the_loss_has_fallen_far_deaths_are_a_remark() -> None:
    history = losses(2.0, *[0.5] * 30, entry=dying())
    assert found(DyingUnits().check(history)).severity == "info"


def test_an_unknown_loss_is_never_critical() -> None:
    assert found(DyingUnits().check(history_of(*[dying()] * 30))).severity == "warning"


def test_a_snapshot_without_dying_units_begins_the_count_anew() -> None:
    loss = run_entry(loss=2.0)
    entries = [joined_entries(entry, loss) for entry in [dying()] * 9 + [layer_entry()]]
    history = history_of(*entries, *[joined_entries(dying(), loss)] * 9)
    finding = found(DyingUnits().check(history))
    assert finding.severity == "warning"
    assert finding.evidence["snapshots_running"] == 9


def test_snapshots_running_are_counted_back_from_the_latest() -> None:
    finding = found(DyingUnits().check(history_of(dying(), layer_entry(), dying())))
    assert finding.evidence["snapshots_running"] == 1


@pytest.mark.parametrize("rule", [DyingUnits(), DeadFromStart(), NewlyDeadUnits()])
def test_units_are_not_judged_while_the_input_is_constant(
    rule: DyingUnits | DeadFromStart | NewlyDeadUnits,
) -> None:
    sick = dying(newly_dead=1.0, never_fired=1.0)
    assert isinstance(rule.check(history_of(sick)), Finding)
    black = joined_entries(sick, run_entry(constant_inputs=0.51))
    assert rule.check(history_of(black)) is Verdict.UNDECIDED
    half_black = joined_entries(sick, run_entry(constant_inputs=0.5))
    assert isinstance(rule.check(history_of(half_black)), Finding)


@pytest.mark.parametrize("rule", [DyingUnits(), DeadFromStart(), NewlyDeadUnits()])
@pytest.mark.parametrize("bad", [{"non_finite": {"fc": 0.1}}, run_entry(non_finite_loss=1.0)])
def test_units_are_not_judged_after_a_nan(
    rule: DyingUnits | DeadFromStart | NewlyDeadUnits, bad: dict[str, dict[str, float]]
) -> None:
    sick = dying(newly_dead=1.0, never_fired=1.0)
    assert rule.check(history_of(joined_entries(sick, bad), sick, sick)) is Verdict.UNDECIDED


def rates(*values: float, entry: dict[str, dict[str, float]] | None = None) -> Finding:
    entry = entry if entry is not None else dying()
    entries = [joined_entries(entry, run_entry(learning_rate=value)) for value in values]
    return found(DyingUnits().check(history_of(*entries)))


def test_the_remedy_is_a_restart_with_a_tenth_of_the_rate_in_numbers() -> None:
    assert "Restart with learning rate 0.03 (a tenth of 0.3)" in rates(0.3, 0.3, 0.3).remedy


def test_an_unknown_rate_gives_the_remedy_without_a_number() -> None:
    remedy = found(DyingUnits().check(history_of(dying()))).remedy
    assert "a tenth of the learning rate" in remedy
    assert "nan" not in remedy


def test_a_falling_schedule_may_be_waited_for() -> None:
    remedy = rates(0.3, 0.29, 0.28).remedy
    assert "wait" in remedy
    assert "restart with learning rate 0.03" in remedy


def test_a_linear_warm_up_is_no_jump_of_the_rate() -> None:
    remedy = rates(*[0.01 * (1 + 5 * number) for number in range(20)]).remedy
    assert remedy.startswith("Restart with learning rate")


def test_a_jump_of_the_rate_before_the_deaths_points_to_an_earlier_checkpoint() -> None:
    spike = dying(first_death_step=20.0)
    remedy = rates(*[0.001] * 4, 0.3, 0.001, 0.001, entry=spike).remedy
    assert "rose from 0.001 to 0.3 at step 20" in remedy
    assert "checkpoint" in remedy


def test_a_jump_of_the_rate_after_the_deaths_is_not_blamed() -> None:
    early = dying(first_death_step=5.0)
    assert "checkpoint" not in rates(*[0.001] * 4, 0.3, entry=early).remedy


def test_inputs_that_are_not_normalised_are_named_as_a_cause() -> None:
    raw = joined_entries(dying(), run_entry(input_mean=90.0, input_std=80.0))
    causes = found(DyingUnits().check(history_of(raw))).could_be
    assert any("mean 90, standard deviation 80" in cause for cause in causes)


def test_a_reference_that_is_not_step_0_is_told() -> None:
    late = found(DyingUnits().check(history_of(dying(reference_step=1000.0))))
    assert "first read with these units at step 1000" in late.message
    assert "first read" not in found(DyingUnits().check(history_of(dying()))).message


@pytest.mark.parametrize(
    ("never", "severity"), [(0.64, None), (0.65, "warning"), (0.94, "warning"), (0.95, "critical")]
)
def test_a_layer_that_never_fired_is_dead_from_initialisation(
    never: float, severity: str | None
) -> None:
    outcome = DeadFromStart().check(history_of(layer_entry(never_fired=never)))
    assert (found(outcome).severity if outcome is not None else None) == severity


def test_dead_from_initialisation_is_claimed_only_from_step_0_on() -> None:
    late = layer_entry(never_fired=1.0, reference_step=5.0)
    assert DeadFromStart().check(history_of(late)) is None


def test_dead_from_initialisation_clears_the_rate() -> None:
    finding = found(DeadFromStart().check(history_of(layer_entry(never_fired=1.0))))
    assert "initialisation" in finding.message
    assert "learning rate is not the cause" in finding.remedy


def test_a_layer_of_few_units_is_not_dead_from_initialisation() -> None:
    few = layer_entry(never_fired=1.0, num_units=7.0)
    assert DeadFromStart().check(history_of(few)) is None


def test_many_newly_dead_units_are_remarked_on_whatever_their_weights() -> None:
    shrunk = layer_entry(newly_dead=0.3, norm_at_death=0.2)
    assert DyingUnits().check(history_of(shrunk)) is None
    assert found(NewlyDeadUnits().check(history_of(shrunk))).layers == ("fc",)
    assert NewlyDeadUnits.severity == "info"
    assert NewlyDeadUnits().check(history_of(layer_entry(newly_dead=0.29))) is None


def test_dying_just_before_the_first_nan_is_told() -> None:
    broken = {"non_finite": {"fc": 1.0}}
    assert DyingUnits().was_dying_before(history_of(layer_entry(), dying(), broken, broken))
    assert not DyingUnits().was_dying_before(history_of(dying(), layer_entry(), broken))
    assert not DyingUnits().was_dying_before(history_of(broken))
    assert not DyingUnits().was_dying_before(history_of(dying()))


def test_rows_that_are_no_samples_are_called_so() -> None:
    for rule, entry in (
        (DyingUnits(), dying(counts_rows=1.0)),
        (NewlyDeadUnits(), dying(counts_rows=1.0)),
        (DeadFromStart(), layer_entry(never_fired=1.0, counts_rows=1.0)),
    ):
        finding = found(rule.check(history_of(entry)))
        assert "160 rows" in finding.message
        assert "samples" not in finding.message
        assert finding.evidence["counted"] == "rows"
    assert "counted" not in found(DyingUnits().check(history_of(dying()))).evidence
