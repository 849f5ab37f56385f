from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.alerts.history import History


def history_of(*values: float, metric: str = "share", layer: str = "fc") -> History:
    history = History()
    for step, value in enumerate(values):
        history.append(step, {metric: {layer: value}})
    return history


def test_first_and_latest_are_told_by_metric_and_layer() -> None:
    history = history_of(0.1, 0.2, 0.3)
    assert history.first("share", "fc") == 0.1
    assert history.latest("share", "fc") == 0.3
    assert history.series("share", "fc") == (0.1, 0.2, 0.3)


def test_what_was_never_mentioned_is_not_known() -> None:
    history = history_of(0.1, 0.2)
    assert math.isnan(history.latest("other"))
    assert all(map(math.isnan, history.series("share", "other")))
    assert len(history.series("share", "other")) == 2


def test_a_layer_that_comes_late_is_not_known_before() -> None:
    history = history_of(0.1)
    history.append(5, {"share": {"fc": 0.2, "late": 0.9}})
    assert math.isnan(history.first("share", "late"))
    assert history.latest("share", "late") == 0.9


def test_a_layer_that_is_left_out_is_not_known_then() -> None:
    history = history_of(0.1)
    history.append(5, {})
    assert math.isnan(history.latest("share", "fc"))
    assert history.layers("share") == ()


def test_layers_are_told_in_the_order_of_the_forward_pass() -> None:
    history = History()
    history.append(0, {"share": {"z": 0.0, "a": 0.0, "unknown": math.nan, "m": 0.0}})
    assert history.layers("share") == ("z", "a", "m")


@given(num_entries=st.integers(1, 40), most=st.integers(1, 8))
def test_the_first_entry_and_the_latest_ones_are_kept(num_entries: int, most: int) -> None:
    history = History(most)
    for step in range(num_entries):
        history.append(step, {"share": {"fc": float(step)}})
    expected = [0, *range(1, num_entries)[-most:]]
    assert list(history.steps) == expected
    assert list(history.series("share", "fc")) == expected


def test_a_step_that_goes_back_is_refused() -> None:
    history = History()
    history.append(10, {})
    with pytest.raises(ValueError, match="step 5 lies before the latest, 10"):
        history.append(5, {})


def test_a_first_occurrence_is_remembered_after_its_entry_is_gone() -> None:
    history = History(2, first_occurrences=("bad",))
    history.append(0, {"bad": {"a": 0.0, "b": 0.0}})
    history.append(5, {"bad": {"a": 0.0, "b": 0.5, "c": 1.0}})
    for step in range(10, 60, 5):
        history.append(step, {"bad": {"a": 1.0}})
    mark = history.first_occurrence("bad")
    assert mark is not None
    assert (mark.step, mark.layers) == (5, ("b", "c"))


def test_the_smoothed_value_is_the_exponential_average() -> None:
    history = history_of(math.nan, 1.0, 2.0, math.nan, 3.0)
    expected = 0.7 * (0.7 * 1.0 + 0.3 * 2.0) + 0.3 * 3.0
    assert history.smoothed("share", "fc") == pytest.approx(expected, rel=1e-15)


def test_a_state_goes_through_a_safe_checkpoint() -> None:
    history = History(first_occurrences=("share",))
    for step in range(300):
        history.append(step, {"share": {"fc": step / 7, "nan": math.nan}, "loss": {"": 1.0}})
    buffer = io.BytesIO()
    torch.save(history.state_dict(), buffer)
    buffer.seek(0)
    restored = History(first_occurrences=("share",))
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert restored.steps == history.steps
    assert restored.series("share", "fc") == history.series("share", "fc")
    assert restored.first_occurrence("share") == history.first_occurrence("share")
    assert restored.state_dict() != {}
    restored.append(300, {"loss": {"": 2.0}})
    assert restored.latest("loss") == 2.0


def test_a_larger_state_is_trimmed_to_what_this_history_keeps() -> None:
    small = History(2)
    small.load_state_dict(history_of(*range(10)).state_dict())
    assert small.steps == (0, 8, 9)
    assert small.series("share", "fc") == (0, 8, 9)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"steps": [0, 1], "columns": [["m", "l", [1.0]]], "first_occurrences": {}},
        {"steps": [1, 0], "columns": [], "first_occurrences": {}},
        {"steps": ["a"], "columns": [], "first_occurrences": {}},
        {"steps": [0], "columns": [["m", "l", ["x"]]], "first_occurrences": {}},
        {"steps": [], "columns": [], "first_occurrences": [1]},
        [],
        5,
    ],
)
def test_a_state_that_is_not_ours_is_refused(broken: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        History().load_state_dict(broken)  # type: ignore[arg-type]


def test_known_numbers_are_those_that_a_snapshot_mentioned():
    history = History()
    history.append(0, {"loss": {"": 2.0}})
    history.append(1, {"other": {"": 1.0}})
    history.append(2, {"loss": {"": 1.0}})
    assert history.known("loss") == [2.0, 1.0]
    assert history.known("loss", "a layer") == history.known("nothing") == []
