from __future__ import annotations

import io
import math
import statistics as plain_statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.monitors.activations.made_up import measured_of
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.nonlinearities import RELU
from vis_callbacks.monitors.activations.dead_units import DeadUnitTracker, masked_median
from vis_callbacks.monitors.activations.science import UnitRows


def take(
    tracker: DeadUnitTracker,
    step: int,
    norms: dict[str, Tensor] | None = None,
    num_samples: int = 64,
    **fired: list[float],
) -> None:
    """Takes in a snapshot of layers whose units hold one value for all samples."""
    measures = {
        layer: measured_of(torch.tensor(values).reshape(1, -1, 1).expand(num_samples, -1, 1), RELU)
        for layer, values in fired.items()
    }
    tracker.update(step, UnitRows(measures, tracker.table), norms)


def reading(tracker: DeadUnitTracker, metric: str, layer: str = "fc") -> float:
    names, table = tracker.metrics()
    return table[names.index(metric), tracker.table.layers.index(layer)].item()


def test_a_unit_is_dead_after_three_batches_and_160_samples_of_zeros() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 1.0])
    for step, dead in ((5, 0.0), (10, 0.0), (15, 0.5)):
        take(tracker, step, fc=[0.0, 1.0])
        assert reading(tracker, metric_names.DEAD_FRACTION) == dead


@pytest.mark.parametrize(("num_samples", "num_batches"), [(32, 5), (160, 3), (1000, 3), (20, 8)])
def test_the_window_needs_both_its_batches_and_its_samples(
    num_samples: int, num_batches: int
) -> None:
    tracker = DeadUnitTracker()
    for number in range(num_batches):
        assert number == 0 or reading(tracker, metric_names.DEAD_FRACTION) == 0.0
        assert number == 0 or reading(tracker, metric_names.WINDOW_FULL) == 0.0
        take(tracker, number, num_samples=num_samples, fc=[0.0])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 1.0
    assert reading(tracker, metric_names.WINDOW_FULL) == 1.0
    assert reading(tracker, metric_names.WINDOW_SAMPLES) == num_samples * num_batches


def test_without_dead_units_the_window_is_all_that_was_read() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, num_samples=40, fc=[1.0])
    take(tracker, 5, num_samples=24, fc=[1.0])
    assert reading(tracker, metric_names.WINDOW_SAMPLES) == 64.0


def test_the_window_lasts_over_the_steps_between_two_bursts() -> None:
    tracker = DeadUnitTracker()
    for step in (0, 5, 1000):
        take(tracker, step, fc=[0.0])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 1.0


def test_a_single_firing_starts_the_window_anew() -> None:
    tracker = DeadUnitTracker()
    for step, value in enumerate([0.0, 0.0, 1.0, 0.0, 0.0]):
        take(tracker, step, num_samples=200, fc=[value])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 0.0
    take(tracker, 5, num_samples=200, fc=[0.0])
    assert reading(tracker, metric_names.NEWLY_DEAD) == 1.0


def test_dead_units_are_told_apart_by_when_they_were_seen_alive() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 1.0, 0.0, 1.0])
    take(tracker, 5, fc=[0.0, 1.0, 0.0, 1.0])
    for step in (10, 15, 20):
        take(tracker, step, fc=[0.0, 0.0, 0.0, 1.0])
    assert reading(tracker, metric_names.NEWLY_DEAD) == 0.5
    assert reading(tracker, metric_names.NEWLY_DEAD_LATE) == 0.25
    assert reading(tracker, metric_names.NEVER_FIRED) == 0.25
    assert reading(tracker, metric_names.DEAD_FRACTION) == 0.75
    assert reading(tracker, metric_names.NUM_UNITS) == 4.0


def test_the_first_death_is_the_step_at_which_the_silence_began() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 1.0, 0.0])
    take(tracker, 5, fc=[1.0, 0.0, 0.0])
    assert math.isnan(reading(tracker, metric_names.FIRST_DEATH_STEP))
    for step in (10, 15, 20):
        take(tracker, step, fc=[0.0, 0.0, 0.0])
    assert reading(tracker, metric_names.FIRST_DEATH_STEP) == 5.0


def test_the_norm_at_death_is_that_of_the_first_silent_snapshot() -> None:
    tracker = DeadUnitTracker()
    norms = [torch.tensor([2.0, 1.0, 4.0]) * factor for factor in (1.0, 3.0, 10.0, 10.0)]
    take(tracker, 0, {"fc": norms[0]}, fc=[1.0, 1.0, 1.0])
    for step, norm in enumerate(norms[1:], start=1):
        take(tracker, 5 * step, {"fc": norm}, fc=[0.0, 1.0, 0.0])
    assert reading(tracker, metric_names.NORM_AT_DEATH) == 3.0


def test_the_norm_at_death_is_unknown_where_nothing_died_or_no_weights_are_known() -> None:
    tracker = DeadUnitTracker()
    norms = {"fc": torch.ones(2)}
    for step in range(4):
        take(tracker, step, norms, fc=[1.0, float(step == 0)], other=[float(step == 0)])
    assert reading(tracker, metric_names.NORM_AT_DEATH) == 1.0
    assert reading(tracker, metric_names.NEWLY_DEAD, "other") == 1.0
    assert math.isnan(reading(tracker, metric_names.NORM_AT_DEATH, "other"))
    alive = DeadUnitTracker()
    take(alive, 0, norms, fc=[1.0, 1.0])
    assert math.isnan(reading(alive, metric_names.NORM_AT_DEATH))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_changes_nothing_for_its_unit(bad: float) -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 0.0])
    for step in (5, 10, 15, 20):
        take(tracker, step, fc=[bad, bad])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 0.0
    assert tracker.states("fc").tolist() == [0, 3]


def test_an_empty_batch_changes_nothing() -> None:
    tracker = DeadUnitTracker()
    for step in range(10):
        take(tracker, step, num_samples=0, fc=[0.0])
    assert all(math.isnan(reading(tracker, metric)) for metric in tracker.metrics()[0])
    assert tracker.states("fc").tolist() == [-1]


def test_a_layer_that_is_reached_now_and_then_is_judged_by_what_has_reached_it() -> None:
    tracker = DeadUnitTracker()
    norms = {"fc": torch.ones(1)}
    take(tracker, 0, norms, num_samples=64, fc=[1.0])
    for step in range(1, 9):
        take(tracker, step, norms, num_samples=0 if step % 2 else 50, fc=[0.0])
        norms = {"fc": norms["fc"] * 2}
        assert reading(tracker, metric_names.NEWLY_DEAD) == float(step == 8)
    assert reading(tracker, metric_names.WINDOW_SAMPLES) == 200.0
    assert reading(tracker, metric_names.FIRST_DEATH_STEP) == 2.0
    assert reading(tracker, metric_names.NORM_AT_DEATH) == 2.0


def test_rows_that_cannot_be_told_apart_are_counted_as_such_and_never_beyond_the_samples() -> None:
    tracker = DeadUnitTracker()
    for step, num_rows in enumerate((500, 16, 32)):
        measures = {
            "fc": measured_of(torch.zeros(num_rows, 2, 1), RELU, num_samples=32),
            "other": measured_of(torch.zeros(32, 1, 4), RELU),
        }
        tracker.update(step, UnitRows(measures, tracker.table))
    assert reading(tracker, metric_names.WINDOW_SAMPLES) == 32 + 16 + 32
    assert reading(tracker, metric_names.COUNTS_ROWS) == 1.0
    assert reading(tracker, metric_names.WINDOW_SAMPLES, "other") == 96.0
    assert reading(tracker, metric_names.COUNTS_ROWS, "other") == 0.0


def test_a_unit_without_weights_is_pruned_and_neither_dead_nor_revived() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, {"fc": torch.ones(4)}, fc=[1.0, 1.0, 1.0, 0.0])
    for step in (5, 10, 15):
        take(tracker, step, {"fc": torch.ones(4)}, fc=[0.0, 1.0, 1.0, 0.0])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 0.5
    for step in (20, 25, 30, 35):
        norms = torch.tensor([0.0, 0.0, 1.0, 1.0])
        take(tracker, step, {"fc": norms}, fc=[0.0, 0.0, 1.0, 0.0])
    assert reading(tracker, metric_names.NEWLY_DEAD) == 0.0
    assert reading(tracker, metric_names.NEVER_FIRED) == 0.25
    assert reading(tracker, metric_names.REVIVED) == 0.0
    assert tracker.states("fc").tolist() == [-1, -1, 0, 3]


def test_weights_of_0_from_the_start_are_pruned_only_where_there_is_a_mask() -> None:
    for masked, never_fired in ((frozenset(), 1.0), (frozenset({"fc"}), 0.0)):
        tracker = DeadUnitTracker()
        tracker.masked = masked
        for step in range(4):
            take(tracker, step, {"fc": torch.zeros(2)}, fc=[0.0, 0.0])
        assert reading(tracker, metric_names.NEVER_FIRED) == never_fired


def test_the_reference_is_the_first_snapshot_of_each_layer() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 100, fc=[1.0])
    take(tracker, 105, fc=[1.0], late=[1.0])
    assert reading(tracker, metric_names.REFERENCE_STEP) == 100.0
    assert reading(tracker, metric_names.REFERENCE_STEP, "late") == 105.0


def test_states_tell_alive_dead_revived_and_never_fired() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 1.0, 1.0, 0.0])
    for step in (5, 10, 15):
        take(tracker, step, fc=[1.0, 0.0, 0.0, 0.0])
    assert tracker.states("fc").tolist() == [0, 1, 1, 3]
    take(tracker, 20, fc=[1.0, 0.0, 1.0, 0.0])
    assert tracker.states("fc").tolist() == [0, 1, 2, 3]
    assert reading(tracker, metric_names.REVIVED) == 0.25


def test_all_states_are_those_of_the_layers_one_after_the_other() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, a=[1.0, 0.0], b=[0.0, 1.0, 1.0])
    assert tracker.all_states().tolist() == [
        *tracker.states("a").tolist(),
        *tracker.states("b").tolist(),
    ]


def test_units_without_a_flat_zero_are_never_judged() -> None:
    tracker = DeadUnitTracker()
    tracker.cannot_die = frozenset({"gelu"})
    for step in range(5):
        take(tracker, step, num_samples=200, gelu=[0.0, 0.0], relu=[0.0])
    assert all(math.isnan(reading(tracker, metric, "gelu")) for metric in tracker.metrics()[0])
    assert reading(tracker, metric_names.DEAD_FRACTION, "relu") == 1.0


def test_layers_that_are_said_later_not_to_die_count_from_then_on() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, gelu=[0.0])
    tracker.cannot_die = frozenset({"gelu"})
    take(tracker, 5, gelu=[0.0])
    assert math.isnan(reading(tracker, metric_names.DEAD_FRACTION, "gelu"))


def test_a_layer_that_is_not_used_at_a_step_stays_as_it_was() -> None:
    tracker = DeadUnitTracker()
    for step in (0, 5, 10):
        take(tracker, step, fc=[0.0], other=[1.0])
    before = tracker.states("fc").tolist(), reading(tracker, metric_names.WINDOW_SAMPLES)
    for step in (15, 20, 25):
        take(tracker, step, other=[1.0])
    assert (tracker.states("fc").tolist(), reading(tracker, metric_names.WINDOW_SAMPLES)) == before


def test_a_layer_that_comes_later_does_not_disturb_the_others() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 0.0])
    for step in (5, 10, 15):
        take(tracker, step, fc=[0.0, 0.0], wider=[1.0] * 5)
    assert tracker.table.layers == ("fc", "wider")
    assert reading(tracker, metric_names.NEWLY_DEAD) == 0.5
    assert reading(tracker, metric_names.NEVER_FIRED) == 0.5


def test_a_layer_that_grows_keeps_what_is_known_of_its_units() -> None:
    tracker = DeadUnitTracker()
    take(tracker, 0, fc=[1.0, 0.0], other=[0.0])
    for step in (5, 10):
        take(tracker, step, fc=[0.0, 0.0], other=[0.0])
    take(tracker, 15, fc=[0.0, 0.0, 0.0, 1.0], other=[0.0])
    assert tracker.states("fc").tolist() == [1, 3, 3, 0]
    assert reading(tracker, metric_names.NEWLY_DEAD) == 0.25
    assert (
        reading(tracker, metric_names.NEVER_FIRED) == 0.25
    )  # of the new ones nothing is known yet
    assert reading(tracker, metric_names.WINDOW_FULL) == 1.0
    assert reading(tracker, metric_names.REFERENCE_STEP) == 15.0  # nothing is claimed since step 0
    assert reading(tracker, metric_names.REFERENCE_STEP, "other") == 0.0
    assert reading(tracker, metric_names.DEAD_FRACTION, "other") == 1.0


def test_a_layer_that_loses_units_begins_anew() -> None:
    tracker = DeadUnitTracker()
    for step in (0, 5, 10):
        take(tracker, step, fc=[0.0, 0.0, 0.0], other=[0.0])
    take(tracker, 15, fc=[0.0, 0.0], other=[0.0])
    assert reading(tracker, metric_names.DEAD_FRACTION) == 0.0
    assert reading(tracker, metric_names.REFERENCE_STEP) == 15.0
    assert reading(tracker, metric_names.DEAD_FRACTION, "other") == 1.0


FIRINGS = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=10)


@settings(max_examples=40, deadline=None)
@given(firings=FIRINGS)
def test_a_unit_by_unit_reckoning_agrees(firings: list[list[bool]]) -> None:
    tracker = DeadUnitTracker()
    for number, fires in enumerate(firings):
        take(tracker, 5 * number, fc=[float(fired) for fired in fires])
    newly = late = never = 0
    for unit in zip(*firings, strict=True):
        silent = next((i for i, fired in enumerate(reversed(unit)) if fired), len(unit))
        if silent >= 3:  # 3 batches of 64 samples
            newly += any(unit)
            late += any(unit[1:])
            never += not any(unit)
    assert reading(tracker, metric_names.NEWLY_DEAD) == pytest.approx(newly / 3)
    assert reading(tracker, metric_names.NEWLY_DEAD_LATE) == pytest.approx(late / 3)
    assert reading(tracker, metric_names.NEVER_FIRED) == pytest.approx(never / 3)


@settings(max_examples=40, deadline=None)
@given(firings=FIRINGS, cut=st.integers(0, 10))
def test_a_checkpoint_anywhere_changes_nothing(firings: list[list[bool]], cut: int) -> None:
    cut = min(cut, len(firings))
    whole, first, second = DeadUnitTracker(), DeadUnitTracker(), DeadUnitTracker()

    def run(tracker: DeadUnitTracker, start: int, end: int) -> None:
        for number in range(start, end):
            norms = {"fc": torch.arange(1.0, 4.0) * (number + 1)}
            take(tracker, 5 * number, norms, fc=[float(fired) for fired in firings[number]])

    run(whole, 0, len(firings))
    run(first, 0, cut)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    run(second, cut, len(firings))
    torch.testing.assert_close(
        second.metrics()[1], whole.metrics()[1], rtol=0, atol=0, equal_nan=True
    )
    assert torch.equal(second.states("fc"), whole.states("fc"))


def test_a_restored_life_can_be_read_before_the_next_snapshot() -> None:
    tracker, restored = DeadUnitTracker(), DeadUnitTracker()
    for step in range(4):
        take(tracker, step, fc=[0.0, 1.0])
    restored.load_state_dict(tracker.state_dict())
    torch.testing.assert_close(restored.metrics()[1], tracker.metrics()[1], equal_nan=True)


@given(
    rows=st.lists(
        st.lists(
            st.tuples(st.floats(-1e6, 1e6, width=32) | st.just(math.nan), st.booleans()),
            min_size=4,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_the_masked_median_is_that_of_the_known_values(
    rows: list[list[tuple[float, bool]]],
) -> None:
    values = torch.tensor([[value for value, _ in row] for row in rows], dtype=torch.float64)
    mask = torch.tensor([[is_in for _, is_in in row] for row in rows])
    medians = masked_median(values, mask).tolist()
    for row, median in zip(rows, medians, strict=True):
        known = [value for value, is_in in row if is_in and not math.isnan(value)]
        assert median == (plain_statistics.median(known) if known else math.inf)
