from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vis_callbacks.render.colours import CLASS_COLOURS
from vis_callbacks.render.markers import (
    NUM_SHAPES,
    OVERSAMPLING,
    class_legend,
    draw_marker,
    draw_ring,
    marked,
    marker_legend,
)
from vis_callbacks.render.text import line_height

SIDE, RADIUS = 61, 18
RING = (20, 20, 20)
NO_CLASS = (150, 150, 150)


def marker(kind: int, *, is_wrong: bool = False, colour=None) -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), (1, 2, 3))
    if is_wrong:
        draw_ring(ImageDraw.Draw(image), SIDE // 2, SIDE // 2, RADIUS)
    draw_marker(ImageDraw.Draw(image), SIDE // 2, SIDE // 2, kind, RADIUS, colour)
    return np.asarray(image)


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour, dtype=np.uint8)).all(-1)


def silhouette(kind: int) -> np.ndarray:
    return places(marker(kind), CLASS_COLOURS[kind % len(CLASS_COLOURS)])


def test_ten_classes_have_ten_shapes_that_differ_without_colour():
    shapes = [silhouette(kind) for kind in range(NUM_SHAPES)]
    assert len(shapes) == 10
    for first, second in combinations(shapes, 2):
        assert (first ^ second).sum() > 0.2 * min(first.sum(), second.sum())


def test_all_shapes_are_about_as_large():
    areas = [silhouette(kind).sum() for kind in range(NUM_SHAPES)]
    assert max(areas) < 3 * min(areas)


def test_the_eleventh_class_has_the_first_colour_and_another_shape():
    assert silhouette(10).any()
    assert (silhouette(0) ^ silhouette(10)).sum() > 100


def test_no_class_is_a_grey_dot_that_is_smaller_than_any_class():
    dot = places(marker(-1), NO_CLASS)
    rows, columns = dot.nonzero()
    assert 0.4 * 2 * RADIUS < np.ptp(rows) < 0.7 * 2 * RADIUS
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
    assert not places(marker(0), NO_CLASS).any()


def test_a_wrong_sample_has_a_ring_that_leaves_its_marker_whole():
    right, wrong = marker(3), marker(3, is_wrong=True)
    ring = places(wrong, RING)
    rows, columns = ring.nonzero()
    distances = np.hypot(rows - SIDE // 2, columns - SIDE // 2)
    assert ring.any()
    assert distances.min() > RADIUS
    assert ring[SIDE // 2].sum() < 2 * OVERSAMPLING  # thinner than a pixel: crowds stay legible
    assert not places(right, RING).any()
    assert np.array_equal(places(right, CLASS_COLOURS[3]), places(wrong, CLASS_COLOURS[3]))


def test_a_marker_may_have_another_colour_than_its_class():
    assert np.array_equal(places(marker(3, colour=(9, 9, 9)), (9, 9, 9)), silhouette(3))


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


def test_markers_of_a_legend_are_averaged_to_soft_edges():
    assert OVERSAMPLING > 1
    legend = marker_legend([("", 0)], 40)
    assert len(np.unique(legend.reshape(-1, 3), axis=0)) > 4
