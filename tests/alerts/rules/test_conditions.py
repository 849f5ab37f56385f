from __future__ import annotations

import math

import pytest
from tests.alerts.rules.histories import history_of, run_entry

from vis_callbacks.alerts.rules.conditions import Rate, learning_rate, loss_level, quoted, share


def rate_of(*rates: float) -> Rate:
    return learning_rate(history_of(*(run_entry(learning_rate=rate) for rate in rates)))


def test_a_constant_rate_neither_falls_nor_jumps() -> None:
    rate = rate_of(0.1, 0.1, 0.1, 0.1)
    assert (rate.latest, rate.highest, rate.jump, rate.is_falling) == (0.1, 0.1, None, False)


def test_a_falling_rate_keeps_its_highest_value() -> None:
    rate = rate_of(0.1, 0.05, 0.01)
    assert (rate.latest, rate.highest, rate.is_falling) == (0.01, 0.1, True)


def test_a_jump_is_a_threefold_rise_that_no_warm_up_explains() -> None:
    assert rate_of(0.1, 0.1, 0.1, 0.29).jump is None
    assert rate_of(0.1, 0.1, 0.1, 0.31).jump == (15, 0.1, 0.31)
    assert rate_of(0.0, 0.001, 0.1, 0.2).jump is None


def test_the_steepest_of_several_jumps_is_told() -> None:
    assert rate_of(1, 1, 1, 4, 1, 9, 1).jump == (25, 1, 9)


def test_a_rate_that_is_not_known_is_nan() -> None:
    rate = learning_rate(history_of({}, {}))
    assert math.isnan(rate.latest)
    assert not rate.is_falling


def test_the_loss_level_is_the_smoothed_loss_over_the_first() -> None:
    history = history_of(*(run_entry(loss=loss) for loss in (2.0, 1.0)))
    assert loss_level(history) == pytest.approx((0.7 * 2 + 0.3 * 1) / 2, rel=1e-15)


@pytest.mark.parametrize("first", [0.0, -1.0, math.nan])
def test_a_first_loss_that_is_not_positive_gives_no_level(first: float) -> None:
    assert math.isnan(loss_level(history_of(run_entry(loss=first), run_entry(loss=1.0))))


def test_many_layers_are_named_in_part() -> None:
    assert quoted(("a",)) == "'a'"
    assert quoted(("a", "b", "c", "d", "e")) == "'a', 'b', 'c' and 2 more"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0 %"),
        (0.004, "0.4 %"),
        (0.374, "37 %"),
        (0.9975, "99.75 %"),
        (1, "100 %"),
        (3.5, "350 %"),
    ],
)
def test_what_is_not_all_is_not_called_100_percent(value: float, words: str) -> None:
    assert share(value) == words
