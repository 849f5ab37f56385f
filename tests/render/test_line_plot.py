from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import CLASS_COLOURS
from vis_callbacks.render.line_plot import _Axis, line_plot
from vis_callbacks.render.text import INK


def places(picture: np.ndarray, kind: int = 0) -> np.ndarray:
    colour = np.array(CLASS_COLOURS[kind], dtype=np.uint8)
    return np.argwhere((picture == colour).all(axis=2))


def test_a_rising_curve_rises() -> None:
    spots = places(line_plot({"loss": ([0, 100], [0.0, 1.0])}))

    first, last = spots[spots[:, 1].argmin()], spots[spots[:, 1].argmax()]
    assert last[1] - first[1] > 300
    assert first[0] - last[0] > 150


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    spots = places(line_plot({"loss": (range(5), [1.0, 1.0, np.nan, 1.0, 1.0])}))

    columns = np.unique(spots[:, 1])
    assert 150 < np.diff(columns).max() < 250


def test_a_single_value_is_a_marker() -> None:
    assert len(places(line_plot({"loss": ([7], [3.0])}))) > 10


def test_values_beyond_the_range_are_drawn_at_its_end() -> None:
    picture = line_plot({"loss": ([0, 1], [50.0, 50.0])}, y_range=(0, 1))

    assert 15 < np.median(places(picture)[:, 0]) < 25


def test_several_curves_have_a_legend_and_differ() -> None:
    one = line_plot({"a": ([0, 1], [0, 1])})
    two = line_plot({"a": ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])})

    assert two.shape[0] > one.shape[0]
    assert len(places(two, 0)) > 100
    assert len(places(two, 1)) > 100


@pytest.mark.parametrize(
    "values",
    [[], [np.nan], [1e308, -1e308], [1.7e308], [5e-324, 0], [0, 1e-300], [5, 5], [np.inf, 1]],
)
def test_any_numbers_are_drawn(values: list[float]) -> None:
    picture = line_plot({"\ud800": (range(len(values)), values)}, ["\x00"], y_label="\n")

    assert picture.shape[1] == 400


def test_neighbouring_ticks_are_written_differently() -> None:
    ticks = [text for text, _ in _Axis(2.120, 2.131, 0, 100).ticks()]

    assert ticks == ["2.120", "2.125", "2.130"]


def test_steps_are_written_as_whole_numbers() -> None:
    assert [text for text, _ in _Axis(0, 2, 0, 100).ticks(whole=True)] == ["0", "1", "2"]


@pytest.mark.parametrize("level", [0.25, 0.75])
def test_a_level_is_a_dashed_line_at_its_height(level: float) -> None:
    picture = line_plot({"a": ([0, 1], [0.5, 0.5])}, y_range=(0, 1), levels={"": level})

    curve = np.median(places(picture)[:, 0])
    is_ink = (picture[: int(curve) + 100] == INK).all(axis=2)
    is_ink[:, :60] = False  # the axis and its numbers
    (row,) = np.flatnonzero(is_ink.sum(axis=1) > 100)
    assert (row > curve) == (level < 0.5)
    assert 0.4 < is_ink[row, 60:380].mean() < 0.6


def test_a_level_bears_its_name_and_one_that_is_not_known_is_left_out() -> None:
    curves = {"a": ([0, 1], [0.5, 0.5])}
    unnamed, named, unknown, none = (
        (line_plot(curves, y_range=(0, 1), levels=levels) < 60).all(axis=2).sum()
        for levels in ({"": 0.2}, {"network": 0.2}, {"network": np.nan}, {})
    )

    assert named > unnamed > none
    assert unknown == none


def test_the_range_covers_the_levels() -> None:
    far = line_plot({"a": ([0, 1], [0.5, 0.6])}, levels={"": 10.0})
    near = line_plot({"a": ([0, 1], [0.5, 0.6])})

    assert np.ptp(places(far)[:, 0]) < 0.2 * np.ptp(places(near)[:, 0])


def test_no_curve_is_a_picture_too() -> None:
    assert line_plot({}).shape[1] == 400


def test_a_curve_needs_a_value_for_each_step() -> None:
    with pytest.raises(ValueError, match="'loss' has 2 steps and 1 values"):
        line_plot({"loss": ([0, 1], [0])})


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low below high"):
        line_plot({"loss": ([0], [0])}, y_range=(1, 1))


def test_the_name_of_a_level_close_below_another_is_written_under_it() -> None:
    def rows_of_text(levels: dict[str, float]) -> np.ndarray:
        picture = line_plot({"a": ([0, 1], [0.9, 0.9])}, y_range=(0, 1), levels=levels)
        is_dark = (picture[:, 200:389] < 110).all(axis=2)
        return np.flatnonzero(is_dark[100:195].any(axis=1) & (is_dark[100:195].sum(axis=1) < 60))

    apart, close = rows_of_text({"x": 0.4, "": 0.1}), rows_of_text({"": 0.44, "x": 0.4})
    assert apart.max() < close.min()
