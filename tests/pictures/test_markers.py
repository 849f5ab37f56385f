from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from vis_callbacks.pictures.colours import CLASS_COLOURS
from vis_callbacks.pictures.markers import (
    NO_CLASS,
    Marks,
    class_legend,
    marked,
    marker_legend,
    marker_style,
)
from vis_callbacks.pictures.text import line_height

GROUND = np.full((61, 61, 3), (1, 2, 3), dtype=np.uint8)


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour, dtype=np.uint8)).all(-1)


def silhouette(kind: int) -> np.ndarray:
    return places(marked(GROUND, [(kind, 30, 30, 18)], (9, 9, 9)), (9, 9, 9))


def test_ten_classes_have_ten_shapes_that_differ_without_colour():
    shapes = [silhouette(kind) for kind in range(10)]
    for first, second in combinations(shapes, 2):
        assert (first ^ second).sum() > 0.15 * min(first.sum(), second.sum())


def test_a_hundred_classes_differ_in_colour_or_shape():
    assert len({(kind % 10, marker_style(kind)) for kind in range(100)}) == 100


def test_the_eleventh_class_has_the_first_colour_and_another_shape():
    first, eleventh = (marked(GROUND, [(kind, 30, 30, 18)]) for kind in (0, 10))
    assert places(first, CLASS_COLOURS[0]).any()
    assert places(eleventh, CLASS_COLOURS[0]).any()
    assert not np.array_equal(first, eleventh)


def test_no_class_is_a_grey_dot_that_is_smaller_than_any_class():
    dot = places(marked(GROUND, [(-1, 30, 30, 18)]), NO_CLASS)
    rows, columns = dot.nonzero()
    assert np.ptp(rows) == pytest.approx(0.6 * 2 * 18, abs=3)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)


def test_values_are_coloured_on_a_scale_and_the_unknown_is_grey():
    marks = Marks(labels=np.zeros(3), values=np.array([0.0, 5.0, np.nan]))
    low, high, unknown = marks.colours().tolist()
    assert low != high
    assert unknown == [200, 200, 200]
    assert marks.kinds.tolist() == [0, 0, -1]
    assert marks.are_known
    assert len(marks.legend(300)) == 1


def test_a_shape_is_drawn_on_a_picture_where_it_is_asked_for():
    area = np.full((21, 21, 3), CLASS_COLOURS[2], dtype=np.uint8)
    disc, square = (marked(area, [(kind, 10, 10, 5)], (255, 255, 255)) for kind in (0, 10))
    for picture in (disc, square):
        rows, columns = places(picture, (255, 255, 255)).nonzero()
        assert (rows.mean(), columns.mean()) == pytest.approx((10, 10), abs=0.6)
        assert places(picture[:4], CLASS_COLOURS[2]).all()
    assert not np.array_equal(disc, square)


def test_a_legend_of_classes_names_those_that_occur_and_counts_the_unknown():
    names = ["a", "b", "c"]
    (both,) = class_legend(np.array([2, 0, 2]), names, 60)
    (three,) = class_legend(np.array([2, 0, -1]), names, 60)
    assert columns_of(both, 2, 1) == [[0, 2]]
    assert three.shape[0] == 3 * line_height()
    assert places(three[2 * line_height() :], NO_CLASS).any()
    assert class_legend(np.array([-1, -1]), names, 60) == []


def columns_of(legend: np.ndarray, num_entries: int, num_columns: int) -> list[list[int]]:
    """Returns which class's colour lies where a marker belongs, column by column."""
    height, num_rows = line_height(), -(-num_entries // num_columns)
    width = legend.shape[1] // num_columns
    return [
        [
            CLASS_COLOURS.index(tuple(int(v) for v in legend[int((row + 0.5) * height), x]))
            for row in range(min(num_rows, num_entries - column * num_rows))
        ]
        for column in range(num_columns)
        for x in [column * width + int(height / 2)]
    ]


def test_a_legend_is_read_downwards():
    entries = [(f"c{kind}", kind) for kind in range(5)]
    legend = marker_legend(entries, 2 * (3 * line_height()) + 10)
    assert legend.shape[0] == 3 * line_height()
    assert columns_of(legend, 5, 2) == [[0, 1, 2], [3, 4]]


def test_a_legend_that_is_too_narrow_for_two_columns_has_one():
    entries = [("a name that is long", 0), ("b", 1), ("c", 2)]
    legend = marker_legend(entries, 150)
    assert legend.shape == (3 * line_height(), 150, 3)
    assert columns_of(legend, 3, 1) == [[0, 1, 2]]
