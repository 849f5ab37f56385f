from __future__ import annotations

import math
import re

import pytest
from tests.alerts.rules.histories import Entry, joined_entries, run_entry

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.rules.filters import (
    FiltersBlowUp,
    FiltersNotJudged,
    HardlyLearned,
    InitialNoise,
    OddFilters,
    why_not_judged,
)
from vis_callbacks.alerts.rules.over_fitting import OverFitting
from vis_callbacks.alerts.tracker import AlertTracker

STUCK = {metric_names.FILTER_ROUGHNESS: 0.99, metric_names.FILTER_CHANGE: 0.01}


def filters(layer: str = "conv", **numbers: float) -> Entry:
    """48 filters of 7x7 on three channels that learn as they should, some numbers changed."""
    healthy = {
        metric_names.KERNEL_SIZE: 7.0,
        metric_names.NUM_FILTERS: 48.0,
        metric_names.FILTER_ROUGHNESS: 0.7,
        metric_names.INITIAL_ROUGHNESS: 1.0,
        metric_names.ROUGHNESS_ERROR: 0.01,
        metric_names.FILTER_CHANGE: 0.5,
        metric_names.INHERITED_SHARE: 0.8,
        metric_names.LEARNED_ROUGHNESS: 0.1,
        metric_names.INPUT_ROUGHNESS: 0.2,
        metric_names.LEARNING_RATE: 0.01,
        metric_names.DECAY_LEFT: 0.97,
        metric_names.FIRST_STEP: 0.0,
        metric_names.DEAD_FILTERS: 0.0,
        metric_names.DOMINATING_FILTERS: 0.0,
        metric_names.DUPLICATED_FILTERS: 0.0,
    }
    return {metric: {layer: value} for metric, value in (healthy | numbers).items()}


def every_50(*entries: Entry, planned: float = math.nan, first: int = 0) -> History:
    history = History()
    for place, entry in enumerate(entries):
        run = run_entry(planned_steps=planned)
        history.append(first + 50 * place, joined_entries(entry, run))
    return history


def alerts_of(rule: Rule, entries: list[Entry], steps: range) -> list[int]:
    """Returns the steps at which the tracker says that the rule's alert began."""
    tracker, history, began = AlertTracker("Filters"), History(), []
    for step, entry in zip(steps, entries, strict=True):
        history.append(step, entry)
        changes = tracker.update([(rule, rule.check(history))], step=step, stage="fit")
        began += [alert.step for alert in changes if alert.state == "firing"]
    return began


def test_noise_without_movement_is_raised_at_the_second_snapshot_from_step_150_on():
    stuck = filters(**STUCK)
    assert alerts_of(HardlyLearned(), [stuck] * 10, range(0, 500, 50)) == [200]


def test_it_waits_for_15_percent_of_the_planned_steps():
    stuck = joined_entries(filters(**STUCK), run_entry(planned_steps=2000.0))
    assert alerts_of(HardlyLearned(), [stuck] * 10, range(0, 500, 50)) == [350]


@pytest.mark.parametrize(
    "numbers",
    [
        {metric_names.FILTER_CHANGE: 0.09},  # noisy, and it moves: a healthy network may be that
        {metric_names.FILTER_ROUGHNESS: 0.94},
        {metric_names.FILTER_ROUGHNESS: math.nan},
        {metric_names.FILTER_CHANGE: math.nan},
    ],
)
def test_one_of_the_two_is_no_alarm(numbers):
    entry = filters(**STUCK | numbers)
    assert HardlyLearned().check(every_50(*[entry] * 8)) is None


def test_movement_between_the_two_snapshots_is_no_alarm():
    moved = filters(**STUCK | {metric_names.FILTER_CHANGE: 0.1})
    entries = [filters(**STUCK)] * 4 + [moved] * 4
    assert alerts_of(HardlyLearned(), entries, range(0, 400, 50)) == []


def test_nothing_is_said_while_the_rate_rises():
    rising = [filters(**STUCK | {metric_names.LEARNING_RATE: 1e-4 * step}) for step in range(1, 8)]
    assert HardlyLearned().check(every_50(*rising)) is None
    flat = [filters(**STUCK | {metric_names.LEARNING_RATE: 8e-4})] * 3
    assert isinstance(HardlyLearned().check(every_50(*rising, *flat)), Finding)


def test_the_alert_has_numbers_a_remedy_and_the_layers():
    history = every_50(
        *[
            joined_entries(
                filters("left", **STUCK),
                filters("right"),
                filters("other", **STUCK | {metric_names.FILTER_CHANGE: 0.002}),
                run_entry(validation_loss=2.4 - place / 10),
            )
            for place in range(6)
        ]
    )
    finding = HardlyLearned().check(history)
    assert isinstance(finding, Finding)
    assert finding.layers == ("left", "other")
    assert finding.since_step == 150
    assert "'other'" in finding.message
    assert "0.2 %" in finding.message
    assert "(0.1):" in finding.remedy
    assert finding.evidence["learning_rate"] == 0.01
    assert finding.evidence["first_validation_loss"] == pytest.approx(2.4)
    assert finding.evidence["validation_loss"] == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({metric_names.INITIAL_ROUGHNESS: 0.6}, "had structure from the start"),
        ({metric_names.LEARNING_RATE: 0.0}, "frozen"),
        ({metric_names.FILTER_CHANGE: 0.0}, "frozen"),
        ({metric_names.KERNEL_SIZE: 1.0}, "1x1"),
        ({metric_names.KERNEL_SIZE: 0.0}, "no known neighbours"),
        ({metric_names.FIRST_STEP: 30.0}, "initial weights are not known.*step 30"),
    ],
)
def test_what_cannot_be_judged_is_not_and_the_reason_is_said(numbers, words):
    entry = filters(**STUCK | numbers)
    history = every_50(*[entry] * 8, planned=400)
    assert HardlyLearned().check(history) is None
    assert InitialNoise().check(history) is None
    finding = FiltersNotJudged().check(history)
    assert isinstance(finding, Finding)
    assert re.search(words, finding.message)


def test_a_layer_that_is_judged_has_no_remark_of_that():
    assert FiltersNotJudged().check(every_50(filters())) is None


def test_a_layer_that_was_frozen_until_then_is_not_blamed():
    frozen = filters(**STUCK | {metric_names.FILTER_CHANGE: 0.0})
    assert HardlyLearned().check(every_50(*[frozen] * 5, *[filters(**STUCK)] * 4)) is None


def test_few_small_filters_may_begin_less_rough_than_many():
    few = {"kernel_size": 3, "first_step": 0, "initial_roughness": 0.8, "rate": 0.1}
    assert why_not_judged(**few, roughness_error=0.1) == ""  # 1 - 3 x .1
    assert "structure" in why_not_judged(**few, roughness_error=0.05)


def test_filters_that_blow_up_are_remarked_from_their_change_at_step_150_to_200():
    blown = [filters(**{metric_names.FILTER_CHANGE: 0.6 * place}) for place in range(8)]
    finding = FiltersBlowUp().check(every_50(*blown))
    assert isinstance(finding, Finding)
    assert finding.since_step == 150
    assert "180 %" in finding.message
    assert "a tenth of the learning rate" in finding.remedy
    assert "nan" not in finding.remedy
    slower = [filters(**{metric_names.FILTER_CHANGE: 0.5 * place}) for place in range(8)]
    assert FiltersBlowUp().check(every_50(*slower)) is None
    # The first snapshot in the window is missing: later movement was not measured.
    assert FiltersBlowUp().check(every_50(*[blown[0], *blown[5:]], first=180)) is None


def test_initial_noise_is_remarked_from_half_of_the_planned_steps_on():
    noisy = [filters(**{metric_names.FILTER_ROUGHNESS: 0.75})] * 6
    assert InitialNoise().check(every_50(*noisy, planned=510)) is None
    finding = InitialNoise().check(every_50(*noisy, planned=500))
    assert isinstance(finding, Finding)
    assert "80 % of their energy" in finding.message
    assert "97 %" in finding.message
    assert "Healthy networks do this" in finding.message
    assert InitialNoise().check(every_50(*noisy)) is None  # the end is not known
    learned = [filters(**{metric_names.FILTER_ROUGHNESS: 0.65})] * 6
    assert InitialNoise().check(every_50(*learned, planned=100)) is None


def losses(training: list[float], validation: list[float], **numbers: float) -> History:
    entries = [
        joined_entries(filters(**numbers), run_entry(training_loss=t, validation_loss=v))
        for t, v in zip(training, validation, strict=True)
        for _ in range(2)  # two snapshots see the same validation
    ]
    return every_50(*entries)


FALLING = [2.0, 1.5, 1.0, 0.8, 0.6, 0.4]


def test_over_fitting_rests_on_losses_that_part_for_three_validations():
    finding = OverFitting().check(losses(FALLING, [2.0, 1.0, 1.1, 1.2, 1.3, 1.4]))
    assert isinstance(finding, Finding)
    assert "lowest, 1, at step 100" in finding.message
    assert "Stop at step 100" in finding.remedy
    assert "rough" not in finding.message


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        (FALLING, [2.0, 1.5, 1.0, 1.05, 1.2, 1.3]),  # two validations above 1.1
        (FALLING, [2.0, 1.0, 1.2, 1.05, 1.2, 1.3]),
        (FALLING[::-1], [2.0, 1.0, 1.2, 1.2, 1.25, 1.3]),  # both rise
        (FALLING, [1.0] * 6),
        (FALLING, [math.nan] * 6),
        (FALLING, [-3.0, -2.0, -1.0, -0.5, -0.4, -0.3]),  # no loss that a factor fits
    ],
)
def test_losses_that_do_not_part_are_no_over_fitting(training, validation):
    assert OverFitting().check(losses(training, validation)) is None


def test_a_learned_part_as_rough_as_the_inputs_is_named_as_evidence_only():
    parted = [2.0, 1.0, 1.1, 1.2, 1.3, 1.4]
    rough = {metric_names.LEARNED_ROUGHNESS: 0.5, metric_names.INPUT_ROUGHNESS: 0.6}
    finding = OverFitting().check(losses(FALLING, parted, **rough))
    assert isinstance(finding, Finding)
    assert "as rough as the inputs" in finding.message
    small = OverFitting().check(losses(FALLING, parted, **rough | {metric_names.KERNEL_SIZE: 3.0}))
    assert isinstance(small, Finding)
    assert "as rough as the inputs" not in small.message
    assert OverFitting().check(losses(FALLING, FALLING, **rough)) is None


def test_odd_filters_are_counted():
    entry = filters(**{metric_names.DEAD_FILTERS: 2 / 48, metric_names.DUPLICATED_FILTERS: 4 / 48})
    finding = OddFilters().check(every_50(entry))
    assert isinstance(finding, Finding)
    assert finding.message == (
        "Odd filters: in 'conv', 2 near zero, 4 nearly equal to another one (of 48)."
    )
    assert OddFilters().check(every_50(filters())) is None
    unknown = filters(**{metric_names.DUPLICATED_FILTERS: math.nan})
    assert OddFilters().check(every_50(unknown)) is None


def test_only_the_layer_that_has_hardly_learned_is_an_alert_all_else_are_remarks():
    rules = (FiltersBlowUp, InitialNoise, OverFitting, OddFilters, FiltersNotJudged)
    assert HardlyLearned.severity == "warning"
    assert {rule.severity for rule in rules} == {"info"}
