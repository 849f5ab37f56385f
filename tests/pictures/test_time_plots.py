from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.pictures.time_plots import (
    bounds,
    labelled_rows,
    largest_of_neighbours,
    step_axis,
    stretch,
    uneven_note,
)


def ticks_of(axis: np.ndarray) -> list[int]:
    return np.flatnonzero((axis[0] < 255).all(axis=1)).tolist()


def test_the_first_and_the_latest_step_are_labelled() -> None:
    ticks = ticks_of(step_axis(range(0, 2_000, 10), 200, 200))
    assert ticks[0] == 0
    assert ticks[-1] == 199
    assert 3 <= len(ticks) <= 10


def test_a_single_step_is_labelled_in_the_middle() -> None:
    assert ticks_of(step_axis([0], 101, 101)) == [50]


def test_labels_keep_a_distance() -> None:
    axis = step_axis(range(0, 3_000, 50), 240, 240)
    # Between two labels there must be a gap wider than any within one.
    is_empty = (axis[4:] == 255).all(axis=(0, 2))
    runs = np.diff(np.flatnonzero(~is_empty)) - 1
    assert np.count_nonzero(runs >= 9) == len(ticks_of(axis)) - 1


@pytest.mark.parametrize(("rows", "height"), [(3, 20), (120, 4), (500, 3), (1, 3), (6, 5)])
def test_labelled_rows_have_room_and_include_both_ends(rows: int, height: int) -> None:
    labelled = labelled_rows(rows, height)
    assert (labelled[0], labelled[-1]) == (0, rows - 1)
    assert all(step * height >= 12 for step in np.diff(labelled))


def test_all_rows_are_labelled_where_they_are_high() -> None:
    assert labelled_rows(4, 20) == [0, 1, 2, 3]


def test_neighbours_give_their_largest_and_numbers_go_before_gaps() -> None:
    values = np.array([1.0, 5.0, np.nan, 2.0, np.nan, np.nan])
    result = largest_of_neighbours(values, 3)
    np.testing.assert_array_equal(result, [5.0, 2.0, np.nan])


def test_groups_differ_by_one_at_most() -> None:
    sizes = np.diff([*bounds(2_048, 400), 2_048])
    assert len(sizes) == 400
    assert set(sizes) == {5, 6}


def test_every_cell_gets_a_pixel() -> None:
    assert set(stretch(200, 240)) == set(range(200))


def labelled_steps(axis: np.ndarray, num_steps: int) -> list[int]:
    return [tick * num_steps // axis.shape[1] for tick in ticks_of(axis)]


@pytest.mark.parametrize("num_steps", [2, 7, 23, 60, 128])
def test_with_one_room_axes_of_different_widths_label_the_same_steps(num_steps: int) -> None:
    steps = [int(1.1**step) + 5 * step for step in range(num_steps)]
    narrow, wide = (labelled_steps(step_axis(steps, width, 190), num_steps) for width in (240, 371))
    assert narrow == wide
    assert (narrow[0], narrow[-1]) == (0, num_steps - 1)


@pytest.mark.parametrize(
    ("steps", "is_said"), [([0, 5, 10, 60], True), ([0, 50, 100], False), ([3], False), ([], False)]
)
def test_steps_that_are_not_evenly_spaced_are_said_to_be(steps: list[int], is_said: bool) -> None:
    assert bool(uneven_note(steps)) == is_said
