from __future__ import annotations

import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.analysis.life_raster import LifeRaster


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


def test_units_that_join_are_not_measured_before_and_those_known_keep_their_past() -> None:
    raster = LifeRaster()
    raster.append(0, torch.tensor([0, 1, 2]), {"a": 2, "b": 1})
    raster.append(5, torch.tensor([0, 1, 3, 2, 3]), {"a": 3, "b": 1, "c": 1})
    assert raster.steps == (0, 5)
    assert raster.table().tolist() == [[0, 0], [1, 1], [-1, 3], [2, 2], [-1, 3]]


def test_a_layer_that_loses_units_has_no_past_and_the_others_keep_theirs() -> None:
    raster = LifeRaster()
    raster.append(0, torch.tensor([0, 1, 2]), {"a": 2, "b": 1})
    raster.append(5, torch.tensor([0, 3]), {"a": 1, "b": 1})
    assert raster.table().tolist() == [[-1, 0], [2, 3]]


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


@pytest.mark.parametrize(
    "broken", [{"version": 9}, {"steps": [1], "table": None}, {"widths": {"a": 3}}, {"every": 0}]
)
def test_a_raster_state_that_is_not_ours_is_refused(broken: dict[str, object]) -> None:
    state = filled(LifeRaster(), 3).state()
    with pytest.raises(ValueError, match="not the state of a LifeRaster"):
        LifeRaster().restore({**state, **broken})
    with pytest.raises(ValueError, match="not the state of a LifeRaster"):
        LifeRaster().restore({})


def test_an_empty_raster_has_no_table_and_one_column_is_no_course() -> None:
    with pytest.raises(RuntimeError, match="call `append` first"):
        LifeRaster().table()
    with pytest.raises(ValueError, match="max_columns=1"):
        LifeRaster(1)
