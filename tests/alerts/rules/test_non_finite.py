from __future__ import annotations

import math

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, layer_entry, run_entry

from vis_callbacks.alerts.alert import Finding
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.rules.non_finite import NonFinite

CLEAN: Entry = joined_entries({"non_finite": {"a": 0.0, "b": 0.0}}, run_entry(non_finite_loss=0.0))


def found(history: History) -> Finding:
    outcome = NonFinite().check(history)
    assert isinstance(outcome, Finding)
    return outcome


def test_finite_numbers_are_nothing() -> None:
    assert NonFinite().check(history_of(CLEAN, CLEAN)) is None


def test_the_first_layer_in_forward_order_and_the_first_step_are_named() -> None:
    bad = {"non_finite": {"a": 0.0, "b": 0.2, "c": 1.0}}
    worse = {"non_finite": {"a": 1.0, "b": 1.0, "c": 1.0}}
    finding = found(history_of(CLEAN, bad, worse))
    assert "'b'" in finding.message
    assert (finding.since_step, finding.layers) == (5, ("b", "c"))


def test_a_loss_that_is_not_finite_is_enough() -> None:
    finding = found(history_of(CLEAN, run_entry(non_finite_loss=1.0)))
    assert "the loss" in finding.message
    assert finding.layers == ()


def test_at_the_same_step_the_activation_is_named_rather_than_the_loss() -> None:
    both = joined_entries({"non_finite": {"a": 1.0}}, run_entry(non_finite_loss=1.0))
    assert "'a'" in found(history_of(CLEAN, both)).message


def test_whichever_came_first_is_named() -> None:
    loss, activation = run_entry(non_finite_loss=1.0), {"non_finite": {"a": 1.0}}
    assert "the loss" in found(history_of(CLEAN, loss, activation)).message
    assert "'a'" in found(history_of(CLEAN, activation, loss)).message


def test_it_is_found_for_the_rest_of_the_run() -> None:
    history = History(4)
    history.append(0, {"non_finite": {"a": 1.0}})
    for step in range(1, 50):
        history.append(step, CLEAN)
    assert found(history).since_step == 0


def grown(norm: float) -> Entry:
    return joined_entries(CLEAN, {"weight_norm": {"a": norm}}, run_entry(learning_rate=0.5))


BROKEN: Entry = joined_entries(
    {"non_finite": {"a": 1.0}, "weight_norm": {"a": math.nan}}, run_entry(learning_rate=0.5)
)


@pytest.mark.parametrize(("norm", "is_rate"), [(2.9, False), (3.1, True)])
def test_weights_that_blew_up_before_point_to_the_rate(norm: float, is_rate: bool) -> None:
    finding = found(history_of(grown(1.0), grown(norm), BROKEN))
    assert ("0.05 instead of 0.5" in finding.remedy) == is_rate
    assert ("batch of that step" in finding.remedy) != is_rate


def test_weights_that_are_not_finite_any_more_do_not_hide_their_growth() -> None:
    still_known = joined_entries(BROKEN, {"weight_norm": {"a": 100.0}})
    finding = found(history_of(grown(1.0), grown(4.0), BROKEN, still_known))
    assert finding.evidence["weight_norm_of_first"] == 4.0


def test_units_that_were_dying_before_point_to_the_rate() -> None:
    dying = layer_entry("a", newly_dead=0.9, newly_dead_late=0.9, norm_at_death=2.0)
    finding = found(history_of(CLEAN, joined_entries(CLEAN, dying), BROKEN))
    assert "a tenth of the learning rate" in finding.remedy
    assert finding.evidence["units_were_dying"] == 1
