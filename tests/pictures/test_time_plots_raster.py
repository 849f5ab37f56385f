from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from vis_callbacks.pictures.colours import NOT_MEASURED
from vis_callbacks.pictures.text import INK, line_height
from vis_callbacks.pictures.time_plots import (
    ALIVE,
    DEAD,
    NEVER_FIRED,
    REVIVED,
    STATE_COLOURS,
    heat_map,
    raster,
    sorted_by_death,
)


def drawn(states: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    return raster(states, steps, [])


def count(picture: np.ndarray, state: int) -> int:
    return int((picture == np.array(STATE_COLOURS[state], dtype=np.uint8)).all(axis=2).sum())


def test_units_are_sorted_alive_revived_dead_never_fired() -> None:
    states = np.array([[NEVER_FIRED] * 2, [ALIVE, DEAD], [DEAD, REVIVED], [ALIVE, ALIVE]])
    assert sorted_by_death(states).tolist() == [3, 2, 1, 0]


def test_the_dead_form_a_stair_the_earliest_lowest() -> None:
    deaths = np.array([3, 1, 4, 2])
    states = (np.arange(5) >= deaths[:, None]).astype(int)
    assert deaths[sorted_by_death(states)].tolist() == [4, 3, 2, 1]


def test_the_time_of_death_is_the_last_one() -> None:
    states = np.array([[DEAD, ALIVE, ALIVE, DEAD], [ALIVE, DEAD, DEAD, DEAD]])
    assert sorted_by_death(states).tolist() == [0, 1]


@pytest.mark.parametrize("units", [1, 64, 2_048])
@pytest.mark.parametrize("times", [1, 60, 128])
def test_any_size_gives_a_frame_that_fits_a_card(units: int, times: int) -> None:
    picture = drawn(np.zeros((units, times), dtype=int), range(times))
    assert picture.shape[1] == 400
    assert picture.shape[0] < 520


@pytest.mark.parametrize("state", [ALIVE, DEAD, REVIVED, NEVER_FIRED])
def test_a_state_fills_the_picture_with_its_colour(state: int) -> None:
    picture = drawn(np.full((100, 10), state), range(10))
    assert count(picture, state) > 0.9 * 100 * 340
    assert all(count(picture, other) < 200 for other in range(4) if other != state)


def test_a_single_dead_unit_among_thousands_is_seen() -> None:
    states = np.zeros((2_048, 10), dtype=int)
    legend_only = count(drawn(states, range(10)), DEAD)
    states[5, 5:] = DEAD
    assert count(drawn(states, range(10)), DEAD) - legend_only >= 150


def test_what_was_not_measured_is_grey() -> None:
    picture = drawn(np.array([[-1, 0], [-1, 0]]), [0, 1])
    assert (picture == np.array(NOT_MEASURED, dtype=np.uint8)).all(axis=2).sum() > 1_000


def test_raster_and_heat_map_label_the_same_snapshots() -> None:
    steps = [0, 5, 10, 15, 20, 60, 110, 160, 210, 260, 310, 360, 410, 510, 658, 880, 1_324]
    pictures = [
        drawn(np.zeros((48, len(steps)), dtype=int), steps),
        heat_map(
            np.zeros((3, len(steps))), ["features.1", "features.4", "features.7"], steps, [], ""
        ),
    ]
    ticks = []
    for picture in pictures:
        row = picture.shape[0] - line_height() - 2  # through the ticks, over the labels
        columns = np.flatnonzero((picture[row] == INK).all(axis=1))
        # Both axes end at the same number of columns: a tick tells its column by its share.
        cells = np.flatnonzero((picture[row - 4] != 255).any(axis=1))
        left, right = cells[0], cells[-1]
        ticks.append(columns.tolist())
        assert left <= columns[0] < columns[-1] <= right
    assert len(ticks[0]) == len(ticks[1]) > 3


def test_uneven_steps_are_said_to_be_in_the_caption() -> None:
    even, uneven = (
        drawn(np.zeros((48, 4), dtype=int), steps) for steps in ([0, 5, 10, 15], [0, 5, 10, 60])
    )
    assert uneven.shape[0] > even.shape[0]
