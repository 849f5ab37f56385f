from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor

from vis_callbacks.engine.snapshot import Group
from vis_callbacks.monitors.filters.noise import roughness
from vis_callbacks.monitors.filters.numbers import FilterRecord
from vis_callbacks.observer import require_plain


def filters(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def begun(*shape: int, step: int = 0, is_initial: bool = True) -> FilterRecord:
    return FilterRecord(filters(*(shape or (8, 3, 5, 5))), step, is_before_update=is_initial)


def frames(record: FilterRecord) -> Tensor:
    return record.strip.stacked()["filters"]


def group(kind: str = "SGD", lr: float = 0.1, weight_decay: float = 0.01, **known) -> Group:
    return Group(
        name=kind, kind=kind, parameter_names=(), lr=lr, weight_decay=weight_decay, **known
    )


# -- frames


def test_it_begins_with_a_copy_of_the_filters():
    given = filters(4, 1, 3, 3)
    record = FilterRecord(given, 3, is_before_update=False)
    before = given.clone()
    given += 1
    assert torch.equal(record.initial, before)
    assert torch.equal(frames(record)[0], before)
    assert (record.first_step, record.strip.steps) == (3, [3])


def test_the_first_frame_and_the_latest_stay_and_eight_at_most():
    record = begun()
    for step in range(1, 200):
        record.append(step, filters(8, 3, 5, 5, seed=step))
    assert len(record.strip.steps) == len(frames(record)) == 8
    assert (record.strip.steps[0], record.strip.steps[-1]) == (0, 199)
    for step, frame in zip(record.strip.steps, frames(record), strict=True):
        assert torch.equal(frame, filters(8, 3, 5, 5, seed=step))


def test_a_step_that_is_there_already_is_not_added_again():
    record = begun(step=5)
    for step in (5, 4):
        record.append(step, filters(8, 3, 5, 5, seed=1))
    assert record.strip.steps == [5]
    assert torch.equal(frames(record)[0], record.initial)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((64, 3, 7, 7), 36),
        ((64, 1, 7, 7), 36),
        ((64, 3, 13, 13), 16),  # large ones
        ((64, 8, 3, 3), 12),  # a map for each channel
        ((5, 3, 7, 7), 5),
        ((64, 8, 64, 64), 2),  # 32,768 numbers each
        ((64, 2, 256, 256), 1),
    ],
)
def test_a_strip_shows_as_many_filters_as_can_be_seen(shape, count):
    record = FilterRecord(torch.zeros(shape), 0, is_before_update=True)
    places = record.strip_places
    assert len(places) == count
    assert places[0] == 0
    assert sorted(set(places)) == places
    assert places[-1] >= shape[0] * (count - 1) // count  # spread over all of them


def test_frames_are_kept_in_single_precision():
    record = FilterRecord(filters(4, 1, 3, 3).double(), 0, is_before_update=True)
    assert frames(record)[0].dtype == torch.float32
    assert record.initial.dtype == torch.float64


# -- numbers


def test_the_initial_roughness_stays_that_of_the_beginning():
    record = begun()
    expected = float(roughness(record.initial).mean())
    record.append(1, torch.ones(8, 3, 5, 5))
    assert float(record.initial_roughness) == pytest.approx(expected)


def test_the_inputs_are_read_once():
    record, inputs = begun(), filters(2, 3, 9, 9, seed=1)
    first = record.input_roughness(inputs)
    assert torch.isfinite(first)
    assert record.input_roughness(torch.ones(2, 3, 9, 9)) is first
    assert torch.isnan(begun().input_roughness(None))


@pytest.mark.parametrize(
    ("kind", "momentum", "rate"),
    [("SGD", None, 0.1 * 0.01), ("SGD", 0.9, 0.1 * 0.01 / 0.1), ("AdamW", None, 0.1 * 0.01)],
)
def test_decay_at_one_rate_is_an_exponential(kind, momentum, rate):
    record = begun(step=1)
    for step in (1, 40, 100):
        left = record.decay_left(step, group(kind, momentum=momentum))
        assert left == pytest.approx(math.exp(-step * rate))


def test_between_two_snapshots_the_rate_changes_evenly():
    record = begun(step=0, is_initial=False)
    rates = [0.1 * (1 - step / 100) for step in range(101)]
    for step in (0, 30, 100):
        left = record.decay_left(step, group(lr=rates[step]))
    assert left == pytest.approx(math.exp(-0.01 * 100 * 0.05))  # the area of a triangle


def test_weights_that_are_seen_before_their_step_have_decayed_by_one_step_more():
    before, after = (begun(step=1, is_initial=flag) for flag in (True, False))
    lefts = [record.decay_left(11, group()) for record in (before, after)]
    assert lefts == pytest.approx([math.exp(-11 * 0.001), math.exp(-10 * 0.001)])


def test_without_weight_decay_all_is_left_and_with_adam_nobody_knows():
    assert begun().decay_left(50, group(weight_decay=0.0)) == 1
    assert math.isnan(begun().decay_left(50, group("Adam")))
    assert math.isnan(begun().decay_left(50, None))


# -- the restart


def test_its_state_is_plain_and_goes_on_where_it_was():
    record = begun(step=1)
    record.append(20, filters(8, 3, 5, 5, seed=20))
    record.decay_left(20, group())
    require_plain(record.state_dict(), "state")
    file = io.BytesIO()
    torch.save(record.state_dict(), file)
    file.seek(0)
    other = FilterRecord.restored(torch.load(file, weights_only=True))
    lefts = []
    for each in (record, other):
        each.append(50, filters(8, 3, 5, 5, seed=50))
        lefts.append(each.decay_left(50, group()))
    assert lefts[0] == lefts[1]
    assert (other.first_step, other.strip.steps) == (1, [1, 20, 50])
    assert torch.equal(other.initial, record.initial)
    assert all(map(torch.equal, frames(other), frames(record)))
    assert torch.equal(other.initial_roughness, record.initial_roughness)


def test_filters_that_join_are_seen_from_then_on_and_the_strip_keeps_its_own():
    record, given = begun(40, 3, 5, 5), filters(40, 3, 5, 5)
    places = record.strip_places
    more = torch.cat([given + 1, filters(30, 3, 5, 5, seed=1)])
    assert record.grow(more)
    assert torch.equal(record.initial, torch.cat([given, more[40:]]))
    assert record.strip_places == places
    record.append(10, more)
    assert torch.equal(frames(record)[-1], more[places])
    again = FilterRecord.restored(record.state_dict())
    assert again.strip_places == places
    assert float(record.initial_roughness) == pytest.approx(
        float(roughness(record.initial).nanmean())
    )


@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (7, 3, 5, 5), (9, 3, 7, 7), (9, 4, 5, 5)])
def test_filters_that_are_not_more_of_the_same_are_no_growth(shape):
    record = begun()
    assert not record.grow(filters(*shape))
    assert record.initial.shape == (8, 3, 5, 5)
