from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.activation_maps import activation_maps
from vis_callbacks.render.colours import NOT_FINITE, NOT_MEASURED, colour_map, scale_of
from vis_callbacks.render.images import MAX_WIDTH, blank
from vis_callbacks.render.raster import ALIVE, DEAD, NEVER_FIRED, STATE_COLOURS

CROSS = (235, 235, 235)


def count(picture: np.ndarray, colour: object) -> int:
    return int((picture == np.asarray(colour, dtype=np.uint8)).all(axis=2).sum())


def maps_of(frames: int = 3, units: int = 4, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((frames, units, height, width)) + 0.1


def test_units_are_rows_and_steps_are_columns() -> None:
    maps = np.zeros((2, 2, 8, 8))
    maps[0, 0], maps[0, 1], maps[1, 0], maps[1, 1] = 1, 2, 3, 4

    picture = activation_maps(maps, [0, 5], quantile=1.0)

    def centre(value: float) -> np.ndarray:
        colour = colour_map(np.array(value), scale=scale_of(maps))
        return np.median(np.argwhere((picture == colour).all(axis=2)), axis=0)

    assert centre(1)[0] < centre(2)[0]
    assert centre(1)[1] < centre(3)[1]
    assert centre(1)[0] == pytest.approx(centre(3)[0], abs=1)
    assert centre(2)[1] == pytest.approx(centre(1)[1], abs=1)


def test_a_map_that_is_zero_everywhere_is_crossed() -> None:
    maps = maps_of()
    table = slice(-4 * 51, None), slice(-3 * 51, None)  # without letters: their edges are grey
    assert count(activation_maps(maps, [0, 1, 2])[table], CROSS) == 0
    maps[2, 1] = 0

    picture = activation_maps(maps, [0, 1, 2])

    # Both diagonals of one map of 48 pixels.
    assert count(picture[table], CROSS) in (95, 96)


def test_silent_maps_are_counted_in_the_caption() -> None:
    maps = maps_of()
    plain = activation_maps(maps, [0, 1, 2])
    maps[2, 1] = 0

    assert activation_maps(maps, [0, 1, 2]).shape[0] > plain.shape[0]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (12, 16, 112, 112), (8, 16, 7, 7), (2, 3, 1, 197), (3, 2, 300, 10)]
)
def test_any_map_size_gives_a_table_that_fits(shape: tuple[int, int, int, int]) -> None:
    picture = activation_maps(maps_of(*shape), range(shape[0]), reference=blank(224, 224))

    assert picture.dtype == np.uint8
    assert picture.shape[1] <= MAX_WIDTH
    assert picture.shape[0] <= 100 * max(2, shape[1]) + 100


@pytest.mark.parametrize("units", [1, 10, 512, 4_096])
def test_units_without_positions_are_lines(units: int) -> None:
    values = np.ones((4, units))
    values[1] = 0

    picture = activation_maps(values, [0, 5, 10, 20])

    assert picture.shape[0] < 520
    assert count(picture, NOT_MEASURED) > 40 * min(units, 400)
    # A few pixels of letters and of the colour bar have these colours too.
    assert count(picture, colour_map(np.array(1.0))) == pytest.approx(
        3 * count(picture, NOT_MEASURED), abs=30
    )


def test_signed_units_that_share_a_line_show_the_one_farthest_from_zero() -> None:
    values = np.tile([-1.0, 0.5], (1, 1_000))

    picture = activation_maps(values, [0], signed=True)

    low = colour_map(np.array(-1.0), scale=scale_of(values, signed=True))
    assert count(picture, low) > 0.99 * 400 * 40


def test_the_input_stands_beside_the_maps() -> None:
    picture = activation_maps(maps_of(), [0, 1, 2], reference=blank(32, 32, (255, 0, 0)))

    columns = np.argwhere((picture == (255, 0, 0)).all(axis=2))[:, 1]
    assert (columns.min(), columns.max()) == (0, 95)


def test_values_that_are_not_finite_are_marked() -> None:
    maps = maps_of()
    maps[1, 2, 0, 0] = np.nan

    assert count(activation_maps(maps, [0, 1, 2]), NOT_FINITE) == 36


def test_nothing_finite_at_all_is_a_picture_too() -> None:
    assert activation_maps(np.full((1, 2, 4, 4), np.nan), [0]).ndim == 3


def test_odd_names_are_drawn() -> None:
    assert activation_maps(maps_of(units=2), range(3), unit_names=["\ud800", "\n"]).ndim == 3


@pytest.mark.parametrize("shape", [(2, 3, 4), (0, 2), (3, 2), (2, 0, 4, 4)])
def test_maps_must_fit_the_steps(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit 2 steps"):
        activation_maps(np.zeros(shape), [0, 1])


def test_too_many_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 12"):
        activation_maps(maps_of(13), range(13))


def test_each_unit_needs_a_name() -> None:
    with pytest.raises(ValueError, match="1 unit names for 4 units"):
        activation_maps(maps_of(), range(3), unit_names=["a"])


ORANGE = STATE_COLOURS[DEAD]


def test_a_dead_unit_is_called_so_in_the_rasters_orange() -> None:
    maps = maps_of()
    maps[2, :2] = 0  # silent, as the dead are
    silent = activation_maps(maps, [0, 1, 2], states=np.zeros(4), min_samples=160)

    picture = activation_maps(maps, [0, 1, 2], states=np.array([0, DEAD, 0, 0]), min_samples=160)

    assert count(silent, ORANGE) == 0
    rows = np.argwhere((picture == ORANGE).all(axis=2))[:, 0]
    second = picture.shape[0] - 3 * 51, picture.shape[0] - 2 * 51
    assert len(rows) > 5
    assert second[0] <= rows.min() <= rows.max() < second[1]


@pytest.mark.parametrize("state", [DEAD, NEVER_FIRED, ALIVE])
def test_the_caption_tells_the_dead_from_those_that_are_0_on_one_input(state: int) -> None:
    maps = maps_of()
    maps[2, 1] = 0
    unknown = activation_maps(maps, [0, 1, 2])

    known = activation_maps(maps, [0, 1, 2], states=np.full(4, state), min_samples=160)

    assert known.shape[0] > unknown.shape[0]


def test_a_line_of_dead_units_is_marked_at_its_left() -> None:
    values = np.ones((4, 8))
    values[:, 3] = 0

    picture = activation_maps(values, range(4), states=np.where(values[0] > 0, ALIVE, DEAD))

    assert count(picture, ORANGE) == pytest.approx(12 * 3, abs=5)


def test_a_line_that_hides_a_living_unit_is_not_marked_as_dead() -> None:
    values, states = np.ones((1, 800)), np.full(800, DEAD)
    assert count(activation_maps(values, [0], states=states), ORANGE) == pytest.approx(
        400 * 3, abs=10
    )
    states[::2] = ALIVE

    assert count(activation_maps(values, [0], states=states), ORANGE) < 10


def test_each_unit_needs_a_state() -> None:
    with pytest.raises(ValueError, match="3 states for 4 units"):
        activation_maps(maps_of(), range(3), states=np.zeros(3))
