from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.monitors.activations import pictures as home
from vis_callbacks.pictures.canvas import MAX_WIDTH, blank
from vis_callbacks.pictures.colours import NOT_FINITE, NOT_MEASURED, colour_map, scale_of
from vis_callbacks.pictures.time_plots import ALIVE, DEAD, NEVER_FIRED, REVIVED, STATE_COLOURS


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Collects the captions of what would be drawn."""
    captions: list[str] = []

    def record(values, *rest, **_):
        captions.extend(rest[-1])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(home, "raster", record)
    monkeypatch.setattr(home, "heat_map", record)
    return captions


def raster_of(percents: list[int], latest: list[list[int]]) -> None:
    home.draw_raster(
        np.array([[ALIVE, state] for states in latest for state in states]),
        np.array(percents),
        widths={name: len(states) for name, states in zip("abc", latest, strict=False)},
        steps=[0, 60],
        counts_rows=np.array([True, False])[: len(percents)],
    )


@pytest.mark.parametrize(
    ("percents", "latest", "words"),
    [
        ([0, 0], [[ALIVE] * 2, [ALIVE, REVIVED]], "of a; no unit of any layer is dead"),
        ([0, 50], [[ALIVE] * 2, [DEAD, ALIVE]], "of b; the layer with the most dead units (50 %)"),
        ([0, 0], [[ALIVE] * 2, [DEAD] + [ALIVE] * 300], "of b; 1 of them dead"),
        # Too few samples yet, or too few units: "never fired" is not "dead".
        ([0, 0], [[ALIVE] * 2, [NEVER_FIRED, ALIVE]], "of a; no unit of any layer has died"),
        # -1: units that cannot die.
        ([-1, 0], [[DEAD] * 2, [ALIVE] * 2], "of b; no unit of any layer is dead"),
    ],
)
def test_the_raster_says_whether_any_unit_is_dead(said, percents, latest, words):
    raster_of(percents, latest)
    assert said[0] == f"life of the units {words}"


def test_the_first_row_is_said_to_be_the_first_layer(said):
    home.draw_unit_life(
        np.zeros((2, 2)), np.zeros(2, bool), np.ones(2, bool), rows=["a", "b"],
        steps=[0, 60], what="dead", num_samples=64,
    )  # fmt: skip
    assert "first layer on top" in said[0]
    assert said[2:] == ["", ""]


def test_the_captions_say_where_rows_and_not_samples_are_counted(said):
    home.draw_unit_life(
        np.zeros((4, 2)), np.array([True, False, True, True]), np.array([True, False, True, True]),
        rows=["a", "b", "c", "d"], steps=[0, 60], what="dead", num_samples=64,
    )  # fmt: skip
    assert said[2] == "rows, not samples, are counted in a, c and 1 more"
    assert said[3] == "no sample has reached b"
    for percents, word in (([50, 0], "rows"), ([0, 50], "samples")):
        said.clear()
        raster_of(percents, [[DEAD, ALIVE], [DEAD, ALIVE]])
        assert said[1] == f"dead: 0 on all of the latest 160 {word} or more"


CROSS, ORANGE = (235, 235, 235), STATE_COLOURS[DEAD]


def count(picture: np.ndarray, colour: object) -> int:
    return int((picture == np.asarray(colour, dtype=np.uint8)).all(axis=2).sum())


def maps_of(frames: int = 3, units: int = 4, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((frames, units, height, width)) + 0.1


NO_IMAGE = np.zeros(3)


def drawn(maps: np.ndarray, sample: np.ndarray = NO_IMAGE, **known: np.ndarray) -> np.ndarray:
    """Returns the picture of every second unit of a layer."""
    units, steps = range(0, 2 * maps.shape[1], 2), range(len(maps))
    options = {"caption": ["a layer"], "steps": steps, "units": units, "mean": None, "std": None}
    return home.draw_maps(maps, sample, **known, **options)


def states_of(shown: object) -> np.ndarray:
    """Returns the states of a layer of whose units every second is shown."""
    return np.repeat(np.asarray(shown), 2) * np.tile([1, 0], len(shown))


def test_units_are_rows_and_steps_are_columns():
    maps = np.zeros((2, 2, 8, 8))
    maps[0, 0], maps[0, 1], maps[1, 0], maps[1, 1] = 1, 2, 3, 4
    picture = drawn(maps)

    def centre(value: float) -> np.ndarray:
        colour = colour_map(np.array(value), scale=scale_of(maps))
        return np.median(np.argwhere((picture == colour).all(axis=2)), axis=0)

    assert centre(1)[0] < centre(2)[0]
    assert centre(1)[1] < centre(3)[1]
    assert centre(1)[0] == pytest.approx(centre(3)[0], abs=1)
    assert centre(2)[1] == pytest.approx(centre(1)[1], abs=1)


def test_a_map_that_is_zero_everywhere_is_crossed_and_counted():
    maps = maps_of()
    plain = drawn(maps)
    maps[2, 1] = 0
    silent = drawn(maps)
    # Both diagonals of one map of 48 pixels; letters have a few pixels of this colour.
    assert count(silent, CROSS) - count(plain, CROSS) == pytest.approx(96, abs=20)
    assert silent.shape[0] > plain.shape[0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (8, 16, 48, 48), (2, 3, 1, 48), (3, 2, 48, 10)])
def test_any_map_size_gives_a_table_that_fits(shape):
    picture = drawn(maps_of(*shape), sample=np.ones((3, 224, 224), np.float32))
    assert picture.dtype == np.uint8
    assert picture.shape[1] <= MAX_WIDTH
    assert picture.shape[0] <= 110 * max(2, shape[1]) + 100


@pytest.mark.parametrize("units", [1, 10, 4_096])
def test_units_without_positions_are_lines(units):
    values = np.ones((4, units))
    values[1] = 0
    picture = drawn(values)
    assert picture.shape[0] < 520
    assert count(picture, NOT_MEASURED) > 40 * min(units, 400)
    # A few pixels of letters and of the colour bar have these colours too.
    assert count(picture, colour_map(np.array(1.0), scale_of(np.array(1.0)))) == pytest.approx(
        3 * count(picture, NOT_MEASURED), abs=60
    )


def test_the_input_stands_beside_the_maps():
    red = blank(32, 32, (255, 0, 0)).transpose(2, 0, 1)
    columns = np.argwhere((drawn(maps_of(), sample=red) == (255, 0, 0)).all(axis=2))[:, 1]
    assert (columns.min(), columns.max()) == (0, 95)


def test_values_that_are_not_finite_are_marked():
    maps = maps_of()
    maps[1, 2, 0, 0] = np.nan
    assert count(drawn(maps), NOT_FINITE) == 36
    assert drawn(np.full((1, 2, 4, 4), np.nan)).ndim == 3


def test_a_dead_unit_is_called_so_in_the_rasters_orange():
    maps = maps_of()
    maps[2, :2] = 0  # silent, as the dead are
    silent, picture = (drawn(maps, states=states_of(s)) for s in ([0] * 4, [0, DEAD, 0, 0]))
    assert count(silent, ORANGE) == 0
    rows = np.argwhere((picture == ORANGE).all(axis=2))[:, 0]
    row_height = 48 + 8
    second = picture.shape[0] - 3 * row_height, picture.shape[0] - 2 * row_height
    assert len(rows) > 5
    assert second[0] <= rows.min() <= rows.max() < second[1]


@pytest.mark.parametrize("state", [DEAD, NEVER_FIRED, ALIVE])
def test_the_caption_tells_the_dead_from_those_that_are_0_on_one_input(state):
    maps = maps_of()
    maps[2, 1] = 0
    known = drawn(maps, states=np.full(8, state), counts_rows=np.array(False))
    assert known.shape[0] > drawn(maps).shape[0]


def test_a_line_of_dead_units_is_marked_at_its_left():
    values = np.ones((4, 8))
    values[:, 3] = 0
    picture = drawn(values, states=states_of(np.where(values[0] > 0, ALIVE, DEAD)))
    assert count(picture, ORANGE) == pytest.approx(12 * 3, abs=5)


def test_a_line_that_hides_a_living_unit_is_not_marked_as_dead():
    values, states = np.ones((1, 800)), np.full(1600, DEAD)
    assert count(drawn(values, states=states), ORANGE) == pytest.approx(400 * 3, abs=10)
    states[::4] = ALIVE
    assert count(drawn(values, states=states), ORANGE) < 10
