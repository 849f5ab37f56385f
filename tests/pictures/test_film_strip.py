from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread, log_spaced

INCREASING = st.lists(st.integers(0, 10**6), unique=True, max_size=60).map(sorted)


def strip_of(*steps: int, max_frames: int = 5) -> FilmStrip:
    strip = FilmStrip(max_frames)
    for step in steps:
        strip.add(step, maps=torch.full((2, 3), float(step)))
    return strip


def test_a_strip_keeps_as_many_frames_as_it_may_and_each_at_its_step() -> None:
    strip = strip_of(*range(100))

    assert len(strip) == 5
    assert (strip.steps[0], strip.steps[-1]) == (0, 99)
    assert strip.stacked()["maps"][:, 0, 0].tolist() == strip.steps


@pytest.mark.parametrize("step", [5, 2])
def test_a_step_that_does_not_follow_on_begins_anew(step: int) -> None:
    assert strip_of(1, 5, step).steps == [step]


def test_a_frame_of_another_shape_begins_anew() -> None:
    strip = strip_of(1, 5)
    strip.add(9, maps=torch.zeros(4))
    assert strip.steps == [9]
    assert strip.stacked()["maps"].shape == (1, 4)


def test_a_strip_goes_on_from_its_state() -> None:
    strip, other = strip_of(0, 3, 9), FilmStrip(5)
    other.load_state_dict(strip.state_dict())
    for each in (strip, other):
        each.add(27, maps=torch.zeros(2, 3))
    assert other.steps == strip.steps == [0, 3, 9, 27]
    assert torch.equal(other.stacked()["maps"], strip.stacked()["maps"])
    other.load_state_dict({})
    assert other.steps == []
    assert other.stacked() == {}


@pytest.mark.parametrize(("total", "most"), [(0, 3), (2, 3), (10, 3), (1_000, 7)])
def test_what_is_spread_evenly_begins_with_the_first(total: int, most: int) -> None:
    chosen = evenly_spread(total, most)
    assert len(chosen) == min(total, most)
    assert not chosen or chosen[0] == 0
    assert all(abs(gap - total / len(chosen)) <= 1 for gap in np.diff(chosen))


@given(INCREASING, st.integers(2, 20))
def test_the_first_and_the_latest_frame_stay_in_order(steps: list[int], most: int) -> None:
    kept = log_spaced(steps, most)

    assert len(kept) == min(len(steps), most)
    assert kept == sorted(set(kept))
    assert not steps or (kept[0], kept[-1]) == (0, len(steps) - 1)


def thinned_online(steps: list[int], most: int) -> list[int]:
    strip: list[int] = []
    for step in steps:
        strip.append(step)
        strip = [strip[index] for index in log_spaced(strip, most)]
    return strip


@pytest.mark.parametrize("every", [1, 50, 500])
@pytest.mark.parametrize("most", [6, 8, 12])
def test_thinned_again_and_again_the_frames_stay_log_spaced(every: int, most: int) -> None:
    strip = thinned_online(list(range(0, 400 * every, every)), most)

    # Between the first interval, which cannot be had finer, and the frame that has just come.
    ratios = np.diff(np.log1p(np.array(strip)))[1:-1]
    assert len(strip) == most
    assert strip[1] <= 10 * every  # from the beginning on, not only the latest ones
    # A gap grows until it is worth two others, so no gap is more than about twice another.
    assert ratios.max() / ratios.min() < 3.5


def test_equally_spaced_frames_are_not_log_spaced_to_begin_with() -> None:
    ratios = np.diff(np.log1p(np.linspace(0, 399, 8)))[1:-1]

    assert ratios.max() / ratios.min() > 3.5


def test_a_strip_that_fits_is_left_alone() -> None:
    assert log_spaced([0, 1, 5], 3) == [0, 1, 2]


def test_steps_that_go_back_do_not_raise() -> None:
    assert log_spaced([100, 5, 50, 7], 3)[0] == 0
