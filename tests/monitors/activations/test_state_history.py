from __future__ import annotations

import io
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.monitors.activations.dead_units import StateHistory

UNITS = {"a": 2}


def filled(history: StateHistory, num_snapshots: int) -> StateHistory:
    for number in range(num_snapshots):
        history.append(5 * number, torch.tensor([number % 4, 0]), UNITS)
    return history


def test_a_history_is_units_by_steps() -> None:
    history = filled(StateHistory(), 3)
    assert history.steps == [0, 5, 10]
    assert history.table().tolist() == [[0, 1, 2], [0, 0, 0]]


@given(num_snapshots=st.integers(1, 100), most=st.integers(2, 16))
def test_a_full_history_stays_evenly_spread_and_ends_with_the_latest(
    num_snapshots: int, most: int
) -> None:
    history = filled(StateHistory(most), num_snapshots)
    steps = history.steps
    assert steps[0] == 0
    assert steps[-1] == 5 * (num_snapshots - 1)
    assert len(steps) <= most
    gaps = {after - before for before, after in pairwise(steps[:-1])}
    assert len(gaps) <= 1
    assert history.table().shape == (2, len(steps))


def test_units_that_join_are_not_measured_before_and_those_known_keep_their_past() -> None:
    history = StateHistory()
    history.append(0, torch.tensor([0, 1, 2]), {"a": 2, "b": 1})
    history.append(5, torch.tensor([0, 1, 3, 2, 3]), {"a": 3, "b": 1, "c": 1})
    assert history.steps == [0, 5]
    assert history.table().tolist() == [[0, 0], [1, 1], [-1, 3], [2, 2], [-1, 3]]


def test_a_layer_that_loses_units_has_no_past_and_the_others_keep_theirs() -> None:
    history = StateHistory()
    history.append(0, torch.tensor([0, 1, 2]), {"a": 2, "b": 1})
    history.append(5, torch.tensor([0, 3]), {"a": 1, "b": 1})
    assert history.table().tolist() == [[-1, 0], [2, 3]]


@given(num_snapshots=st.integers(0, 60), more=st.integers(0, 60))
def test_a_restored_history_goes_on_as_the_old_one(num_snapshots: int, more: int) -> None:
    old, new = filled(StateHistory(8), num_snapshots), StateHistory(8)
    buffer = io.BytesIO()
    torch.save(old.state_dict(), buffer)
    buffer.seek(0)
    new.load_state_dict(torch.load(buffer, weights_only=True))
    for number in range(num_snapshots, num_snapshots + more):
        old.append(5 * number, torch.tensor([1, 2]), UNITS)
        new.append(5 * number, torch.tensor([1, 2]), UNITS)
    assert new.steps == old.steps
    if new.steps:
        assert torch.equal(new.table(), old.table())
