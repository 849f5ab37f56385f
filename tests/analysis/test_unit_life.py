from __future__ import annotations

import io
import math
import statistics as plain_statistics
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.analysis.activations import UnitRows, joined, measure
from vis_callbacks.analysis.nonlinearities import RELU
from vis_callbacks.analysis.unit_life import READINGS, LifeRaster, UnitLife, masked_median


def take(
    life: UnitLife,
    step: int,
    norms: dict[str, Tensor] | None = None,
    num_samples: int = 64,
    **fired: list[float],
) -> None:
    """Takes in a snapshot of layers whose units hold one value for all samples."""
    measures = {
        layer: measure(torch.tensor(values).reshape(1, -1, 1).expand(num_samples, -1, 1), RELU)
        for layer, values in fired.items()
    }
    life.update(step, UnitRows.of(joined(life.table, measures), measures), norms)


def reading(life: UnitLife, metric: str, layer: str = "fc") -> float:
    return life.readings()[READINGS.index(metric), life.layers.index(layer)].item()


def test_a_unit_is_dead_after_three_batches_and_160_samples_of_zeros() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 1.0])
    for step, dead in ((5, 0.0), (10, 0.0), (15, 0.5)):
        take(life, step, fc=[0.0, 1.0])
        assert reading(life, readings.DEAD_FRACTION) == dead


@pytest.mark.parametrize(("num_samples", "num_batches"), [(32, 5), (160, 3), (1000, 3), (20, 8)])
def test_the_window_needs_both_its_batches_and_its_samples(
    num_samples: int, num_batches: int
) -> None:
    life = UnitLife()
    for number in range(num_batches):
        assert number == 0 or reading(life, readings.DEAD_FRACTION) == 0.0
        assert number == 0 or reading(life, readings.WINDOW_FULL) == 0.0
        take(life, number, num_samples=num_samples, fc=[0.0])
    assert reading(life, readings.DEAD_FRACTION) == 1.0
    assert reading(life, readings.WINDOW_FULL) == 1.0
    assert reading(life, readings.WINDOW_SAMPLES) == num_samples * num_batches


def test_without_dead_units_the_window_is_all_that_was_read() -> None:
    life = UnitLife()
    take(life, 0, num_samples=40, fc=[1.0])
    take(life, 5, num_samples=24, fc=[1.0])
    assert reading(life, readings.WINDOW_SAMPLES) == 64.0


def test_the_window_lasts_over_the_steps_between_two_bursts() -> None:
    life = UnitLife()
    for step in (0, 5, 1000):
        take(life, step, fc=[0.0])
    assert reading(life, readings.DEAD_FRACTION) == 1.0


def test_a_single_firing_starts_the_window_anew() -> None:
    life = UnitLife()
    for step, value in enumerate([0.0, 0.0, 1.0, 0.0, 0.0]):
        take(life, step, num_samples=200, fc=[value])
    assert reading(life, readings.DEAD_FRACTION) == 0.0
    take(life, 5, num_samples=200, fc=[0.0])
    assert reading(life, readings.NEWLY_DEAD) == 1.0


def test_dead_units_are_told_apart_by_when_they_were_seen_alive() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 1.0, 0.0, 1.0])
    take(life, 5, fc=[0.0, 1.0, 0.0, 1.0])
    for step in (10, 15, 20):
        take(life, step, fc=[0.0, 0.0, 0.0, 1.0])
    assert reading(life, readings.NEWLY_DEAD) == 0.5
    assert reading(life, readings.NEWLY_DEAD_LATE) == 0.25
    assert reading(life, readings.NEVER_FIRED) == 0.25
    assert reading(life, readings.DEAD_FRACTION) == 0.75
    assert reading(life, readings.NUM_UNITS) == 4.0


def test_the_first_death_is_the_step_at_which_the_silence_began() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 1.0, 0.0])
    take(life, 5, fc=[1.0, 0.0, 0.0])
    assert math.isnan(reading(life, readings.FIRST_DEATH_STEP))
    for step in (10, 15, 20):
        take(life, step, fc=[0.0, 0.0, 0.0])
    assert reading(life, readings.FIRST_DEATH_STEP) == 5.0


def test_the_norm_at_death_is_that_of_the_first_silent_snapshot() -> None:
    life = UnitLife()
    norms = [torch.tensor([2.0, 1.0, 4.0]) * factor for factor in (1.0, 3.0, 10.0, 10.0)]
    take(life, 0, {"fc": norms[0]}, fc=[1.0, 1.0, 1.0])
    for step, norm in enumerate(norms[1:], start=1):
        take(life, 5 * step, {"fc": norm}, fc=[0.0, 1.0, 0.0])
    assert reading(life, readings.NORM_AT_DEATH) == 3.0


def test_the_norm_at_death_is_unknown_where_nothing_died_or_no_weights_are_known() -> None:
    life = UnitLife()
    norms = {"fc": torch.ones(2)}
    for step in range(4):
        take(life, step, norms, fc=[1.0, float(step == 0)], other=[float(step == 0)])
    assert reading(life, readings.NORM_AT_DEATH) == 1.0
    assert reading(life, readings.NEWLY_DEAD, "other") == 1.0
    assert math.isnan(reading(life, readings.NORM_AT_DEATH, "other"))
    alive = UnitLife()
    take(alive, 0, norms, fc=[1.0, 1.0])
    assert math.isnan(reading(alive, readings.NORM_AT_DEATH))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_batch_that_is_not_finite_changes_nothing_for_its_unit(bad: float) -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 0.0])
    for step in (5, 10, 15, 20):
        take(life, step, fc=[bad, bad])
    assert reading(life, readings.DEAD_FRACTION) == 0.0
    assert life.states("fc").tolist() == [0, 3]


def test_an_empty_batch_changes_nothing() -> None:
    life = UnitLife()
    for step in range(10):
        take(life, step, num_samples=0, fc=[0.0])
    assert reading(life, readings.DEAD_FRACTION) == 0.0
    assert life.states("fc").tolist() == [-1]


def test_the_reference_is_the_first_snapshot_of_each_layer() -> None:
    life = UnitLife()
    take(life, 100, fc=[1.0])
    take(life, 105, fc=[1.0], late=[1.0])
    assert reading(life, readings.REFERENCE_STEP) == 100.0
    assert reading(life, readings.REFERENCE_STEP, "late") == 105.0


def test_states_tell_alive_dead_revived_and_never_fired() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 1.0, 1.0, 0.0])
    for step in (5, 10, 15):
        take(life, step, fc=[1.0, 0.0, 0.0, 0.0])
    assert life.states("fc").tolist() == [0, 1, 1, 3]
    take(life, 20, fc=[1.0, 0.0, 1.0, 0.0])
    assert life.states("fc").tolist() == [0, 1, 2, 3]
    assert reading(life, readings.REVIVED) == 0.25


def test_all_states_are_those_of_the_layers_one_after_the_other() -> None:
    life = UnitLife()
    take(life, 0, a=[1.0, 0.0], b=[0.0, 1.0, 1.0])
    assert life.all_states().tolist() == [*life.states("a").tolist(), *life.states("b").tolist()]


def test_units_without_a_flat_zero_are_never_judged() -> None:
    life = UnitLife(immortal={"gelu"})
    for step in range(5):
        take(life, step, num_samples=200, gelu=[0.0, 0.0], relu=[0.0])
    assert all(math.isnan(reading(life, metric, "gelu")) for metric in READINGS)
    assert reading(life, readings.DEAD_FRACTION, "relu") == 1.0


def test_naming_the_immortal_layers_later_counts_from_then_on() -> None:
    life = UnitLife()
    take(life, 0, gelu=[0.0])
    life.immortal = {"gelu"}
    take(life, 5, gelu=[0.0])
    assert math.isnan(reading(life, readings.DEAD_FRACTION, "gelu"))


def test_a_layer_that_is_not_used_at_a_step_stays_as_it_was() -> None:
    life = UnitLife()
    for step in (0, 5, 10):
        take(life, step, fc=[0.0], other=[1.0])
    before = life.states("fc").tolist(), reading(life, readings.WINDOW_SAMPLES)
    for step in (15, 20, 25):
        take(life, step, other=[1.0])
    assert (life.states("fc").tolist(), reading(life, readings.WINDOW_SAMPLES)) == before


def test_a_layer_that_comes_later_does_not_disturb_the_others() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 0.0])
    for step in (5, 10, 15):
        take(life, step, fc=[0.0, 0.0], wider=[1.0] * 5)
    assert life.layers == ("fc", "wider")
    assert reading(life, readings.NEWLY_DEAD) == 0.5
    assert reading(life, readings.NEVER_FIRED) == 0.5


def test_a_layer_of_another_width_begins_anew() -> None:
    life = UnitLife()
    for step in (0, 5, 10):
        take(life, step, fc=[0.0, 0.0], other=[0.0])
    take(life, 15, fc=[0.0, 0.0, 0.0], other=[0.0])
    assert reading(life, readings.DEAD_FRACTION) == 0.0
    assert reading(life, readings.REFERENCE_STEP) == 15.0
    assert reading(life, readings.DEAD_FRACTION, "other") == 1.0


def test_nothing_is_told_before_the_first_snapshot() -> None:
    with pytest.raises(RuntimeError, match="call `update` first"):
        UnitLife().readings()


FIRINGS = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=14)


@given(firings=FIRINGS)
def test_a_unit_by_unit_reckoning_agrees(firings: list[list[bool]]) -> None:
    life = UnitLife()
    for number, fires in enumerate(firings):
        take(life, 5 * number, fc=[float(fired) for fired in fires])
    newly = late = never = 0
    for unit in zip(*firings, strict=True):
        silent = next((i for i, fired in enumerate(reversed(unit)) if fired), len(unit))
        if silent >= 3:  # 3 batches of 64 samples
            newly += any(unit)
            late += any(unit[1:])
            never += not any(unit)
    assert reading(life, readings.NEWLY_DEAD) == pytest.approx(newly / 3)
    assert reading(life, readings.NEWLY_DEAD_LATE) == pytest.approx(late / 3)
    assert reading(life, readings.NEVER_FIRED) == pytest.approx(never / 3)


@given(firings=FIRINGS, cut=st.integers(0, 14))
def test_a_checkpoint_anywhere_changes_nothing(firings: list[list[bool]], cut: int) -> None:
    cut = min(cut, len(firings))
    whole, first, second = UnitLife(), UnitLife(), UnitLife()

    def run(life: UnitLife, start: int, end: int) -> None:
        for number in range(start, end):
            norms = {"fc": torch.arange(1.0, 4.0) * (number + 1)}
            take(life, 5 * number, norms, fc=[float(fired) for fired in firings[number]])

    run(whole, 0, len(firings))
    run(first, 0, cut)
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second.restore(torch.load(buffer, weights_only=True))
    run(second, cut, len(firings))
    torch.testing.assert_close(second.readings(), whole.readings(), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(second.states("fc"), whole.states("fc"))


def test_a_restored_life_can_be_read_before_the_next_snapshot() -> None:
    life, restored = UnitLife(), UnitLife()
    for step in range(4):
        take(life, step, fc=[0.0, 1.0])
    restored.restore(life.state())
    torch.testing.assert_close(restored.readings(), life.readings(), equal_nan=True)


@pytest.mark.parametrize("key", ["version", "num_units", "units", "layers"])
@pytest.mark.parametrize("value", [None, 7, {"fc": "a"}])
def test_a_state_that_is_not_ours_is_refused_and_nothing_changes(key: str, value: object) -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 0.0])
    before = life.states("fc").tolist()
    with pytest.raises(ValueError, match="not the state of a UnitLife"):
        life.restore({**life.state(), key: value})
    assert life.states("fc").tolist() == before


def test_a_state_of_another_shape_is_refused() -> None:
    life = UnitLife()
    take(life, 0, fc=[1.0, 0.0])
    with pytest.raises(ValueError, match="do not fit"):
        life.restore({**life.state(), "num_units": {"fc": 3}})


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


def filled(raster: LifeRaster, num_snapshots: int) -> LifeRaster:
    for number in range(num_snapshots):
        raster.append(5 * number, torch.tensor([number % 4, 0]))
    return raster


def test_a_raster_is_units_by_steps() -> None:
    raster = filled(LifeRaster(), 3)
    assert raster.steps == (0, 5, 10)
    assert raster.table().tolist() == [[0, 1, 2], [0, 0, 0]]


@given(num_snapshots=st.integers(1, 400), most=st.integers(2, 16))
def test_a_full_raster_stays_evenly_spread_and_ends_with_the_latest(
    num_snapshots: int, most: int
) -> None:
    raster = filled(LifeRaster(most), num_snapshots)
    steps = raster.steps
    assert steps[0] == 0
    assert steps[-1] == 5 * (num_snapshots - 1)
    assert len(steps) <= most
    gaps = {after - before for before, after in pairwise(steps[:-1])}
    assert len(gaps) <= 1
    assert raster.table().shape == (2, len(steps))


def test_a_raster_of_another_number_of_units_begins_anew() -> None:
    raster = filled(LifeRaster(), 3)
    raster.append(20, torch.zeros(5))
    assert raster.steps == (20,)


@given(num_snapshots=st.integers(0, 60), more=st.integers(0, 60))
def test_a_restored_raster_goes_on_as_the_old_one(num_snapshots: int, more: int) -> None:
    old, new = filled(LifeRaster(8), num_snapshots), LifeRaster(8)
    buffer = io.BytesIO()
    torch.save(old.state(), buffer)
    buffer.seek(0)
    new.restore(torch.load(buffer, weights_only=True))
    for number in range(num_snapshots, num_snapshots + more):
        old.append(5 * number, torch.tensor([1, 2]))
        new.append(5 * number, torch.tensor([1, 2]))
    assert new.steps == old.steps
    if new.steps:
        assert torch.equal(new.table(), old.table())


@pytest.mark.parametrize("broken", [{}, {"version": 9}, {"steps": [1], "table": None}])
def test_a_raster_state_that_is_not_ours_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the state of a LifeRaster"):
        LifeRaster().restore(broken)


def test_an_empty_raster_has_no_table_and_one_column_is_no_course() -> None:
    with pytest.raises(RuntimeError, match="call `append` first"):
        LifeRaster().table()
    with pytest.raises(ValueError, match="max_columns=1"):
        LifeRaster(1)
