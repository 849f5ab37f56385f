from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from vis_callbacks.callbacks.plain import require_plain
from vis_callbacks.callbacks.saliency.record import SaliencyRecord, shrunk


def maps(seed: int = 0, num_samples: int = 3, size: int = 8) -> Tensor:
    return torch.randn(num_samples, size, size, generator=torch.Generator().manual_seed(seed))


def appended(record: SaliencyRecord, step: int, values: Tensor | None = None) -> None:
    given = maps(step) if values is None else values
    record.append("gradient", step, given, torch.arange(len(given)), torch.rand(len(given)))


def test_the_first_maps_have_nothing_to_be_like():
    assert SaliencyRecord().similarity("gradient", maps()) is None


@pytest.mark.parametrize("factor", [1.0, 1e-12, 1e12])
def test_maps_that_only_grow_stay_the_same(factor):
    record = SaliencyRecord()
    record.similarity("gradient", maps())
    found = record.similarity("gradient", factor * maps())
    # Half precision makes a few neighbours equal.
    assert found.tolist() == pytest.approx([1, 1, 1], abs=1e-4)


def test_maps_are_compared_with_the_last_ones_of_their_method():
    record = SaliencyRecord()
    record.similarity("gradient", maps(0))
    record.similarity("smoothgrad", maps(1))
    record.similarity("gradient", maps(2))
    assert record.similarity("gradient", maps(2)).min() > 0.99
    assert record.similarity("smoothgrad", maps(3)).abs().max() < 0.6  # of 64 random numbers


def test_maps_of_another_size_are_not_compared():
    record = SaliencyRecord()
    record.similarity("gradient", maps(size=8))
    assert record.similarity("gradient", maps(size=9)) is None


def test_a_strip_keeps_the_first_frame_the_latest_and_eight_at_most():
    record = SaliencyRecord()
    for step in range(0, 400, 10):
        appended(record, step)
    steps = record.steps("gradient")
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (0, 390)


def test_a_strip_shows_the_first_samples_with_their_words():
    record = SaliencyRecord()
    appended(record, 0)
    appended(record, 5)
    arrays = record.arrays("gradient")
    assert {name: tuple(array.shape) for name, array in arrays.items()} == {
        "maps": (2, 2, 8, 8),
        "classes": (2, 2),
        "values": (2, 2),
    }
    assert arrays["classes"].tolist() == [[0, 1], [0, 1]]


def test_each_frame_knows_whether_the_outputs_were_classes():
    record, other = SaliencyRecord(), SaliencyRecord()
    for step, are_classes in ((0, False), (5, True)):
        numbers = torch.arange(3), torch.rand(3)
        record.append("gradient", step, maps(step), *numbers, are_classes=are_classes)
    other.restore(record.state())
    assert other.are_classes("gradient") == [False, True]


def test_frames_of_a_checkpoint_from_before_were_classes():
    record, other = SaliencyRecord(), SaliencyRecord()
    appended(record, 0)
    state = record.state()
    state["frames"] = {name: [f[:4] for f in frames] for name, frames in state["frames"].items()}
    other.restore(state)
    assert other.are_classes("gradient") == [True]


def test_a_run_that_begins_anew_drops_the_frames_of_the_last_one():
    record = SaliencyRecord()
    for step in (0, 10, 20, 10):
        appended(record, step)
    assert record.steps("gradient") == [10]


def test_frames_of_another_size_begin_anew():
    record = SaliencyRecord()
    appended(record, 0, maps(size=8))
    appended(record, 1, maps(size=9))
    assert record.steps("gradient") == [1]


def test_large_maps_are_remembered_small_and_tiny_gradients_are_not_lost():
    record = SaliencyRecord()
    appended(record, 0, 1e-20 * maps(size=200))
    kept = record.arrays("gradient")["maps"]
    assert kept.shape[-2:] == (64, 64)
    assert kept.dtype == torch.float16
    assert kept.abs().mean() > 0.1


def test_maps_of_zeros_stay_zeros():
    record = SaliencyRecord()
    appended(record, 0, torch.zeros(2, 4, 4))
    assert not record.arrays("gradient")["maps"].any()


def test_its_state_is_plain_and_comes_back():
    record, other = SaliencyRecord(), SaliencyRecord()
    record.similarity("gradient", maps())
    appended(record, 0)
    appended(record, 5)
    require_plain(record.state(), "state")
    file = io.BytesIO()
    torch.save(record.state(), file)
    file.seek(0)
    other.restore(torch.load(file, weights_only=True))
    assert other.steps("gradient") == [0, 5]
    for name, array in record.arrays("gradient").items():
        assert torch.equal(other.arrays("gradient")[name], array)
    again = [r.similarity("gradient", maps(7)) for r in (record, other)]
    assert torch.equal(*again)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((30, 40), (30, 40)), ((128, 64), (64, 32)), ((1, 500), (1, 64)), ((3, 500), (3, 64))],
)
def test_maps_shrink_to_the_longer_side(size, expected):
    assert shrunk(torch.ones(2, *size), 64).shape == (2, *expected)
