from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.render.colours import Scale
from vis_callbacks.render.film_strip import film_strip, kept_frames, with_frame
from vis_callbacks.render.images import MAX_WIDTH, blank

INCREASING = st.lists(st.integers(0, 10**6), unique=True, max_size=60).map(sorted)


def key(frame: tuple[int, str]) -> tuple[int, str]:
    return frame


def test_a_strip_keeps_as_many_frames_as_it_may() -> None:
    frames: list[tuple[int, str]] = []
    for step in range(100):
        frames = with_frame(frames, (step, "same"), 5, key=key)

    assert len(frames) == 5
    assert (frames[0][0], frames[-1][0]) == (0, 99)


@pytest.mark.parametrize("new", [(9, "other"), (5, "same"), (2, "same")])
def test_a_frame_that_does_not_follow_on_begins_anew(new: tuple[int, str]) -> None:
    assert with_frame([(1, "same"), (5, "same")], new, 5, key=key) == [new]


@given(INCREASING, st.integers(2, 20))
def test_the_first_and_the_latest_frame_stay_in_order(steps: list[int], most: int) -> None:
    kept = kept_frames(steps, most)

    assert len(kept) == min(len(steps), most)
    assert kept == sorted(set(kept))
    assert not steps or (kept[0], kept[-1]) == (0, len(steps) - 1)


def thinned_online(steps: list[int], most: int) -> list[int]:
    strip: list[int] = []
    for step in steps:
        strip.append(step)
        strip = [strip[index] for index in kept_frames(strip, most)]
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
    assert kept_frames([0, 1, 5], 3) == [0, 1, 2]


def test_steps_that_go_back_do_not_raise() -> None:
    assert kept_frames([100, 5, 50, 7], 3)[0] == 0


def test_one_frame_cannot_hold_two() -> None:
    with pytest.raises(ValueError, match="give 2 or more"):
        kept_frames([0, 1], 1)


def frames_of(count: int, height: int = 32, width: int = 32) -> list[np.ndarray]:
    return [blank(height, width, (10 + index, 0, 200)) for index in range(count)]


def columns_of(picture: np.ndarray, frame: np.ndarray) -> np.ndarray:
    return np.flatnonzero((picture == frame[0, 0]).all(axis=2).any(axis=0))


def test_frames_stand_side_by_side_in_their_order_and_enlarged() -> None:
    frames = frames_of(3)

    picture = film_strip(frames, [0, 50, 100])

    places = [columns_of(picture, frame) for frame in frames]
    assert [len(columns) for columns in places] == [96] * 3
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()


def test_a_long_strip_is_wrapped() -> None:
    picture = film_strip(frames_of(40), list(range(40)))

    assert picture.shape[1] <= MAX_WIDTH
    assert picture.shape[0] > 3 * 96


def test_a_wide_frame_is_averaged_down() -> None:
    assert len(columns_of(film_strip(fs := frames_of(1, 10, 2_000), [0]), fs[0])) == 400


def test_a_frame_is_as_wide_as_its_step() -> None:
    frames = frames_of(2, 600, 100)

    picture = film_strip(frames, [10**15, 10**16])

    assert columns_of(picture, frames[1]).min() > 130


def test_a_shared_scale_is_drawn() -> None:
    frames = frames_of(2)

    plain = film_strip(frames, [0, 1], ["caption"])
    with_bar = film_strip(frames, [0, 1], ["caption"], scale=Scale(low=0, high=1), units="x")

    assert with_bar.shape[0] > plain.shape[0]


@pytest.mark.parametrize(("count", "steps"), [(0, []), (2, [0])])
def test_frames_and_steps_must_match(count: int, steps: list[int]) -> None:
    with pytest.raises(ValueError, match="give one for each"):
        film_strip(frames_of(count), steps)
